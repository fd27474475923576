use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tidegate_http2::{Connection as Codec, Event, RequestHead, ResetBy, Settings, StreamId};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::{Instant, timeout};

use super::state::{Shared, State};
use super::stream::Http2Stream;
use crate::app::HttpApp;
use crate::client_stream::{ClientStream, Io};
use crate::connection::Connection;
use crate::decide::decide;
use crate::exchange::{self, Client, Timer, with_scratch};
use crate::local_reply::LocalReply;
use crate::message::{self, Protocol};
use crate::request_context::RequestContext;
use crate::telemetry::{ParseError, ResponseFlags};

/// Flow control over all streams of a connection: Envoy's advice for edges.
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Flow control of one stream, and so what one slow backend may leave in memory.
const STREAM_WINDOW: u32 = 64 * 1024;
/// Between a head that is refused with its own answer and one that is not read at all.
const HEADER_MARGIN: usize = 8 * 1024;
/// How long the end of a connection may take to be written.
const GOODBYE: Duration = Duration::from_secs(1);
/// How long a connection that should go away still waits for requests that may be on their way already.
const LAST_REQUEST: Duration = Duration::from_secs(1);
/// How long a connection keeps its buffers for the next request.
const REST: Duration = Duration::from_secs(1);
/// How often what was counted against a client is halved.
const FORGIVENESS: Duration = Duration::from_secs(60);

/// Serves an HTTP/2 connection, whose preface has come, until it ends.
pub(crate) async fn serve(client: ClientStream, connection: Arc<Connection>, app: Arc<HttpApp>) {
    let limits = &app.shared().limits;
    let settings = Settings {
        max_concurrent_streams: limits.max_concurrent_streams,
        initial_stream_window: STREAM_WINDOW,
        connection_window: CONNECTION_WINDOW,
        // Counted with 32 bytes more for each field than we count.
        max_header_list_size: (limits.max_header_bytes + limits.max_headers * 32 + HEADER_MARGIN) as u32,
        limits: tidegate_http2::Limits {
            // One more than allowed comes through, and is answered.
            max_fields: limits.max_headers.saturating_add(1) as u32,
            ..tidegate_http2::Limits::default()
        },
        ..Settings::default()
    };
    let now = Instant::now();
    let state = State::new(Codec::new(settings));
    let shared = Arc::new(Shared { connection: connection.clone(), state: state.into() });
    let mut session = Session {
        io: client.io,
        input: client.read,
        shared: shared.clone(),
        app,
        timer: Timer::default(),
        unflushed: false,
        leaves_at: None,
        ends_at: None,
        since: now,
        is_idle: true,
        rests_at: None,
        forgives_at: now + FORGIVENESS,
        ticks_at: None,
        new: Vec::new(),
    };
    let _over = Over(shared);
    // Polled once: it wakes this task from then on, which then looks whether the connection should go.
    let mut asked = Box::pin(async {
        let mut draining = connection.listener.draining();
        tokio::select! {
            // The sender lives as long as the listener's state, which the connection holds.
            _ = draining.wait_for(|draining| *draining) => {}
            () = connection.asked_to_leave() => {}
        }
    });
    let mut is_asked = false;
    poll_fn(|cx| {
        if !is_asked {
            is_asked = asked.as_mut().poll(cx).is_ready();
        }
        session.poll(cx)
    })
    .await;
    // What is left to say was said as far as the client takes it.
    let _ = timeout(GOODBYE, session.io.shutdown()).await;
}

/// Ends the requests of a connection that is over, or that is dropped.
struct Over(Arc<Shared>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.state.lock().end();
    }
}

struct Session {
    io: Io,
    /// What was read before it was known to be HTTP/2.
    input: BytesMut,
    shared: Arc<Shared>,
    app: Arc<HttpApp>,
    timer: Timer,
    /// TLS may hold bytes that the socket has not taken.
    unflushed: bool,
    /// GOAWAY was sent; when the last one follows at the latest.
    leaves_at: Option<Instant>,
    /// Since when the connection has no request, or is there.
    since: Instant,
    is_idle: bool,
    /// When a connection that is still idle then gives its memory back.
    rests_at: Option<Instant>,
    /// When the connection is closed although its goodbye was not taken.
    ends_at: Option<Instant>,
    forgives_at: Instant,
    /// When requests look next whether something has moved.
    ticks_at: Option<Instant>,
    /// Requests that are to be started once the codec has had its turn.
    new: Vec<(Http2Stream, Box<RequestContext>, Verdict)>,
}

/// What is known of a request before it is decided.
enum Verdict {
    Open,
    Reply(LocalReply),
    /// The stream was reset: there is only something to log.
    Malformed,
}

impl Session {
    /// Resolves when the connection is over.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.leaves_at.is_none() && self.shared.connection.is_leaving() {
                self.shared.state.lock().codec.drain();
                self.leaves_at = Some(Instant::now() + LAST_REQUEST);
            }
            let Ok(mut moved) = self.write(cx) else { return Poll::Ready(()) };
            match self.read(cx) {
                Ok(read) => moved |= read,
                Err(_) => return Poll::Ready(()),
            }
            if !moved {
                break;
            }
        }
        let (is_finished, is_idle) = {
            let mut state = self.shared.state.lock();
            state.park(cx);
            (
                state.codec.is_finished() && state.codec.output().is_empty() && state.streams.is_empty(),
                state.streams.is_empty(),
            )
        };
        if is_finished && !self.unflushed {
            return Poll::Ready(());
        }
        self.poll_time(cx, is_idle)
    }

    /// Writes what waits; whether anything moved.
    fn write(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        let mut state = self.shared.state.lock();
        let mut moved = false;
        while !state.codec.output().is_empty() {
            self.unflushed |= matches!(self.io, Io::Tls(_));
            match Pin::new(&mut self.io).poll_write(cx, state.codec.output()) {
                Poll::Pending => break,
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(written)) => {
                    state.codec.advance_output(written);
                    moved = true;
                }
                Poll::Ready(Err(error)) => return Err(error),
            }
        }
        if moved {
            state.streams.wake_blocked();
        }
        drop(state);
        if self.unflushed
            && let Poll::Ready(flushed) = Pin::new(&mut self.io).poll_flush(cx)
        {
            flushed?;
            self.unflushed = false;
        }
        Ok(moved)
    }

    /// Reads what there is; whether anything moved.
    fn read(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        {
            let state = self.shared.state.lock();
            if state.is_over || !state.codec.should_read() {
                return Ok(false);
            }
        }
        if !self.input.is_empty() {
            let mut input = std::mem::take(&mut self.input);
            self.feed(&input)?;
            input.advance(input.len());
            return Ok(true);
        }
        with_scratch(|room| {
            let mut out = ReadBuf::new(room);
            match Pin::new(&mut self.io).poll_read(cx, &mut out) {
                Poll::Pending => Ok(false),
                Poll::Ready(Err(error)) => Err(error),
                Poll::Ready(Ok(())) if out.filled().is_empty() => Err(io::ErrorKind::UnexpectedEof.into()),
                Poll::Ready(Ok(())) => {
                    self.shared.connection.hear();
                    self.feed(out.filled())?;
                    Ok(true)
                }
            }
        })
    }

    /// Gives `bytes` to the codec, and starts the requests that come of them. A connection that failed is not read any
    /// more, and ends once its goodbye was written.
    fn feed(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let mut state = self.shared.state.lock();
        loop {
            let State { codec, streams, .. } = &mut *state;
            let received = match codec.receive(bytes) {
                Ok(received) => received,
                Err(error) => {
                    drop(state);
                    return self.fail(error);
                }
            };
            bytes = &bytes[received.consumed..];
            let Some(event) = received.event else { break };
            match event {
                Event::Request { stream, head, end_stream } => {
                    self.new.push(self.request(stream, head, end_stream, Verdict::Open));
                    streams.open(stream, end_stream);
                }
                Event::TooLarge { stream, head } => {
                    let verdict = Verdict::Reply(LocalReply::HEADER_LIST_TOO_LARGE);
                    self.new.push(self.request(stream, head, true, verdict));
                    streams.open(stream, true);
                }
                Event::Malformed { stream, reason, head } => {
                    self.shared.connection.listener.metrics.parse_error(ParseError::Malformed);
                    self.new.push(self.request(stream, head, true, Verdict::Malformed));
                    codec.reset(stream, reason.code());
                    streams.open(stream, true);
                }
                Event::Data { stream, bytes, end_stream } => match streams.get(stream) {
                    Some(own) => {
                        own.input.extend_from_slice(bytes);
                        own.is_ended |= end_stream;
                        streams.wake(stream);
                    }
                    None => {
                        let length = bytes.len();
                        codec.release(stream, length);
                    }
                },
                // As over HTTP/1, they end the body and go no further.
                Event::Trailers { stream, .. } => {
                    if let Some(own) = streams.get(stream) {
                        own.is_ended = true;
                    }
                    streams.wake(stream);
                }
                Event::Reset { stream, by, .. } => {
                    if let Some(own) = streams.get(stream) {
                        own.is_gone = true;
                        own.is_malformed = matches!(by, ResetBy::Us(_));
                    }
                    streams.wake(stream);
                }
                Event::Writable { stream: StreamId::CONNECTION } => streams.wake_all(),
                Event::Writable { stream } => streams.wake(stream),
                Event::GoAway { .. } | Event::Pong { .. } => {}
            }
        }
        drop(state);
        for (stream, context, verdict) in self.new.drain(..) {
            tokio::spawn(serve_request(stream, context, verdict, self.app.clone()));
        }
        Ok(())
    }

    fn fail(&mut self, error: tidegate_http2::ConnectionError) -> io::Result<()> {
        let connection = &self.shared.connection;
        connection.listener.metrics.parse_error(ParseError::Malformed);
        tracing::debug!(peer = %connection.peer, %error, "an HTTP/2 connection is ended");
        self.shared.state.lock().end();
        self.ends_at = Some(Instant::now() + GOODBYE);
        // What was read before it is served no more.
        self.new.clear();
        Ok(())
    }

    fn request(
        &self,
        id: StreamId,
        head: &RequestHead,
        is_ended: bool,
        verdict: Verdict,
    ) -> (Http2Stream, Box<RequestContext>, Verdict) {
        let mut context = Box::new(RequestContext::new(self.app.shared().clone()));
        fill(&mut context.request, head);
        let length = head.content_length();
        (Http2Stream::new(self.shared.clone(), id, is_ended, length), context, verdict)
    }

    fn poll_time(&mut self, cx: &mut Context<'_>, is_idle: bool) -> Poll<()> {
        let limits = &self.app.shared().limits;
        loop {
            if is_idle && !std::mem::replace(&mut self.is_idle, is_idle) {
                self.since = Instant::now();
                self.rests_at = Some(self.since + REST);
            }
            self.is_idle = is_idle;
            // SETTINGS must follow the preface; who sends nothing else holds a connection for nothing.
            let patience = if self.shared.connection.was_heard() { limits.idle_timeout } else { limits.header_timeout };
            let idle_until = is_idle.then(|| self.since + patience);
            if !is_idle && self.ticks_at.is_none() {
                self.ticks_at = Some(Instant::now() + limits.stall_timeout);
            }
            let ticks_at = self.ticks_at.filter(|_| !is_idle);
            // While nothing happens there is nothing to forgive.
            let forgives_at = Some(self.forgives_at).filter(|_| !is_idle);
            let rests_at = self.rests_at.filter(|_| is_idle);
            let times = [idle_until, rests_at, ticks_at, forgives_at, self.leaves_at, self.ends_at];
            let next = times.into_iter().flatten().min().unwrap_or(self.forgives_at);
            if self.timer.poll_until(cx, next).is_pending() {
                return Poll::Pending;
            }
            let now = Instant::now();
            if self.ends_at.is_some_and(|ends_at| ends_at <= now) {
                return Poll::Ready(());
            }
            if self.leaves_at.is_some_and(|leaves_at| leaves_at <= now) {
                // The client has had its time to hear of it.
                self.shared.state.lock().codec.go_away(tidegate_http2::ErrorCode::NO_ERROR);
                self.leaves_at = Some(now + Duration::from_secs(3600));
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if idle_until.is_some_and(|until| until <= now) {
                self.shared.state.lock().codec.go_away(tidegate_http2::ErrorCode::NO_ERROR);
                // Nothing is under way: what the goodbye needs is one write.
                let _ = self.write(cx);
                return Poll::Ready(());
            }
            if rests_at.is_some_and(|rests_at| rests_at <= now) {
                self.rests_at = None;
                self.shared.state.lock().codec.release_memory();
            }
            if self.forgives_at <= now {
                self.shared.state.lock().codec.forgive();
                self.forgives_at = now + FORGIVENESS;
            }
            if self.ticks_at.is_some_and(|ticks_at| ticks_at <= now) {
                let mut state = self.shared.state.lock();
                state.tick += 1;
                state.streams.wake_all();
                self.ticks_at = Some(now + limits.stall_timeout);
            }
        }
    }
}

/// Serves one request in its own task: a panic there resets its stream and nothing else.
async fn serve_request(mut stream: Http2Stream, mut context: Box<RequestContext>, verdict: Verdict, app: Arc<HttpApp>) {
    let shared = app.shared();
    let connection = stream.connection().clone();
    context.published = Some(shared.published_for(&connection.listener));
    context.connection = Some(connection);
    // What was taken back before its turn costs no backend anything.
    let is_gone = matches!(verdict, Verdict::Open) && poll_fn(|cx| Poll::Ready(stream.poll_gone(cx).is_ready())).await;
    if is_gone {
        context.flags |= ResponseFlags::DOWNSTREAM_REMOTE_RESET;
        context.details = "http2.remote_reset".into();
        return context.log(0, 0, 0);
    }
    let reply = match verdict {
        Verdict::Open => decide(&mut context, shared),
        Verdict::Reply(reply) => Some(reply),
        Verdict::Malformed => {
            context.flags |= ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR;
            context.details = "http2.violation.of.messaging.rule".into();
            return context.log(0, 0, 0);
        }
    };
    let ended = match reply {
        Some(reply) => {
            if stream.body_is_over() {
                context.request_is_over();
            }
            exchange::reply(&mut stream, context, &reply, 0).await
        }
        None => {
            let mut timer = Timer::default();
            exchange::forward(&mut stream, context, app.upstreams(), &mut timer, shared.limits.stall_timeout).await
        }
    };
    stream.finish(ended);
}

fn fill(request: &mut message::RequestHead, head: &RequestHead) {
    fn text(bytes: &[u8]) -> &str {
        std::str::from_utf8(bytes).unwrap_or_default()
    }
    request.protocol = Protocol::Http2;
    request.method.push_str(text(head.method()));
    // A target that is no text is refused as a path, once the request has a log line.
    request.target.push_str(text(head.path().unwrap_or_default()));
    request.authority.push_str(text(head.authority().unwrap_or_default()));
    for field in head.fields().iter() {
        request.fields.append(field.name, field.value);
    }
}
