//! Where services and their endpoints come from: 5.1, 5.2.

use super::*;

fn service_entry(name: &str, rest: &str) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {name}}}
spec: {{{rest}}}
"
    )
}

fn workload_entry(name: &str, rest: &str) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: {name}}}
spec: {{{rest}}}
"
    )
}

fn pod(name: &str, labels: &str, status: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{{labels}}}}}
spec: {{containers: [{{name: c, ports: [{{name: web, containerPort: 9000}}]}}]}}
status: {{{status}}}
"
    )
}

fn routed_to(host: &str, documents: &[&str]) -> Compilation {
    let service = virtual_service("v", &format!("hosts: [a.com], http: [{{{}}}]", to(host)));
    let mut all = vec![GATEWAY, service.as_str()];
    all.extend(documents);
    compiled(&all)
}

const K8S: &str = "
apiVersion: v1
kind: Service
metadata: {name: s}
spec: {selector: {app: s}, ports: [{name: http, port: 80, targetPort: web}]}
";
const K8S_CLUSTER: &str = "outbound|80||s.default.svc.cluster.local";

#[test]
fn pods_that_the_selector_matches_are_endpoints() {
    let documents = [
        K8S.to_owned(),
        pod("ready", "app: s", "podIP: 10.0.0.1, phase: Running, conditions: [{type: Ready, status: 'True'}]"),
        pod("unready", "app: s", "podIP: 10.0.0.2, conditions: [{type: Ready, status: 'False'}]"),
        pod("by-hand", "app: s, extra: x", "podIPs: [{ip: 10.0.0.3}]"),
        pod("done", "app: s", "podIP: 10.0.0.4, phase: Succeeded"),
        pod("no-address", "app: s", ""),
        pod("other", "app: other", "podIP: 10.0.0.5"),
        pod("elsewhere", "app: s", "podIP: 10.0.0.6").replace("name: elsewhere,", "name: elsewhere, namespace: x,"),
    ];
    let documents: Vec<_> = documents.iter().map(String::as_str).collect();
    let compilation = routed_to("s", &documents);
    assert_eq!(endpoints(&compilation, K8S_CLUSTER), ["10.0.0.1:9000", "-10.0.0.2:9000", "10.0.0.3:9000"]);
    let all = K8S.replace("selector:", "publishNotReadyAddresses: true, selector:");
    let compilation = routed_to("s", &[&all, documents[2]]);
    assert_eq!(endpoints(&compilation, K8S_CLUSTER), ["10.0.0.2:9000"]);
}

#[test]
fn endpoint_slices_go_before_endpoints_and_those_before_pods() {
    let pod = pod("p", "app: s, version: v1", "podIP: 10.0.0.1");
    let listed = "
apiVersion: v1
kind: Endpoints
metadata: {name: s}
subsets: [{addresses: [{ip: 10.0.0.2}], notReadyAddresses: [{ip: 10.0.0.3}], ports: [{name: http, port: 7000}, {name: x, port: 1}]}]
";
    let slice = |name: &str, address: &str| {
        format!(
            "
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}, labels: {{kubernetes.io/service-name: s}}}}
addressType: IPv4
endpoints:
- {{addresses: [{address}]}}
- {{addresses: [10.0.1.1], conditions: {{ready: false}}}}
- {{addresses: [10.0.1.2], conditions: {{ready: false, terminating: true}}}}
ports: [{{name: http, port: 6000}}, {{name: other, port: 1}}]
"
        )
    };
    assert_eq!(endpoints(&routed_to("s", &[K8S, &pod]), K8S_CLUSTER), ["10.0.0.1:9000"]);
    assert_eq!(endpoints(&routed_to("s", &[K8S, &pod, listed]), K8S_CLUSTER), ["10.0.0.2:7000", "-10.0.0.3:7000"]);
    let (first, second) = (slice("s-1", "10.0.0.1"), slice("s-2", "'fd00::1'"));
    let compilation = routed_to("s", &[K8S, &pod, listed, &first, &second]);
    assert_eq!(endpoints(&compilation, K8S_CLUSTER), ["10.0.0.1:6000", "-10.0.1.1:6000", "[fd00::1]:6000"]);
    // What is known of an address is what its Pod says.
    let cluster = &compilation.snapshot.clusters()[0];
    let tidegate_snapshot::Discovery::Static(all) = &cluster.discovery else { panic!() };
    assert_eq!((all[0].workload.app.as_str(), all[0].workload.version.as_str()), ("s", "v1"));
    assert_eq!(all[0].workload.canonical_revision, "v1");
    assert_eq!(all[1].workload.app, "");
}

#[test]
fn service_selectors_match_workload_entries_too() {
    let one = workload_entry("vm", "address: 10.1.0.1, labels: {app: s}, ports: {web: 7777}, weight: 5");
    let two = workload_entry("vm2", "address: 10.1.0.2").replace("name: vm2", "name: vm2, labels: {app: s}");
    let other = workload_entry("vm3", "address: 10.1.0.3, labels: {app: s}")
        .replace("name: vm3", "name: vm3, labels: {app: x}");
    let compilation = routed_to("s", &[K8S, &one, &two, &other]);
    assert_eq!(endpoints(&compilation, K8S_CLUSTER), ["10.1.0.1:7777", "10.1.0.2:80"]);
    let tidegate_snapshot::Discovery::Static(all) = &compilation.snapshot.clusters()[0].discovery else { panic!() };
    assert_eq!((all[0].weight, all[1].weight), (5, 1));
    assert_eq!(all[0].workload.name, "vm");
}

#[test]
fn static_entries_list_or_select_their_endpoints() {
    let ports = "ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8080}]";
    let listed = service_entry(
        "e",
        &format!(
            "hosts: [ext.com], {ports}, resolution: STATIC, endpoints: [{{address: 10.2.0.1}}, {{address: 10.2.0.2, ports: {{http: 99}}, weight: 3, locality: r/z/s}}, {{address: 'unix:///run/x.sock'}}]"
        ),
    );
    let compilation = routed_to("ext.com", &[&listed]);
    assert_eq!(endpoints(&compilation, "outbound|80||ext.com"), ["10.2.0.1:8080", "10.2.0.2:99", "unix:///run/x.sock"]);
    let cluster = &compilation.snapshot.clusters()[0];
    assert_eq!((cluster.service.host.as_str(), cluster.service.name.as_str()), ("ext.com", "ext.com"));
    let tidegate_snapshot::Discovery::Static(all) = &cluster.discovery else { panic!() };
    assert_eq!((all[1].weight, all[1].locality.zone.as_str()), (3, "z"));

    let selecting = service_entry(
        "e",
        &format!(
            "hosts: [ext.com], {ports}, resolution: STATIC, location: MESH_INTERNAL, workloadSelector: {{labels: {{app: s}}}}"
        ),
    );
    let vm = workload_entry("vm", "address: 10.1.0.1, labels: {app: s}");
    let named = workload_entry("vm2", "address: vm.example.com, labels: {app: s}");
    let pod = pod("p", "app: s", "podIP: 10.0.0.1");
    let compilation = routed_to("ext.com", &[&selecting, &vm, &pod, &named]);
    assert_eq!(endpoints(&compilation, "outbound|80||ext.com"), ["10.0.0.1:8080", "10.1.0.1:8080"]);
    assert!(
        findings(&compilation).iter().any(|f| f.contains("`vm.example.com` is a name")),
        "{:?}",
        findings(&compilation)
    );
}

#[test]
fn entries_resolved_by_dns_name_targets() {
    let ports = "ports: [{number: 443, name: https, protocol: HTTPS}, {number: 80, name: http, protocol: HTTP, targetPort: 8080}]";
    let plain = service_entry("e", &format!("hosts: [ext.com], {ports}, resolution: DNS"));
    assert_eq!(endpoints(&routed_to("ext.com", &[&plain]), "outbound|80||ext.com"), ["ext.com:8080"]);
    let listed = service_entry(
        "e",
        &format!(
            "hosts: ['*.ext.com'], {ports}, resolution: DNS, endpoints: [{{address: one.net}}, {{address: 10.0.0.9, ports: {{http: 1}}}}]"
        ),
    );
    assert_eq!(
        endpoints(&routed_to("'*.ext.com'", &[&listed]), "outbound|80||*.ext.com"),
        ["10.0.0.9:1", "one.net:8080"]
    );
    // A name under a wildcard is no service.
    check(&routed_to("x.ext.com", &[&listed]), "GET a.com/", "!80||x.ext.com");
    let none = service_entry("e", &format!("hosts: [ext.com], {ports}, resolution: NONE"));
    assert!(endpoints(&routed_to("ext.com", &[&none]), "outbound|80||ext.com").is_empty());
}

#[test]
fn one_host_is_one_service() {
    let entry = |name: &str, namespace: &str, created: &str, ports: &str, address: &str| {
        service_entry(
            name,
            &format!("hosts: [ext.com], ports: [{ports}], resolution: STATIC, endpoints: [{{address: {address}}}]"),
        )
        .replace(
            &format!("name: {name}}}"),
            &format!("name: {name}, namespace: {namespace}, creationTimestamp: '{created}'}}"),
        )
    };
    let http = "{number: 80, name: http, protocol: HTTP}";
    let admin = "{number: 81, name: admin, protocol: HTTP2}";
    let oldest = entry("z", "x", "2024-01-01T00:00:00Z", http, "10.0.0.1");
    let same_namespace = entry("a", "x", "2024-02-01T00:00:00Z", &format!("{http}, {admin}"), "10.0.0.2");
    let other_namespace = entry("a", "z", "2024-03-01T00:00:00Z", http, "10.0.0.3");
    let compilation = routed_to("ext.com", &[&same_namespace, &other_namespace, &oldest]);
    // Two ports by now, so the listener's counts.
    assert_eq!(endpoints(&compilation, "outbound|80||ext.com"), ["10.0.0.1:80", "10.0.0.2:80"]);
    assert_eq!(compilation.snapshot.clusters()[0].service.namespace, "x");
    assert_eq!(
        endpoints(&routed_to("ext.com, port: {number: 81}", &[&same_namespace, &oldest]), "outbound|81||ext.com"),
        ["10.0.0.2:81"]
    );
}

#[test]
fn a_kubernetes_service_goes_before_entries_of_its_host() {
    let squatter = service_entry("e", "hosts: [s.default.svc.cluster.local], ports: [{number: 80, name: http, protocol: HTTP2}], resolution: STATIC, endpoints: [{address: 6.6.6.6}]")
        .replace("name: e}", "name: e, namespace: evil, creationTimestamp: '2000-01-01T00:00:00Z'}");
    let pod = pod("p", "app: s", "podIP: 10.0.0.1");
    let compilation = routed_to("s", &[K8S, &squatter, &pod]);
    assert_eq!(endpoints(&compilation, K8S_CLUSTER), ["10.0.0.1:9000"]);
    assert_eq!(compilation.snapshot.clusters()[0].service.name, "s");
    // In the Service's own namespace an entry adds endpoints.
    let own = squatter.replace("namespace: evil, ", "");
    let compilation = routed_to("s", &[K8S, &own, &pod]);
    assert_eq!(endpoints(&compilation, K8S_CLUSTER), ["6.6.6.6:80", "10.0.0.1:9000"]);
}

#[test]
fn entries_are_exported_like_everything_else() {
    let entry = |export_to: &str| {
        service_entry(
            "e",
            &format!(
                "hosts: [ext.com], ports: [{{number: 80, name: http, protocol: HTTP}}], resolution: DNS, exportTo: [{export_to}]"
            ),
        )
    };
    check(&routed_to("ext.com", &[&entry("'*'")]), "GET a.com/", "80||ext.com");
    check(&routed_to("ext.com", &[&entry("istio-system")]), "GET a.com/", "80||ext.com");
    check(&routed_to("ext.com", &[&entry("'.'")]), "GET a.com/", "!80||ext.com");
    check(&routed_to("ext.com", &[&entry("'~'")]), "GET a.com/", "!80||ext.com");
}

#[test]
fn a_cluster_domain_of_ones_own_is_used_throughout() {
    let service = virtual_service("v", &format!("hosts: [a.com], http: [{{{}}}]", to("s")));
    let options = CompileOptions { cluster_domain: "corp.example".into(), ..CompileOptions::default() };
    let compilation = compile(&resources(&[GATEWAY, &service, K8S]), &options);
    check(&compilation, "GET a.com/", "80||s.default.svc.corp.example");
}

#[test]
fn services_without_endpoints_say_why() {
    let check_reason = |documents: &[&str], path: &str, reason: &str| {
        check_finding(&routed_to("s", documents), "TG0009", path, reason);
    };
    check_reason(&[K8S], "spec.selector", "no Pod or WorkloadEntry has the labels");
    check_reason(&[K8S, &pod("p", "app: s", "")], "spec.selector", "of 1 Pods and WorkloadEntries");
    check_reason(&[&K8S.replace("selector: {app: s}, ", "")], "spec.selector", "it has no selector");
    let slice = "
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: s-1, labels: {kubernetes.io/service-name: s}}
addressType: IPv4
endpoints: [{addresses: [10.0.0.1]}]
ports: [{name: other, port: 6000}]
";
    check_reason(&[K8S, slice], "spec.selector", "EndpointSlices have none for this port");
    let none =
        service_entry("e", "hosts: [ext.com], ports: [{number: 80, name: http, protocol: HTTP}], resolution: NONE");
    let compilation = routed_to("ext.com", &[&none]);
    check_finding(&compilation, "TG0009", "spec.resolution", "no original destination");
    check(&compilation, "GET a.com/", "80||ext.com");
}

#[test]
fn slices_of_names_are_skipped_and_said_to_be() {
    let slice = "
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: s-1, labels: {kubernetes.io/service-name: s}}
addressType: FQDN
endpoints: [{addresses: [x.example.com]}]
ports: [{name: http, port: 6000}]
";
    check_finding(&routed_to("s", &[K8S, slice]), "TG0005", "addressType", "of names adds no endpoints");
}

#[test]
fn an_endpoint_may_name_its_pod() {
    let slice = "
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: s-1, labels: {kubernetes.io/service-name: s}}
addressType: IPv4
endpoints: [{addresses: [10.0.0.1], targetRef: {kind: Pod, name: two, namespace: default, uid: x}}]
ports: [{name: http, port: 6000}]
";
    // Two Pods share the address of their node.
    let (one, two) = (pod("one", "app: one", "podIP: 10.0.0.1"), pod("two", "app: two", "podIP: 10.0.0.1"));
    let app = |slice: &str| {
        let compilation = routed_to("s", &[K8S, slice, &one, &two]);
        let tidegate_snapshot::Discovery::Static(all) = &compilation.snapshot.clusters()[0].discovery else { panic!() };
        all[0].workload.app.clone()
    };
    assert_eq!(app(slice), "two");
    assert_eq!(app(&slice.replace(", targetRef: {kind: Pod, name: two, namespace: default, uid: x}", "")), "");
}
