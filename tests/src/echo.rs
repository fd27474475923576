//! A backend that tells what it received, over HTTP/1.1 and HTTP/2 with prior knowledge on one port.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Every answer is JSON: `backend` (the name), `method`, `target` (as received), `version`, `host`, `headers` (a list of
/// pairs in order), `length` and `sha256` of the body, `requests` (how many this backend has had).
///
/// Request headers ask for more: `x-echo-status` (another status), `x-echo-bytes` (a body of so many `x`),
/// `x-echo-header: name=value` (repeatable response headers), `x-echo-hold` (answers when [`EchoBackend::release`] is
/// called, and not before).
pub struct EchoBackend {
    pub address: SocketAddr,
    state: Arc<State>,
    release: watch::Sender<bool>,
    task: JoinHandle<()>,
}

struct State {
    name: String,
    requests: AtomicU64,
    held: AtomicU64,
    released: watch::Receiver<bool>,
}

impl EchoBackend {
    pub async fn start(name: &str) -> Self {
        Self::bind(name, "127.0.0.1:0").await
    }

    pub async fn bind(name: &str, address: &str) -> Self {
        let listener = TcpListener::bind(address).await.expect("a port for a backend");
        let address = listener.local_addr().expect("a bound address");
        let (release, released) = watch::channel(false);
        let state =
            Arc::new(State { name: name.to_owned(), requests: AtomicU64::new(0), held: AtomicU64::new(0), released });
        let task = tokio::spawn(accept(listener, state.clone()));
        Self { address, state, release, task }
    }

    /// How many requests have arrived whole.
    pub fn requests(&self) -> u64 {
        self.state.requests.load(Ordering::Relaxed)
    }

    /// How many requests wait for [`EchoBackend::release`].
    pub fn held(&self) -> u64 {
        self.state.held.load(Ordering::Relaxed)
    }

    /// Lets requests with `x-echo-hold` go, now and later.
    pub fn release(&self) {
        self.release.send_replace(true);
    }
}

impl Drop for EchoBackend {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    // Connections end with the backend: aborting this task drops the set.
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        let state = state.clone();
        connections.spawn(async move {
            let service = service_fn(move |request| answer(request, state.clone()));
            let mut builder = auto::Builder::new(TokioExecutor::new());
            builder.http1().half_close(true);
            // A client that goes away in the middle is the test's business, not the backend's.
            let _ = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn answer(request: Request<Incoming>, state: Arc<State>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    let Some((length, sha256)) = digest(body).await else {
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::BAD_REQUEST;
        return Ok(response);
    };
    let requests = state.requests.fetch_add(1, Ordering::Relaxed) + 1;
    if parts.headers.contains_key("x-echo-hold") {
        state.held.fetch_add(1, Ordering::Relaxed);
        let _ = state.released.clone().wait_for(|released| *released).await;
        state.held.fetch_sub(1, Ordering::Relaxed);
    }
    let host = parts.headers.get("host").map(text).or_else(|| parts.uri.authority().map(|a| a.to_string()));
    let report = json!({
        "backend": state.name,
        "method": parts.method.as_str(),
        "target": parts.uri.path_and_query().map_or("", |target| target.as_str()),
        "version": format!("{:?}", parts.version),
        "host": host,
        "headers": parts.headers.iter().map(|(name, value)| json!([name.as_str(), text(value)])).collect::<Vec<_>>(),
        "length": length,
        "sha256": sha256,
        "requests": requests,
    });
    let asked = |name: &str| parts.headers.get(name).map(text);
    let body = match asked("x-echo-bytes").and_then(|bytes| bytes.parse().ok()) {
        Some(bytes) => Bytes::from(vec![b'x'; bytes]),
        None => Bytes::from(report.to_string()),
    };
    let mut response = Response::new(Full::new(body));
    if let Some(status) = asked("x-echo-status").and_then(|status| status.parse::<StatusCode>().ok()) {
        *response.status_mut() = status;
    }
    let headers = response.headers_mut();
    headers.insert("content-type", HeaderValue::from_static("application/json"));
    headers.insert("server", HeaderValue::from_static("echo"));
    headers.insert("x-backend", HeaderValue::from_str(&state.name).expect("names of backends are plain"));
    add_asked_headers(&parts.headers, headers);
    Ok(response)
}

fn add_asked_headers(request: &HeaderMap, response: &mut HeaderMap) {
    for asked in request.get_all("x-echo-header") {
        let asked = text(asked);
        if let Some((name, value)) = asked.split_once('=')
            && let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(value))
        {
            response.append(name, value);
        }
    }
}

fn text(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

/// Length and hash of a body; none if it is cut off.
async fn digest(mut body: Incoming) -> Option<(usize, String)> {
    let mut length = 0;
    let mut hasher = Sha256::new();
    while let Some(frame) = body.frame().await {
        if let Some(data) = frame.ok()?.data_ref() {
            length += data.len();
            hasher.update(data);
        }
    }
    Some((length, hex(&hasher.finalize())))
}

/// SHA-256 of `data`, as the backend reports it.
pub fn sha256(data: &[u8]) -> String {
    hex(&Sha256::digest(data))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
