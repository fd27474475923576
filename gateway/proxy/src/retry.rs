//! Istio's default retry policy: refused connections and streams, and gRPC's UNAVAILABLE and CANCELLED, twice more.
//!
//! Source: Istio, `pilot/pkg/networking/core/route/retry` (`DefaultPolicy`): `connect-failure,refused-stream,
//! unavailable,cancelled`, 2 attempts, hosts that were not tried yet first.

use std::time::Duration;

use crate::local_reply::{Client, LocalReply};
use crate::message::{Known, ResponseHead};
use crate::request_context::RequestContext;

/// Tries after the first.
const MAX_RETRIES: u32 = 2;
/// Pooled connections that may turn out to be dead before the request counts as failed.
const MAX_REPLAYS: u32 = 3;
/// Base of the pause before a retry (Envoy's `retry_back_off.base_interval`).
const BACK_OFF: Duration = Duration::from_millis(25);
const MAX_BACK_OFF: Duration = Duration::from_millis(250);

/// Whether the policy allows one more try after one that did not reach the backend's application. That what was sent
/// can be sent again is for the caller to know.
pub(crate) fn allows(context: &RequestContext) -> bool {
    retries_made(context) < MAX_RETRIES && !context.is_expired()
}

/// Whether a request that met a dead pooled connection may be sent again: it is idempotent, and nothing of it was
/// answered.
pub(crate) fn allows_replay(context: &RequestContext) -> bool {
    context.replays < MAX_REPLAYS && context.request.is_idempotent() && !context.is_expired()
}

/// Tries so far that the policy counts, without the first.
pub(crate) fn retries_made(context: &RequestContext) -> u32 {
    context.attempts.saturating_sub(1 + context.replays)
}

/// Waits as the policy says and picks a host that was not tried yet, if there is one; the answer if there is none.
pub(crate) async fn pick_again(context: &mut RequestContext) -> Option<LocalReply> {
    let retries = retries_made(context);
    if retries > 0 {
        // Envoy: random in [0, min((2^n - 1) * base, max)).
        let bound = BACK_OFF.saturating_mul((1u32 << retries.min(16)) - 1).min(MAX_BACK_OFF);
        let mut wait = bound.mul_f64(fastrand::f64());
        if let Some(at) = context.expires {
            wait = wait.min(at.saturating_duration_since(tokio::time::Instant::now()));
        }
        tokio::time::sleep(wait).await;
    }
    context.picked = None;
    context.picked = context.cluster.as_ref().and_then(|cluster| cluster.pick(&context.tried));
    context.picked.is_none().then_some(LocalReply::NO_HEALTHY_UPSTREAM)
}

/// Whether the head of an answer says UNAVAILABLE or CANCELLED to a gRPC client, which may be tried again.
pub(crate) fn asks_for_another(response: &ResponseHead, context: &RequestContext) -> bool {
    context.client == Client::Grpc
        && response.fields.get(Known::GrpcStatus).is_some_and(|status| matches!(status, b"14" | b"1"))
}
