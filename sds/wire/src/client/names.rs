//! Which resource of which provider a secret's name means.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
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

/// Resources to ask for, each with the secrets that it fills. Cheap to clone.
pub(super) type Resources = Arc<BTreeMap<Arc<str>, BTreeSet<SecretName>>>;

/// Names of one stream, about. Each answer of ours repeats all names of its stream, so that the work for a provider
/// with many secrets would grow with the square of their number.
const NAMES_PER_STREAM: usize = 64;

/// Streams of one connection: servers limit them, often to 100.
const MAX_STREAMS: usize = 32;

/// How many streams share so many names.
pub(super) fn streams_for(names: usize) -> usize {
    names.div_ceil(NAMES_PER_STREAM).clamp(1, MAX_STREAMS)
}

/// Which of the streams asks for a resource. The same one for as long as the number of streams is the same.
pub(super) fn stream_of(resource: &str, streams: usize) -> usize {
    let mut hasher = DefaultHasher::new();
    resource.hash(&mut hasher);
    // Fewer than 2^64 streams.
    (hasher.finish() % streams as u64) as usize
}

/// Those names that are `provider`'s, by resource.
pub(super) fn resources_of<'n>(provider: &str, names: impl IntoIterator<Item = &'n SecretName>) -> Resources {
    let mut resources = BTreeMap::<Arc<str>, BTreeSet<SecretName>>::new();
    for name in names {
        if let Some((of, resource)) = provider_and_resource(name)
            && of == provider
        {
            resources.entry(resource.into()).or_default().insert(name.clone());
        }
    }
    Arc::new(resources)
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
    fn many_names_are_shared_by_streams() {
        let check = |names, streams| assert_eq!(streams_for(names), streams, "{names}");
        check(0, 1);
        check(64, 1);
        check(65, 2);
        check(100_000, 32);
        let mut shares = [0; 4];
        for name in 0..400 {
            shares[stream_of(&format!("kubernetes://ns/{name}"), 4)] += 1;
        }
        assert!(shares.iter().all(|share| (60..140).contains(share)), "{shares:?}");
    }

    #[test]
    fn two_names_of_one_resource_are_asked_for_once() {
        let names = ["sds://v", "sds://v/v", "sds://v/w", "sds://other/x"].map(SecretName::new);
        let resources = resources_of("v", &names);
        assert_eq!(resources.keys().map(|name| &**name).collect::<Vec<_>>(), ["v", "w"]);
        assert_eq!(resources["v"].len(), 2);
    }
}
