//! Where backends come from, and how they are talked to.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use tidegate_tests::process::{free_port, local};
use tidegate_tests::wait::{self, PATIENCE};
use tidegate_tests::{Client, ConfigFolder, EchoBackend, Tidegate, client, yaml};

async fn start(text: &str) -> (Tidegate, SocketAddr, ConfigFolder) {
    let port = free_port();
    let folder = ConfigFolder::with(yaml::gateway("edge", port) + text);
    (Tidegate::start(&folder).await, local(port), folder)
}

/// A Service `name` in `default` with one port 80 to `target`.
fn service(name: &str, port_name: &str, target: u16) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  selector: {{app: {name}}}\n  \
         ports: [{{name: {port_name}, port: 80, targetPort: {target}}}]\n---\n"
    )
}

fn endpoint_slice(service: &str, port_name: &str, backend: SocketAddr, ready: bool) -> String {
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: {service}-{}, labels: {{kubernetes.io/service-name: {service}}}}}\n\
         addressType: IPv4\nports: [{{name: {port_name}, port: {}, protocol: TCP}}]\n\
         endpoints: [{{addresses: ['{}'], conditions: {{ready: {ready}}}}}]\n---\n",
        backend.port(),
        backend.port(),
        backend.ip()
    )
}

/// Who answers `count` requests for `host`.
async fn answers(address: SocketAddr, host: &str, count: usize) -> BTreeMap<String, usize> {
    let mut client = Client::http1(address).await.unwrap();
    let mut found = BTreeMap::new();
    for _ in 0..count {
        let answer = client.get(host, "/").await.unwrap();
        let who = if answer.status == 200 { answer.header("x-backend").to_owned() } else { answer.status.to_string() };
        *found.entry(who).or_default() += 1;
    }
    found
}

#[tokio::test]
async fn services_find_their_backends_in_endpoint_slices_endpoints_and_pods() {
    let (sliced, listed, selected) =
        (EchoBackend::start("sliced").await, EchoBackend::start("listed").await, EchoBackend::start("selected").await);
    let unready = EchoBackend::start("unready").await;
    let text = service("sliced", "http", 8080)
        + &endpoint_slice("sliced", "http", sliced.address, true)
        + &endpoint_slice("sliced", "http", unready.address, false)
        + &service("listed", "http", 8080)
        + &format!(
            "apiVersion: v1\nkind: Endpoints\nmetadata: {{name: listed}}\nsubsets:\n- addresses: [{{ip: 127.0.0.1}}]\n  ports: [{{name: http, port: {}}}]\n---\n",
            listed.address.port()
        )
        + &service("selected", "http", selected.address.port())
        + "apiVersion: v1\nkind: Pod\nmetadata: {name: selected-1, labels: {app: selected}}\nspec: {containers: [{name: main, image: none}]}\n\
           status: {phase: Running, podIP: 127.0.0.1, conditions: [{type: Ready, status: 'True'}]}\n---\n"
        + &yaml::forward("sliced", "sliced.test", "sliced")
        + &yaml::forward("listed", "listed.test", "listed.default.svc.cluster.local")
        + &yaml::forward("selected", "selected.test", "selected");
    let (_tidegate, address, _folder) = start(&text).await;
    for name in ["sliced", "listed", "selected"] {
        assert_eq!(answers(address, &format!("{name}.test"), 8).await, BTreeMap::from([(name.to_owned(), 8)]));
    }
    assert_eq!(unready.requests(), 0);
}

#[tokio::test]
async fn subsets_pick_endpoints_by_their_labels() {
    let backends = [EchoBackend::start("v1").await, EchoBackend::start("v2").await];
    let endpoint = |backend: &EchoBackend, version: &str| {
        format!(
            "  - {{address: 127.0.0.1, ports: {{main: {}}}, labels: {{version: {version}}}}}\n",
            backend.address.port()
        )
    };
    let text = yaml::service_entry("r", "r.test", "HTTP", &[]).replace(
        "  endpoints: []\n",
        &format!("  endpoints:\n{}{}", endpoint(&backends[0], "v1"), endpoint(&backends[1], "v2")),
    ) + "apiVersion: networking.istio.io/v1beta1\nkind: DestinationRule\nmetadata: {name: r}\nspec:\n  host: r.test\n  \
         subsets:\n  - {name: one, labels: {version: v1}}\n  - {name: two, labels: {version: v2}}\n  - {name: three, labels: {version: v3}}\n---\n"
        + &yaml::virtual_service(
            "r",
            "r.test",
            "- match: [{headers: {end-user: {exact: jason}}}]\n  route: [{destination: {host: r.test, subset: two}}]\n\
             - match: [{headers: {end-user: {exact: nobody}}}]\n  route: [{destination: {host: r.test, subset: three}}]\n\
             - route: [{destination: {host: r.test, subset: one}}]",
        );
    let (_tidegate, address, _folder) = start(&text).await;
    assert_eq!(answers(address, "r.test", 10).await, BTreeMap::from([("v1".to_owned(), 10)]));
    let jason = client::send(address, "GET", "r.test", "/", &[("end-user", "jason")], "").await;
    assert_eq!(jason.header("x-backend"), "v2");
    let nobody = client::send(address, "GET", "r.test", "/", &[("end-user", "nobody")], "").await;
    assert_eq!((nobody.status.as_u16(), nobody.text().as_str()), (503, "no healthy upstream"));
}

#[tokio::test]
async fn workload_entries_serve_the_service_entry_that_selects_them() {
    let backend = EchoBackend::start("vm").await;
    let text = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: vm}\nspec:\n  hosts: [vm.test]\n  \
                location: MESH_INTERNAL\n  resolution: STATIC\n  ports: [{number: 80, name: http, protocol: HTTP, targetPort: PORT}]\n  \
                workloadSelector: {labels: {app: vm}}\n---\n\
                apiVersion: networking.istio.io/v1alpha3\nkind: WorkloadEntry\nmetadata: {name: vm-1}\nspec: {address: 127.0.0.1, labels: {app: vm}}\n---\n\
                apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {name: other}\nspec: {address: 127.0.0.2, labels: {app: other}}\n---\n"
        .replace("PORT", &backend.address.port().to_string())
        + &yaml::forward("vm", "vm.test", "vm.test");
    let (_tidegate, address, _folder) = start(&text).await;
    assert_eq!(answers(address, "vm.test", 5).await, BTreeMap::from([("vm".to_owned(), 5)]));
}

#[tokio::test]
async fn names_are_resolved() {
    let backend = EchoBackend::start("named").await;
    let text = format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: d}}\nspec:\n  hosts: [d.test]\n  \
         resolution: DNS\n  ports: [{{number: 80, name: http, protocol: HTTP}}]\n  \
         endpoints: [{{address: localhost, ports: {{http: {}}}}}]\n---\n",
        backend.address.port()
    ) + &yaml::forward("d", "d.test", "d.test");
    let (_tidegate, address, _folder) = start(&text).await;
    wait::until("a resolved endpoint", PATIENCE, || async {
        (client::get(address, "d.test", "/").await.header("x-backend") == "named").then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_port_decides_the_protocol_spoken_to_the_backend() {
    let (one, two, app) =
        (EchoBackend::start("one").await, EchoBackend::start("two").await, EchoBackend::start("app").await);
    let text = yaml::service_entry("one", "one.test", "HTTP", &[one.address])
        + &yaml::service_entry("two", "two.test", "HTTP2", &[two.address])
        + &service("app", "web", 80).replace("port: 80,", "port: 80, appProtocol: kubernetes.io/h2c,")
        + &endpoint_slice("app", "web", app.address, true)
        + &yaml::forward("one", "one.test", "one.test")
        + &yaml::forward("two", "two.test", "two.test")
        + &yaml::forward("app", "app.test", "app");
    let (_tidegate, address, _folder) = start(&text).await;
    for (host, version) in [("one.test", "HTTP/1.1"), ("two.test", "HTTP/2.0"), ("app.test", "HTTP/2.0")] {
        assert_eq!(client::get(address, host, "/").await.json()["version"], version, "{host} from HTTP/1.1");
        let answer = client::send_http2(address, "POST", host, "/", &[], "body").await;
        assert_eq!(
            (answer.json()["version"].as_str(), answer.json()["length"].as_u64()),
            (Some(version), Some(4)),
            "{host}"
        );
    }
}

#[tokio::test]
async fn a_dead_endpoint_costs_no_request() {
    let backend = EchoBackend::start("alive").await;
    let dead = local(free_port());
    let text =
        yaml::service_entry("s", "s.test", "HTTP", &[dead, backend.address]) + &yaml::forward("s", "s.test", "s.test");
    let (_tidegate, address, _folder) = start(&text).await;
    assert_eq!(answers(address, "s.test", 60).await, BTreeMap::from([("alive".to_owned(), 60)]));
}

#[tokio::test]
async fn a_backend_that_restarts_costs_no_request() {
    let backend = EchoBackend::start("first").await;
    let address_of_backend = backend.address.to_string();
    let text = yaml::service_entry("s", "s.test", "HTTP", &[backend.address]) + &yaml::forward("s", "s.test", "s.test");
    let (_tidegate, address, _folder) = start(&text).await;
    assert_eq!(answers(address, "s.test", 5).await, BTreeMap::from([("first".to_owned(), 5)]));
    drop(backend);
    // The port is free when the aborted backend has let go of it; connections in the gateway's pool are dead by then.
    wait::until("the backend to be gone", PATIENCE, || async {
        (!tidegate_tests::raw::accepts(address_of_backend.parse().unwrap()).await).then_some(())
    })
    .await;
    let _backend = EchoBackend::bind("second", &address_of_backend).await;
    assert_eq!(answers(address, "s.test", 20).await, BTreeMap::from([("second".to_owned(), 20)]));
}

#[tokio::test]
async fn busy_endpoints_get_less() {
    let (busy, idle) = (EchoBackend::start("busy").await, EchoBackend::start("idle").await);
    let text = yaml::service_entry("s", "s.test", "HTTP", &[busy.address, idle.address])
        + &yaml::forward("s", "s.test", "s.test")
        + &yaml::service_entry("b", "b.test", "HTTP", &[busy.address]);
    let (_tidegate, address, _folder) = start(&text).await;
    // Requests that hang on either backend; only those on `busy` stay.
    let held: Vec<_> = (0..12)
        .map(|_| {
            tokio::spawn(async move { client::send(address, "GET", "s.test", "/", &[("x-echo-hold", "1")], "").await })
        })
        .collect();
    wait::until("held requests", PATIENCE, || async { (busy.held() + idle.held() == 12).then_some(()) }).await;
    idle.release();
    wait::until("the idle backend to be idle", PATIENCE, || async { (idle.held() == 0).then_some(()) }).await;
    let found = answers(address, "s.test", 40).await;
    // Power of two choices over two endpoints compares the two whenever it draws both: at least half go to the idle one
    // for sure, three quarters on average.
    assert!(found.get("idle").copied().unwrap_or_default() >= 25, "{found:?}");
    busy.release();
    for request in held {
        assert_eq!(request.await.unwrap().status, 200);
    }
}

/// Answers the first request of each connection and reads the second without an answer; counts heads by target.
async fn answers_once(
    seen: std::sync::Arc<std::sync::Mutex<Vec<String>>>,
) -> (SocketAddr, tokio::task::JoinHandle<()>) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let seen = seen.clone();
            tokio::spawn(async move {
                for turn in 0..2 {
                    let mut bytes = Vec::new();
                    while !bytes.windows(4).any(|window| window == b"\r\n\r\n") {
                        if !matches!(stream.read_buf(&mut bytes).await, Ok(1..)) {
                            return;
                        }
                    }
                    let head = String::from_utf8_lossy(&bytes);
                    seen.lock().unwrap().push(head.split(' ').take(2).collect::<Vec<_>>().join(" "));
                    if turn == 0 {
                        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
                    }
                }
            });
        }
    });
    (address, task)
}

#[tokio::test]
async fn a_request_that_may_have_had_effects_is_not_sent_twice() {
    let seen = std::sync::Arc::<std::sync::Mutex<Vec<String>>>::default();
    let (backend, task) = answers_once(seen.clone()).await;
    let text = yaml::service_entry("s", "s.test", "HTTP", &[backend]) + &yaml::forward("s", "s.test", "s.test");
    let (_tidegate, address, _folder) = start(&text).await;
    // One client connection is served by one worker, and so by one pool.
    let mut client = Client::http1(address).await.unwrap();
    for round in 0..10 {
        assert_eq!(client.get("s.test", &format!("/warm{round}")).await.unwrap().status, 200);
        let request = client
            .request(http::Method::POST, "s.test", &format!("/post{round}"))
            .body(http_body_util::Full::new(bytes::Bytes::from_static(b"buy")))
            .unwrap();
        let answer = client.send(request).await.unwrap();
        let count = seen.lock().unwrap().iter().filter(|head| **head == format!("POST /post{round}")).count();
        assert_eq!((count, answer.status.as_u16()), (1, 503), "sent {count} times: {}", answer.text());
    }
    task.abort();
}
