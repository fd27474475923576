//! Secrets that an SDS server elsewhere sends into our store.

mod address;
mod connect;
mod names;
mod session;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::future::select_all;
use parking_lot::Mutex;
use serde::Serialize;
use tidegate_core::SecretName;
use tidegate_sds::{SecretStore, SourceKind};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

pub use self::address::{AddressError, ProviderAddress};
use self::connect::connect;
pub use self::names::provider_and_resource;
use self::names::{Resources, resources_of, streams_for};
use self::session::Session;

/// An SDS server to take secrets from.
#[derive(Clone, Debug)]
pub struct ProviderOptions {
    /// What `sds://<name>` calls it.
    pub name: String,
    pub address: ProviderAddress,
    /// For `https`.
    pub tls: ClientTls,
    /// What the provider is told that we are: `node.id`. Envoy's servers ask for some.
    pub node_id: String,
    /// How long to wait before connecting again.
    pub back_off: BackOff,
    /// Bytes of the largest response that is taken.
    pub response_bytes: usize,
}

impl ProviderOptions {
    pub fn new(name: impl Into<String>, address: ProviderAddress) -> Self {
        Self {
            name: name.into(),
            address,
            tls: ClientTls::default(),
            node_id: "tidegate".to_owned(),
            back_off: BackOff::default(),
            response_bytes: 16 << 20,
        }
    }
}

/// How a provider is verified, and what it is shown. Files are PEM and read for each connection.
#[derive(Clone, Default, Debug)]
pub struct ClientTls {
    /// Authorities that the provider's certificate must come from; none for those that the machine trusts.
    pub authorities: Option<PathBuf>,
    /// Chain and key to show.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The name that the certificate must have; none for the address's host.
    pub server_name: Option<String>,
}

/// Doubling delays between `base` and `max`, each shortened by up to a half at random so that many gateways do not come
/// back at once. A stream that delivered something starts anew. The default is Envoy's: half a second to 30 s.
#[derive(Clone, Copy, Debug)]
pub struct BackOff {
    pub base: Duration,
    pub max: Duration,
}

impl Default for BackOff {
    fn default() -> Self {
        Self { base: Duration::from_millis(500), max: Duration::from_secs(30) }
    }
}

impl BackOff {
    /// The delay after so many failures in a row, of which there was at least one.
    fn delay(self, failures: u32) -> Duration {
        let doubled = self.base.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1)));
        doubled.min(self.max).mul_f64(1.0 - fastrand::f64() / 2.0)
    }
}

/// Whether the provider can be heard.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ConnectionState {
    /// No secret of it is wanted, so it is not connected to.
    Idle,
    Connecting,
    Connected,
    /// It will be connected to again; `last_error` says what happened.
    BackingOff,
    /// The client was stopped.
    Stopped,
}

/// How one secret of a provider stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum NameState {
    /// Nothing came yet: the provider does not have it, or does not let us have it.
    Waiting,
    /// The store took what came last.
    Accepted,
    /// What came last was refused; what was there before serves on.
    Refused,
}

/// One secret of a provider.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct NameStatus {
    pub name: SecretName,
    /// What the provider calls it.
    pub resource: String,
    pub state: NameState,
    /// `version_info` of the last response that it came in.
    pub version: String,
    #[serde(serialize_with = "crate::time::maybe")]
    pub updated: Option<SystemTime>,
    /// Why it was refused.
    pub reason: Option<String>,
}

/// How a provider stands.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct SdsClientStatus {
    pub provider: String,
    pub address: String,
    pub state: ConnectionState,
    /// When the state began.
    #[serde(serialize_with = "crate::time::moment")]
    pub since: SystemTime,
    /// The last thing that ended or prevented a connection, and when. Kept while all is well again.
    pub last_error: Option<String>,
    #[serde(serialize_with = "crate::time::maybe")]
    pub last_error_at: Option<SystemTime>,
    /// Sorted by name.
    pub names: Vec<NameStatus>,
    /// Connections that were made, responses that came, and our answers to them.
    pub connections: u64,
    pub responses: u64,
    pub acks: u64,
    pub nacks: u64,
}

/// A client of one provider: a task that keeps the wanted secrets subscribed, and what comes of them in the store.
///
/// What the provider sent last serves on while it cannot be reached, and when it sends something that the store
/// refuses. Ends when dropped; [`Self::stop`] waits for the end.
#[derive(Debug)]
pub struct SdsClient {
    provider: String,
    wanted: watch::Sender<Resources>,
    status: watch::Sender<SdsClientStatus>,
    store: Arc<SecretStore>,
    cancel: CancellationToken,
    task: Option<JoinHandle<()>>,
}

impl SdsClient {
    /// Starts the task, which is idle until [`Self::want`] names something. Must be called in a Tokio runtime.
    pub fn start(options: ProviderOptions, store: Arc<SecretStore>) -> Self {
        if options.address.is_exposed() {
            tracing::warn!(provider = options.name, address = %options.address,
                "an SDS provider is reached without TLS: keys cross the network in the clear");
        }
        let status = watch::Sender::new(SdsClientStatus {
            provider: options.name.clone(),
            address: options.address.to_string(),
            state: ConnectionState::Idle,
            since: SystemTime::now(),
            last_error: None,
            last_error_at: None,
            names: Vec::new(),
            connections: 0,
            responses: 0,
            acks: 0,
            nacks: 0,
        });
        let wanted = watch::Sender::new(Resources::default());
        let cancel = CancellationToken::new();
        let provider = options.name.clone();
        let task = Task {
            options,
            store: store.clone(),
            wanted: wanted.subscribe(),
            status: status.clone(),
            versions: Mutex::default(),
        };
        let stopped = (cancel.clone(), status.clone());
        let task = tokio::spawn(async move {
            let (cancel, status) = stopped;
            cancel.run_until_cancelled(task.run()).await;
            enter(&status, ConnectionState::Stopped);
        });
        Self { provider, wanted, status, store, cancel, task: Some(task) }
    }

    /// Says which secrets are wanted; replaces what was wanted before. Names of other providers, and other names, are
    /// left alone. What is no longer wanted is withdrawn from the store.
    pub fn want<'n>(&self, names: impl IntoIterator<Item = &'n SecretName>) {
        let resources = resources_of(&self.provider, names);
        let mut gone = Vec::new();
        self.wanted.send_if_modified(|wanted| {
            if *wanted == resources {
                return false;
            }
            let kept: BTreeSet<_> = resources.values().flatten().collect();
            gone.extend(wanted.values().flatten().filter(|name| !kept.contains(name)).cloned());
            self.status.send_modify(|status| list(&resources, &mut status.names));
            *wanted = resources;
            true
        });
        if !gone.is_empty() {
            self.store.withdraw_from(SourceKind::Sds, &gone);
        }
    }

    pub fn status(&self) -> SdsClientStatus {
        self.status.borrow().clone()
    }

    /// Wakes at every change of the status.
    pub fn subscribe(&self) -> watch::Receiver<SdsClientStatus> {
        self.status.subscribe()
    }

    /// Ends the task, and returns when it has ended. The store keeps what it has.
    pub async fn stop(mut self) {
        self.cancel.cancel();
        if let Some(task) = self.task.take() {
            // It fails only if the task panicked, and then it has ended, too.
            let _ = task.await;
        }
    }
}

impl Drop for SdsClient {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

struct Task {
    options: ProviderOptions,
    store: Arc<SecretStore>,
    wanted: watch::Receiver<Resources>,
    status: watch::Sender<SdsClientStatus>,
    /// `version_info` of the last response that was taken, of each stream: its next requests repeat it, also over a
    /// reconnect.
    versions: Mutex<BTreeMap<usize, String>>,
}

impl Task {
    async fn run(mut self) {
        let mut failures = 0;
        loop {
            if !self.until_wanted().await {
                return;
            }
            enter(&self.status, ConnectionState::Connecting);
            let ended = match connect(&self.options.address, &self.options.tls).await {
                Ok(channel) => {
                    self.status.send_modify(|status| status.connections += 1);
                    enter(&self.status, ConnectionState::Connected);
                    let before = self.status.borrow().responses;
                    let ended = self.converse(channel).await;
                    if self.status.borrow().responses > before {
                        failures = 0;
                    }
                    ended
                }
                Err(error) => Some(error.to_string()),
            };
            // Nothing is wanted any more.
            let Some(error) = ended else { continue };
            failures += 1;
            self.failed(error);
            tokio::time::sleep(self.options.back_off.delay(failures)).await;
        }
    }

    /// Has as many streams with the provider as the names need, until the first of them ends. None if nothing is wanted
    /// any more, otherwise why it ended.
    async fn converse(&self, channel: Channel) -> Option<String> {
        let streams = streams_for(self.wanted.borrow().len());
        let sessions = (0..streams).map(|at| Box::pin(Session::new(self, at, streams).run(channel.clone())));
        select_all(sessions).await.0
    }

    /// Waits until a secret is wanted. False when nobody can want any more.
    async fn until_wanted(&mut self) -> bool {
        if self.wanted.borrow_and_update().is_empty() {
            enter(&self.status, ConnectionState::Idle);
            if self.wanted.wait_for(|wanted| !wanted.is_empty()).await.is_err() {
                return false;
            }
        }
        true
    }

    fn failed(&self, error: String) {
        let repeated = self.status.borrow().last_error.as_ref() == Some(&error);
        if repeated {
            tracing::debug!(provider = self.options.name, error, "the SDS provider still cannot be heard");
        } else {
            tracing::warn!(
                provider = self.options.name,
                error,
                "the SDS provider cannot be heard; what it sent serves on"
            );
        }
        self.status.send_modify(|status| {
            status.last_error = Some(error);
            status.last_error_at = Some(SystemTime::now());
        });
        enter(&self.status, ConnectionState::BackingOff);
    }
}

/// Brings a list of names in line with what is wanted: what stays keeps its state.
fn list(wanted: &Resources, names: &mut Vec<NameStatus>) {
    let mut earlier: BTreeMap<_, _> = names.drain(..).map(|name| (name.name.clone(), name)).collect();
    for (resource, wanted) in wanted.iter() {
        names.extend(wanted.iter().map(|name| {
            earlier.remove(name).unwrap_or_else(|| NameStatus {
                name: name.clone(),
                resource: resource.to_string(),
                state: NameState::Waiting,
                version: String::new(),
                updated: None,
                reason: None,
            })
        }));
    }
    names.sort_by(|a, b| a.name.cmp(&b.name));
}

fn enter(status: &watch::Sender<SdsClientStatus>, state: ConnectionState) {
    status.send_if_modified(|status| {
        let changed = status.state != state;
        if changed {
            status.state = state;
            status.since = SystemTime::now();
        }
        changed
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_longest_and_vary() {
        let back_off = BackOff { base: Duration::from_millis(500), max: Duration::from_secs(30) };
        for (failures, longest) in [(1, 500), (2, 1000), (3, 2000), (7, 30_000), (1000, 30_000), (u32::MAX, 30_000)] {
            let longest = Duration::from_millis(longest);
            for _ in 0..100 {
                let delay = back_off.delay(failures);
                assert!(delay <= longest && delay >= longest / 2, "{failures}: {delay:?}");
            }
        }
    }
}
