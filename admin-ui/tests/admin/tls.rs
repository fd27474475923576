//! TLS and secrets, as Envoy and istioctl would have them.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tidegate_admin::{
    AlternativeName, CertificateFacts, DumpOptions, SecretContent, SecretState, SecretStatus, config_dump,
    config_dump_resource,
};
use tidegate_core::{Host, Kind, Origin, ResourceKey, SecretName};
use tidegate_snapshot::*;

use crate::support::{Servers, node, section};

/// Begins at the epoch's day `from` and ends at `to`.
fn facts(subject: &str, names: &[AlternativeName], from: u64, to: u64) -> CertificateFacts {
    let day = |days: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(days * 86_400);
    CertificateFacts {
        subject: subject.into(),
        issuer: "CN=ca".into(),
        serial_number: "0a1b".into(),
        subject_alt_names: names.to_vec(),
        not_before: day(from),
        not_after: day(to),
        sha256: "ab".repeat(32),
        key: "ECDSA P-256".into(),
    }
}

/// One of each kind, sorted by name.
pub(crate) fn secrets() -> Vec<SecretStatus> {
    let rotated = Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000));
    let alternative = [AlternativeName::Dns("a.com".into()), AlternativeName::Ip("10.0.0.1".into())];
    vec![
        SecretStatus {
            name: "kubernetes://default/late".into(),
            remarks: vec!["no source has it".into()],
            ..SecretStatus::default()
        },
        SecretStatus {
            name: "kubernetes://default/web".into(),
            content: SecretContent::CertificateChain,
            source: "Kubernetes".into(),
            object: Some("Secret default/web".into()),
            origin: "web.yaml:3:1".into(),
            state: SecretState::Active,
            version: 2,
            rotated,
            hosts: vec!["a.com".into()],
            certificates: vec![facts("CN=a.com", &alternative, 19_000, 60_000)],
            certificates_pem: Some(Arc::from(&b"PEM of web"[..])),
            ..SecretStatus::default()
        },
        SecretStatus {
            name: "kubernetes://default/web-cacert".into(),
            content: SecretContent::Authorities,
            state: SecretState::Orphaned,
            version: 1,
            rotated,
            certificates: vec![facts("CN=ca", &[], 19_000, 19_001)],
            certificates_pem: Some(Arc::from(&b"PEM of ca"[..])),
            crl_pem: Some(Arc::from(&b"PEM of crl"[..])),
            ..SecretStatus::default()
        },
    ]
}

fn reference(names: &[&str]) -> SecretRef {
    let key = ResourceKey::local(Kind::Gateway, "default", "g");
    SecretRef::new(names.iter().map(|name| SecretName::new(name)).collect(), key, Origin::default())
}

fn chain(name: &str, host: &str, tls: Option<ServerTls>, filter: NetworkFilter) -> FilterChain {
    let mut chain = FilterChain::new(name.into(), filter);
    chain.server_names = vec![Host::new_unchecked(host)];
    chain.tls = tls.map(Arc::new);
    chain
}

fn tcp(clusters: &[(&str, u32)]) -> NetworkFilter {
    let destination = |(name, weight): &(&str, u32)| TcpDestination {
        cluster: ClusterRef::Missing { name: (*name).into() },
        weight: *weight,
    };
    NetworkFilter::Tcp(TcpProxy::new("db".into(), clusters.iter().map(destination).collect(), None))
}

fn snapshot() -> Snapshot {
    let mutual = ServerTls {
        mode: ServerTlsMode::Mutual,
        // The first is not there yet.
        certificates: vec![reference(&["kubernetes://default/late", "kubernetes://default/web"])],
        client_validation: Some(ClientValidation {
            ca: Some(reference(&["kubernetes://default/web-cacert"])),
            crl: None,
            subject_alt_names: vec!["client.example".into()],
            spki_hashes: vec![Digest256([0; 32])],
            certificate_hashes: vec![Digest256([1; 32])],
            accept_untrusted: false,
        }),
        parameters: TlsParameters {
            cipher_suites: vec![CipherSuite::EcdheRsaAes128Gcm],
            groups: vec![KeyExchangeGroup::X25519],
            ..TlsParameters::default()
        },
        alpn: vec!["h2".into(), "http/1.1".into()],
    };
    let http = NetworkFilter::Http(Arc::new(RouteTable::new("https.443.https.g.default".into(), Vec::new())));
    let chains = vec![
        chain("https.443.https.g.default", "a.com", Some(mutual), http),
        chain("split", "*.db.com", None, tcp(&[("outbound|1||a", 1), ("outbound|1||b", 3)])),
        chain("one", "one.com", None, tcp(&[("outbound|1||a", 1)])),
        chain("nowhere", "*", None, tcp(&[])),
    ];
    let listener = Listener::new("0.0.0.0_443".into(), None, 443, ListenerProtocol::Tls, chains);
    let cluster = |name: &str, protocol, tls| {
        Arc::new(Cluster {
            name: name.into(),
            protocol,
            load_balancing: LoadBalancing::LeastRequest,
            connect_timeout: Duration::from_secs(10),
            tls: Some(Arc::new(tls)),
            discovery: Discovery::Static(Vec::new()),
            service: DestinationService { host: "x".into(), name: "x".into(), namespace: "default".into() },
            sources: Vec::new(),
        })
    };
    let mutual = ClientTls {
        trust: ServerTrust::Authorities(reference(&["file-root:/ca.pem"])),
        crl: Some(SecretName::file_crl("/crl.pem")),
        certificate: Some(reference(&["file-cert:/c.pem~/k.pem"])),
        server_name: UpstreamServerName::Fixed("x.example".into()),
        subject_alt_names: vec!["x.example".into()],
        parameters: TlsParameters::default(),
    };
    let simple = ClientTls {
        trust: ServerTrust::System,
        crl: None,
        certificate: None,
        server_name: UpstreamServerName::FromHost,
        subject_alt_names: Vec::new(),
        parameters: TlsParameters::default(),
    };
    let clusters = vec![
        cluster("outbound|443||mutual", UpstreamProtocol::Http2, mutual),
        cluster("outbound|443||simple", UpstreamProtocol::Http1, simple),
    ];
    let mesh = MeshSettings { proxy_protocol: true, ..MeshSettings::default() };
    Snapshot::new(vec![listener], clusters, mesh)
}

fn whole() -> Value {
    let (node, secrets) = (node(), secrets());
    config_dump(&snapshot(), &DumpOptions { secrets: &secrets, ..DumpOptions::new(&node) })
}

const SECRET: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

#[test]
fn secrets_stand_where_istioctl_reads_them_and_keys_nowhere() {
    let dump = whole();
    let section = section(&dump, "SecretsConfigDump");
    let active = section["dynamic_active_secrets"].as_array().unwrap();
    assert_eq!(
        active[0],
        json!({
            "name": "kubernetes://default/web",
            "version_info": "2",
            "last_updated": "2023-11-14T22:13:20.000Z",
            "secret": {
                "@type": SECRET,
                "name": "kubernetes://default/web",
                "tls_certificate": {
                    "certificate_chain": { "inline_bytes": "UEVNIG9mIHdlYg==" },
                    // `[redacted]`, as Envoy writes it.
                    "private_key": { "inline_bytes": "W3JlZGFjdGVkXQ==" },
                },
            },
        })
    );
    assert_eq!(
        active[1]["secret"]["validation_context"],
        json!({
            "trusted_ca": { "inline_bytes": "UEVNIG9mIGNh" },
            "crl": { "inline_bytes": "UEVNIG9mIGNybA==" },
        })
    );
    assert_eq!(
        section["dynamic_warming_secrets"],
        json!([{
            "name": "kubernetes://default/late",
            "secret": { "@type": SECRET, "name": "kubernetes://default/late" },
        }])
    );
}

#[test]
fn listeners_show_how_they_terminate_and_with_what() {
    let dump = whole();
    let listener = &section(&dump, "ListenersConfigDump")["dynamic_listeners"][0]["active_state"]["listener"];
    let filters: Vec<_> = listener["listener_filters"].as_array().unwrap().iter().map(|one| &one["name"]).collect();
    assert_eq!(filters, ["envoy.filters.listener.proxy_protocol", "envoy.filters.listener.tls_inspector"]);
    let chain = &listener["filter_chains"][0];
    assert_eq!(chain["filter_chain_match"], json!({ "server_names": ["a.com"] }));
    let manager = &chain["filters"][0]["typed_config"];
    assert_eq!(manager["rds"]["route_config_name"], "https.443.https.g.default");
    assert_eq!(manager["forward_client_cert_details"], "SANITIZE_SET");
    assert_eq!(manager["set_current_client_cert_details"]["chain"], false);
    assert_eq!(chain["transport_socket"]["name"], "envoy.transport_sockets.tls");
    let context = &chain["transport_socket"]["typed_config"];
    assert_eq!(context["@type"], "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext");
    assert_eq!(context["require_client_certificate"], true);
    let common = &context["common_tls_context"];
    assert_eq!(common["alpn_protocols"], json!(["h2", "http/1.1"]));
    assert_eq!(
        common["tls_params"],
        json!({
            "tls_minimum_protocol_version": "TLSv1_2",
            "tls_maximum_protocol_version": "TLSv1_3",
            "cipher_suites": ["ECDHE-RSA-AES128-GCM-SHA256"],
            "ecdh_curves": ["X25519"],
        })
    );
    // The name that is in use.
    assert_eq!(common["tls_certificate_sds_secret_configs"][0]["name"], "kubernetes://default/web");
    let combined = &common["combined_validation_context"];
    assert_eq!(combined["validation_context_sds_secret_config"]["name"], "kubernetes://default/web-cacert");
    let validation = &combined["default_validation_context"];
    assert_eq!(validation["verify_certificate_hash"][0], "01".repeat(32));
    assert_eq!(validation["verify_certificate_spki"][0], "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=");
    assert_eq!(validation["match_typed_subject_alt_names"][0]["matcher"]["exact"], "client.example");
}

#[test]
fn tcp_chains_lead_to_their_clusters() {
    let dump = whole();
    let listener = &section(&dump, "ListenersConfigDump")["dynamic_listeners"][0]["active_state"]["listener"];
    let filter = |at: usize| &listener["filter_chains"][at]["filters"][0];
    assert_eq!(filter(1)["name"], "envoy.filters.network.tcp_proxy");
    let config = |at: usize| &filter(at)["typed_config"];
    assert_eq!(
        config(1)["weighted_clusters"]["clusters"],
        json!([{ "name": "outbound|1||a", "weight": 1 }, { "name": "outbound|1||b", "weight": 3 }])
    );
    assert_eq!((&config(2)["cluster"], &config(2)["idle_timeout"]), (&json!("outbound|1||a"), &json!("3600s")));
    assert_eq!(config(3)["cluster"], "BlackHoleCluster");
    assert!(listener["filter_chains"][1].get("transport_socket").is_none());
    // A chain for any name has no match.
    assert!(listener["filter_chains"][3].get("filter_chain_match").is_none());
}

#[test]
fn clusters_show_whom_they_trust_and_what_they_show() {
    let dump = whole();
    let clusters = &section(&dump, "ClustersConfigDump")["dynamic_active_clusters"];
    let mutual = &clusters[0]["cluster"]["transport_socket"]["typed_config"];
    assert_eq!(mutual["@type"], "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext");
    assert_eq!(mutual["sni"], "x.example");
    let common = &mutual["common_tls_context"];
    assert_eq!(common["alpn_protocols"], json!(["h2"]));
    assert_eq!(common["tls_certificate_sds_secret_configs"][0]["name"], "file-cert:/c.pem~/k.pem");
    let combined = &common["combined_validation_context"];
    assert_eq!(combined["default_validation_context"]["crl"], json!({ "filename": "/crl.pem" }));
    assert_eq!(combined["validation_context_sds_secret_config"]["name"], "file-root:/ca.pem");

    let simple = &clusters[1]["cluster"];
    let context = &simple["transport_socket"]["typed_config"];
    assert!(context.get("sni").is_none());
    assert_eq!(context["common_tls_context"]["validation_context"], json!({ "system_root_certs": {} }));
    let options = &simple["typed_extension_protocol_options"]["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"];
    assert_eq!(options["upstream_http_protocol_options"], json!({ "auto_sni": true, "auto_san_validation": true }));
}

#[test]
fn one_kind_of_secret_can_be_dumped_alone() {
    let (node, secrets) = (node(), secrets());
    let options = DumpOptions { secrets: &secrets, ..DumpOptions::new(&node) };
    let dump = config_dump_resource(&snapshot(), &options, "dynamic_active_secrets", Some("name")).unwrap();
    let names: Vec<_> = dump["configs"].as_array().unwrap().iter().map(|one| &one["name"]).collect();
    assert_eq!(names, ["kubernetes://default/web", "kubernetes://default/web-cacert"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn certs_have_envoys_shape() {
    let servers = Servers::start();
    let certs = servers.get("/certs").await.json();
    let certificates = certs["certificates"].as_array().unwrap();
    assert_eq!(certificates.len(), 2);
    let leaf = &certificates[0]["cert_chain"][0];
    assert_eq!(certificates[0]["ca_cert"], json!([]));
    assert_eq!(leaf["path"], "<inline>");
    assert_eq!(leaf["serial_number"], "0a1b");
    assert_eq!(leaf["subject_alt_names"], json!([{ "dns": "a.com" }, { "ip_address": "10.0.0.1" }]));
    assert_eq!(leaf["expiration_time"], "2134-04-11T00:00:00.000Z");
    assert!(leaf["days_until_expiration"].as_str().unwrap().parse::<u64>().unwrap() > 1000);
    assert_eq!(certificates[1]["ca_cert"][0]["days_until_expiration"], "0");
    assert_eq!(certificates[1]["cert_chain"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_tell_what_envoy_does_not_know() {
    let servers = Servers::start();
    let all = servers.get("/secrets").await.json();
    assert_eq!(all["secrets"].as_array().unwrap().len(), 3);
    let one = servers.get("/secrets?name=kubernetes://default/web").await.json();
    let [web] = one["secrets"].as_array().unwrap().as_slice() else { panic!("{one:#}") };
    assert_eq!(web["content"], "Cert Chain");
    assert_eq!(web["state"], "ACTIVE");
    assert_eq!((&web["source"], &web["object"]), (&json!("Kubernetes"), &json!("Secret default/web")));
    assert_eq!(web["hosts"], json!(["a.com"]));
    assert_eq!(web["certificates"][0]["key"], "ECDSA P-256");
    assert_eq!(servers.get("/secrets/sources").await.json(), json!({ "acme": [] }));
    assert_eq!(servers.get("/secrets?name=nobody").await.json(), json!({ "secrets": [] }));
}
