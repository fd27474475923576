//! Which kinds are served, in which versions.

use tidegate_core::Kind;

/// What `apiVersion` and `kind` of a document name.
#[derive(Debug)]
pub(super) enum Lookup {
    Served(Kind),
    /// A kind that is not served (yet).
    Unserved,
    /// Meant as a served kind, most likely, and written wrongly.
    Wrong {
        kind: Option<Kind>,
        message: String,
        help: Option<String>,
    },
}

const NETWORKING: &[&str] = &["networking.istio.io/v1", "networking.istio.io/v1beta1", "networking.istio.io/v1alpha3"];

/// Groups in which kinds of other projects share a name with one of ours.
const FOREIGN_HOMES: &[(&str, &str)] = &[
    ("Gateway", "gateway.networking.k8s.io"),
    ("Gateway", "networking.x-k8s.io"),
    ("Gateway", "gateway.networking.x-k8s.io"),
    ("Service", "serving.knative.dev"),
];

fn served(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Gateway | Kind::VirtualService | Kind::DestinationRule | Kind::ServiceEntry | Kind::WorkloadEntry => {
            NETWORKING
        }
        Kind::EndpointSlice => &["discovery.k8s.io/v1"],
        Kind::ReferenceGrant => &["gateway.networking.k8s.io/v1", "gateway.networking.k8s.io/v1beta1"],
        Kind::AcmeCertificate => &["tidegate.io/v1alpha1"],
        Kind::Service | Kind::Endpoints | Kind::Pod | Kind::Namespace | Kind::Secret | Kind::ConfigMap => &["v1"],
        // Istio has no such object: mesh configuration is a file or stands in a ConfigMap.
        Kind::MeshConfig => &[],
    }
}

pub(super) fn lookup(api_version: &str, kind: &str) -> Lookup {
    let kinds = || Kind::ALL.into_iter().filter(|kind| !served(*kind).is_empty());
    let Some(found) = kinds().find(|candidate| candidate.as_str() == kind) else {
        let near =
            kinds().find(|candidate| is_typo(kind, candidate.as_str()) && served(*candidate).contains(&api_version));
        return match near {
            Some(near) => Lookup::Wrong {
                kind: None,
                message: format!("unknown kind `{}` in {api_version}", crate::node::shorten(kind)),
                help: Some(format!("did you mean `{near}`?")),
            },
            None => Lookup::Unserved,
        };
    };
    let versions = served(found);
    if versions.contains(&api_version) {
        return Lookup::Served(found);
    }
    let group = api_version.rsplit_once('/').map_or("", |(group, _)| group);
    let is_foreign = FOREIGN_HOMES.contains(&(kind, group))
        || (group.contains('.') && group != found.group() && strsim_far(group, found.group()));
    if is_foreign {
        return Lookup::Unserved;
    }
    let message = match api_version {
        "" => format!("{found} needs an apiVersion"),
        _ => format!("{found} is not in `{}`", crate::node::shorten(api_version)),
    };
    Lookup::Wrong { kind: Some(found), message, help: Some(format!("write apiVersion: {}", versions.join(" or "))) }
}

/// Whether a kind is another one in a different case or with one letter wrong.
fn is_typo(written: &str, kind: &str) -> bool {
    written.len() <= 40
        && (written.eq_ignore_ascii_case(kind)
            || written.strip_suffix('s').is_some_and(|one| one.eq_ignore_ascii_case(kind))
            || strsim::damerau_levenshtein(written, kind) == 1)
}

/// Whether a group is another project's, and not ours with a letter wrong.
fn strsim_far(group: &str, own: &str) -> bool {
    group.len() > 100 || strsim::damerau_levenshtein(group, own) > 5
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn served_versions_are_known_and_near_misses_are_named() {
        let check = |api_version: &str, kind: &str, expected: &str| {
            let found = match lookup(api_version, kind) {
                Lookup::Served(kind) => format!("served {kind}"),
                Lookup::Unserved => "unserved".into(),
                Lookup::Wrong { help, .. } => help.unwrap_or_default(),
            };
            assert_eq!(found, expected, "{api_version} {kind}");
        };
        let networking = "write apiVersion: networking.istio.io/v1 or networking.istio.io/v1beta1 or \
                          networking.istio.io/v1alpha3";
        check("networking.istio.io/v1", "Gateway", "served Gateway");
        check("networking.istio.io/v1alpha3", "ServiceEntry", "served ServiceEntry");
        check("gateway.networking.k8s.io/v1", "Gateway", "unserved");
        check("gateway.solo.io/v1", "VirtualService", "unserved");
        check("serving.knative.dev/v1", "Service", "unserved");
        check("networking.istio.io/v2", "Gateway", networking);
        check("networking.istio/v1", "VirtualService", networking);
        check("v1", "VirtualService", networking);
        check("", "VirtualService", networking);
        check("v1", "Service", "served Service");
        check("apps/v1", "Service", "write apiVersion: v1");
        check("discovery.k8s.io/v1beta1", "EndpointSlice", "write apiVersion: discovery.k8s.io/v1");
        check("networking.istio.io/v1", "Virtualservice", "did you mean `VirtualService`?");
        check("networking.istio.io/v1", "Sidecar", "unserved");
        check("gateway.networking.k8s.io/v1beta1", "ReferenceGrant", "served ReferenceGrant");
        check("gateway.networking.k8s.io/v1", "ReferenceGrant", "served ReferenceGrant");
        check(
            "gateway.networking.k8s.io/v1alpha2",
            "ReferenceGrant",
            "write apiVersion: gateway.networking.k8s.io/v1 or gateway.networking.k8s.io/v1beta1",
        );
        check("gateway.networking.k8s.io/v1", "HTTPRoute", "unserved");
        check("tidegate.io/v1alpha1", "AcmeCertificate", "served AcmeCertificate");
        check("tidegate.io/v1", "AcmeCertificate", "write apiVersion: tidegate.io/v1alpha1");
        check("tidegate.io/v1alpha1", "ACMECertificate", "did you mean `AcmeCertificate`?");
        check("cert-manager.io/v1", "Certificate", "unserved");
        check("apps/v1", "Deployment", "unserved");
        check("v1", "ServiceAccount", "unserved");
        check("v1", "MeshConfig", "unserved");
    }
}
