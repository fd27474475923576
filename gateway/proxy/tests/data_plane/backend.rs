use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

pub(crate) type Body = BoxBody<Bytes, Infallible>;

/// Counts what reaches a backend.
#[derive(Clone, Default)]
pub(crate) struct Count(Arc<AtomicUsize>);

impl Count {
    pub(crate) fn get(&self) -> usize {
        self.0.load(SeqCst)
    }

    pub(crate) fn add(&self) -> usize {
        self.0.fetch_add(1, SeqCst)
    }
}

pub(crate) fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).boxed()
}

/// A body that is sent piece by piece, and trailers when the sender is dropped with some.
pub(crate) fn channel() -> (mpsc::UnboundedSender<Frame<Bytes>>, Body) {
    let (send, mut receive) = mpsc::unbounded_channel::<Frame<Bytes>>();
    let frames = futures::stream::poll_fn(move |cx| receive.poll_recv(cx).map(|frame| frame.map(Ok)));
    (send, BodyExt::boxed(StreamBody::new(frames)))
}

/// A backend that speaks HTTP/1.1 and HTTP/2 with prior knowledge.
pub(crate) async fn serve<F, R>(handler: F) -> SocketAddr
where
    F: Fn(Request<Incoming>) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Response<Body>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let handler = handler.clone();
            tokio::spawn(async move {
                let service = service_fn(move |request| {
                    let answer = handler(request);
                    async move { Ok::<_, Infallible>(answer.await) }
                });
                let builder = Builder::new(TokioExecutor::new());
                // Clients close as they like.
                let _ = builder.serve_connection_with_upgrades(TokioIo::new(tcp), service).await;
            });
        }
    });
    address
}

/// A backend that answers with what it saw: a line for the request, its headers, an empty line, its body.
pub(crate) async fn echo(name: &'static str) -> SocketAddr {
    serve(move |request| async move {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.unwrap();
        let trailers = body.trailers().cloned().unwrap_or_default();
        let mut text = format!("backend: {name}\nrequest: {} {} {:?}\n", parts.method, parts.uri, parts.version);
        let mut list = |headers: &HeaderMap| {
            for (name, value) in headers {
                text.push_str(&format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes())));
            }
        };
        list(&parts.headers);
        list(&trailers);
        text.push('\n');
        let mut bytes = text.into_bytes();
        bytes.extend_from_slice(&body.to_bytes());
        Response::new(full(bytes))
    })
    .await
}

/// A backend that always answers `text`.
pub(crate) async fn fixed(text: &'static str) -> SocketAddr {
    serve(move |_| async move { Response::new(full(text)) }).await
}

/// A backend that reads a request head from each connection and then does what `then` does with it.
pub(crate) async fn raw<F, R>(then: F) -> SocketAddr
where
    F: Fn(TcpStream, Vec<u8>) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut tcp, _) = listener.accept().await.unwrap();
            let then = then.clone();
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.windows(4).any(|four| four == b"\r\n\r\n") {
                    if !matches!(tcp.read_buf(&mut head).await, Ok(1..)) {
                        return;
                    }
                }
                then(tcp, head).await;
            });
        }
    });
    address
}

/// A backend that answers any request with these bytes and closes.
pub(crate) async fn says(bytes: impl AsRef<[u8]> + Clone + Send + Sync + 'static) -> SocketAddr {
    raw(move |mut tcp, _| {
        let bytes = bytes.clone();
        async move {
            // The gateway may have gone.
            let _ = tcp.write_all(bytes.as_ref()).await;
        }
    })
    .await
}
