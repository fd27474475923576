use std::borrow::Cow;
use std::collections::BTreeMap;

use ahash::AHashMap;
use tidegate_core::Kind;
use tidegate_resources::kubernetes::TargetRef;
use tidegate_resources::{Object, Pod, ResourceSet, Spec, WorkloadEntry};
use tidegate_snapshot::{Locality, Workload};

/// Labels that the kubelet or its controllers put on Pods.
const POD_TEMPLATE_HASH: &str = "pod-template-hash";
const CONTROLLER_REVISION_HASH: &str = "controller-revision-hash";
const STATEFUL_SET_POD: &str = "statefulset.kubernetes.io/pod-name";
/// Characters of generated name suffixes: no vowels, nothing that is misread.
const GENERATED: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// A Pod or WorkloadEntry.
#[derive(Debug)]
pub(crate) struct WorkloadObject<'a> {
    pub(crate) object: &'a Object,
    pub(crate) source: WorkloadSource<'a>,
    /// Of a WorkloadEntry: those of its spec and of its metadata, which win.
    pub(crate) labels: Cow<'a, BTreeMap<String, String>>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum WorkloadSource<'a> {
    Pod(&'a Pod),
    Entry(&'a WorkloadEntry),
}

/// Workloads by label, so that a selector looks at those that share a label with it and not at all of them.
#[derive(Debug)]
pub(crate) struct WorkloadIndex<'a> {
    workloads: Vec<WorkloadObject<'a>>,
    /// Namespace, label, value.
    by_label: AHashMap<(&'a str, &'a str, &'a str), Vec<u32>>,
    pods_by_address: AHashMap<&'a str, Vec<u32>>,
    /// Namespace, name.
    pods_by_name: AHashMap<(&'a str, &'a str), u32>,
}

impl<'a> WorkloadIndex<'a> {
    pub(crate) fn new(resources: &'a ResourceSet) -> Self {
        let mut index = Self {
            workloads: Vec::new(),
            by_label: AHashMap::new(),
            pods_by_address: AHashMap::new(),
            pods_by_name: AHashMap::new(),
        };
        for object in resources.iter_kind(Kind::Pod).chain(resources.iter_kind(Kind::WorkloadEntry)) {
            index.add(object);
        }
        index
    }

    fn add(&mut self, object: &'a Object) {
        let number = u32::try_from(self.workloads.len()).unwrap_or(u32::MAX);
        let metadata = &object.metadata.labels;
        let (source, labels) = match &object.spec {
            Spec::Pod(pod) => {
                if matches!(pod.status.phase.as_str(), "Succeeded" | "Failed") {
                    return;
                }
                for address in pod_addresses(pod) {
                    self.pods_by_address.entry(address).or_default().push(number);
                }
                self.pods_by_name.insert((&*object.key.namespace, &*object.key.name), number);
                (WorkloadSource::Pod(pod), Cow::Borrowed(metadata))
            }
            Spec::WorkloadEntry(entry) => {
                let labels = match (metadata.is_empty(), entry.labels.is_empty()) {
                    (true, _) => Cow::Borrowed(&entry.labels),
                    (false, true) => Cow::Borrowed(metadata),
                    (false, false) => {
                        let both = entry.labels.iter().chain(metadata);
                        Cow::Owned(both.map(|(name, value)| (name.clone(), value.clone())).collect())
                    }
                };
                for (name, value) in entry.labels.iter().filter(|(name, _)| !metadata.contains_key(*name)) {
                    self.by_label.entry((&*object.key.namespace, name, value)).or_default().push(number);
                }
                (WorkloadSource::Entry(entry), labels)
            }
            _ => return,
        };
        for (name, value) in metadata {
            self.by_label.entry((&*object.key.namespace, name, value)).or_default().push(number);
        }
        self.workloads.push(WorkloadObject { object, source, labels });
    }

    /// The workloads of a namespace that carry all labels of a selector, in the order of their keys. An empty selector
    /// selects nothing: it stands for endpoints that somebody else manages.
    pub(crate) fn select<'s>(
        &'s self,
        namespace: &'s str,
        selector: &'s BTreeMap<String, String>,
    ) -> impl Iterator<Item = &'s WorkloadObject<'a>> {
        let shortest = selector
            .iter()
            .map(|(name, value)| {
                self.by_label.get(&(namespace, name.as_str(), value.as_str())).map_or(&[][..], Vec::as_slice)
            })
            .min_by_key(|list| list.len())
            .unwrap_or_default();
        shortest
            .iter()
            .filter_map(|number| self.workloads.get(*number as usize))
            .filter(move |workload| is_subset(selector, &workload.labels))
    }

    /// The Pod that a list of endpoints of a namespace names; without a name the one that has the address.
    pub(crate) fn pod_behind(
        &self,
        target: Option<&TargetRef>,
        namespace: &str,
        address: &str,
    ) -> Option<&WorkloadObject<'a>> {
        let named = target.filter(|target| target.kind == "Pod").and_then(|target| {
            let namespace = if target.namespace.is_empty() { namespace } else { &target.namespace };
            self.pods_by_name.get(&(namespace, target.name.as_str()))
        });
        match named {
            Some(number) => self.workloads.get(*number as usize),
            None => self.pod_at(namespace, address),
        }
    }

    /// The Pod of a namespace that has an address; none if several share it (host network) and so none is known.
    fn pod_at(&self, namespace: &str, address: &str) -> Option<&WorkloadObject<'a>> {
        let mut pods = self
            .pods_by_address
            .get(address)?
            .iter()
            .filter_map(|number| self.workloads.get(*number as usize))
            .filter(|pod| &*pod.object.key.namespace == namespace);
        let first = pods.next()?;
        pods.next().is_none().then_some(first)
    }
}

pub(crate) fn is_subset(selector: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    selector.iter().all(|(name, value)| labels.get(name) == Some(value))
}

fn pod_addresses(pod: &Pod) -> impl Iterator<Item = &str> {
    let first = (!pod.status.pod_ip.is_empty()).then_some(pod.status.pod_ip.as_str());
    let rest = pod.status.pod_ips.iter().map(|ip| ip.ip.as_str());
    first.into_iter().chain(rest.filter(move |ip| !ip.is_empty() && Some(*ip) != first))
}

impl WorkloadObject<'_> {
    /// The primary address of a Pod.
    pub(crate) fn pod_address(pod: &Pod) -> Option<&str> {
        pod_addresses(pod).next()
    }

    /// What metrics call it.
    pub(crate) fn describe(&self, cluster_id: &str) -> Workload {
        let name = match self.source {
            WorkloadSource::Pod(_) => pod_owner(&self.object.key.name, &self.labels),
            WorkloadSource::Entry(_) => &self.object.key.name,
        };
        describe(name, &self.object.key.namespace, &self.labels, cluster_id)
    }
}

/// The workload of an endpoint with some labels; an empty name is unknown.
pub(crate) fn describe(name: &str, namespace: &str, labels: &BTreeMap<String, String>, cluster_id: &str) -> Workload {
    let first = |names: &[&str]| names.iter().find_map(|name| labels.get(*name)).cloned();
    let known = !name.is_empty() || !labels.is_empty();
    let revision = first(&["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"]);
    Workload {
        name: name.to_owned(),
        namespace: namespace.to_owned(),
        app: first(&["app"]).unwrap_or_default(),
        version: first(&["version"]).unwrap_or_default(),
        canonical_service: first(&["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"])
            .unwrap_or_else(|| name.to_owned()),
        canonical_revision: revision.unwrap_or_else(|| if known { "latest".to_owned() } else { String::new() }),
        cluster: cluster_id.to_owned(),
    }
}

/// Name of what made a Pod: the Deployment of `reviews-v1-5d8f6c7b9-x7k2p` is `reviews-v1`. The owner itself is not in
/// a Pod's manifest by name, so it is read off the suffixes that controllers append.
fn pod_owner<'n>(name: &'n str, labels: &BTreeMap<String, String>) -> &'n str {
    let cut = |text: &'n str| text.rsplit_once('-');
    let generated = |text: &str, lengths: std::ops::RangeInclusive<usize>| {
        lengths.contains(&text.len()) && text.bytes().all(|byte| GENERATED.contains(&byte))
    };
    let Some((rest, last)) = cut(name) else { return name };
    if labels.contains_key(STATEFUL_SET_POD) && last.bytes().all(|byte| byte.is_ascii_digit()) {
        return rest;
    }
    if !generated(last, 5..=5) {
        return name;
    }
    if let Some((owner, hash)) = cut(rest) {
        let is_hash = match labels.get(POD_TEMPLATE_HASH) {
            Some(label) => label == hash,
            None => generated(hash, 6..=10) && hash.bytes().any(|byte| byte.is_ascii_digit()),
        };
        if is_hash {
            return owner;
        }
    }
    // A DaemonSet, Job or bare ReplicaSet.
    if labels.contains_key(CONTROLLER_REVISION_HASH) || labels.contains_key("job-name") { rest } else { name }
}

/// `region/zone/subzone`, or with dots as labels must write it.
pub(crate) fn locality(text: &str, separator: char) -> Locality {
    let mut parts = text.splitn(3, separator).map(str::to_owned);
    let mut next = || parts.next().unwrap_or_default();
    Locality { region: next(), zone: next(), subzone: next() }
}

/// The locality that a workload's labels name.
pub(crate) fn label_locality(labels: &BTreeMap<String, String>) -> Locality {
    ["istio-locality", "topology.istio.io/locality"]
        .iter()
        .find_map(|name| labels.get(*name))
        .map(|text| locality(text, if text.contains('/') { '/' } else { '.' }))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_are_called_after_what_made_them() {
        let check = |name: &str, labels: &[(&str, &str)], expected: &str| {
            let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            assert_eq!(pod_owner(name, &labels), expected);
        };
        check("reviews-v1-5d8f6c7b9-x7k2p", &[], "reviews-v1");
        check("reviews-v1-545db77b95-x7k2p", &[("pod-template-hash", "545db77b95")], "reviews-v1");
        check("reviews-v1-other-x7k2p", &[("pod-template-hash", "545db77b95")], "reviews-v1-other-x7k2p");
        check("db-0", &[("statefulset.kubernetes.io/pod-name", "db-0")], "db");
        check("db-0", &[], "db-0");
        check("agent-x7k2p", &[("controller-revision-hash", "1")], "agent");
        check("reviews-v1", &[], "reviews-v1");
        check("plain", &[], "plain");
    }

    #[test]
    fn localities_are_read_from_both_forms() {
        let shown = |locality: Locality| format!("{}|{}|{}", locality.region, locality.zone, locality.subzone);
        assert_eq!(shown(locality("r/z/s", '/')), "r|z|s");
        assert_eq!(shown(locality("r", '/')), "r||");
        let labels = BTreeMap::from([("istio-locality".to_owned(), "r.z".to_owned())]);
        assert_eq!(shown(label_locality(&labels)), "r|z|");
    }
}
