//! `v1` Service.

use std::collections::BTreeMap;
use std::fmt;

use super::Accepted;
use crate::decode::{Decode, Decoder, enumeration, message};
use crate::node::{Node, Value};

message! {
    /// The `spec` of a Service.
    pub struct Service {
        pub ports: Vec<ServicePort> => "ports",
        /// Empty: the endpoints are managed by somebody else.
        pub selector: BTreeMap<String, String> => "selector",
        /// `None` is a headless service.
        pub cluster_ip: String => "clusterIP",
        pub cluster_ips: Vec<String> => "clusterIPs",
        pub r#type: ServiceType => "type",
        pub external_ips: Vec<String> => "externalIPs",
        /// Target of a Service of type ExternalName.
        pub external_name: String => "externalName",
        pub publish_not_ready_addresses: bool => "publishNotReadyAddresses",
        pub session_affinity: Accepted => "sessionAffinity",
        pub session_affinity_config: Accepted => "sessionAffinityConfig",
        pub load_balancer_ip: Accepted => "loadBalancerIP",
        pub load_balancer_source_ranges: Accepted => "loadBalancerSourceRanges",
        pub load_balancer_class: Accepted => "loadBalancerClass",
        pub external_traffic_policy: Accepted => "externalTrafficPolicy",
        pub internal_traffic_policy: Accepted => "internalTrafficPolicy",
        pub health_check_node_port: Accepted => "healthCheckNodePort",
        pub ip_families: Accepted => "ipFamilies",
        pub ip_family_policy: Accepted => "ipFamilyPolicy",
        pub allocate_load_balancer_node_ports: Accepted => "allocateLoadBalancerNodePorts",
        pub traffic_distribution: String => "trafficDistribution",
    }

    /// A port of a Service.
    pub struct ServicePort {
        pub name: String => "name",
        /// TCP (also if empty), UDP or SCTP.
        pub protocol: String => "protocol",
        /// Application protocol; wins over the prefix of `name`.
        pub app_protocol: String => "appProtocol",
        pub port: i32 => "port",
        /// Number or name of the container's port; absent means `port`.
        pub target_port: Option<IntOrString> => "targetPort",
        pub node_port: i32 => "nodePort",
    }
}

enumeration! {
    /// `type` of a Service.
    pub enum ServiceType {
        #[default]
        ClusterIp = "ClusterIP",
        NodePort = "NodePort",
        LoadBalancer = "LoadBalancer",
        ExternalName = "ExternalName",
    }
}

/// Kubernetes' `IntOrString`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum IntOrString {
    Int(i32),
    String(String),
}

impl Default for IntOrString {
    fn default() -> Self {
        IntOrString::Int(0)
    }
}

impl fmt::Display for IntOrString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            IntOrString::Int(number) => number.fmt(f),
            IntOrString::String(text) => text.fmt(f),
        }
    }
}

impl Decode for IntOrString {
    const EXPECTS: &'static str = "a number or a name";

    fn decode<'n>(node: &'n Node, decoder: &mut Decoder<'n>) -> Option<Self> {
        match &node.value {
            Value::String(text) => Some(IntOrString::String(text.to_string())),
            Value::Number(_) => i32::decode(node, decoder).map(IntOrString::Int),
            _ => decoder.wrong_type(node, Self::EXPECTS),
        }
    }
}
