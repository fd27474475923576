//! How objects name hosts and each other.

use std::net::IpAddr;

use tidegate_core::Host;

/// A host as Istio reads it in an object of `namespace`: lower case; a name without a dot becomes the FQDN of a service
/// of that namespace. Addresses, `*` and names with a dot stand as they are (istio `ResolveShortnameToFQDN`).
pub(crate) fn expand_host(host: &str, namespace: &str, cluster_domain: &str) -> String {
    let mut name = host.to_ascii_lowercase();
    if !name.is_empty() && name != "*" && !name.contains('.') && name.parse::<IpAddr>().is_err() {
        for part in [".", namespace, ".svc.", cluster_domain] {
            name.push_str(part);
        }
    }
    name
}

/// The domain that a virtual host gets for a host: IPv6 addresses stand in brackets in a request.
pub(crate) fn domain_of(host: &Host) -> Host {
    if host.as_str().contains(':') && !host.as_str().starts_with('[') {
        return Host::new_unchecked(&format!("[{host}]"));
    }
    host.clone()
}

/// What an entry of a VirtualService's `gateways` refers to.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum GatewayRef {
    /// The reserved name: every sidecar.
    Mesh,
    Gateway(GatewayName),
}

/// Namespace and name of a Gateway.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct GatewayName {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl GatewayRef {
    /// Reads `ns/name`, `./name`, `name` (of `namespace`), the legacy `name.ns.svc.cluster.local`, or `mesh`.
    pub(crate) fn parse(reference: &str, namespace: &str) -> Self {
        if reference == "mesh" {
            return Self::Mesh;
        }
        let (namespace, name) = match reference.split_once('/') {
            Some((".", name)) => (namespace, name),
            Some((owner, name)) => (owner, name),
            None => match reference.split_once('.') {
                Some((name, rest)) => (rest.split('.').next().unwrap_or(rest), name),
                None => (namespace, reference),
            },
        };
        Self::Gateway(GatewayName { namespace: namespace.to_owned(), name: name.to_owned() })
    }
}

/// A host of a Gateway's server, with the namespace whose VirtualServices it admits.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct ServerHost {
    /// None admits every namespace.
    pub(crate) namespace: Option<String>,
    pub(crate) host: Host,
}

impl ServerHost {
    /// Reads `ns/dns`, `*/dns`, `./dns` or `dns` in a Gateway of `namespace`.
    pub(crate) fn parse(text: &str, namespace: &str) -> Self {
        let (owner, host) = match text.split_once('/') {
            None | Some(("*", _)) => (None, text.rsplit('/').next().unwrap_or(text)),
            Some((".", host)) => (Some(namespace), host),
            Some((owner, host)) => (Some(owner), host),
        };
        Self { namespace: owner.map(str::to_owned), host: Host::new_unchecked(host) }
    }

    pub(crate) fn admits(&self, namespace: &str) -> bool {
        self.namespace.as_deref().is_none_or(|own| own == namespace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_of_the_namespace_of_their_object() {
        for (host, expected) in [
            ("reviews", "reviews.ns.svc.cluster.local"),
            ("Reviews", "reviews.ns.svc.cluster.local"),
            ("reviews.prod", "reviews.prod"),
            ("*", "*"),
            ("*.foo.com", "*.foo.com"),
            ("10.0.0.1", "10.0.0.1"),
            ("::1", "::1"),
            ("", ""),
        ] {
            assert_eq!(expand_host(host, "ns", "cluster.local"), expected);
        }
    }

    #[test]
    fn every_form_of_gateway_reference_is_read() {
        let check = |text: &str, namespace: &str, name: &str| {
            let expected = GatewayName { namespace: namespace.into(), name: name.into() };
            assert_eq!(GatewayRef::parse(text, "own"), GatewayRef::Gateway(expected), "{text}");
        };
        check("gw", "own", "gw");
        check("./gw", "own", "gw");
        check("other/gw", "other", "gw");
        check("gw.other.svc.cluster.local", "other", "gw");
        check("gw.other", "other", "gw");
        assert_eq!(GatewayRef::parse("mesh", "own"), GatewayRef::Mesh);
    }

    #[test]
    fn server_hosts_name_the_namespaces_that_they_admit() {
        let check = |text: &str, namespace: Option<&str>, host: &str| {
            let parsed = ServerHost::parse(text, "own");
            assert_eq!((parsed.namespace.as_deref(), parsed.host.as_str()), (namespace, host), "{text}");
        };
        check("a.com", None, "a.com");
        check("*/A.com", None, "a.com");
        check("./a.com", Some("own"), "a.com");
        check("x/*", Some("x"), "*");
        check("x/*.b.com", Some("x"), "*.b.com");
        check("*", None, "*");
    }
}
