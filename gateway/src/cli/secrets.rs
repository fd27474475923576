//! `tidegate run`: where secrets come from and who may have them, beside the configuration.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context;
use clap::{ArgGroup, Args};
use tidegate_core::SecretName;
use tidegate_sds_wire::{
    Authorization, ClientTls, ProviderOptions, ServerOptions, TcpOptions, TcpSecurity, UnixOptions,
};

use crate::secrets::{OwnSecret, SourceOptions};

/// Sources of secrets, and the SDS server.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Secrets (beside those of the configuration)")]
#[command(group(ArgGroup::new("sds_server").multiple(true).args(["sds_socket", "sds_address"])))]
pub(super) struct SecretArgs {
    /// Folder of PEM files, watched; repeatable. web.crt and web.key are kubernetes://<namespace>/web.
    ///
    /// Also <name>/tls.crt and tls.key, as cert-manager and the kubelet mount Secrets, and <namespace>/<name>/tls.crt.
    /// Without a namespace of its own a pair has that of --namespace.
    #[arg(long = "secrets", value_name = "DIR", env = "TIDEGATE_SECRETS", hide_env_values = true)]
    #[arg(value_delimiter = ',')]
    folders: Vec<PathBuf>,
    /// SDS server to take sds://NAME secrets from; repeatable.
    ///
    /// ADDRESS is unix:///path, https://host:port or http://host:port. For https: ca=FILE has the authorities that the
    /// server is verified by (default: the machine's), cert=FILE,key=FILE what it is shown, server-name=NAME the name
    /// that it must have. A server called vault fills sds://vault and sds://vault/<resource>.
    #[arg(long = "sds-provider", value_name = "NAME=ADDRESS[,ca=FILE,..]", value_parser = provider)]
    #[arg(env = "TIDEGATE_SDS_PROVIDER", hide_env_values = true)]
    providers: Vec<ProviderOptions>,
    /// Serve SDS (Envoy's SecretDiscoveryService) on this Unix socket.
    ///
    /// It is open to its own user alone (0600), or to all (0666) if a rule of --sds-authorization is for other users.
    #[arg(long, value_name = "PATH", env = "TIDEGATE_SDS_SOCKET", hide_env_values = true)]
    sds_socket: Option<PathBuf>,
    /// Serve SDS on TCP. In plaintext on loopback only; elsewhere --sds-certificate is needed.
    #[arg(long, value_name = "IP:PORT", env = "TIDEGATE_SDS_ADDRESS", hide_env_values = true)]
    sds_address: Option<SocketAddr>,
    /// Certificate of the SDS server on TCP, by the name of a secret: kubernetes://istio-system/sds.
    #[arg(long, value_name = "SECRET", env = "TIDEGATE_SDS_CERTIFICATE", hide_env_values = true)]
    #[arg(requires = "sds_address")]
    sds_certificate: Option<String>,
    /// Authorities of SDS clients' certificates, by the name of a secret; without it clients are anonymous.
    #[arg(long, value_name = "SECRET", env = "TIDEGATE_SDS_CLIENT_CA", hide_env_values = true)]
    #[arg(requires = "sds_certificate")]
    sds_client_ca: Option<String>,
    /// Who may read which secrets by SDS: a file with one rule a line.
    ///
    /// A rule is WHO NAME[,NAME..], as in `spiffe://td/ns/edge/sa/* kubernetes://edge/*`. WHO is same-user or uid:N
    /// (Unix socket), spiffe://.., uri:.. or dns:.. (client certificate), or any; names may have stars. Without the file
    /// the user that runs this gateway may read everything through the Unix socket, and nobody else anything.
    #[arg(long, value_name = "FILE", env = "TIDEGATE_SDS_AUTHORIZATION", hide_env_values = true)]
    #[arg(requires = "sds_server")]
    sds_authorization: Option<PathBuf>,
    /// Another name for a secret, for SDS clients; repeatable. It grants nothing by itself.
    #[arg(long = "sds-alias", value_name = "ALIAS=SECRET", env = "TIDEGATE_SDS_ALIAS", hide_env_values = true)]
    #[arg(value_delimiter = ',', value_parser = alias, requires = "sds_server")]
    aliases: Vec<(String, SecretName)>,
}

impl SecretArgs {
    pub(super) fn sources(&self) -> SourceOptions {
        let own = |name: SecretName, option, consequence| OwnSecret { name, option, consequence };
        let certificate = self.sds_certificate.iter().map(|name| {
            own(SecretName::new(name), "--sds-certificate", Some("SDS clients cannot connect to TCP until it arrives"))
        });
        let authorities = self.sds_client_ca.iter().map(|name| {
            own(SecretName::new(name), "--sds-client-ca", Some("SDS clients cannot connect to TCP until it arrives"))
        });
        let aliases = self.aliases.iter().map(|(_, name)| own(name.clone(), "--sds-alias", None));
        SourceOptions {
            folders: self.folders.clone(),
            providers: self.providers.clone(),
            own: certificate.chain(authorities).chain(aliases).collect(),
        }
    }

    /// Why these options cannot be meant, and what could be; none if they can.
    pub(super) fn misuse(&self) -> Option<(String, &'static str)> {
        let address = self.sds_address.filter(|address| !address.ip().is_loopback())?;
        self.sds_certificate.is_none().then(|| {
            let message =
                format!("--sds-address {address} is no loopback address: keys would cross the network in the clear");
            (message, "give --sds-certificate SECRET, or use 127.0.0.1, or --sds-socket")
        })
    }

    /// The SDS server, if one is wanted.
    ///
    /// # Errors
    /// The file of rules cannot be read, or has a line that is none.
    pub(super) fn server(&self) -> anyhow::Result<Option<ServerOptions>> {
        if self.sds_socket.is_none() && self.sds_address.is_none() {
            return Ok(None);
        }
        let authorization = match &self.sds_authorization {
            None => Authorization::default(),
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .with_context(|| format!("reading --sds-authorization {}", path.display()))?;
                Authorization::from_text(&text).with_context(|| format!("--sds-authorization {}", path.display()))?
            }
        };
        let name = |text: &String| SecretName::new(text);
        let security = match &self.sds_certificate {
            None => TcpSecurity::PlaintextOnLoopback,
            Some(certificate) => TcpSecurity::Tls {
                certificate: vec![name(certificate)],
                client_authorities: self.sds_client_ca.iter().map(name).collect(),
            },
        };
        Ok(Some(ServerOptions {
            unix: self.sds_socket.as_ref().map(|path| UnixOptions::for_clients_of(&authorization, path)),
            tcp: self.sds_address.map(|address| TcpOptions { address, security }),
            authorization,
            aliases: self.aliases.iter().cloned().collect(),
            ..ServerOptions::default()
        }))
    }
}

/// `NAME=ADDRESS`, then `,key=value` pairs.
fn provider(text: &str) -> Result<ProviderOptions, String> {
    let mut parts = text.split(',');
    let first = parts.next().unwrap_or_default();
    let Some((name, address)) = first.split_once('=').filter(|(name, _)| !name.is_empty()) else {
        return Err("write NAME=ADDRESS, as in vault=unix:///run/vault/sds.sock".into());
    };
    if name.contains('/') {
        return Err(format!("`{name}`: a provider's name has no slash"));
    }
    let address = address.parse().map_err(|error: tidegate_sds_wire::AddressError| error.to_string())?;
    let mut tls = ClientTls::default();
    let (mut certificate, mut key) = (None, None);
    for part in parts {
        match part.split_once('=') {
            Some(("ca", path)) => tls.authorities = Some(path.into()),
            Some(("cert", path)) => certificate = Some(PathBuf::from(path)),
            Some(("key", path)) => key = Some(PathBuf::from(path)),
            Some(("server-name", name)) => tls.server_name = Some(name.to_owned()),
            _ => return Err(format!("`{part}` is none of ca=FILE, cert=FILE, key=FILE, server-name=NAME")),
        }
    }
    tls.identity = match (certificate, key) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        _ => return Err("cert=FILE and key=FILE go together".into()),
    };
    let mut options = ProviderOptions::new(name, address);
    options.tls = tls;
    Ok(options)
}

/// `ALIAS=SECRET`.
fn alias(text: &str) -> Result<(String, SecretName), String> {
    match text.split_once('=') {
        Some((alias, secret)) if !alias.is_empty() && !secret.is_empty() => {
            Ok((alias.to_owned(), SecretName::new(secret)))
        }
        _ => Err("write ALIAS=SECRET, as in web=kubernetes://istio-system/web".into()),
    }
}

#[cfg(test)]
mod tests {
    use tidegate_sds_wire::ProviderAddress;

    use super::*;

    #[test]
    fn providers_are_a_name_an_address_and_files() {
        let vault = provider("vault=https://vault:8200,ca=/ca.pem,cert=/c.pem,key=/k.pem,server-name=v").unwrap();
        assert_eq!(vault.name, "vault");
        assert!(matches!(vault.address, ProviderAddress::Tcp { tls: true, .. }));
        assert_eq!(vault.tls.authorities, Some("/ca.pem".into()));
        assert_eq!(vault.tls.identity, Some(("/c.pem".into(), "/k.pem".into())));
        assert_eq!(vault.tls.server_name.as_deref(), Some("v"));
        assert!(provider("local=unix:///run/sds.sock").is_ok());
        for wrong in ["vault", "=unix:///x", "a/b=unix:///x", "v=ftp://x", "v=https://v:1,cert=/c", "v=https://v:1,x=y"]
        {
            assert!(provider(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn aliases_are_a_name_and_a_secret() {
        let (alias_name, secret) = alias("web=kubernetes://istio-system/web").unwrap();
        assert_eq!((alias_name.as_str(), secret.as_str()), ("web", "kubernetes://istio-system/web"));
        assert!(alias("web").is_err() && alias("=x").is_err());
    }
}
