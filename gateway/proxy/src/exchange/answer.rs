//! What happens to the head of an answer between its backend and its client, whatever both speak.

use tokio::time::Instant;

use super::client::{Client, Encoding};
use super::date::http_date;
use super::http1_relay::{RelayError, Transfer, UpstreamError};
use crate::failure::give_up_on_retries;
use crate::message::Known;
use crate::request_context::RequestContext;
use crate::{respond, retry};

/// Interim answers (1xx) of one request that are passed on.
const MAX_INTERIM: u32 = 100;

/// Passes the interim answer on that is in the context.
///
/// # Errors
/// The backend sends nothing else.
pub(super) fn pass_interim<C: Client>(down: &mut C, context: &mut RequestContext) -> Result<(), RelayError> {
    context.interim_answers += 1;
    if context.interim_answers > MAX_INTERIM {
        return Err(RelayError::Upstream(UpstreamError::Malformed));
    }
    down.send_interim(&context.response);
    Ok(())
}

/// Counts the final head that is in the context and decides whether it is the client's.
///
/// # Errors
/// It asks for another try, which may be made, or changes the protocol, for which nobody has asked.
pub(super) fn judge(context: &mut RequestContext, transfer: &Transfer) -> Result<(), RelayError> {
    let status = context.response.status;
    if status == 101 && !is_accepted_upgrade(context) {
        return Err(RelayError::Upstream(UpstreamError::Malformed));
    }
    if let Some(host) = context.host() {
        host.answered(status);
    }
    if retry::asks_for_another(&context.response, context) && transfer.can_resend() {
        if retry::allows(context) {
            return Err(RelayError::AskedAgain);
        }
        give_up_on_retries(context);
    }
    context.response_start.get_or_insert_with(Instant::now);
    Ok(())
}

/// Whether the client has asked for the change of protocols that the backend names.
fn is_accepted_upgrade(context: &RequestContext) -> bool {
    let named = context.response.fields.get(Known::Upgrade);
    context.request.is_upgrade() && named.is_some_and(|named| named.eq_ignore_ascii_case(b"websocket"))
}

/// Passes on the head that was judged. Its body, or its end, follows at once.
pub(super) fn begin<C: Client>(
    down: &mut C,
    context: &mut RequestContext,
    transfer: &mut Transfer,
    encoding: Encoding,
) {
    context.details = "via_upstream".into();
    context.passed_on = context.response.status;
    let mut response = std::mem::take(&mut context.response);
    respond::prepare_proxied(&mut response, context);
    if !response.fields.contains(Known::Date) {
        response.fields.set_known(Known::Date, &http_date(context.start));
    }
    context.response = response;
    transfer.started = true;
    let is_tunnel = context.response.status == 101;
    if is_tunnel {
        context.response.fields.set_known(Known::Connection, b"Upgrade");
        // A tunnel lasts as long as both sides want it.
        context.expires = None;
    }
    // As Envoy: who answers early does not wait for the rest of an HTTP/1 request.
    transfer.closes = !is_tunnel && (context.request.closes || down.is_leaving() || !down.body_is_over());
    down.send_head(&context.response, encoding, transfer.closes);
}
