//! What holds for every configuration: order does not matter, a bad object is its own problem alone, nothing panics,
//! and size costs no more than it must.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use tidegate_core::{Host, Kind, ResourceKey};
use tidegate_resources::{HttpRouteDestination, Object, ParseOptions, ResourceSet, Spec, StringMatch, parse};
use tidegate_snapshot::{ListenerProtocol, NetworkFilter, RouteAction, Snapshot};

use super::{GATEWAY, SERVICES, compiled, resources, to, virtual_service};
use crate::{CompileOptions, compile};

/// About sixty objects of every kind that bind to each other in many ways.
pub(super) fn large() -> ResourceSet {
    let mut documents = vec![GATEWAY.to_owned(), SERVICES.to_owned()];
    for at in 0..4 {
        documents.push(
            GATEWAY
                .replace("name: gw,", &format!("name: gw-{at},"))
                .replace("number: 80", &format!("number: {}", 80 + at))
                .replace("['*']", &format!("['*.zone{at}.com', 'default/*.shared.com']")),
        );
    }
    for at in 0..12 {
        documents.push(format!(
            "
apiVersion: v1
kind: Service
metadata: {{name: s{at}}}
spec: {{selector: {{app: s{at}}}, ports: [{{name: http, port: 80}}{}]}}
---
apiVersion: v1
kind: Pod
metadata: {{name: s{at}-v1, labels: {{app: s{at}, version: v1}}}}
spec: {{containers: [{{name: c}}]}}
status: {{podIP: 10.0.1.{at}}}
",
            if at % 3 == 0 { ", {name: grpc, port: 81}" } else { "" }
        ));
        let rules = format!(
            "{{match: [{{uri: {{prefix: /{at}}}}}, {{headers: {{k: {{exact: '{at}'}}}}}}], route: [
               {{destination: {{host: s{at}, subset: v1}}, weight: 1}}, {{destination: {{host: s{}}}, weight: 2}}]}},
             {{match: [{{uri: {{exact: /ext}}}}], {}}},
             {{match: [{{uri: {{prefix: /r}}}}], redirect: {{uri: /}}}},
             {{{}}}",
            (at + 1) % 12,
            to("ext.com"),
            to(&format!("s{at}"))
        );
        let hosts = format!("h{at}.zone{}.com, common.shared.com, h{at}.net", at % 4);
        documents.push(
            virtual_service(&format!("v{at}"), &format!("hosts: [{hosts}], http: [{rules}]"))
                .replace("[istio-system/gw]", &format!("[istio-system/gw, istio-system/gw-{}]", at % 4)),
        );
        documents.push(format!(
            "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: d{at}}}
spec: {{host: s{at}, trafficPolicy: {{loadBalancer: {{simple: RANDOM}}}}, subsets: [{{name: v1, labels: {{version: v1}}}}]}}
"
        ));
    }
    for at in 0..2 {
        let servers = [
            super::tls::https(
                &format!("https-{at}"),
                &format!("h{at}.zone{at}.com"),
                "mode: SIMPLE, credentialName: c",
            ),
            super::tls::https(
                &format!("m-{at}"),
                &format!("'*.mutual{at}.com'"),
                "mode: MUTUAL, credentialName: other/c",
            ),
            format!(
                "{{port: {{number: 443, name: pass-{at}, protocol: TLS}}, hosts: ['*.pass{at}.com'], tls: {{mode: PASSTHROUGH}}}}"
            ),
            format!("{{port: {{number: {}, name: tcp, protocol: TCP}}, hosts: ['*']}}", 9000 + at),
        ];
        documents.push(super::tls::gateway("istio-system", &format!("tls-{at}"), &servers.join(", ")));
        let rules = format!(
            "hosts: [h{at}.zone{at}.com, x.mutual{at}.com, y.pass{at}.com], http: [{{{}}}], tls: [{{match: [{{sniHosts: [y.pass{at}.com]}}], {}}}], tcp: [{{{}}}]",
            to("a"),
            to("b"),
            to("ext.com")
        );
        let service = virtual_service(&format!("t{at}"), &rules);
        documents.push(service.replace("istio-system/gw", &format!("istio-system/tls-{at}")));
    }
    for (name, namespace) in [("e1", "default"), ("e2", "default"), ("e3", "other")] {
        documents.push(format!(
            "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {name}, namespace: {namespace}}}
spec: {{hosts: [ext.com], ports: [{{number: 80, name: http, protocol: HTTP}}], resolution: STATIC, endpoints: [{{address: 10.9.0.1}}]}}
"
        ));
    }
    let documents: Vec<_> = documents.iter().map(String::as_str).collect();
    resources(&documents)
}

#[test]
fn the_order_in_which_objects_come_does_not_matter() {
    let set = large();
    let expected = compile(&set, &CompileOptions::default());
    let mut objects: Vec<_> = set.iter().cloned().collect();
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..120 {
        random.shuffle(&mut objects);
        let shuffled: ResourceSet = objects.iter().cloned().collect();
        let compilation = compile(&shuffled, &CompileOptions::default());
        assert_eq!(compilation.snapshot.hash(), expected.snapshot.hash());
        assert_eq!(compilation.diagnostics, expected.diagnostics);
    }
}

/// Each filter chain of a TLS or TCP listener, without its virtual hosts, and each virtual host: with its bytes and with
/// every object that it derives from.
fn parts(snapshot: &Snapshot) -> BTreeMap<String, (String, BTreeSet<ResourceKey>)> {
    let mut all = virtual_hosts(snapshot);
    for listener in snapshot.listeners().iter().filter(|listener| listener.protocol != ListenerProtocol::Http) {
        for chain in listener.filter_chains() {
            let names: Vec<_> = chain.server_names.iter().map(Host::as_str).collect();
            let mut bytes = format!("{names:?} {}", serde_json::to_string(&chain.tls.as_deref()).unwrap());
            let mut keys: BTreeSet<_> = chain.sources.iter().map(|(key, _)| key.clone()).collect();
            if let NetworkFilter::Tcp(proxy) = &chain.filter {
                // Not the place of a cluster, which others move, but its name.
                for to in proxy.clusters() {
                    bytes.push_str(&format!(" {}@{}", to.cluster.name(), to.weight));
                    let cluster = to.cluster.index().and_then(|index| snapshot.cluster(index));
                    keys.extend(cluster.into_iter().flat_map(|it| it.sources.iter().map(|(key, _)| key.clone())));
                }
            }
            let name = format!("{} {}", listener.name, chain.name);
            assert!(all.insert(name, (bytes, keys)).is_none(), "a filter chain stands twice");
        }
    }
    all
}

/// Each virtual host with its bytes and with every object that it derives from.
fn virtual_hosts(snapshot: &Snapshot) -> BTreeMap<String, (String, BTreeSet<ResourceKey>)> {
    let mut all = BTreeMap::new();
    for table in snapshot.listeners().iter().flat_map(|l| l.filter_chains()).filter_map(|chain| chain.route_table()) {
        for host in table.virtual_hosts() {
            let mut keys: BTreeSet<_> = host.sources.iter().map(|(key, _)| key.clone()).collect();
            for route in host.routes() {
                let RouteAction::Forward(forward) = &route.action else { continue };
                for cluster in forward.clusters().iter().filter_map(|weighted| weighted.cluster.index()) {
                    let cluster = snapshot.cluster(cluster).expect("a route names a cluster of its own Snapshot");
                    keys.extend(cluster.sources.iter().map(|(key, _)| key.clone()));
                }
            }
            let bytes = serde_json::to_string(&**host).unwrap();
            let name = format!("{} {}", table.name, host.name);
            assert!(all.insert(name, (bytes, keys)).is_none(), "a virtual host stands twice");
        }
    }
    all
}

/// Ways to break or change an object.
pub(super) fn mutations(object: &Object) -> Vec<Object> {
    let mut mutated = Vec::new();
    let mut with = |change: &dyn Fn(&mut Spec)| {
        let mut copy = object.clone();
        change(&mut copy.spec);
        mutated.push(copy);
    };
    match &object.spec {
        Spec::VirtualService(_) => {
            let mut change = |edit: fn(&mut tidegate_resources::VirtualService)| {
                with(&|spec| {
                    if let Spec::VirtualService(service) = spec {
                        edit(service);
                    }
                });
            };
            change(|service| service.hosts.clear());
            change(|service| service.hosts = vec!["*".into(), String::new(), "..".into(), "*.*.x".into()]);
            change(|service| service.hosts = vec!["h0.zone0.com".into()]);
            change(|service| service.gateways.clear());
            change(|service| service.gateways = vec!["/".into(), "a/b/c".into(), ".".into(), String::new()]);
            change(|service| service.http.clear());
            change(|service| {
                service.tcp.clear();
                service.tls.clear();
            });
            change(|service| {
                for entry in service.tls.iter_mut().flat_map(|rule| &mut rule.r#match) {
                    entry.sni_hosts = vec!["*".into(), String::new(), "..".into()];
                }
                for route in service.tls.iter_mut().flat_map(|rule| &mut rule.route) {
                    route.destination = None;
                    route.weight = -1;
                }
                service.tcp.iter_mut().for_each(|rule| rule.route.clear());
            });
            change(|service| service.export_to = vec!["~".into()]);
            change(|service| {
                for destination in service.http.iter_mut().flat_map(|rule| &mut rule.route) {
                    destination.weight = -1;
                }
            });
            change(|service| {
                for destination in service.http.iter_mut().flat_map(|rule| &mut rule.route) {
                    *destination = HttpRouteDestination::default();
                }
            });
            change(|service| {
                for destination in service.http.iter_mut().flat_map(|rule| &mut rule.route) {
                    if let Some(destination) = &mut destination.destination {
                        destination.host = "no|where".into();
                    }
                }
            });
            change(|service| {
                for entry in service.http.iter_mut().flat_map(|rule| &mut rule.r#match) {
                    entry.uri = Some(StringMatch::Regex("(".into()));
                    entry.headers.insert("not a name".into(), StringMatch::Unset);
                    entry.port = u32::MAX;
                }
            });
        }
        Spec::Gateway(_) => {
            let mut change = |edit: fn(&mut tidegate_resources::Gateway)| {
                with(&|spec| {
                    if let Spec::Gateway(gateway) = spec {
                        edit(gateway);
                    }
                });
            };
            change(|gateway| gateway.servers.clear());
            change(|gateway| gateway.servers.iter_mut().for_each(|server| server.hosts.clear()));
            change(|gateway| {
                gateway.servers.iter_mut().for_each(|server| server.hosts = vec!["//".into(), "*/".into()])
            });
            change(|gateway| gateway.servers.iter_mut().for_each(|server| server.port = None));
            change(|gateway| {
                gateway.servers.iter_mut().flat_map(|s| &mut s.port).for_each(|port| port.number = 70_000)
            });
            change(|gateway| gateway.servers.iter_mut().for_each(|server| server.bind = "nowhere".into()));
            change(|gateway| gateway.servers.iter_mut().for_each(|server| server.tls = None));
            change(|gateway| {
                for tls in gateway.servers.iter_mut().flat_map(|server| &mut server.tls) {
                    tls.credential_name = "://".into();
                    tls.min_protocol_version = tidegate_resources::TlsProtocol::V1_3;
                    tls.max_protocol_version = tidegate_resources::TlsProtocol::V1_0;
                    tls.verify_certificate_hash = vec!["\u{e9}".repeat(32), ":".repeat(95)];
                    tls.cipher_suites = vec!["-".into(), String::new(), "!ALL".into()];
                }
            });
            change(|gateway| {
                for tls in gateway.servers.iter_mut().flat_map(|server| &mut server.tls) {
                    tls.mode = tidegate_resources::ServerTlsMode::IstioMutual;
                }
            });
            change(|gateway| {
                gateway.servers.iter_mut().flat_map(|s| &mut s.port).for_each(|port| port.protocol = "UDP".into())
            });
            change(|gateway| gateway.selector.insert("x".into(), "y".into()).map_or((), drop));
        }
        Spec::DestinationRule(_) => {
            let mut change = |edit: fn(&mut tidegate_resources::DestinationRule)| {
                with(&|spec| {
                    if let Spec::DestinationRule(rule) = spec {
                        edit(rule);
                    }
                });
            };
            change(|rule| rule.host.clear());
            change(|rule| rule.subsets.clear());
            change(|rule| rule.host = "*".into());
            change(|rule| rule.traffic_policy = None);
            change(|rule| {
                if let Some(policy) = &mut rule.traffic_policy {
                    policy.tls = Some(tidegate_resources::ClientTlsSettings {
                        mode: tidegate_resources::ClientTlsMode::Mutual,
                        credential_name: "a/b/c".into(),
                        ..Default::default()
                    });
                }
            });
        }
        Spec::ServiceEntry(_) => {
            let mut change = |edit: fn(&mut tidegate_resources::ServiceEntry)| {
                with(&|spec| {
                    if let Spec::ServiceEntry(entry) = spec {
                        edit(entry);
                    }
                });
            };
            change(|entry| entry.hosts.clear());
            change(|entry| entry.ports.clear());
            change(|entry| entry.ports.iter_mut().for_each(|port| port.number = 0));
            change(|entry| entry.endpoints.iter_mut().for_each(|endpoint| endpoint.address = "not an address".into()));
            change(|entry| entry.hosts = vec!["s0.default.svc.cluster.local".into(), "*".into()]);
        }
        Spec::Service(_) => {
            let mut change = |edit: fn(&mut tidegate_resources::Service)| {
                with(&|spec| {
                    if let Spec::Service(service) = spec {
                        edit(service);
                    }
                });
            };
            change(|service| service.ports.clear());
            change(|service| service.selector.clear());
            change(|service| service.ports.iter_mut().for_each(|port| port.port = -1));
        }
        Spec::EndpointSlice(_) => with(&|spec| {
            if let Spec::EndpointSlice(slice) = spec {
                slice.endpoints.iter_mut().for_each(|endpoint| endpoint.addresses = vec!["?".into()]);
            }
        }),
        _ => {}
    }
    mutated
}

#[test]
fn a_bad_object_changes_no_virtual_host_and_no_chain_but_its_own() {
    let set = large();
    assert!(set.len() >= 50, "{}", set.len());
    let options = CompileOptions::default();
    let before = parts(&compile(&set, &options).snapshot);
    assert!(before.len() > 40, "{}", before.len());
    let mut unaffected = 0;
    for object in set.iter() {
        let variants = std::iter::once(None).chain(mutations(object).into_iter().map(Some));
        for (number, variant) in variants.enumerate() {
            let mut changed = set.clone();
            changed.remove(&object.key);
            if let Some(variant) = variant {
                changed.insert(variant);
            }
            let after = parts(&compile(&changed, &options).snapshot);
            for (name, (bytes, keys)) in &before {
                let derived_after = after.get(name).is_some_and(|(_, keys)| keys.contains(&object.key));
                if keys.contains(&object.key) || derived_after {
                    continue;
                }
                unaffected += 1;
                let now = after.get(name).map(|(bytes, _)| bytes);
                assert_eq!(now, Some(bytes), "{} variant {number} changed {name}", object.key);
            }
        }
    }
    assert!(unaffected > 3000, "{unaffected}");
}

/// Whatever hosts a server and VirtualServices have, the virtual hosts are what the rules say when each is compared
/// with each.
#[test]
fn binding_by_index_is_binding_by_comparison() {
    let pool = [
        "*",
        "*.com",
        "*.foo.com",
        "a.foo.com",
        "b.foo.com",
        "*.a.foo.com",
        "x.a.foo.com",
        "foo.com",
        "b.org",
        "*.org",
    ];
    let mut random = fastrand::Rng::with_seed(11);
    for _ in 0..60 {
        let pick = |random: &mut fastrand::Rng| -> Vec<&str> {
            let count = random.usize(1..4);
            random.choose_multiple(pool, count)
        };
        let quoted = |hosts: &[&str]| hosts.iter().map(|host| format!("'{host}'")).collect::<Vec<_>>().join(", ");
        let server = pick(&mut random);
        let gateway = GATEWAY.replace("['*']", &format!("[{}]", quoted(&server)));
        let mut documents = vec![gateway, SERVICES.to_owned()];
        let mut expected: BTreeMap<Host, Vec<String>> = BTreeMap::new();
        for number in 0..4 {
            let hosts = pick(&mut random);
            let name = format!("v{number}");
            documents.push(virtual_service(&name, &format!("hosts: [{}], http: [{{{}}}]", quoted(&hosts), to("a"))));
            for a in &server {
                for b in &hosts {
                    let Some(both) = Host::parse(a).unwrap().intersection(&Host::parse(b).unwrap()) else { continue };
                    let names = expected.entry(both).or_default();
                    if !names.contains(&name) {
                        names.push(name.clone());
                    }
                }
            }
        }
        let documents: Vec<_> = documents.iter().map(String::as_str).collect();
        let compilation = compiled(&documents);
        let table = compilation.snapshot.listeners()[0].filter_chains()[0].route_table().unwrap();
        let mut found = BTreeMap::new();
        for host in table.virtual_hosts().iter().filter(|host| !host.name.starts_with("blackhole")) {
            let names: Vec<_> = host.routes().iter().map(|route| route.source.key.name.to_string()).collect();
            found.insert(host.domains[0].clone(), names);
        }
        assert_eq!(found, expected, "{server:?}");
    }
}

fn shared() -> PathBuf {
    match std::env::var_os("TIDEGATE_SHARED") {
        Some(path) => path.into(),
        None => PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared")),
    }
}

fn yaml_files(folder: &std::path::Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            yaml_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "yaml" || extension == "json") {
            found.push(path);
        }
    }
}

fn check_invariants(set: &ResourceSet, what: &str) {
    let compilation = compile(set, &CompileOptions::default());
    let snapshot = &compilation.snapshot;
    let names: BTreeSet<_> = snapshot.listeners().iter().map(|listener| &listener.name).collect();
    assert_eq!(names.len(), snapshot.listeners().len(), "{what}: a listener stands twice");
    assert!(snapshot.clusters().is_sorted_by(|a, b| a.name < b.name), "{what}");
    parts(snapshot);
    for listener in snapshot.listeners().iter().filter(|listener| listener.protocol == ListenerProtocol::Tls) {
        // Without a server name a chain would take everything.
        assert!(listener.filter_chains().iter().all(|chain| !chain.server_names.is_empty()), "{what}");
    }
    for diagnostic in &*compilation.diagnostics {
        assert!(diagnostic.origin.position.line > 0, "{what}: {diagnostic}");
    }
    let again = compile(set, &CompileOptions::default());
    assert_eq!(again.snapshot.hash(), snapshot.hash(), "{what}");
}

#[test]
fn every_sample_and_corpus_file_compiles() {
    let mut files = Vec::new();
    for folder in ["samples", "corpus"] {
        yaml_files(&shared().join(folder), &mut files);
    }
    if files.is_empty() {
        println!("{} holds no samples; our own resources are compiled instead", shared().display());
        check_invariants(&large(), "our own");
        return;
    }
    let mut all = ResourceSet::new();
    for file in &files {
        let Ok(text) = std::fs::read_to_string(file) else { continue };
        let name = file.display().to_string();
        let objects: Vec<_> = parse(&name, &text, &ParseOptions::default()).objects.into_iter().map(Arc::new).collect();
        let set: ResourceSet = objects.iter().cloned().collect();
        check_invariants(&set, &name);
        for object in objects {
            all.insert(object);
        }
    }
    check_invariants(&all, "all files at once");
}

#[test]
fn a_gateway_of_the_samples_listens_with_tls_tcp_and_http() {
    let file = shared().join("samples/seeds/istio-in-action-gateway.yaml");
    let Ok(text) = std::fs::read_to_string(&file) else {
        println!("{} is not there; tests with our own resources cover the same", file.display());
        return;
    };
    let parsed = parse("gateway.yaml", &text, &ParseOptions::default());
    let set: ResourceSet = parsed.objects.into_iter().collect();
    let options = CompileOptions::default();
    let compilation = compile(&set, &options);
    let chains = |port| super::tls::chains(&compilation, port);
    assert_eq!(
        chains(443),
        [
            "https.443.https-webapp.coolstore-gateway.formation [webapp.formation.io]",
            "https.443.https-catalog.coolstore-gateway.formation [catalog.istioinaction.io]",
        ]
    );
    assert_eq!(chains(31400), ["0.0.0.0_31400 []"]);
    assert_eq!(chains(80), ["0.0.0.0_80 []"]);
    let url = "https://webapp.formation.io/";
    assert!(super::tls::explain_url(&compilation, url, None).contains("8080||webapp"));
    let url = "https://catalog.istioinaction.io/";
    assert_eq!(super::tls::explain_url(&compilation, url, Some("webapp.formation.io")), "421 -");
}

/// `count` VirtualServices with a Service and an endpoint each.
pub(super) fn many(count: usize) -> ResourceSet {
    let service = virtual_service(
        "v",
        &format!("hosts: [a.com], http: [{{match: [{{uri: {{prefix: /x}}}}], {}}}, {{{}}}]", to("a"), to("a")),
    );
    let template = resources(&[GATEWAY, &service, SERVICES]);
    let mut set: ResourceSet = template.iter_kind(Kind::Gateway).cloned().collect();
    let pick = |kind: Kind, name: &str| template.get(&ResourceKey::local(kind, "default", name)).unwrap();
    for number in 0..count {
        let name = format!("app-{number}");
        let key = |kind: Kind| ResourceKey::local(kind, "default", &name);
        let mut service = Object::clone(pick(Kind::VirtualService, "v"));
        service.key = key(Kind::VirtualService);
        if let Spec::VirtualService(spec) = &mut service.spec {
            spec.hosts = vec![format!("{name}.example.com")];
            for destination in spec.http.iter_mut().flat_map(|rule| &mut rule.route).flat_map(|r| &mut r.destination) {
                destination.host.clone_from(&name);
            }
        }
        let mut backend = Object::clone(pick(Kind::Service, "a"));
        backend.key = key(Kind::Service);
        let mut slice = Object::clone(pick(Kind::EndpointSlice, "a"));
        slice.key = key(Kind::EndpointSlice);
        slice.metadata.labels.insert("kubernetes.io/service-name".into(), name.clone());
        set.insert(service);
        set.insert(backend);
        set.insert(slice);
    }
    set
}

#[test]
fn ten_thousand_virtual_services_compile() {
    let set = many(10_000);
    let start = Instant::now();
    let compilation = compile(&set, &CompileOptions::default());
    println!("10,000 VirtualServices compiled in {:?}", start.elapsed());
    let snapshot = &compilation.snapshot;
    assert_eq!(snapshot.clusters().len(), 10_000);
    assert_eq!(snapshot.listeners()[0].filter_chains()[0].route_table().unwrap().virtual_hosts().len(), 10_000);
    assert!(compilation.diagnostics.is_empty(), "{:?}", compilation.diagnostics.first());
}

/// `count` HTTPS servers with a VirtualService and a backend each: in one Gateway, or in one each.
pub(super) fn many_servers(count: usize, one_gateway: bool) -> ResourceSet {
    let mut set = many(count);
    let key = ResourceKey::local(Kind::Gateway, "istio-system", "gw");
    let template = resources(&[&super::tls::gateway(
        "istio-system",
        "gw",
        &super::tls::https("https", "a.com", "mode: SIMPLE, credentialName: a"),
    )]);
    let mut gateway = Object::clone(template.get(&key).unwrap());
    let Spec::Gateway(spec) = &gateway.spec else { panic!() };
    let server = spec.servers[0].clone();
    let of = |number: usize| {
        let mut server = server.clone();
        server.hosts = vec![format!("app-{number}.example.com")];
        server.port.as_mut().unwrap().name = format!("https-{number}");
        server.tls.as_mut().unwrap().credential_name = format!("app-{number}");
        server
    };
    set.remove(&key);
    if one_gateway {
        let Spec::Gateway(spec) = &mut gateway.spec else { panic!() };
        spec.servers = (0..count).map(of).collect();
        set.insert(gateway);
        return set;
    }
    let services: Vec<_> = set.iter_kind(Kind::VirtualService).cloned().collect();
    for (number, service) in services.iter().enumerate() {
        let name = &service.key.name;
        let mut own = gateway.clone();
        own.key = ResourceKey::local(Kind::Gateway, "istio-system", name);
        let Spec::Gateway(spec) = &mut own.spec else { panic!() };
        spec.servers = vec![of(number)];
        spec.servers[0].hosts = vec![format!("{name}.example.com")];
        set.insert(own);
        let mut service = Object::clone(service);
        let Spec::VirtualService(spec) = &mut service.spec else { panic!() };
        spec.gateways = vec![format!("istio-system/{name}")];
        set.insert(service);
    }
    set
}

#[test]
fn ten_thousand_https_servers_compile() {
    for one_gateway in [true, false] {
        let set = many_servers(10_000, one_gateway);
        let start = Instant::now();
        let compilation = compile(&set, &CompileOptions::default());
        println!("10,000 HTTPS servers (one Gateway: {one_gateway}) compiled in {:?}", start.elapsed());
        let listener = &compilation.snapshot.listeners()[0];
        assert_eq!((listener.port, listener.filter_chains().len()), (443, 10_000));
        let chain = listener.select_filter_chain(Some("app-77.example.com")).unwrap();
        assert_eq!(chain.route_table().unwrap().virtual_hosts()[0].name, "app-77.example.com:443");
        assert!(compilation.diagnostics.is_empty(), "{:?}", compilation.diagnostics.first());
    }
}

/// Ten thousand server names that are passed through, by as many rules, on as many servers.
#[test]
fn ten_thousand_server_names_compile() {
    let mut set = many_servers(10_000, true);
    let key = ResourceKey::local(Kind::Gateway, "istio-system", "gw");
    let mut gateway = Object::clone(set.get(&key).unwrap());
    if let Spec::Gateway(spec) = &mut gateway.spec {
        for server in &mut spec.servers {
            server.tls.as_mut().unwrap().mode = tidegate_resources::ServerTlsMode::Passthrough;
        }
    }
    set.insert(gateway);
    let services: Vec<_> = set.iter_kind(Kind::VirtualService).cloned().collect();
    for service in services {
        let mut service = Object::clone(&service);
        if let Spec::VirtualService(spec) = &mut service.spec {
            let destination = spec.http[0].route[0].destination.clone();
            spec.http.clear();
            spec.tls = vec![tidegate_resources::TlsRoute {
                r#match: vec![tidegate_resources::TlsMatchAttributes {
                    sni_hosts: spec.hosts.clone(),
                    ..Default::default()
                }],
                route: vec![tidegate_resources::RouteDestination { destination, weight: 0 }],
            }];
        }
        set.insert(service);
    }
    let start = Instant::now();
    let compilation = compile(&set, &CompileOptions::default());
    println!("10,000 server names compiled in {:?}", start.elapsed());
    assert_eq!(compilation.snapshot.listeners()[0].filter_chains().len(), 10_000);
    assert!(compilation.diagnostics.is_empty(), "{:?}", compilation.diagnostics.first());
}

/// Shapes that would take hours if anything compared each with each.
#[test]
fn lopsided_configurations_compile_too() {
    let start = Instant::now();
    // Ten thousand hosts in one server, each with a VirtualService of its own.
    let mut set = many(10_000);
    let key = ResourceKey::local(Kind::Gateway, "istio-system", "gw");
    let mut gateway = Object::clone(set.get(&key).unwrap());
    if let Spec::Gateway(spec) = &mut gateway.spec {
        let one = spec.servers[0].clone();
        let host = |number: usize| format!("app-{number}.example.com");
        spec.servers[0].hosts = (0..5000).map(host).collect();
        spec.servers.extend(
            (5000..10_000).map(|number| tidegate_resources::Server { hosts: vec![host(number)], ..one.clone() }),
        );
    }
    set.insert(gateway);
    let compilation = compile(&set, &CompileOptions::default());
    assert_eq!(
        compilation.snapshot.listeners()[0].filter_chains()[0].route_table().unwrap().virtual_hosts().len(),
        10_000
    );
    println!("10,000 server hosts: {:?}", start.elapsed());

    // Five thousand VirtualServices on one host.
    let start = Instant::now();
    let mut set = many(5000);
    let services: Vec<_> = set.iter_kind(Kind::VirtualService).cloned().collect();
    for service in services {
        let mut service = Object::clone(&service);
        if let Spec::VirtualService(spec) = &mut service.spec {
            spec.hosts = vec!["one.example.com".into()];
        }
        set.insert(service);
    }
    let compilation = compile(&set, &CompileOptions::default());
    let hosts = compilation.snapshot.listeners()[0].filter_chains()[0].route_table().unwrap().virtual_hosts();
    assert_eq!((hosts.len(), hosts[0].routes().len()), (1, 10_000));
    println!("5,000 VirtualServices on one host: {:?}", start.elapsed());
}
