//! A request from its decision to its end: tries, what failures mean for it, and answers of our own.
//!
//! The counterpart for requests that Pingora serves is [`crate::failure`]; flags and details are the same, Envoy's.

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::task::Poll;
use std::time::Duration;

use tidegate_snapshot::UpstreamProtocol;
use tokio::time::{Instant, timeout};

use super::client::{Client, ClientError, Encoding};
use super::date::http_date;
use super::http2_relay::Http2Relay;
use super::http2_upstream::{Lease, tls_failure};
use super::relay::{Relay, RelayError, Transfer, UpstreamError};
use super::scratch::with_scratch;
use super::timer::Timer;
use super::upstream::{Upstream, Upstreams, Wanted};
use crate::failure::{give_up_on_retries, plain, timed_out, tls_failure_of_io};
use crate::local_reply::{LocalReply, ResetReason, may_have_body};
use crate::message::{Known, Protocol};
use crate::request_context::RequestContext;
use crate::telemetry::ResponseFlags;
use crate::upstream::{ConnectionOrigin, OpenError};
use crate::{peer, respond, retry};

/// How long the client may take to read an answer of our own.
const REPLY_TIME: Duration = Duration::from_secs(5);

/// What becomes of the client's connection after a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ended {
    /// The next request may follow, once the rest of this one is read.
    Keep,
    /// The connection ends, with a goodbye.
    Close,
    /// The connection is cut: the client must see that its answer is not whole.
    Cut,
}

/// What ends a request without a backend's answer.
enum Failure {
    Reply(LocalReply),
    /// There is nobody to tell.
    Gone,
}

/// Sends a decided request to its backend and the answer to its client; counts and logs it.
pub(crate) async fn forward<C: Client>(
    down: &mut C,
    mut context: Box<RequestContext>,
    upstreams: &Upstreams,
    timer: &mut Timer,
    stall: Duration,
) -> Ended {
    if down.body_is_over() {
        context.request_is_over();
    }
    let mut transfer = Transfer::default();
    let failure = loop {
        match attempt(down, &mut context, &mut transfer, upstreams, timer, stall).await {
            Ok(true) => break None,
            Ok(false) => {}
            Err(failure) => break Some(failure),
        }
    };
    let ended = match failure {
        // As the answer's head has said, whatever has happened since.
        None if transfer.closes => Ended::Close,
        None => Ended::Keep,
        Some(Failure::Reply(reply)) if transfer.started => {
            context.flags |= reply.flags;
            Ended::Cut
        }
        Some(Failure::Reply(reply)) => {
            return self::reply(down, context, &reply, transfer.received).await;
        }
        Some(Failure::Gone) => {
            context.flags |= ResponseFlags::DOWNSTREAM_CONNECTION_TERMINATION;
            context.details = "downstream_remote_disconnect".into();
            Ended::Cut
        }
    };
    let code = if transfer.started { context.response.status } else { 0 };
    context.log(code, transfer.received, transfer.sent);
    ended
}

/// Answers a request ourselves; counts and logs it. `received` is what was read of its body.
pub(crate) async fn reply<C: Client>(
    down: &mut C,
    mut context: Box<RequestContext>,
    reply: &LocalReply,
    received: u64,
) -> Ended {
    let (mut head, body) = respond::prepare_local(reply, &mut context);
    head.fields.set_known(Known::Date, &http_date(context.start));
    if may_have_body(head.status) && !head.fields.contains(Known::ContentLength) {
        // What says all in its head, as answers of gRPC do, ends with it.
        head.fields.set_known(Known::ContentLength, b"0");
    }
    // A body that nobody wants is not waited for.
    let closes = context.request.closes || down.is_leaving() || respond::must_close(reply) || !down.body_is_over();
    let mut code = 0;
    if down.is_drained() {
        code = head.status;
        let encoding = if body.is_empty() { Encoding::Nothing } else { Encoding::Length };
        down.send_head(&head, encoding, closes);
        let mut begun = false;
        let sent = poll_fn(|cx| {
            if !std::mem::replace(&mut begun, true) {
                down.send(cx, &body, true)?;
            }
            down.poll_drained(cx)
        });
        // Whether it has arrived changes nothing: the request is over.
        let _ = timeout(REPLY_TIME, sent).await;
    }
    context.response = head;
    context.log(code, received, if code == 0 { 0 } else { body.len() as u64 });
    match closes || !down.is_drained() {
        true => Ended::Close,
        false => Ended::Keep,
    }
}

/// One try. True if the request was answered, false if another try is to be made.
async fn attempt<C: Client>(
    down: &mut C,
    context: &mut RequestContext,
    transfer: &mut Transfer,
    upstreams: &Upstreams,
    timer: &mut Timer,
    stall: Duration,
) -> Result<bool, Failure> {
    context.attempts += 1;
    context.connected = false;
    if context.attempts > 1
        && let Some(reply) = retry::pick_again(context).await
    {
        return Err(Failure::Reply(reply));
    }
    let Some((connected, origin)) = connect(down, context, transfer, upstreams, timer).await? else {
        return Ok(false);
    };
    context.connected = true;
    let now = Instant::now();
    context.upstream_start = Some(now);
    context.upstream_address = connected.local();
    if let Some(host) = context.host() {
        host.connected(origin);
    }
    let (relayed, heard) = match connected {
        Connected::Http1(mut upstream) => {
            let mut relay = Relay::new(down, &mut upstream, context, transfer, timer, stall);
            let relayed = poll_fn(|cx| with_scratch(|room| relay.poll(cx, room))).await;
            let heard = relay.heard;
            if relayed.as_ref().is_ok_and(|keeps| *keeps) {
                upstreams.put(upstream, context.response_start.unwrap_or(now));
            }
            (relayed.map(drop), heard)
        }
        Connected::Http2(lease) => match Http2Relay::begin(down, &lease, context, transfer, timer, stall) {
            Ok(mut relay) => {
                let relayed = poll_fn(|cx| with_scratch(|room| relay.poll(cx, room))).await;
                (relayed, relay.heard)
            }
            Err(error) => (Err(error), false),
        },
    };
    match relayed {
        Ok(()) => Ok(true),
        Err(error) => judge(error, context, transfer, origin, heard),
    }
}

/// What a failed exchange means: false for another try, or the failure.
fn judge(
    error: RelayError,
    context: &mut RequestContext,
    transfer: &Transfer,
    origin: ConnectionOrigin,
    heard: bool,
) -> Result<bool, Failure> {
    let error = match error {
        RelayError::Client(ClientError::Gone) => return Err(Failure::Gone),
        RelayError::Client(ClientError::Malformed) => return Err(Failure::Reply(LocalReply::BAD_REQUEST)),
        RelayError::Expired => return Err(Failure::Reply(timed_out(context))),
        RelayError::Stalled => return Err(Failure::Reply(LocalReply::STREAM_TIMEOUT)),
        RelayError::AskedAgain => {
            let host = context.host().map(|host| host.id());
            context.tried.extend(host);
            return Ok(false);
        }
        RelayError::Upstream(error) => error,
    };
    if context.response_start.is_none()
        && let Some(host) = context.host()
    {
        host.failed();
    }
    if let UpstreamError::Refused(_) = error
        && !transfer.started
    {
        let host = context.host().map(|host| host.id());
        context.tried.extend(host);
        if retry::allows(context) && transfer.can_resend() {
            return Ok(false);
        }
        give_up_on_retries(context);
    }
    let is_stale = origin == ConnectionOrigin::Pooled && !heard && matches!(error, UpstreamError::Broken(_));
    if is_stale && transfer.can_resend() && retry::allows_replay(context) {
        context.replays += 1;
        return Ok(false);
    }
    let retried = retry::retries_made(context) > 0;
    let (reason, failure) = match error {
        UpstreamError::Malformed => (ResetReason::ProtocolError, None),
        UpstreamError::Reset => (ResetReason::RemoteReset, None),
        UpstreamError::Refused(reason) => (reason, None),
        UpstreamError::Broken(error) => {
            let failure = error.as_ref().and_then(|error| tls_failure_of_io(error).or_else(|| tls_failure(error)));
            (ResetReason::ConnectionTermination, failure)
        }
    };
    if failure.is_some() {
        context.transport_failure = failure;
    }
    let failure = context.transport_failure.as_deref().filter(|_| reason == ResetReason::ConnectionTermination);
    Err(Failure::Reply(LocalReply::upstream_reset(reason, failure, retried)))
}

/// A connection to the host that was picked: an idle one, or a new one. None if another host is to be tried.
async fn connect<C: Client>(
    down: &mut C,
    context: &mut RequestContext,
    transfer: &Transfer,
    upstreams: &Upstreams,
    timer: &mut Timer,
) -> Result<Option<(Connected, ConnectionOrigin)>, Failure> {
    let (Some(cluster), Some(host)) = (context.cluster.clone(), context.host().cloned()) else {
        return Err(Failure::Reply(LocalReply::NO_HEALTHY_UPSTREAM));
    };
    let http2 = match cluster.cluster().protocol {
        UpstreamProtocol::Http1 => false,
        UpstreamProtocol::Http2 => true,
        UpstreamProtocol::AsDownstream => context.request.protocol == Protocol::Http2,
    };
    let wanted = match cluster.tls() {
        None => Wanted::Plain(host),
        Some(tls) => match peer::target(&context.request.authority, tls, &host, http2) {
            Ok(target) => Wanted::Secure(target),
            Err(failure) => {
                host.connect_failed();
                let failure = failure.to_string();
                let retried = retry::retries_made(context) > 0;
                let reply = LocalReply::upstream_reset(ResetReason::RemoteConnectionFailure, Some(&failure), retried);
                context.transport_failure = Some(failure);
                return Err(Failure::Reply(reply));
            }
        },
    };
    let pooled = match http2 {
        false => upstreams.take(&wanted).map(Connected::Http1),
        true => upstreams.http2().checkout(&wanted).map(Connected::Http2),
    };
    if let Some(pooled) = pooled {
        return Ok(Some((pooled, ConnectionOrigin::Pooled)));
    }
    let begun = Instant::now();
    let gives_up = begun + cluster.cluster().connect_timeout;
    let expires = context.expires;
    let until = expires.map_or(gives_up, |expires| expires.min(gives_up));
    let watches = down.body_is_over();
    let opened = {
        // Boxed, since most requests need none, and are as large as the largest of what they wait for.
        let mut opening = Box::pin(async {
            match http2 {
                false => Ok((Connected::Http1(wanted.open().await?), ConnectionOrigin::New)),
                true => {
                    let (lease, origin) = upstreams.http2().open(&wanted).await?;
                    Ok((Connected::Http2(lease), origin))
                }
            }
        });
        poll_fn(|cx| {
            if let Poll::Ready(opened) = opening.as_mut().poll(cx) {
                return Poll::Ready(Opened::Done(opened));
            }
            if watches && down.poll_gone(cx).is_ready() {
                return Poll::Ready(Opened::Gone);
            }
            timer.poll_until(cx, until).map(|()| Opened::Late)
        })
        .await
    };
    let (reason, failure) = match opened {
        Opened::Done(Ok(connected)) => return Ok(Some(connected)),
        Opened::Gone => return Err(Failure::Gone),
        Opened::Late if expires.is_some_and(|expires| expires <= gives_up) => {
            return Err(Failure::Reply(timed_out(context)));
        }
        Opened::Late => (ResetReason::ConnectionTimeout, None),
        Opened::Done(Err(OpenError::Connect(error))) => {
            (ResetReason::RemoteConnectionFailure, Some(format!("delayed connect error: {}", plain(&error))))
        }
        Opened::Done(Err(OpenError::Secure(failure))) => {
            (ResetReason::RemoteConnectionFailure, Some(failure.to_string()))
        }
    };
    if let Some(host) = context.host().cloned() {
        host.connect_failed();
        context.tried.push(host.id());
    }
    let again = retry::allows(context) && transfer.can_resend();
    let reply = LocalReply::upstream_reset(reason, failure.as_deref(), retry::retries_made(context) > 0);
    context.transport_failure = Some(failure.unwrap_or_else(|| "delayed connect error".into()));
    if again {
        return Ok(None);
    }
    give_up_on_retries(context);
    Err(Failure::Reply(reply))
}

/// What a try goes over.
enum Connected {
    Http1(Upstream),
    Http2(Lease),
}

impl Connected {
    /// Our own address.
    fn local(&self) -> Option<SocketAddr> {
        match self {
            Self::Http1(upstream) => upstream.local,
            Self::Http2(lease) => lease.local(),
        }
    }
}

enum Opened {
    Done(Result<(Connected, ConnectionOrigin), OpenError>),
    Gone,
    /// The time is over.
    Late,
}
