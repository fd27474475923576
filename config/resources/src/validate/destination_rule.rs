//! DestinationRule.

use super::{Report, load_balancer, names, tls};
use crate::networking::{
    ClientTlsSettings, ConnectionPoolSettings, DestinationRule, H2UpgradePolicy, HttpSettings, LoadBalancerSettings,
    OutlierDetection, PortTrafficPolicy, RetryBudget, TcpSettings, TrafficPolicy, TunnelSettings,
};

pub(super) fn check(rule: &DestinationRule, report: &mut Report<'_>) {
    match rule.host.as_str() {
        "" => report.error("spec", "a DestinationRule needs a `host`"),
        host => {
            if let Err(why) = names::wildcard_domain(host) {
                report.error("spec.host", why);
            }
        }
    }
    if let Some(policy) = &rule.traffic_policy {
        check_policy(policy, "spec.trafficPolicy", report);
    }
    for index in names::repeated(rule.subsets.iter().map(|subset| &subset.name)) {
        let message = format!("the subset `{}` stands twice", rule.subsets[index].name);
        report.error(&format!("spec.subsets[{index}].name"), message);
    }
    for (index, subset) in rule.subsets.iter().enumerate() {
        let path = format!("spec.subsets[{index}]");
        if subset.name.is_empty() {
            report.error(&path, "a subset needs a `name`");
        } else if !names::is_dns_label(&subset.name) {
            let message = format!("`{}` is no name of a subset", subset.name);
            report.error_with_help(&format!("{path}.name"), message, names::LABEL_FORM);
        }
        report.labels(&format!("{path}.labels"), &subset.labels);
        if let Some(policy) = &subset.traffic_policy {
            check_policy(policy, &format!("{path}.trafficPolicy"), report);
        }
    }
    report.export_to(&rule.export_to, false, rule.workload_selector.is_some());
    if let Some(selector) = &rule.workload_selector {
        report.selector("spec.workloadSelector.matchLabels", &selector.match_labels);
    }
}

fn check_policy(policy: &TrafficPolicy, path: &str, report: &mut Report<'_>) {
    let TrafficPolicy {
        load_balancer,
        connection_pool,
        outlier_detection,
        tls,
        port_level_settings,
        tunnel,
        proxy_protocol,
        retry_budget,
    } = policy;
    let is_empty = load_balancer.is_none()
        && connection_pool.is_none()
        && outlier_detection.is_none()
        && tls.is_none()
        && port_level_settings.is_empty()
        && tunnel.is_none()
        && proxy_protocol.is_none()
        && retry_budget.is_none();
    if is_empty {
        report.error(path, "a traffic policy needs at least one field");
        return;
    }
    if tunnel.is_some() && proxy_protocol.is_some() {
        report.error(path, "`tunnel` and `proxyProtocol` exclude each other");
        return;
    }
    let blocks = (outlier_detection.as_ref(), connection_pool.as_ref(), load_balancer.as_ref(), tls.as_ref());
    check_blocks(blocks, path, report);
    for (index, settings) in port_level_settings.iter().enumerate() {
        check_port(settings, &format!("{path}.portLevelSettings[{index}]"), report);
    }
    if let Some(tunnel) = tunnel {
        check_tunnel(tunnel, &format!("{path}.tunnel"), report);
    }
    if let Some(budget) = retry_budget {
        check_retry_budget(budget, &format!("{path}.retryBudget"), report);
    }
}

/// The blocks that a policy and the policy of a port have in common.
type Blocks<'a> = (
    Option<&'a OutlierDetection>,
    Option<&'a ConnectionPoolSettings>,
    Option<&'a LoadBalancerSettings>,
    Option<&'a ClientTlsSettings>,
);

fn check_blocks((outlier, pool, balancer, tls): Blocks<'_>, path: &str, report: &mut Report<'_>) {
    if let Some(outlier) = outlier {
        check_outlier(outlier, &format!("{path}.outlierDetection"), report);
    }
    if let Some(pool) = pool {
        check_pool(pool, &format!("{path}.connectionPool"), report);
    }
    if let Some(balancer) = balancer {
        load_balancer::check(balancer, outlier.is_some(), &format!("{path}.loadBalancer"), report);
    }
    if let Some(tls) = tls {
        tls::check_client(tls, &format!("{path}.tls"), report);
    }
}

fn check_port(settings: &PortTrafficPolicy, path: &str, report: &mut Report<'_>) {
    let PortTrafficPolicy { port, load_balancer, connection_pool, outlier_detection, tls } = settings;
    if port.is_none() {
        report.error(path, "the policy of a port needs `port`");
    }
    if load_balancer.is_none() && connection_pool.is_none() && outlier_detection.is_none() && tls.is_none() {
        report.error(path, "the policy of a port needs at least one field beside `port`");
    }
    let blocks = (outlier_detection.as_ref(), connection_pool.as_ref(), load_balancer.as_ref(), tls.as_ref());
    check_blocks(blocks, path, report);
}

fn check_tunnel(tunnel: &TunnelSettings, path: &str, report: &mut Report<'_>) {
    if !matches!(tunnel.protocol.as_str(), "" | "CONNECT" | "POST") {
        report.error(&format!("{path}.protocol"), format!("`{}` is not CONNECT or POST", tunnel.protocol));
    }
    if names::fqdn(&tunnel.target_host).is_err() && !names::is_ip(&tunnel.target_host) {
        let message = format!("`{}` is no host name and no IP address", tunnel.target_host);
        report.error(&format!("{path}.targetHost"), message);
    }
    report.port(&format!("{path}.targetPort"), tunnel.target_port);
}

fn check_retry_budget(budget: &RetryBudget, path: &str, report: &mut Report<'_>) {
    if let Some(percent) = budget.percent {
        report.percent(&format!("{path}.percent"), percent);
    }
}

pub(super) fn check_outlier(outlier: &OutlierDetection, path: &str, report: &mut Report<'_>) {
    report.duration(&format!("{path}.interval"), outlier.interval);
    report.duration(&format!("{path}.baseEjectionTime"), outlier.base_ejection_time);
    if outlier.consecutive_errors != 0 {
        report.deprecated(
            &format!("{path}.consecutiveErrors"),
            "`consecutiveErrors` is deprecated and has no effect; use `consecutive5xxErrors` or \
             `consecutiveGatewayErrors`",
        );
    }
    if !outlier.split_external_local_origin_errors && outlier.consecutive_local_origin_failures.unwrap_or(0) > 0 {
        let message = "`consecutiveLocalOriginFailures` needs `splitExternalLocalOriginErrors: true`";
        report.error(&format!("{path}.consecutiveLocalOriginFailures"), message);
    }
    report.percent(&format!("{path}.maxEjectionPercent"), outlier.max_ejection_percent.into());
    report.percent(&format!("{path}.minHealthPercent"), outlier.min_health_percent.into());
    for (index, status) in outlier.outlier_detection_http_error_codes.iter().enumerate() {
        if !(100..=599).contains(status) {
            let path = format!("{path}.outlierDetectionHttpErrorCodes[{index}]");
            report.error(&path, format!("status {status} is not in the range 100-599"));
        }
    }
}

pub(super) fn check_pool(pool: &ConnectionPoolSettings, path: &str, report: &mut Report<'_>) {
    if pool.http.is_none() && pool.tcp.is_none() {
        report.error(path, "a connection pool needs `tcp`, `http` or both");
    }
    if let Some(http) = &pool.http {
        check_http(http, &format!("{path}.http"), report);
    }
    if let Some(tcp) = &pool.tcp {
        check_tcp(tcp, &format!("{path}.tcp"), report);
    }
}

fn check_http(http: &HttpSettings, path: &str, report: &mut Report<'_>) {
    let numbers = [
        ("http1MaxPendingRequests", http.http1_max_pending_requests),
        ("http2MaxRequests", http.http2_max_requests),
        ("maxRequestsPerConnection", http.max_requests_per_connection),
        ("maxRetries", http.max_retries),
        ("maxConcurrentStreams", http.max_concurrent_streams),
    ];
    for (field, number) in numbers {
        report.not_negative(&format!("{path}.{field}"), number);
    }
    report.duration(&format!("{path}.idleTimeout"), http.idle_timeout);
    if http.h2_upgrade_policy == H2UpgradePolicy::Upgrade && http.use_client_protocol {
        let message = "`useClientProtocol` and h2UpgradePolicy UPGRADE exclude each other";
        report.error(&format!("{path}.useClientProtocol"), message);
    }
    if let Some(keepalive) = &http.http2_keep_alive {
        let path = format!("{path}.http2KeepAlive");
        for (field, duration) in [("interval", keepalive.interval), ("timeout", keepalive.timeout)] {
            match duration {
                Some(_) => report.duration(&format!("{path}.{field}"), duration),
                None => report.error(&path, format!("`{field}` is missing")),
            }
        }
    }
}

fn check_tcp(tcp: &TcpSettings, path: &str, report: &mut Report<'_>) {
    report.not_negative(&format!("{path}.maxConnections"), tcp.max_connections);
    report.duration(&format!("{path}.connectTimeout"), tcp.connect_timeout);
    report.duration(&format!("{path}.maxConnectionDuration"), tcp.max_connection_duration);
    // 0s turns the timeout off.
    report.duration(&format!("{path}.idleTimeout"), tcp.idle_timeout.filter(|timeout| timeout.as_millis() != 0));
    if let Some(keepalive) = &tcp.tcp_keepalive {
        report.duration(&format!("{path}.tcpKeepalive.time"), keepalive.time);
        report.duration(&format!("{path}.tcpKeepalive.interval"), keepalive.interval);
    }
}
