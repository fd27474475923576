//! ACME's challenges, which are answered before anything that is configured.

use std::sync::Arc;

use rustls::sign::CertifiedKey;

use crate::backend::fixed;
use crate::certificates::Authority;
use crate::client::{Client, once};
use crate::harness::{Config, Edge};
use crate::tls_edge::{Server, TlsEdge, connect};

const PATH: &str = "/.well-known/acme-challenge/token-1";

fn request(path: &str, host: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")
}

#[tokio::test]
async fn a_token_is_answered_in_spite_of_redirects_and_routes() {
    let secrets = Arc::<tidegate_sds::SecretStore>::default();
    let mut config = Config::to(fixed("backend").await);
    config.https_redirect = true;
    config.hosts = vec!["a.com"];
    let edge = Edge::with_secrets(config.snapshot(), tidegate_proxy::Limits::default(), secrets.clone()).await;
    assert_eq!(once(edge.address(), request(PATH, "a.com")).await.status, 301);
    secrets.challenges().open_http("token-1", "token-1.thumbprint");
    for host in ["a.com", "nobody.org"] {
        let answer = once(edge.address(), request(PATH, host)).await;
        assert_eq!((answer.status, answer.text()), (200, "token-1.thumbprint"));
    }
    for path in ["/.well-known/acme-challenge/token-2", "/.well-known/acme-challenge/", "/x"] {
        assert_eq!(once(edge.address(), request(path, "a.com")).await.status, 301, "{path}");
    }
    secrets.challenges().close_http("token-1");
    assert_eq!(once(edge.address(), request(PATH, "a.com")).await.status, 301);
}

#[tokio::test]
async fn a_token_is_answered_over_tls_whatever_the_host() {
    let edge = TlsEdge::start(vec![Server::new("a", &["a.com"], fixed("a").await)]).await;
    edge.secrets.challenges().open_http("token-1", "token-1.thumbprint");
    let mut client = Client::over(edge.connect("a.com").await);
    for host in ["a.com", "b.com"] {
        client.send(request(PATH, host)).await;
        assert_eq!(client.answer().await.text(), "token-1.thumbprint");
    }
}

#[tokio::test]
async fn a_challenge_by_alpn_sees_its_certificate_and_nothing_else() {
    let edge = TlsEdge::start(vec![Server::new("a", &["a.com"], fixed("a").await)]).await;
    let issuer = Authority::new("challenge");
    let identity = issuer.server(&["new.com"]);
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let key = CertifiedKey::from_der(identity.certificates(), identity.key(), &provider).unwrap();
    let acme = |authority: &Authority| {
        let mut config = crate::certificates::client_config(authority, None);
        config.alpn_protocols = vec![b"acme-tls/1".to_vec()];
        config
    };
    assert!(connect(edge.address(), "new.com", acme(&issuer)).await.is_err());
    edge.secrets.challenges().open_tls_alpn("new.com", Arc::new(key));
    let stream = connect(edge.address(), "new.com", acme(&issuer)).await.unwrap();
    let session = stream.get_ref().1;
    assert_eq!(session.alpn_protocol(), Some(&b"acme-tls/1"[..]));
    assert_eq!(session.peer_certificates().unwrap()[0], identity.certificates()[0]);
    // The gateway closes without a word.
    let mut client = Client::over(stream);
    assert!(client.is_closed().await);
    // Other clients, and others' names, see what is configured.
    assert!(connect(edge.address(), "new.com", edge.client(None)).await.is_err());
    assert!(connect(edge.address(), "a.com", acme(&edge.authority)).await.is_err());
    assert_eq!(edge.get("a.com", "a.com").await.text(), "a");
    edge.secrets.challenges().close_tls_alpn("new.com");
    assert!(connect(edge.address(), "new.com", acme(&issuer)).await.is_err());
}
