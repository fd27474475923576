//! The services that destinations may name, from Kubernetes Services and ServiceEntries.
//!
//! One host is one service: a Kubernetes Service goes before ServiceEntries, an older ServiceEntry before a younger
//! one. ServiceEntries of the same host in the namespace of the winner add their ports and endpoints to it; those of
//! other namespaces are not used (istio `SidecarScope.servicesByHostname`, `ServiceIndex`).

mod endpoints;
mod members;
mod workloads;

use ahash::{AHashMap, AHashSet};
use tidegate_core::{Kind, Origin, ResourceKey};
use tidegate_resources::{Object, Resolution, ResourceSet, ServiceEntry, ServiceType, Spec, kubernetes};

pub(crate) use members::{Member, MemberAddress};
use workloads::WorkloadIndex;

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

/// Every service of the set, and what their endpoints come from.
#[derive(Debug)]
pub(crate) struct Registry<'a> {
    resources: &'a ResourceSet,
    cluster_id: &'a str,
    by_host: AHashMap<String, Vec<Candidate<'a>>>,
    /// EndpointSlices by namespace and Service.
    slices: AHashMap<(&'a str, &'a str), Vec<&'a Object>>,
    workloads: WorkloadIndex<'a>,
}

impl<'a> Registry<'a> {
    pub(crate) fn new(
        resources: &'a ResourceSet,
        mesh: &Mesh<'_>,
        namespace: &str,
        cluster_domain: &str,
        cluster_id: &'a str,
    ) -> Self {
        let mut by_host: AHashMap<String, Vec<Candidate<'a>>> = AHashMap::new();
        for object in resources.by_creation(Kind::Service) {
            let Spec::Service(service) = &object.spec else { continue };
            let export_to: Vec<String> = object
                .metadata
                .annotations
                .get(EXPORT_ANNOTATION)
                .into_iter()
                .flat_map(|list| list.split(',').map(|entry| entry.trim().to_owned()))
                .filter(|entry| !entry.is_empty())
                .collect();
            let visible = visibility(&export_to, mesh.service_export_to, &object.key.namespace, namespace).is_some();
            let host = format!("{}.{}.svc.{cluster_domain}", object.key.name, object.key.namespace);
            let candidate = Candidate { object, definition: Definition::Kubernetes(service), visible };
            by_host.entry(host.to_ascii_lowercase()).or_default().push(candidate);
        }
        for object in resources.by_creation(Kind::ServiceEntry) {
            let Spec::ServiceEntry(entry) = &object.spec else { continue };
            let visible =
                visibility(&entry.export_to, mesh.service_export_to, &object.key.namespace, namespace).is_some();
            for host in &entry.hosts {
                let candidate = Candidate { object, definition: Definition::Entry(entry), visible };
                by_host.entry(host.to_ascii_lowercase()).or_default().push(candidate);
            }
        }
        let mut slices: AHashMap<_, Vec<_>> = AHashMap::new();
        for object in resources.iter_kind(Kind::EndpointSlice) {
            if let Some(service) = object.metadata.labels.get(SERVICE_NAME_LABEL) {
                slices.entry((&*object.key.namespace, service.as_str())).or_default().push(&**object);
            }
        }
        Self { resources, cluster_id, by_host, slices, workloads: WorkloadIndex::new(resources) }
    }

    /// Whether an object defines a service of the lower-case host, for whomever.
    pub(crate) fn knows(&self, host: &str) -> bool {
        self.by_host.contains_key(host)
    }

    /// The service of a lower-case host.
    ///
    /// # Errors
    /// Nothing defines the host, or nothing that the gateway's namespace may see.
    pub(crate) fn service(&self, host: &str) -> Result<Service<'a>, Absent> {
        let candidates = self.by_host.get(host).ok_or(Absent::Unknown)?;
        let visible = || candidates.iter().filter(|candidate| candidate.visible);
        let is_kubernetes = |candidate: &&Candidate<'_>| matches!(candidate.definition, Definition::Kubernetes(_));
        let Some(owner) = visible().find(is_kubernetes).or_else(|| visible().next()) else {
            return match candidates.first() {
                Some(hidden) => Err(Absent::NotExported(hidden.object.key.clone())),
                None => Err(Absent::Unknown),
            };
        };
        let namespace = &*owner.object.key.namespace;
        let mut parts = vec![*owner];
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
