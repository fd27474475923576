//! MeshConfig: what a gateway reads of it.

use super::{Report, destination_rule, http_route, load_balancer, names, tls};
use crate::duration::Duration;
use crate::mesh::MeshConfig;

pub(super) fn check(mesh: &MeshConfig, report: &mut Report<'_>) {
    report.duration("connectTimeout", mesh.connect_timeout);
    if mesh.connect_timeout.is_some_and(|timeout| timeout > Duration::from_secs(3600)) {
        report.error("connectTimeout", "a connect timeout has one hour at most");
    }
    report.duration("dnsRefreshRate", mesh.dns_refresh_rate);
    if let Some(proxy) = &mesh.default_config {
        for (field, duration) in
            [("drainDuration", proxy.drain_duration), ("terminationDrainDuration", proxy.termination_drain_duration)]
        {
            if duration.is_some_and(|duration| duration.subsec_nanos() != 0) {
                report.error(&format!("defaultConfig.{field}"), "this duration counts whole seconds");
            }
        }
    }
    if !mesh.root_namespace.is_empty() && !names::is_dns_label(&mesh.root_namespace) {
        report.error("rootNamespace", format!("`{}` is no namespace", mesh.root_namespace));
    }
    if !mesh.trust_domain.is_empty()
        && let Err(why) = names::fqdn(&mesh.trust_domain)
    {
        report.error("trustDomain", why);
    }
    for (field, entries) in [
        ("defaultServiceExportTo", &mesh.default_service_export_to),
        ("defaultVirtualServiceExportTo", &mesh.default_virtual_service_export_to),
        ("defaultDestinationRuleExportTo", &mesh.default_destination_rule_export_to),
    ] {
        for (index, entry) in entries.iter().enumerate() {
            if !matches!(entry.as_str(), "." | "*" | "~") && !names::is_dns_label(entry) {
                report.error(&format!("{field}[{index}]"), format!("`{entry}` is not `.`, `*`, `~` or a namespace"));
            }
        }
    }
    for (field, retries) in [
        ("defaultHttpRetryPolicy", &mesh.default_http_retry_policy),
        ("defaultInboundHttpRetryPolicy", &mesh.default_inbound_http_retry_policy),
    ] {
        if let Some(retries) = retries {
            http_route::check_retries(retries, field, report);
        }
    }
    if let Some(tls) = &mesh.tls_defaults {
        tls::check_suites_and_curves(&tls.cipher_suites, &tls.ecdh_curves, "tlsDefaults", report);
    }
    if let Some(setting) = &mesh.locality_lb_setting {
        load_balancer::check_locality(setting, true, "localityLbSetting", report);
    }
    if let Some(policy) = &mesh.default_traffic_policy {
        if let Some(pool) = &policy.connection_pool {
            destination_rule::check_pool(pool, "defaultTrafficPolicy.connectionPool", report);
        }
        if let Some(outlier) = &policy.outlier_detection {
            destination_rule::check_outlier(outlier, "defaultTrafficPolicy.outlierDetection", report);
        }
    }
}
