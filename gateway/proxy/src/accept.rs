use std::io;
use std::net::TcpListener as StdListener;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::app::HttpApp;
use crate::connection::Ends;
use crate::listener::ListenerState;
use crate::serve::serve;
use crate::shared::Connections;

/// Pause after the process ran out of something that only time gives back, such as file descriptors.
const EXHAUSTED: Duration = Duration::from_millis(100);

/// Accepts on one socket of a listener until `stop`, then what is in its backlog already, and closes it.
pub(crate) async fn accept(
    socket: StdListener,
    listener: Arc<ListenerState>,
    app: Arc<HttpApp>,
    stop: CancellationToken,
) {
    let socket = match TcpListener::from_std(socket) {
        Ok(socket) => socket,
        Err(error) => return tracing::error!(listener = %listener.name, %error, "cannot accept connections"),
    };
    let mut exhausted = false;
    loop {
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            () = stop.cancelled() => break,
        };
        match accepted {
            Ok((tcp, peer)) => {
                exhausted = false;
                // A panic here costs the connection, which closes, and not the listener. The process's hook has told it.
                let _ = catch_unwind(AssertUnwindSafe(|| start(tcp, peer, &listener, &app)));
            }
            // The client was gone before its turn.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                if !std::mem::replace(&mut exhausted, true) {
                    tracing::warn!(listener = %listener.name, %error, "accepting connections pauses");
                }
                sleep(EXHAUSTED).await;
            }
        }
    }
    // Clients whose handshake is done count on being served.
    while let Some(Ok((tcp, peer))) = tokio::task::unconstrained(socket.accept()).now_or_never() {
        start(tcp, peer, &listener, &app);
    }
}

fn start(tcp: TcpStream, peer: std::net::SocketAddr, listener: &Arc<ListenerState>, app: &Arc<HttpApp>) {
    let Some(open) = Connections::open(app.shared()) else {
        listener.metrics.connection_refused();
        return;
    };
    // Fails only if the client is gone again.
    let Ok(local) = tcp.local_addr() else { return };
    let counted = listener.metrics.connection_opened();
    let ends = Ends::new(peer, local);
    let (listener, app) = (listener.clone(), app.clone());
    // A panic ends this task and no other: what it holds is dropped, which closes the connection and takes it back from
    // every count. The process's hook has told it.
    tokio::spawn(async move {
        let kill = app.shared().kill.clone();
        tokio::select! {
            () = serve(tcp, ends, listener, app) => {}
            () = kill.cancelled() => {}
        }
        drop((counted, open));
    });
}
