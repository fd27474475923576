//! The life of a client's connection: which protocol it speaks, and its requests one after the other.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use pingora_core::apps::ServerApp;
use pingora_core::protocols::http::ServerSession;
use socket2::{SockRef, TcpKeepalive};
use tidegate_snapshot::{ListenerProtocol, NetworkFilter};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::app::HttpApp;
use crate::connection::{Connection, Ends};
use crate::establish::{Arrival, Established};
use crate::listener::ListenerState;
use crate::local_reply::LocalReply;
use crate::stream::{ClientStream, EdgeStream, Expected, Incoming, Io};
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
    let mut stream = match EdgeStream::new(client, connection.clone()) {
        Ok(stream) => stream,
        Err(error) => return tracing::error!(%error, "cannot set up a connection"),
    };
    let digests = stream.digests();
    let limits = &app.shared().limits;
    let mut draining = connection.listener.draining();
    let mut expected = match connection.tls.as_ref().map(|tls| tls.alpn) {
        Some(Alpn::Http1) => Expected::Http1,
        Some(Alpn::Http2) => Expected::Http2,
        // As Envoy: without ALPN the first bytes tell.
        None | Some(Alpn::None | Alpn::Other) => Expected::Either,
    };
    loop {
        if !wait_for_request(&mut stream, limits.idle_timeout, &mut draining).await {
            return;
        }
        let head = match stream.read_head(limits, expected).await {
            Incoming::Request(head) => head,
            Incoming::Http2 => return serve_http2(stream, &connection, &app, &mut draining).await,
            Incoming::End => return,
            Incoming::Refused(reply) => {
                app.refused(&connection, stream.peeked(), &reply);
                return stream.refuse(&reply).await;
            }
        };
        expected = Expected::Http1;
        let head = stream.take_head(head);
        connection.begin_request();
        let mut session = ServerSession::new_http1(Box::new(stream));
        session.set_pipelined_prefix(head);
        // The time is of no importance: idle connections wait here and not in the session.
        session.set_keepalive(Some(60));
        let reused = app.serve_http1(session, &connection, &draining).await;
        let reused = reused.and_then(|reused| reused.consume().0.into_any().downcast::<EdgeStream>().ok());
        stream = match reused {
            Some(stream) => *stream,
            None => {
                let Some(parked) = connection.take_parked() else { return };
                let stream = EdgeStream::revive(parked, digests.clone(), connection.clone());
                if !connection.is_admitted() {
                    app.refused(&connection, &[], &LocalReply::BAD_REQUEST);
                    return stream.refuse(&LocalReply::BAD_REQUEST).await;
                }
                if !connection.is_kept() {
                    return if stream.has_unread_input() {
                        stream.linger().await
                    };
                }
                stream
            }
        };
        if connection.is_tunnel() {
            return;
        }
    }
}

/// Whether something came in before the connection's time was over.
async fn wait_for_request(stream: &mut EdgeStream, idle: Duration, draining: &mut watch::Receiver<bool>) -> bool {
    let came = tokio::select! {
        came = timeout(idle, stream.wait()) => Some(came),
        () = drained(draining) => None,
    };
    let came = match came {
        Some(came) => came,
        None => timeout(LAST_REQUEST, stream.wait()).await,
    };
    matches!(came, Ok(Ok(true)))
}

async fn drained(draining: &mut watch::Receiver<bool>) {
    // The sender lives as long as the listener's state, which the connection holds.
    let _ = draining.wait_for(|draining| *draining).await;
}

async fn serve_http2(
    stream: EdgeStream,
    connection: &Connection,
    app: &Arc<HttpApp>,
    draining: &mut watch::Receiver<bool>,
) {
    let (leave, leaving) = watch::channel(false);
    let served = app.process_new(Box::new(stream), &leaving);
    let asked = async {
        tokio::select! {
            () = drained(draining) => {}
            () = connection.asked_to_leave() => {}
        }
        leave.send_replace(true);
        std::future::pending::<()>().await;
    };
    let stalled = async {
        sleep(app.shared().limits.header_timeout).await;
        // SETTINGS must follow the preface; who sends nothing else holds a connection for nothing.
        if connection.was_heard() {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        _ = served => {}
        () = stalled => {}
        () = asked => {}
    }
}
