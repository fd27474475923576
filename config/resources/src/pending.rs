//! Values, as against fields, that are read and not acted on yet.

use tidegate_core::{Code, Level};

use crate::decode::Decoder;
use crate::networking::{Resolution, SimpleLb};
use crate::object::Spec;

/// Reports values of a decoded object with this name that are not enforced yet.
pub(crate) fn values(name: &str, spec: &Spec, decoder: &mut Decoder<'_>) {
    let report = |decoder: &mut Decoder<'_>, path: &str, what: String| {
        decoder.note(Code::NOT_ENFORCED, Level::Warning, path, format!("{what} is not enforced yet"), None);
    };
    match spec {
        Spec::Gateway(gateway) => {
            for (index, server) in gateway.servers.iter().enumerate() {
                let Some(port) = &server.port else { continue };
                let protocol = port.protocol.to_ascii_uppercase();
                if matches!(&*protocol, "HTTPS" | "TLS" | "TCP" | "MONGO" | "REDIS" | "MYSQL") {
                    let server = format!("spec.servers[{index}]");
                    decoder.retract(Code::NOT_ENFORCED, &format!("{server}.tls."));
                    report(decoder, &format!("{server}.port.protocol"), format!("a server with protocol {protocol}"));
                }
            }
        }
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
                let simple = policy.as_ref().and_then(|policy| policy.load_balancer.as_ref()?.simple);
                if simple == Some(SimpleLb::Passthrough) {
                    report(decoder, &format!("{path}.loadBalancer.simple"), "PASSTHROUGH".into());
                }
            }
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
