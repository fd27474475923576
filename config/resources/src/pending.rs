//! Values, as against fields, that are read and not acted on yet.

use tidegate_core::{Code, Level};

use crate::decode::Decoder;
use crate::networking::{
    ClientTlsMode, ClientTlsSettings, ConnectionPoolSettings, LoadBalancerSettings, Resolution, SimpleLb,
};
use crate::object::Spec;

/// Reports values of a decoded object with this name that are not enforced yet.
pub(crate) fn values(name: &str, spec: &Spec, decoder: &mut Decoder<'_>) {
    match spec {
        Spec::VirtualService(service) => {
            for (rule, route) in service.http.iter().enumerate() {
                for (entry, condition) in route.r#match.iter().enumerate() {
                    let maps = [("headers", &condition.headers), ("withoutHeaders", &condition.without_headers)];
                    for (field, name) in maps.iter().flat_map(|(field, map)| map.keys().map(move |name| (field, name)))
                    {
                        if name.starts_with("@request.auth.claims") {
                            let path = format!("spec.http[{rule}].match[{entry}].{field}[\"{name}\"]");
                            report(decoder, &path, "matching of JWT claims".into());
                        }
                    }
                }
            }
        }
        Spec::DestinationRule(rule) => {
            let subsets = rule.subsets.iter().enumerate();
            let policies = std::iter::once(("spec.trafficPolicy".to_owned(), &rule.traffic_policy)).chain(
                subsets.map(|(index, subset)| (format!("spec.subsets[{index}].trafficPolicy"), &subset.traffic_policy)),
            );
            for (path, policy) in policies {
                let Some(policy) = policy else { continue };
                balancer(decoder, &path, policy.load_balancer.as_ref());
                pool(decoder, &path, policy.connection_pool.as_ref());
                client_tls(decoder, &path, policy.tls.as_ref());
                for (index, port) in policy.port_level_settings.iter().enumerate() {
                    let path = format!("{path}.portLevelSettings[{index}]");
                    balancer(decoder, &path, port.load_balancer.as_ref());
                    pool(decoder, &path, port.connection_pool.as_ref());
                    client_tls(decoder, &path, port.tls.as_ref());
                }
            }
        }
        Spec::MeshConfig(mesh) => {
            let defaults = mesh.default_traffic_policy.as_ref();
            pool(decoder, "defaultTrafficPolicy", defaults.and_then(|policy| policy.connection_pool.as_ref()));
        }
        Spec::ServiceEntry(entry) if matches!(entry.resolution, Resolution::DynamicDns | Resolution::DnsRoundRobin) => {
            report(decoder, "spec.resolution", entry.resolution.to_string());
        }
        Spec::ConfigMap(map) if name == "istio" => {
            let networks = map.data.get("meshNetworks").map_or("", |text| text.trim());
            if !matches!(networks, "" | "networks: {}") {
                report(decoder, "data.meshNetworks", "`meshNetworks`".into());
            }
        }
        _ => {}
    }
}

fn balancer(decoder: &mut Decoder<'_>, policy: &str, settings: Option<&LoadBalancerSettings>) {
    if settings.is_some_and(|settings| settings.simple == Some(SimpleLb::Passthrough)) {
        report(decoder, &format!("{policy}.loadBalancer.simple"), "PASSTHROUGH".into());
    }
}

/// One field that is enforced in part: somebody who limits idle TCP connections has nothing to mend, so it is a note.
fn pool(decoder: &mut Decoder<'_>, policy: &str, settings: Option<&ConnectionPoolSettings>) {
    let tcp = settings.and_then(|settings| settings.tcp.as_ref());
    if tcp.is_some_and(|tcp| tcp.idle_timeout.is_some()) {
        let path = format!("{policy}.connectionPool.tcp.idleTimeout");
        let message = "`idleTimeout` is enforced for TCP and TLS routes; for idle HTTP connections it is not yet";
        decoder.note(Code::NOT_ENFORCED, Level::Info, &path, message.into(), None);
    }
}

fn client_tls(decoder: &mut Decoder<'_>, policy: &str, settings: Option<&ClientTlsSettings>) {
    if settings.is_some_and(|settings| settings.mode == ClientTlsMode::IstioMutual) {
        report(decoder, &format!("{policy}.tls.mode"), "ISTIO_MUTUAL".into());
    }
}

fn report(decoder: &mut Decoder<'_>, path: &str, what: String) {
    decoder.note(Code::NOT_ENFORCED, Level::Warning, path, format!("{what} is not enforced yet"), None);
}
