//! AcmeCertificate: what no authority would issue, or could not be asked for.

use super::{Report, names};
use crate::acme::AcmeCertificate;
use crate::duration::Duration;

/// Names of one certificate (Let's Encrypt's limit).
const MAX_NAMES: usize = 100;

pub(super) fn check(certificate: &AcmeCertificate, report: &mut Report<'_>) {
    check_credential(&certificate.credential_name, report);
    check_names(&certificate.dns_names, report);
    if !certificate.server.is_empty()
        && let Err(why) = https_url(&certificate.server)
    {
        report.error_with_help(
            "spec.server",
            why,
            "write the URL of the authority's directory, such as https://acme.example.com/directory",
        );
    }
    if !certificate.email.is_empty() && !is_mail_address(&certificate.email) {
        report.error_with_help(
            "spec.email",
            format!("`{}` is no mail address", crate::node::shorten(&certificate.email)),
            "write one address, as in ops@example.com; or leave `email` out",
        );
    }
    if let Some(time) = certificate.renew_before
        && time < Duration::from_secs(1)
    {
        report.error_with_help(
            "spec.renewBefore",
            format!("`{time}` is shorter than 1s"),
            "leave the field out to renew when two thirds of the lifetime are over",
        );
    }
}

fn check_credential(name: &str, report: &mut Report<'_>) {
    const PATH: &str = "spec.credentialName";
    if name.is_empty() {
        return;
    }
    if name.contains('/') {
        report.error_with_help(
            PATH,
            format!("`{}` is more than a name", crate::node::shorten(name)),
            "the certificate belongs to the namespace of its AcmeCertificate: write the name alone",
        );
    } else if !names::is_subdomain(name) {
        let message = format!("`{}` is no name for a Secret", crate::node::shorten(name));
        report.error(PATH, message);
    } else if name.ends_with("-cacert") {
        report
            .error(PATH, "a name that ends in `-cacert` means authorities for clients, not a certificate of a server");
    }
}

fn check_names(dns_names: &[String], report: &mut Report<'_>) {
    const PATH: &str = "spec.dnsNames";
    if dns_names.is_empty() {
        report.error("spec", "an AcmeCertificate needs at least one entry in `dnsNames`");
    }
    if dns_names.len() > MAX_NAMES {
        report.error_with_help(
            PATH,
            format!("a certificate has at most {MAX_NAMES} names, and this has {}", dns_names.len()),
            "divide them among several AcmeCertificates",
        );
        return;
    }
    for (index, name) in dns_names.iter().enumerate() {
        let path = format!("{PATH}[{index}]");
        if name.contains('*') {
            report.error_with_help(
                &path,
                format!("`{}` is a wildcard: neither HTTP-01 nor TLS-ALPN-01 can prove it", crate::node::shorten(name)),
                "authorities want DNS-01 for wildcards, which is not served; name each host",
            );
        } else if names::is_ip(name) {
            report.error(&path, format!("`{name}` is an address: certificates are issued for names"));
        } else if name.len() > 253 || name.ends_with('.') {
            report.error(&path, format!("`{}` is no name for a certificate", crate::node::shorten(name)));
        } else if let Err(why) = names::fqdn(name) {
            report.error(&path, why);
        }
    }
    for index in names::repeated(dns_names.iter().map(|name| name.to_ascii_lowercase())) {
        report.warning(&format!("{PATH}[{index}]"), format!("`{}` stands twice", dns_names[index]));
    }
}

/// Why a text is no https URL of a directory, or that it is one.
fn https_url(text: &str) -> Result<(), String> {
    let shown = crate::node::shorten(text);
    if text.len() > 2048 || text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(format!("`{}` is no URL", shown.escape_debug()));
    }
    let Some((scheme, rest)) = text.split_once("://") else { return Err(format!("`{shown}` is no URL")) };
    if !scheme.eq_ignore_ascii_case("https") {
        return Err(format!("`{shown}` is not an https URL, and ACME (RFC 8555) asks for https"));
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') {
        // It may be a password.
        return Err("a URL of a directory has no user and no password".into());
    }
    if text.contains('#') {
        return Err(format!("`{shown}` has a fragment, which means nothing here"));
    }
    let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, rest)) if host.parse::<std::net::Ipv6Addr>().is_ok() => {
            (None, rest.strip_prefix(':').or(rest.is_empty().then_some("443")))
        }
        Some(_) => return Err(format!("`{shown}` has no host")),
        None => match authority.rsplit_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(authority), Some("443")),
        },
    };
    if let Some(host) = host
        && !names::is_ip(host)
    {
        names::fqdn(host).map_err(|_| format!("`{shown}` has no host"))?;
    }
    let is_port =
        |port: &str| port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0);
    match port {
        Some(port) if is_port(port) => Ok(()),
        _ => Err(format!("`{shown}` has no port from 1 to 65535")),
    }
}

/// One plain address. RFC 8555, section 7.3: no second address and no header fields, which a `mailto:` URL could have.
fn is_mail_address(text: &str) -> bool {
    let Some((user, domain)) = text.split_once('@') else { return false };
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"!#$&'*+-/=^_`{|}~.".contains(&b);
    !user.is_empty() && user.len() <= 64 && user.bytes().all(is_plain) && names::fqdn(domain).is_ok()
}
