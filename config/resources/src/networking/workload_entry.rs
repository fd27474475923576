//! `WorkloadEntry` (istio/api `workload_entry.proto`), as a kind and as endpoint of a ServiceEntry.

use std::collections::BTreeMap;

use crate::decode::message;

message! {
    /// One workload outside Kubernetes.
    pub struct WorkloadEntry {
        /// IP, host name (DNS resolution only) or `unix://` path.
        pub address: String => "address",
        /// Port name to number.
        pub ports: BTreeMap<String, u32> => "ports",
        pub labels: BTreeMap<String, String> => "labels",
        pub network: String => "network" [pending],
        /// `region/zone/subzone`.
        pub locality: String => "locality" [pending],
        /// Relative; zero means 1.
        pub weight: u32 => "weight",
        pub service_account: String => "serviceAccount" [pending],
    }
}
