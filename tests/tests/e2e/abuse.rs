//! Clients that mean harm: the connection ends, memory stays, others notice nothing.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tidegate_tests::frames::{
    CONTINUATION, Connection, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, RST_STREAM, SETTINGS, WINDOW_UPDATE,
    frame, header_block, string,
};
use tidegate_tests::load::{self, Load, Report, Source};
use tidegate_tests::process::{free_port, local};
use tidegate_tests::wait::{self, PATIENCE};
use tidegate_tests::{ConfigFolder, EchoBackend, Protocol, Tidegate, client, yaml};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const ENHANCE_YOUR_CALM: u32 = 11;
const REFUSED_STREAM: u32 = 7;

struct Rig {
    tidegate: Tidegate,
    address: SocketAddr,
    backend: EchoBackend,
    _folder: ConfigFolder,
}

impl Rig {
    async fn start() -> Self {
        let (port, backend) = (free_port(), EchoBackend::start("a").await);
        let folder = ConfigFolder::with(yaml::echo(port, backend.address));
        Self { tidegate: Tidegate::start(&folder).await, address: local(port), backend, _folder: folder }
    }

    /// Others who use the gateway meanwhile.
    fn victims(&self) -> Load {
        Load::start([Source {
            address: self.address,
            host: "echo.test".into(),
            target: "/victim".into(),
            protocol: Protocol::Http1,
            rate: 50,
            connections: 2,
            judge: load::status_200(),
        }])
    }
}

fn unharmed(report: &Report) {
    assert_eq!(report.failed, 0, "{:#?}", report.failures);
}

fn get(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &header_block("echo.test", "/", &[]))
}

#[tokio::test]
async fn rapid_resets_end_the_connection() {
    let rig = Rig::start().await;
    let victims = rig.victims();
    let (cpu, memory) = (rig.tidegate.cpu(), rig.tidegate.memory().0);
    let mut attacker = Connection::open(rig.address).await;
    let mut sent = 0;
    for stream in (1..40_000).step_by(2) {
        let pair = [get(stream), frame(RST_STREAM, 0, stream, &8u32.to_be_bytes())].concat();
        if !attacker.write(&pair).await {
            break;
        }
        sent += 1;
    }
    let end = attacker.find(|frame| frame.kind == GOAWAY).await;
    if let Some(end) = &end {
        assert_eq!(end.error(), Some(ENHANCE_YOUR_CALM), "{end:?}");
    }
    assert!(sent < 20_000 || end.is_some(), "{sent} resets were taken");
    unharmed(&victims.finish().await);
    let (spent, grown) = (rig.tidegate.cpu() - cpu, rig.tidegate.memory().1.saturating_sub(memory));
    eprintln!("{sent} resets: {spent:?} of CPU, {grown} KiB, {} requests at the backend", rig.backend.requests());
    assert!(grown < 32 * 1024, "{grown} KiB");
}

#[tokio::test]
async fn header_blocks_without_end_end_the_connection() {
    let rig = Rig::start().await;
    let victims = rig.victims();
    let memory = rig.tidegate.memory().0;
    for size in [0, 1, 16_000] {
        let mut attacker = Connection::open(rig.address).await;
        attacker.write(&frame(HEADERS, END_STREAM, 1, &header_block("echo.test", "/", &[]))).await;
        // One literal field whose value never ends.
        let mut start = vec![0, 1, b'x'];
        start.extend([127, 0xff, 0xff, 0xff, 0x7f]);
        attacker.write(&frame(CONTINUATION, 0, 1, &start)).await;
        let mut taken = 0;
        while taken < 20_000 && attacker.write(&frame(CONTINUATION, 0, 1, &vec![b'x'; size])).await {
            taken += 1;
        }
        let end = attacker.find(|frame| frame.kind == GOAWAY || frame.kind == RST_STREAM).await;
        assert!(taken < 20_000 || end.is_some(), "{taken} CONTINUATION frames of {size} bytes were taken");
    }
    unharmed(&victims.finish().await);
    let grown = rig.tidegate.memory().1.saturating_sub(memory);
    assert!(grown < 32 * 1024, "{grown} KiB");
    let attacks = rig.backend.requests();
    assert_eq!(client::get(rig.address, "echo.test", "/").await.json()["requests"], attacks + 1);
}

#[tokio::test]
async fn small_blocks_of_big_headers_are_refused() {
    let rig = Rig::start().await;
    let victims = rig.victims();
    let memory = rig.tidegate.memory().0;
    let mut attacker = Connection::open(rig.address).await;
    // A field of 3.9 KB goes into the dynamic table once (index 62), and is referred to by one byte 10,000 times.
    let mut first = header_block("echo.test", "/", &[]);
    first.push(0x40);
    string(&mut first, b"x-bomb");
    string(&mut first, &[b'b'; 3900]);
    attacker.write(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &first)).await;
    for stream in (3..103).step_by(2) {
        let mut block = header_block("echo.test", "/bomb", &[]);
        block.extend(vec![0xbe; 10_000]);
        if !attacker.write(&frame(HEADERS, END_HEADERS | END_STREAM, stream, &block)).await {
            break;
        }
    }
    unharmed(&victims.finish().await);
    let grown = rig.tidegate.memory().1.saturating_sub(memory);
    eprintln!("header bombs: {grown} KiB");
    assert!(grown < 32 * 1024, "{grown} KiB");
    drop(attacker);
    assert_eq!(client::get(rig.address, "echo.test", "/").await.status, 200);
}

#[tokio::test]
async fn floods_of_control_frames_do_not_pile_up() {
    let rig = Rig::start().await;
    let victims = rig.victims();
    let memory = rig.tidegate.memory().0;
    let floods: [(&str, Vec<u8>); 4] = [
        ("PING", frame(PING, 0, 0, &[7; 8])),
        ("SETTINGS", frame(SETTINGS, 0, 0, &[])),
        ("WINDOW_UPDATE", frame(WINDOW_UPDATE, 0, 0, &1u32.to_be_bytes())),
        ("unknown", frame(200, 0, 0, b"unknown")),
    ];
    for (name, bytes) in floods {
        let mut attacker = Connection::open(rig.address).await;
        let burst = bytes.repeat(1000);
        let mut bursts = 0;
        // Answers are never read.
        while bursts < 200 && attacker.write(&burst).await {
            bursts += 1;
        }
        let grown = rig.tidegate.memory().1.saturating_sub(memory);
        eprintln!("{name}: {bursts},000 frames taken, {grown} KiB");
        assert!(grown < 32 * 1024, "{name}: {grown} KiB");
    }
    unharmed(&victims.finish().await);
}

#[tokio::test]
async fn streams_are_limited_and_the_connection_lives_on() {
    let rig = Rig::start().await;
    let mut client = Connection::open(rig.address).await;
    let block = header_block("echo.test", "/", &[(b"x-echo-hold", b"1")]);
    for stream in (1..=205).step_by(2) {
        client.write(&frame(HEADERS, END_HEADERS | END_STREAM, stream, &block)).await;
    }
    let refused = client.find(|frame| frame.kind == RST_STREAM).await.expect("a refused stream");
    assert_eq!((refused.stream, refused.error()), (201, Some(REFUSED_STREAM)));
    wait::until("a hundred streams at the backend", PATIENCE, || async { (rig.backend.held() == 100).then_some(()) })
        .await;
    rig.backend.release();
    let mut answered = 0;
    while answered < 100 {
        let frame = client.read().await.expect("answers to the others");
        answered += usize::from(frame.kind == HEADERS);
    }
}

#[tokio::test]
async fn http2_fields_cannot_become_http1_lines() {
    let rig = Rig::start().await;
    let cases: [(&str, &[u8], &[u8]); 9] = [
        ("CR LF in a value", b"x-a", b"b\r\nx-evil: 1"),
        ("LF in a value", b"x-a", b"b\nx-evil: 1"),
        ("NUL in a value", b"x-a", b"b\0c"),
        ("colon in a name", b"x-a: b\r\nx-evil", b"1"),
        ("upper case", b"X-Evil", b"1"),
        ("connection", b"connection", b"x-evil"),
        ("transfer-encoding", b"transfer-encoding", b"chunked"),
        ("a length that is not the body's", b"content-length", b"5"),
        ("a second :path", b":path", b"/evil"),
    ];
    for (name, field, value) in cases {
        let before = rig.backend.requests();
        let mut attacker = Connection::open(rig.address).await;
        let block = header_block("echo.test", "/case", &[(field, value)]);
        attacker.write(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &block)).await;
        let end = attacker.find(|frame| [RST_STREAM, GOAWAY, HEADERS].contains(&frame.kind)).await;
        if let Some(end) = &end
            && end.kind == HEADERS
        {
            // 400 from the static table; or a literal `:status: 400`.
            let refused = end.payload.first() == Some(&0x8c) || end.payload.windows(3).any(|w| w == b"400");
            assert!(refused, "{name} was answered: {end:?}");
        }
        assert_eq!(rig.backend.requests(), before, "{name} reached the backend");
    }
    assert_eq!(client::get(rig.address, "echo.test", "/").await.status, 200);
}

#[tokio::test]
async fn slow_heads_are_cut_at_the_deadline() {
    let rig = Rig::start().await;
    let victims = rig.victims();
    let starts: [&[u8]; 4] = [
        b"GET / HTTP/1.1\r\nhost: echo.test\r\nx-a",
        b"G",
        b"PRI * HTTP/2.0\r\n\r\nSM",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ];
    let attacks = starts.map(|start| {
        let address = rig.address;
        tokio::spawn(async move {
            let begin = Instant::now();
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(start).await.unwrap();
            let (mut reader, mut writer) = stream.into_split();
            // A byte now and then, so that no time-out of a single read helps; not where it would be a frame.
            let drip = tokio::spawn(async move {
                let mut ticks = tokio::time::interval(Duration::from_secs(2));
                ticks.tick().await;
                while start.starts_with(b"G") {
                    ticks.tick().await;
                    if writer.write_all(b"a").await.is_err() {
                        break;
                    }
                }
                std::future::pending::<()>().await;
            });
            let mut answer = Vec::new();
            let _ = tokio::time::timeout(Duration::from_secs(30), reader.read_to_end(&mut answer)).await;
            drip.abort();
            begin.elapsed()
        })
    });
    for (attack, start) in attacks.into_iter().zip(starts) {
        let took = attack.await.unwrap();
        let start = String::from_utf8_lossy(start);
        assert!(took > Duration::from_secs(8) && took < Duration::from_secs(13), "{start:?} was cut after {took:?}");
    }
    unharmed(&victims.finish().await);
}

#[tokio::test]
async fn answers_that_nobody_reads_are_not_held_in_memory() {
    let rig = Rig::start().await;
    let memory = rig.tidegate.memory().0;
    let mut readers = Vec::new();
    for number in 0..6 {
        let request = "GET / HTTP/1.1\r\nhost: echo.test\r\nx-echo-bytes: 40000000\r\n\r\n";
        if number % 2 == 0 {
            let mut stream = TcpStream::connect(rig.address).await.unwrap();
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut first = [0; 1];
            stream.read_exact(&mut first).await.unwrap();
            readers.push((Some(stream), None));
        } else {
            let mut connection = Connection::open(rig.address).await;
            let block = header_block("echo.test", "/", &[(b"x-echo-bytes", b"40000000")]);
            connection.write(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &block)).await;
            connection.find(|frame| frame.kind == HEADERS).await.expect("the head of the answer");
            readers.push((None, Some(connection)));
        }
    }
    // Time in which a gateway without back pressure would have read all of it.
    for _ in 0..200 {
        assert_eq!(client::get(rig.address, "echo.test", "/").await.status, 200);
    }
    let grown = rig.tidegate.memory().1.saturating_sub(memory);
    eprintln!("{} unread answers: {grown} KiB", readers.len());
    assert!(grown < 24 * 1024, "{grown} KiB for {} answers", readers.len());
}

#[tokio::test]
async fn a_body_that_the_backend_does_not_read_is_not_held_in_memory() {
    let rig = Rig::start().await;
    let silent = tidegate_tests::raw::Silent::start().await;
    let text = yaml::forward("s", "s.test", "s.test") + &yaml::service_entry("s", "s.test", "HTTP", &[silent.address]);
    rig.tidegate.apply(&rig._folder, "silent.yaml", text).await;
    let memory = rig.tidegate.memory().0;
    let mut stream = TcpStream::connect(rig.address).await.unwrap();
    stream.write_all(b"POST / HTTP/1.1\r\nhost: s.test\r\ncontent-length: 1000000000\r\n\r\n").await.unwrap();
    let block = vec![b'x'; 1 << 20];
    let mut written = 0;
    while let Ok(Ok(count)) = tokio::time::timeout(Duration::from_secs(1), stream.write(&block)).await {
        written += count;
        assert!(written < 200 << 20, "the gateway takes what nobody reads");
    }
    let grown = rig.tidegate.memory().1.saturating_sub(memory);
    eprintln!("{written} bytes taken of a body that nobody reads, {grown} KiB");
    assert!(grown < 16 * 1024, "{grown} KiB");
}
