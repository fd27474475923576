//! HTTP clients without retries, redirects or hidden reconnects.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, Version};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::wait;

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Response {
    pub status: StatusCode,
    pub version: Version,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Response {
    /// A header's first value; empty if it is absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap_or("<not text>"))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON, for instance an echo's report.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    /// A request header that an echo backend received; none if it did not come.
    pub fn received(&self, name: &str) -> Option<String> {
        let report = self.json();
        let headers = report["headers"].as_array().expect("an echo's report");
        let values: Vec<&str> =
            headers.iter().filter(|pair| pair[0] == name).filter_map(|pair| pair[1].as_str()).collect();
        (!values.is_empty()).then(|| values.join(","))
    }
}

/// What a client speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    Http1,
    /// With prior knowledge.
    Http2,
}

/// For tests whose outcome the protocol must not change.
pub const BOTH: [Protocol; 2] = [Protocol::Http1, Protocol::Http2];

/// One connection.
pub enum Client {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

/// Why there is no answer.
pub type Failure = String;

impl Client {
    /// # Errors
    /// If nobody accepts, or speaks another protocol.
    pub async fn connect(protocol: Protocol, address: SocketAddr) -> Result<Self, Failure> {
        Self::over(protocol, connect(address).await?).await
    }

    /// Speaks over a stream that is connected already.
    ///
    /// # Errors
    /// If the other side speaks another protocol.
    pub async fn over(
        protocol: Protocol,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) -> Result<Self, Failure> {
        let stream = TokioIo::new(stream);
        Ok(match protocol {
            Protocol::Http1 => {
                let (sender, connection) = http1::handshake(stream).await.map_err(failure)?;
                tokio::spawn(connection);
                Client::Http1(sender)
            }
            Protocol::Http2 => {
                let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.map_err(failure)?;
                tokio::spawn(connection);
                Client::Http2(sender)
            }
        })
    }

    /// # Errors
    /// See [`Client::connect`].
    pub async fn http1(address: SocketAddr) -> Result<Self, Failure> {
        Self::connect(Protocol::Http1, address).await
    }

    /// Sends one request and reads the whole answer.
    ///
    /// # Errors
    /// Everything that is not an answer: resets, closed connections, truncated bodies.
    pub async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Response, Failure> {
        let response = match self {
            Client::Http1(sender) => {
                sender.ready().await.map_err(failure)?;
                sender.send_request(request).await
            }
            Client::Http2(sender) => {
                sender.ready().await.map_err(failure)?;
                sender.send_request(request).await
            }
        };
        let response = response.map_err(failure)?;
        let (parts, body) = response.into_parts();
        let body = body.collect().await.map_err(failure)?.to_bytes();
        Ok(Response { status: parts.status, version: parts.version, headers: parts.headers, body })
    }

    /// Whether another request may be sent; false after `Connection: close` and GOAWAY.
    pub async fn is_open(&mut self) -> bool {
        match self {
            Client::Http1(sender) => sender.ready().await.is_ok(),
            Client::Http2(sender) => sender.ready().await.is_ok(),
        }
    }

    /// A request in the form that this connection's protocol wants.
    pub fn request(&self, method: Method, host: &str, target: &str) -> http::request::Builder {
        let builder = Request::builder().method(method);
        match self {
            Client::Http1(_) => builder.uri(target).header("host", host),
            Client::Http2(_) => builder.uri(format!("http://{host}{target}")),
        }
    }

    /// # Errors
    /// See [`Client::send`].
    pub async fn get(&mut self, host: &str, target: &str) -> Result<Response, Failure> {
        let request = self.request(Method::GET, host, target).body(Full::default()).map_err(|e| e.to_string())?;
        self.send(request).await
    }
}

async fn connect(address: SocketAddr) -> Result<TcpStream, Failure> {
    let stream = TcpStream::connect(address).await.map_err(|error| format!("connect to {address}: {error}"))?;
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    Ok(stream)
}

fn failure(error: hyper::Error) -> Failure {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

/// `GET` over a new HTTP/1.1 connection. Panics if there is no answer.
pub async fn get(address: SocketAddr, host: &str, target: &str) -> Response {
    try_get(address, host, target).await.unwrap_or_else(|error| panic!("GET {host}{target} at {address}: {error}"))
}

/// `GET` over a new HTTP/1.1 connection.
///
/// # Errors
/// See [`Client::send`].
pub async fn try_get(address: SocketAddr, host: &str, target: &str) -> Result<Response, Failure> {
    wait::within("an answer", async { Client::http1(address).await?.get(host, target).await }).await
}

/// One request with headers and a body over a new HTTP/1.1 connection. Panics if there is no answer.
pub async fn send(
    address: SocketAddr,
    method: &str,
    host: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Response {
    send_over(Protocol::Http1, address, method, host, target, headers, body).await
}

/// As [`send`], over HTTP/2 with prior knowledge.
pub async fn send_http2(
    address: SocketAddr,
    method: &str,
    host: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Response {
    send_over(Protocol::Http2, address, method, host, target, headers, body).await
}

/// As [`send`], over either.
pub async fn send_over(
    protocol: Protocol,
    address: SocketAddr,
    method: &str,
    host: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Response {
    let mut client = Client::connect(protocol, address).await.unwrap_or_else(|error| panic!("{error}"));
    let method = Method::from_bytes(method.as_bytes()).expect("a method");
    let mut request = client.request(method, host, target);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(body.into())).expect("a request");
    wait::within("an answer", client.send(request))
        .await
        .unwrap_or_else(|error| panic!("{protocol:?} request to {host}{target}: {error}"))
}
