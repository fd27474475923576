//! A request on a secured HTTP/2 connection.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::Stream;
use http::header::{
    CONNECTION, HOST, HeaderName, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, Uri, Version};
use pingora_core::protocols::http::custom::client::Session;
use pingora_core::protocols::http::custom::{BodyWrite, CustomMessageWrite};
use pingora_core::protocols::http::v2::client::Http2Session as Inner;
use pingora_core::protocols::http::v2::write_body;
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_core::protocols::{Digest, UniqueIDType};
use pingora_error::{Error, ErrorType, OrErr, Result};
use pingora_http::{RequestHeader, ResponseHeader};

use super::pool::Lease;
use crate::edge;

/// What means something to HTTP/1 connections only, and is malformed in HTTP/2 (RFC 9113 section 8.2.2).
const CONNECTION_SPECIFIC: [HeaderName; 9] = [
    CONNECTION,
    TRANSFER_ENCODING,
    UPGRADE,
    TE,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("http2-settings"),
];

pub(crate) struct Http2Session {
    // Ends before the lease, which then tells when the connection was last of use.
    stream: Inner,
    /// The end of the request was sent with its head.
    is_over: bool,
    _lease: Lease,
}

impl Http2Session {
    pub(super) fn new(stream: Inner, lease: Lease) -> Self {
        Self { stream, is_over: false, _lease: lease }
    }
}

/// Makes a head that may be HTTP/1's one of HTTP/2. The `Connection` header was obeyed when the request came in.
fn convert(request: &mut RequestHeader) -> Result<()> {
    // gRPC demands it, and it is the one value that HTTP/2 allows.
    let trailers =
        edge::accepts_trailers(request.headers.get_all(http::header::TE).iter().map(http::HeaderValue::as_bytes));
    for name in &CONNECTION_SPECIFIC {
        request.remove_header(name);
    }
    request.set_version(Version::HTTP_2);
    if trailers {
        request.insert_header(TE, "trailers")?;
    }
    let target = request.uri.path_and_query().cloned().unwrap_or_else(|| http::uri::PathAndQuery::from_static("/"));
    let uri = Uri::builder().scheme("https").path_and_query(target);
    let uri = match (request.remove_header(&HOST), request.uri.authority()) {
        (Some(host), _) => uri.authority(host.as_bytes()),
        (None, Some(authority)) => uri.authority(authority.clone()),
        (None, None) => uri,
    };
    request.set_uri(uri.build().or_err(ErrorType::InvalidHTTPHeader, "a target that HTTP/2 cannot express")?);
    Ok(())
}

#[async_trait]
impl Session for Http2Session {
    async fn write_request_header(&mut self, mut request: Box<RequestHeader>, end: bool) -> Result<()> {
        convert(&mut request)?;
        self.is_over = end;
        self.stream.write_request_header(request, end)
    }

    async fn write_request_body(&mut self, data: Bytes, end: bool) -> Result<()> {
        self.stream.write_request_body(data, end).await
    }

    async fn finish_request_body(&mut self) -> Result<()> {
        self.stream.finish_request_body()
    }

    fn set_read_timeout(&mut self, timeout: Option<Duration>) {
        self.stream.read_timeout = timeout;
    }

    fn set_write_timeout(&mut self, timeout: Option<Duration>) {
        self.stream.write_timeout = timeout;
    }

    async fn read_response_header(&mut self) -> Result<()> {
        if self.stream.response_header().is_some() {
            // The library keeps interim answers to itself, and Pingora's stream can read one head only.
            return Error::e_explain(ErrorType::InvalidH2, "an answer has a second head");
        }
        self.stream.read_response_header().await
    }

    async fn read_response_body(&mut self) -> Result<Option<Bytes>> {
        self.stream.read_response_body().await
    }

    fn response_finished(&self) -> bool {
        self.stream.response_finished()
    }

    async fn shutdown(&mut self, _code: u32, _context: &str) {
        self.stream.shutdown();
    }

    fn response_header(&self) -> Option<&ResponseHeader> {
        self.stream.response_header()
    }

    fn was_upgraded(&self) -> bool {
        false
    }

    fn digest(&self) -> Option<&Digest> {
        self.stream.digest()
    }

    fn digest_mut(&mut self) -> Option<&mut Digest> {
        self.stream.digest_mut()
    }

    fn server_addr(&self) -> Option<&SocketAddr> {
        self.stream.server_addr()
    }

    fn client_addr(&self) -> Option<&SocketAddr> {
        self.stream.client_addr()
    }

    async fn read_trailers(&mut self) -> Result<Option<HeaderMap>> {
        self.stream.read_trailers().await
    }

    fn fd(&self) -> UniqueIDType {
        self.stream.fd()
    }

    async fn check_response_end_or_error(&mut self, _headers: bool) -> Result<bool> {
        self.stream.check_response_end_or_error()
    }

    fn take_request_body_writer(&mut self) -> Option<Box<dyn BodyWrite>> {
        let stream = self.stream.take_request_body_writer()?;
        Some(Box::new(Body { stream, timeout: self.stream.write_timeout, is_over: self.is_over }))
    }

    async fn finish_custom(&mut self) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_reader(
        &mut self,
    ) -> Option<Box<dyn Stream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>> {
        Some(Box::new(futures::stream::empty()))
    }

    async fn drain_custom_messages(&mut self) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_writer(&mut self) -> Option<Box<dyn CustomMessageWrite>> {
        Some(Box::new(()))
    }
}

/// The body of a request.
struct Body {
    stream: h2::SendStream<Bytes>,
    /// For each piece.
    timeout: Option<Duration>,
    is_over: bool,
}

#[async_trait]
impl BodyWrite for Body {
    async fn write_all_buf(&mut self, data: &mut Bytes) -> Result<()> {
        write_body(&mut self.stream, std::mem::take(data), false, self.timeout).await
    }

    async fn finish(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.is_over, true) {
            return Ok(());
        }
        self.stream.send_data(Bytes::new(), true).or_err(ErrorType::WriteError, "ending a request")
    }

    async fn cleanup(&mut self) -> Result<()> {
        if !self.is_over {
            // The answer is complete and the request is not: nobody wants the rest.
            self.stream.send_reset(h2::Reason::CANCEL);
        }
        Ok(())
    }

    fn upgrade_body_writer(&mut self) {}
}
