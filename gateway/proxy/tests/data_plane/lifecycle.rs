use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Frame;
use tidegate_core::{Code, Lifecycle, Phase};
use tidegate_proxy::{Gateway, GatewayOptions};
use tokio::net::TcpStream;

use crate::backend::{self, channel, echo, fixed, full};
use crate::client::{Client, get, once};
use crate::harness::{Config, Edge, nobody};

const GET: &str = "GET / HTTP/1.1\r\nHost: a.com\r\n\r\n";

fn listening(mut config: Config, listeners: &[(&str, u16)]) -> Config {
    config.listeners = listeners.iter().map(|(name, port)| ((*name).to_owned(), *port)).collect();
    config
}

#[tokio::test]
async fn a_new_snapshot_serves_the_next_request_of_an_old_connection() {
    let (a, b) = (fixed("a").await, fixed("b").await);
    let edge = Edge::start(Config::to(a).snapshot()).await;
    let mut client = Client::connect(edge.address()).await;
    for round in 0..20 {
        let (backend, text) = if round % 2 == 0 { (a, "a") } else { (b, "b") };
        edge.publish(Config::to(backend).snapshot()).await;
        client.send(GET).await;
        assert_eq!(client.answer().await.text(), text);
    }
    assert_eq!(edge.gateway.listeners()[0].connections_total, 1);
}

#[tokio::test]
async fn requests_under_way_keep_the_snapshot_that_they_began_with() {
    let (started, mut begun) = tokio::sync::mpsc::unbounded_channel();
    let (release, _) = tokio::sync::broadcast::channel::<()>(1);
    let releases = release.clone();
    let slow = backend::serve(move |_| {
        let mut released = releases.subscribe();
        started.send(()).unwrap();
        async move {
            released.recv().await.unwrap();
            Response::new(full("old"))
        }
    })
    .await;
    let mut config = Config::to(slow);
    config.mesh.server_header = tidegate_snapshot::ServerHeader::Value("old".into());
    let edge = Edge::start(config.snapshot()).await;
    let mut client = Client::connect(edge.address()).await;
    client.send(GET).await;
    begun.recv().await.unwrap();
    edge.publish(Config::to(fixed("new").await).snapshot()).await;
    assert_eq!(get(edge.address(), "/").await.text(), "new");
    release.send(()).unwrap();
    let answer = client.answer().await;
    assert_eq!((answer.text(), answer.header("server")), ("old", Some("old")));
    client.send(GET).await;
    let answer = client.answer().await;
    assert_eq!((answer.text(), answer.header("server")), ("new", Some("istio-envoy")));
}

#[tokio::test]
async fn publishing_under_load_fails_no_request() {
    let (a, b) = (fixed("a").await, fixed("b").await);
    let names = [("127.0.0.1_0", 0), ("other", 0)];
    let edge = Edge::start(listening(Config::to(a), &names[..1]).snapshot()).await;
    let address = edge.address();
    let done = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (answered, mut answers) = tokio::sync::watch::channel(0_usize);
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let (done, answered) = (done.clone(), answered.clone());
            tokio::spawn(async move {
                let mut count = 0;
                let mut client = Client::connect(address).await;
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    client.send(GET).await;
                    let answer = client.answer().await;
                    assert_eq!(answer.status, 200);
                    assert!(matches!(answer.text(), "a" | "b"));
                    count += 1;
                    answered.send_modify(|total| *total += 1);
                }
                count
            })
        })
        .collect();
    // Its end is the end of all clients, so that nobody waits for them in vain.
    drop(answered);
    for round in 0..100 {
        let backend = if round % 2 == 0 { b } else { a };
        let listeners = if round % 4 < 2 { &names[..] } else { &names[..1] };
        edge.publish(listening(Config::to(backend), listeners).snapshot()).await;
        // Each Snapshot serves requests that began under it.
        let before = *answers.borrow_and_update();
        answers.wait_for(|total| *total >= before + 16).await.unwrap();
    }
    done.store(true, std::sync::atomic::Ordering::Relaxed);
    let mut total = 0;
    for client in clients {
        total += client.await.unwrap();
    }
    assert!(total > 200, "{total}");
    assert_eq!(edge.gateway.listeners()[0].connections_total, 8);
}

#[tokio::test]
async fn a_removed_listener_finishes_what_it_has() {
    let backend = backend::serve(|_| async {
        let (send, body) = channel();
        tokio::spawn(async move {
            for _ in 0..10 {
                tokio::time::sleep(Duration::from_millis(50)).await;
                let _ = send.send(Frame::data("tick".into()));
            }
        });
        Response::new(body)
    })
    .await;
    let edge = Edge::start(listening(Config::to(backend), &[("kept", 0), ("gone", 0)]).snapshot()).await;
    let (kept, gone) = (edge.address_of("kept").unwrap(), edge.address_of("gone").unwrap());
    let mut busy = Client::connect(gone).await;
    busy.send(GET).await;
    let mut other = Client::connect(kept).await;
    other.send(GET).await;
    let mut idle = Client::connect(gone).await;
    idle.send("GET /idle HTTP/1.1\r\nHost: a.com\r\n\r\n").await;
    assert_eq!(idle.answer().await.body.len(), 40);
    edge.publish(listening(Config::to(backend), &[("kept", 0)]).snapshot()).await;
    assert!(edge.address_of("gone").is_none());
    assert!(TcpStream::connect(gone).await.is_err());
    assert_eq!(busy.answer().await.body.len(), 40);
    assert_eq!(other.answer().await.body.len(), 40);
    // An idle connection may still ask once, and is told that it was the last time.
    idle.send(GET).await;
    let last = idle.answer().await;
    assert_eq!((last.status, last.header("connection")), (200, Some("close")));
    assert!(idle.is_closed().await);
    other.send(GET).await;
    assert_eq!(other.answer().await.header("connection"), None);
    // The port can be taken again at once.
    edge.publish(listening(Config::to(backend), &[("kept", 0), ("again", gone.port())]).snapshot()).await;
    assert_eq!(get(gone, "/").await.status, 200);
}

#[tokio::test]
async fn a_port_in_use_is_reported_and_taken_when_it_is_free() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let gateway =
        Gateway::start(GatewayOptions { workers: 1, ..GatewayOptions::default() }, Lifecycle::default()).unwrap();
    let config = || listening(Config::new(), &[("a", 0), ("taken", port)]);
    let findings = gateway.publish(Arc::new(config().snapshot())).await;
    let [finding] = &findings[..] else { panic!("{findings:?}") };
    assert_eq!(finding.code, Code::ENVIRONMENT);
    assert!(finding.message.contains(&format!("port {port} ")), "{finding}");
    assert!(finding.to_string().contains("Gateway default/edge edge.yaml:3:7"), "{finding}");
    let statuses = gateway.listeners();
    assert_eq!(get(statuses[0].bound[0], "/").await.status, 404);
    assert!(statuses[1].bound.is_empty() && statuses[1].error.is_some());
    // It is still so in the next Snapshot.
    assert_eq!(gateway.publish(Arc::new(config().snapshot())).await.len(), 1);
    drop(taken);
    for _ in 0..100 {
        if let Some(address) = gateway.listeners()[1].bound.first() {
            assert_eq!(get(*address, "/").await.status, 404);
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the port was not taken");
}

#[tokio::test]
async fn two_listeners_never_share_a_port() {
    let gateway =
        Gateway::start(GatewayOptions { workers: 1, ..GatewayOptions::default() }, Lifecycle::default()).unwrap();
    let port = nobody().port();
    let findings = gateway.publish(Arc::new(listening(Config::new(), &[("a", port), ("b", port)]).snapshot())).await;
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert!(findings[0].message.contains("listener a of this gateway"), "{}", findings[0]);
}

#[tokio::test]
async fn draining_lets_requests_finish_and_tells_clients() {
    let backend = backend::serve(|_| async {
        tokio::time::sleep(Duration::from_millis(400)).await;
        Response::new(full("done"))
    })
    .await;
    let edge = Edge::start(Config::to(backend).snapshot()).await;
    assert_eq!(edge.lifecycle.phase(), Phase::Live);
    let address = edge.address();
    let mut busy = Client::connect(address).await;
    busy.send(GET).await;
    let tcp = TcpStream::connect(address).await.unwrap();
    let io = hyper_util::rt::TokioIo::new(tcp);
    let (mut http2, connection) =
        hyper::client::conn::http2::handshake(hyper_util::rt::TokioExecutor::new(), io).await.unwrap();
    let connection = tokio::spawn(connection);
    let call = http2.send_request(Request::builder().uri("http://a.com/").body(full("")).unwrap());
    let call = tokio::spawn(call);
    tokio::time::sleep(Duration::from_millis(100)).await;
    let start = Instant::now();
    let drain = edge.gateway.drain(Duration::from_millis(100), Duration::from_secs(10));
    let clients = async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(!edge.lifecycle.is_ready());
        // During the delay new connections are served.
        let late = tokio::spawn(async move { once(address, GET).await });
        let answer = busy.answer().await;
        assert_eq!((answer.text(), answer.header("connection")), ("done", Some("close")));
        let answer = call.await.unwrap().unwrap();
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "done");
        assert_eq!(late.await.unwrap().text(), "done");
        assert!(TcpStream::connect(address).await.is_err());
        // GOAWAY ends the connection in order.
        connection.await.unwrap().unwrap();
    };
    tokio::join!(drain, clients);
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
}

#[tokio::test]
async fn the_drain_deadline_cuts_what_does_not_end() {
    let backend = backend::serve(|_| async {
        let (send, body) = channel();
        tokio::spawn(async move {
            while send.send(Frame::data("x".into())).is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        Response::new(body)
    })
    .await;
    let edge = Edge::start(Config::to(backend).snapshot()).await;
    let mut endless = Client::connect(edge.address()).await;
    endless.send(GET).await;
    endless.line().await.unwrap();
    let start = Instant::now();
    edge.gateway.drain(Duration::ZERO, Duration::from_millis(300)).await;
    assert!((250..1500).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
    while endless.line().await.is_some() {}
}

#[tokio::test]
async fn long_streams_survive_every_change_of_configuration() {
    let edge = Edge::start(Config::to(echo("a").await).snapshot()).await;
    let tunnel = backend::raw(|mut tcp, _| async move {
        use tokio::io::AsyncWriteExt;
        tcp.write_all(b"HTTP/1.1 101 x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await.unwrap();
        let (mut read, mut write) = tcp.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    })
    .await;
    edge.publish(Config::to(tunnel).snapshot()).await;
    let mut socket = Client::connect(edge.address()).await;
    socket.send("GET / HTTP/1.1\r\nHost: a.com\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n").await;
    assert_eq!(socket.answer().await.status, 101);
    for round in 0..30u8 {
        let config = match round % 3 {
            0 => Config::new(),
            1 => Config::to(nobody()),
            _ => listening(Config::new(), &[("elsewhere", 0)]),
        };
        edge.publish(config.snapshot()).await;
        socket.send([round; 10]).await;
        assert_eq!(socket.exactly(10).await, Some(vec![round; 10]));
    }
}
