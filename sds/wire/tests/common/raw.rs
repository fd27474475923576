//! A client that speaks the protocol as the test wants it.

use std::path::Path;

use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::Secret;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use envoy_types::pb::envoy::service::secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient;
use futures::stream::poll_fn;
use hyper_util::rt::TokioIo;
use prost::Message as _;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Status, Streaming};

use super::soon;

pub(crate) const SECRET: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

pub(crate) fn request(nonce: &str, names: &[&str]) -> DiscoveryRequest {
    DiscoveryRequest {
        type_url: SECRET.to_owned(),
        response_nonce: nonce.to_owned(),
        resource_names: names.iter().map(ToString::to_string).collect(),
        ..Default::default()
    }
}

pub(crate) fn delta(subscribe: &[&str], unsubscribe: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: SECRET.to_owned(),
        resource_names_subscribe: subscribe.iter().map(ToString::to_string).collect(),
        resource_names_unsubscribe: unsubscribe.iter().map(ToString::to_string).collect(),
        ..Default::default()
    }
}

#[derive(Clone)]
pub(crate) struct Raw(SecretDiscoveryServiceClient<Channel>);

/// One stream: requests go out as the test sends them.
#[derive(Debug)]
pub(crate) struct RawStream<Q, A> {
    requests: Option<mpsc::Sender<Q>>,
    responses: Streaming<A>,
}

impl Raw {
    pub(crate) async fn unix(path: &Path) -> Self {
        let path = path.to_owned();
        let connector = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        // Room for all requests that a test sends at once.
        let endpoint = Endpoint::from_static("http://localhost").buffer_size(8192);
        let channel = endpoint.connect_with_connector(connector).await.unwrap();
        Self(SecretDiscoveryServiceClient::new(channel))
    }

    pub(crate) async fn stream(&mut self) -> RawStream<DiscoveryRequest, DiscoveryResponse> {
        self.try_stream().await.unwrap()
    }

    pub(crate) async fn try_stream(&mut self) -> Result<RawStream<DiscoveryRequest, DiscoveryResponse>, Status> {
        let (requests, mut outgoing) = mpsc::channel(8);
        let opening = self.0.stream_secrets(poll_fn(move |cx| outgoing.poll_recv(cx)));
        let opened = soon("a stream", opening).await?;
        Ok(RawStream { requests: Some(requests), responses: opened.into_inner() })
    }

    /// A stream whose first request goes out with its start.
    pub(crate) async fn subscribed(
        &mut self,
        first: DiscoveryRequest,
    ) -> RawStream<DiscoveryRequest, DiscoveryResponse> {
        let (requests, mut outgoing) = mpsc::channel(8);
        requests.send(first).await.unwrap();
        let opening = self.0.stream_secrets(poll_fn(move |cx| outgoing.poll_recv(cx)));
        let opened = soon("a stream", opening).await.unwrap();
        RawStream { requests: Some(requests), responses: opened.into_inner() }
    }

    pub(crate) async fn delta(&mut self) -> RawStream<DeltaDiscoveryRequest, DeltaDiscoveryResponse> {
        let (requests, mut outgoing) = mpsc::channel(8);
        let opening = self.0.delta_secrets(poll_fn(move |cx| outgoing.poll_recv(cx)));
        let opened = soon("a stream", opening).await.unwrap();
        RawStream { requests: Some(requests), responses: opened.into_inner() }
    }

    pub(crate) async fn fetch(&mut self, request: DiscoveryRequest) -> Result<DiscoveryResponse, Status> {
        soon("an answer", self.0.fetch_secrets(request)).await.map(tonic::Response::into_inner)
    }
}

impl<Q, A> RawStream<Q, A> {
    pub(crate) async fn send(&self, request: Q) {
        assert!(self.requests.as_ref().unwrap().send(request).await.is_ok(), "the stream takes requests");
    }

    /// Sends no more.
    pub(crate) fn close(&mut self) {
        self.requests = None;
    }

    pub(crate) async fn next(&mut self) -> A {
        soon("a response", self.responses.message()).await.unwrap().unwrap()
    }

    /// How the stream ends.
    pub(crate) async fn end(&mut self) -> Status {
        match soon("the end of the stream", self.responses.message()).await {
            Ok(None) => Status::ok(""),
            Ok(Some(_)) => panic!("a response"),
            Err(status) => status,
        }
    }
}

impl RawStream<DiscoveryRequest, DiscoveryResponse> {
    /// The name of the one secret in the next response.
    pub(crate) async fn next_name(&mut self) -> String {
        let response = self.next().await;
        assert_eq!(response.resources.len(), 1);
        Secret::decode(response.resources[0].value.as_slice()).unwrap().name
    }
}
