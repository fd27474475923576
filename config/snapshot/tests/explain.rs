//! What `explain` says is what serving does, and a Snapshot's hash depends on what it serves alone.
#![expect(clippy::unwrap_used, reason = "helpers of tests, outside of test functions")]

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use tidegate_core::{Host, Kind, Origin, ResourceKey, SecretName};
use tidegate_snapshot::{
    ClientValidation, Cluster, ClusterIndex, ClusterRef, DestinationService, DirectResponse, Discovery, Endpoint,
    EndpointAddress, ExplainRequest, Explanation, FilterChain, Forward, HeaderOperations, Health, Listener,
    ListenerProtocol, LoadBalancing, Locality, MeshSettings, NetworkFilter, PathMatch, Route, RouteAction, RouteMatch,
    RouteTable, SecretRef, SecretStanding, SecretState, ServerTls, ServerTlsMode, Snapshot, Source, TcpDestination,
    TcpProxy, TlsParameters, UpstreamProtocol, VirtualHost, WeightedCluster, Workload,
};

fn source(line: u32) -> Source {
    Source {
        key: ResourceKey::local(Kind::VirtualService, "default", "shop"),
        origin: Origin::new("shop.yaml", line, 5),
    }
}

fn route(prefix: &str, line: u32, action: RouteAction) -> Route {
    Route {
        name: String::new(),
        matcher: RouteMatch {
            path: PathMatch::Prefix { value: prefix.into(), ignore_case: false },
            ..RouteMatch::default()
        },
        action,
        request_headers: HeaderOperations::default(),
        response_headers: HeaderOperations::default(),
        source: source(line),
    }
}

fn to(cluster: ClusterRef) -> RouteAction {
    RouteAction::Forward(Forward::new(vec![WeightedCluster {
        cluster,
        weight: 0,
        request_headers: HeaderOperations::default(),
        response_headers: HeaderOperations::default(),
    }]))
}

fn cluster(name: &str) -> Arc<Cluster> {
    Arc::new(Cluster {
        name: name.into(),
        protocol: UpstreamProtocol::Http1,
        load_balancing: LoadBalancing::default(),
        connect_timeout: Duration::from_secs(10),
        tls: None,
        discovery: Discovery::Static(vec![Endpoint {
            address: EndpointAddress::Socket("10.0.0.1:80".parse().unwrap()),
            weight: 1,
            health: Health::Healthy,
            locality: Locality::default(),
            workload: Workload { name: "web-v1".into(), ..Workload::default() },
            origin: Origin::new("endpoints.yaml", 9, 3),
        }]),
        service: DestinationService {
            host: "web.default.svc.cluster.local".into(),
            name: "web".into(),
            namespace: "default".into(),
        },
        sources: vec![(ResourceKey::local(Kind::Service, "default", "web"), Origin::new("web.yaml", 1, 1))],
    })
}

const WEB: &str = "outbound|80||web.default.svc.cluster.local";

fn snapshot(line: u32) -> Snapshot {
    let routes = vec![
        route("/ok", line, RouteAction::DirectResponse(DirectResponse { status: 200, body: None })),
        route("/gone", line + 1, to(ClusterRef::Missing { name: "outbound|80||gone.default".into() })),
        route("/", line + 2, to(ClusterRef::Found { index: ClusterIndex(0), name: WEB.into() })),
    ];
    let host = VirtualHost::new("shop.com:80".into(), vec![Host::parse("shop.com").unwrap()], routes);
    let table = Arc::new(RouteTable::new("http.80".into(), vec![Arc::new(host)]));
    let chain = FilterChain::new("http.80".into(), NetworkFilter::Http(table));
    let listener = Listener::new("0.0.0.0_80".into(), None, 80, ListenerProtocol::Http, vec![chain]);
    Snapshot::new(vec![listener], vec![cluster(WEB)], MeshSettings::default())
}

fn explain(authority: &str, target: &str, port: u16) -> (Explanation, serde_json::Value) {
    let explanation = snapshot(10).explain(&ExplainRequest {
        method: "GET".into(),
        scheme: "http".into(),
        authority: authority.into(),
        server_name: tidegate_snapshot::server_name_of(authority),
        target: target.into(),
        headers: HeaderMap::new(),
        port,
    });
    let json = serde_json::to_value(&explanation).unwrap();
    (explanation, json)
}

#[test]
fn every_route_up_to_the_one_taken_is_named_with_its_line_and_reason() {
    let (explanation, json) = explain("SHOP.com:80", "/a/../cart?x=1", 80);
    let tried: Vec<_> =
        explanation.tried.iter().map(|t| (t.matched, t.place.origin.to_string(), t.reason.as_str())).collect();
    assert_eq!(
        tried,
        [
            (false, "shop.yaml:10:5".into(), "path is not prefix `/ok`"),
            (false, "shop.yaml:11:5".into(), "path is not prefix `/gone`"),
            (true, "shop.yaml:12:5".into(), ""),
        ]
    );
    assert_eq!(json["request"]["normalized"], "/cart?x=1");
    assert_eq!(json["outcome"]["action"], "forward");
    assert_eq!(json["outcome"]["path"], "/cart?x=1");
    let cluster = &json["outcome"]["clusters"][0];
    assert_eq!((&cluster["name"], &cluster["percent"]), (&WEB.into(), &100.0.into()));
    assert_eq!(cluster["endpoints"][0]["address"], "10.0.0.1:80");
    assert_eq!(cluster["endpoints"][0]["origin"], "endpoints.yaml:9:3");
    assert_eq!(cluster["configured_at"][0]["origin"], "web.yaml:1:1");
}

#[test]
fn what_is_missing_is_said() {
    let reason = |authority, target, port| explain(authority, target, port).1["outcome"].clone();
    assert_eq!(reason("other.com", "/", 80)["flags"], "NR");
    assert_eq!(reason("shop.com", "/a%00", 80)["status"], 400);
    assert!(reason("shop.com", "/", 81)["reason"].as_str().unwrap().contains("there are: 80"));
    let (_, gone) = explain("shop.com", "/gone/1", 80);
    assert_eq!(gone["outcome"]["clusters"][0]["found"], false);
}

#[test]
fn places_in_files_do_not_change_the_hash_and_content_does() {
    assert_eq!(snapshot(10).hash(), snapshot(99).hash());
    assert_ne!(snapshot(10).hash(), Snapshot::empty().hash());
    assert_eq!(snapshot(10).hash().to_string().len(), 16);
}

#[test]
fn hints_say_where_to_look_next() {
    let hints = |authority, target, port| explain(authority, target, port).0.hints.join("\n");
    assert_eq!(hints("shop.com", "/ok", 80), "");
    assert!(hints("shpo.com", "/", 80).contains("most similar host is `shop.com` (port 80)"));
    assert_eq!(hints("completely.different", "/", 80), "");
    assert!(hints("shop.com", "/", 81).contains("port 80 serves `shop.com`"));
    assert!(hints("shop.com", "/gone/1", 80).contains("does not exist"));
}

#[test]
fn a_url_means_the_gateways_port_by_any_of_its_names() {
    let snapshot = snapshot(10);
    for (scheme, port, expected) in [
        ("http", None, 80),
        ("http", Some(80), 80),
        ("http", Some(8080), 80),
        ("http", Some(9000), 9000),
        // The only listener, for want of 443.
        ("https", None, 80),
    ] {
        assert_eq!(snapshot.port_of_url(scheme, port), expected, "{scheme} {port:?}");
    }
    assert_eq!(Snapshot::empty().port_of_url("https", None), 443);
}

fn tls(mode: ServerTlsMode) -> Arc<ServerTls> {
    let reference = |name: &str, line| {
        let key = ResourceKey::local(Kind::Gateway, "default", "gw");
        SecretRef::new(vec![SecretName::kubernetes("default", name)], key, Origin::new("gw.yaml", line, 7))
    };
    let client_validation = (mode != ServerTlsMode::Simple).then(|| ClientValidation {
        ca: Some(reference("shop-cacert", 8)),
        crl: None,
        subject_alt_names: vec!["spiffe://td/ns/default/sa/client".into()],
        spki_hashes: Vec::new(),
        certificate_hashes: Vec::new(),
        accept_untrusted: false,
    });
    Arc::new(ServerTls {
        mode,
        certificates: vec![reference("shop", 7)],
        client_validation,
        parameters: TlsParameters::default(),
        alpn: vec!["h2".into(), "http/1.1".into()],
    })
}

/// Chains for `shop.com` (MUTUAL), `*.open.com` (SIMPLE), `db.com` (passed through) and `shut.com` (closed).
fn tls_snapshot() -> Snapshot {
    let http = |name: &str, host: &str, mode| {
        let routes = vec![route("/", 12, to(ClusterRef::Found { index: ClusterIndex(0), name: WEB.into() }))];
        let virtual_host = VirtualHost::new(format!("{host}:443"), vec![Host::parse(host).unwrap()], routes);
        let table = Arc::new(RouteTable::new(name.into(), vec![Arc::new(virtual_host)]));
        let mut chain = FilterChain::new(name.into(), NetworkFilter::Http(table));
        chain.server_names = vec![Host::parse(host).unwrap()];
        chain.tls = Some(tls(mode));
        chain.sources = vec![(ResourceKey::local(Kind::Gateway, "default", "gw"), Origin::new("gw.yaml", 5, 3))];
        chain
    };
    let tcp = |name: &str, host: &str, rule: Option<Source>| {
        let cluster = ClusterRef::Found { index: ClusterIndex(0), name: WEB.into() };
        let clusters = rule.iter().map(|_| TcpDestination { cluster: cluster.clone(), weight: 0 }).collect();
        let proxy = TcpProxy::new(String::new(), clusters, rule);
        let mut chain = FilterChain::new(name.into(), NetworkFilter::Tcp(proxy));
        chain.server_names = vec![Host::parse(host).unwrap()];
        chain
    };
    let chains = vec![
        http("https.443.shop", "shop.com", ServerTlsMode::Mutual),
        http("https.443.open", "*.open.com", ServerTlsMode::Simple),
        tcp("passthrough.443.db", "db.com", Some(source(20))),
        tcp("closed.443.shut", "shut.com", None),
    ];
    let secure = Listener::new("0.0.0.0_443".into(), None, 443, ListenerProtocol::Tls, chains);
    let none = TcpProxy::new(String::new(), Vec::new(), None);
    let plain = vec![FilterChain::new("0.0.0.0_31400".into(), NetworkFilter::Tcp(none))];
    let plain = Listener::new("0.0.0.0_31400".into(), None, 31400, ListenerProtocol::Tcp, plain);
    let table = Arc::new(RouteTable::new("http.80".into(), Vec::new()));
    let open = vec![FilterChain::new("0.0.0.0_80".into(), NetworkFilter::Http(table))];
    let open = Listener::new("0.0.0.0_80".into(), None, 80, ListenerProtocol::Http, open);
    Snapshot::new(vec![secure, plain, open], vec![cluster(WEB)], MeshSettings::default())
}

fn explain_connection(scheme: &str, authority: &str, server_name: Option<&str>, port: u16) -> serde_json::Value {
    serde_json::to_value(explanation(scheme, authority, server_name, port)).unwrap()
}

fn explanation(scheme: &str, authority: &str, server_name: Option<&str>, port: u16) -> Explanation {
    tls_snapshot().explain(&ExplainRequest {
        method: "GET".into(),
        scheme: scheme.into(),
        authority: authority.into(),
        server_name: server_name.map(str::to_owned),
        target: "/".into(),
        headers: HeaderMap::new(),
        port,
    })
}

#[test]
fn the_filter_chain_its_mode_and_its_secrets_are_named() {
    let json = explain_connection("https", "shop.com", Some("Shop.com"), 443);
    assert_eq!(json["outcome"]["action"], "forward");
    assert_eq!(json["request"]["server_name"], "shop.com");
    let chain = &json["filter_chain"];
    assert_eq!((&chain["name"], &chain["tls_mode"]), (&"https.443.shop".into(), &"MUTUAL".into()));
    assert_eq!(chain["configured_at"][0]["origin"], "gw.yaml:5:3");
    let tls = &chain["tls"];
    assert_eq!(tls["certificates"][0]["names"][0], "kubernetes://default/shop");
    assert_eq!(tls["certificates"][0]["configured_at"]["origin"], "gw.yaml:7:7");
    assert_eq!(tls["client_authorities"]["names"][0], "kubernetes://default/shop-cacert");
    assert_eq!((&tls["min_version"], &tls["max_version"]), (&"TLSv1.2".into(), &"TLSv1.3".into()));
    assert_eq!(tls["client_conditions"][0], "one of the names spiffe://td/ns/default/sa/client");
}

#[test]
fn a_handshake_without_its_secrets_is_refused() {
    let standing = |names: &[String], there: &[&str]| {
        let served_as = names.iter().find(|name| there.iter().any(|there| name.ends_with(there))).cloned();
        let remarks = if served_as.is_none() { vec!["no source has it".to_owned()] } else { Vec::new() };
        let state = if served_as.is_some() { SecretState::Serves } else { SecretState::Missing };
        Some(SecretStanding { state, served_as, remarks })
    };
    let check = |there: &[&str], details: Option<&str>| {
        let mut explanation = explanation("https", "shop.com", Some("shop.com"), 443);
        explanation.hold_against_secrets(|names| standing(names, there));
        let json = serde_json::to_value(&explanation).unwrap();
        assert_eq!(json["outcome"]["details"].as_str(), details, "{json}");
        assert_eq!(json["virtual_host"].is_null(), details.is_some());
        json
    };
    let served = check(&["/shop", "/shop-cacert"], None);
    assert_eq!(served["outcome"]["action"], "forward");
    let certificate = &served["filter_chain"]["tls"]["certificates"][0];
    assert_eq!(certificate["standing"]["served_as"], "kubernetes://default/shop");
    let refused = check(&["/shop-cacert"], Some("no_certificate"));
    assert_eq!(
        refused["outcome"]["reason"],
        "the handshake fails until kubernetes://default/shop arrives: no source has it"
    );
    check(&["/shop"], Some("no_authorities"));
    // What is not known changes nothing.
    let mut unknown = explanation("https", "shop.com", Some("shop.com"), 443);
    unknown.hold_against_secrets(|_| None);
    assert_eq!(serde_json::to_value(&unknown).unwrap()["outcome"]["action"], "forward");
}

#[test]
fn a_request_on_the_connection_of_another_server_gets_421() {
    let json = explain_connection("https", "shop.com", Some("a.open.com"), 443);
    let outcome = &json["outcome"];
    assert_eq!((&outcome["status"], &outcome["flags"]), (&421.into(), &"-".into()));
    assert_eq!(outcome["details"], "misdirected_request");
    assert!(outcome["reason"].as_str().unwrap().contains("https.443.shop"), "{outcome}");
    assert_eq!(json["hints"].as_array().unwrap().len(), 1);
    let other = explain_connection("https", "nobody.org", Some("a.open.com"), 443);
    assert_eq!(other["outcome"]["status"], 421);
    assert_eq!(explain_connection("https", "b.open.com:443", Some("a.open.com"), 443)["outcome"]["action"], "forward");
}

#[test]
fn connections_that_no_server_takes_are_refused() {
    let check = |scheme: &str, server_name: Option<&str>, port: u16, details: &str, hint: &str| {
        let json = explain_connection(scheme, "x", server_name, port);
        assert_eq!((&json["outcome"]["status"], &json["outcome"]["details"]), (&0.into(), &details.into()), "{json}");
        assert!(json["hints"].to_string().contains(hint), "{}", json["hints"]);
    };
    check("https", Some("shpo.com"), 443, "filter_chain_not_found", "`shop.com`");
    check("tls", Some("other.db.com"), 443, "filter_chain_not_found", "`sniHosts`");
    check("tls", None, 443, "filter_chain_not_found", "IP address");
    check("http", None, 443, "tls_error", "https://");
    check("https", None, 80, "tls_error", "http://");
    check("tls", Some("shop.com"), 80, "tls_error", "http://");
    check("https", Some("shut.com"), 443, "server_not_served", "validate");
    check("tcp", None, 31400, "no_route", "`tcp`");
}

#[test]
fn bytes_are_followed_to_their_clusters() {
    let json = explain_connection("tls", "db.com", Some("db.com"), 443);
    assert_eq!(json["filter_chain"]["tls_mode"], "PASSTHROUGH");
    let outcome = &json["outcome"];
    assert_eq!((&outcome["action"], &outcome["idleTimeoutMs"]), (&"proxy".into(), &3_600_000.into()));
    assert_eq!(outcome["clusters"][0]["endpoints"][0]["address"], "10.0.0.1:80");
    assert_eq!(outcome["clusters"][0]["percent"], 100.0);
    // A request on it is bytes too; and a connection to a server that routes requests is as far as it goes.
    assert_eq!(explain_connection("https", "db.com", Some("db.com"), 443)["outcome"]["action"], "proxy");
    assert_eq!(explain_connection("tls", "shop.com", Some("shop.com"), 443)["outcome"]["action"], "accepted");
}
