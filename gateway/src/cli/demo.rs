//! `tidegate demo`: an application behind a gateway, on an empty machine.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use clap::Args;
use tidegate_snapshot::ListenerProtocol;

use super::Exit;
use super::arguments::{ServerAddress, server_address};
use super::output::Console;
use super::run::LogArgs;
use crate::control::read_once;
use crate::demo::{Backends, Folder, FolderError, Ports, Written};
use crate::render::{Paint, Table, printable};
use crate::run::{ConfigSource, ReadOptions, RunOptions, Started, StateDir};

const EXAMPLES: &str = "\
Examples:
  tidegate demo
  tidegate demo --port 9000 --dir /tmp/playground

Then open http://localhost:8080/productpage, edit demo/virtual-service.yaml, and watch traffic move.
Files that you have edited are never overwritten; delete one to get the original back.";

/// Play with an application behind a gateway, and edit its routes.
///
/// The configuration is written to a folder for you to edit. Needs no Kubernetes, no network and no privileges. The application (a product page, details, three versions of
/// reviews, ratings) runs inside this process, and its services reach each other through the gateway.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct DemoArgs {
    /// Folder for the configuration.
    #[arg(long, value_name = "DIR", default_value = "demo")]
    dir: PathBuf,
    /// Port of the gateway.
    #[arg(long, value_name = "PORT", default_value_t = 8080, value_parser = clap::value_parser!(u16).range(1024..))]
    port: u16,
    /// Admin address [default: 127.0.0.1:15000, or any port if that is in use].
    #[arg(long, value_name = "ADDRESS", value_parser = server_address, visible_alias = "admin-port")]
    admin_address: Option<ServerAddress>,
    /// Address of the metrics [default: 127.0.0.1:15020, or any port if that is in use].
    #[arg(long, value_name = "ADDRESS", value_parser = server_address)]
    stats_address: Option<ServerAddress>,
    /// Address of the readiness check [default: 127.0.0.1:15021, or any port if that is in use].
    #[arg(long, value_name = "ADDRESS", value_parser = server_address)]
    health_address: Option<ServerAddress>,
    #[command(flatten)]
    log: LogArgs,
}

pub(crate) fn run(args: DemoArgs, console: Console) -> anyhow::Result<Exit> {
    let start = Instant::now();
    let folder = match Folder::open(args.dir) {
        Ok(folder) => folder,
        Err(error) => {
            let port = match &error {
                FolderError::InUse(_) => format!(" --port {}", free_port_near(args.port)),
                FolderError::Unusable(..) => String::new(),
            };
            console.error(&format!("{:#}", anyhow::Error::from(error)));
            console.help(&format!("choose another folder: tidegate demo --dir demo2{port}"));
            return Ok(Exit::Failure);
        }
    };
    let asked = Ports { http: args.port, https: https_port(args.port) };
    let (port, https) = gateway_ports(&folder, asked);
    if let Err(error) = probe(SocketAddr::from(([0, 0, 0, 0], port))) {
        console.error(&format!("the gateway cannot listen on port {port}: {error}"));
        if port == args.port {
            console.help(&format!("choose another port: tidegate demo --port {}", free_port_near(port)));
        } else {
            console.help(&format!("{}/gateway.yaml, which you edited, says that port", folder.path().display()));
        }
        return Ok(Exit::Failure);
    }
    let mut backends = Backends::bind()?;
    let written = folder.write(asked, backends.addresses())?;
    let secure = https.map(|port| Ok::<_, anyhow::Error>((port, folder.certificate()?))).transpose()?;
    let shown_folder = folder.path().display().to_string();
    let url = format!("http://localhost:{port}");
    let explain_options = Arc::new(OnceLock::new());
    backends.serve(port, shown_folder.clone(), url.clone(), explain_options.clone());

    let mut options = RunOptions::new(ConfigSource::Paths(vec![folder.path().to_owned()]));
    options.state_dir = StateDir::None;
    options.admin_address = operators_address(args.admin_address, 15000);
    options.stats_address = operators_address(args.stats_address, 15020);
    options.health_address = operators_address(args.health_address, 15021);
    // Nobody has to notice that readiness fails, and whoever plays does not want to wait.
    options.drain_delay = Duration::ZERO;
    options.drain_timeout = Duration::from_secs(5);
    options.log = args.log.options("warn,tidegate=info");
    options.on_started = Some(Box::new(move |started: &Started| {
        let explain = explain_options.get_or_init(|| match started.admin {
            Some(admin) if admin.port() == 15000 => String::new(),
            Some(admin) => format!(" --admin {admin}"),
            None => format!(" --config {}", printable(&shown_folder)),
        });
        let (folder, url, took) = (&shown_folder, &url, start.elapsed());
        let secure = secure.as_ref().map(|(port, certificate)| (*port, certificate.as_path()));
        let banner = Banner { folder, url, secure, explain, written: &written, started, took };
        // A reader who left misses the banner and nothing else.
        let _ = console.print(&banner.render(console.paint()));
    }));
    let outcome = crate::run::run(options);
    // The services go last: requests that were in flight have had their answers by now.
    drop(backends);
    outcome?;
    Ok(Exit::Success)
}

/// The port of HTTPS that goes with one of HTTP: 8443 with 8080. Another if somebody has that.
fn https_port(http: u16) -> u16 {
    let usual = http.checked_add(363).unwrap_or(http - 363);
    if probe(SocketAddr::from(([0, 0, 0, 0], usual))).is_ok() { usual } else { free_port_near(usual) }
}

/// The ports of the gateway: those that were asked for, unless the user's own Gateway says others, or has no HTTPS.
fn gateway_ports(folder: &Folder, asked: Ports) -> (u16, Option<u16>) {
    if !folder.has_edited_gateway(asked) {
        return (asked.http, Some(asked.https));
    }
    let snapshot = read_once(&[folder.path().to_owned()], &ReadOptions::default()).snapshot;
    let ports = |wanted: ListenerProtocol, asked: u16| {
        let listeners = snapshot.listeners().iter().filter(|listener| listener.protocol == wanted);
        let ports: Vec<u16> = listeners.map(|listener| listener.port).collect();
        if ports.contains(&asked) { Some(asked) } else { ports.first().copied() }
    };
    (ports(ListenerProtocol::Http, asked.http).unwrap_or(asked.http), ports(ListenerProtocol::Tls, asked.https))
}

/// The address as it was asked for; else `port` on loopback; else any port, so that two demos can run.
fn operators_address(asked: Option<ServerAddress>, port: u16) -> Option<SocketAddr> {
    match asked {
        Some(asked) => asked.resolve([127, 0, 0, 1]),
        None => {
            let usual = SocketAddr::from(([127, 0, 0, 1], port));
            Some(if probe(usual).is_ok() { usual } else { SocketAddr::from(([127, 0, 0, 1], 0)) })
        }
    }
}

/// Whether a socket can be bound there. The gateway's own sockets share their port on purpose, so a second gateway
/// would not notice the first; this does.
fn probe(address: SocketAddr) -> io::Result<()> {
    TcpListener::bind(address).map(drop)
}

fn free_port_near(port: u16) -> u16 {
    let near = port.saturating_add(1)..=port.saturating_add(100);
    near.into_iter().find(|port| probe(SocketAddr::from(([0, 0, 0, 0], *port))).is_ok()).unwrap_or(18_080)
}

/// What is printed when the demo serves.
struct Banner<'a> {
    folder: &'a str,
    url: &'a str,
    /// The port of HTTPS, and the certificate that clients are to trust.
    secure: Option<(u16, &'a Path)>,
    /// What `explain` needs to find this gateway, after a space.
    explain: &'a str,
    written: &'a Written,
    started: &'a Started,
    took: Duration,
}

impl Banner<'_> {
    fn render(&self, paint: Paint) -> String {
        let Self { folder, url, explain, started, .. } = self;
        let folder = printable(folder);
        // As the user called it, so that the lines can be pasted.
        let program = std::env::args().next().unwrap_or_else(|| "tidegate".into());
        let mut out = format!(
            "{} {}  demo  config={}  snapshot={}  ready in {:.1} s\n",
            paint.strong("tidegate"),
            env!("CARGO_PKG_VERSION"),
            folder,
            started.hash,
            self.took.as_secs_f64().max(0.1)
        );
        let mut table = Table::default();
        let address = |address: SocketAddr, path: &str| paint.place(&format!("http://{address}{path}"));
        table.row([paint.label("page"), paint.place(&format!("{url}/productpage")), String::new()]);
        if let Some(admin) = started.admin {
            table.row([
                paint.label("admin"),
                address(admin, "/"),
                paint.faint("config_dump, clusters, stats, logging"),
            ]);
        }
        if let Some(stats) = started.stats {
            table.row([paint.label("metrics"), address(stats, "/stats/prometheus"), String::new()]);
        }
        if let Some(health) = started.health {
            table.row([paint.label("ready"), address(health, "/healthz/ready"), String::new()]);
        }
        out.push_str(&table.render("  "));

        let lines = [
            ("try ", format!("curl {url}/reviews/0 -H 'end-user: jason'"), "(jason gets version 2)"),
            ("why ", format!("{program} explain GET {url}/reviews/0 -H 'end-user: jason'{explain}"), ""),
            ("edit", format!("{folder}/virtual-service.yaml"), "(change the weights, save, reload the page)"),
        ];
        let secure = self.secure.map(|(port, certificate)| {
            let certificate = printable(&certificate.display().to_string());
            format!("curl --cacert {certificate} https://localhost:{port}/reviews/0")
        });
        out.push('\n');
        let secure = secure.map(|text| ("tls ", text, "(a certificate that the demo made)"));
        for (label, text, remark) in lines.into_iter().chain(secure) {
            let remark = if remark.is_empty() { String::new() } else { format!("   {}", paint.faint(remark)) };
            out.push_str(&format!("  {}   {text}{remark}\n", paint.label(label)));
        }
        if !self.written.kept.is_empty() {
            let kept = self.written.kept.join(", ");
            out.push_str(&format!("\n  {} {kept}\n", paint.warning("kept as you edited them:")));
        }
        out.push_str(&format!("\nWatching {folder} for changes. Ctrl-C drains and ends.\n"));
        out
    }
}
