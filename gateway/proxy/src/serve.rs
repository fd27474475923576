//! The life of a client's connection: which protocol it speaks, and its requests one after the other.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use pingora_core::protocols::http::ServerSession;
use socket2::{SockRef, TcpKeepalive};
use tidegate_snapshot::{ListenerProtocol, NetworkFilter};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::app::HttpApp;
use crate::connection::{Connection, Ends};
use crate::establish::{Arrival, Established};
use crate::http_service::decide;
use crate::http1::{self, Client, Downstream, Ended, Expected, Incoming, Timer};
use crate::http2;
use crate::listener::ListenerState;
use crate::local_reply::LocalReply;
use crate::message::Known;
use crate::request_context::RequestContext;
use crate::request_head::FramedHead;
use crate::stream::{ClientStream, Digests, EdgeStream, Io};
use crate::tcp;
use crate::tls::Alpn;

/// How long a connection that should go away still waits for a request that may be on its way already.
const LAST_REQUEST: Duration = Duration::from_secs(1);

/// Silence after which TCP asks whether the client is still there.
const KEEPALIVE: Duration = Duration::from_secs(300);

/// Serves a connection until it closes.
pub(crate) async fn serve(tcp: TcpStream, ends: Ends, listener: Arc<ListenerState>, app: Arc<HttpApp>) {
    // Answers are gathered in our own buffer; the kernel's waiting would only add to it. Fails only for sockets that
    // are closed already.
    let _ = tcp.set_nodelay(true);
    // Without it a client whose machine died in the middle of a tunnel would never be missed.
    let _ = SockRef::from(&tcp).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE));
    let published = app.shared().published_for(&listener);
    let protocol = published.listener(&listener.name).map(|listener| listener.protocol);
    let is_plain = !matches!(protocol, Some(ListenerProtocol::Tls | ListenerProtocol::Tcp));
    if is_plain && !published.snapshot().mesh().proxy_protocol {
        drop(published);
        let client = ClientStream { read: BytesMut::new(), io: Io::Tcp(tcp) };
        let connection = Arc::new(Connection::new(listener, ends, None, None));
        return serve_http(client, connection, app).await;
    }
    // What comes first is over soon, and should not make every connection's future as large as itself.
    let arrival = Arrival { ends, listener, published: &published, shared: app.shared() };
    match Box::pin(arrival.establish(tcp)).await {
        None => {}
        Some(Established::Http(client, connection)) => {
            drop(published);
            serve_http(client, connection, app).await;
        }
        Some(Established::Tcp { client, connection, chain }) => {
            let listener = published.listener(&connection.listener.name);
            let chain = listener.and_then(|listener| listener.filter_chains().get(chain));
            if let Some(NetworkFilter::Tcp(filter)) = chain.map(|chain| &chain.filter) {
                Box::pin(tcp::proxy(client, connection, published.clone(), filter, &app)).await;
            }
        }
    }
}

async fn serve_http(client: ClientStream, connection: Arc<Connection>, app: Arc<HttpApp>) {
    let mut down = Downstream::new(client, connection.clone());
    let mut timer = Timer::default();
    let draining = connection.listener.draining();
    let mut asked = Asked::new(connection.listener.draining());
    let mut expected = match connection.tls.as_ref().map(|tls| tls.alpn) {
        Some(Alpn::Http1) => Expected::Http1,
        Some(Alpn::Http2) => Expected::Http2,
        // As Envoy: without ALPN the first bytes tell.
        None | Some(Alpn::None | Alpn::Other) => Expected::Either,
    };
    // What Pingora wants to know of a connection; few ever need it.
    let mut digests: Option<Digests> = None;
    loop {
        down.rest();
        if !wait_for_request(&mut down, &mut timer, &app, &mut asked).await {
            return;
        }
        // Boxed, so that an idle connection is not as large as one that serves.
        let next = Box::pin(serve_request(&mut down, &mut timer, expected, &app)).await;
        expected = Expected::Http1;
        match next {
            Next::Request => {}
            Next::End => return,
            Next::Linger => return down.linger().await,
            Next::Refuse(reply) => {
                app.refused(&connection, &down.input, &reply);
                return down.refuse(&reply).await;
            }
            Next::Http2 => {
                let client = ClientStream { io: down.io, read: down.input };
                return Box::pin(http2::serve(client, connection, app)).await;
            }
            Next::Pingora(head) => {
                let Some(digests) = Digests::of(&mut digests, &down.io, &connection) else { return };
                let client = ClientStream { io: down.io, read: down.input };
                match Box::pin(serve_with_pingora(client, head, digests, &connection, &app, &draining)).await {
                    Some(client) => down = Downstream::new(client, connection.clone()),
                    None => return,
                }
            }
        }
    }
}

/// What comes after a request.
enum Next {
    Request,
    End,
    /// The connection ends, and the client may still be sending.
    Linger,
    /// What came is no request that may be served.
    Refuse(LocalReply),
    Http2,
    /// This request is Pingora's: an upgrade.
    Pingora(FramedHead),
}

/// Serves the request whose first bytes have come.
async fn serve_request(down: &mut Downstream, timer: &mut Timer, expected: Expected, app: &HttpApp) -> Next {
    let shared = app.shared();
    let limits = &shared.limits;
    let mut context = Box::new(RequestContext::new(shared.clone()));
    let head = match down.read_head(limits, expected, timer, &mut context.request).await {
        Incoming::Request(head) => head,
        Incoming::Http2 => return Next::Http2,
        Incoming::End => return Next::End,
        Incoming::Refused(reply) => return Next::Refuse(reply),
    };
    down.connection.begin_request();
    context.connection = Some(down.connection.clone());
    context.published = Some(shared.published_for(&down.connection.listener));
    let decided = decide(&mut context, shared);
    if decided.is_none() && is_pingoras(&context) {
        context.hand_over();
        return Next::Pingora(head);
    }
    down.begin(head);
    let ended = match decided {
        Some(reply) => {
            if down.body_is_over() {
                context.request_is_over();
            }
            http1::reply(down, context, &reply, 0).await
        }
        None => http1::forward(down, context, app.upstreams(), timer, limits.stall_timeout).await,
    };
    match ended {
        Ended::Keep if down.body_is_over() || down.skip_body().await => Next::Request,
        Ended::Keep | Ended::Close if down.has_unread_input() => Next::Linger,
        Ended::Keep | Ended::Close | Ended::Cut => Next::End,
    }
}

fn is_pingoras(context: &RequestContext) -> bool {
    context.request.fields.contains(Known::Upgrade)
}

/// Serves a request through Pingora, and gives the connection back for the next one if it stays.
async fn serve_with_pingora(
    mut client: ClientStream,
    head: FramedHead,
    digests: Digests,
    connection: &Arc<Connection>,
    app: &HttpApp,
    draining: &watch::Receiver<bool>,
) -> Option<ClientStream> {
    let prefix = client.read.split_to(head.length);
    let stream = EdgeStream::http1(client, head, digests, connection.clone());
    connection.begin_request();
    let mut session = ServerSession::new_http1(Box::new(stream));
    session.set_pipelined_prefix(prefix);
    // The time is of no importance: idle connections wait elsewhere.
    session.set_keepalive(Some(60));
    let reused = app.serve_http1(session, connection, draining).await;
    let is_reused = reused.is_some();
    // Whatever Pingora has done with the stream, it leaves its socket with the connection.
    drop(reused);
    let parked = connection.take_parked()?;
    if connection.is_tunnel() {
        return None;
    }
    if is_reused || connection.is_kept() {
        return Some(parked.client);
    }
    let down = Downstream::new(parked.client, connection.clone());
    if !connection.is_admitted() {
        app.refused(connection, &[], &LocalReply::BAD_REQUEST);
        down.refuse(&LocalReply::BAD_REQUEST).await;
    } else if parked.is_unread || down.has_unread_input() {
        down.linger().await;
    }
    None
}

/// That the listener drains, which every connection wants to know and hardly any ever hears.
struct Asked {
    /// Polled once: it wakes the connection's task from then on.
    wakes: Pin<Box<dyn Future<Output = ()> + Send>>,
    is_polled: bool,
}

impl Asked {
    fn new(mut draining: watch::Receiver<bool>) -> Self {
        Self { wakes: Box::pin(async move { drained(&mut draining).await }), is_polled: false }
    }

    /// Wakes the task when the listener drains. A connection is one task all its life.
    fn watch(&mut self, cx: &mut Context<'_>) {
        if !std::mem::replace(&mut self.is_polled, true) {
            let _ = self.wakes.as_mut().poll(cx);
        }
    }
}

/// Whether something came in before the connection's time was over.
async fn wait_for_request(down: &mut Downstream, timer: &mut Timer, app: &HttpApp, asked: &mut Asked) -> bool {
    let idle = app.shared().limits.idle_timeout;
    let mut until = None;
    let mut is_leaving = false;
    poll_fn(|cx| {
        asked.watch(cx);
        if !down.input.is_empty() {
            return Poll::Ready(true);
        }
        if let Poll::Ready(read) = down.poll_fill(cx) {
            return Poll::Ready(read.is_ok_and(|read| read > 0));
        }
        let now_leaving = down.connection.listener.is_draining();
        if until.is_none() || now_leaving != is_leaving {
            is_leaving = now_leaving;
            until = Some(Instant::now() + if is_leaving { LAST_REQUEST } else { idle });
        }
        match until {
            Some(until) => timer.poll_until(cx, until).map(|()| false),
            None => Poll::Pending,
        }
    })
    .await
}

async fn drained(draining: &mut watch::Receiver<bool>) {
    // The sender lives as long as the listener's state, which the connection holds.
    let _ = draining.wait_for(|draining| *draining).await;
}
