use std::sync::Arc;

use ahash::RandomState;
use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use pingora_core::modules::http::HttpModules;
use pingora_core::protocols::Digest;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::{Error, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};
use tokio::time::{Instant, sleep};

use crate::belonging::{self, Misdirected};
use crate::connection::Connection;
use crate::deadline::Deadline;
use crate::edge::{self, Downstream};
use crate::local_reply::{Client, LocalReply};
use crate::message::{RequestHead, ResponseHead};
use crate::request_context::{RequestContext, inet};
use crate::shared::Shared;
use crate::telemetry::GrpcStatus;
use crate::upstream::ConnectionOrigin;
use crate::{failure, peer, respond, retry, routing, upstream};

const ATTEMPT_COUNT: &str = "x-envoy-attempt-count";
/// RFC 8555 section 8.3; a token follows.
const ACME_CHALLENGE: &str = "/.well-known/acme-challenge/";

/// The request path, in the order in which Pingora calls it.
pub(crate) struct HttpService {
    shared: Arc<Shared>,
    /// Keyed at random, so that nobody can choose names of one hash.
    hashes: RandomState,
}

impl HttpService {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, hashes: RandomState::new() }
    }

    /// Binds the request to its connection and to the configuration that it will see.
    fn pin(&self, session: &mut Session, context: &mut RequestContext) -> Result<()> {
        let Some(connection) = Connection::of(session).cloned() else {
            return Error::e_explain(ErrorType::InternalError, "a stream that is not ours");
        };
        if session.is_http2() {
            context.stream_deadline =
                session.as_downstream_mut().req_header_mut().extensions_mut().remove::<Arc<Deadline>>();
        } else {
            connection.admit();
        }
        context.published = Some(self.shared.published_for(&connection.listener));
        context.connection = Some(connection);
        Ok(())
    }

    /// [`decide`] for a request that Pingora holds.
    fn decide(&self, session: &mut Session, context: &mut RequestContext) -> Result<Option<LocalReply>> {
        // Decides how the body is framed, from headers that are still the client's.
        let has_no_body = session.is_body_done();
        let header = session.as_downstream_mut().req_header_mut();
        context.request.read(header);
        let reply = decide(context, &self.shared);
        if reply.is_none() {
            context.request.write(header)?;
        }
        if has_no_body {
            context.request_is_over();
        }
        Ok(reply)
    }
}

/// Everything between the head of a request and its first byte upstream; an answer if it ends here. The context has its
/// connection, its configuration and its request.
pub(crate) fn decide(context: &mut RequestContext, shared: &Shared) -> Option<LocalReply> {
    let (Some(connection), Some(published)) = (context.connection.clone(), context.published.clone()) else {
        return Some(LocalReply::INTERNAL);
    };
    context.client = Client::of(&context.request.fields);
    let downstream = Downstream { peer: connection.peer, tls: connection.tls.as_deref() };
    match edge::admit(&mut context.request, downstream, published.snapshot().mesh(), &shared.limits) {
        Ok(admitted) => context.admitted = Some(admitted),
        Err(reply) => return Some(reply),
    }
    let Some(listener) = published.listener(&connection.listener.name) else {
        return Some(LocalReply::NO_ROUTE);
    };
    if let Some(reply) = answer_challenge(&context.request, shared) {
        return Some(reply);
    }
    let chain = match belonging::filter_chain(listener, connection.tls.as_deref(), &context.request.authority) {
        Ok(chain) => chain,
        Err(Misdirected::Request) => return Some(LocalReply::MISDIRECTED),
        Err(Misdirected::Connection) => {
            connection.ask_to_leave();
            return Some(LocalReply::MISDIRECTED);
        }
    };
    routing::route(chain, listener.port, context)
}

/// The answer to an authority's question (HTTP-01), which nothing that is configured may come before.
fn answer_challenge(request: &RequestHead, shared: &Shared) -> Option<LocalReply> {
    let challenges = shared.secrets.challenges();
    if !challenges.any() {
        return None;
    }
    let token = request.target.strip_prefix(ACME_CHALLENGE)?;
    Some(LocalReply::acme_challenge(&challenges.http(token)?))
}

#[async_trait]
impl ProxyHttp for HttpService {
    type CTX = RequestContext;

    fn new_ctx(&self) -> RequestContext {
        RequestContext::new(self.shared.clone())
    }

    /// No modules: compression is the backends' affair.
    fn init_downstream_modules(&self, _modules: &mut HttpModules) {}

    async fn early_request_filter(&self, session: &mut Session, context: &mut RequestContext) -> Result<()> {
        self.pin(session, context)
    }

    async fn request_filter(&self, session: &mut Session, context: &mut RequestContext) -> Result<bool> {
        if let Some(reply) = self.decide(session, context)? {
            // That it cannot be sent is the client's doing.
            respond::send(session, context, &reply).await.map_err(|error| error.into_down())?;
            return Ok(true);
        }
        Ok(false)
    }

    async fn upstream_peer(&self, session: &mut Session, context: &mut RequestContext) -> Result<Box<HttpPeer>> {
        context.attempts += 1;
        context.connected = false;
        if context.attempts > 1 {
            retry::prepare(context).await?;
        }
        peer::build(session, context, self.shared.limits.stall_timeout, &self.hashes)
    }

    async fn connected_to_upstream(
        &self,
        _session: &mut Session,
        reused: bool,
        _peer: &HttpPeer,
        _fd: std::os::unix::io::RawFd,
        digest: Option<&Digest>,
        context: &mut RequestContext,
    ) -> Result<()> {
        if let Some(key) = &context.pool_key {
            upstream::check(key, digest)?;
        }
        context.connected = true;
        context.upstream_start = Some(Instant::now());
        if let Some(host) = context.host() {
            host.connected(if reused { ConnectionOrigin::Pooled } else { ConnectionOrigin::New });
        }
        let socket = digest.and_then(|digest| digest.socket_digest.as_ref());
        context.upstream_address = socket.and_then(|socket| socket.local_addr()).and_then(inet);
        Ok(())
    }

    async fn upstream_request_filter(
        &self,
        _session: &mut Session,
        request: &mut RequestHeader,
        context: &mut RequestContext,
    ) -> Result<()> {
        request.insert_header(ATTEMPT_COUNT, context.attempts.to_string())?;
        Ok(())
    }

    async fn request_body_filter(
        &self,
        _session: &mut Session,
        _body: &mut Option<Bytes>,
        end_of_stream: bool,
        context: &mut RequestContext,
    ) -> Result<()> {
        if end_of_stream {
            context.request_is_over();
        }
        Ok(())
    }

    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        context: &mut RequestContext,
    ) -> Result<()> {
        if response.status == StatusCode::SWITCHING_PROTOCOLS {
            failure::check_upgrade(session, response)?;
        } else if response.status.is_informational() {
            return failure::check_interim(context);
        }
        failure::check_framing(response)?;
        if let Some(host) = context.host() {
            host.answered(response.status.as_u16());
        }
        let mut head = ResponseHead::default();
        head.read(response);
        retry::check_response(session, &head, context)?;
        context.response = head;
        context.response_start.get_or_insert_with(Instant::now);
        Ok(())
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        context: &mut RequestContext,
    ) -> Result<()> {
        if response.status.is_informational() && response.status != StatusCode::SWITCHING_PROTOCOLS {
            return Ok(());
        }
        context.details = "via_upstream".into();
        context.passed_on = response.status.as_u16();
        let mut head = std::mem::take(&mut context.response);
        // Pingora has settled the framing meanwhile.
        head.read(response);
        respond::prepare_proxied(&mut head, context);
        head.write(response)?;
        context.response = head;
        if response.status == StatusCode::SWITCHING_PROTOCOLS
            && let Some(connection) = &context.connection
        {
            connection.become_tunnel();
            connection.deadline.set(None);
            context.expires = None;
            let downstream = session.as_downstream_mut();
            downstream.set_read_timeout(None);
            downstream.set_write_timeout(None);
        }
        if context.connection.as_ref().is_some_and(|connection| connection.is_leaving()) {
            session.set_keepalive(None);
        }
        Ok(())
    }

    fn upstream_response_trailer_filter(
        &self,
        _session: &mut Session,
        trailers: &mut HeaderMap,
        context: &mut RequestContext,
    ) -> Result<()> {
        if context.client == Client::Grpc
            && let Some(status) = trailers.get("grpc-status")
        {
            context.grpc_status = Some(GrpcStatus::from_header(status.as_bytes()));
        }
        Ok(())
    }

    fn fail_to_connect(
        &self,
        session: &mut Session,
        _peer: &HttpPeer,
        context: &mut RequestContext,
        error: Box<Error>,
    ) -> Box<Error> {
        failure::connect_failed(session, context, error)
    }

    fn error_while_proxy(
        &self,
        _peer: &HttpPeer,
        session: &mut Session,
        error: Box<Error>,
        context: &mut RequestContext,
        reused: bool,
    ) -> Box<Error> {
        failure::proxy_failed(session, context, error, reused)
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, context: &mut RequestContext) -> FailToProxy {
        let reply = failure::conclude(session, context, error);
        let mut error_code = 0;
        if let Some(reply) = reply {
            error_code = reply.status;
            if let Err(error) = respond::send(session, context, &reply).await {
                tracing::debug!(%error, "an answer did not reach its client");
            }
        }
        FailToProxy { error_code, can_reuse_downstream: error_code != 0 }
    }

    async fn logging(&self, session: &mut Session, _error: Option<&Error>, context: &mut RequestContext) {
        // An interim answer is none yet.
        let is_final = |status: StatusCode| !status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS;
        let code = session.response_written().map(|response| response.status).filter(|status| is_final(*status));
        let (received, sent) = (session.body_bytes_read() as u64, session.body_bytes_sent() as u64);
        context.log(code.map_or(0, |status| status.as_u16()), received, sent);
    }

    /// Failures are in the access log and the metrics.
    fn suppress_error_log(&self, _session: &Session, _context: &RequestContext, _error: &Error) -> bool {
        true
    }

    fn suppress_proxy_warn_log(
        &self,
        _session: &Session,
        _context: &RequestContext,
        _error: &Error,
        _reason: ProxyWarnLogContext,
    ) -> bool {
        true
    }

    fn request_summary(&self, _session: &Session, _context: &RequestContext) -> String {
        String::new()
    }
}

/// Pause before a try.
pub(crate) async fn pause(duration: std::time::Duration) {
    if !duration.is_zero() {
        sleep(duration).await;
    }
}
