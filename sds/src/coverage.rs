//! Which hosts a certificate is for (RFC 6125 section 6.4).

use std::net::IpAddr;

use tidegate_core::Host;

use crate::SubjectName;

/// Whether clients that ask for `host` will find it among `names`.
///
/// A wildcard name covers exactly one label. A wildcard host is covered by the same name, and in part by names below
/// it: then some of its clients are served, which is all that can be asked of a certificate. `*` asks for nothing.
pub(crate) fn covers(names: &[SubjectName], host: &Host) -> bool {
    if host.is_catch_all() {
        return true;
    }
    if let Ok(address) = host.as_str().parse::<IpAddr>() {
        return names.iter().any(|name| matches!(name, SubjectName::Ip(ip) if *ip == address));
    }
    let dns = names.iter().filter_map(|name| match name {
        SubjectName::Dns(name) => Some(name.strip_suffix('.').unwrap_or(name)),
        _ => None,
    });
    match host.wildcard_suffix() {
        Some(suffix) => dns.into_iter().any(|name| name.len() > suffix.len() && name.ends_with(suffix)),
        None => dns.into_iter().any(|name| covers_exactly(name, host.as_str())),
    }
}

fn covers_exactly(name: &str, host: &str) -> bool {
    match name.strip_prefix("*.") {
        Some(parent) => host.split_once('.').is_some_and(|(label, rest)| !label.is_empty() && rest == parent),
        None => name == host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_covers_one_label_and_a_wildcard_host_is_covered_in_part() {
        let check = |names: &[&str], host: &str, expected: bool| {
            let names: Vec<_> = names
                .iter()
                .map(|name| match name.parse() {
                    Ok(address) => SubjectName::Ip(address),
                    Err(_) => SubjectName::Dns((*name).into()),
                })
                .collect();
            assert_eq!(covers(&names, &Host::parse(host).unwrap()), expected, "{names:?} for {host}");
        };
        check(&["a.example.com"], "a.example.com", true);
        check(&["a.example.com."], "a.example.com", true);
        check(&["a.example.com"], "A.Example.com", true);
        check(&["*.example.com"], "a.example.com", true);
        check(&["*.example.com"], "a.b.example.com", false);
        check(&["*.example.com"], "example.com", false);
        check(&["*.example.com"], "evilexample.com", false);
        check(&["*.example.com"], "*.example.com", true);
        check(&["a.example.com"], "*.example.com", true);
        check(&["*.b.example.com"], "*.example.com", true);
        check(&["example.com"], "*.example.com", false);
        check(&["evilexample.com"], "*.example.com", false);
        check(&["*.com"], "*.example.com", false);
        check(&["x.org", "y.org"], "y.org", true);
        check(&[], "y.org", false);
        check(&[], "*", true);
        check(&["10.0.0.1"], "10.0.0.1", true);
        check(&["10.0.0.1"], "10.0.0.2", false);
        check(&["a.com"], "10.0.0.1", false);
    }
}
