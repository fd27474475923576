//! What `explain` says is what serving does, and a Snapshot's hash depends on what it serves alone.
#![expect(clippy::unwrap_used, reason = "helpers of tests, outside of test functions")]

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use tidegate_core::{Host, Kind, Origin, ResourceKey};
use tidegate_snapshot::{
    Cluster, ClusterIndex, ClusterRef, DestinationService, DirectResponse, Discovery, Endpoint, EndpointAddress,
    ExplainRequest, Explanation, FilterChain, Forward, HeaderOperations, Health, Listener, ListenerProtocol,
    LoadBalancing, Locality, MeshSettings, NetworkFilter, PathMatch, Route, RouteAction, RouteMatch, RouteTable,
    Snapshot, Source, UpstreamProtocol, VirtualHost, WeightedCluster, Workload,
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
