//! Endpoints of a service's port: EndpointSlices, else Endpoints, else Pods that the selector matches; WorkloadEntries
//! that it matches come on top. Of ServiceEntries: their own list, or the WorkloadEntries and Pods that they select.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidegate_core::{Code, Kind, Origin, ResourceKey};
use tidegate_resources::kubernetes::TargetRef;
use tidegate_resources::{
    EndpointSlice, Endpoints, IntOrString, Object, Pod, Resolution, ServiceEntry, Spec, WorkloadEntry, kubernetes,
};
use tidegate_snapshot::{Health, Locality};

use super::members::{Member, MemberAddress};
use super::workloads::{WorkloadObject, WorkloadSource, describe, label_locality, locality};
use super::{Definition, Port, Registry, Service, port_number};
use crate::findings::Findings;

/// An address in an EndpointSlice or Endpoints.
struct Listed<'l> {
    address: &'l str,
    ready: bool,
    /// What stands behind it.
    target: Option<&'l TargetRef>,
}

type Labels = BTreeMap<String, String>;

impl<'a> Registry<'a> {
    /// The endpoints behind a port of a service, sorted by address; of equal addresses the first in the order of the
    /// objects that name them stays.
    pub(crate) fn members(&self, service: &Service<'a>, port: &Port, findings: &mut Findings) -> Vec<Member> {
        let mut members = Vec::new();
        for part in &service.parts {
            match part.definition {
                Definition::Kubernetes(kubernetes) => {
                    self.kubernetes_members(part.object, kubernetes, port, &mut members, findings);
                }
                Definition::Entry(entry) => self.entry_members(service, part.object, entry, port, &mut members),
            }
        }
        members.sort_by(|a, b| a.address.cmp(&b.address));
        members.dedup_by(|later, first| later.address == first.address);
        members
    }

    /// Says why a port that routes name has no endpoints at all.
    pub(crate) fn report_no_endpoints(&self, service: &Service<'a>, port: &Port, findings: &mut Findings) {
        let Some(part) = service.parts.first() else { return };
        let (path, reason) = match part.definition {
            Definition::Kubernetes(kubernetes) => {
                let namespace = &*part.object.key.namespace;
                let selected = self.workloads().select(namespace, &kubernetes.selector).count();
                let reason = if self.index.slices(namespace, &part.object.key.name).is_some() {
                    "its EndpointSlices have none for this port (ports are joined by name)".to_owned()
                } else if self.resources.contains(&ResourceKey { kind: Kind::Endpoints, ..part.object.key.clone() }) {
                    "its Endpoints have none for this port (ports are joined by name)".to_owned()
                } else if kubernetes.selector.is_empty() {
                    "it has no selector, and no EndpointSlice or Endpoints is there".to_owned()
                } else if selected == 0 {
                    "no EndpointSlice is there, and no Pod or WorkloadEntry has the labels of its selector".to_owned()
                } else {
                    format!(
                        "of {selected} Pods and WorkloadEntries with the labels of its selector none has an address and the port"
                    )
                };
                ("spec.selector", reason)
            }
            Definition::Entry(entry) => match entry.resolution {
                Resolution::None | Resolution::DynamicDns => (
                    "spec.resolution",
                    format!("a gateway knows no original destination, so resolution {} has none", entry.resolution),
                ),
                _ if entry.workload_selector.is_some() => {
                    ("spec.workloadSelector", "no WorkloadEntry or Pod with the labels has an address".to_owned())
                }
                _ => ("spec.endpoints", "none is listed".to_owned()),
            },
        };
        let message =
            format!("port {} of `{}` has no endpoints: {reason}; requests get 503 (UH)", port.number, service.host);
        findings.warning(Code::NO_ENDPOINTS, part.object, path, message);
    }

    fn kubernetes_members(
        &self,
        object: &'a Object,
        service: &kubernetes::Service,
        port: &Port,
        members: &mut Vec<Member>,
        findings: &mut Findings,
    ) {
        let Some(service_port) = service.ports.iter().find(|p| port_number(p.port) == Some(port.number)) else {
            return;
        };
        let (namespace, name) = (&*object.key.namespace, &*object.key.name);
        let endpoints = ResourceKey { kind: Kind::Endpoints, ..object.key.clone() };
        let mut by_pod = false;
        if let Some(slices) = self.index.slices(namespace, name) {
            for slice_object in slices {
                if let Spec::EndpointSlice(slice) = &slice_object.spec {
                    self.slice_members(slice_object, slice, service_port, members, findings);
                }
            }
        } else if let Some(object) = self.resources.get(&endpoints) {
            if let Spec::Endpoints(endpoints) = &object.spec {
                self.endpoints_members(object, endpoints, service_port, members);
            }
        } else {
            by_pod = true;
        }
        for workload in self.workloads().select(namespace, &service.selector) {
            match workload.source {
                WorkloadSource::Pod(pod) if by_pod => {
                    let target = pod_target(pod, service_port);
                    let ready = service.publish_not_ready_addresses || is_ready(pod);
                    members.extend(target.and_then(|port| self.pod_member(workload, pod, port, ready)));
                }
                WorkloadSource::Pod(_) => {}
                WorkloadSource::Entry(entry) => {
                    let target = entry_target(entry, service_port);
                    members.extend(target.and_then(|port| self.workload_member(workload, entry, port)));
                }
            }
        }
    }

    fn slice_members(
        &self,
        object: &Object,
        slice: &EndpointSlice,
        port: &kubernetes::ServicePort,
        members: &mut Vec<Member>,
        findings: &mut Findings,
    ) {
        if slice.address_type.eq_ignore_ascii_case("fqdn") {
            let message = "an EndpointSlice of names adds no endpoints (Istio skips it too)";
            findings.warning(Code::IGNORED, object, "addressType", message);
            return;
        }
        let targets: Vec<u16> = slice
            .ports
            .iter()
            .filter(|p| p.name == port.name && (p.protocol.is_empty() || p.protocol.eq_ignore_ascii_case("tcp")))
            .filter_map(|p| p.port.map_or_else(|| numeric_target(port), port_number))
            .collect();
        for (at, endpoint) in slice.endpoints.iter().enumerate() {
            let ready = endpoint.conditions.ready.unwrap_or(true);
            if !ready && endpoint.conditions.terminating == Some(true) {
                continue;
            }
            let topology = |name: &str| endpoint.deprecated_topology.get(name).cloned().unwrap_or_default();
            let zone = Locality {
                region: topology("topology.kubernetes.io/region"),
                zone: match endpoint.zone.as_str() {
                    "" => topology("topology.kubernetes.io/zone"),
                    zone => zone.to_owned(),
                },
                subzone: String::new(),
            };
            for address in &endpoint.addresses {
                let listed = Listed { address, ready, target: endpoint.target_ref.as_ref() };
                for target in &targets {
                    let origin = object.origin_of(&format!("endpoints[{at}]"));
                    members.extend(self.listed_member(object, &listed, *target, &zone, origin));
                }
            }
        }
    }

    fn endpoints_members(
        &self,
        object: &Object,
        endpoints: &Endpoints,
        port: &kubernetes::ServicePort,
        members: &mut Vec<Member>,
    ) {
        for (at, subset) in endpoints.subsets.iter().enumerate() {
            let ready = subset.addresses.iter().enumerate().map(|(n, address)| (n, address, true));
            let not_ready = subset.not_ready_addresses.iter().enumerate().map(|(n, address)| (n, address, false));
            for (number, address, ready) in ready.chain(not_ready) {
                let list = if ready { "addresses" } else { "notReadyAddresses" };
                let listed = Listed { address: &address.ip, ready, target: address.target_ref.as_ref() };
                for target in subset.ports.iter().filter(|p| p.name == port.name) {
                    let target = target.port.map_or_else(|| numeric_target(port), port_number);
                    let origin = object.origin_of(&format!("subsets[{at}].{list}[{number}]"));
                    members.extend(
                        target.and_then(|target| {
                            self.listed_member(object, &listed, target, &Locality::default(), origin)
                        }),
                    );
                }
            }
        }
    }

    /// An address that a list names; what else is known of it is that of the Pod that has the address.
    fn listed_member(
        &self,
        list: &Object,
        listed: &Listed<'_>,
        port: u16,
        zone: &Locality,
        origin: Origin,
    ) -> Option<Member> {
        let pod = self.workloads().pod_behind(listed.target, &list.key.namespace, listed.address);
        let labels = pod.map(|pod| pod.labels.clone().into_owned()).unwrap_or_default();
        let locality = label_locality(&labels);
        let address = MemberAddress::parse(listed.address, port).filter(|a| matches!(a, MemberAddress::Known(_)))?;
        Some(Member {
            address,
            weight: 1,
            health: health(listed.ready),
            locality: if locality == Locality::default() { zone.clone() } else { locality },
            workload: match pod {
                Some(pod) => pod.describe(self.cluster_id),
                None => describe("", &list.key.namespace, &labels, self.cluster_id),
            },
            labels: Arc::new(labels),
            origin,
        })
    }

    fn pod_member(&self, workload: &WorkloadObject<'_>, pod: &Pod, port: u16, ready: bool) -> Option<Member> {
        let address = MemberAddress::parse(WorkloadObject::pod_address(pod)?, port)?;
        Some(Member {
            address,
            weight: 1,
            health: health(ready),
            locality: label_locality(&workload.labels),
            labels: Arc::new(workload.labels.clone().into_owned()),
            workload: workload.describe(self.cluster_id),
            origin: workload.object.origin.clone(),
        })
    }

    fn workload_member(&self, workload: &WorkloadObject<'_>, entry: &WorkloadEntry, port: u16) -> Option<Member> {
        Some(Member {
            address: MemberAddress::parse(&entry.address, port)?,
            weight: entry.weight.max(1),
            health: Health::Healthy,
            locality: entry_locality(entry, &workload.labels),
            labels: Arc::new(workload.labels.clone().into_owned()),
            workload: workload.describe(self.cluster_id),
            origin: workload.object.origin.clone(),
        })
    }

    fn entry_members(
        &self,
        service: &Service<'a>,
        object: &'a Object,
        entry: &ServiceEntry,
        port: &Port,
        members: &mut Vec<Member>,
    ) {
        if matches!(entry.resolution, Resolution::None | Resolution::DynamicDns) {
            return;
        }
        let Some(entry_port) = entry.ports.iter().find(|p| port_number(p.number) == Some(port.number)) else {
            return;
        };
        let default = port_number(entry_port.target_port).unwrap_or(port.number);
        let target = |endpoint: &WorkloadEntry| {
            endpoint.ports.get(&entry_port.name).map_or(Some(default), |number| port_number(*number))
        };
        let namespace = &*object.key.namespace;
        if let Some(selector) = &entry.workload_selector {
            for workload in self.workloads().select(namespace, &selector.labels) {
                members.extend(match workload.source {
                    WorkloadSource::Pod(pod) => self.pod_member(workload, pod, default, is_ready(pod)),
                    WorkloadSource::Entry(entry) => {
                        target(entry).and_then(|port| self.workload_member(workload, entry, port))
                    }
                });
            }
            return;
        }
        for (at, endpoint) in entry.endpoints.iter().enumerate() {
            let Some(port) = target(endpoint) else { continue };
            let Some(address) = MemberAddress::parse(&endpoint.address, port) else { continue };
            members.push(Member {
                address,
                weight: endpoint.weight.max(1),
                health: Health::Healthy,
                locality: entry_locality(endpoint, &endpoint.labels),
                labels: Arc::new(endpoint.labels.clone()),
                workload: describe("", namespace, &endpoint.labels, self.cluster_id),
                origin: object.origin_of(&format!("spec.endpoints[{at}]")),
            });
        }
        let is_dns = matches!(entry.resolution, Resolution::Dns | Resolution::DnsRoundRobin);
        if is_dns && entry.endpoints.is_empty() && !service.host.starts_with('*') {
            let at = entry.hosts.iter().position(|host| host.eq_ignore_ascii_case(&service.host)).unwrap_or_default();
            members.extend(MemberAddress::parse(&service.host, default).map(|address| Member {
                address,
                weight: 1,
                health: Health::Healthy,
                locality: Locality::default(),
                labels: Arc::default(),
                workload: describe("", namespace, &Labels::new(), self.cluster_id),
                origin: object.origin_of(&format!("spec.hosts[{at}]")),
            }));
        }
    }
}

fn health(ready: bool) -> Health {
    if ready { Health::Healthy } else { Health::Unhealthy }
}

/// A Pod without conditions was written by hand and counts as ready.
fn is_ready(pod: &Pod) -> bool {
    let conditions = &pod.status.conditions;
    conditions.is_empty() || conditions.iter().any(|c| c.r#type == "Ready" && c.status.eq_ignore_ascii_case("true"))
}

fn entry_locality(entry: &WorkloadEntry, labels: &Labels) -> Locality {
    if entry.locality.is_empty() { label_locality(labels) } else { locality(&entry.locality, '/') }
}

/// The number that a Service's port leads to, where no container is there to name it.
fn numeric_target(port: &kubernetes::ServicePort) -> Option<u16> {
    match &port.target_port {
        Some(IntOrString::Int(number)) if *number != 0 => port_number(*number),
        Some(IntOrString::String(text)) if !text.is_empty() => text.parse::<u16>().ok().and_then(port_number),
        _ => port_number(port.port),
    }
}

/// The number that a Service's port leads to in a Pod. None if it is a name that no container has: such a Pod is no
/// endpoint (Kubernetes, `podutil.FindPort`).
fn pod_target(pod: &Pod, port: &kubernetes::ServicePort) -> Option<u16> {
    let Some(IntOrString::String(name)) = &port.target_port else { return numeric_target(port) };
    let mut ports = pod.spec.containers.iter().flat_map(|container| &container.ports);
    let named = ports.find(|p| p.name == *name && (p.protocol.is_empty() || p.protocol.eq_ignore_ascii_case("tcp")));
    named.and_then(|p| port_number(p.container_port)).or_else(|| numeric_target(port))
}

/// The number that a Service's port leads to in a WorkloadEntry: what that calls the target's or the port's name.
fn entry_target(entry: &WorkloadEntry, port: &kubernetes::ServicePort) -> Option<u16> {
    let target_name = match &port.target_port {
        Some(IntOrString::String(name)) => Some(name),
        _ => None,
    };
    let named = target_name.and_then(|name| entry.ports.get(name)).or_else(|| entry.ports.get(&port.name));
    match named {
        Some(number) => port_number(*number),
        // A name that the entry does not have leads to the Service's own number.
        None => numeric_target(port).or_else(|| port_number(port.port)),
    }
}
