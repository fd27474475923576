//! A request from its decision to its end: tries, what failures mean for it, and answers of our own. Flags and details are
//! Envoy's.

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::task::Poll;
use std::time::Duration;

use tidegate_snapshot::UpstreamProtocol;
use tokio::time::{Instant, timeout};

use super::client::{Client, ClientError, Departure, Encoding};
use super::date::http_date;
use super::http1_relay::{Relay, RelayError, Relayed, Transfer, UpstreamError};
use super::http1_upstream::{Upstream, Upstreams, Wanted};
use super::http2_relay::Http2Relay;
use super::http2_upstream::{Lease, tls_failure};
use super::scratch::with_scratch;
use super::timer::Timer;
use super::tunnel::Upgraded;
use crate::failure::{give_up_on_retries, plain, timed_out, tls_failure_of_io};
use crate::local_reply::{LocalReply, ResetReason};
use crate::message::{Known, Protocol};
use crate::request_context::RequestContext;
use crate::telemetry::ResponseFlags;
use crate::upstream::{ConnectionOrigin, OpenError, Target};
use crate::{respond, retry};

/// How long the client may take to read an answer of our own.
const REPLY_TIME: Duration = Duration::from_secs(5);

/// How much of a body is read for nothing so that its connection may stay.
const SKIMMED: u64 = 256 * 1024;

/// What becomes of the client's connection after a request.
pub(crate) enum Ended {
    /// The next request may follow, once the rest of this one is read.
    Keep,
    /// The connection ends, with a goodbye.
    Close,
    /// The connection is cut: the client must see that its answer is not whole.
    Cut,
    /// It becomes a tunnel.
    Tunnel(Box<Upgraded>),
}

/// How a try ended that did not fail.
enum Tried {
    Answered,
    Again,
    Tunnel(Upstream),
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
            Ok(Tried::Answered) => break None,
            Ok(Tried::Again) => {}
            Ok(Tried::Tunnel(upstream)) => return Ended::Tunnel(Box::new(Upgraded::new(upstream, context))),
            Err(failure) => break Some(failure),
        }
    };
    let ended = match failure {
        // As the answer's head has said, whatever has happened since.
        None if transfer.closes => Ended::Close,
        None => Ended::Keep,
        Some(Failure::Reply(reply)) if transfer.started => {
            context.flags |= reply.flags;
            context.details = reply.details_after_start();
            Ended::Cut
        }
        Some(Failure::Reply(reply)) => {
            let received = transfer.received + skim(down, &mut context).await;
            return self::reply(down, context, &reply, received).await;
        }
        Some(Failure::Gone) => {
            let (flag, details) = match down.departure() {
                Departure::Disconnected => {
                    (ResponseFlags::DOWNSTREAM_CONNECTION_TERMINATION, "downstream_remote_disconnect")
                }
                Departure::Reset => (ResponseFlags::DOWNSTREAM_REMOTE_RESET, "http2.remote_reset"),
                Departure::Expelled => (ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR, "http2.remote_reset"),
            };
            context.flags |= flag;
            context.details = details.into();
            Ended::Cut
        }
    };
    let code = if transfer.started { context.response.status } else { 0 };
    context.log(code, transfer.received, transfer.sent);
    ended
}

/// Takes what has already come of a body that nobody will read, if it is short, and tells how much that was: the
/// connection may serve on after it.
async fn skim<C: Client>(down: &mut C, context: &mut RequestContext) -> u64 {
    let mut taken = 0;
    poll_fn(|cx| {
        while !down.body_is_over() && taken < SKIMMED {
            match with_scratch(|room| down.poll_body(cx, room)) {
                Poll::Ready(Ok(part)) => taken += part.length as u64,
                Poll::Ready(Err(_)) | Poll::Pending => break,
            }
        }
        Poll::Ready(())
    })
    .await;
    if down.body_is_over() {
        context.request_is_over();
    }
    taken
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
    // A body that nobody wants is not waited for.
    let closes = context.request.closes || down.is_leaving() || respond::must_close(reply) || !down.body_is_over();
    let mut code = 0;
    if down.is_drained() {
        code = head.status;
        let encoding = match body.is_empty() {
            _ if context.request.is_head() => Encoding::Head,
            true => Encoding::Nothing,
            false => Encoding::Length,
        };
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

/// One try.
async fn attempt<C: Client>(
    down: &mut C,
    context: &mut RequestContext,
    transfer: &mut Transfer,
    upstreams: &Upstreams,
    timer: &mut Timer,
    stall: Duration,
) -> Result<Tried, Failure> {
    context.attempts += 1;
    context.connected = false;
    if context.attempts > 1
        && let Some(reply) = retry::pick_again(context).await
    {
        return Err(Failure::Reply(reply));
    }
    let Some((connected, origin)) = connect(down, context, transfer, upstreams, timer).await? else {
        return Ok(Tried::Again);
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
            match relayed {
                Ok(Relayed::Tunnel) => return Ok(Tried::Tunnel(upstream)),
                Ok(Relayed::Reusable) => upstreams.put(upstream, context.response_start.unwrap_or(now)),
                Ok(Relayed::Spent) | Err(_) => {}
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
        Ok(()) => Ok(Tried::Answered),
        Err(error) => judge(error, context, transfer, origin, heard).map(|()| Tried::Again),
    }
}

/// What a failed exchange means: another try, or the failure.
fn judge(
    error: RelayError,
    context: &mut RequestContext,
    transfer: &Transfer,
    origin: ConnectionOrigin,
    heard: bool,
) -> Result<(), Failure> {
    let error = match error {
        RelayError::Client(ClientError::Gone) => return Err(Failure::Gone),
        RelayError::Client(ClientError::Malformed) => return Err(Failure::Reply(LocalReply::BAD_REQUEST)),
        RelayError::Expired => return Err(Failure::Reply(timed_out(context))),
        RelayError::Stalled => return Err(Failure::Reply(LocalReply::STREAM_TIMEOUT)),
        RelayError::AskedAgain => {
            let host = context.host().map(|host| host.id());
            context.tried.extend(host);
            return Ok(());
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
            return Ok(());
        }
        give_up_on_retries(context);
    }
    let is_stale = origin == ConnectionOrigin::Pooled && !heard && matches!(error, UpstreamError::Broken(_));
    if is_stale && transfer.can_resend() && retry::allows_replay(context) {
        context.replays += 1;
        return Ok(());
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
    // An upgrade is HTTP/1's; HTTP/2 has no room for it.
    let http2 = http2 && !context.request.is_upgrade();
    let wanted = match cluster.tls() {
        None => Wanted::Plain(host),
        Some(tls) => match Target::new(&context.request.authority, tls, &host, http2) {
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
            if down.poll_gone(cx).is_ready() {
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
    context.transport_failure = failure;
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
