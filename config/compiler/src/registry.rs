//! The services that destinations may name, from Kubernetes Services and ServiceEntries.
//!
//! One host is one service: a Kubernetes Service goes before ServiceEntries, an older ServiceEntry before a younger
//! one. ServiceEntries of the same host in the namespace of the winner add their ports and endpoints to it; those of
//! other namespaces are not used (istio `SidecarScope.servicesByHostname`, `ServiceIndex`).

mod endpoints;
mod members;
mod workloads;

use std::cell::OnceCell;
use std::cmp::Ordering;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use ahash::{AHashMap, AHashSet};
use tidegate_core::{Kind, Origin, ResourceKey};
use tidegate_resources::{
    Object, ObjectChange, Resolution, ResourceSet, ServiceEntry, ServiceType, Spec, creation_order, kubernetes,
};

pub(crate) use members::{Member, MemberAddress};
use workloads::WorkloadIndex;

use crate::compile::CompileOptions;
use crate::mesh::Mesh;
use crate::protocol::Protocol;
use crate::visibility::visibility;

/// Annotation of a Kubernetes Service with the form of `exportTo`, separated by commas.
const EXPORT_ANNOTATION: &str = "networking.istio.io/exportTo";
/// Label of an EndpointSlice with the name of its Service.
const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// An object that describes a service or a part of one.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Definition<'a> {
    Kubernetes(&'a kubernetes::Service),
    Entry(&'a ServiceEntry),
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate<'a> {
    pub(crate) object: &'a Object,
    pub(crate) definition: Definition<'a>,
    /// To the namespace of the gateway.
    visible: bool,
}

/// A service as the gateway's namespace sees it.
#[derive(Debug)]
pub(crate) struct Service<'a> {
    pub(crate) host: String,
    /// What metrics call it: the Service's name, or the host of a ServiceEntry.
    pub(crate) name: String,
    pub(crate) namespace: &'a str,
    /// TCP ports; numbers are unique.
    pub(crate) ports: Vec<Port>,
    /// The object that gives the attributes, then those that add to it.
    pub(crate) parts: Vec<Candidate<'a>>,
    /// Host of the service that a Service of type ExternalName stands for.
    pub(crate) alias: Option<String>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Port {
    pub(crate) number: u16,
    pub(crate) protocol: Protocol,
}

/// Why a host is no service for this gateway.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Absent {
    Unknown,
    /// Defined by these objects, none of which is exported to the gateway's namespace.
    NotExported(ResourceKey),
}

impl<'a> Service<'a> {
    pub(crate) fn port(&self, number: u16) -> Option<&Port> {
        self.ports.iter().find(|port| port.number == number)
    }

    /// Whether its endpoints are names for the data plane to resolve.
    pub(crate) fn is_dns(&self) -> bool {
        match self.parts.first().map(|part| part.definition) {
            Some(Definition::Entry(entry)) => {
                matches!(entry.resolution, Resolution::Dns | Resolution::DnsRoundRobin)
            }
            _ => false,
        }
    }

    /// Names that its servers' certificates are expected to have: those of the ServiceEntry that gives the attributes.
    pub(crate) fn subject_alt_names(&self) -> &'a [String] {
        match self.parts.first().map(|part| part.definition) {
            Some(Definition::Entry(entry)) => &entry.subject_alt_names,
            _ => &[],
        }
    }

    pub(crate) fn sources(&self) -> impl Iterator<Item = (ResourceKey, Origin)> {
        self.parts.iter().map(|part| (part.object.key.clone(), part.object.origin.clone()))
    }
}

/// An object in the list of a host.
#[derive(Debug)]
struct Listed {
    object: Arc<Object>,
    /// To the namespace of the gateway.
    visible: bool,
}

impl Listed {
    fn candidate(&self) -> Option<Candidate<'_>> {
        let definition = match &self.object.spec {
            Spec::Service(service) => Definition::Kubernetes(service),
            Spec::ServiceEntry(entry) => Definition::Entry(entry),
            _ => return None,
        };
        Some(Candidate { object: &self.object, definition, visible: self.visible })
    }

    /// Services before ServiceEntries, in each the oldest first.
    fn order(&self, other: &Self) -> Ordering {
        let is_entry = |listed: &Self| matches!(listed.object.spec, Spec::ServiceEntry(_));
        is_entry(self).cmp(&is_entry(other)).then_with(|| creation_order(&self.object, &other.object))
    }
}

/// The objects that define services, by host. It follows what changes in a set.
#[derive(Debug, Default)]
pub(crate) struct ServiceIndex {
    by_host: AHashMap<String, Vec<Listed>>,
    /// EndpointSlices by namespace and Service, in the order of their keys.
    slices: AHashMap<Arc<str>, AHashMap<String, Vec<Arc<Object>>>>,
}

/// Hosts of services of which something changed.
#[derive(Debug, Default)]
pub(crate) struct Touched {
    pub(crate) hosts: AHashSet<String>,
    /// Any host within these.
    pub(crate) wildcards: Vec<String>,
    /// Pods and WorkloadEntries changed, which may be endpoints of any service.
    pub(crate) workloads: bool,
    /// DestinationRules are among what changed.
    pub(crate) rules: bool,
}

impl ServiceIndex {
    pub(crate) fn new(resources: &ResourceSet, mesh: &Mesh, options: &CompileOptions) -> Self {
        let mut index = Self::default();
        for kind in [Kind::Service, Kind::ServiceEntry, Kind::EndpointSlice] {
            resources.iter_kind(kind).for_each(|object| index.add(object, mesh, options));
        }
        index
    }

    /// Follows a change, and notes which hosts it may concern.
    pub(crate) fn follow(
        &mut self,
        change: &ObjectChange,
        mesh: &Mesh,
        options: &CompileOptions,
        touched: &mut Touched,
    ) {
        let forms = [&change.old, &change.new];
        for object in forms.into_iter().flatten() {
            match &object.spec {
                Spec::Service(_) | Spec::Endpoints(_) => {
                    touched.hosts.insert(service_host(&object.key.name, &object.key.namespace, options));
                }
                Spec::EndpointSlice(_) => {
                    let service = object.metadata.labels.get(SERVICE_NAME_LABEL);
                    touched.hosts.extend(service.map(|name| service_host(name, &object.key.namespace, options)));
                }
                Spec::ServiceEntry(entry) => {
                    touched.hosts.extend(entry.hosts.iter().map(|host| host.to_ascii_lowercase()));
                }
                Spec::Pod(_) | Spec::WorkloadEntry(_) => touched.workloads = true,
                _ => {}
            }
        }
        if let Some(old) = &change.old {
            self.remove(old, options);
        }
        if let Some(new) = &change.new {
            self.add(new, mesh, options);
        }
    }

    fn add(&mut self, object: &Arc<Object>, mesh: &Mesh, options: &CompileOptions) {
        let visible = |export_to: &[String]| {
            let (owner, client) = (&object.key.namespace, &options.namespace);
            visibility(export_to, &mesh.service_export_to, owner, client).is_some()
        };
        match &object.spec {
            Spec::Service(_) => {
                let export_to: Vec<String> = object
                    .metadata
                    .annotations
                    .get(EXPORT_ANNOTATION)
                    .into_iter()
                    .flat_map(|list| list.split(',').map(|entry| entry.trim().to_owned()))
                    .filter(|entry| !entry.is_empty())
                    .collect();
                let host = service_host(&object.key.name, &object.key.namespace, options);
                self.list(host, Listed { object: object.clone(), visible: visible(&export_to) });
            }
            Spec::ServiceEntry(entry) => {
                let visible = visible(&entry.export_to);
                for host in &entry.hosts {
                    self.list(host.to_ascii_lowercase(), Listed { object: object.clone(), visible });
                }
            }
            Spec::EndpointSlice(_) => {
                let Some(service) = object.metadata.labels.get(SERVICE_NAME_LABEL) else { return };
                let of_namespace = self.slices.entry(object.key.namespace.clone()).or_default();
                let slices = of_namespace.entry(service.clone()).or_default();
                let at = slices.partition_point(|other| other.key < object.key);
                slices.insert(at, object.clone());
            }
            _ => {}
        }
    }

    fn list(&mut self, host: String, listed: Listed) {
        let list = self.by_host.entry(host).or_default();
        let at = list.partition_point(|other| other.order(&listed) != Ordering::Greater);
        list.insert(at, listed);
    }

    fn remove(&mut self, object: &Arc<Object>, options: &CompileOptions) {
        let mut unlist = |host: String| {
            if let Entry::Occupied(mut list) = self.by_host.entry(host) {
                list.get_mut().retain(|listed| !Arc::ptr_eq(&listed.object, object));
                if list.get().is_empty() {
                    list.remove();
                }
            }
        };
        match &object.spec {
            Spec::Service(_) => unlist(service_host(&object.key.name, &object.key.namespace, options)),
            Spec::ServiceEntry(entry) => entry.hosts.iter().for_each(|host| unlist(host.to_ascii_lowercase())),
            Spec::EndpointSlice(_) => {
                let Some(service) = object.metadata.labels.get(SERVICE_NAME_LABEL) else { return };
                let Some(of_namespace) = self.slices.get_mut(&object.key.namespace) else { return };
                if let Some(slices) = of_namespace.get_mut(service) {
                    slices.retain(|other| !Arc::ptr_eq(other, object));
                    if slices.is_empty() {
                        of_namespace.remove(service);
                    }
                }
            }
            _ => {}
        }
    }

    fn slices(&self, namespace: &str, service: &str) -> Option<&[Arc<Object>]> {
        Some(self.slices.get(namespace)?.get(service)?)
    }
}

/// The host of a Kubernetes Service.
fn service_host(name: &str, namespace: &str, options: &CompileOptions) -> String {
    let mut host = format!("{name}.{namespace}.svc.{}", options.cluster_domain);
    host.make_ascii_lowercase();
    host
}

/// Every service of the set, and what their endpoints come from.
#[derive(Debug)]
pub(crate) struct Registry<'a> {
    resources: &'a ResourceSet,
    index: &'a ServiceIndex,
    cluster_id: &'a str,
    /// Made when the first endpoints are looked for.
    workloads: OnceCell<WorkloadIndex<'a>>,
}

impl<'a> Registry<'a> {
    pub(crate) fn new(resources: &'a ResourceSet, index: &'a ServiceIndex, options: &'a CompileOptions) -> Self {
        Self { resources, index, cluster_id: &options.cluster_id, workloads: OnceCell::new() }
    }

    fn workloads(&self) -> &WorkloadIndex<'a> {
        self.workloads.get_or_init(|| WorkloadIndex::new(self.resources))
    }

    /// Whether an object defines a service of the lower-case host, for whomever.
    pub(crate) fn knows(&self, host: &str) -> bool {
        self.index.by_host.contains_key(host)
    }

    /// The service of a lower-case host.
    ///
    /// # Errors
    /// Nothing defines the host, or nothing that the gateway's namespace may see.
    pub(crate) fn service(&self, host: &str) -> Result<Service<'a>, Absent> {
        let candidates = self.index.by_host.get(host).ok_or(Absent::Unknown)?;
        let visible = || candidates.iter().filter_map(Listed::candidate).filter(|candidate| candidate.visible);
        let is_kubernetes = |candidate: &Candidate<'_>| matches!(candidate.definition, Definition::Kubernetes(_));
        let Some(owner) = visible().find(is_kubernetes).or_else(|| visible().next()) else {
            return match candidates.first() {
                Some(hidden) => Err(Absent::NotExported(hidden.object.key.clone())),
                None => Err(Absent::Unknown),
            };
        };
        let namespace = &*owner.object.key.namespace;
        let mut parts = vec![owner];
        // A ServiceEntry that names a host twice is one part all the same.
        let mut seen = AHashSet::from([&owner.object.key]);
        parts
            .extend(visible().filter(|part| &*part.object.key.namespace == namespace && seen.insert(&part.object.key)));
        let mut service =
            Service { host: host.to_owned(), name: host.to_owned(), namespace, ports: Vec::new(), parts, alias: None };
        match owner.definition {
            Definition::Kubernetes(kubernetes) => {
                service.name = owner.object.key.name.to_string();
                service.ports = kubernetes_ports(kubernetes);
                if kubernetes.r#type == ServiceType::ExternalName && !kubernetes.external_name.is_empty() {
                    service.alias = Some(kubernetes.external_name.trim_end_matches('.').to_ascii_lowercase());
                }
            }
            Definition::Entry(_) => {
                let mut numbers = AHashSet::new();
                let entries = service.parts.iter().filter_map(|part| match part.definition {
                    Definition::Entry(entry) => Some(entry),
                    Definition::Kubernetes(_) => None,
                });
                service.ports = entries.flat_map(entry_ports).filter(|port| numbers.insert(port.number)).collect();
            }
        }
        Ok(service)
    }
}

fn kubernetes_ports(service: &kubernetes::Service) -> Vec<Port> {
    let mut numbers = AHashSet::new();
    service
        .ports
        .iter()
        .filter(|port| port.protocol.is_empty() || port.protocol.eq_ignore_ascii_case("tcp"))
        .filter_map(|port| {
            Some(Port {
                number: port_number(port.port)?,
                protocol: Protocol::of_service_port(&port.name, &port.app_protocol, &port.protocol),
            })
        })
        .filter(|port| numbers.insert(port.number))
        .collect()
}

fn entry_ports(entry: &ServiceEntry) -> impl Iterator<Item = Port> + '_ {
    entry.ports.iter().filter_map(|port| {
        let protocol = Protocol::of_entry_port(&port.protocol);
        let number = port_number(port.number)?;
        (protocol != Protocol::Udp).then_some(Port { number, protocol })
    })
}

/// A number that may be a port: 1 to 65535.
pub(crate) fn port_number(number: impl TryInto<u16>) -> Option<u16> {
    number.try_into().ok().filter(|number| *number > 0)
}
