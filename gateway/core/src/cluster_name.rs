use std::fmt;
use std::str::FromStr;

/// Which way traffic flows through the proxy that owns a cluster.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Direction {
    Inbound,
    Outbound,
}

/// Istio's name of an upstream cluster: `outbound|80|v1|reviews.default.svc.cluster.local`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ClusterName {
    pub direction: Direction,
    pub port: u16,
    /// Empty for the whole service.
    pub subset: String,
    /// Fully qualified host of the service, lower case.
    pub host: String,
}

impl ClusterName {
    pub fn outbound(port: u16, subset: &str, host: &str) -> Self {
        Self { direction: Direction::Outbound, port, subset: subset.into(), host: host.into() }
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let direction = match self.direction {
            Direction::Inbound => "inbound",
            Direction::Outbound => "outbound",
        };
        write!(f, "{direction}|{}|{}|{}", self.port, self.subset, self.host)
    }
}

/// The text is not `direction|port|subset|host`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no cluster name; expected direction|port|subset|host")]
pub struct ClusterNameError(String);

impl FromStr for ClusterName {
    type Err = ClusterNameError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let error = || ClusterNameError(s.to_owned());
        let mut parts = s.splitn(4, '|');
        let mut next = || parts.next().ok_or_else(error);
        let direction = match next()? {
            "inbound" => Direction::Inbound,
            "outbound" => Direction::Outbound,
            _ => return Err(error()),
        };
        let port = next()?.parse().map_err(|_| error())?;
        Ok(Self { direction, port, subset: next()?.to_owned(), host: next()?.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_a_round_trip() {
        for name in ["outbound|80|v1|reviews.default.svc.cluster.local", "outbound|443||example.com"] {
            assert_eq!(name.parse::<ClusterName>().unwrap().to_string(), name);
        }
        assert!("BlackHoleCluster".parse::<ClusterName>().is_err());
        assert!("outbound|x||a".parse::<ClusterName>().is_err());
    }
}
