//! The life of a client's connection: which protocol it speaks, and its requests one after the other.

use std::sync::Arc;
use std::time::Duration;

use pingora_core::apps::ServerApp;
use pingora_core::protocols::http::ServerSession;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::app::HttpApp;
use crate::connection::Connection;
use crate::local_reply::LocalReply;
use crate::stream::{EdgeStream, Incoming};

/// How long a connection that should go away still waits for a request that may be on its way already.
const LAST_REQUEST: Duration = Duration::from_secs(1);

/// Silence after which TCP asks whether the client is still there.
const KEEPALIVE: Duration = Duration::from_secs(300);

/// Serves a connection until it closes.
pub(crate) async fn serve(tcp: TcpStream, connection: Arc<Connection>, app: Arc<HttpApp>) {
    // Answers are gathered in our own buffer; the kernel's waiting would only add to it. Fails only for sockets that
    // are closed already.
    let _ = tcp.set_nodelay(true);
    // Without it a client whose machine died in the middle of a tunnel would never be missed.
    let _ = SockRef::from(&tcp).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE));
    let mut stream = match EdgeStream::new(tcp, connection.clone()) {
        Ok(stream) => stream,
        Err(error) => return tracing::error!(%error, "cannot set up a connection"),
    };
    let digests = stream.digests();
    let limits = &app.shared().limits;
    let mut draining = connection.listener.draining();
    let mut first = true;
    loop {
        if !wait_for_request(&mut stream, limits.idle_timeout, &mut draining).await {
            return;
        }
        let head = match stream.read_head(limits, first).await {
            Incoming::Request(head) => head,
            Incoming::Http2 => return serve_http2(stream, &connection, &app, &draining).await,
            Incoming::End => return,
            Incoming::Refused(reply) => {
                app.refused(&connection, stream.peeked(), &reply);
                return stream.refuse(&reply).await;
            }
        };
        first = false;
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
    draining: &watch::Receiver<bool>,
) {
    let served = app.process_new(Box::new(stream), draining);
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
    }
}
