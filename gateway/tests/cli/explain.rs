//! `tidegate explain --config`: what it says about our own fixtures, word for word.

use crate::common::{Run, run};

fn explain(arguments: &[&str]) -> Run {
    run(["explain", "--config", "shop"].iter().chain(arguments))
}

/// Compares what is printed with `expected`, but for the snapshot's hash in the last line.
#[track_caller]
fn check(arguments: &[&str], expected: &str) {
    let run = explain(arguments);
    assert_eq!(run.code, Some(0), "{run:?}");
    let (text, hash) = run.stdout.rsplit_once("\nsnapshot ").unwrap();
    assert_eq!(hash.trim().len(), 16, "{hash}");
    assert_eq!(text.trim(), expected.trim(), "\n{text}");
}

#[test]
fn a_request_is_followed_to_its_endpoints() {
    check(
        &["http://shop.example.com/cart/7?x=1", "-H", "end-user: jason"],
        "
GET http://shop.example.com/cart/7?x=1
  end-user: jason

listener       0.0.0.0_80            Gateway shop/front         shop/gateway.yaml:10:5
virtual host   shop.example.com:80   Gateway shop/front         shop/gateway.yaml:10:5
                                     VirtualService shop/shop   shop/routes.yaml:1:1

routes of http.80 that were tried, in order
  ✓ beta-cart   taken   VirtualService shop/shop  shop/routes.yaml:14:7

forwarded as      /v2/cart/7?x=1 Host: shop.example.com
timeout           2s
request headers   set x-beta: yes
  100 %  outbound|80|v2|cart.shop.svc.cluster.local
         Service shop/cart                               shop/cart.yaml:1:1
         DestinationRule shop/cart                       shop/cart.yaml:13:1
         10.0.0.2:8080               healthy   cart-v2   shop/endpoints/workloads.yaml:14:1
",
    );
}

#[test]
fn weights_are_shares_and_every_route_before_says_why_not() {
    check(
        &["get", "http://shop.example.com/a/../cart"],
        "
GET http://shop.example.com/a/../cart
  normalized to /cart

listener       0.0.0.0_80            Gateway shop/front         shop/gateway.yaml:10:5
virtual host   shop.example.com:80   Gateway shop/front         shop/gateway.yaml:10:5
                                     VirtualService shop/shop   shop/routes.yaml:1:1

routes of http.80 that were tried, in order
  ✗ beta-cart   header `end-user` is not exact `jason`   VirtualService shop/shop  shop/routes.yaml:14:7
  ✓ cart        taken                                    VirtualService shop/shop  shop/routes.yaml:32:7

forwarded as   /cart Host: shop.example.com
   75 %  outbound|80|v1|cart.shop.svc.cluster.local
         Service shop/cart                               shop/cart.yaml:1:1
         DestinationRule shop/cart                       shop/cart.yaml:13:1
         10.0.0.1:8080               healthy   cart-v1   shop/endpoints/workloads.yaml:1:1
   25 %  outbound|80|v2|cart.shop.svc.cluster.local
         Service shop/cart                               shop/cart.yaml:1:1
         DestinationRule shop/cart                       shop/cart.yaml:13:1
         10.0.0.2:8080               healthy   cart-v2   shop/endpoints/workloads.yaml:14:1
",
    );
}

#[test]
fn a_404_says_which_route_almost_matched() {
    check(
        &["POST", "http://shop.example.com/cart"],
        "
POST http://shop.example.com/cart

listener       0.0.0.0_80            Gateway shop/front         shop/gateway.yaml:10:5
virtual host   shop.example.com:80   Gateway shop/front         shop/gateway.yaml:10:5
                                     VirtualService shop/shop   shop/routes.yaml:1:1

routes of http.80 that were tried, in order
  ✗ beta-cart   header `end-user` is not exact `jason`   VirtualService shop/shop  shop/routes.yaml:14:7
  ✗ cart        method is not exact `GET`                VirtualService shop/shop  shop/routes.yaml:32:7
  ✗ nowhere     path is not exact `/nowhere`             VirtualService shop/shop  shop/routes.yaml:47:7
  ✗ teapot      path is not exact `/teapot`              VirtualService shop/shop  shop/routes.yaml:55:7

answered 404 NR: no route of the virtual host matches (route_not_found)

hint: route `beta-cart` fits by its path, but header `end-user` is not exact `jason`
hint: route `cart` fits by its path, but method is not exact `GET`
",
    );
}

#[test]
fn a_host_without_routes_says_what_it_takes() {
    check(
        &["http://shpo.example.com/cart"],
        "
GET http://shpo.example.com/cart

listener       0.0.0.0_80                    Gateway shop/front   shop/gateway.yaml:10:5
virtual host   none for `shpo.example.com`

answered 404 NR: no virtual host of http.80 has the host (route_not_found)

hint: no VirtualService brings routes for `shpo.example.com`: one must name that host, or a wildcard over it, and \
`Gateway shop/front` among its gateways; and the Gateway must admit the host
hint: the most similar host is `shop.example.com` (port 80)
",
    );
}

#[test]
fn a_missing_subset_is_a_503_and_the_finding_stands_beside() {
    let run = explain(&["http://shop.example.com/nowhere"]);
    assert_eq!(run.code, Some(0));
    assert!(run.stdout.contains("503 NC: no such service, port or subset"), "{}", run.stdout);
    assert!(run.stderr.contains("error[IST0101]: ") && run.stderr.contains("shop/routes.yaml:52:17"), "{}", run.stderr);
}

#[test]
fn redirects_direct_responses_and_missing_listeners_are_told() {
    let stdout = |arguments: &[&str]| explain(arguments).stdout;
    let redirect = stdout(&["http://old.example.com/cart?x"]);
    assert!(redirect.contains("redirected 308 to http://shop.example.com/cart?x\n"), "{redirect}");
    let teapot = stdout(&["http://shop.example.com/teapot"]);
    assert!(teapot.contains("answered 418 by the gateway itself\n"), "{teapot}");
    let listener = stdout(&["http://shop.example.com:9000/"]);
    assert!(listener.contains("listener   none on port 9000\n"), "{listener}");
    assert!(listener.contains("there are: 80\n"), "{listener}");
    assert!(listener.contains("hint: port 80 serves `shop.example.com`\n"), "{listener}");
}

#[test]
fn the_host_header_and_the_port_option_win_over_the_url() {
    let by_header = explain(&["http://10.0.0.7:8080/teapot", "-H", "Host: shop.example.com"]).stdout;
    assert!(by_header.contains("answered 418"), "{by_header}");
    let by_port = explain(&["http://shop.example.com:9000/teapot", "--port", "80"]).stdout;
    assert!(by_port.contains("answered 418"), "{by_port}");
}

#[test]
fn another_port_than_the_urls_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let yaml = "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: g}\nspec:\n  servers:\n  - port: \
                {number: 8080, name: http, protocol: HTTP}\n    hosts: ['*']\n";
    std::fs::write(folder.path().join("gateway.yaml"), yaml).unwrap();
    let note = |url: &str| {
        let run = run(["explain", url, "--config", &folder.path().display().to_string()]);
        assert_eq!(run.code, Some(0), "{run:?}");
        run.stderr
    };
    let told = note("https://shop.example.com/");
    assert!(told.contains("nothing listens on port 443, where https:// leads; this is about port 8080"), "{told}");
    assert_eq!(note("http://shop.example.com:8080/"), "");
    // 80 is bound at 8080.
    assert!(!explain(&["http://shop.example.com:8080/teapot"]).stderr.contains("nothing listens"));
}

#[test]
fn json_and_yaml_are_the_same_stable_value() {
    let request = ["http://shop.example.com/cart/7?x=1", "-H", "end-user: jason", "-o"];
    let json = explain(&[&request[..], &["json"]].concat()).stdout;
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(value["listener"]["name"], "0.0.0.0_80");
    assert_eq!(value["virtual_host"]["name"], "shop.example.com:80");
    assert_eq!(value["tried"][0]["name"], "beta-cart");
    assert_eq!(value["tried"][0]["matched"], true);
    assert_eq!(value["tried"][0]["place"]["origin"], "shop/routes.yaml:14:7");
    assert_eq!(value["outcome"]["action"], "forward");
    assert_eq!(value["outcome"]["path"], "/v2/cart/7?x=1");
    assert_eq!(value["outcome"]["timeoutMs"], 2000);
    let cluster = &value["outcome"]["clusters"][0];
    assert_eq!(cluster["name"], "outbound|80|v2|cart.shop.svc.cluster.local");
    assert_eq!(cluster["percent"], 100.0);
    assert_eq!(cluster["endpoints"][0]["address"], "10.0.0.2:8080");
    let yaml = explain(&[&request[..], &["yaml"]].concat()).stdout;
    for line in ["snapshot: ", "  action: forward\n", "0.0.0.0_80"] {
        assert!(yaml.contains(line), "{line} is missing in\n{yaml}");
    }
}

/// HTTPS for `shop.com` (mutual) and `*.open.com`, TLS that is passed through for `db.com`, TCP on 31400.
const SECURE: &str = "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge, namespace: istio-system}
spec:
  selector: {istio: ingressgateway}
  servers:
  - port: {number: 443, name: shop, protocol: HTTPS}
    hosts: [shop.com]
    tls: {mode: MUTUAL, credentialName: shop-cert}
  - port: {number: 443, name: open, protocol: HTTPS}
    hosts: ['*.open.com', open.com]
    tls: {mode: SIMPLE, credentialName: open-cert, cipherSuites: [AES128-SHA]}
  - port: {number: 443, name: db, protocol: TLS}
    hosts: [db.com]
    tls: {mode: PASSTHROUGH}
  - port: {number: 31400, name: tcp, protocol: TCP}
    hosts: ['*']
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: all, namespace: istio-system}
spec:
  gateways: [edge]
  hosts: [shop.com, '*.open.com', db.com]
  http: [{name: teapot, directResponse: {status: 418}}]
  tls: [{match: [{sniHosts: [db.com]}], route: [{destination: {host: db}}]}]
  tcp: [{route: [{destination: {host: db}}]}]
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: istio-system}
spec: {ports: [{name: tcp, port: 5432}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: db, namespace: istio-system, labels: {kubernetes.io/service-name: db}}
addressType: IPv4
endpoints: [{addresses: [10.0.0.9]}]
ports: [{name: tcp, port: 5432}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: db, namespace: istio-system}
spec: {host: db, trafficPolicy: {tls: {mode: MUTUAL, credentialName: db-client, sni: db.internal}}}
";

#[test]
fn connections_are_explained_down_to_their_secrets_and_bytes() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("edge.yaml"), SECURE).unwrap();
    let config = folder.path().display().to_string();
    let explain = |arguments: &[&str]| {
        let run = run(["explain"].iter().chain(arguments).chain(&["--config", &config]));
        assert_eq!(run.code, Some(0), "{run:?}");
        run
    };
    let check = |arguments: &[&str], lines: &[&str]| {
        let stdout = explain(arguments).stdout;
        // Columns are as wide as what stands in them.
        let squeezed: Vec<_> =
            stdout.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        for line in lines {
            assert!(squeezed.iter().any(|found| found.starts_with(line)), "`{line}` is missing in\n{stdout}");
        }
    };
    check(
        &["https://shop.com/"],
        &[
            "listener 0.0.0.0_443 Gateway istio-system/edge",
            "filter chain https.443.shop.edge.istio-system (shop.com) Gateway istio-system/edge",
            "tls MUTUAL TLSv1.2 to TLSv1.3, h2 http/1.1",
            "certificate kubernetes://istio-system/shop-cert (none of these files has it) Gateway istio-system/edge",
            "client's CA kubernetes://istio-system/shop-cert-cacert",
            "virtual host shop.com:443",
            "answered 418 by the gateway itself",
        ],
    );
    check(
        &["https://a.open.com/"],
        &["filter chain https.443.open.edge.istio-system (*.open.com and 1 more)", "tls SIMPLE TLSv1.3, h2 http/1.1"],
    );
    check(
        &["https://shop.com/", "--sni", "a.open.com"],
        &["server name (SNI): a.open.com", "answered 421: the connection is of https.443.open.edge.istio-system"],
    );
    // What --sni is for: the Host header is another one than the connection's.
    check(&["https://a.open.com/", "-H", "Host: shop.com"], &["answered 421: "]);
    check(&["https://10.0.0.1/"], &["refused no server of port 443 is for connections without a server name"]);
    check(&["https://other.com/"], &["refused no server of port 443 has the server name `other.com`"]);
    check(
        &["tls://db.com"],
        &["tls://db.com", "tls PASSTHROUGH: not terminated here", "forwarded as bytes (ends after 1h", "10.0.0.9:5432"],
    );
    check(
        &["tcp://localhost:31400"],
        &[
            "forwarded as bytes",
            "100 % outbound|5432||db",
            "TLS server name db.internal, verified by kubernetes://istio-system/db-client-cacert (none of these files has it), as kubernetes://istio-system/db-client (none of these files has it)",
        ],
    );
    check(&["tcp://localhost", "--port", "31400"], &["forwarded as bytes"]);
    check(&["http://shop.com:443/"], &["refused port 443 speaks TLS"]);
    // Findings about another server of the same Gateway are not this request's.
    assert!(!explain(&["https://shop.com/"]).stderr.contains("AES128-SHA"));
    assert!(explain(&["https://a.open.com/"]).stderr.contains("AES128-SHA"));
}

#[test]
fn labels_decide_which_gateways_serve() {
    let other = explain(&["http://shop.example.com/teapot", "--labels", "istio=team-b"]).stdout;
    assert!(other.contains("listener   none on port 80\n"), "{other}");
}

#[test]
fn nonsense_is_a_wrong_usage_and_a_missing_folder_is_bad_data() {
    let check = |arguments: &[&str], code: i32, said: &str| {
        let run = run(["explain"].iter().chain(arguments));
        assert_eq!(run.code, Some(code), "{run:?}");
        assert!(run.stderr.contains(said), "{}", run.stderr);
        assert!(run.stdout.is_empty());
    };
    check(&["--config", "shop"], 64, "URL");
    check(&["ftp://a/", "--config", "shop"], 64, "none of http://, https://, tls:// and tcp://");
    check(&["http://a/", "--sni", "b", "--config", "shop"], 64, "--sni says what a TLS client sends");
    check(&["tls://a/path", "--config", "shop"], 64, "a connection has no path");
    check(&["/cart", "--config", "shop"], 64, "http://HOST/cart");
    check(&["http://a/", "-H", "no colon", "--config", "shop"], 64, "has no colon");
    check(&["G T", "http://a/", "--config", "shop"], 64, "no method");
    check(&["http://a/", "--config", "no-such-folder"], 65, "no-such-folder");
}
