//! What one stream subscribed to, what it was sent, and what it said to that: the rules of the protocol without I/O.
//!
//! One resource per response, in both variants of the protocol: a rotation costs what it changes, and an ACK or NACK
//! says exactly whose. The protocol allows it (only listeners and clusters must come as a whole), Istio's agent does
//! the same, and Envoy, which opens a stream for each secret, accepts nothing else.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Weak};

use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
};
use envoy_types::pb::google::protobuf::Any;
use envoy_types::pb::google::rpc;
use serde::Serialize;
use tidegate_core::SecretName;
use tidegate_sds::Secret;

use crate::payload::{self, TYPE_URL};

/// The longest name that may be asked for, in bytes.
const MAX_NAME: usize = 1024;

/// Responses whose ACK is awaited, or twice as many as the stream has names; of older ones nothing is recorded. A client
/// that reads and never ACKs costs this much and no more.
const MAX_UNACKNOWLEDGED: usize = 256;

/// Text of a client that is kept and shown, in characters.
const MAX_TEXT: usize = 256;

/// What a stream may see of the store: authorization and aliases are behind it.
pub(crate) trait Catalog {
    /// The store's name for what a client calls `name`; none if this client may not read it.
    fn permitted(&self, name: &str) -> Option<SecretName>;

    /// What the slot holds now.
    fn current(&self, name: &SecretName) -> Option<Arc<Secret>>;
}

/// Why a stream is ended.
#[derive(PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum Violation {
    #[error("{0} names at most may be subscribed to in one stream")]
    TooManyNames(usize),
    #[error("the server's limit of subscriptions is reached")]
    ServerFull,
    #[error("a name is longer than {MAX_NAME} bytes")]
    NameTooLong,
    #[error("this service serves {TYPE_URL} only")]
    TypeUrl,
}

/// What a request said about an earlier response.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    Accepted,
    /// The client keeps what it had; its reason, shortened and made printable.
    Rejected {
        name: Arc<str>,
        reason: String,
    },
}

/// How a subscribed name stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ResourceState {
    /// The store holds nothing under the name yet; it is answered when that arrives.
    Waiting,
    /// The client may not read it. It is not told so: a refused name looks like one that does not exist.
    Refused,
    /// Sent, and nothing heard yet.
    Sent,
    /// The client uses what it was sent last.
    Acknowledged,
    /// The client refused what it was sent last, and uses what it had before.
    Rejected,
}

/// One name of a stream, for status.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ResourceStatus {
    /// As the client calls it.
    pub name: String,
    /// As the store calls it; none if refused.
    pub secret: Option<String>,
    pub state: ResourceState,
    /// Of what was sent last: a digest of its public parts. Empty if nothing was.
    pub version: String,
    /// Why the client rejected it.
    pub reason: Option<String>,
}

/// How the names of a stream stand, counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) names: usize,
    pub(crate) waiting: usize,
    pub(crate) refused: usize,
    pub(crate) rejected: usize,
}

#[derive(Debug)]
struct Entry {
    /// None if refused.
    secret: Option<SecretName>,
    sent: Option<Sent>,
    /// Whether the name is in the queue.
    due: bool,
    /// Whether it is to be sent although the client has this version.
    forced: bool,
}

#[derive(Debug)]
struct Sent {
    /// What the slot held; nothing where only the version is known, from before a reconnect. Does not keep it alive.
    secret: Weak<Secret>,
    version: String,
    /// Number of the response that it was in; 0 for none of this stream.
    number: u64,
    answer: Answer,
}

#[derive(Debug)]
enum Answer {
    None,
    Acknowledged,
    Rejected(String),
}

/// A resource on its way, or the news that it is gone.
#[derive(Debug)]
enum Outgoing {
    Content { name: Arc<str>, version: String, resource: Any },
    Gone { name: Arc<str> },
}

/// The subscriptions of one stream.
#[derive(Debug)]
pub(crate) struct Subscriptions {
    limit: usize,
    entries: BTreeMap<Arc<str>, Entry>,
    due: VecDeque<Arc<str>>,
    /// First part of every nonce: a nonce of another stream is never taken for one of this.
    stream: u64,
    nonces: u64,
    /// Number and name of responses whose ACK is awaited, oldest first.
    unacknowledged: VecDeque<(u64, Arc<str>)>,
    subscribed: bool,
}

impl Subscriptions {
    /// `limit` is how many names the stream may have.
    pub(crate) fn new(stream: u64, limit: usize) -> Self {
        Self {
            limit,
            entries: BTreeMap::new(),
            due: VecDeque::new(),
            stream,
            nonces: 0,
            unacknowledged: VecDeque::new(),
            subscribed: false,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// Whether there is something to send. [`Self::next_sotw`] may find that it no longer is.
    pub(crate) fn is_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// Names that this stream may not read.
    pub(crate) fn refused(&self) -> impl Iterator<Item = &Arc<str>> {
        self.entries.iter().filter(|(_, entry)| entry.secret.is_none()).map(|(name, _)| name)
    }

    pub(crate) fn tally(&self) -> Tally {
        let mut tally = Tally { names: self.entries.len(), ..Tally::default() };
        for entry in self.entries.values() {
            match entry.state() {
                ResourceState::Waiting => tally.waiting += 1,
                ResourceState::Refused => tally.refused += 1,
                ResourceState::Rejected => tally.rejected += 1,
                ResourceState::Sent | ResourceState::Acknowledged => {}
            }
        }
        tally
    }

    /// Sorted by name.
    pub(crate) fn resources(&self) -> Vec<ResourceStatus> {
        let status = |(name, entry): (&Arc<str>, &Entry)| ResourceStatus {
            name: name.to_string(),
            secret: entry.secret.as_ref().map(ToString::to_string),
            state: entry.state(),
            version: entry.sent.as_ref().map(|sent| sent.version.clone()).unwrap_or_default(),
            reason: entry.sent.as_ref().and_then(|sent| match &sent.answer {
                Answer::Rejected(reason) => Some(reason.clone()),
                _ => None,
            }),
        };
        self.entries.iter().map(status).collect()
    }

    /// Takes a request of the state-of-the-world variant, by the rules that istiod applies (`ShouldRespond`):
    ///
    /// 1. a NACK is recorded and changes nothing;
    /// 2. no names unsubscribe from all, even in a first request: on this service they are no wildcard;
    /// 3. without a nonce, or as the first request of the stream, the names are subscribed anew and all answered;
    /// 4. with a nonce that is not the last one sent, its names are ignored: the ACK of the last one repeats them;
    /// 5. with the last nonce, the names replace the earlier ones, and only added ones are answered.
    ///
    /// # Errors
    /// Names beyond a limit, and other types than secrets. The stream must be ended.
    pub(crate) fn sotw(
        &mut self,
        request: DiscoveryRequest,
        catalog: &impl Catalog,
    ) -> Result<Option<Verdict>, Violation> {
        check_type(&request.type_url)?;
        if let Some(error) = request.error_detail {
            return Ok(Some(self.rejected(&request.response_nonce, &error)));
        }
        if request.resource_names.is_empty() {
            let verdict = self.acknowledged(&request.response_nonce);
            self.subscribed = true;
            self.entries.clear();
            self.due.clear();
            return Ok(verdict);
        }
        let first = !std::mem::replace(&mut self.subscribed, true);
        if request.response_nonce.is_empty() || first {
            self.replace(request.resource_names, catalog)?;
            self.make_all_due(catalog, Resend::Always);
            return Ok(None);
        }
        let is_last = self.number(&request.response_nonce) == Some(self.nonces);
        let verdict = self.acknowledged(&request.response_nonce);
        if is_last {
            self.replace(request.resource_names, catalog)?;
        }
        Ok(verdict)
    }

    /// Takes a request of the incremental variant. Subscriptions change with or without a nonce, as Envoy sends both
    /// at once. There is no wildcard: a first request without names, and `*`, subscribe to nothing. A name that the
    /// client has in the version that the store has is not sent again.
    ///
    /// # Errors
    /// As in [`Self::sotw`].
    pub(crate) fn delta(
        &mut self,
        request: DeltaDiscoveryRequest,
        catalog: &impl Catalog,
    ) -> Result<Option<Verdict>, Violation> {
        check_type(&request.type_url)?;
        let verdict = match &request.error_detail {
            Some(error) => Some(self.rejected(&request.response_nonce, error)),
            None => self.acknowledged(&request.response_nonce),
        };
        for name in &request.resource_names_unsubscribe {
            self.entries.remove(name.as_str());
        }
        if !request.resource_names_unsubscribe.is_empty() {
            self.prune();
        }
        let first = !std::mem::replace(&mut self.subscribed, true);
        let mut known = if first { request.initial_resource_versions } else { Default::default() };
        for name in request.resource_names_subscribe {
            if name == "*" {
                continue;
            }
            let name: Arc<str> = name.into();
            let new = self.insert(&name, catalog)?;
            if let Some(version) = known.remove(&*name)
                && let Some(entry) = self.entries.get_mut(&name)
            {
                entry.sent = Some(Sent { secret: Weak::new(), version, number: 0, answer: Answer::Acknowledged });
                self.make_due(&name, catalog, Resend::IfChanged);
            } else if !new {
                // The protocol: to subscribe again to what one has is to ask for it again.
                self.make_due(&name, catalog, Resend::Always);
            }
        }
        // As istiod: what the client has it is subscribed to, named or not.
        for (name, version) in known {
            let name: Arc<str> = name.into();
            self.insert(&name, catalog)?;
            if let Some(entry) = self.entries.get_mut(&name) {
                entry.sent = Some(Sent { secret: Weak::new(), version, number: 0, answer: Answer::Acknowledged });
            }
            self.make_due(&name, catalog, Resend::IfChanged);
        }
        Ok(verdict)
    }

    /// Puts every name in the queue whose slot changed since it was sent. To be called when the store moved.
    pub(crate) fn refresh(&mut self, catalog: &impl Catalog) {
        self.make_all_due(catalog, Resend::IfChanged);
    }

    /// The next response, with what the store holds at this moment. None if nothing is to be sent any more.
    pub(crate) fn next_sotw(&mut self, catalog: &impl Catalog) -> Option<DiscoveryResponse> {
        loop {
            // This variant has no way to say that a secret is gone.
            if let Outgoing::Content { name, version, resource } = self.next(catalog)? {
                let nonce = self.nonce(name);
                return Some(DiscoveryResponse {
                    version_info: version,
                    resources: vec![resource],
                    type_url: TYPE_URL.to_owned(),
                    nonce,
                    ..Default::default()
                });
            }
        }
    }

    /// As [`Self::next_sotw`], in the incremental variant. A name that was sent and whose slot is empty now is removed;
    /// one that never had anything is not answered, as one that may not be read.
    pub(crate) fn next_delta(&mut self, catalog: &impl Catalog) -> Option<DeltaDiscoveryResponse> {
        let mut response = DeltaDiscoveryResponse { type_url: TYPE_URL.to_owned(), ..Default::default() };
        match self.next(catalog)? {
            Outgoing::Content { name, version, resource } => {
                response.system_version_info.clone_from(&version);
                response.resources =
                    vec![Resource { name: name.to_string(), version, resource: Some(resource), ..Default::default() }];
                response.nonce = self.nonce(name);
            }
            Outgoing::Gone { name } => {
                response.removed_resources = vec![name.to_string()];
                response.nonce = self.nonce(name);
            }
        }
        Some(response)
    }

    fn next(&mut self, catalog: &impl Catalog) -> Option<Outgoing> {
        while let Some(name) = self.due.pop_front() {
            // Unsubscribed in the meantime.
            let Some(entry) = self.entries.get_mut(&name) else { continue };
            entry.due = false;
            let forced = std::mem::take(&mut entry.forced);
            let Some(secret) = &entry.secret else { continue };
            let Some(current) = catalog.current(secret) else {
                if entry.sent.take().is_some() {
                    return Some(Outgoing::Gone { name });
                }
                continue;
            };
            let version = payload::version(&current.content);
            if let Some(sent) = &mut entry.sent {
                sent.secret = Arc::downgrade(&current);
                if sent.version == version && !forced {
                    continue;
                }
            }
            let resource = payload::encode(&name, &current.content);
            let secret = Arc::downgrade(&current);
            // The next nonce is for this: the callers make it at once.
            let number = self.nonces + 1;
            entry.sent = Some(Sent { secret, version: version.clone(), number, answer: Answer::None });
            return Some(Outgoing::Content { name, version, resource });
        }
        None
    }

    /// Keeps what stays, with its state; adds what is new, and puts it in the queue.
    fn replace(&mut self, names: Vec<String>, catalog: &impl Catalog) -> Result<(), Violation> {
        // As in nearly every ACK.
        if names.len() == self.entries.len() && names.iter().all(|name| self.entries.contains_key(name.as_str())) {
            // Equal sets, unless a name stands there twice and so another one is missing.
            let distinct: BTreeSet<_> = names.iter().collect();
            if distinct.len() == names.len() {
                return Ok(());
            }
        }
        let mut earlier = std::mem::take(&mut self.entries);
        for name in names {
            match earlier.remove_entry(name.as_str()) {
                Some((name, entry)) => {
                    self.entries.insert(name, entry);
                }
                None => {
                    self.insert(&name.into(), catalog)?;
                }
            }
        }
        self.prune();
        Ok(())
    }

    /// Whether the name is new.
    fn insert(&mut self, name: &Arc<str>, catalog: &impl Catalog) -> Result<bool, Violation> {
        if self.entries.contains_key(name) {
            return Ok(false);
        }
        if name.len() > MAX_NAME {
            return Err(Violation::NameTooLong);
        }
        if self.entries.len() >= self.limit {
            return Err(Violation::TooManyNames(self.limit));
        }
        let entry = Entry { secret: catalog.permitted(name), sent: None, due: false, forced: false };
        self.entries.insert(name.clone(), entry);
        self.make_due(name, catalog, Resend::IfChanged);
        Ok(true)
    }

    fn make_due(&mut self, name: &Arc<str>, catalog: &impl Catalog, resend: Resend) {
        if let Some(entry) = self.entries.get_mut(name) {
            entry.make_due(name, &mut self.due, catalog, resend);
        }
    }

    fn make_all_due(&mut self, catalog: &impl Catalog, resend: Resend) {
        for (name, entry) in &mut self.entries {
            entry.make_due(name, &mut self.due, catalog, resend);
        }
    }

    /// Forgets queued names that are unsubscribed, so that the queue is never longer than the list of names.
    fn prune(&mut self) {
        let entries = &self.entries;
        self.due.retain(|name| entries.contains_key(name));
    }

    fn nonce(&mut self, name: Arc<str>) -> String {
        self.nonces += 1;
        if self.unacknowledged.len() >= MAX_UNACKNOWLEDGED.max(2 * self.entries.len()) {
            self.unacknowledged.pop_front();
        }
        self.unacknowledged.push_back((self.nonces, name));
        format!("{:x}-{}", self.stream, self.nonces)
    }

    /// The number in a nonce of this stream.
    fn number(&self, nonce: &str) -> Option<u64> {
        let (stream, number) = nonce.split_once('-')?;
        if u64::from_str_radix(stream, 16) != Ok(self.stream) { None } else { number.parse().ok() }
    }

    /// The name and number of the response of a nonce. Forgets it and all before it: a client answers in order.
    fn answered(&mut self, nonce: &str) -> Option<(Arc<str>, u64)> {
        let number = self.number(nonce)?;
        while self.unacknowledged.front().is_some_and(|(oldest, _)| *oldest <= number) {
            if let Some((found, name)) = self.unacknowledged.pop_front()
                && found == number
            {
                return Some((name, number));
            }
        }
        None
    }

    /// What a response sent, unless a later one has overtaken it: then an answer to it says nothing any more.
    fn sent_in(&mut self, name: &str, number: u64) -> Option<&mut Sent> {
        self.entries.get_mut(name)?.sent.as_mut().filter(|sent| sent.number == number)
    }

    fn acknowledged(&mut self, nonce: &str) -> Option<Verdict> {
        let (name, number) = self.answered(nonce)?;
        if let Some(sent) = self.sent_in(&name, number) {
            sent.answer = Answer::Acknowledged;
        }
        Some(Verdict::Accepted)
    }

    fn rejected(&mut self, nonce: &str, error: &rpc::Status) -> Verdict {
        let reason = printable(&error.message);
        let Some((name, number)) = self.answered(nonce) else { return Verdict::Rejected { name: "".into(), reason } };
        if let Some(sent) = self.sent_in(&name, number) {
            sent.answer = Answer::Rejected(reason.clone());
        }
        Verdict::Rejected { name, reason }
    }
}

impl Entry {
    fn make_due(&mut self, name: &Arc<str>, due: &mut VecDeque<Arc<str>>, catalog: &impl Catalog, resend: Resend) {
        let Some(secret) = &self.secret else { return };
        let current = catalog.current(secret);
        let changed = match (&self.sent, &current) {
            (None, current) => current.is_some(),
            (Some(_), None) => true,
            (Some(sent), Some(current)) => !std::ptr::eq(sent.secret.as_ptr(), Arc::as_ptr(current)),
        };
        let forced = resend == Resend::Always && current.is_some();
        self.forced |= forced;
        if (changed || forced) && !self.due {
            self.due = true;
            due.push_back(name.clone());
        }
    }

    fn state(&self) -> ResourceState {
        match (&self.secret, &self.sent) {
            (None, _) => ResourceState::Refused,
            (_, None) => ResourceState::Waiting,
            (_, Some(Sent { answer: Answer::None, .. })) => ResourceState::Sent,
            (_, Some(Sent { answer: Answer::Acknowledged, .. })) => ResourceState::Acknowledged,
            (_, Some(Sent { answer: Answer::Rejected(_), .. })) => ResourceState::Rejected,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Resend {
    Always,
    IfChanged,
}

/// An absent type is taken for ours: the service has only one.
fn check_type(type_url: &str) -> Result<(), Violation> {
    if type_url.is_empty() || type_url == TYPE_URL { Ok(()) } else { Err(Violation::TypeUrl) }
}

/// A peer's text, made short and printable. PEM in it would be a peer's mistake; it is cut out all the same.
pub(crate) fn printable(text: &str) -> String {
    let text = text.split("-----BEGIN").next().unwrap_or_default();
    text.chars().take(MAX_TEXT).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tidegate_core::{Origin, SecretBytes};
    use tidegate_sds::{Offer, Payload, SecretStore, SourceKind};

    use super::*;

    /// A store from which secrets can vanish.
    #[derive(Default)]
    struct Shelf {
        secrets: HashMap<SecretName, Arc<Secret>>,
        forbidden: BTreeSet<String>,
        store: SecretStore,
    }

    impl Shelf {
        fn put(&mut self, names: &[&str]) {
            for name in names {
                let pair = rcgen::generate_simple_self_signed(vec!["a.example".to_owned()]).expect("a certificate");
                let name = SecretName::new(name);
                let payload = Payload::Certificate {
                    chain: SecretBytes::new(pair.cert.pem().into_bytes()),
                    key: SecretBytes::new(pair.signing_key.serialize_pem().into_bytes()),
                    ocsp_staple: None,
                };
                self.store.offer(vec![Offer::new(name.clone(), SourceKind::File, Origin::default(), payload)]);
                let secret = self.store.get(&name).and_then(|slot| slot.current()).expect("taken");
                self.secrets.insert(name, secret);
            }
        }

        fn with(names: &[&str]) -> Self {
            let mut shelf = Self::default();
            shelf.put(names);
            shelf
        }
    }

    impl Catalog for Shelf {
        fn permitted(&self, name: &str) -> Option<SecretName> {
            (!self.forbidden.contains(name)).then(|| SecretName::new(name))
        }

        fn current(&self, name: &SecretName) -> Option<Arc<Secret>> {
            self.secrets.get(name).cloned()
        }
    }

    fn request(nonce: &str, names: &[&str]) -> DiscoveryRequest {
        DiscoveryRequest {
            type_url: TYPE_URL.to_owned(),
            response_nonce: nonce.to_owned(),
            resource_names: names.iter().map(ToString::to_string).collect(),
            ..Default::default()
        }
    }

    fn nack(nonce: &str, names: &[&str], message: &str) -> DiscoveryRequest {
        let error = rpc::Status { message: message.to_owned(), ..Default::default() };
        DiscoveryRequest { error_detail: Some(error), ..request(nonce, names) }
    }

    fn delta(subscribe: &[&str], unsubscribe: &[&str]) -> DeltaDiscoveryRequest {
        let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        DeltaDiscoveryRequest {
            type_url: TYPE_URL.to_owned(),
            resource_names_subscribe: owned(subscribe),
            resource_names_unsubscribe: owned(unsubscribe),
            ..Default::default()
        }
    }

    fn secret_in(any: &Any) -> String {
        payload::decode(any.clone()).expect("a secret").0
    }

    /// All responses that are due: names and nonces.
    fn sent(subscriptions: &mut Subscriptions, shelf: &Shelf) -> Vec<(String, String)> {
        std::iter::from_fn(|| subscriptions.next_sotw(shelf))
            .map(|response| {
                assert_eq!(response.resources.len(), 1, "one resource per response");
                (secret_in(&response.resources[0]), response.nonce)
            })
            .collect()
    }

    fn names(sent: &[(String, String)]) -> Vec<&str> {
        sent.iter().map(|(name, _)| name.as_str()).collect()
    }

    /// All responses of the incremental variant that are due: `name`, or `-name` for a removal.
    fn sent_delta(subscriptions: &mut Subscriptions, shelf: &Shelf) -> Vec<(String, String)> {
        std::iter::from_fn(|| subscriptions.next_delta(shelf))
            .map(|response| match (&response.resources[..], &response.removed_resources[..]) {
                ([resource], []) => {
                    assert_eq!(resource.name, secret_in(resource.resource.as_ref().expect("content")));
                    (resource.name.clone(), resource.version.clone())
                }
                ([], [name]) => (format!("-{name}"), String::new()),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    fn states(subscriptions: &Subscriptions) -> Vec<(String, ResourceState)> {
        subscriptions.resources().into_iter().map(|resource| (resource.name, resource.state)).collect()
    }

    #[test]
    fn a_subscription_is_answered_name_by_name_and_missing_ones_when_they_arrive() {
        let mut shelf = Shelf::with(&["a", "b"]);
        let mut stream = Subscriptions::new(1, 10);
        assert_eq!(stream.sotw(request("", &["a", "b", "c"]), &shelf), Ok(None));
        assert_eq!(names(&sent(&mut stream, &shelf)), ["a", "b"]);
        stream.refresh(&shelf);
        assert!(!stream.is_due(), "nothing changed");
        shelf.put(&["c"]);
        stream.refresh(&shelf);
        assert_eq!(names(&sent(&mut stream, &shelf)), ["c"]);
    }

    #[test]
    fn a_rotation_sends_exactly_what_rotated() {
        let mut shelf = Shelf::with(&["a", "b"]);
        let mut stream = Subscriptions::new(1, 10);
        stream.sotw(request("", &["a", "b"]), &shelf).expect("fine");
        sent(&mut stream, &shelf);
        shelf.put(&["b"]);
        stream.refresh(&shelf);
        assert_eq!(names(&sent(&mut stream, &shelf)), ["b"]);
    }

    #[test]
    fn several_rotations_before_there_is_room_are_one_response() {
        let mut shelf = Shelf::with(&["a"]);
        let mut stream = Subscriptions::new(1, 10);
        stream.sotw(request("", &["a"]), &shelf).expect("fine");
        for _ in 0..3 {
            shelf.put(&["a"]);
            stream.refresh(&shelf);
        }
        assert_eq!(sent(&mut stream, &shelf).len(), 1);
    }

    #[test]
    fn an_ack_with_more_names_is_answered_with_these_only() {
        let shelf = Shelf::with(&["a", "b"]);
        let mut stream = Subscriptions::new(1, 10);
        stream.sotw(request("", &["a"]), &shelf).expect("fine");
        let nonce = sent(&mut stream, &shelf).remove(0).1;
        assert_eq!(stream.sotw(request(&nonce, &["a"]), &shelf), Ok(Some(Verdict::Accepted)));
        assert!(!stream.is_due());
        assert_eq!(stream.sotw(request(&nonce, &["a", "b"]), &shelf), Ok(None), "said already");
        assert_eq!(names(&sent(&mut stream, &shelf)), ["b"]);
    }

    #[test]
    fn a_name_that_is_repeated_does_not_keep_another_subscribed() {
        let shelf = Shelf::with(&["a", "b"]);
        let mut stream = Subscriptions::new(1, 10);
        stream.sotw(request("", &["a", "b"]), &shelf).expect("fine");
        let nonce = sent(&mut stream, &shelf).remove(1).1;
        stream.sotw(request(&nonce, &["a", "a"]), &shelf).expect("fine");
        assert_eq!(stream.len(), 1);
    }

    #[test]
    fn a_name_that_left_and_came_back_is_answered_again() {
        let shelf = Shelf::with(&["a", "b"]);
        let mut stream = Subscriptions::new(1, 10);
        stream.sotw(request("", &["a", "b"]), &shelf).expect("fine");
        let nonce = sent(&mut stream, &shelf).remove(1).1;
        stream.sotw(request(&nonce, &["b"]), &shelf).expect("fine");
        assert!(!stream.is_due());
        stream.sotw(request(&nonce, &["a", "b"]), &shelf).expect("fine");
        assert_eq!(names(&sent(&mut stream, &shelf)), ["a"]);
    }

    #[test]
    fn a_stale_nonce_changes_no_names_but_its_verdict_counts() {
        let shelf = Shelf::with(&["a", "b", "c"]);
        let mut stream = Subscriptions::new(1, 10);
        stream.sotw(request("", &["a", "b"]), &shelf).expect("fine");
        let sent_first = sent(&mut stream, &shelf);
        let (first, last) = (&sent_first[0].1, &sent_first[1].1);
        assert_eq!(stream.sotw(request(first, &["a", "b", "c"]), &shelf), Ok(Some(Verdict::Accepted)));
        assert!(!stream.is_due());
        stream.sotw(request(last, &["a", "b", "c"]), &shelf).expect("fine");
        assert_eq!(names(&sent(&mut stream, &shelf)), ["c"]);
        stream.sotw(request("ff-1", &["a"]), &shelf).expect("another stream's");
        stream.sotw(request("rubbish", &["a"]), &shelf).expect("nobody's");
        assert_eq!(stream.len(), 3);
    }

    #[test]
    fn a_first_request_with_an_old_nonce_subscribes_as_after_a_reconnect() {
        let shelf = Shelf::with(&["a"]);
        let mut stream = Subscriptions::new(1, 10);
        stream.sotw(request("7-3", &["a"]), &shelf).expect("fine");
        assert_eq!(names(&sent(&mut stream, &shelf)), ["a"]);
    }

    #[test]
    fn a_request_without_nonce_is_always_answered() {
        let shelf = Shelf::with(&["a"]);
        let mut stream = Subscriptions::new(1, 10);
        for _ in 0..2 {
            stream.sotw(request("", &["a"]), &shelf).expect("fine");
            assert_eq!(names(&sent(&mut stream, &shelf)), ["a"]);
        }
    }

    #[test]
    fn no_names_unsubscribe_and_are_no_wildcard() {
        let mut shelf = Shelf::with(&["a"]);
        let mut stream = Subscriptions::new(1, 10);
        stream.sotw(request("", &[]), &shelf).expect("fine");
        assert!(!stream.is_due());
        stream.sotw(request("", &["a"]), &shelf).expect("fine");
        let nonce = sent(&mut stream, &shelf).remove(0).1;
        assert_eq!(stream.sotw(request(&nonce, &[]), &shelf), Ok(Some(Verdict::Accepted)));
        shelf.put(&["a"]);
        stream.refresh(&shelf);
        assert!(!stream.is_due());
        assert_eq!(stream.len(), 0);
    }

    #[test]
    fn a_nack_is_recorded_for_its_name_and_nothing_is_sent_again() {
        let mut shelf = Shelf::with(&["a", "b"]);
        let mut stream = Subscriptions::new(1, 10);
        stream.sotw(request("", &["a", "b"]), &shelf).expect("fine");
        let nonces = sent(&mut stream, &shelf);
        let verdict = stream.sotw(nack(&nonces[0].1, &["a", "b"], "bad\nkey -----BEGIN PRIVATE KEY-----"), &shelf);
        assert_eq!(verdict, Ok(Some(Verdict::Rejected { name: "a".into(), reason: "bad key ".to_owned() })));
        stream.sotw(request(&nonces[1].1, &["a", "b"]), &shelf).expect("fine");
        assert!(!stream.is_due());
        let expected = [("a", ResourceState::Rejected), ("b", ResourceState::Acknowledged)];
        assert_eq!(states(&stream), expected.map(|(name, state)| (name.to_owned(), state)));
        shelf.put(&["a"]);
        stream.refresh(&shelf);
        assert_eq!(names(&sent(&mut stream, &shelf)), ["a"], "the next rotation is the next chance");
        assert_eq!(stream.tally().rejected, 0);
    }

    #[test]
    fn a_verdict_on_what_was_overtaken_does_not_stand_for_what_came_later() {
        let mut shelf = Shelf::with(&["a"]);
        let mut stream = Subscriptions::new(1, 10);
        stream.sotw(request("", &["a"]), &shelf).expect("fine");
        let first = sent(&mut stream, &shelf).remove(0).1;
        shelf.put(&["a"]);
        stream.refresh(&shelf);
        let second = sent(&mut stream, &shelf).remove(0).1;
        stream.sotw(request(&first, &["a"]), &shelf).expect("fine");
        assert_eq!(states(&stream), [("a".to_owned(), ResourceState::Sent)]);
        stream.sotw(request(&second, &["a"]), &shelf).expect("fine");
        assert_eq!(states(&stream), [("a".to_owned(), ResourceState::Acknowledged)]);
    }

    #[test]
    fn a_refused_name_is_never_answered() {
        let mut shelf = Shelf::with(&["a"]);
        shelf.forbidden.insert("a".to_owned());
        let mut stream = Subscriptions::new(1, 10);
        stream.sotw(request("", &["a"]), &shelf).expect("fine");
        shelf.put(&["a"]);
        stream.refresh(&shelf);
        assert!(!stream.is_due());
        assert_eq!(states(&stream), [("a".to_owned(), ResourceState::Refused)]);
        let mut stream = Subscriptions::new(1, 10);
        stream.delta(delta(&["a"], &[]), &shelf).expect("fine");
        assert_eq!(sent_delta(&mut stream, &shelf), []);
    }

    #[test]
    fn names_and_their_lengths_are_bounded() {
        let shelf = Shelf::default();
        let mut stream = Subscriptions::new(1, 2);
        assert_eq!(stream.sotw(request("", &["a", "b", "a"]), &shelf), Ok(None), "twice is once");
        assert_eq!(stream.sotw(request("", &["a", "b", "c"]), &shelf), Err(Violation::TooManyNames(2)));
        let long = "x".repeat(MAX_NAME + 1);
        assert_eq!(Subscriptions::new(1, 2).delta(delta(&[&long], &[]), &shelf), Err(Violation::NameTooLong));
        let other = DiscoveryRequest { type_url: "type.googleapis.com/other".to_owned(), ..request("", &["a"]) };
        assert_eq!(stream.sotw(other, &shelf), Err(Violation::TypeUrl));
    }

    #[test]
    fn what_waits_to_be_sent_does_not_pile_up() {
        let shelf = Shelf::with(&["a", "b"]);
        let mut stream = Subscriptions::new(1, 2);
        for _ in 0..1000 {
            stream.delta(delta(&["a", "b"], &[]), &shelf).expect("fine");
            stream.delta(delta(&[], &["a", "b"]), &shelf).expect("fine");
        }
        assert!(stream.due.is_empty());
        for _ in 0..1000 {
            stream.sotw(request("", &["a", "b"]), &shelf).expect("fine");
        }
        assert_eq!(stream.due.len(), 2);
    }

    #[test]
    fn all_names_of_a_large_subscription_may_be_on_their_way() {
        let names: Vec<_> = (0..MAX_UNACKNOWLEDGED + 50).map(|name| name.to_string()).collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        let mut shelf = Shelf::with(&["0"]);
        let secret = shelf.secrets[&SecretName::new("0")].clone();
        shelf.secrets.extend(names.iter().map(|name| (SecretName::new(name), secret.clone())));
        let mut stream = Subscriptions::new(1, names.len());
        stream.sotw(request("", &names), &shelf).expect("fine");
        for (_, nonce) in sent(&mut stream, &shelf) {
            assert_eq!(stream.sotw(request(&nonce, &names), &shelf), Ok(Some(Verdict::Accepted)));
        }
        assert!(states(&stream).iter().all(|(_, state)| *state == ResourceState::Acknowledged));
    }

    #[test]
    fn unacknowledged_responses_are_remembered_up_to_a_bound() {
        let shelf = Shelf::with(&["a"]);
        let mut stream = Subscriptions::new(1, 2);
        for _ in 0..2 * MAX_UNACKNOWLEDGED {
            stream.sotw(request("", &["a"]), &shelf).expect("fine");
            sent(&mut stream, &shelf);
        }
        assert_eq!(stream.unacknowledged.len(), MAX_UNACKNOWLEDGED);
    }

    #[test]
    fn delta_adds_and_takes_away_names() {
        let mut shelf = Shelf::with(&["a", "b"]);
        let mut stream = Subscriptions::new(1, 10);
        let names = |sent: Vec<(String, String)>| sent.into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        stream.delta(delta(&["a", "c"], &[]), &shelf).expect("fine");
        assert_eq!(names(sent_delta(&mut stream, &shelf)), ["a"]);
        stream.delta(delta(&["b"], &[]), &shelf).expect("fine");
        assert_eq!(names(sent_delta(&mut stream, &shelf)), ["b"]);
        stream.delta(delta(&[], &["a"]), &shelf).expect("fine");
        shelf.put(&["a", "b", "c"]);
        stream.refresh(&shelf);
        assert_eq!(names(sent_delta(&mut stream, &shelf)), ["b", "c"]);
    }

    #[test]
    fn delta_has_no_wildcard() {
        let shelf = Shelf::with(&["a"]);
        let mut stream = Subscriptions::new(1, 10);
        stream.delta(delta(&[], &[]), &shelf).expect("fine");
        stream.delta(delta(&["*"], &[]), &shelf).expect("fine");
        assert_eq!((stream.len(), stream.is_due()), (0, false));
    }

    #[test]
    fn delta_removes_what_was_sent_and_is_gone_and_only_that() {
        let mut shelf = Shelf::with(&["a"]);
        let mut stream = Subscriptions::new(1, 10);
        stream.delta(delta(&["a", "never"], &[]), &shelf).expect("fine");
        sent_delta(&mut stream, &shelf);
        shelf.secrets.clear();
        stream.refresh(&shelf);
        assert_eq!(sent_delta(&mut stream, &shelf), [("-a".to_owned(), String::new())]);
        stream.refresh(&shelf);
        assert!(!stream.is_due());
        shelf.put(&["a"]);
        stream.refresh(&shelf);
        assert_eq!(sent_delta(&mut stream, &shelf).len(), 1);
    }

    #[test]
    fn a_secret_that_is_gone_stays_with_clients_of_the_other_variant() {
        let mut shelf = Shelf::with(&["a"]);
        let mut stream = Subscriptions::new(1, 10);
        stream.sotw(request("", &["a"]), &shelf).expect("fine");
        sent(&mut stream, &shelf);
        shelf.secrets.clear();
        stream.refresh(&shelf);
        assert_eq!(sent(&mut stream, &shelf), []);
    }

    #[test]
    fn delta_does_not_resend_what_a_client_kept_over_a_reconnect() {
        let shelf = Shelf::with(&["a", "b"]);
        let mut stream = Subscriptions::new(1, 10);
        stream.delta(delta(&["a", "b"], &[]), &shelf).expect("fine");
        let versions: HashMap<_, _> = sent_delta(&mut stream, &shelf).into_iter().collect();
        let mut again = Subscriptions::new(2, 10);
        let mut reconnect = delta(&["a", "b"], &[]);
        reconnect.initial_resource_versions = versions.clone();
        again.delta(reconnect, &shelf).expect("fine");
        assert_eq!(sent_delta(&mut again, &shelf), []);
        let mut outdated = Subscriptions::new(3, 10);
        let mut reconnect = delta(&["a"], &[]);
        reconnect.initial_resource_versions = versions;
        reconnect.initial_resource_versions.insert("a".to_owned(), "older".to_owned());
        outdated.delta(reconnect, &shelf).expect("fine");
        assert_eq!(sent_delta(&mut outdated, &shelf).len(), 1);
        assert_eq!(outdated.len(), 2, "what it has it is subscribed to");
    }

    #[test]
    fn delta_answers_a_repeated_subscription() {
        let shelf = Shelf::with(&["a"]);
        let mut stream = Subscriptions::new(1, 10);
        for _ in 0..2 {
            stream.delta(delta(&["a"], &[]), &shelf).expect("fine");
            assert_eq!(sent_delta(&mut stream, &shelf).len(), 1);
        }
    }
}
