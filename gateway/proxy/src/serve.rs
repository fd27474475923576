//! The life of a client's connection: which protocol it speaks, and its requests one after the other.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use socket2::{SockRef, TcpKeepalive};
use tidegate_snapshot::{ListenerProtocol, NetworkFilter};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::app::HttpApp;
use crate::client_stream::{ClientStream, Io};
use crate::connection::{Connection, Ends};
use crate::decide::decide;
use crate::establish::{Arrival, Established};
use crate::exchange::{self, Client, Ended, Timer, Upgraded};
use crate::http1::{Downstream, Expected, Incoming};
use crate::http2;
use crate::listener::ListenerState;
use crate::local_reply::LocalReply;
use crate::request_context::RequestContext;
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
    let mut asked = Asked::new(connection.listener.draining());
    let mut expected = match connection.tls.as_ref().map(|tls| tls.alpn) {
        Some(Alpn::Http1) => Expected::Http1,
        Some(Alpn::Http2) => Expected::Http2,
        // As Envoy: without ALPN the first bytes tell.
        None | Some(Alpn::None | Alpn::Other) => Expected::Either,
    };
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
            Next::Tunnel(upgraded) => return Box::pin(upgraded.run(down)).await,
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
    Tunnel(Box<Upgraded>),
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
    context.connection = Some(down.connection.clone());
    context.published = Some(shared.published_for(&down.connection.listener));
    let decided = decide(&mut context, shared);
    down.begin(head);
    let ended = match decided {
        Some(reply) => {
            if down.body_is_over() {
                context.request_is_over();
            }
            exchange::reply(down, context, &reply, 0).await
        }
        None => exchange::forward(down, context, app.upstreams(), timer, limits.stall_timeout).await,
    };
    match ended {
        Ended::Tunnel(upgraded) => Next::Tunnel(upgraded),
        Ended::Keep if down.body_is_over() || down.skip_body().await => Next::Request,
        Ended::Keep | Ended::Close if down.has_unread_input() => Next::Linger,
        Ended::Keep | Ended::Close | Ended::Cut => Next::End,
    }
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
