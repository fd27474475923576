//! One stream with a provider: requests, and the judgement of what comes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use envoy_types::pb::envoy::service::secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient;
use envoy_types::pb::google::protobuf::Any;
use envoy_types::pb::google::rpc;
use futures::stream::poll_fn;
use tidegate_core::{Level, Origin, SecretName};
use tidegate_sds::{Offer, Payload, SecretStore, SourceKind};
use tokio::sync::{mpsc, watch};
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use super::connect::chain;
use super::names::{Resources, stream_of};
use super::{NameState, Task};
use crate::payload::{TYPE_URL, decode};
use crate::subscription::printable;

/// Requests that the provider has not taken yet. When it takes none, nothing is read of it either.
const REQUESTS_AHEAD: usize = 4;

/// A stream of the state-of-the-world variant, which every SDS server speaks, for a share of the names.
pub(super) struct Session<'t> {
    task: &'t Task,
    wanted: watch::Receiver<Resources>,
    /// Which of how many.
    at: usize,
    streams: usize,
    /// Its share of the names, as of the last look at what is wanted.
    share: Vec<Arc<str>>,
    /// Of the last response.
    nonce: String,
}

/// What was made of one resource.
struct Judged {
    resource: Arc<str>,
    /// The secrets that it fills.
    names: BTreeSet<SecretName>,
    /// Why it was refused.
    refused: Option<String>,
}

impl<'t> Session<'t> {
    pub(super) fn new(task: &'t Task, at: usize, streams: usize) -> Self {
        let wanted = task.wanted.clone();
        let mut session = Self { task, wanted, at, streams, share: Vec::new(), nonce: String::new() };
        session.look();
        session
    }

    /// Subscribes and takes what comes, until the stream ends. None if it was ended because nothing is wanted any more,
    /// otherwise why it ended.
    pub(super) async fn run(mut self, channel: Channel) -> Option<String> {
        let (requests, mut outgoing) = mpsc::channel(REQUESTS_AHEAD);
        let first = self.request(None);
        if requests.send(first).await.is_err() {
            return Some("the stream ended before it began".to_owned());
        }
        let mut client =
            SecretDiscoveryServiceClient::new(channel).max_decoding_message_size(self.task.options.response_bytes);
        // A provider that has nothing yet may not even send headers: names must be able to change while it is opened.
        let mut opening = std::pin::pin!(client.stream_secrets(poll_fn(move |cx| outgoing.poll_recv(cx))));
        let mut responses: Option<Streaming<DiscoveryResponse>> = None;
        loop {
            // Looked at each time: a request takes note of a change, too.
            if self.wanted.borrow().is_empty() {
                return None;
            }
            let answer = tokio::select! {
                opened = &mut opening, if responses.is_none() => match opened {
                    Ok(opened) => {
                        responses = Some(opened.into_inner());
                        continue;
                    }
                    Err(status) => return Some(described(&status)),
                },
                response = next(&mut responses) => match response {
                    Ok(Some(response)) => self.take(response).await,
                    Ok(None) => return Some("the provider ended the stream".to_owned()),
                    Err(status) => return Some(described(&status)),
                },
                changed = self.wanted.changed() => {
                    if changed.is_err() {
                        return None;
                    }
                    self.look();
                    self.request(None)
                }
            };
            if requests.send(answer).await.is_err() {
                return Some("the provider takes no requests any more".to_owned());
            }
        }
    }

    /// Takes note of what is wanted now.
    fn look(&mut self) {
        let wanted = self.wanted.borrow_and_update().clone();
        let share = wanted.keys().filter(|resource| stream_of(resource, self.streams) == self.at);
        self.share = share.cloned().collect();
    }

    /// A request with all names that are wanted now.
    fn request(&mut self, error: Option<String>) -> DiscoveryRequest {
        if self.wanted.has_changed().unwrap_or(false) {
            self.look();
        }
        let node = self.nonce.is_empty().then(|| Node {
            id: self.task.options.node_id.clone(),
            cluster: "tidegate".to_owned(),
            user_agent_name: "tidegate".to_owned(),
            ..Default::default()
        });
        DiscoveryRequest {
            version_info: self.task.versions.lock().get(&self.at).cloned().unwrap_or_default(),
            node,
            resource_names: self.share.iter().map(ToString::to_string).collect(),
            type_url: TYPE_URL.to_owned(),
            response_nonce: self.nonce.clone(),
            error_detail: error.map(|message| rpc::Status {
                code: Code::InvalidArgument as i32,
                message,
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    /// Offers what came to the store; gives back the ACK or NACK. What is good in a response is taken even if something
    /// beside it is not.
    async fn take(&mut self, response: DiscoveryResponse) -> DiscoveryRequest {
        let DiscoveryResponse { version_info, resources, nonce, .. } = response;
        let wanted = self.wanted.borrow().clone();
        let store = self.task.store.clone();
        let provider = self.task.options.name.clone();
        // Keys are parsed and tried out: milliseconds that the runtime's other tasks should not wait for.
        let judged = tokio::task::spawn_blocking(move || judge(&store, &provider, resources, &wanted)).await;
        let (judged, mut problems) = judged.unwrap_or_else(|error| (Vec::new(), vec![format!("not judged: {error}")]));
        for Judged { resource, refused, .. } in &judged {
            if let Some(reason) = refused {
                problems.push(format!("{resource}: {reason}"));
            }
        }
        self.nonce = nonce;
        let problem = (!problems.is_empty()).then(|| printable(&problems.join("; ")));
        if problem.is_none() {
            self.task.versions.lock().insert(self.at, version_info.clone());
        }
        self.note(&judged, &version_info, problem.as_deref());
        self.request(problem)
    }

    fn note(&self, judged: &[Judged], version: &str, problem: Option<&str>) {
        let provider = &self.task.options.name;
        if let Some(problem) = problem {
            tracing::warn!(provider, problem, "the SDS provider sent what cannot be used; what was there serves on");
        }
        self.task.status.send_modify(|status| {
            status.responses += 1;
            match problem {
                Some(_) => status.nacks += 1,
                None => status.acks += 1,
            }
            for Judged { names, refused, .. } in judged {
                for name in names {
                    let Ok(at) = status.names.binary_search_by(|status| status.name.cmp(name)) else { continue };
                    let name = &mut status.names[at];
                    name.state = if refused.is_some() { NameState::Refused } else { NameState::Accepted };
                    name.reason.clone_from(refused);
                    name.version = printable(version);
                    name.updated = Some(SystemTime::now());
                }
            }
        });
    }
}

/// The next response; never, while the stream is being opened.
async fn next(responses: &mut Option<Streaming<DiscoveryResponse>>) -> Result<Option<DiscoveryResponse>, Status> {
    match responses {
        Some(responses) => responses.message().await,
        None => std::future::pending().await,
    }
}

/// Offers resources to the store. What nobody asked for is left alone: a provider fills only names of its own that a
/// configuration uses. Gives back what was made of each resource, and problems that belong to none.
fn judge(store: &SecretStore, provider: &str, resources: Vec<Any>, wanted: &Resources) -> (Vec<Judged>, Vec<String>) {
    let (mut judged, mut problems) = (Vec::new(), Vec::new());
    for any in resources {
        let (name, payload) = match decode(any) {
            Ok(decoded) => decoded,
            Err(error) => {
                problems.push(error.to_string());
                continue;
            }
        };
        let Some((resource, names)) = wanted.get_key_value(name.as_str()) else { continue };
        let refused = match payload {
            Ok(payload) => names.iter().filter_map(|name| offer(store, provider, name, payload.clone())).next_back(),
            Err(error) => {
                let reason = error.to_string();
                for name in names {
                    offer(store, provider, name, Payload::Broken(reason.clone()));
                }
                Some(reason)
            }
        };
        judged.push(Judged { resource: resource.clone(), names: names.clone(), refused });
    }
    (judged, problems)
}

/// Offers one payload under one name; gives back why the store does not serve it.
fn offer(store: &SecretStore, provider: &str, name: &SecretName, payload: Payload) -> Option<String> {
    let origin = Origin::new(format!("sds://{provider}"), 0, 0);
    let offer = Offer::new(name.clone(), SourceKind::Sds, origin, payload);
    let findings = store.offer(vec![offer]);
    findings.into_iter().find(|finding| finding.level == Level::Error).map(|finding| finding.message)
}

fn described(status: &Status) -> String {
    let code = status.code();
    let mut text = format!("{code:?}: {}", printable(status.message()));
    if let Some(source) = std::error::Error::source(status) {
        text.push_str(": ");
        text.push_str(&printable(&chain(source)));
    }
    text
}
