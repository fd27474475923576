//! Where a provider is.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use rustls_pki_types::ServerName;

/// Address of a provider: `unix:///path`, `https://host:port` or `http://host:port`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ProviderAddress {
    Unix(PathBuf),
    Tcp {
        /// A name or an address; IPv6 without brackets.
        host: String,
        port: u16,
        /// `http` has none: keys cross in the clear.
        tls: bool,
    },
}

/// Why a text is no address of a provider.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    #[error("`{0}` is no address of an SDS server: write unix:///path, https://host:port or http://host:port")]
    Scheme(String),
    #[error("`{0}` has no port, as in https://host:port")]
    Port(String),
    #[error("`{0}` names no host")]
    Host(String),
    #[error("`{0}` has no absolute path, as in unix:///run/sds.sock")]
    Path(String),
}

impl ProviderAddress {
    /// Whether keys from there cross a network unprotected, as far as the address tells.
    pub(crate) fn is_exposed(&self) -> bool {
        match self {
            ProviderAddress::Tcp { host, tls: false, .. } => {
                let loopback = host.parse::<std::net::IpAddr>().map_or(host == "localhost", |ip| ip.is_loopback());
                !loopback
            }
            _ => false,
        }
    }
}

impl FromStr for ProviderAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let shown = || format!("{:.256}", text.escape_debug().to_string());
        // Envoy and gRPC write both `unix:/path` and `unix:///path`.
        if let Some(rest) = text.strip_prefix("unix:") {
            let path = rest.strip_prefix("//").unwrap_or(rest);
            return if path.starts_with('/') && path.len() > 1 {
                Ok(ProviderAddress::Unix(path.into()))
            } else {
                Err(AddressError::Path(shown()))
            };
        }
        let (rest, tls) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
            (Some(rest), _) => (rest, true),
            (_, Some(rest)) => (rest, false),
            _ => return Err(AddressError::Scheme(shown())),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = rest.rsplit_once(':').ok_or_else(|| AddressError::Port(shown()))?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(|| AddressError::Port(shown()))?;
        let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(address) => address.parse::<std::net::Ipv6Addr>().ok().map(|_| address),
            None => (!host.contains(':')).then_some(host),
        };
        match host {
            Some(host) if ServerName::try_from(host).is_ok() => {
                Ok(ProviderAddress::Tcp { host: host.to_owned(), port, tls })
            }
            _ => Err(AddressError::Host(shown())),
        }
    }
}

impl fmt::Display for ProviderAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProviderAddress::Unix(path) => write!(f, "unix://{}", path.display()),
            ProviderAddress::Tcp { host, port, tls } => {
                let scheme = if *tls { "https" } else { "http" };
                if host.contains(':') {
                    write!(f, "{scheme}://[{host}]:{port}")
                } else {
                    write!(f, "{scheme}://{host}:{port}")
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_printed_as_they_were_written() {
        for text in ["unix:///run/sds.sock", "https://vault.example:8443", "http://127.0.0.1:9000", "https://[::1]:1"] {
            assert_eq!(text.parse::<ProviderAddress>().expect(text).to_string(), text);
        }
        assert_eq!("unix:/a".parse::<ProviderAddress>().expect("short"), ProviderAddress::Unix("/a".into()));
        assert_eq!("https://a:1/".parse::<ProviderAddress>().expect("slash").to_string(), "https://a:1");
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "",
            "vault:8443",
            "ftp://a:1",
            "https://a",
            "https://:1",
            "https://a:0",
            "https://a:65536",
            "https://::1:1",
            "https://[::1:1",
            "https://a b:1",
            "unix://run/x",
            "unix:",
            "unix:///",
            "https://user@a:1",
        ] {
            assert!(text.parse::<ProviderAddress>().is_err(), "{text}");
        }
    }

    #[test]
    fn plaintext_beyond_the_machine_is_exposed() {
        let check = |text: &str, expected| {
            assert_eq!(text.parse::<ProviderAddress>().expect(text).is_exposed(), expected, "{text}");
        };
        check("http://10.0.0.1:1", true);
        check("http://vault:1", true);
        check("http://127.0.0.1:1", false);
        check("http://[::1]:1", false);
        check("http://localhost:1", false);
        check("https://10.0.0.1:1", false);
        check("unix:///x", false);
    }
}
