//! Syntax of names: Kubernetes' and Istio's rules for labels, hosts, addresses, protocols.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::Hash;
use std::net::IpAddr;

/// RFC 1123 label in lower case, as Kubernetes wants names: letters, digits and `-`, at most 63.
pub(crate) fn is_label(text: &str) -> bool {
    is_dns_label(text) && !text.bytes().any(|b| b.is_ascii_uppercase())
}

/// What [`is_dns_label`] asks for, as users read it.
pub(super) const LABEL_FORM: &str =
    "a name here has at most 63 letters, digits and `-`, and begins and ends with a letter or digit";

/// RFC 1123 label in any case, as Istio wants most names.
pub(super) fn is_dns_label(text: &str) -> bool {
    let (first, last) = (text.bytes().next(), text.bytes().last());
    let is_alphanumeric = |byte: Option<u8>| byte.is_some_and(|b| b.is_ascii_alphanumeric());
    text.len() <= 63
        && is_alphanumeric(first)
        && is_alphanumeric(last)
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

/// RFC 1123 subdomain in lower case: labels (of any length) with dots between, at most 253 characters.
pub(crate) fn is_subdomain(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let is_part = |part: &str| {
        let (first, last) = (part.bytes().next(), part.bytes().last());
        first.is_some_and(plain) && last.is_some_and(plain) && part.bytes().all(|b| plain(b) || b == b'-')
    };
    text.len() <= 253 && text.split('.').all(is_part)
}

/// `name` or `prefix.example.com/name`.
pub(super) fn is_label_key(key: &str) -> bool {
    let (prefix, name) = match key.rsplit_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    let is_prefix = |prefix: &str| prefix.len() <= 253 && prefix.split('.').all(is_dns_label_of_any_length);
    prefix.is_none_or(is_prefix) && name.len() <= 63 && is_qualified_name(name)
}

/// Empty, or at most 63 characters of which the first and the last are letters or digits.
///
/// Istio does not limit the length of values that it only compares; Kubernetes does.
pub(super) fn is_label_value(value: &str) -> bool {
    value.is_empty() || is_qualified_name(value)
}

/// Key of an entry of a Secret or ConfigMap.
pub(super) fn is_data_key(key: &str) -> bool {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    (1..=253).contains(&key.len()) && key.bytes().all(is_plain) && key != "." && !key.starts_with("..")
}

fn is_dns_label_of_any_length(text: &str) -> bool {
    let ends = [text.bytes().next(), text.bytes().last()];
    ends.iter().all(|byte| byte.is_some_and(|b| b.is_ascii_alphanumeric()))
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

fn is_qualified_name(text: &str) -> bool {
    let ends = [text.bytes().next(), text.bytes().last()];
    ends.iter().all(|byte| byte.is_some_and(|b| b.is_ascii_alphanumeric()))
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// Why a text is no domain name, or that it is one. `example.com.` is one; a name whose last label is a number is not.
pub(super) fn fqdn(text: &str) -> Result<(), String> {
    domain_length(text)?;
    if text == "." {
        return Err("`.` is no host: a name has at least one label before the dot that ends it".into());
    }
    domain_labels(text, text)
}

/// As [`fqdn`]; the first label may be `*`, or begin with `*` or `*-`.
pub(super) fn wildcard_domain(text: &str) -> Result<(), String> {
    domain_length(text)?;
    let (first, rest) = match text.split_once('.') {
        Some((first, rest)) => (first, Some(rest)),
        None => (text, None),
    };
    let name = first.strip_prefix("*-").or_else(|| first.strip_prefix('*')).unwrap_or(first);
    if first != "*" && !(first.len() <= 63 && is_dns_label(name)) {
        return Err(bad_label(text, first));
    }
    rest.map_or(Ok(()), |rest| domain_labels(text, rest))
}

/// As [`wildcard_domain`], for hosts of routes on a gateway: if the VirtualService routes by SNI, also the names that
/// AUTO_PASSTHROUGH makes, as in `outbound_.80_._.reviews.ns.svc.cluster.local`.
pub(super) fn gateway_domain(text: &str, routes_by_sni: bool) -> Result<(), String> {
    domain_length(text)?;
    if !routes_by_sni || !text.starts_with("outbound_") {
        return wildcard_domain(text);
    }
    let parts: Vec<_> = text.split('_').collect();
    let is_valid = parts.len() >= 4
        && parts[1].bytes().any(|b| b.is_ascii_digit())
        && parts[3].bytes().any(|b| b.is_ascii_alphabetic());
    match is_valid {
        true => Ok(()),
        false => Err(format!("`{text}` is not of the form outbound_.<port>_.<subset>_.<host>")),
    }
}

fn domain_length(text: &str) -> Result<(), String> {
    match text.len() {
        0 => Err("a host may not be empty".into()),
        1..=255 => Ok(()),
        _ => Err(format!("`{}` is longer than 255 characters", crate::node::shorten(text))),
    }
}

/// What is wrong with a host that has a part which is no label.
fn bad_label(whole: &str, label: &str) -> String {
    let has_port = whole.rsplit_once(':').is_some_and(|(host, port)| {
        !host.contains(':') && !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit())
    });
    match has_port {
        true => format!("`{whole}` is no host: it has a port, which is written elsewhere"),
        false => format!("`{whole}` is no host: its part `{label}` is no label of a domain name"),
    }
}

fn domain_labels(whole: &str, labels: &str) -> Result<(), String> {
    let last = labels.rsplit('.').next().unwrap_or_default();
    if last.parse::<i64>().is_ok() {
        return Err(format!("`{whole}` is no host: its last part `{last}` is a number"));
    }
    // An empty last label is the dot that ends an unambiguous name.
    let labels = labels.strip_suffix('.').unwrap_or(labels);
    match labels.split('.').find(|label| !is_dns_label(label)) {
        Some(_) if labels.is_empty() => Ok(()),
        Some(label) => Err(bad_label(whole, label)),
        None => Ok(()),
    }
}

/// `*` that is not a label of its own, as in `*foo.com`.
pub(super) fn is_partial_wildcard(host: &str) -> bool {
    host.contains('*') && host.len() != 1 && !host.starts_with("*.")
}

/// Whether every name of `host` is one of `other` (Istio, `host.Name.SubsetOf`).
pub(super) fn is_host_within(host: &str, other: &str) -> bool {
    match (host.strip_prefix('*'), other.strip_prefix('*')) {
        (Some(own), Some(suffix)) => own.len() >= suffix.len() && own.ends_with(suffix),
        (Some(_), None) => false,
        (None, Some(suffix)) => host.ends_with(suffix),
        (None, None) => host == other,
    }
}

/// Pairs of overlapping hosts, each as (later, earlier) index; a host appears as `later` once at most.
pub(super) fn overlapping_hosts(hosts: &[String]) -> Vec<(usize, usize)> {
    // Two hosts overlap if they are equal, or if one ends with what follows the `*` of the other.
    let mut exact: HashMap<&str, usize> = HashMap::new();
    let mut wildcards: HashMap<&str, usize> = HashMap::new();
    let mut overlaps: BTreeMap<usize, usize> = BTreeMap::new();
    let mut note = |a: usize, b: usize| {
        overlaps.entry(a.max(b)).and_modify(|first| *first = (*first).min(a.min(b))).or_insert(a.min(b));
    };
    for (index, host) in hosts.iter().enumerate() {
        let (first, name) = match host.strip_prefix('*') {
            Some(suffix) => (&mut wildcards, suffix),
            None => (&mut exact, host.as_str()),
        };
        match first.entry(name) {
            Entry::Occupied(first) => note(index, *first.get()),
            Entry::Vacant(slot) => {
                slot.insert(index);
            }
        }
    }
    for (index, host) in hosts.iter().enumerate() {
        let name = host.strip_prefix('*').unwrap_or(host);
        for (start, _) in name.char_indices().chain([(name.len(), ' ')]) {
            if let Some(other) = wildcards.get(&name[start..]).filter(|other| **other != index) {
                note(index, *other);
            }
        }
    }
    overlaps.into_iter().collect()
}

/// Indexes of the entries that an earlier entry equals.
pub(super) fn repeated<T: Eq + Hash>(entries: impl IntoIterator<Item = T>) -> Vec<usize> {
    let mut seen = HashSet::new();
    entries.into_iter().enumerate().filter_map(|(index, entry)| (!seen.insert(entry)).then_some(index)).collect()
}

/// An IPv4 or IPv6 address; IPv6 may have a zone.
pub(super) fn is_ip(text: &str) -> bool {
    match text.split_once('%') {
        Some((address, zone)) => !zone.is_empty() && address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => text.parse::<IpAddr>().is_ok(),
    }
}

/// An IP address or CIDR block.
pub(super) fn is_ip_or_cidr(text: &str) -> bool {
    let Some((address, bits)) = text.split_once('/') else { return is_ip(text) };
    let plain = !bits.is_empty() && bits.bytes().all(|b| b.is_ascii_digit()) && (bits == "0" || !bits.starts_with('0'));
    let limit = match address.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => 32,
        Ok(IpAddr::V6(_)) => 128,
        Err(_) => return false,
    };
    plain && bits.parse::<u8>().is_ok_and(|bits| bits <= limit)
}

/// Why the text after `unix://` names no socket.
pub(super) fn unix_address(path: &str) -> Result<(), String> {
    match path {
        "" => Err("a unix address may not be empty".into()),
        _ if path.starts_with('@') => Ok(()),
        _ if path.starts_with('/') && !path.ends_with('/') => Ok(()),
        _ => Err(format!("`{path}` is neither the absolute path of a file nor an abstract socket (`@name`)")),
    }
}

/// Application protocol of a port, as Istio names them; case is folded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Protocol {
    Http,
    Http2,
    Grpc,
    /// gRPC-Web and HTTP_PROXY.
    OtherHttp,
    Https,
    Tls,
    /// TCP, MONGO, REDIS and MYSQL.
    Tcp,
    Udp,
}

impl Protocol {
    pub(super) fn parse(text: &str) -> Option<Self> {
        Some(match text.to_ascii_lowercase().as_str() {
            "http" => Protocol::Http,
            "http2" => Protocol::Http2,
            "grpc" => Protocol::Grpc,
            "grpc-web" | "http_proxy" => Protocol::OtherHttp,
            "https" => Protocol::Https,
            "tls" => Protocol::Tls,
            "tcp" | "mongo" | "redis" | "mysql" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            _ => return None,
        })
    }

    pub(super) fn is_http(self) -> bool {
        matches!(self, Protocol::Http | Protocol::Http2 | Protocol::Grpc | Protocol::OtherHttp)
    }

    pub(super) fn is_tls(self) -> bool {
        matches!(self, Protocol::Https | Protocol::Tls)
    }

    /// Whether connections are what is routed; TLS is among them.
    pub(super) fn is_tcp(self) -> bool {
        matches!(self, Protocol::Tcp | Protocol::Https | Protocol::Tls)
    }
}

/// A key as a step of a path: `.key`, or `["x.y"]` if it is no plain word.
pub(crate) fn step(key: &str) -> String {
    let path = crate::spans::display(&[crate::spans::Segment::Key(key)]);
    if path.starts_with('[') { path } else { format!(".{path}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_domain_names_whose_first_label_may_be_a_wildcard() {
        for good in ["*", "*.foo.com", "*foo.com", "*-foo.com", "a", "a.b", "a.b.", "A.Foo", "1a.com", "x--y.z"] {
            assert!(wildcard_domain(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "a..b", "a.*.b", "**", "-a", "a-", "a_b.com", "1.2.3.4", "a.5", "a b", "a/b", "é.com"] {
            assert!(wildcard_domain(bad).is_err(), "{bad}");
        }
        assert!(wildcard_domain(&"x".repeat(64)).is_err());
        assert!(fqdn("*.foo.com").is_err());
        assert!(fqdn("foo.com.").is_ok());
        assert!(fqdn("foo").is_ok());
        assert!(fqdn("a.b:80").is_err_and(|why| why.contains("port")));
        assert!(wildcard_domain("a:80").is_err_and(|why| why.contains("port")));
        assert!(wildcard_domain("::1").is_err_and(|why| why.contains("label")));
        assert!(fqdn(".").is_err());
        assert!(fqdn("..").is_err());
        assert!(gateway_domain("outbound_.80_._.e2e.foobar.mesh", true).is_ok());
        assert!(gateway_domain("outbound_.80_._.e2e.foobar.mesh", false).is_err());
        assert!(gateway_domain("outbound_.x_._.e2e", true).is_err());
    }

    #[test]
    fn hosts_overlap_if_a_name_fits_both() {
        let check = |hosts: &[&str], expected: &[(usize, usize)]| {
            let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
            assert_eq!(overlapping_hosts(&hosts), expected, "{hosts:?}");
        };
        check(&["a.b", "c.b", "b", "*.c"], &[]);
        check(&["a.b", "a.b", "a.b"], &[(1, 0), (2, 0)]);
        check(&["a.b", "*.b"], &[(1, 0)]);
        check(&["*.b", "a.b", "*.c.b"], &[(1, 0), (2, 0)]);
        check(&["a.b", "*"], &[(1, 0)]);
        check(&["*", "*.b"], &[(1, 0)]);
        check(&["*b", "ab", "b"], &[(1, 0), (2, 0)]);
        check(&["b", "*.b"], &[]);
    }

    #[test]
    fn addresses_are_ips_or_blocks() {
        for good in ["1.2.3.4", "::1", "001:db8::", "10.0.0.0/8", "fe80::/10", "fe80::1%eth0", "0.0.0.0/0"] {
            assert!(is_ip_or_cidr(good), "{good}");
        }
        for bad in ["", "1.2.3", "1.2.3.4/33", "1.2.3.4/", "1.2.3.4/08", "::/129", "a/8", "1.2.3.4/+8", "1.2.3.4/8/8"] {
            assert!(!is_ip_or_cidr(bad), "{bad}");
        }
    }

    #[test]
    fn labels_have_keys_with_an_optional_prefix() {
        for good in ["app", "app.kubernetes.io/name", "a_b.c-d", "A"] {
            assert!(is_label_key(good), "{good}");
        }
        for bad in ["", "/a", "a/", "a/b/c", "-a", "a b", "*", "x.y-/a"] {
            assert!(!is_label_key(bad), "{bad}");
        }
        assert!(is_label_value("") && is_label_value("v1.0_x") && !is_label_value("-x") && !is_label_value("a b"));
    }
}
