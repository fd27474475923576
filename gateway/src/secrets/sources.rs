//! What brings secrets beside the objects of the configuration: files, SDS servers elsewhere, ACME authorities.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::slice;
use std::sync::Arc;

use serde_json::{Value, json};
use tidegate_acme::{CertificateRequest, CertificateState, ChallengeKind, Issuer, IssuerOptions};
use tidegate_core::{Code, Diagnostic, Kind, Origin, SecretName};
use tidegate_resources::{AcmeChallenge, Object, ResourceSet, Spec};
use tidegate_sds::SecretStore;
use tidegate_sds_wire::{ConnectionState, NameState, ProviderOptions, SdsClient, provider_and_resource};
use tokio::runtime::Handle;

use super::files::Files;

/// Sources that the command line names.
#[derive(Clone, Debug, Default)]
pub(crate) struct SourceOptions {
    /// Folders of PEM files.
    pub(crate) folders: Vec<PathBuf>,
    /// SDS servers.
    pub(crate) providers: Vec<ProviderOptions>,
    /// Secrets that the process itself needs.
    pub(crate) own: Vec<OwnSecret>,
}

/// A secret that no configuration names, but an option.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct OwnSecret {
    pub(crate) name: SecretName,
    /// The option, with its dashes.
    pub(crate) option: &'static str,
    /// What fails without it; none if that is somebody else's business.
    pub(crate) consequence: Option<&'static str>,
}

/// The running sources.
#[derive(Debug)]
pub(super) struct Sources {
    store: Arc<SecretStore>,
    runtime: Handle,
    files: Arc<Files>,
    providers: BTreeMap<String, SdsClient>,
    own: Vec<OwnSecret>,
    /// Where ACME's state is kept; none if the process keeps nothing.
    acme_folder: Option<PathBuf>,
    /// Started with the first certificate that is to be issued.
    issuer: Option<Issuer>,
    requests: Vec<CertificateRequest>,
}

/// What metrics tell of sources.
#[derive(Debug, Default)]
pub(super) struct SourceGauges {
    /// SDS servers, and whether they are connected.
    pub(super) providers: Vec<(String, bool)>,
    /// Certificates from ACME authorities, and how often in a row an order failed.
    pub(super) acme: Vec<(SecretName, u32)>,
}

impl Sources {
    /// Secrets of folders that name no namespace are of `namespace`.
    ///
    /// # Errors
    /// A thread that watches cannot be started.
    pub(super) fn start(
        store: Arc<SecretStore>,
        options: SourceOptions,
        namespace: &str,
        acme_folder: Option<PathBuf>,
        runtime: Handle,
    ) -> io::Result<Self> {
        let files = Arc::new(Files::start(store.clone(), options.folders, namespace, runtime.clone())?);
        let entered = runtime.enter();
        let providers = options.providers.into_iter();
        let providers =
            providers.map(|options| (options.name.clone(), SdsClient::start(options, store.clone()))).collect();
        drop(entered);
        Ok(Self { store, runtime, files, providers, own: options.own, acme_folder, issuer: None, requests: Vec::new() })
    }

    /// Files and folders, which may take their time: to be asked without a lock.
    pub(super) fn files(&self) -> Arc<Files> {
        self.files.clone()
    }

    /// Names that no Snapshot has, and that are needed all the same.
    pub(super) fn own(&self) -> impl Iterator<Item = &SecretName> {
        self.own.iter().map(|own| &own.name)
    }

    /// Has SDS servers asked for these names, and for no others.
    pub(super) fn ask_for(&self, names: &BTreeSet<SecretName>) {
        for client in self.providers.values() {
            client.want(names);
        }
    }

    /// Has the certificates issued that the set asks for. Those that were issued before are in the store when this
    /// returns.
    pub(super) fn issue(&mut self, set: &ResourceSet) {
        let requests: Vec<_> = set.iter_kind(Kind::AcmeCertificate).filter_map(|object| request(object)).collect();
        if requests == self.requests {
            return;
        }
        self.requests.clone_from(&requests);
        let Some(folder) = &self.acme_folder else { return };
        let issuer = self.issuer.get_or_insert_with(|| {
            let _entered = self.runtime.enter();
            Issuer::start(self.store.clone(), folder.clone(), IssuerOptions::default())
        });
        self.runtime.block_on(issuer.set_requests(requests));
    }

    /// What keeps sources from bringing what they are asked for.
    pub(super) fn findings(&self, names: &BTreeSet<SecretName>) -> Vec<Diagnostic> {
        let mut findings = self.issuer.as_ref().map(Issuer::findings).unwrap_or_default();
        findings.extend(self.files.findings());
        findings.extend(self.own.iter().filter_map(|own| {
            let consequence = own.consequence.filter(|_| self.store.resolve(slice::from_ref(&own.name)).is_none())?;
            let message = format!("no source has {}; {consequence}", own.name);
            Some(Diagnostic::warning(Code::REFERENCE_NOT_FOUND, Origin::new(own.option, 0, 0), message))
        }));
        if self.acme_folder.is_none() {
            findings.extend(self.requests.iter().map(nowhere_to_keep));
        }
        for client in self.providers.values() {
            let status = client.status();
            if let (ConnectionState::BackingOff, Some(error)) = (status.state, status.last_error) {
                let message =
                    format!("the SDS server {} at {} cannot be used: {error}", status.provider, status.address);
                let finding = Diagnostic::warning(Code::ENVIRONMENT, Origin::new("--sds-provider", 0, 0), message);
                findings.push(finding.help("what it sent before serves on; it is tried again"));
            }
        }
        let asked = names.iter().filter_map(|name| Some((name, provider_and_resource(name)?.0)));
        let unknown: BTreeMap<_, _> = asked
            .filter(|(_, provider)| !self.providers.contains_key(*provider))
            .map(|(name, of)| (of, name))
            .collect();
        for (provider, name) in unknown {
            let message = format!("{name} is asked for, and no SDS server is called {provider}");
            let finding = Diagnostic::warning(Code::ENVIRONMENT, Origin::new("--sds-provider", 0, 0), message);
            findings.push(finding.help(format!("start with --sds-provider {provider}=ADDRESS")));
        }
        findings
    }

    /// Names that a source is at work for, or should be; with a sentence on how it stands, of which `it` is the secret.
    pub(super) fn awaited(&self, names: &BTreeSet<SecretName>) -> BTreeMap<SecretName, String> {
        let mut awaited = BTreeMap::new();
        for name in names {
            let Some((provider, _)) = provider_and_resource(name) else { continue };
            if !self.providers.contains_key(provider) {
                awaited.insert(name.clone(), format!("no SDS server is called {provider}"));
            }
        }
        for client in self.providers.values() {
            let status = client.status();
            let provider = &status.provider;
            let waiting = status.names.into_iter().filter(|name| name.state == NameState::Waiting);
            awaited.extend(waiting.map(|name| match status.state {
                ConnectionState::Connected => (name.name, format!("SDS server {provider} has not sent it")),
                _ => (name.name, format!("SDS server {provider} is not connected")),
            }));
        }
        let key = |request: &CertificateRequest| request.key.as_ref().map_or_else(String::new, ToString::to_string);
        awaited.extend(
            self.requests.iter().map(|request| (request.name.clone(), format!("{} has not got it yet", key(request)))),
        );
        for status in self.issuer.as_ref().map(Issuer::statuses).unwrap_or_default() {
            let has_failed = matches!(
                status.state,
                CertificateState::Failed | CertificateState::NotTaken | CertificateState::Invalid
            );
            if let Some(state) = awaited.get_mut(&status.name).filter(|_| has_failed) {
                state.push_str(", its last order failed");
            }
        }
        awaited
    }

    /// Numbers for metrics.
    pub(super) fn gauges(&self) -> SourceGauges {
        let connected = |client: &SdsClient| client.status().state == ConnectionState::Connected;
        let issued = self.issuer.as_ref().map(Issuer::statuses).unwrap_or_default();
        SourceGauges {
            providers: self.providers.iter().map(|(name, client)| (name.clone(), connected(client))).collect(),
            acme: issued.into_iter().map(|status| (status.name, status.failures)).collect(),
        }
    }

    /// How the sources stand, for people; no keys.
    pub(super) fn status(&self) -> Value {
        let providers: Vec<_> = self.providers.values().map(|client| json!(client.status())).collect();
        let issued = self.issuer.as_ref().map(Issuer::statuses).unwrap_or_default();
        let time = |at: Option<std::time::SystemTime>| at.map(|at| humantime::format_rfc3339_seconds(at).to_string());
        let issued: Vec<_> = issued
            .into_iter()
            .map(|one| {
                json!({
                    "name": one.name,
                    "object": one.key.map(|key| key.to_string()),
                    "dns_names": one.dns_names,
                    "directory": one.directory,
                    "challenge": one.challenge.as_str(),
                    "state": one.state.as_str(),
                    "not_before": time(one.not_before),
                    "not_after": time(one.not_after),
                    "next_attempt": time(one.next_attempt),
                    "failures": one.failures,
                    "last_error": one.last_error,
                    "orders": one.orders,
                })
            })
            .collect();
        json!({ "sds_providers": providers, "acme": issued })
    }
}

/// The secret that an AcmeCertificate fills.
pub(super) fn issued_name(object: &Object) -> Option<SecretName> {
    request(object).map(|request| request.name)
}

fn request(object: &Object) -> Option<CertificateRequest> {
    let Spec::AcmeCertificate(certificate) = &object.spec else { return None };
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    Some(CertificateRequest {
        name: SecretName::kubernetes(&object.key.namespace, certificate.credential_name(&object.key)),
        dns_names: certificate.dns_names.clone(),
        directory: certificate.directory().to_owned(),
        email: some(&certificate.email),
        challenge: match certificate.challenge {
            AcmeChallenge::Http01 => ChallengeKind::Http01,
            AcmeChallenge::TlsAlpn01 => ChallengeKind::TlsAlpn01,
        },
        roots: some(&certificate.ca_certificates).map(PathBuf::from),
        renew_before: certificate.renew_before.map(tidegate_resources::Duration::get),
        key: Some(object.key.clone()),
        origin: object.origin.clone(),
    })
}

fn nowhere_to_keep(request: &CertificateRequest) -> Diagnostic {
    let message = "the certificate is not ordered: there is no state directory to keep it and its account in";
    let mut finding = Diagnostic::error(Code::ENVIRONMENT, request.origin.clone(), message)
        .help("start with --state-dir DIR: a certificate that is ordered anew with every restart soon meets the authority's limits");
    finding.key.clone_from(&request.key);
    finding
}

#[cfg(test)]
mod tests {
    use tidegate_resources::{ParseOptions, parse};

    use super::*;

    #[test]
    fn what_cannot_come_is_told_with_the_option_that_mends_it() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let store = Arc::new(SecretStore::default());
        let own = OwnSecret {
            name: SecretName::kubernetes("ns", "sds"),
            option: "--sds-certificate",
            consequence: Some("nobody can connect"),
        };
        let options = SourceOptions { own: vec![own], ..SourceOptions::default() };
        let mut sources = Sources::start(store, options, "ns", None, runtime.handle().clone()).unwrap();
        let text = "apiVersion: tidegate.io/v1alpha1\nkind: AcmeCertificate\nmetadata: {name: a, namespace: ns}\nspec: \
                    {dnsNames: [a.com]}\n";
        let parsed = parse("acme.yaml", text, &ParseOptions::default());
        assert_eq!(parsed.diagnostics, []);
        sources.issue(&parsed.objects.into_iter().collect());
        let asked = ["sds://vault/a", "sds://vault/b", "kubernetes://ns/a"].map(SecretName::new);
        let asked = BTreeSet::from(asked);
        let awaited: Vec<_> = sources.awaited(&asked).into_iter().map(|(name, how)| format!("{name} {how}")).collect();
        assert_eq!(
            awaited,
            [
                "kubernetes://ns/a AcmeCertificate ns/a has not got it yet",
                "sds://vault/a no SDS server is called vault",
                "sds://vault/b no SDS server is called vault",
            ]
        );
        let findings = sources.findings(&asked);
        let told: Vec<_> = findings
            .iter()
            .map(|finding| {
                let help = finding.help.as_deref().unwrap_or_default();
                format!(
                    "{} {} {}",
                    finding.level,
                    finding.origin,
                    if help.is_empty() { &finding.message } else { help }
                )
            })
            .collect();
        assert_eq!(told.len(), 3, "{told:?}");
        assert_eq!(told[0], "Warning --sds-certificate no source has kubernetes://ns/sds; nobody can connect");
        assert!(told[1].starts_with("Error acme.yaml:1:1 start with --state-dir"), "{told:?}");
        assert_eq!(told[2], "Warning --sds-provider start with --sds-provider vault=ADDRESS");
    }
}
