use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use serde::{Serialize, Serializer};
use thin_vec::ThinVec;
use tidegate_core::{Origin, ResourceKey};

use crate::{ClusterIndex, PathRewrite, Redirect, RouteMatch, Template};

/// Where a part of the Snapshot was configured. The place is for people: it is neither serialized nor hashed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Source {
    #[serde(serialize_with = "display")]
    pub key: ResourceKey,
    #[serde(skip)]
    pub origin: Origin,
}

fn display<S: Serializer>(value: &impl std::fmt::Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

/// One rule's match and what happens to requests that fit it.
#[derive(Clone, Debug, Serialize)]
pub struct Route {
    /// `<rule name>.<match name>` as logged; empty if the rule has no name.
    pub name: String,
    #[serde(rename = "match")]
    pub matcher: RouteMatch,
    pub action: RouteAction,
    /// Operations of the rule, applied around those of the destination: see [`WeightedCluster`].
    pub request_headers: HeaderOperations,
    pub response_headers: HeaderOperations,
    pub source: Source,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum RouteAction {
    Forward(Forward),
    Redirect(Redirect),
    DirectResponse(DirectResponse),
}

/// Sends the request to one of several clusters.
#[derive(Clone, Debug, Serialize)]
pub struct Forward {
    /// At least one. Destinations of weight 0 beside others were removed.
    clusters: Vec<WeightedCluster>,
    #[serde(skip)]
    total_weight: u64,
    /// From the end of the request to the end of the response, over all tries; none is no limit.
    pub timeout: Option<Duration>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_rewrite: Option<PathRewrite>,
    /// `rewrite.authority`: the Host that goes upstream. Wins over every header operation on `host`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authority: Option<String>,
}

/// One destination of a route.
///
/// With a single destination its operations come after the rule's; with several they come before, so that the rule's
/// `set` wins (Envoy evaluates the most specific first).
#[derive(Clone, Debug, Serialize)]
pub struct WeightedCluster {
    pub cluster: ClusterRef,
    pub weight: u32,
    pub request_headers: HeaderOperations,
    pub response_headers: HeaderOperations,
}

/// The cluster that a route names.
#[derive(Clone, Debug)]
pub enum ClusterRef {
    Found {
        index: ClusterIndex,
        name: Arc<str>,
    },
    /// Unknown host, port or subset: requests are answered 503 NC.
    Missing {
        name: Arc<str>,
    },
}

impl ClusterRef {
    pub fn name(&self) -> &Arc<str> {
        match self {
            Self::Found { name, .. } | Self::Missing { name } => name,
        }
    }

    pub fn index(&self) -> Option<ClusterIndex> {
        match self {
            Self::Found { index, .. } => Some(*index),
            Self::Missing { .. } => None,
        }
    }
}

/// The name alone: the index depends on other objects, the route does not.
impl Serialize for ClusterRef {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl Forward {
    /// A route to `clusters`, which must not be empty; with one cluster its weight does not matter.
    pub fn new(mut clusters: Vec<WeightedCluster>) -> Self {
        assert!(!clusters.is_empty(), "a forwarding route needs a cluster");
        clusters.shrink_to_fit();
        let total_weight = clusters.iter().map(|c| u64::from(c.weight)).sum();
        Self { clusters, total_weight, timeout: None, path_rewrite: None, authority: None }
    }

    pub fn clusters(&self) -> &[WeightedCluster] {
        &self.clusters
    }

    /// The cluster for a uniformly random number.
    pub fn choose(&self, random: u64) -> &WeightedCluster {
        if self.clusters.len() > 1 && self.total_weight > 0 {
            let mut point = random % self.total_weight;
            for cluster in &self.clusters {
                match point.checked_sub(cluster.weight.into()) {
                    Some(rest) => point = rest,
                    None => return cluster,
                }
            }
        }
        &self.clusters[0]
    }
}

/// An answer that the gateway gives itself.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct DirectResponse {
    /// 200 to 599.
    pub status: u16,
    /// At most 1 MiB. A `content-type: text/plain` goes with a body unless header operations set another.
    #[serde(serialize_with = "lossy")]
    pub body: Option<Arc<[u8]>>,
}

#[expect(clippy::ref_option, reason = "serde's signature")]
fn lossy<S: Serializer>(body: &Option<Arc<[u8]>>, serializer: S) -> Result<S::Ok, S::Error> {
    match body {
        Some(bytes) => serializer.serialize_some(&String::from_utf8_lossy(bytes)),
        None => serializer.serialize_none(),
    }
}

/// Changes of headers in one direction: `remove` first, then `set`, then `add`. Most routes change nothing and there may
/// be many routes, so an empty list takes one word.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct HeaderOperations {
    #[serde(skip_serializing_if = "ThinVec::is_empty", serialize_with = "names")]
    pub remove: ThinVec<HeaderName>,
    /// Overwrites or creates. The name `host` stands for the authority.
    #[serde(skip_serializing_if = "ThinVec::is_empty", serialize_with = "pairs")]
    pub set: ThinVec<(HeaderName, HeaderValueTemplate)>,
    /// Appends one more value.
    #[serde(skip_serializing_if = "ThinVec::is_empty", serialize_with = "pairs")]
    pub add: ThinVec<(HeaderName, HeaderValueTemplate)>,
}

impl HeaderOperations {
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }
}

fn names<S: Serializer>(names: &[HeaderName], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(names.iter().map(HeaderName::as_str))
}

fn pairs<S: Serializer>(pairs: &[(HeaderName, HeaderValueTemplate)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(pairs.iter().map(|(name, value)| (name.as_str(), value)))
}

/// The value of a header operation.
#[derive(Clone, PartialEq, Debug)]
pub enum HeaderValueTemplate {
    Literal(HeaderValue),
    /// Holds at least one operator.
    Template(Template),
}

impl Serialize for HeaderValueTemplate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Literal(value) => serializer.serialize_str(&String::from_utf8_lossy(value.as_bytes())),
            Self::Template(template) => template.serialize(serializer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_follow_the_weights_exactly_over_one_period() {
        let cluster = |name: &str, weight| WeightedCluster {
            cluster: ClusterRef::Missing { name: name.into() },
            weight,
            request_headers: HeaderOperations::default(),
            response_headers: HeaderOperations::default(),
        };
        let forward = Forward::new(vec![cluster("a", 90), cluster("b", 10)]);
        let b = (0..1000).filter(|n| &**forward.choose(*n).cluster.name() == "b").count();
        assert_eq!(b, 100);
        let single = Forward::new(vec![cluster("a", 0)]);
        assert_eq!(&**single.choose(7).cluster.name(), "a");
    }
}
