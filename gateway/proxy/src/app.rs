use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use http::HeaderMap;
use pingora_core::apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream};
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::http::v2::server::{H2Options, default_h2_options};
use pingora_core::server::ShutdownWatch;
use pingora_core::server::configuration::ServerConf;
use pingora_proxy::HttpProxy;

use crate::connection::Connection;
use crate::deadline::{Deadline, OnExpiry, WithDeadline};
use crate::http_proxy;
use crate::http_service::HttpService;
use crate::http1::Upstreams;
use crate::local_reply::LocalReply;
use crate::shared::Shared;
use crate::telemetry::{ParseError, RequestFacts};
use crate::upstream::TlsConnector;

/// Tries of one request that Pingora makes at most; the retry policy gives up earlier.
const MAX_ATTEMPTS: usize = 8;
/// How much later than its deadline an HTTP/2 request that could not be answered is reset.
const RESET_GRACE: Duration = Duration::from_millis(100);
/// Flow control over all streams of a connection: Envoy's advice for edges.
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Flow control of one stream, and so what one slow backend may leave in memory.
const STREAM_WINDOW: u32 = 64 * 1024;

/// What one worker serves HTTP with: Pingora's proxy with its own pools of upstream connections.
pub(crate) struct HttpApp {
    proxy: Arc<HttpProxy<HttpService, TlsConnector>>,
    shared: Arc<Shared>,
    options: HttpServerOptions,
    upstreams: Upstreams,
}

impl HttpApp {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let conf = ServerConf {
            threads: 1,
            max_retries: MAX_ATTEMPTS,
            upstream_keepalive_pool_size: shared.limits.max_idle_upstream,
            // Our own connector verifies backends; without a file Pingora reads the system's roots twice for each worker.
            ca_file: Some("/dev/null".into()),
            ..ServerConf::default()
        };
        let mut options = HttpServerOptions::default();
        // CONNECT is refused by us, so that it is logged and counted.
        options.allow_connect_method_proxying = true;
        options.h2_idle_timeout = Some(shared.limits.idle_timeout);
        let mut proxy = http_proxy::with_connector(&Arc::new(conf), HttpService::new(shared.clone()), TlsConnector);
        proxy.server_options = Some(options.clone());
        let upstreams = Upstreams::new(shared.limits.max_idle_upstream);
        Self { proxy: Arc::new(proxy), shared, options, upstreams }
    }

    /// The idle connections to backends of HTTP/1.
    pub(crate) fn upstreams(&self) -> &Upstreams {
        &self.upstreams
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Serves one HTTP/1 request. Gives the stream back if Pingora does.
    pub(crate) async fn serve_http1(
        &self,
        mut session: ServerSession,
        connection: &Arc<Connection>,
        draining: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        self.set_timeouts(&mut session);
        let request = self.proxy.process_new_http(session, draining);
        WithDeadline::new(request, &connection.deadline, OnExpiry::FailStream).await.flatten()
    }

    /// Counts and logs bytes that were refused before they became a request.
    pub(crate) fn refused(&self, connection: &Connection, head: &[u8], reply: &LocalReply) {
        let error = match reply.status {
            408 => ParseError::Timeout,
            414 | 431 => ParseError::TooLarge,
            426 => ParseError::Version,
            _ => ParseError::Malformed,
        };
        connection.listener.metrics.parse_error(error);
        connection.listener.metrics.request_finished(reply.status);
        let published = self.shared.published.load();
        let Some(sink) = published.access_log() else { return };
        let (method, path) = request_line(head);
        let headers = HeaderMap::new();
        let mut facts = RequestFacts::new(SystemTime::now(), method, path, &headers);
        facts.protocol = "HTTP/1.1";
        facts.duration = Some(Duration::ZERO);
        facts.response_code = reply.status;
        facts.flags = reply.flags;
        facts.response_code_details = Some(&reply.details);
        connection.describe(&mut facts);
        facts.hostname = Some(&self.shared.hostname);
        sink.log(&facts);
    }

    fn set_timeouts(&self, session: &mut ServerSession) {
        let stall = Some(self.shared.limits.stall_timeout);
        session.set_read_timeout(stall);
        session.set_write_timeout(stall);
        // Our stream delivers a request's body and no more, so that an early answer is no reason to close.
        session.set_close_on_response_before_downstream_finish(false);
        // An answer that comes before the end of its request's body must not wait for the body.
        session.set_total_drain_timeout(Some(Duration::from_secs(1)));
    }
}

/// Method and target of a request line, as far as they are short text; for logs only.
fn request_line(head: &[u8]) -> (&str, &str) {
    const LONGEST: usize = 256;
    let line = head.split(|byte| *byte == b'\r' || *byte == b'\n').next().unwrap_or_default();
    let mut parts = line.get(..LONGEST).unwrap_or(line).split(|byte| *byte == b' ');
    let mut next = || parts.next().and_then(|part| std::str::from_utf8(part).ok()).unwrap_or_default();
    (next(), next())
}

/// HTTP/2: Pingora accepts the streams of a connection and hands each to this.
#[async_trait]
impl HttpServerApp for HttpApp {
    async fn process_new_http(
        self: &Arc<Self>,
        mut session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        self.set_timeouts(&mut session);
        let deadline = Arc::new(Deadline::default());
        session.req_header_mut().extensions_mut().insert(deadline.clone());
        let request = self.proxy.process_new_http(session, shutdown);
        WithDeadline::new(request, &deadline, OnExpiry::Drop { grace: RESET_GRACE }).await.flatten()
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        Some(&self.options)
    }

    fn h2_options(&self) -> Option<H2Options> {
        let mut options = default_h2_options();
        options
            .max_concurrent_streams(self.shared.limits.max_concurrent_streams)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW);
        Some(options)
    }
}
