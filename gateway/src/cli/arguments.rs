//! Arguments that several commands share, and the forms in which values are written.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::run::ReadOptions;

/// How the gateway sees its configuration.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Reading the configuration")]
pub(crate) struct ReadArgs {
    /// MeshConfig as YAML; wins over a ConfigMap `istio` in the configuration.
    #[arg(long, value_name = "FILE", env = "TIDEGATE_MESH_CONFIG", hide_env_values = true)]
    mesh_config: Option<PathBuf>,
    /// The gateway's own labels: a Gateway serves here if its `selector` fits them.
    ///
    /// Comma-separated, repeatable. What is given replaces the default as a whole.
    #[arg(long, value_name = "KEY=VALUE,...", env = "TIDEGATE_LABELS", hide_env_values = true)]
    #[arg(value_delimiter = ',', value_parser = label)]
    #[arg(default_values = ["istio=ingressgateway", "app=istio-ingressgateway"])]
    labels: Vec<(String, String)>,
    /// Namespace that the gateway itself runs in: `exportTo` is judged from there, `credentialName` looked up there.
    #[arg(long, value_name = "NAMESPACE", env = "TIDEGATE_NAMESPACE", hide_env_values = true)]
    #[arg(default_value = "istio-system", value_parser = namespace)]
    namespace: String,
    /// DNS suffix of Services: `reviews` becomes `reviews.<namespace>.svc.<domain>`.
    #[arg(long, value_name = "DOMAIN", env = "TIDEGATE_CLUSTER_DOMAIN", hide_env_values = true)]
    #[arg(default_value = "cluster.local", value_parser = domain)]
    cluster_domain: String,
}

impl ReadArgs {
    /// Options that were given on the command line and say something else than the defaults.
    pub(crate) fn given(&self) -> Vec<&'static str> {
        let (given, defaults) = (self.options(), ReadOptions::default());
        [
            ("mesh-config", given.mesh_config != defaults.mesh_config),
            ("labels", given.labels != defaults.labels),
            ("namespace", given.namespace != defaults.namespace),
            ("cluster-domain", given.cluster_domain != defaults.cluster_domain),
        ]
        .into_iter()
        .filter(|(_, differs)| *differs)
        .map(|(name, _)| name)
        // What the environment says is for every command, and is no mistake.
        .filter(|name| std::env::var_os(format!("TIDEGATE_{}", name.replace('-', "_").to_uppercase())).is_none())
        .collect()
    }

    pub(crate) fn options(&self) -> ReadOptions {
        ReadOptions {
            mesh_config: self.mesh_config.clone(),
            labels: self.labels.iter().cloned().collect::<BTreeMap<_, _>>(),
            namespace: self.namespace.clone(),
            cluster_domain: self.cluster_domain.clone(),
            access_log: None,
        }
    }
}

/// `-o` of commands whose output is one value.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub(crate) enum OutputFormat {
    /// For people.
    #[default]
    Table,
    /// Stable: fields are added, never renamed.
    Json,
    Yaml,
}

/// `--secrets` of the commands that serve nothing.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct SecretFolders {
    /// Folder of PEM files, as `run` takes secrets from; repeatable.
    #[arg(long = "secrets", value_name = "DIR", value_delimiter = ',')]
    pub(crate) folders: Vec<std::path::PathBuf>,
}

/// `key=value`. The value may be empty.
fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.trim().to_owned())),
        _ => Err("write key=value, as in istio=ingressgateway".into()),
    }
}

/// A namespace is a DNS label.
pub(crate) fn namespace(text: &str) -> Result<String, String> {
    let valid = (1..=63).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-');
    if valid { Ok(text.to_owned()) } else { Err("a namespace is a-z, 0-9 and `-`, at most 63 characters".into()) }
}

fn domain(text: &str) -> Result<String, String> {
    let domain = text.trim_matches('.');
    match tidegate_core::Host::parse(domain) {
        Ok(host) if !host.is_wildcard() => Ok(host.to_string()),
        Ok(_) => Err("a domain without wildcard, as in cluster.local".into()),
        Err(error) => Err(error.to_string()),
    }
}

/// A server's address: `none`, `ip:port`, or a port alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ServerAddress {
    None,
    /// The port on the server's default address.
    Port(u16),
    Socket(SocketAddr),
}

impl ServerAddress {
    /// `ip` is where the server listens if only a port is given.
    pub(crate) fn resolve(self, ip: [u8; 4]) -> Option<SocketAddr> {
        match self {
            Self::None => None,
            Self::Port(port) => Some(SocketAddr::from((ip, port))),
            Self::Socket(address) => Some(address),
        }
    }
}

pub(crate) fn server_address(text: &str) -> Result<ServerAddress, String> {
    if text.eq_ignore_ascii_case("none") {
        return Ok(ServerAddress::None);
    }
    if let Ok(port) = text.trim_start_matches(':').parse() {
        return Ok(ServerAddress::Port(port));
    }
    text.replacen("localhost:", "127.0.0.1:", 1)
        .parse()
        .map(ServerAddress::Socket)
        .map_err(|_| "write IP:PORT, a port alone, or none".into())
}

/// `IP:PORT`, or an address alone for port 53.
pub(crate) fn name_server(text: &str) -> Result<SocketAddr, String> {
    let alone = || text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 53));
    text.parse().or_else(|_| alone()).map_err(|_| "write IP or IP:PORT; a name would need a name server itself".into())
}

pub(crate) fn duration(text: &str) -> Result<std::time::Duration, String> {
    if text == "0" {
        return Ok(std::time::Duration::ZERO);
    }
    let duration = humantime::parse_duration(text).map_err(|_| "write a duration as 5s, 500ms or 1m30s")?;
    // A day is far beyond every drain; more is a slip of the hand.
    if duration > std::time::Duration::from_secs(86_400) {
        return Err("at most 24h".into());
    }
    Ok(duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_sockets_ports_or_none() {
        assert_eq!(server_address("none"), Ok(ServerAddress::None));
        assert_eq!(server_address("15000"), Ok(ServerAddress::Port(15000)));
        assert_eq!(server_address(":0"), Ok(ServerAddress::Port(0)));
        let resolved = server_address("localhost:9").map(|address| address.resolve([0, 0, 0, 0]));
        assert_eq!(resolved, Ok(Some(SocketAddr::from(([127, 0, 0, 1], 9)))));
        assert!(server_address("example.com").is_err());
        assert!(server_address("70000").is_err());
    }

    #[test]
    fn labels_and_names_are_checked() {
        assert_eq!(label("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert!(label("=b").is_err());
        assert!(label("a").is_err());
        assert!(namespace("team-a").is_ok());
        assert!(namespace("Team").is_err());
        assert_eq!(domain(".Cluster.Local."), Ok("cluster.local".into()));
        assert!(domain("*.local").is_err());
        assert!(duration("26h").is_err());
        assert_eq!(duration("0"), Ok(std::time::Duration::ZERO));
    }
}
