//! `loadBalancer` of a DestinationRule.

use std::collections::HashSet;

use super::{Report, names};
use crate::networking::{
    ConsistentHashLb, Failover, LoadBalancerSettings, LocalityLoadBalancerSetting, WarmupConfiguration,
    ZoneAwareLoadBalancerSetting,
};

/// Labels that say region, zone and subzone.
const TOPOLOGY_LABELS: &[&str] =
    &["topology.kubernetes.io/region", "topology.kubernetes.io/zone", "topology.istio.io/subzone"];

pub(super) fn check(balancer: &LoadBalancerSettings, has_outlier: bool, path: &str, report: &mut Report<'_>) {
    if let Some(hash) = &balancer.consistent_hash {
        check_hash(hash, &format!("{path}.consistentHash"), report);
    }
    if balancer.locality_lb_setting.is_some() && balancer.zone_aware_lb_setting.is_some() {
        report.error(path, "`localityLbSetting` and `zoneAwareLbSetting` exclude each other");
    }
    if let Some(setting) = &balancer.locality_lb_setting {
        check_locality(setting, has_outlier, &format!("{path}.localityLbSetting"), report);
    }
    if let Some(setting) = &balancer.zone_aware_lb_setting {
        check_zone_aware(setting, has_outlier, &format!("{path}.zoneAwareLbSetting"), report);
    }
    if let Some(duration) = balancer.warmup_duration_secs {
        report.at_least_a_millisecond(&format!("{path}.warmupDurationSecs"), duration);
    }
    if let Some(warmup) = &balancer.warmup {
        check_warmup(warmup, &format!("{path}.warmup"), report);
    }
}

fn check_hash(hash: &ConsistentHashLb, path: &str, report: &mut Report<'_>) {
    if let Some(cookie) = &hash.http_cookie {
        let path = format!("{path}.httpCookie");
        if cookie.name.is_empty() {
            report.error(&path, "a cookie needs a `name`");
        }
        for (index, attribute) in cookie.attributes.iter().enumerate() {
            let path = format!("{path}.attributes[{index}]");
            if attribute.name.is_empty() {
                report.error(&path, "an attribute of a cookie needs a `name`");
            }
        }
        for index in names::repeated(cookie.attributes.iter().map(|attribute| &attribute.name)) {
            let message = format!("the attribute `{}` stands twice", cookie.attributes[index].name);
            report.error(&format!("{path}.attributes[{index}].name"), message);
        }
    }
    if hash.minimum_ring_size != 0 {
        let path = format!("{path}.minimumRingSize");
        report.deprecated(&path, "`minimumRingSize` is deprecated here; use `ringHash.minimumRingSize`");
        if hash.ring_hash.is_some() || hash.maglev.is_some() {
            report.error(&path, "`minimumRingSize` and `ringHash` or `maglev` exclude each other");
        }
    }
    if let Some(maglev) = &hash.maglev {
        let size = maglev.table_size;
        if size >= 5_000_011 || !is_prime(size) {
            let message = format!("{size} is no prime number below 5000011");
            report.error(&format!("{path}.maglev.tableSize"), message);
        }
    }
}

/// For numbers below 5,000,011, which are at most 1,118 divisions. 1 counts as a prime, as in Envoy.
fn is_prime(number: u64) -> bool {
    match number {
        0 => false,
        1..=3 => true,
        _ if number.is_multiple_of(2) => false,
        _ => {
            (3..).step_by(2).take_while(|factor| factor * factor <= number).all(|factor| !number.is_multiple_of(factor))
        }
    }
}

fn check_warmup(warmup: &WarmupConfiguration, path: &str, report: &mut Report<'_>) {
    match warmup.duration {
        Some(duration) => report.duration(&format!("{path}.duration"), Some(duration)),
        None => report.error(path, "`duration` is missing"),
    }
    if let Some(percent) = warmup.minimum_percent {
        report.percent(&format!("{path}.minimumPercent"), percent);
    }
    if let Some(aggression) = warmup.aggression.filter(|aggression| *aggression <= 0.0) {
        report.error(&format!("{path}.aggression"), format!("{aggression} is not above 0"));
    }
}

pub(super) fn check_locality(
    setting: &LocalityLoadBalancerSetting,
    has_outlier: bool,
    path: &str,
    report: &mut Report<'_>,
) {
    if !setting.distribute.is_empty() && !setting.failover.is_empty() {
        report.error(path, "`distribute` and `failover` exclude each other");
        return;
    }
    let is_topology = |label: &&String| TOPOLOGY_LABELS.contains(&label.as_str());
    if !setting.failover.is_empty()
        && let Some(label) = setting.failover_priority.iter().find(is_topology)
    {
        let message = format!("`failover` and the label `{label}` in failoverPriority exclude each other");
        report.error(&format!("{path}.failoverPriority"), message);
        return;
    }
    for (index, distribute) in setting.distribute.iter().enumerate() {
        let path = format!("{path}.distribute[{index}]");
        if distribute.to.values().any(|weight| !(1..=100).contains(weight)) {
            report.error(&format!("{path}.to"), "the weight of a locality is in the range 1-100");
            return;
        }
        let total: u64 = distribute.to.values().map(|weight| u64::from(*weight)).sum();
        if total != 100 {
            report.error(&format!("{path}.to"), format!("the weights sum up to {total}, not to 100"));
            return;
        }
        check_localities(distribute.to.keys(), &format!("{path}.to"), report);
    }
    let sources = setting.distribute.iter().map(|distribute| &distribute.from);
    check_localities(sources, &format!("{path}.distribute"), report);
    warn_without_outlier(&setting.failover, &setting.failover_priority, has_outlier, path, report);
    check_failover(&setting.failover, path, report);
}

fn check_zone_aware(setting: &ZoneAwareLoadBalancerSetting, has_outlier: bool, path: &str, report: &mut Report<'_>) {
    for (index, label) in setting.failover_priority.iter().enumerate() {
        if TOPOLOGY_LABELS.contains(&label.as_str()) {
            let message = format!("`{label}` has no place here: regions and zones are handled by themselves");
            report.error(&format!("{path}.failoverPriority[{index}]"), message);
        }
    }
    if setting.min_cluster_size == Some(0) {
        report.error(&format!("{path}.minClusterSize"), "`minClusterSize` is at least 1");
    }
    warn_without_outlier(&setting.failover, &setting.failover_priority, has_outlier, path, report);
    check_failover(&setting.failover, path, report);
}

fn warn_without_outlier(
    failover: &[Failover],
    priority: &[String],
    has_outlier: bool,
    path: &str,
    report: &mut Report<'_>,
) {
    if !has_outlier && (!failover.is_empty() || !priority.is_empty()) {
        report.warning(path, "failover has an effect only together with `outlierDetection`");
    }
}

fn check_failover(failover: &[Failover], path: &str, report: &mut Report<'_>) {
    for (index, entry) in failover.iter().enumerate() {
        let path = format!("{path}.failover[{index}]");
        if entry.from == entry.to {
            report.error(&path, "a region cannot fail over to itself");
        }
        if entry.from.contains('/') || entry.to.contains('/') {
            report.error(&path, "failover names regions, without zones");
        }
        if entry.from.contains('*') || entry.to.contains('*') {
            report.error(&path, "failover names regions, without wildcards");
        }
    }
}

/// `region/zone/subzone`, the last step may be `*`; none may cover another.
fn check_localities<'l>(localities: impl Iterator<Item = &'l String>, path: &str, report: &mut Report<'_>) {
    // What was named, and everything above it.
    let (mut seen, mut above): (HashSet<Vec<&str>>, HashSet<Vec<&str>>) = Default::default();
    for locality in localities {
        if locality.matches('*').count() > 1 || (locality.contains('*') && !locality.ends_with('*')) {
            report.error(path, format!("`{locality}` has a wildcard that is not at its end"));
            return;
        }
        let mut steps: Vec<&str> = locality.splitn(3, '/').collect();
        if steps.iter().any(|step| step.is_empty()) {
            report.error(path, format!("`{locality}` has an empty region, zone or subzone"));
            return;
        }
        let is_wildcard = steps.last() == Some(&"*");
        if is_wildcard {
            steps.pop();
        }
        // A wildcard after what it covers passes, as in Istio.
        let prefixes = || (0..=steps.len()).map(|length| &steps[..length]);
        if prefixes().any(|prefix| seen.contains(prefix)) || (!is_wildcard && above.contains(&steps)) {
            report.error(path, format!("`{locality}` overlaps with an earlier locality"));
            return;
        }
        above.extend(prefixes().map(<[&str]>::to_vec));
        seen.insert(steps);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn primes_are_envoys() {
        let primes: Vec<u64> = (0..30).filter(|number| is_prime(*number)).collect();
        assert_eq!(primes, [1, 2, 3, 5, 7, 11, 13, 17, 19, 23, 29]);
        assert!(is_prime(65_537) && is_prime(4_999_999) && !is_prime(4_999_997 * 2));
    }
}
