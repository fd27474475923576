use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Request, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde_json::Value;

/// Limit for one whole call.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// Our services answer with far less.
const MAX_BODY: usize = 64 << 10;

/// Calls the other services through the gateway.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    client: Client<HttpConnector, Empty<Bytes>>,
    /// `127.0.0.1:8080`.
    gateway: String,
}

/// What came of a call.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) path: String,
    /// None if there was no answer at all.
    pub(crate) status: Option<u16>,
    /// Null unless the answer was JSON.
    pub(crate) body: Value,
    /// Why there was no answer.
    pub(crate) error: Option<String>,
    /// Which service says that it answered; empty for an answer of the gateway itself.
    pub(crate) served_by: String,
    pub(crate) took: Duration,
}

impl Caller {
    /// A caller through the gateway that listens on `port` of this machine.
    pub(crate) fn new(port: u16) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(Duration::from_secs(1)));
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(30))
            .pool_max_idle_per_host(16)
            .build(connector);
        Self { client, gateway: format!("127.0.0.1:{port}") }
    }

    /// GETs `path` with `headers`. Takes no longer than five seconds.
    pub(crate) async fn get(&self, path: &str, headers: HeaderMap) -> Call {
        let start = Instant::now();
        let mut call = Call {
            path: path.to_owned(),
            status: None,
            body: Value::Null,
            error: None,
            served_by: String::new(),
            took: Duration::ZERO,
        };
        match tokio::time::timeout(CALL_TIMEOUT, self.fetch(&mut call, headers)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => call.error = Some(error),
            Err(_) => call.error = Some(format!("no answer within {} s", CALL_TIMEOUT.as_secs())),
        }
        call.took = start.elapsed();
        call
    }

    async fn fetch(&self, call: &mut Call, headers: HeaderMap) -> Result<(), String> {
        let uri = Uri::builder()
            .scheme("http")
            .authority(self.gateway.as_str())
            .path_and_query(call.path.as_str())
            .build()
            .map_err(|error| error.to_string())?;
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        request.headers_mut().insert(header::ACCEPT, header::HeaderValue::from_static("application/json"));
        let response = self.client.request(request).await.map_err(|error| {
            if error.is_connect() {
                format!("nothing answers on {}; has the Gateway's port changed since the start?", self.gateway)
            } else {
                format!("the connection to {} ended without an answer", self.gateway)
            }
        })?;
        call.status = Some(response.status().as_u16());
        let served_by = response.headers().get("x-served-by").and_then(|name| name.to_str().ok());
        call.served_by = served_by.unwrap_or_default().to_owned();
        let body = Limited::new(response.into_body(), MAX_BODY).collect().await;
        let body = body.map_err(|_| "the answer ended early, or is too long".to_owned())?.to_bytes();
        call.body = serde_json::from_slice(&body).unwrap_or(Value::Null);
        Ok(())
    }
}
