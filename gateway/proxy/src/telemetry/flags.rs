use std::fmt;
use std::ops::{BitOr, BitOrAssign};

/// Why a request ended as it did: a set of Envoy's response flags.
///
/// Displays as access logs and metrics show it: short names in the order in which Envoy sets them, separated by commas;
/// `-` for none.
/// Source: Envoy, "Access logging", `%RESPONSE_FLAGS%`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub(crate) struct ResponseFlags(u32);

macro_rules! response_flags {
    ($($(#[$doc:meta])* $constant:ident = $letters:literal;)*) => {
        response_flags!(@constants 0u32; $($(#[$doc])* $constant;)*);

        /// Flags with their short names, in the order of printing.
        const NAMES: &[(ResponseFlags, &str)] = &[$((ResponseFlags::$constant, $letters)),*];
    };
    (@constants $bit:expr; $(#[$doc:meta])* $constant:ident; $($rest:tt)*) => {
        impl ResponseFlags {
            $(#[$doc])*
            pub(crate) const $constant: Self = Self(1 << ($bit));
        }
        response_flags!(@constants $bit + 1; $($rest)*);
    };
    (@constants $bit:expr;) => {};
}

// Envoy prints flags in the order in which it set them. Its router gives up retrying before it names the last failure
// (`URX,UF`), its TCP proxy afterwards (`UF,URX`), hence two flags of one name. The rest is in the order of its
// enumeration: no two of them are set for one request.
response_flags! {
    /// URX: no retries of a request left.
    UPSTREAM_RETRY_LIMIT_EXCEEDED = "URX";
    /// LH: the local service failed its health check.
    FAILED_LOCAL_HEALTH_CHECK = "LH";
    /// UH: no healthy host in the cluster.
    NO_HEALTHY_UPSTREAM = "UH";
    /// UT: the upstream did not answer in time.
    UPSTREAM_REQUEST_TIMEOUT = "UT";
    /// LR: the gateway reset the upstream connection or stream.
    LOCAL_RESET = "LR";
    /// UR: the upstream reset the stream.
    UPSTREAM_REMOTE_RESET = "UR";
    /// UF: no connection to the upstream.
    UPSTREAM_CONNECTION_FAILURE = "UF";
    /// UC: the upstream closed the connection.
    UPSTREAM_CONNECTION_TERMINATION = "UC";
    /// UO: a circuit breaker is open.
    UPSTREAM_OVERFLOW = "UO";
    /// NR: no route, or no filter chain, for the request.
    NO_ROUTE_FOUND = "NR";
    /// DI: delayed by fault injection.
    DELAY_INJECTED = "DI";
    /// FI: aborted by fault injection.
    FAULT_INJECTED = "FI";
    /// RL: rate limited.
    RATE_LIMITED = "RL";
    /// UAEX: denied by the external authorizer.
    UNAUTHORIZED_EXTERNAL_SERVICE = "UAEX";
    /// RLSE: the rate limit service failed.
    RATE_LIMIT_SERVICE_ERROR = "RLSE";
    /// DC: the client went away.
    DOWNSTREAM_CONNECTION_TERMINATION = "DC";
    /// URX: no attempts to connect for a TCP connection left.
    CONNECT_ATTEMPTS_EXCEEDED = "URX";
    /// SI: the stream was idle for too long.
    STREAM_IDLE_TIMEOUT = "SI";
    /// IH: a header has a value that is not allowed.
    INVALID_ENVOY_REQUEST_HEADERS = "IH";
    /// DPE: the client broke the protocol.
    DOWNSTREAM_PROTOCOL_ERROR = "DPE";
    /// UMSDR: the upstream stream lasted too long.
    UPSTREAM_MAX_STREAM_DURATION_REACHED = "UMSDR";
    /// RFCF: answered from a cache.
    RESPONSE_FROM_CACHE_FILTER = "RFCF";
    /// NFCF: a filter has no configuration.
    NO_FILTER_CONFIG_FOUND = "NFCF";
    /// DT: the connection or request lasted too long.
    DURATION_TIMEOUT = "DT";
    /// UPE: the upstream broke the protocol.
    UPSTREAM_PROTOCOL_ERROR = "UPE";
    /// NC: the route's cluster does not exist.
    NO_CLUSTER_FOUND = "NC";
    /// OM: refused because of overload.
    OVERLOAD_MANAGER = "OM";
    /// DF: a name was not resolved.
    DNS_RESOLUTION_FAILED = "DF";
    /// DO: dropped by the cluster's drop policy.
    DROP_OVERLOAD = "DO";
    /// DR: the client reset the stream.
    DOWNSTREAM_REMOTE_RESET = "DR";
}

impl ResponseFlags {
    pub(crate) const NONE: Self = Self(0);

    pub(crate) fn is_empty(self) -> bool {
        self == Self::NONE
    }

    /// Whether all of `flags` are set.
    pub(crate) fn contains(self, flags: Self) -> bool {
        self.0 & flags.0 == flags.0
    }

    pub(crate) fn insert(&mut self, flags: Self) {
        self.0 |= flags.0;
    }
}

impl BitOr for ResponseFlags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for ResponseFlags {
    fn bitor_assign(&mut self, other: Self) {
        self.insert(other);
    }
}

impl fmt::Display for ResponseFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("-");
        }
        let mut separator = "";
        for (_, name) in NAMES.iter().filter(|(flag, _)| self.contains(*flag)) {
            write!(f, "{separator}{name}")?;
            separator = ",";
        }
        Ok(())
    }
}

impl fmt::Debug for ResponseFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ResponseFlags({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_print_in_envoys_order_whatever_the_order_of_setting() {
        let check = |flags: ResponseFlags, expected: &str| assert_eq!(flags.to_string(), expected);
        check(ResponseFlags::NONE, "-");
        check(ResponseFlags::NO_ROUTE_FOUND, "NR");
        check(ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED | ResponseFlags::UPSTREAM_CONNECTION_FAILURE, "URX,UF");
        check(ResponseFlags::CONNECT_ATTEMPTS_EXCEEDED | ResponseFlags::UPSTREAM_CONNECTION_FAILURE, "UF,URX");
        check(ResponseFlags::DOWNSTREAM_REMOTE_RESET | ResponseFlags::FAILED_LOCAL_HEALTH_CHECK, "LH,DR");
        assert_eq!(NAMES.len(), 30);
        check(ResponseFlags::NO_CLUSTER_FOUND | ResponseFlags::NONE, "NC");
    }
}
