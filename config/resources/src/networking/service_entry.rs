//! `ServiceEntry` (istio/api `service_entry.proto`).

use std::collections::BTreeMap;

use crate::decode::{enumeration, message};
use crate::networking::WorkloadEntry;

message! {
    /// A service that no Kubernetes Service describes.
    pub struct ServiceEntry {
        /// Each host is a service of its own; wildcards admitted, bare `*` not.
        pub hosts: Vec<String> => "hosts",
        /// Virtual IPs or CIDRs.
        pub addresses: Vec<String> => "addresses",
        pub ports: Vec<ServicePort> => "ports",
        pub location: Location => "location",
        pub resolution: Resolution => "resolution",
        pub endpoints: Vec<WorkloadEntry> => "endpoints",
        pub workload_selector: Option<WorkloadSelector> => "workloadSelector",
        /// `.`, `*`, `~` or namespaces; empty means the mesh's default.
        pub export_to: Vec<String> => "exportTo",
        pub subject_alt_names: Vec<String> => "subjectAltNames",
    }

    /// Port of a ServiceEntry.
    pub struct ServicePort {
        pub number: u32 => "number",
        /// Empty means TCP; case is folded.
        pub protocol: String => "protocol",
        pub name: String => "name",
        /// Zero: the same as `number`.
        pub target_port: u32 => "targetPort",
    }

    /// WorkloadEntries and Pods of the object's namespace, by labels.
    pub struct WorkloadSelector {
        pub labels: BTreeMap<String, String> => "labels",
    }
}

enumeration! {
    /// Whether the service is part of the mesh.
    pub enum Location {
        #[default]
        MeshExternal = "MESH_EXTERNAL",
        MeshInternal = "MESH_INTERNAL",
    }

    /// Where the endpoints' addresses come from.
    pub enum Resolution {
        #[default]
        None = "NONE",
        Static = "STATIC",
        Dns = "DNS",
        DnsRoundRobin = "DNS_ROUND_ROBIN",
        DynamicDns = "DYNAMIC_DNS",
    }
}
