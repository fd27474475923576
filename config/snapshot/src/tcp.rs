use std::time::Duration;

use serde::Serialize;

use crate::{ClusterRef, Source};

/// Sends the bytes of a connection to one of several clusters.
#[derive(Clone, Debug, Serialize)]
pub struct TcpProxy {
    /// Name of the route as logged; empty for none.
    pub name: String,
    /// Empty if the server has no route: its connections are closed (NR).
    clusters: Vec<TcpDestination>,
    #[serde(skip)]
    total_weight: u64,
    /// A connection on which nothing moves in either direction ends after this; none never does.
    pub idle_timeout: Option<Duration>,
    pub source: Option<Source>,
}

/// One destination of a TCP route.
#[derive(Clone, Debug, Serialize)]
pub struct TcpDestination {
    pub cluster: ClusterRef,
    pub weight: u32,
}

impl TcpProxy {
    /// A route to `clusters`; with one cluster its weight does not matter.
    pub fn new(name: String, clusters: Vec<TcpDestination>, source: Option<Source>) -> Self {
        let total_weight = clusters.iter().map(|destination| u64::from(destination.weight)).sum();
        // Envoy's default (`tcp_proxy.idle_timeout`).
        let idle_timeout = Some(Duration::from_secs(3600));
        Self { name, clusters, total_weight, idle_timeout, source }
    }

    pub fn clusters(&self) -> &[TcpDestination] {
        &self.clusters
    }

    /// The destination that `random` falls on, each as likely as its weight; none if there is no destination.
    pub fn choose(&self, random: u64) -> Option<&TcpDestination> {
        let first = self.clusters.first()?;
        if self.clusters.len() == 1 || self.total_weight == 0 {
            return Some(first);
        }
        let mut at = random % self.total_weight;
        for destination in &self.clusters {
            match at.checked_sub(u64::from(destination.weight)) {
                Some(rest) => at = rest,
                None => return Some(destination),
            }
        }
        Some(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_are_chosen_by_weight() {
        let to = |name: &str, weight| TcpDestination { cluster: ClusterRef::Missing { name: name.into() }, weight };
        let proxy = TcpProxy::new(String::new(), vec![to("a", 1), to("b", 3)], None);
        let chosen: Vec<_> =
            (0..8).filter_map(|random| proxy.choose(random)).map(|d| d.cluster.name().clone()).collect();
        let names: Vec<&str> = chosen.iter().map(|name| &**name).collect();
        assert_eq!(names, ["a", "b", "b", "b", "a", "b", "b", "b"]);
        assert!(TcpProxy::new(String::new(), Vec::new(), None).choose(7).is_none());
    }
}
