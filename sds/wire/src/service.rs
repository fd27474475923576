//! The three methods of Envoy's `SecretDiscoveryService`, over a store.

use std::collections::BTreeMap;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use envoy_types::pb::envoy::service::secret::v3::secret_discovery_service_server::SecretDiscoveryService;
use futures::Stream;
use futures::stream::poll_fn;
use tidegate_core::SecretName;
use tidegate_sds::{Secret, SecretStore};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};

use crate::authorization::{Authorization, Identity};
use crate::monitor::{Monitor, Protocol, StreamRecord, StreamState};
use crate::payload::{self, TYPE_URL};
use crate::server::{Limits, Peer};
use crate::subscription::{Catalog, Verdict, Violation, printable};

/// Responses of a stream that are made and not yet taken by its connection. Few: they hold keys.
const RESPONSES_AHEAD: usize = 2;

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Shared by all connections of a server.
#[derive(Clone)]
pub(crate) struct Service(pub(crate) Arc<Context>);

pub(crate) struct Context {
    pub(crate) store: Arc<SecretStore>,
    pub(crate) authorization: Authorization,
    pub(crate) aliases: BTreeMap<String, SecretName>,
    pub(crate) limits: Limits,
    pub(crate) monitor: Monitor,
    /// Streams end when it is cancelled.
    pub(crate) drain: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

/// What one client may see of the store.
struct View<'a> {
    context: &'a Context,
    identity: &'a Identity,
}

impl Catalog for View<'_> {
    fn permitted(&self, name: &str) -> Option<SecretName> {
        let secret = self.context.aliases.get(name).cloned().unwrap_or_else(|| SecretName::new(name));
        self.context.authorization.allows(self.identity, &secret).then_some(secret)
    }

    fn current(&self, name: &SecretName) -> Option<Arc<Secret>> {
        self.context.store.get(name)?.current()
    }
}

/// The two streaming variants, which differ in their messages only.
trait Variant: Send + 'static {
    type Request: prost::Message + Default + Send;
    type Response: Send + 'static;
    const PROTOCOL: Protocol;

    /// `node.id`, in the first request.
    fn node(request: &Self::Request) -> Option<&str>;
    fn take(
        state: &mut StreamState,
        request: Self::Request,
        catalog: &impl Catalog,
    ) -> Result<Option<Verdict>, Violation>;
    fn next(state: &mut StreamState, catalog: &impl Catalog) -> Option<Self::Response>;
}

struct StateOfTheWorld;

impl Variant for StateOfTheWorld {
    type Request = DiscoveryRequest;
    type Response = DiscoveryResponse;
    const PROTOCOL: Protocol = Protocol::StateOfTheWorld;

    fn node(request: &DiscoveryRequest) -> Option<&str> {
        request.node.as_ref().map(|node| node.id.as_str())
    }

    fn take(
        state: &mut StreamState,
        request: DiscoveryRequest,
        catalog: &impl Catalog,
    ) -> Result<Option<Verdict>, Violation> {
        state.subscriptions.sotw(request, catalog)
    }

    fn next(state: &mut StreamState, catalog: &impl Catalog) -> Option<DiscoveryResponse> {
        state.subscriptions.next_sotw(catalog)
    }
}

struct Delta;

impl Variant for Delta {
    type Request = DeltaDiscoveryRequest;
    type Response = DeltaDiscoveryResponse;
    const PROTOCOL: Protocol = Protocol::Delta;

    fn node(request: &DeltaDiscoveryRequest) -> Option<&str> {
        request.node.as_ref().map(|node| node.id.as_str())
    }

    fn take(
        state: &mut StreamState,
        request: DeltaDiscoveryRequest,
        catalog: &impl Catalog,
    ) -> Result<Option<Verdict>, Violation> {
        state.subscriptions.delta(request, catalog)
    }

    fn next(state: &mut StreamState, catalog: &impl Catalog) -> Option<DeltaDiscoveryResponse> {
        state.subscriptions.next_delta(catalog)
    }
}

#[tonic::async_trait]
impl SecretDiscoveryService for Service {
    type StreamSecretsStream = Responses<DiscoveryResponse>;
    type DeltaSecretsStream = Responses<DeltaDiscoveryResponse>;

    async fn stream_secrets(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamSecretsStream>, Status> {
        self.open::<StateOfTheWorld>(request)
    }

    async fn delta_secrets(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaSecretsStream>, Status> {
        self.open::<Delta>(request)
    }

    /// One answer with whatever is there of the names; what is absent or may not be read is left out.
    async fn fetch_secrets(&self, request: Request<DiscoveryRequest>) -> Result<Response<DiscoveryResponse>, Status> {
        let peer = peer(&request)?;
        let context = &*self.0;
        // Kept as a stream for its duration, so that the same limits and books apply.
        let record = context.monitor.open(peer, Protocol::StateOfTheWorld, context.limits.names_per_stream);
        let _open = OpenStream { context: self.0.clone(), record: record.clone() };
        context.receive::<StateOfTheWorld>(&record, request.into_inner())?;
        let view = View { context, identity: &record.peer.identity };
        let mut state = record.state.lock();
        let mut answer = DiscoveryResponse { type_url: TYPE_URL.to_owned(), ..Default::default() };
        let mut size = 0;
        while let Some(next) = state.subscriptions.next_sotw(&view) {
            size += next.resources.iter().map(|resource| resource.value.len()).sum::<usize>();
            if size > context.limits.fetch_bytes {
                context.monitor.count().streams_refused.fetch_add(1, Relaxed);
                return Err(Status::resource_exhausted(
                    "the secrets are too large together: fetch fewer names at once",
                ));
            }
            answer.version_info = payload::combined_version(&answer.version_info, &next.version_info);
            answer.resources.extend(next.resources);
        }
        context.monitor.responded(&mut state);
        drop(state);
        context.monitor.moved();
        Ok(Response::new(answer))
    }
}

impl Service {
    fn open<V: Variant>(
        &self,
        request: Request<Streaming<V::Request>>,
    ) -> Result<Response<Responses<V::Response>>, Status> {
        let peer = peer(&request)?;
        let context = self.0.clone();
        if context.drain.is_cancelled() {
            return Err(draining());
        }
        if context.monitor.counters().streams_open >= context.limits.streams as u64 {
            context.monitor.count().streams_refused.fetch_add(1, Relaxed);
            return Err(Status::resource_exhausted("the server's limit of streams is reached"));
        }
        let record = context.monitor.open(peer, V::PROTOCOL, context.limits.names_per_stream);
        let (responses, mut outgoing) = mpsc::channel(RESPONSES_AHEAD);
        let tasks = context.tasks.clone();
        let stream = OpenStream { context, record };
        tasks.spawn(async move { stream.serve::<V>(request.into_inner(), responses).await });
        Ok(Response::new(Box::pin(poll_fn(move |cx| outgoing.poll_recv(cx)))))
    }
}

impl Context {
    /// Takes one request in.
    fn receive<V: Variant>(&self, record: &StreamRecord, request: V::Request) -> Result<(), Status> {
        let taken = self.take::<V>(record, &mut record.state.lock(), request);
        self.monitor.moved();
        let Err(violation) = taken else { return Ok(()) };
        self.monitor.count().streams_refused.fetch_add(1, Relaxed);
        tracing::warn!(client = %record.peer.identity, address = %record.peer.address, error = %violation,
            "an SDS stream is ended");
        Err(match violation {
            Violation::TooManyNames(_) | Violation::ServerFull => Status::resource_exhausted(violation.to_string()),
            Violation::NameTooLong | Violation::TypeUrl => Status::invalid_argument(violation.to_string()),
        })
    }

    /// Makes the next response.
    fn respond<V: Variant>(&self, record: &StreamRecord, view: &View<'_>) -> Option<V::Response> {
        let mut state = record.state.lock();
        let response = V::next(&mut state, view)?;
        self.monitor.responded(&mut state);
        drop(state);
        self.monitor.moved();
        Some(response)
    }

    fn take<V: Variant>(
        &self,
        record: &StreamRecord,
        state: &mut StreamState,
        request: V::Request,
    ) -> Result<(), Violation> {
        if state.node.is_none() {
            state.node = Some(printable(V::node(&request).unwrap_or_default()));
        }
        let view = View { context: self, identity: &record.peer.identity };
        let verdict = V::take(state, request, &view)?;
        let total = self.monitor.requested(record, state, verdict);
        if total <= self.limits.names as u64 { Ok(()) } else { Err(Violation::ServerFull) }
    }
}

/// A stream in the monitor's list for as long as this lives.
struct OpenStream {
    context: Arc<Context>,
    record: Arc<StreamRecord>,
}

impl OpenStream {
    /// Serves the stream until its client or the server ends it. A request is taken as it comes; a response is made
    /// when there is room for it, of what the store holds then, so that a slow reader never gets old material and
    /// costs nobody else anything.
    async fn serve<V: Variant>(
        self,
        mut requests: Streaming<V::Request>,
        responses: mpsc::Sender<Result<V::Response, Status>>,
    ) {
        let OpenStream { context, record } = &self;
        let view = View { context, identity: &record.peer.identity };
        // At swaps, and when a secret is gone.
        let mut changes = context.store.subscribe_changes();
        let mut store_open = true;
        let mut half_closed = false;
        loop {
            let due = record.state.lock().subscriptions.is_due();
            if half_closed && !due {
                return;
            }
            tokio::select! {
                () = context.drain.cancelled() => {
                    let _ = responses.try_send(Err(draining()));
                    return;
                }
                room = responses.reserve(), if due => {
                    let Ok(room) = room else { return };
                    if let Some(response) = context.respond::<V>(record, &view) {
                        room.send(Ok(response));
                    }
                }
                changed = changes.changed(), if store_open => {
                    store_open = changed.is_ok();
                    record.state.lock().subscriptions.refresh(&view);
                }
                request = requests.message(), if !half_closed => match request {
                    Ok(Some(request)) => {
                        if let Err(status) = context.receive::<V>(record, request) {
                            let _ = responses.send(Err(status)).await;
                            return;
                        }
                    }
                    // A client that asks and only listens to the end of the answers, as command line tools do.
                    Ok(None) => half_closed = true,
                    Err(_) => return,
                },
                () = responses.closed() => return,
            }
        }
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.context.monitor.close(&self.record);
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// Envoy reconnects, here or elsewhere, and keeps what it has until then.
fn draining() -> Status {
    Status::unavailable("the SDS server is shutting down")
}

fn peer<T>(request: &Request<T>) -> Result<Arc<Peer>, Status> {
    // Every connection that the server accepts carries its peer.
    request.extensions().get::<Arc<Peer>>().cloned().ok_or_else(|| Status::internal("the connection has no peer"))
}
