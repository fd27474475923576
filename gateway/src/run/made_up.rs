//! `--to`: the configuration for one backend, written as the user would write it.

use std::net::IpAddr;

use anyhow::{Context, bail};

/// Gateway, VirtualService and ServiceEntry that send everything on `port` to `target`; for `https://` also the
/// DestinationRule that has the backend verified by its host, with the authorities of the machine.
///
/// # Errors
/// `target` is not `host:port`, `ip:port`, `[ipv6]:port`, or one of them behind `http://`, `h2c://` or `https://`.
pub(super) fn yaml(target: &str, port: u16) -> anyhow::Result<String> {
    let (protocol, authority, is_encrypted) = match target.split_once("://") {
        None => ("HTTP", target, false),
        Some(("http", rest)) => ("HTTP", rest, false),
        Some(("h2c", rest)) => ("HTTP2", rest, false),
        Some(("https", rest)) => ("HTTP", rest, true),
        Some((scheme, _)) => bail!("--to {target}: `{scheme}` is none of the schemes http, h2c and https"),
    };
    let authority = authority.strip_suffix('/').unwrap_or(authority);
    let example = "--to takes host:port, as in --to 127.0.0.1:3000 or --to http://backend.local:8080";
    let (host, target_port) =
        authority.rsplit_once(':').with_context(|| format!("`{target}` has no port; {example}"))?;
    let target_port: u16 = target_port
        .parse()
        .ok()
        .filter(|port| *port != 0)
        .with_context(|| format!("`{target_port}` is no port; {example}"))?;
    let tls = if is_encrypted { destination_rule(host) } else { String::new() };
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let (resolution, address) = match host.parse::<IpAddr>() {
        Ok(IpAddr::V6(address)) => ("STATIC", format!("\"{address}\"")),
        Ok(IpAddr::V4(address)) => ("STATIC", address.to_string()),
        Err(_) => {
            let host = tidegate_core::Host::parse(host).with_context(|| example.to_owned())?;
            if host.is_wildcard() {
                bail!("--to {target}: one host is needed, not a wildcard; {example}");
            }
            ("DNS", host.to_string())
        }
    };
    Ok(format!(
        "\
# Every request that comes in on port {port} goes to {target}.
apiVersion: networking.istio.io/v1
kind: Gateway
metadata:
  name: to
spec:
  servers:
    - port:
        number: {port}
        name: http
        protocol: HTTP
      hosts:
        - \"*\"
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: to
spec:
  hosts:
    - \"*\"
  gateways:
    - to
  http:
    - name: everything
      route:
        - destination:
            host: backend.internal
            port:
              number: {target_port}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata:
  name: to
spec:
  hosts:
    - backend.internal
  location: MESH_EXTERNAL
  resolution: {resolution}
  ports:
    - number: {target_port}
      name: {port_name}
      protocol: {protocol}
  endpoints:
    - address: {address}
{tls}",
        port_name = protocol.to_ascii_lowercase(),
    ))
}

/// TLS towards `host`. A certificate for an address has it as a name: there is no SNI for one.
fn destination_rule(host: &str) -> String {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    format!(
        "\
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata:
  name: to
spec:
  host: backend.internal
  trafficPolicy:
    tls:
      mode: SIMPLE
      sni: \"{host}\"
"
    )
}

#[cfg(test)]
mod tests {
    use tidegate_core::Level;
    use tidegate_resources::{ParseOptions, parse, validate};

    use super::*;

    #[test]
    fn what_is_made_up_is_valid() {
        for target in ["127.0.0.1:3000", "[::1]:80", "backend.local:8080", "http://a:1/", "h2c://10.0.0.1:50051"]
            .into_iter()
            .chain(["https://backend.local:443", "https://10.0.0.1:8443/", "https://[::1]:8443"])
        {
            let yaml = yaml(target, 8080).unwrap();
            let parsed = parse("--to", &yaml, &ParseOptions::default());
            assert_eq!(parsed.diagnostics, [], "{target}");
            assert_eq!(parsed.objects.len(), if target.starts_with("https") { 4 } else { 3 });
            for object in &parsed.objects {
                let errors: Vec<_> = validate(object).into_iter().filter(|d| d.level == Level::Error).collect();
                assert_eq!(errors, [], "{target}");
            }
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_an_example() {
        for target in ["3000", "a:b", "a:0", "https://a", "ftp://a:1", "*.x:1", ":80", "a b:1", "a:99999"] {
            let error = format!("{:#}", yaml(target, 8080).unwrap_err());
            assert!(error.contains("--to"), "{target}: {error}");
        }
    }
}
