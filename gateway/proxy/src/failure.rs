//! What Pingora's errors mean for a request: another try, an answer, or silence.
//!
//! This is the one place where they are read. Flags and details are Envoy's.

use std::error::Error as StdError;

use http::header::{TRANSFER_ENCODING, UPGRADE};
use pingora_error::{Error, ErrorSource, ErrorType, Result, RetryType};
use pingora_http::ResponseHeader;
use pingora_proxy::Session;

use crate::local_reply::{LocalReply, ResetReason};
use crate::request_context::RequestContext;
use crate::retry::{self, RETRIABLE_GRPC_STATUS};
use crate::telemetry::ResponseFlags;
use crate::upstream::TransportFailure;

/// Interim answers (1xx) of one request that are passed on.
const MAX_INTERIM: u32 = 100;

/// No connection to the host that was picked: tries another while the policy allows.
pub(crate) fn connect_failed(session: &Session, context: &mut RequestContext, mut error: Box<Error>) -> Box<Error> {
    if let Some(host) = context.host().cloned() {
        host.connect_failed();
        context.tried.push(host.id());
    }
    context.transport_failure = Some(transport_failure(&error));
    let again = retry::allows_in(session, context);
    error.set_retry(again);
    if !again {
        give_up_on_retries(context);
    }
    error
}

/// The connection was there and the request failed on it.
pub(crate) fn proxy_failed(
    session: &Session,
    context: &mut RequestContext,
    mut error: Box<Error>,
    reused: bool,
) -> Box<Error> {
    let answered = session.response_written().is_some_and(|response| !response.status.is_informational());
    let is_upstream = error.esource == ErrorSource::Upstream;
    if answered || !is_upstream {
        error.set_retry(false);
        return error;
    }
    let host = context.host().cloned();
    if let Some(host) = host.as_ref().filter(|_| context.response_start.is_none()) {
        if error.etype == ErrorType::ReadTimedout { host.timed_out() } else { host.failed() }
    }
    let again = match error.retry {
        // The stream was refused, or the connection was going away: the application has not seen the request.
        RetryType::Decided(true) if is_refusal(&error) => {
            context.tried.extend(host.map(|host| host.id()));
            let again = retry::allows_in(session, context);
            if !again {
                give_up_on_retries(context);
            }
            again
        }
        RetryType::ReusedOnly if reused && retry::allows_replay_in(session, context) => {
            context.replays += 1;
            true
        }
        _ => false,
    };
    error.set_retry(again);
    error
}

fn is_refusal(error: &Error) -> bool {
    error.etype == ErrorType::H2Error || error.etype == RETRIABLE_GRPC_STATUS
}

pub(crate) fn give_up_on_retries(context: &mut RequestContext) {
    if retry::retries_made(context) > 0 {
        context.flags |= ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED;
    }
}

/// A change of protocols that the client did not ask for, or that the backend does not name, is none.
///
/// # Errors
/// The backend broke the protocol.
pub(crate) fn check_upgrade(session: &Session, response: &ResponseHeader) -> Result<()> {
    let named = response.headers.get(UPGRADE).is_some_and(|it| it.as_bytes().eq_ignore_ascii_case(b"websocket"));
    if session.is_upgrade_req() && named {
        return Ok(());
    }
    Err(Error::explain(ErrorType::InvalidHTTPHeader, "101 without an upgrade").into_up())
}

/// An answer's body is chunked or not; what other codings say of its end is a guess. (Of a length beside chunks Pingora
/// has removed the length already.)
///
/// # Errors
/// The backend broke the protocol.
pub(crate) fn check_framing(response: &ResponseHeader) -> Result<()> {
    let mut codings = response.headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        (Some(coding), None) if coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ => Err(Error::explain(ErrorType::InvalidHTTPHeader, "an unknown transfer coding").into_up()),
    }
}

/// Counts an interim answer: a backend may send some, but not for ever.
///
/// # Errors
/// The backend sends nothing else.
pub(crate) fn check_interim(context: &mut RequestContext) -> Result<()> {
    context.interim_answers += 1;
    if context.interim_answers > MAX_INTERIM {
        return Err(Error::explain(ErrorType::InvalidHTTPHeader, "too many interim answers").into_up());
    }
    Ok(())
}

/// What the client is told of a request that failed for good; none if there is nobody to tell, or if it has been told
/// something already.
pub(crate) fn conclude(session: &Session, context: &mut RequestContext, error: &Error) -> Option<LocalReply> {
    let expired = context.is_expired();
    let started = session.response_written().is_some_and(|sent| !sent.status.is_informational() || sent.status == 101);
    let reply = context.reply.take().or_else(|| match error.esource {
        _ if expired => Some(timed_out(context)),
        ErrorSource::Downstream => of_downstream(context, error),
        ErrorSource::Upstream => Some(of_upstream(context, error)),
        // The backend has answered and takes no more of the request, which is no failure.
        ErrorSource::Unset if started && error.etype == ErrorType::WriteError => None,
        ErrorSource::Internal | ErrorSource::Unset => Some(internal(error)),
    })?;
    if started {
        context.flags |= reply.flags;
        return None;
    }
    if expired && let Some(connection) = &context.connection {
        connection.answer_expiry();
    }
    Some(reply)
}

pub(crate) fn timed_out(context: &RequestContext) -> LocalReply {
    if let Some(host) = context.host().filter(|_| context.connected && context.response_start.is_none()) {
        host.timed_out();
    }
    LocalReply::REQUEST_TIMEOUT
}

fn of_downstream(context: &mut RequestContext, error: &Error) -> Option<LocalReply> {
    if context.connection.as_ref().is_some_and(|connection| connection.has_bad_body()) {
        return Some(LocalReply::BAD_REQUEST);
    }
    match error.etype {
        ErrorType::InvalidHTTPHeader => Some(LocalReply::BAD_REQUEST),
        ErrorType::ReadTimedout => Some(LocalReply::STREAM_TIMEOUT),
        _ => {
            context.flags |= ResponseFlags::DOWNSTREAM_CONNECTION_TERMINATION;
            context.details = "downstream_remote_disconnect".into();
            None
        }
    }
}

fn of_upstream(context: &mut RequestContext, error: &Error) -> LocalReply {
    let retried = retry::retries_made(context) > 0;
    match &error.etype {
        ErrorType::ReadTimedout => LocalReply::REQUEST_TIMEOUT,
        ErrorType::ConnectTimedout => LocalReply::upstream_reset(ResetReason::ConnectionTimeout, None, retried),
        _ if !context.connected => {
            let failure = context.transport_failure.get_or_insert_with(|| transport_failure(error));
            LocalReply::upstream_reset(ResetReason::RemoteConnectionFailure, Some(failure), retried)
        }
        ErrorType::InvalidHTTPHeader | ErrorType::H1Error | ErrorType::InvalidH2 => {
            LocalReply::upstream_reset(ResetReason::ProtocolError, None, retried)
        }
        ErrorType::H2Error if is_remote_reset(error) => {
            LocalReply::upstream_reset(ResetReason::RemoteReset, None, retried)
        }
        ErrorType::H2Error if is_protocol_error(error) => {
            LocalReply::upstream_reset(ResetReason::ProtocolError, None, retried)
        }
        _ => {
            context.transport_failure = tls_failure(error).or(context.transport_failure.take());
            let failure = context.transport_failure.as_deref();
            LocalReply::upstream_reset(ResetReason::ConnectionTermination, failure, retried)
        }
    }
}

fn internal(error: &Error) -> LocalReply {
    tracing::warn!(%error, "a request failed inside the gateway");
    LocalReply::INTERNAL
}

fn h2_error(error: &Error) -> Option<&h2::Error> {
    error.root_cause().downcast_ref()
}

fn is_remote_reset(error: &Error) -> bool {
    h2_error(error).is_some_and(|error| error.is_reset() && error.is_remote())
}

fn is_protocol_error(error: &Error) -> bool {
    h2_error(error).is_some_and(|error| error.is_library())
}

/// What TLS said on a connection that was secured already: with TLS 1.3 a backend refuses a certificate that late.
fn tls_failure(error: &Error) -> Option<String> {
    if let Some(error) = h2_error(error).and_then(h2::Error::get_io) {
        // HTTP/2 keeps the text alone. Nothing but TLS says that data are invalid.
        let is_tls = error.kind() == std::io::ErrorKind::InvalidData;
        return is_tls.then(|| format!("TLS_error:{error}:TLS_error_end"));
    }
    tls_failure_of_io(error.root_cause().downcast_ref()?)
}

/// As [`tls_failure`], of an error of the connection itself.
pub(crate) fn tls_failure_of_io(error: &std::io::Error) -> Option<String> {
    error.get_ref()?.is::<rustls::Error>().then(|| TransportFailure::of_io(error).to_string())
}

/// What the operating system or TLS said, in Envoy's words.
fn transport_failure(error: &Error) -> String {
    if let Some(failure) = error.root_cause().downcast_ref::<TransportFailure>() {
        return failure.to_string();
    }
    if let Some(failure) = tls_failure(error) {
        return failure;
    }
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error.root_cause());
    while let Some(it) = cause {
        if let Some(error) = it.downcast_ref::<std::io::Error>() {
            return format!("delayed connect error: {}", plain(error));
        }
        cause = it.source();
    }
    match error.etype {
        ErrorType::ConnectRefused => "delayed connect error: Connection refused".into(),
        ErrorType::ConnectNoRoute => "delayed connect error: No route to host".into(),
        _ => "delayed connect error".into(),
    }
}

/// `Connection refused (os error 111)` without the number.
pub(crate) fn plain(error: &std::io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error") {
        Some(at) => text[..at].to_owned(),
        None => text,
    }
}
