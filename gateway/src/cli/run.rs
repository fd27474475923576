//! `tidegate run`: arguments into [`RunOptions`].

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args, ValueEnum};

use super::Exit;
use super::arguments::{ReadArgs, ServerAddress, duration, name_server, server_address};
use super::output::Console;
use super::secrets::SecretArgs;
use crate::logging::{LogFormat, LogOptions};
use crate::run::{AccessLogOverride, ConfigSource, RunOptions, StateDir};

const EXAMPLES: &str = "\
Examples:
  tidegate run --config ./gateway.d
  tidegate run --config base/ --config team-a/routes.yaml --mesh-config mesh.yaml
  tidegate run --to 127.0.0.1:3000                  everything on port 8080 goes to one backend
  tidegate run --to 127.0.0.1:3000 --print-config   the YAML of that, to grow from
  tidegate run --config ./gateway.d --labels istio=team-a --namespace team-a
  tidegate run --config ./gateway.d --secrets /etc/letsencrypt-pairs
  tidegate run --config ./gateway.d --sds-provider vault=unix:///run/vault/sds.sock

Signals: SIGTERM and SIGINT drain (again: exit at once), SIGHUP re-reads the configuration and reopens logs.
Every option can be given as TIDEGATE_<OPTION>, as in TIDEGATE_LOG_LEVEL=debug.";

/// Serve a folder of configuration, or one backend without any YAML.
///
/// The folder is watched. A change is served as soon as it is valid; an object that is rejected keeps its last good
/// form; the last accepted configuration is kept in the state directory and served after a restart, even if the folder
/// is broken or gone by then.
///
/// A Gateway port below 1024 that the process may not bind is bound at +8000: 80 becomes 8080, 443 becomes 8443.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, group(ArgGroup::new("source").required(true).args(["config", "to"])))]
pub(crate) struct RunArgs {
    /// File or folder (recursive) of YAML or JSON; repeatable.
    #[arg(long, short, value_name = "PATH", env = "TIDEGATE_CONFIG", hide_env_values = true)]
    #[arg(value_delimiter = ',')]
    config: Vec<PathBuf>,
    /// Forward everything to one backend: HOST:PORT, http://HOST:PORT, h2c://HOST:PORT or https://HOST:PORT (verified).
    #[arg(long, value_name = "ADDRESS", env = "TIDEGATE_TO", hide_env_values = true)]
    to: Option<String>,
    /// Port to listen on with --to.
    #[arg(long, value_name = "PORT", default_value_t = 8080, env = "TIDEGATE_PORT", hide_env_values = true)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..), conflicts_with = "config")]
    port: u16,
    /// Print the YAML that --to stands for, and exit.
    #[arg(long, requires = "to", conflicts_with = "config")]
    print_config: bool,
    #[command(flatten)]
    read: ReadArgs,
    #[command(flatten)]
    secrets: SecretArgs,
    #[command(flatten)]
    servers: ServerArgs,
    #[command(flatten)]
    process: ProcessArgs,
}

/// The servers for operators. Shared with `tidegate demo`.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Servers for operators (IP:PORT, a port, or none)")]
pub(crate) struct ServerArgs {
    /// Envoy-shaped admin: /config_dump, /clusters, /certs, /stats, /logging, /explain.
    #[arg(long, value_name = "ADDRESS", env = "TIDEGATE_ADMIN_ADDRESS", hide_env_values = true)]
    #[arg(default_value = "127.0.0.1:15000", value_parser = server_address, visible_alias = "admin-port")]
    pub(crate) admin_address: ServerAddress,
    /// Prometheus metrics: /stats/prometheus.
    #[arg(long, value_name = "ADDRESS", env = "TIDEGATE_STATS_ADDRESS", hide_env_values = true)]
    #[arg(default_value = "0.0.0.0:15020", value_parser = server_address)]
    pub(crate) stats_address: ServerAddress,
    /// Readiness: /healthz/ready.
    #[arg(long, value_name = "ADDRESS", env = "TIDEGATE_HEALTH_ADDRESS", hide_env_values = true)]
    #[arg(default_value = "0.0.0.0:15021", value_parser = server_address)]
    pub(crate) health_address: ServerAddress,
}

impl ServerArgs {
    pub(crate) fn apply(&self, options: &mut RunOptions) {
        options.admin_address = self.admin_address.resolve([127, 0, 0, 1]);
        options.stats_address = self.stats_address.resolve([0, 0, 0, 0]);
        options.health_address = self.health_address.resolve([0, 0, 0, 0]);
    }
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "The process")]
struct ProcessArgs {
    /// Where the last accepted configuration and ACME's certificates are kept, or `none`.
    ///
    /// Secrets of the configuration are never kept. ACME's folder holds keys, and is its owner's alone.
    /// Default: $XDG_STATE_HOME/tidegate or ~/.local/state/tidegate; /var/lib/tidegate for root.
    #[arg(long, value_name = "DIR", env = "TIDEGATE_STATE_DIR", hide_env_values = true)]
    state_dir: Option<PathBuf>,
    /// Added to Gateway ports below 1024. Default: 8000, if they may not be bound.
    #[arg(long, value_name = "N", env = "TIDEGATE_PORT_OFFSET", hide_env_values = true)]
    #[arg(value_parser = clap::value_parser!(u16).range(..=64_512))]
    port_offset: Option<u16>,
    /// Threads that serve traffic. Default: one per core.
    #[arg(long, value_name = "N", env = "TIDEGATE_WORKERS", hide_env_values = true)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=1024))]
    workers: Option<u16>,
    /// Name server for DNS endpoints, IP or IP:PORT; repeatable. Default: /etc/hosts and those of /etc/resolv.conf.
    #[arg(long, value_name = "ADDRESS", env = "TIDEGATE_NAME_SERVER", hide_env_values = true)]
    #[arg(value_delimiter = ',', value_parser = name_server)]
    name_server: Vec<SocketAddr>,
    /// How long listeners go on accepting after readiness fails, for load balancers to notice.
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration)]
    #[arg(env = "TIDEGATE_DRAIN_DELAY", hide_env_values = true)]
    drain_delay: Duration,
    /// Longest wait for requests in flight after that.
    #[arg(long, value_name = "DURATION", default_value = "45s", value_parser = duration)]
    #[arg(env = "TIDEGATE_DRAIN_TIMEOUT", hide_env_values = true)]
    drain_timeout: Duration,
    #[command(flatten)]
    log: LogArgs,
    /// Access log: a file, /dev/stdout, or none. Wins over MeshConfig's accessLogFile.
    #[arg(long, value_name = "FILE", env = "TIDEGATE_ACCESS_LOG", hide_env_values = true)]
    access_log: Option<String>,
    /// Form of --access-log.
    #[arg(long, value_enum, default_value_t, env = "TIDEGATE_ACCESS_LOG_FORMAT", hide_env_values = true)]
    #[arg(requires = "access_log")]
    access_log_format: LineFormat,
}

/// The process's own log. Shared with `tidegate demo`.
#[derive(Clone, Debug, Args)]
pub(crate) struct LogArgs {
    /// A level, or directives as in `info,tidegate_proxy=debug`. /logging changes it at run time.
    #[arg(long, value_name = "LEVEL", env = "TIDEGATE_LOG_LEVEL", hide_env_values = true)]
    pub(crate) log_level: Option<String>,
    /// Form of log lines on stderr.
    #[arg(long, value_enum, default_value_t, env = "TIDEGATE_LOG_FORMAT", hide_env_values = true)]
    log_format: LineFormat,
}

impl LogArgs {
    pub(crate) fn options(&self, default_level: &str) -> LogOptions {
        LogOptions {
            level: self.log_level.clone().unwrap_or_else(|| default_level.to_owned()),
            format: match self.log_format {
                LineFormat::Text => LogFormat::Text,
                LineFormat::Json => LogFormat::Json,
            },
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
enum LineFormat {
    #[default]
    Text,
    Json,
}

/// `--state-dir`: a folder, or `none`.
pub(crate) fn state_dir(path: Option<PathBuf>) -> StateDir {
    match path {
        None => StateDir::Default,
        Some(path) if path.as_os_str() == "none" => StateDir::None,
        Some(path) => StateDir::Path(path),
    }
}

fn options(args: RunArgs) -> anyhow::Result<RunOptions> {
    let source = match args.to {
        Some(target) => ConfigSource::To { target, port: args.port },
        None => ConfigSource::Paths(args.config),
    };
    let mut options = RunOptions::new(source);
    options.read = args.read.options();
    options.sources = args.secrets.sources();
    options.sds_server = args.secrets.server()?;
    args.servers.apply(&mut options);
    let process = args.process;
    options.read.access_log = process.access_log.map(|path| AccessLogOverride {
        path: if path == "none" { String::new() } else { path },
        json: process.access_log_format == LineFormat::Json,
    });
    options.state_dir = state_dir(process.state_dir);
    options.port_offset = process.port_offset;
    options.workers = process.workers.map(usize::from);
    options.name_servers = process.name_server;
    options.drain_delay = process.drain_delay;
    options.drain_timeout = process.drain_timeout;
    options.log = process.log.options("info");
    Ok(options)
}

pub(crate) fn run(args: RunArgs, console: Console) -> anyhow::Result<Exit> {
    if args.config.iter().any(|path| path.as_os_str() == "-") {
        console.error("--config takes files and folders, which are watched; standard input cannot be watched");
        console.help("save it and name the file: ... > gateway.yaml, then tidegate run --config gateway.yaml");
        return Ok(Exit::Usage);
    }
    if let Some((message, help)) = args.secrets.misuse() {
        console.error(&message);
        console.help(help);
        return Ok(Exit::Usage);
    }
    let print_config = args.print_config;
    let options = options(args)?;
    if print_config {
        console.print(&crate::run::made_up_config(&options)?)?;
        return Ok(Exit::Success);
    }
    crate::run::run(options)?;
    Ok(Exit::Success)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn parse(arguments: &[&str]) -> Result<RunOptions, clap::error::ErrorKind> {
        let arguments = ["tidegate", "run"].iter().chain(arguments);
        match Cli::try_parse_from(arguments).map_err(|error| error.kind())?.command {
            Command::Run(args) => Ok(options(*args).unwrap()),
            other => panic!("parsed as {other:?}"),
        }
    }

    #[test]
    fn arguments_become_options() {
        let options = parse(&[
            "--config=a",
            "--config=b",
            "--labels=istio=x,team=y",
            "--state-dir=none",
            "--admin-address=0",
            "--stats-address=none",
            "--drain-delay=0",
            "--name-server=127.0.0.1,[::1]:5353",
            "--access-log=/dev/stdout",
            "--access-log-format=json",
        ])
        .unwrap();
        assert!(matches!(options.source, ConfigSource::Paths(paths) if paths == ["a", "b"].map(PathBuf::from)));
        assert_eq!(options.read.labels.len(), 2);
        assert_eq!(options.read.labels["team"], "y");
        assert_eq!(options.state_dir, StateDir::None);
        assert_eq!(options.admin_address.map(|a| a.to_string()).as_deref(), Some("127.0.0.1:0"));
        assert_eq!(options.stats_address, None);
        assert_eq!(options.drain_delay, Duration::ZERO);
        assert_eq!(options.name_servers, ["127.0.0.1:53", "[::1]:5353"].map(|address| address.parse().unwrap()));
        assert_eq!(options.read.access_log, Some(AccessLogOverride { path: "/dev/stdout".into(), json: true }));
    }

    #[test]
    fn secrets_have_sources_and_takers() {
        let options = parse(&[
            "--config=a",
            "--secrets=pairs",
            "--secrets=more",
            "--sds-provider=vault=unix:///run/sds.sock",
            "--sds-address=127.0.0.1:0",
            "--sds-alias=web=kubernetes://istio-system/web",
        ])
        .unwrap();
        assert_eq!(options.sources.folders, ["pairs", "more"].map(PathBuf::from));
        assert_eq!(options.sources.providers[0].name, "vault");
        assert_eq!(options.sources.own[0].name.as_str(), "kubernetes://istio-system/web");
        let server = options.sds_server.unwrap();
        assert!(server.unix.is_none() && server.tcp.is_some() && server.aliases.contains_key("web"));
        // What is for a server is wrong without one.
        assert!(parse(&["--config=a", "--sds-alias=web=kubernetes://istio-system/web"]).is_err());
        assert!(parse(&["--config=a", "--sds-authorization=rules"]).is_err());
        assert!(parse(&["--config=a", "--sds-socket=s", "--sds-certificate=c"]).is_err());
        assert!(parse(&["--config=a"]).unwrap().sds_server.is_none());
    }

    #[test]
    fn keys_do_not_leave_the_machine_in_plaintext() {
        let misuse = |arguments: &[&str]| {
            let arguments = ["tidegate", "run", "--config=a"].iter().chain(arguments);
            match Cli::try_parse_from(arguments).unwrap().command {
                Command::Run(args) => args.secrets.misuse().is_some(),
                other => panic!("parsed as {other:?}"),
            }
        };
        assert!(misuse(&["--sds-address=0.0.0.0:8234"]));
        assert!(!misuse(&["--sds-address=0.0.0.0:8234", "--sds-certificate=kubernetes://ns/sds"]));
        assert!(!misuse(&["--sds-address=[::1]:8234"]));
    }

    #[test]
    fn one_source_is_needed_and_only_one() {
        use clap::error::ErrorKind;
        assert_eq!(parse(&[]).err(), Some(ErrorKind::MissingRequiredArgument));
        assert_eq!(parse(&["--config=a", "--to=b:1"]).err(), Some(ErrorKind::ArgumentConflict));
        assert_eq!(parse(&["--config=a", "--print-config"]).err(), Some(ErrorKind::ArgumentConflict));
        assert!(parse(&["--to=127.0.0.1:3000", "--port=9000"]).is_ok());
    }
}
