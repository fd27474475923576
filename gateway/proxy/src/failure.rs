//! What failures mean for a request, in Envoy's words.

use crate::local_reply::LocalReply;
use crate::request_context::RequestContext;
use crate::retry;
use crate::telemetry::ResponseFlags;
use crate::upstream::TransportFailure;

pub(crate) fn give_up_on_retries(context: &mut RequestContext) {
    if retry::retries_made(context) > 0 {
        context.flags |= ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED;
    }
}

pub(crate) fn timed_out(context: &RequestContext) -> LocalReply {
    if let Some(host) = context.host().filter(|_| context.connected && context.response_start.is_none()) {
        host.timed_out();
    }
    LocalReply::REQUEST_TIMEOUT
}

/// As [`tls_failure`], of an error of the connection itself.
pub(crate) fn tls_failure_of_io(error: &std::io::Error) -> Option<String> {
    error.get_ref()?.is::<rustls::Error>().then(|| TransportFailure::of_io(error).to_string())
}

/// `Connection refused (os error 111)` without the number.
pub(crate) fn plain(error: &std::io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error") {
        Some(at) => text[..at].to_owned(),
        None => text,
    }
}
