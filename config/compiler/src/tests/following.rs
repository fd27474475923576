//! A compiler that follows edits gives what one gives that sees the result for the first time, and does less for it.

use std::fmt::Write as _;
use std::sync::Arc;

use tidegate_core::{Kind, Position, ResourceKey};
use tidegate_resources::{Object, ResourceSet, Spec, VirtualService};
use tidegate_snapshot::{ClusterRef, NetworkFilter, RouteAction, Snapshot};

use super::properties::{large, many, many_servers, mutations};
use super::{resources, to, virtual_service};
use crate::{Compilation, CompileOptions, Compiler, Work, compile};

/// Everything that a hash leaves out: the order of things, places, how routes call clusters, what indexes find.
fn shown(snapshot: &Snapshot) -> String {
    let mut all = format!("{} {:?}\n", snapshot.hash(), snapshot.mesh());
    let cluster = |reference: &ClusterRef| match reference.index() {
        Some(index) => format!("{} {:?}", reference.name(), snapshot.cluster(index).map(|cluster| &cluster.name)),
        None => format!("{} missing", reference.name()),
    };
    for cluster in snapshot.clusters() {
        writeln!(all, "{} {} {:?}", cluster.name, serde_json::to_string(&**cluster).unwrap(), cluster.sources).unwrap();
    }
    for listener in snapshot.listeners() {
        writeln!(all, "{} {:?} {:?}", listener.name, listener.protocol, listener.sources).unwrap();
        for chain in listener.filter_chains() {
            let first = chain.server_names.first().map(|host| host.as_str());
            let found = listener.select_filter_chain(first).map(|chain| &chain.name);
            writeln!(all, " {} {:?} {:?} {found:?}", chain.name, chain.server_names, chain.sources).unwrap();
            match &chain.filter {
                NetworkFilter::Tcp(proxy) => {
                    let to: Vec<_> = proxy.clusters().iter().map(|to| (cluster(&to.cluster), to.weight)).collect();
                    writeln!(all, "  {to:?} {:?} {:?}", proxy.idle_timeout, proxy.source).unwrap();
                }
                NetworkFilter::Http(table) => {
                    for host in table.virtual_hosts() {
                        let found = table.select_virtual_host(host.domains[0].as_str()).map(|host| &host.name);
                        writeln!(all, "  {} {:?} {found:?}", host.name, host.sources).unwrap();
                        for route in host.routes() {
                            writeln!(all, "   {}", serde_json::to_string(route).unwrap()).unwrap();
                            writeln!(all, "   {}", route.source.origin).unwrap();
                            if let RouteAction::Forward(forward) = &route.action {
                                forward.clusters().iter().for_each(|to| {
                                    writeln!(all, "    {}", cluster(&to.cluster)).unwrap();
                                });
                            }
                        }
                    }
                }
            }
        }
    }
    all
}

#[track_caller]
fn check(followed: &Compilation, set: &ResourceSet, what: &str) {
    let whole = compile(set, &CompileOptions::default());
    let (a, b) = (shown(&followed.snapshot), shown(&whole.snapshot));
    if a != b {
        let differs = a.lines().zip(b.lines()).find(|(a, b)| a != b);
        panic!("{what}: {:?}: followed and whole differ: {differs:#?}", followed.work);
    }
    assert_eq!(followed.diagnostics, whole.diagnostics, "{what}: {:?}", followed.work);
}

/// Objects of kinds that the large set has not, and forms that concern many others.
fn others() -> Vec<Arc<Object>> {
    let text = format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: alias}}
spec: {{type: ExternalName, externalName: a.default.svc.cluster.local, ports: [{{name: http, port: 80}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: s3}}
spec: {{type: ExternalName, externalName: s4.default.svc.cluster.local, ports: [{{name: http, port: 80}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: s1-x, labels: {{kubernetes.io/service-name: s1}}}}
addressType: IPv4
endpoints: [{{addresses: [10.7.0.1]}}, {{addresses: [10.0.1.1]}}]
ports: [{{name: http, port: 8080}}]
---
apiVersion: v1
kind: Endpoints
metadata: {{name: s2}}
subsets: [{{addresses: [{{ip: 10.8.0.1}}], ports: [{{name: http, port: 80}}]}}]
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: w1, labels: {{app: s5}}}}
spec: {{address: 10.6.0.1, labels: {{app: s5, version: v1}}}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: wide}}
spec: {{host: '*.default.svc.cluster.local', trafficPolicy: {{loadBalancer: {{simple: ROUND_ROBIN}}}}}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: d1-too, namespace: istio-system}}
spec: {{host: s1.default.svc.cluster.local, subsets: [{{name: v1, labels: {{version: v2}}}}]}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: nobody}}
spec: {{host: late.com, trafficPolicy: {{connectionPool: {{tcp: {{idleTimeout: 5s}}}}}}}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: d-ext}}
spec: {{host: ext.com, trafficPolicy: {{connectionPool: {{tcp: {{idleTimeout: 7s}}}}}}}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: late}}
spec: {{hosts: [late.com, ext.com], ports: [{{number: 80, name: http, protocol: HTTP}}], resolution: DNS}}
---
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {{name: g, namespace: other}}
spec: {{from: [{{group: networking.istio.io, kind: Gateway, namespace: istio-system}}], to: [{{group: '', kind: Secret}}]}}
---
apiVersion: v1
kind: Secret
metadata: {{name: c, namespace: istio-system}}
type: kubernetes.io/tls
stringData: {{tls.crt: 'x', tls.key: 'z'}}
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: istio, namespace: istio-system}}
data: {{mesh: \"connectTimeout: 3s\"}}
---
{}---
{}---
{}---
{}---
{}",
        virtual_service("x-late", &format!("hosts: [late.net, h1.net], http: [{{{}}}]", to("late.com"))),
        virtual_service("x-alias", &format!("hosts: [alias.net], http: [{{{}}}]", to("alias"))),
        virtual_service("x-wild", &format!("hosts: ['*.zone1.com', '*.net'], http: [{{match: [{{uri: {{regex: '/[a-z]+'}}}}], {}}}, {{{}}}]", to("b"), to("c")))
            .replace("[istio-system/gw]", "[istio-system/gw, istio-system/gw-1]"),
        virtual_service("a-first", &format!("hosts: [h1.net, common.shared.com], http: [{{match: [{{uri: {{prefix: /}}}}], {}}}]", to("a"))),
        virtual_service("x-lost", &format!("hosts: [nowhere.com], http: [{{{}}}]", to("a"))).replace("istio-system/gw", "istio-system/none"),
    );
    resources(&[&text]).iter().cloned().collect()
}

/// Every form that an object may have.
fn forms() -> Vec<Vec<Arc<Object>>> {
    let mut all: Vec<Vec<Arc<Object>>> = Vec::new();
    for object in large().iter().cloned().chain(others()) {
        let mut forms: Vec<_> = mutations(&object).into_iter().map(Arc::new).collect();
        let mut moved = Object::clone(&object);
        moved.origin = moved.origin.at(Position { line: 77_777, column: 1 });
        let mut older = Object::clone(&object);
        older.metadata.creation_timestamp = Some("2020-01-01T00:00:00Z".into());
        let mut busier = Object::clone(&object);
        match &mut busier.spec {
            Spec::VirtualService(service) => service.hosts.extend(["h2.net".into(), "*.zone2.com".into()]),
            Spec::EndpointSlice(slice) => slice.endpoints.clear(),
            Spec::Service(service) => service.ports.truncate(1),
            Spec::DestinationRule(rule) => rule.subsets.iter_mut().for_each(|subset| subset.name.push('x')),
            Spec::ServiceEntry(entry) => entry.endpoints.iter_mut().for_each(|it| it.address = "10.99.0.1".into()),
            _ => {}
        }
        forms.extend([moved, older, busier].map(Arc::new));
        // What it is most of the time.
        let usual = forms.len();
        forms.extend(std::iter::repeat_n(object, usual.min(4) + 1));
        all.push(forms);
    }
    all
}

#[test]
fn following_random_edits_gives_what_a_whole_compilation_gives() {
    let forms = forms();
    let mut set = large();
    let mut compiler = Compiler::default();
    let options = CompileOptions::default();
    compiler.compile(&set, &options);
    let mut random = fastrand::Rng::with_seed(std::env::var("TIDEGATE_SEED").map_or(5, |seed| seed.parse().unwrap()));
    let (mut followed, steps) = (0, 1000);
    for step in 0..steps {
        let mut what = format!("step {step}");
        for _ in 0..random.usize(1..4) {
            let object = random.choice(&forms).and_then(|forms| random.choice(forms)).unwrap();
            // Gateways and mesh settings have everything compiled anew: less of them, so that the rest is followed.
            if matches!(object.key.kind, Kind::Gateway | Kind::MeshConfig | Kind::ReferenceGrant) && random.u8(..) > 30
            {
                continue;
            }
            if random.u8(..) < 70 {
                set.remove(&object.key);
                write!(what, ", {} removed", object.key).unwrap();
            } else {
                set.insert(object.clone());
                write!(what, ", {} set", object.key).unwrap();
            }
        }
        let compilation = compiler.compile(&set, &options);
        check(&compilation, &set, &what);
        followed += usize::from(!compilation.work.whole);
    }
    println!("{followed} of {steps} followed");
    assert!(followed > steps / 2, "{followed}");
}

fn renewed(object: &Arc<Object>, edit: impl FnOnce(&mut Spec)) -> Object {
    let mut object = Object::clone(object);
    edit(&mut object.spec);
    object
}

fn service_of(set: &ResourceSet, kind: Kind, number: usize) -> Arc<Object> {
    set.get(&ResourceKey::local(kind, "default", &format!("app-{number}"))).unwrap().clone()
}

/// The work of each edit of a set of `count` applications.
fn works(set: ResourceSet) -> Vec<Work> {
    let options = CompileOptions::default();
    let mut compiler = Compiler::default();
    let mut set = set;
    assert!(compiler.compile(&set, &options).work.whole);
    let mut works = Vec::new();
    let mut edit = |set: &ResourceSet| {
        let compilation = compiler.compile(set, &options);
        check(&compilation, set, "an edit");
        works.push(compilation.work);
    };
    // Nothing at all.
    edit(&set);
    // A route.
    let route = |service: &mut VirtualService| service.http.iter_mut().for_each(|rule| rule.name.push('x'));
    set.insert(renewed(&service_of(&set, Kind::VirtualService, 7), |spec| {
        if let Spec::VirtualService(service) = spec {
            route(service);
        }
    }));
    edit(&set);
    // An endpoint.
    set.insert(renewed(&service_of(&set, Kind::EndpointSlice, 8), |spec| {
        if let Spec::EndpointSlice(slice) = spec {
            slice.endpoints[0].addresses = vec!["10.3.3.3".into()];
        }
    }));
    edit(&set);
    // An application comes and goes.
    let parts = [Kind::VirtualService, Kind::Service, Kind::EndpointSlice].map(|kind| service_of(&set, kind, 9));
    set.remove(&parts[0].key);
    edit(&set);
    set.remove(&parts[1].key);
    set.remove(&parts[2].key);
    edit(&set);
    parts.into_iter().for_each(|part| drop(set.insert(part)));
    edit(&set);
    works
}

/// What a change costs does not depend on how much stands beside it.
#[test]
fn the_work_of_a_change_is_that_of_what_changed() {
    let work =
        |virtual_services, virtual_hosts, clusters| Work { virtual_services, virtual_hosts, clusters, whole: false };
    let expected = [work(0, 0, 0), work(1, 1, 0), work(0, 0, 1), work(0, 0, 0), work(0, 0, 0), work(1, 1, 1)];
    for count in [20, 400] {
        assert_eq!(works(many(count)), expected, "{count} on one server");
        for one_gateway in [true, false] {
            assert_eq!(works(many_servers(count, one_gateway)), expected, "{count} servers, {one_gateway}");
        }
    }
}
