//! Load generators: wrk and h2load for saturation, our own for open loops, handshakes and WebSockets.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tidegate_tests::tls::{self, TlsOptions};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use tidegate_tests::sut::{HOST, Proxy};

/// What a round gave.
#[derive(Clone, Debug)]
pub(crate) struct Figures {
    /// CPU-seconds of the proxy for 100,000 requests.
    pub(crate) cpu: f64,
    /// Requests a second.
    pub(crate) rate: f64,
    pub p50: Option<f64>,
    pub p99: Option<f64>,
    pub(crate) failed: u64,
    pub(crate) noisy: bool,
}

#[derive(Clone, Copy)]
pub(crate) enum Tool {
    Wrk {
        tls: bool,
        path: &'static str,
        connections: u32,
    },
    H2load {
        path: &'static str,
        clients: u32,
        streams: u32,
    },
    /// Requests leave when their time has come, answered or not; latency counts from that time.
    Rate {
        tls: bool,
        rate: u64,
    },
    /// Server names `h0.bench.test` and on, in an order that no cache likes.
    Handshakes {
        resume: bool,
        hosts: usize,
    },
    WebSocket {
        connections: usize,
    },
}

impl Tool {
    pub(crate) async fn run(self, proxy: &Proxy, time: Duration) -> Figures {
        let before = proxy.cpu_of_all();
        let mut counted = match self {
            Tool::Wrk { tls, path, connections } => wrk(proxy, tls, path, connections, time).await,
            Tool::H2load { path, clients, streams } => h2load(proxy, path, clients, streams, time).await,
            Tool::Rate { tls, rate } => open_loop(proxy, tls, rate, time).await,
            Tool::Handshakes { resume, hosts } => handshakes(proxy, resume, hosts, time).await,
            Tool::WebSocket { connections } => websockets(proxy, connections, time).await,
        };
        let used = proxy.cpu_of_all() - before;
        counted.latencies.sort_unstable();
        let percentile = |percent: usize| {
            let last = counted.latencies.len().checked_sub(1)?;
            Some(counted.latencies[last * percent / 100].as_secs_f64() * 1e3)
        };
        Figures {
            cpu: used.as_secs_f64() / counted.requests.max(1) as f64 * 1e5,
            rate: counted.requests as f64 / counted.took.as_secs_f64(),
            p50: counted.p50.or_else(|| percentile(50)),
            p99: counted.p99.or_else(|| percentile(99)),
            failed: counted.failed,
            noisy: false,
        }
    }
}

#[derive(Default)]
struct Counted {
    requests: u64,
    failed: u64,
    took: Duration,
    latencies: Vec<Duration>,
    p50: Option<f64>,
    p99: Option<f64>,
}

/// Runs a program on core 1 and waits for it.
async fn run(program: &str, args: &[String]) -> String {
    let (program, args) = (program.to_owned(), args.to_vec());
    let output = tokio::task::spawn_blocking(move || {
        Command::new("taskset")
            .args(["-c", "1", &program])
            .args(&args)
            .output()
            .unwrap_or_else(|error| panic!("{program}: {error}; `sh tests/setup.sh compare` installs it"))
    });
    let output = output.await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

async fn wrk(proxy: &Proxy, tls: bool, path: &str, connections: u32, time: Duration) -> Counted {
    let (scheme, address) = if tls { ("https", proxy.tls) } else { ("http", proxy.plain) };
    // wrk sends the name of the URL as SNI: the name resolves to loopback through /etc/hosts nowhere, so addresses are
    // used and the certificate is chosen without a name; every proxy has one server for any name.
    let args = [
        "-t1",
        "-c",
        &connections.to_string(),
        "-d",
        &time.as_secs().to_string(),
        "--latency",
        "-H",
        &format!("Host: {HOST}"),
        &format!("{scheme}://{address}{path}"),
    ]
    .map(str::to_owned);
    let output = run("wrk", &args).await;
    let line = |start: &str| output.lines().find(|line| line.trim_start().starts_with(start));
    let word = |start: &str, at: usize| line(start).and_then(|line| line.split_whitespace().nth(at)).map(str::to_owned);
    let requests = output.lines().find(|line| line.contains("requests in")).unwrap_or_else(|| panic!("{output}"));
    let requests: u64 = requests.split_whitespace().next().unwrap().parse().unwrap();
    let numbers =
        |line: &str| line.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse::<u64>().ok()).sum::<u64>();
    let failed =
        line("Socket errors").map_or(0, numbers) + line("Non-2xx").map_or(0, |line| numbers(line).saturating_sub(5));
    Counted {
        requests,
        failed,
        took: time,
        p50: word("50%", 1).map(|text| milliseconds(&text)),
        p99: word("99%", 1).map(|text| milliseconds(&text)),
        ..Counted::default()
    }
}

/// `1.23ms`, `850.00us`, `1.20s` in milliseconds.
fn milliseconds(text: &str) -> f64 {
    let (number, unit) = text.split_at(text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len()));
    let number: f64 = number.parse().unwrap();
    match unit {
        "us" => number / 1e3,
        "s" => number * 1e3,
        _ => number,
    }
}

async fn h2load(proxy: &Proxy, path: &str, clients: u32, streams: u32, time: Duration) -> Counted {
    let log = tempfile::NamedTempFile::new().unwrap();
    let args = [
        "-D".to_owned(),
        time.as_secs().to_string(),
        format!("-c{clients}"),
        format!("-m{streams}"),
        "-t1".into(),
        "--npn-list=h2".into(),
        format!("--log-file={}", log.path().display()),
        "-H".into(),
        format!(":authority: {HOST}"),
        format!("https://{}{path}", proxy.tls),
    ];
    let output = run("h2load", &args).await;
    let line = output.lines().find(|line| line.starts_with("requests:")).unwrap_or_else(|| panic!("{output}"));
    let words: Vec<&str> = line.split_whitespace().collect();
    let number = |name: &str| -> u64 {
        let at = words.iter().position(|word| word.trim_end_matches(',') == name).unwrap_or_else(|| panic!("{line}"));
        words[at - 1].parse().unwrap()
    };
    // Start, status, and microseconds of every request.
    let text = std::fs::read_to_string(log.path()).unwrap();
    let latencies = text.lines().filter_map(|line| line.split('\t').nth(2)?.parse().ok()).map(Duration::from_micros);
    Counted {
        requests: number("done"),
        failed: number("failed") + number("errored") + number("timeout"),
        took: time,
        latencies: latencies.collect(),
        ..Counted::default()
    }
}

fn request() -> Vec<u8> {
    format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n").into_bytes()
}

/// Reads one answer with a content-length. Gives false if it is no 200.
pub(crate) async fn read_answer(stream: &mut (impl AsyncRead + Unpin), buffer: &mut Vec<u8>) -> std::io::Result<bool> {
    buffer.clear();
    let head = loop {
        if let Some(at) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        if stream.read_buf(buffer).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    };
    let text = std::str::from_utf8(&buffer[..head]).unwrap_or_default();
    let length = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    let ok = text.starts_with("HTTP/1.1 200");
    let total = head + length.unwrap_or(0);
    while buffer.len() < total {
        if stream.read_buf(buffer).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(ok)
}

/// Either kind of connection.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

pub(crate) async fn connect(proxy: &Proxy, tls: bool) -> Box<dyn Stream> {
    if tls {
        Box::new(TlsOptions::to(HOST).handshake(proxy.tls).await.unwrap())
    } else {
        let stream = TcpStream::connect(proxy.plain).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Box::new(stream)
    }
}

async fn open_loop(proxy: &Proxy, tls: bool, rate: u64, time: Duration) -> Counted {
    const CONNECTIONS: u64 = 32;
    let begin = Instant::now() + Duration::from_millis(50);
    let mut clients = JoinSet::new();
    for number in 0..CONNECTIONS {
        let mut stream = connect(proxy, tls).await;
        clients.spawn(async move {
            let (mut counted, mut buffer, request) = (Counted::default(), Vec::new(), request());
            let pause = Duration::from_secs_f64(CONNECTIONS as f64 / rate as f64);
            let mut due = begin + pause.mul_f64(number as f64 / CONNECTIONS as f64);
            while due < begin + time {
                tokio::time::sleep_until(due.into()).await;
                if stream.write_all(&request).await.is_err() || stream.flush().await.is_err() {
                    counted.failed += 1;
                    break;
                }
                match read_answer(&mut stream, &mut buffer).await {
                    Ok(true) => counted.latencies.push(due.elapsed()),
                    _ => counted.failed += 1,
                }
                counted.requests += 1;
                due += pause;
            }
            counted
        });
    }
    collect(clients, time).await
}

async fn handshakes(proxy: &Proxy, resume: bool, hosts: usize, time: Duration) -> Counted {
    let mut clients = JoinSet::new();
    let end = Instant::now() + time;
    for client in 0..8 {
        let (address, options) = (proxy.tls, TlsOptions::to(HOST));
        clients.spawn(async move {
            let (mut counted, mut buffer, request) = (Counted::default(), Vec::new(), request());
            let fixed = options.config();
            let mut at = client;
            while Instant::now() < end {
                let config = if resume { fixed.clone() } else { options.without_resumption(&fixed) };
                let begin = Instant::now();
                at = (at + 7919) % hosts;
                let name = format!("h{at}.bench.test");
                let outcome = async {
                    let mut stream =
                        tls::handshake(config, Some(&name), address).await.map_err(std::io::Error::other)?;
                    stream.write_all(&request).await?;
                    stream.flush().await?;
                    read_answer(&mut stream, &mut buffer).await
                };
                match outcome.await {
                    Ok(true) => counted.latencies.push(begin.elapsed()),
                    _ => counted.failed += 1,
                }
                counted.requests += 1;
            }
            counted
        });
    }
    collect(clients, time).await
}

async fn websockets(proxy: &Proxy, connections: usize, time: Duration) -> Counted {
    const MESSAGE: usize = 64;
    let stop = Arc::new(AtomicBool::new(false));
    let messages = Arc::new(AtomicU64::new(0));
    let mut clients = JoinSet::new();
    for _ in 0..connections {
        let mut stream = connect(proxy, false).await;
        let (stop, messages) = (stop.clone(), messages.clone());
        clients.spawn(async move {
            let mut counted = Counted::default();
            let upgrade = format!(
                "GET /ws HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            );
            stream.write_all(upgrade.as_bytes()).await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                assert!(stream.read_buf(&mut head).await.unwrap() > 0, "the upgrade was refused");
            }
            assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
            // A masked binary frame; what comes back is as long.
            let frame = [&[0x82, 0x80 | (MESSAGE as u8), 1, 2, 3, 4][..], &[7; MESSAGE][..]].concat();
            let mut answer = vec![0; frame.len()];
            while !stop.load(Relaxed) {
                let begin = Instant::now();
                if stream.write_all(&frame).await.is_err() || stream.read_exact(&mut answer).await.is_err() {
                    counted.failed += 1;
                    break;
                }
                counted.latencies.push(begin.elapsed());
                counted.requests += 1;
                messages.fetch_add(1, Relaxed);
            }
            counted
        });
    }
    tokio::time::sleep(time).await;
    stop.store(true, Relaxed);
    collect(clients, time).await
}

async fn collect(mut clients: JoinSet<Counted>, took: Duration) -> Counted {
    let mut all = Counted { took, ..Counted::default() };
    while let Some(counted) = clients.join_next().await {
        let counted = counted.unwrap();
        all.requests += counted.requests;
        all.failed += counted.failed;
        all.latencies.extend(counted.latencies);
    }
    all
}
