//! `v1` Endpoints and `discovery.k8s.io/v1` EndpointSlice.

use std::collections::BTreeMap;

use super::Accepted;
use crate::decode::message;

message! {
    /// A part of a Service's endpoints; label `kubernetes.io/service-name` names the Service.
    pub struct EndpointSlice {
        /// IPv4, IPv6 or FQDN.
        pub address_type: String => "addressType",
        pub endpoints: Vec<Endpoint> => "endpoints",
        pub ports: Vec<EndpointPort> => "ports",
    }

    /// One endpoint of a slice.
    pub struct Endpoint {
        /// Interchangeable addresses; the first is used.
        pub addresses: Vec<String> => "addresses",
        pub conditions: EndpointConditions => "conditions",
        pub hostname: String => "hostname",
        pub target_ref: Option<TargetRef> => "targetRef",
        pub deprecated_topology: BTreeMap<String, String> => "deprecatedTopology",
        pub node_name: String => "nodeName",
        pub zone: String => "zone",
        pub hints: Accepted => "hints",
    }

    /// The object behind an address, most often a Pod.
    pub struct TargetRef {
        pub kind: String => "kind",
        pub namespace: String => "namespace",
        pub name: String => "name",
        pub uid: Accepted => "uid",
        pub api_version: Accepted => "apiVersion",
        pub resource_version: Accepted => "resourceVersion",
        pub field_path: Accepted => "fieldPath",
    }

    /// State of an endpoint; absent `ready` and `serving` mean true.
    pub struct EndpointConditions {
        pub ready: Option<bool> => "ready",
        pub serving: Option<bool> => "serving",
        pub terminating: Option<bool> => "terminating",
    }

    /// A port of a slice or subset.
    pub struct EndpointPort {
        /// The Service port's name; empty if that has none.
        pub name: String => "name",
        pub protocol: String => "protocol",
        /// Absent: every port.
        pub port: Option<i32> => "port",
        pub app_protocol: String => "appProtocol",
    }

    /// All endpoints of the Service of the same name.
    pub struct Endpoints {
        pub subsets: Vec<EndpointSubset> => "subsets",
    }

    /// Addresses that share their ports.
    pub struct EndpointSubset {
        pub addresses: Vec<EndpointAddress> => "addresses",
        pub not_ready_addresses: Vec<EndpointAddress> => "notReadyAddresses",
        pub ports: Vec<EndpointPort> => "ports",
    }

    /// One address of a subset.
    pub struct EndpointAddress {
        pub ip: String => "ip",
        pub hostname: String => "hostname",
        pub node_name: String => "nodeName",
        pub target_ref: Option<TargetRef> => "targetRef",
    }
}
