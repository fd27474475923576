//! Steady load whose every request is judged.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use crate::client::{Client, Protocol, Response};
use crate::wait;

/// What a request asks for, and how its answer is judged: an error is a failed request.
pub type Judge = Arc<dyn Fn(&Response) -> Result<(), String> + Send + Sync>;

/// One stream of requests.
#[derive(Clone)]
pub struct Source {
    pub address: SocketAddr,
    pub host: String,
    pub target: String,
    pub protocol: Protocol,
    /// Requests a second, over all connections.
    pub rate: u32,
    /// HTTP/1.1 connections, or HTTP/2 connections with one stream at a time.
    pub connections: u32,
    pub judge: Judge,
}

/// What became of a load.
#[derive(Debug, Default)]
pub struct Report {
    pub sent: u64,
    /// The first failures, in words.
    pub failures: Vec<String>,
    pub failed: u64,
    /// Sorted.
    pub latencies: Vec<Duration>,
}

impl Report {
    /// The latency that `percent` of the answers did not exceed.
    pub fn percentile(&self, percent: usize) -> Duration {
        let last = self.latencies.len().saturating_sub(1);
        self.latencies.get(last * percent / 100).copied().unwrap_or_default()
    }
}

/// What the clients of a load do next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// They connect again where the gateway closed a connection.
    Steady,
    /// They use their connections up to the end that the gateway sets.
    Leaving,
    Stopped,
}

/// Requests on their way, until [`Load::finish`].
pub struct Load {
    phase: watch::Sender<Phase>,
    tasks: JoinSet<Report>,
    sent: Arc<AtomicU64>,
}

impl Load {
    pub fn start(sources: impl IntoIterator<Item = Source>) -> Self {
        let (phase, phases) = watch::channel(Phase::Steady);
        let mut tasks = JoinSet::new();
        let sent = Arc::<AtomicU64>::default();
        for source in sources {
            for _ in 0..source.connections {
                tasks.spawn(run(source.clone(), phases.clone(), sent.clone()));
            }
        }
        Self { phase, tasks, sent }
    }

    /// Requests that have been answered or have failed so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Stops after the requests in flight.
    pub async fn finish(self) -> Report {
        self.phase.send_replace(Phase::Stopped);
        self.report().await
    }

    /// Goes on with the connections that are open, until the gateway has closed each of them in the way that HTTP has
    /// for it; opens no others. What clients behind a load balancer do when readiness fails.
    pub async fn leave(self) -> Report {
        self.phase.send_replace(Phase::Leaving);
        wait::within("the gateway to close every connection", self.report()).await
    }

    async fn report(mut self) -> Report {
        let mut whole = Report::default();
        while let Some(part) = self.tasks.join_next().await {
            let part = part.expect("a load task that does not panic");
            whole.sent += part.sent;
            whole.failed += part.failed;
            whole.failures.extend(part.failures);
            whole.latencies.extend(part.latencies);
        }
        whole.latencies.sort();
        whole
    }
}

async fn run(source: Source, mut phases: watch::Receiver<Phase>, sent: Arc<AtomicU64>) -> Report {
    let mut report = Report::default();
    let mut ticks = interval(Duration::from_secs(1) * source.connections / source.rate);
    // Late requests are made up for: a slow gateway does not get less to do.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut client: Option<Client> = None;
    loop {
        tokio::select! {
            _ = phases.wait_for(|phase| *phase == Phase::Stopped) => return report,
            _ = ticks.tick() => {}
        }
        if let Some(open) = &mut client
            && !open.is_open().await
        {
            client = None;
        }
        if client.is_none() && *phases.borrow() != Phase::Steady {
            return report;
        }
        let start = Instant::now();
        let outcome = tokio::time::timeout(Duration::from_secs(30), request(&source, &mut client)).await;
        report.sent += 1;
        sent.fetch_add(1, Ordering::Relaxed);
        let outcome = outcome.unwrap_or_else(|_| Err("no answer within 30 s".into()));
        match outcome {
            Ok(()) => report.latencies.push(start.elapsed()),
            Err(error) => {
                client = None;
                report.failed += 1;
                if report.failures.len() < 5 {
                    report.failures.push(format!("{} {}: {error}", source.host, source.target));
                }
            }
        }
    }
}

/// One request on the open connection, or on a new one.
async fn request(source: &Source, client: &mut Option<Client>) -> Result<(), String> {
    let client = match client {
        Some(client) => client,
        None => client.insert(Client::connect(source.protocol, source.address).await?),
    };
    let response = client.get(&source.host, &source.target).await?;
    (source.judge)(&response)
}

/// Accepts every 200.
pub fn status_200() -> Judge {
    Arc::new(
        |response| {
            if response.status == 200 { Ok(()) } else { Err(format!("{} {:?}", response.status, response.text())) }
        },
    )
}
