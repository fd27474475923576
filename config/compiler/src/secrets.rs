//! From the references to secrets that objects write, to the names that the data plane asks for; and who may read which.
//!
//! Secrets themselves are not looked at: they change without a new Snapshot.

use std::collections::{BTreeMap, BTreeSet};

use tidegate_core::{Code, Kind, SecretName};
use tidegate_resources::{Object, ReferenceGrant, Referrer, ResourceSet, Spec};
use tidegate_snapshot::SecretRef;

use crate::compile::CompileOptions;
use crate::findings::Findings;

/// What the name of a Secret with the authorities of another one ends in.
const CA_SUFFIX: &str = "-cacert";

/// What a secret is wanted for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Purpose {
    /// A certificate with its key.
    Certificate,
    /// Certificates of authorities, from a field that names them.
    Authorities,
    /// Those that belong to a credential: `<name>-cacert`.
    CredentialAuthorities,
}

/// A field that names a secret.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field<'f> {
    pub(crate) object: &'f Object,
    pub(crate) path: &'f str,
}

impl Field<'_> {
    pub(crate) fn reference(self, names: Vec<SecretName>) -> SecretRef {
        SecretRef::new(names, self.object.key.clone(), self.object.origin_of(self.path))
    }

    fn refuse(self, message: impl Into<String>, findings: &mut Findings) {
        findings.error(Code::SCHEMA, self.object, self.path, message);
    }
}

/// A reference taken apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Written<'t> {
    Secret {
        namespace: Option<&'t str>,
        name: &'t str,
    },
    ConfigMap {
        namespace: &'t str,
        name: &'t str,
    },
    Provider {
        resource: Option<&'t str>,
    },
    FileCertificate,
    FileRoot,
    /// With why it cannot be used.
    Unusable(&'static str),
    NotEnforced(&'static str),
}

impl<'t> Written<'t> {
    /// Reads the forms of the reference, 4.4.
    fn parse(text: &'t str) -> Self {
        const SHAPE: &str = "it is neither `name` nor `namespace/name`";
        let secret = |text: &'t str| match text.split_once('/') {
            None if is_name(text) => Self::Secret { namespace: None, name: text },
            Some((namespace, name)) if is_name(namespace) && is_name(name) => {
                Self::Secret { namespace: Some(namespace), name }
            }
            _ => Self::Unusable(SHAPE),
        };
        if let Some(paths) = text.strip_prefix("file-cert:") {
            return match paths.split_once('~') {
                Some((chain, key)) if is_path(chain) && is_path(key) => Self::FileCertificate,
                _ => Self::Unusable("it is not of the form file-cert:<chain>~<key>"),
            };
        }
        if let Some(path) = text.strip_prefix("file-root:") {
            return if is_path(path) {
                Self::FileRoot
            } else {
                Self::Unusable("it is not of the form file-root:<file>")
            };
        }
        match text.split_once("://") {
            None => secret(text),
            Some(("kubernetes" | "kubernetes-gateway", rest)) => secret(rest),
            Some(("configmap", rest)) => match secret(rest) {
                Self::Secret { namespace: Some(namespace), name } => Self::ConfigMap { namespace, name },
                _ => Self::Unusable("it is not of the form configmap://namespace/name"),
            },
            Some(("sds", rest)) => match rest.split_once('/') {
                None if is_path(rest) => Self::Provider { resource: None },
                Some((provider, resource)) if is_path(provider) && is_path(resource) => {
                    Self::Provider { resource: Some(resource) }
                }
                _ => Self::Unusable("it is neither sds://provider nor sds://provider/resource"),
            },
            Some(("builtin", _)) => Self::NotEnforced("the workload's own certificate"),
            Some(("invalid", _)) => Self::Unusable("it is marked invalid"),
            Some(_) => Self::Unusable("no source of secrets has names of this form"),
        }
    }
}

/// Whether a text can be the path of a file. What has several lines is the file's content, pasted where its path belongs,
/// and must become no name: names are shown everywhere.
pub(crate) fn is_path(text: &str) -> bool {
    !text.is_empty() && text.len() <= 4096 && !text.chars().any(char::is_control)
}

/// A text as messages may show it: one that is too long for a name, or has several lines, may be a key.
pub(crate) fn shown(text: &str) -> &str {
    const LONGEST: usize = 100;
    if text.len() <= LONGEST && !text.chars().any(char::is_control) { text } else { "[...]" }
}

/// Whether a text may be the name of a Kubernetes object or namespace.
fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 253
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
}

/// Resolves references to secrets.
#[derive(Debug)]
pub(crate) struct Secrets<'a> {
    /// Of the gateway workload.
    namespace: &'a str,
    /// By the namespace that they open.
    grants: BTreeMap<&'a str, Vec<&'a ReferenceGrant>>,
    /// Namespaces of Gateways for which it was told that their own Secrets are found, too.
    told: BTreeSet<String>,
}

impl<'a> Secrets<'a> {
    pub(crate) fn new(resources: &'a ResourceSet, options: &'a CompileOptions) -> Self {
        let mut grants: BTreeMap<&str, Vec<_>> = BTreeMap::new();
        for object in resources.iter_kind(Kind::ReferenceGrant) {
            if let Spec::ReferenceGrant(grant) = &object.spec {
                grants.entry(&object.key.namespace).or_default().push(grant);
            }
        }
        Self { namespace: &options.namespace, grants, told: BTreeSet::new() }
    }

    /// What a field of a Gateway refers to: a bare name first in the gateway workload's namespace, as in Istio, then in
    /// the Gateway's own. Other namespaces have to grant it. None if it may not be read or cannot be used, which is
    /// reported.
    pub(crate) fn of_gateway(
        &mut self,
        field: Field<'_>,
        text: &str,
        purpose: Purpose,
        findings: &mut Findings,
    ) -> Option<SecretRef> {
        let own = &*field.object.key.namespace;
        let names = match Written::parse(text) {
            Written::Secret { namespace: None, name } => {
                let mut names = secret_names(self.namespace, name, purpose);
                if own != self.namespace {
                    names.extend(secret_names(own, name, purpose));
                    self.tell_namespaces(field, findings);
                }
                names
            }
            Written::Secret { namespace: Some(namespace), name } => {
                self.check_grant(field, (namespace, "Secret", name), findings)?;
                secret_names(namespace, name, purpose)
            }
            Written::ConfigMap { namespace, name } => {
                if purpose != Purpose::Authorities {
                    field.refuse("a ConfigMap holds authorities only: no certificate and no key", findings);
                    return None;
                }
                self.check_grant(field, (namespace, "ConfigMap", name), findings)?;
                vec![SecretName::config_map(namespace, name)]
            }
            other => vec![other_name(field, text, other, purpose, findings)?],
        };
        Some(field.reference(names))
    }

    /// What `credentialName` of a DestinationRule refers to: a Secret of the gateway workload's namespace and no other
    /// (reference, 3.7).
    pub(crate) fn of_client(
        &self,
        field: Field<'_>,
        text: &str,
        purpose: Purpose,
        findings: &mut Findings,
    ) -> Option<SecretRef> {
        let names = match Written::parse(text) {
            Written::Secret { namespace, name } if namespace.is_none_or(|namespace| namespace == self.namespace) => {
                secret_names(self.namespace, name, purpose)
            }
            Written::Secret { .. } => {
                let message = format!("only Secrets of the gateway's own namespace `{}` are read here", self.namespace);
                field.refuse(message, findings);
                return None;
            }
            Written::ConfigMap { namespace, name } if purpose != Purpose::Certificate => {
                if *namespace != *field.object.key.namespace {
                    field.refuse("a ConfigMap must be in the namespace of the object that names it", findings);
                    return None;
                }
                vec![SecretName::config_map(namespace, name)]
            }
            Written::ConfigMap { .. } => {
                field.refuse("a ConfigMap holds authorities only: no certificate and no key", findings);
                return None;
            }
            other => vec![other_name(field, text, other, purpose, findings)?],
        };
        Some(field.reference(names))
    }

    /// Whether a Gateway may read what is of a namespace: that of the gateway workload, its own, or one that grants it.
    fn check_grant(
        &self,
        field: Field<'_>,
        (namespace, kind, name): (&str, &str, &str),
        findings: &mut Findings,
    ) -> Option<()> {
        let own = &*field.object.key.namespace;
        let referrer = Referrer { group: Kind::Gateway.group(), kind: Kind::Gateway.as_str(), namespace: own };
        let granted =
            |grants: &Vec<&ReferenceGrant>| grants.iter().any(|grant| grant.permits(referrer, "", kind, name));
        if namespace == self.namespace || namespace == own || self.grants.get(namespace).is_some_and(granted) {
            return Some(());
        }
        let message = format!("namespace `{namespace}` does not let Gateways of `{own}` refer to its {kind} `{name}`");
        let help = format!(
            "a ReferenceGrant in `{namespace}` can: from group `{}`, kind `Gateway`, namespace `{own}`, to group ``, kind `{kind}`",
            Kind::Gateway.group()
        );
        findings.push(
            crate::findings::finding(
                Code::SECRET_NOT_PERMITTED,
                tidegate_core::Level::Error,
                field.object,
                field.path,
                message,
            )
            .help(help),
        );
        None
    }

    /// Once for each namespace: ten thousand servers need no ten thousand notes.
    fn tell_namespaces(&mut self, field: Field<'_>, findings: &mut Findings) {
        let own = &*field.object.key.namespace;
        if self.told.insert(own.to_owned()) {
            let message = format!(
                "Secrets that Gateways of `{own}` name are looked for in `{}`, as Istio does, and then, which Istio does not, in `{own}`",
                self.namespace
            );
            findings.info(Code::BEYOND_ISTIO, field.object, field.path, message);
        }
    }
}

/// The names of a Secret for a purpose. One that is itself called `x-cacert` gives authorities under that name alone.
fn secret_names(namespace: &str, name: &str, purpose: Purpose) -> Vec<SecretName> {
    let own = || SecretName::kubernetes(namespace, name);
    let authorities = || SecretName::kubernetes_ca(namespace, name);
    match purpose {
        Purpose::Certificate => vec![own()],
        Purpose::Authorities if name.ends_with(CA_SUFFIX) => vec![own()],
        Purpose::CredentialAuthorities if name.ends_with(CA_SUFFIX) => vec![authorities(), own()],
        Purpose::Authorities | Purpose::CredentialAuthorities => vec![authorities()],
    }
}

/// The name of a reference that names no object of Kubernetes.
fn other_name(
    field: Field<'_>,
    text: &str,
    written: Written<'_>,
    purpose: Purpose,
    findings: &mut Findings,
) -> Option<SecretName> {
    let reason = match written {
        Written::Provider { .. } if purpose != Purpose::CredentialAuthorities => return Some(SecretName::new(text)),
        Written::Provider { resource: Some(_) } => return Some(SecretName::new(&format!("{text}-cacert"))),
        Written::FileCertificate if purpose == Purpose::Certificate => return Some(SecretName::new(text)),
        Written::FileRoot if purpose == Purpose::Authorities => return Some(SecretName::new(text)),
        Written::Provider { resource: None } | Written::FileCertificate
            if purpose == Purpose::CredentialAuthorities =>
        {
            "no authorities belong to a credential of this form; name them in `caCertCredentialName`"
        }
        Written::NotEnforced(what) => {
            let message = format!("{what} (`{}`) is not enforced yet; what needs it is refused", shown(text));
            findings.warning(Code::NOT_ENFORCED, field.object, field.path, message);
            return None;
        }
        Written::Unusable(reason) => reason,
        _ if purpose == Purpose::Certificate => "it names no certificate with a key",
        _ => "it names no authorities",
    };
    field.refuse(format!("`{}` cannot be used: {reason}", shown(text)), findings);
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_reference_is_read() {
        let check = |text: &str, expected: Written<'_>| assert_eq!(Written::parse(text), expected, "{text}");
        let secret = |namespace, name| Written::Secret { namespace, name };
        check("a", secret(None, "a"));
        check("ns/a", secret(Some("ns"), "a"));
        check("kubernetes://a", secret(None, "a"));
        check("kubernetes://ns/a", secret(Some("ns"), "a"));
        check("kubernetes-gateway://ns/a", secret(Some("ns"), "a"));
        check("configmap://ns/a", Written::ConfigMap { namespace: "ns", name: "a" });
        check("sds://vault", Written::Provider { resource: None });
        check("sds://vault/a/b", Written::Provider { resource: Some("a/b") });
        check("file-cert:/c.pem~/k.pem", Written::FileCertificate);
        check("file-root:/ca.pem", Written::FileRoot);
        check("builtin://", Written::NotEnforced("the workload's own certificate"));
        for bad in [
            "",
            "/",
            "a/b/c",
            "/a",
            "a/",
            "a b",
            "configmap://a",
            "sds://",
            "sds:///",
            "x://a",
            "invalid://",
            "file-cert:a",
            "file-cert:/c.pem~-----BEGIN PRIVATE KEY-----\nMI",
            "file-root:",
            "file-root:a\nb",
            "sds://vault/a\nb",
            "-----BEGIN PRIVATE KEY-----\nMI",
        ] {
            assert!(matches!(Written::parse(bad), Written::Unusable(_)), "{bad}");
        }
    }
}
