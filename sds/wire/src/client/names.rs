//! Which resource of which provider a secret's name means.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tidegate_core::{SecretName, SecretSource};

/// Takes `sds://<provider>` or `sds://<provider>/<resource>` apart. Without a resource its name is the provider's, as in
/// Istio, where `sds://` is cut off and the rest is asked for. None for other names.
pub fn provider_and_resource(name: &SecretName) -> Option<(&str, &str)> {
    let SecretSource::Sds { provider, .. } = name.source() else { return None };
    let (provider, resource) = match provider.split_once('/') {
        None => (provider, provider),
        Some((provider, resource)) => (provider, resource),
    };
    (!provider.is_empty() && !resource.is_empty()).then_some((provider, resource))
}

/// Resources to ask for, each with the secrets that it fills.
pub(super) type Resources = BTreeMap<Arc<str>, BTreeSet<SecretName>>;

/// Those names that are `provider`'s, by resource.
pub(super) fn resources_of<'n>(provider: &str, names: impl IntoIterator<Item = &'n SecretName>) -> Resources {
    let mut resources = Resources::new();
    for name in names {
        if let Some((of, resource)) = provider_and_resource(name)
            && of == provider
        {
            resources.entry(resource.into()).or_default().insert(name.clone());
        }
    }
    resources
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_without_resource_asks_for_the_providers_name() {
        let check =
            |name: &str, expected| assert_eq!(provider_and_resource(&SecretName::new(name)), expected, "{name}");
        check("sds://vault", Some(("vault", "vault")));
        check("sds://vault/web", Some(("vault", "web")));
        check("sds://vault/spiffe://td/a", Some(("vault", "spiffe://td/a")));
        check("sds://vault/", None);
        check("sds://", None);
        check("sds:///x", None);
        check("kubernetes://ns/a", None);
    }

    #[test]
    fn two_names_of_one_resource_are_asked_for_once() {
        let names = ["sds://v", "sds://v/v", "sds://v/w", "sds://other/x"].map(SecretName::new);
        let resources = resources_of("v", &names);
        assert_eq!(resources.keys().map(|name| &**name).collect::<Vec<_>>(), ["v", "w"]);
        assert_eq!(resources["v"].len(), 2);
    }
}
