//! Handshakes that fail: what the access log says of them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tidegate_core::Host;
use tidegate_proxy::Limits;
use tidegate_snapshot::{
    AccessLog, AccessLogFormat, FilterChain, ListenerProtocol, MeshSettings, NetworkFilter, ServerTls, TcpDestination,
    TcpProxy, Template,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::backend::fixed;
use crate::certificates::{Authority, offer, offer_trust};
use crate::harness::{Config, Edge};
use crate::tls_edge::{Server, TlsEdge, connect, get, is_served, mutual};

const FORMAT: &str = "%REQUESTED_SERVER_NAME% %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% \
                      %CONNECTION_TERMINATION_DETAILS% %DOWNSTREAM_TRANSPORT_FAILURE_REASON%\n";

struct Log {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

impl Log {
    fn of(mesh: &mut MeshSettings) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let format = AccessLogFormat::Text(Template::parse(FORMAT).unwrap());
        mesh.access_log = Some(AccessLog { path: path.to_str().unwrap().into(), format });
        Self { _folder: folder, path }
    }

    /// All lines, once the gateway has written them.
    async fn lines(self, edge: &Edge) -> Vec<String> {
        edge.gateway.drain(Duration::ZERO, Duration::from_secs(5)).await;
        std::fs::read_to_string(self.path).unwrap().lines().map(str::to_owned).collect()
    }
}

#[tokio::test]
async fn a_failed_handshake_is_logged_with_its_reason_in_envoys_words() {
    let mut config = Config::new();
    let log = Log::of(&mut config.mesh);
    let servers = vec![
        Server::new("a", &["a.com"], fixed("a").await).tls(mutual("a", "ca")),
        Server::new("b", &["b.com"], fixed("b").await).tls(mutual("nothing", "ca")),
    ];
    let edge = TlsEdge::with(config, servers, Limits::default()).await;
    let (clients, strangers) = (Authority::new("clients"), Authority::new("strangers"));
    offer_trust(&edge.secrets, "ca", &[&clients], None);
    assert!(!is_served(edge.address(), "a.com", edge.client(None)).await);
    edge.await_failure("client_certificate_missing", 1).await;
    assert!(!is_served(edge.address(), "a.com", edge.client(Some(&strangers.client("c")))).await);
    edge.await_failure("client_certificate_untrusted", 1).await;
    assert!(connect(edge.address(), "b.com", edge.client(None)).await.is_err());
    edge.await_failure("no_certificate", 1).await;
    assert!(connect(edge.address(), "nobody.com", edge.client(None)).await.is_err());
    edge.await_failure("no_filter_chain", 1).await;
    // TLS 1.1: version, random, no session, one suite, no compression, no extensions.
    let mut hello = vec![22, 3, 1, 0, 47, 1, 0, 0, 43, 3, 2];
    hello.extend([7; 32]);
    hello.extend([0, 0, 2, 0xc0, 0x09, 1, 0, 0, 0]);
    hello[4] = (hello.len() - 5) as u8;
    hello[8] = (hello.len() - 9) as u8;
    for (bytes, reason) in [(&hello[..], "version"), (get("a.com").as_bytes(), "malformed")] {
        let mut tcp = TcpStream::connect(edge.address()).await.unwrap();
        tcp.write_all(bytes).await.unwrap();
        edge.await_failure(reason, 1).await;
    }
    // One that comes and goes has not failed.
    drop(TcpStream::connect(edge.address()).await.unwrap());
    let frame = |text: &str| format!("TLS_error:|{text}:TLS_error_end");
    let missing = frame("268435648:SSL_routines:OPENSSL_internal:PEER_DID_NOT_RETURN_A_CERTIFICATE");
    let lines = log.lines(&edge.edge).await;
    assert_eq!(lines[0], format!("a.com 0 - - tls_error:client_certificate_missing {missing}"));
    let untrusted = "a.com 0 - - tls_error:client_certificate_untrusted TLS_error:|268435581:SSL_routines:";
    assert!(lines[1].starts_with(untrusted), "{}", lines[1]);
    assert_eq!(lines[2], "b.com 0 - - tls_error:no_certificate TLS_error:no_certificate:TLS_error_end");
    assert_eq!(lines[3], "nobody.com 0 NR filter_chain_not_found - -");
    let version = frame("268435696:SSL_routines:OPENSSL_internal:UNSUPPORTED_PROTOCOL");
    assert_eq!(lines[4], format!("- 0 - - tls_error:version {version}"));
    assert_eq!(lines[5], "- 0 NR filter_chain_not_found - TLS_error:malformed:TLS_error_end");
    assert_eq!(lines.len(), 6, "{lines:#?}");
}

#[tokio::test]
async fn connections_of_a_server_that_is_not_served_say_so() {
    let mut config = Config::new();
    let log = Log::of(&mut config.mesh);
    let mut chain = FilterChain::new("closed".into(), NetworkFilter::Tcp(TcpProxy::new(String::new(), vec![], None)));
    chain.server_names = vec![Host::new_unchecked("a.com")];
    let edge = Edge::start(config.snapshot_with(ListenerProtocol::Tls, vec![chain])).await;
    let client = crate::certificates::client_config(&Authority::new("servers"), None);
    assert!(connect(edge.address(), "a.com", client).await.is_err());
    assert_eq!(log.lines(&edge).await, ["a.com 0 NR server_not_served - -"]);
}

#[tokio::test]
async fn without_the_listeners_log_only_connections_of_tcp_are_logged() {
    let mut config = Config::new();
    let log = Log::of(&mut config.mesh);
    config.mesh.disable_listener_log = true;
    let authority = Authority::new("servers");
    let to = vec![TcpDestination { cluster: config.cluster("tcp", &[fixed("tcp").await]), weight: 1 }];
    let chain = |name: &str, filter, tls: ServerTls| {
        let mut chain = FilterChain::new(name.into(), filter);
        chain.server_names = vec![Host::new_unchecked(&format!("{name}.com"))];
        chain.tls = Some(Arc::new(tls));
        chain
    };
    let table = Arc::new(tidegate_snapshot::RouteTable::new("http".into(), Vec::new()));
    let chains = vec![
        chain("http", NetworkFilter::Http(table), mutual("http", "ca")),
        chain("tcp", NetworkFilter::Tcp(TcpProxy::new("tcp".into(), to, None)), mutual("tcp", "ca")),
    ];
    let secrets = Arc::new(tidegate_sds::SecretStore::default());
    for name in ["http", "tcp"] {
        offer(&secrets, name, authority.server(&[&format!("{name}.com")]).payload());
    }
    offer_trust(&secrets, "ca", &[&Authority::new("clients")], None);
    let edge = Edge::trusting(config.snapshot_with(ListenerProtocol::Tls, chains), &secrets).await;
    for name in ["http.com", "tcp.com"] {
        let config = crate::certificates::client_config(&authority, None);
        // In TLS 1.3 the client hears of it after its own part is done.
        if let Ok(mut stream) = connect(edge.address(), name, config).await {
            let mut end = Vec::new();
            assert!(stream.read_to_end(&mut end).await.is_err());
        }
    }
    let lines = log.lines(&edge).await;
    assert_eq!(lines.len(), 1, "{lines:#?}");
    assert!(lines[0].starts_with("tcp.com 0 - - tls_error:client_certificate_missing "), "{}", lines[0]);
}
