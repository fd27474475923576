//! Istio's default retry policy: refused connections and streams, and gRPC's UNAVAILABLE and CANCELLED, twice more.
//!
//! Source: Istio, `pilot/pkg/networking/core/route/retry` (`DefaultPolicy`): `connect-failure,refused-stream,
//! unavailable,cancelled`, 2 attempts, hosts that were not tried yet first.

use std::time::Duration;

use pingora_error::{Error, ErrorType, Result};
use pingora_http::ResponseHeader;
use pingora_proxy::Session;

use crate::http_service::pause;
use crate::local_reply::{Client, GRPC_STATUS, LocalReply};
use crate::request_context::RequestContext;

/// Tries after the first.
const MAX_RETRIES: u32 = 2;
/// Pooled connections that may turn out to be dead before the request counts as failed.
const MAX_REPLAYS: u32 = 3;
/// Base of the pause before a retry (Envoy's `retry_back_off.base_interval`).
const BACK_OFF: Duration = Duration::from_millis(25);
const MAX_BACK_OFF: Duration = Duration::from_millis(250);

/// The backend said in the head of its answer that the call may be made again.
pub(crate) const RETRIABLE_GRPC_STATUS: ErrorType = ErrorType::Custom("RetriableGrpcStatus");

/// Whether the policy allows one more try after one that did not reach the backend's application.
pub(crate) fn allows(session: &Session, context: &RequestContext) -> bool {
    retries_made(context) < MAX_RETRIES
        && !context.is_expired()
        // What was sent to the failed try could not be sent again.
        && !session.as_ref().retry_buffer_truncated()
}

/// Whether a request that met a dead pooled connection may be sent again: it is idempotent, and nothing of it was
/// answered.
pub(crate) fn allows_replay(session: &Session, context: &RequestContext) -> bool {
    context.replays < MAX_REPLAYS
        && session.req_header().method.is_idempotent()
        && !context.is_expired()
        && !session.as_ref().retry_buffer_truncated()
}

/// Tries so far that the policy counts, without the first.
pub(crate) fn retries_made(context: &RequestContext) -> u32 {
    context.attempts.saturating_sub(1 + context.replays)
}

/// Waits as the policy says and picks a host that was not tried yet, if there is one.
///
/// # Errors
/// The answer is in the context: no host is healthy any more, or no time is left.
pub(crate) async fn prepare(context: &mut RequestContext) -> Result<()> {
    let retries = retries_made(context);
    if retries > 0 {
        // Envoy: random in [0, min((2^n - 1) * base, max)).
        let bound = BACK_OFF.saturating_mul((1u32 << retries.min(16)) - 1).min(MAX_BACK_OFF);
        let mut wait = bound.mul_f64(fastrand::f64());
        if let Some(at) = context.deadline().and_then(|deadline| deadline.get()) {
            wait = wait.min(at.saturating_duration_since(tokio::time::Instant::now()));
        }
        pause(wait).await;
    }
    context.picked = None;
    context.picked = context.cluster.as_ref().and_then(|cluster| cluster.pick(&context.tried));
    if context.picked.is_none() {
        context.reply = Some(LocalReply::NO_HEALTHY_UPSTREAM);
        return Error::e_explain(ErrorType::ConnectError, "no host");
    }
    Ok(())
}

/// Turns the head of an answer that says UNAVAILABLE or CANCELLED into a failure while another try is allowed.
///
/// # Errors
/// One that is to be retried.
pub(crate) fn check_response(session: &Session, response: &ResponseHeader, context: &mut RequestContext) -> Result<()> {
    if context.client != Client::Grpc {
        return Ok(());
    }
    let retriable = response.headers.get(GRPC_STATUS).is_some_and(|status| matches!(status.as_bytes(), b"14" | b"1"));
    if !retriable || !allows(session, context) {
        return Ok(());
    }
    let mut error = Error::explain(RETRIABLE_GRPC_STATUS, "the backend asks for another try").into_up();
    error.set_retry(true);
    Err(error)
}
