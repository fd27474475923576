//! Requests in an open loop, each recorded, none retried.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Version};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use tidegate_tests::tls::TlsOptions;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::outcome::{Outcome, Record, Records};

/// A request that takes longer is lost.
const PATIENCE: Duration = Duration::from_secs(5);

/// How an answer is judged.
pub(crate) type Judge = Arc<dyn Fn(u16, &Bytes) -> Outcome + Send + Sync>;

/// 200 with this body.
pub(crate) fn body(expected: &'static str) -> Judge {
    Arc::new(move |status, found| match status {
        200 if found == expected.as_bytes() => Outcome::Ok,
        200 => Outcome::WrongBody,
        status => Outcome::Status(status),
    })
}

/// 200, whatever the body.
pub(crate) fn ok() -> Judge {
    Arc::new(|status, _| if status == 200 { Outcome::Ok } else { Outcome::Status(status) })
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speaks {
    Http1,
    Http2,
    /// Over TLS, a new connection for each request.
    NewTls,
    /// A new plaintext connection for each request.
    New,
}

/// What to ask for.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    pub(crate) host: &'static str,
    pub(crate) path: &'static str,
    pub(crate) speaks: Speaks,
    /// Requests a second.
    pub(crate) rate: u32,
    pub(crate) judge: Judge,
}

type Http1 = http1::SendRequest<Full<Bytes>>;
type Http2 = http2::SendRequest<Full<Bytes>>;

struct Pool {
    target: Target,
    idle: Mutex<Vec<Http1>>,
    shared: tokio::sync::Mutex<Option<Http2>>,
}

impl Pool {
    async fn send(&self) -> Outcome {
        match timeout(PATIENCE, self.exchange()).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(outcome)) => outcome,
            Err(_) => Outcome::Timeout,
        }
    }

    async fn exchange(&self) -> Result<Outcome, Outcome> {
        let target = &self.target;
        let request = Request::builder().method("GET");
        let reset = |_: hyper::Error| Outcome::Reset;
        let response = match target.speaks {
            Speaks::Http2 => {
                let mut sender = self.http2().await?;
                let request = request.uri(format!("http://{}{}", target.host, target.path)).version(Version::HTTP_2);
                let answer = sender.send_request(request.body(Full::default()).unwrap()).await.map_err(reset)?;
                let status = answer.status().as_u16();
                (status, answer.into_body().collect().await.map_err(reset)?.to_bytes())
            }
            speaks => {
                // The most recently used one: others may be closed by the server's idle timeout first.
                let idle = if speaks == Speaks::Http1 { self.idle.lock().pop() } else { None };
                let mut sender = match idle {
                    Some(sender) => sender,
                    None => self.connect().await?,
                };
                let request = request.uri(target.path).header("host", target.host);
                let answer = sender.send_request(request.body(Full::default()).unwrap()).await.map_err(reset)?;
                let status = answer.status().as_u16();
                let body = answer.into_body().collect().await.map_err(reset)?.to_bytes();
                // Not ready means that the server said it would close.
                if speaks == Speaks::Http1 && sender.ready().await.is_ok() {
                    self.idle.lock().push(sender);
                }
                (status, body)
            }
        };
        Ok((target.judge)(response.0, &response.1))
    }

    async fn connect(&self) -> Result<Http1, Outcome> {
        let reset = |_: hyper::Error| Outcome::Reset;
        if self.target.speaks == Speaks::NewTls {
            let tls =
                TlsOptions::to(self.target.host).handshake(self.target.address).await.map_err(|_| Outcome::Tls)?;
            let (sender, connection) = http1::handshake(TokioIo::new(tls)).await.map_err(reset)?;
            tokio::spawn(connection);
            return Ok(sender);
        }
        let tcp = TcpStream::connect(self.target.address).await.map_err(|_| Outcome::Refused)?;
        let _ = tcp.set_nodelay(true);
        let (sender, connection) = http1::handshake(TokioIo::new(tcp)).await.map_err(reset)?;
        tokio::spawn(connection);
        Ok(sender)
    }

    async fn http2(&self) -> Result<Http2, Outcome> {
        let mut shared = self.shared.lock().await;
        if let Some(sender) = &mut *shared
            && sender.ready().await.is_ok()
        {
            return Ok(sender.clone());
        }
        let tcp = TcpStream::connect(self.target.address).await.map_err(|_| Outcome::Refused)?;
        let _ = tcp.set_nodelay(true);
        let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(tcp)).await;
        let (sender, connection) = handshake.map_err(|_| Outcome::Reset)?;
        tokio::spawn(connection);
        *shared = Some(sender.clone());
        Ok(sender)
    }
}

/// A running load.
pub(crate) struct Probe {
    stop: watch::Sender<bool>,
    records: Arc<Mutex<Vec<Record>>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Probe {
    pub(crate) fn start(targets: impl IntoIterator<Item = Target>) -> Self {
        let (stop, stopped) = watch::channel(false);
        let begun = Instant::now();
        let records = Arc::<Mutex<Vec<Record>>>::default();
        let tasks =
            targets.into_iter().map(|target| tokio::spawn(run(target, begun, records.clone(), stopped.clone())));
        Self { stop, tasks: tasks.collect(), records }
    }

    /// Sends nothing more and waits for what is on its way.
    pub(crate) async fn finish(self) -> Records {
        self.stop.send_replace(true);
        for task in self.tasks {
            task.await.unwrap();
        }
        let records = std::mem::take(&mut *self.records.lock());
        Records(records)
    }
}

async fn run(target: Target, begun: Instant, records: Arc<Mutex<Vec<Record>>>, mut stop: watch::Receiver<bool>) {
    let pause = Duration::from_secs_f64(1.0 / f64::from(target.rate));
    let pool = Arc::new(Pool { target, idle: Mutex::default(), shared: tokio::sync::Mutex::default() });
    // Late ticks are made up for at once: an open loop does not wait for a slow server.
    let mut ticks = interval(pause);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut requests = JoinSet::new();
    loop {
        let due = tokio::select! {
            due = ticks.tick() => due.into_std(),
            _ = stop.wait_for(|stop| *stop) => break,
        };
        let (pool, records) = (pool.clone(), records.clone());
        requests.spawn(async move {
            let outcome = pool.send().await;
            let record = Record { at: due.saturating_duration_since(begun), took: due.elapsed(), outcome };
            records.lock().push(record);
        });
        while requests.try_join_next().is_some() {}
    }
    while requests.join_next().await.is_some() {}
}
