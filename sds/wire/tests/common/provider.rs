//! An SDS server that sends what the test wants, good or bad.

use std::path::Path;
use std::pin::Pin;

use envoy_types::pb::envoy::config::core::v3::DataSource;
use envoy_types::pb::envoy::config::core::v3::data_source::Specifier;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::secret::Type;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{Secret, TlsCertificate, TlsSessionTicketKeys};
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use envoy_types::pb::envoy::service::secret::v3::secret_discovery_service_server::{
    SecretDiscoveryService, SecretDiscoveryServiceServer,
};
use envoy_types::pb::google::protobuf::Any;
use futures::Stream;
use futures::stream::poll_fn;
use prost::Message as _;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Mutex, mpsc};
use tonic::{Request, Response, Status, Streaming};

use super::raw::SECRET;
use super::{Pair, soon};

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Serves one stream.
pub(crate) struct Provider {
    requests: mpsc::Receiver<DiscoveryRequest>,
    responses: mpsc::Sender<Result<DiscoveryResponse, Status>>,
}

struct Service {
    requests: mpsc::Sender<DiscoveryRequest>,
    responses: Mutex<Option<mpsc::Receiver<Result<DiscoveryResponse, Status>>>>,
}

impl Provider {
    pub(crate) fn start(path: &Path) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        let (requests, received) = mpsc::channel(8);
        let (responses, outgoing) = mpsc::channel(8);
        let service = Service { requests, responses: Mutex::new(Some(outgoing)) };
        let incoming = poll_fn(move |cx| listener.poll_accept(cx).map(|accepted| Some(accepted.map(|it| Io(it.0)))));
        let server = tonic::transport::Server::builder()
            .serve_with_incoming(SecretDiscoveryServiceServer::new(service), incoming);
        tokio::spawn(server);
        Self { requests: received, responses }
    }

    pub(crate) async fn request(&mut self) -> DiscoveryRequest {
        soon("a request", self.requests.recv()).await.unwrap()
    }

    pub(crate) async fn respond(&self, version: &str, nonce: &str, resources: Vec<Any>) {
        let response = DiscoveryResponse {
            version_info: version.to_owned(),
            nonce: nonce.to_owned(),
            type_url: SECRET.to_owned(),
            resources,
            ..Default::default()
        };
        self.responses.send(Ok(response)).await.unwrap();
    }
}

pub(crate) fn resource(name: &str, pair: &Pair) -> Any {
    let inline = |text: &str| source(Specifier::InlineString(text.to_owned()));
    let certificate =
        TlsCertificate { certificate_chain: inline(&pair.chain), private_key: inline(&pair.key), ..Default::default() };
    secret(name, Type::TlsCertificate(certificate))
}

/// A certificate that stands in files of the provider's machine.
pub(crate) fn files(name: &str) -> Any {
    let file = || source(Specifier::Filename("/etc/ssl/private.pem".to_owned()));
    let certificate = TlsCertificate { certificate_chain: file(), private_key: file(), ..Default::default() };
    secret(name, Type::TlsCertificate(certificate))
}

pub(crate) fn tickets(name: &str) -> Any {
    secret(name, Type::SessionTicketKeys(TlsSessionTicketKeys::default()))
}

fn source(specifier: Specifier) -> Option<DataSource> {
    Some(DataSource { specifier: Some(specifier), ..Default::default() })
}

fn secret(name: &str, content: Type) -> Any {
    let secret = Secret { name: name.to_owned(), r#type: Some(content) };
    Any { type_url: SECRET.to_owned(), value: secret.encode_to_vec() }
}

#[tonic::async_trait]
impl SecretDiscoveryService for Service {
    type StreamSecretsStream = Answers<DiscoveryResponse>;
    type DeltaSecretsStream = Answers<DeltaDiscoveryResponse>;

    async fn stream_secrets(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamSecretsStream>, Status> {
        let mut outgoing = self.responses.lock().await.take().ok_or_else(|| Status::unavailable("one stream only"))?;
        let mut requests = request.into_inner();
        let received = self.requests.clone();
        tokio::spawn(async move {
            while let Ok(Some(request)) = requests.message().await {
                if received.send(request).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(poll_fn(move |cx| outgoing.poll_recv(cx)))))
    }

    async fn delta_secrets(
        &self,
        _: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaSecretsStream>, Status> {
        Err(Status::unimplemented("as Istio's agent"))
    }

    async fn fetch_secrets(&self, _: Request<DiscoveryRequest>) -> Result<Response<DiscoveryResponse>, Status> {
        Err(Status::unimplemented("as Istio's agent"))
    }
}

struct Io(UnixStream);

impl tonic::transport::server::Connected for Io {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl tokio::io::AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl tokio::io::AsyncWrite for Io {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
