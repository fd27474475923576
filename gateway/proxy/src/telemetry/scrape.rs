//! All metrics as one text.

use std::fmt::Write;
use std::fs;
use std::sync::{Arc, Weak};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use tidegate_core::Phase;

use super::Metrics;
use super::exposition::{MetricType, family, histogram, labels, sample};
use super::listener::{ListenerMetrics, ParseError};
use super::series::Series;
use crate::proxy_protocol::ProxyHeaderFailure;
use crate::tls::{HandshakeFailure, Version};
use crate::upstream::{ClusterHandle, DnsStatus};

use MetricType::{Counter, Gauge, Histogram};

const VERSION: &str = env!("CARGO_PKG_VERSION");

impl Metrics {
    /// Appends everything in Prometheus' text format: each family once with HELP and TYPE, samples sorted by labels,
    /// so that two scrapes differ in numbers only. `clusters` are those of the Snapshot that serves.
    ///
    /// A label set takes some 57 KB of text. A sink that passes text on in pieces keeps a scrape of thousands small.
    pub(crate) fn write_prometheus(&self, clusters: &[Arc<ClusterHandle>], out: &mut dyn Write) {
        self.series.sweep(Instant::now());
        self.tcp.sweep(Instant::now());
        self.write_requests(out);
        self.write_tcp(out);
        self.write_config(out);
        self.write_server(out);
        self.write_listeners(out);
        write_clusters(clusters, out);
        write_dns(clusters, out);
    }

    fn write_requests(&self, out: &mut dyn Write) {
        let series = self.series.collect(|key, names| self.labels(key, names));
        let name = "istio_requests_total";
        family(out, name, Counter, "Requests that the gateway has handled.");
        for it in &series {
            sample(out, name, &it.labels, it.sum(|series| &series.duration).count());
        }
        let mut histograms = |name: &str, help: &str, select: fn(&Series) -> &super::histogram::Histogram| {
            family(out, name, Histogram, help);
            for it in &series {
                histogram(out, name, &it.labels, &it.sum(select));
            }
        };
        histograms(
            "istio_request_duration_milliseconds",
            "Time from the first byte of a request to the last byte of its response.",
            |series| &series.duration,
        );
        histograms("istio_request_bytes", "Size of requests, head and body.", |series| &series.request_bytes);
        histograms("istio_response_bytes", "Size of responses, head and body.", |series| &series.response_bytes);

        one(out, "tidegate_metrics_series", Gauge, "Label sets that request metrics have.", self.series.len());
        let help = "Requests that are missing in the istio_ metrics because there are too many label sets.";
        one(out, "tidegate_metrics_overflow_total", Counter, help, self.series.overflow());
    }

    fn write_tcp(&self, out: &mut dyn Write) {
        let series = self.tcp.collect(|flags, names| self.tcp_labels(flags, names));
        for (at, name, help) in [
            (0, "istio_tcp_connections_opened_total", "TCP connections that were opened."),
            (1, "istio_tcp_connections_closed_total", "TCP connections that were closed."),
            (2, "istio_tcp_sent_bytes_total", "Bytes sent to clients over TCP."),
            (3, "istio_tcp_received_bytes_total", "Bytes received from clients over TCP."),
        ] {
            family(out, name, Counter, help);
            for (labels, values) in &series {
                sample(out, name, labels, values[at]);
            }
        }
        let help = "TCP connections that are missing in the istio_tcp_ metrics because there are too many label sets.";
        one(out, "tidegate_tcp_metrics_overflow_total", Counter, help, self.tcp.overflow());
    }

    fn write_config(&self, out: &mut dyn Write) {
        let reloads = *self.reloads.lock();
        if let Some(hash) = reloads.hash {
            family(out, "tidegate_config_info", Gauge, "The configuration that serves, by its content hash.");
            sample(out, "tidegate_config_info", &labels(&[("hash", &hash.to_string())]), 1);
        }
        let help = "Snapshots published since the start.";
        one(out, "tidegate_config_generation", Gauge, help, reloads.generation);
        let help = "Whether the last reading of the configuration was accepted whole.";
        one(out, "tidegate_config_last_reload_successful", Gauge, help, u8::from(!reloads.last_failed));
        if let Some(at) = reloads.last_success {
            let help = "When the configuration was last accepted.";
            one(out, "tidegate_config_last_reload_success_timestamp_seconds", Gauge, help, unix_seconds(at));
        }
        let name = "tidegate_config_reloads_total";
        let help = "Readings of the configuration: success if it serves, failure if something of it was rejected. May be both.";
        family(out, name, Counter, help);
        sample(out, name, &labels(&[("result", "failure")]), reloads.failures);
        sample(out, name, &labels(&[("result", "success")]), reloads.successes);
    }

    fn write_server(&self, out: &mut dyn Write) {
        family(out, "istio_build", Gauge, "Version of the component.");
        sample(out, "istio_build", &labels(&[("component", "proxy"), ("tag", VERSION)]), 1);
        family(out, "tidegate_build_info", Gauge, "Version of Tidegate.");
        sample(out, "tidegate_build_info", &labels(&[("version", VERSION)]), 1);

        let phase = self.lifecycle.phase();
        one(out, "envoy_server_live", Gauge, "Whether the gateway takes requests.", u8::from(phase == Phase::Live));
        let state = match phase {
            Phase::Live => 0,
            Phase::Draining => 1,
            Phase::PreInitializing => 2,
        };
        one(out, "envoy_server_state", Gauge, "0 live, 1 draining, 2 not yet initialized.", state);
        one(out, "envoy_server_uptime", Gauge, "Seconds since the start.", self.started.elapsed().as_secs());
        let help = "Panics that cost a request or a reload, and nothing else. Each is a bug.";
        one(out, "tidegate_panics_total", Counter, help, self.lifecycle.panics());
        let help = "When the process started.";
        one(out, "process_start_time_seconds", Gauge, help, unix_seconds(self.started_at));
        if let Some(memory) = resident_memory() {
            one(out, "envoy_server_memory_allocated", Gauge, "Resident memory in bytes.", memory);
            one(out, "envoy_server_memory_heap_size", Gauge, "Resident memory in bytes.", memory);
            one(out, "process_resident_memory_bytes", Gauge, "Resident memory in bytes.", memory);
        }
        let help = "Access log lines that were handed to the writer.";
        one(out, "tidegate_access_log_lines_total", Counter, help, self.log.queued_so_far());
        let help = "Access log lines that were lost because the log was full, slow or gone.";
        one(out, "tidegate_access_log_dropped_total", Counter, help, self.log.dropped_so_far());
    }

    fn write_listeners(&self, out: &mut dyn Write) {
        let listeners: Vec<_> = self.listeners.lock().values().filter_map(Weak::upgrade).collect();
        let listeners: Vec<_> =
            listeners.iter().map(|listener| (labels(&[("listener_address", &listener.name)]), listener)).collect();
        let name = "envoy_listener_downstream_cx_active";
        family(out, name, Gauge, "Open connections of clients.");
        for (labels, listener) in &listeners {
            sample(out, name, labels, listener.connections_active());
        }
        let name = "envoy_listener_downstream_cx_total";
        family(out, name, Counter, "Accepted connections of clients.");
        for (labels, listener) in &listeners {
            sample(out, name, labels, listener.connections_total());
        }
        let name = "envoy_listener_downstream_cx_overflow";
        family(out, name, Counter, "Connections of clients that were closed at once because of a limit.");
        for (labels, listener) in &listeners {
            sample(out, name, labels, listener.connections_refused());
        }
        let name = "envoy_listener_http_downstream_rq";
        family(out, name, Counter, "Requests of clients.");
        for (labels, listener) in &listeners {
            sample(out, name, labels, listener.requests().iter().sum::<u64>());
        }
        let name = "envoy_listener_http_downstream_rq_xx";
        family(out, name, Counter, "Requests of clients by class of the response's status; 0 for none.");
        for (address, listener) in &listeners {
            for (class, count) in listener.requests().into_iter().enumerate() {
                let class = labels(&[("response_code_class", &class.to_string())]);
                sample(out, name, &format!("{address},{class}"), count);
            }
        }
        Self::write_handshakes(&listeners, out);
        let name = "tidegate_listener_parse_errors_total";
        family(out, name, Counter, "Bytes of clients that were refused before there was a request.");
        for (address, listener) in &listeners {
            for error in ParseError::ALL {
                let reason = labels(&[("reason", error.as_str())]);
                sample(out, name, &format!("{address},{reason}"), listener.parse_errors(error));
            }
        }
    }

    /// Of listeners that have some: others would be dozens of zeros each. `all` come with their labels.
    fn write_handshakes(all: &[(String, &Arc<ListenerMetrics>)], out: &mut dyn Write) {
        let listeners: Vec<_> = all.iter().filter(|(_, listener)| listener.is_tls()).cloned().collect();
        let name = "tidegate_tls_handshakes_total";
        family(out, name, Counter, "TLS handshakes with clients, by version and whether a session was resumed.");
        for (address, listener) in &listeners {
            for version in Version::ALL {
                for (resumed, count) in ["false", "true"].into_iter().zip(listener.handshakes(version)) {
                    let more = labels(&[("version", version.as_str()), ("resumed", resumed)]);
                    sample(out, name, &format!("{address},{more}"), count);
                }
            }
        }
        let name = "tidegate_tls_handshake_failures_total";
        family(out, name, Counter, "Connections of clients that ended before their TLS handshake was done.");
        for (address, listener) in &listeners {
            for failure in HandshakeFailure::ALL {
                let reason = labels(&[("reason", failure.as_str())]);
                sample(out, name, &format!("{address},{reason}"), listener.handshake_failures(failure));
            }
        }
        write_ssl(&listeners, out);
        let name = "tidegate_proxy_protocol_failures_total";
        family(out, name, Counter, "Connections that were closed because they did not begin with a PROXY header.");
        for (address, listener) in all.iter().filter(|(_, listener)| listener.wants_proxy_header()) {
            for failure in ProxyHeaderFailure::ALL {
                let reason = labels(&[("reason", failure.as_str())]);
                sample(out, name, &format!("{address},{reason}"), listener.proxy_header_failures(failure));
            }
        }
    }
}

/// Clusters that were used, as Envoy names their counters. Those that were not would be thousands of zeros.
/// What Envoy counts of TLS, by its names. `listeners` come with their labels.
fn write_ssl(listeners: &[(String, &Arc<ListenerMetrics>)], out: &mut dyn Write) {
    use HandshakeFailure as Failure;
    let failures = |listener: &ListenerMetrics, of: &[Failure]| -> u64 {
        of.iter().map(|failure| listener.handshake_failures(*failure)).sum()
    };
    let handshakes = |listener: &ListenerMetrics| Version::ALL.map(|version| listener.handshakes(version));
    let mut write = |name: &str, help: &str, count: &dyn Fn(&ListenerMetrics) -> u64| {
        family(out, name, Counter, help);
        for (labels, listener) in listeners {
            sample(out, name, labels, count(listener));
        }
    };
    write("envoy_listener_ssl_handshake", "TLS handshakes with clients that succeeded.", &|it| {
        handshakes(it).as_flattened().iter().sum()
    });
    write("envoy_listener_ssl_session_reused", "Those of them that resumed a session.", &|it| {
        handshakes(it).iter().map(|[_, resumed]| resumed).sum()
    });
    write(
        "envoy_listener_ssl_connection_error",
        "TLS handshakes that failed for reasons other than certificates.",
        &|it| {
            let of = [Failure::Malformed, Failure::TooLarge, Failure::Version, Failure::NothingInCommon, Failure::Alpn];
            failures(it, &of) + failures(it, &[Failure::RefusedByClient, Failure::Other])
        },
    );
    write("envoy_listener_ssl_fail_verify_no_cert", "Clients that showed no certificate and must.", &|it| {
        failures(it, &[Failure::CertificateMissing])
    });
    write("envoy_listener_ssl_fail_verify_error", "Clients whose certificate is not valid or not trusted.", &|it| {
        let of = [Failure::CertificateExpired, Failure::CertificateRevoked, Failure::CertificateUntrusted];
        failures(it, &of) + failures(it, &[Failure::CertificateInvalid])
    });
    write("envoy_listener_ssl_fail_verify_san", "Clients whose certificate is not one that is admitted.", &|it| {
        failures(it, &[Failure::CertificateNotAdmitted])
    });
    write("envoy_listener_no_filter_chain_match", "Connections that were for none of the listener's servers.", &|it| {
        failures(it, &[Failure::NoFilterChain])
    });
}

fn write_clusters(clusters: &[Arc<ClusterHandle>], out: &mut dyn Write) {
    let mut used: Vec<_> = clusters
        .iter()
        .map(|cluster| (cluster, cluster.totals()))
        .filter(|(_, totals)| totals.rq_total > 0 || totals.cx_total > 0)
        .map(|(cluster, totals)| (labels(&[("cluster_name", cluster.name())]), cluster, totals))
        .collect();
    used.sort_by(|a, b| a.0.cmp(&b.0));
    let mut all = |name: &str,
                   kind: MetricType,
                   help: &str,
                   value: &dyn Fn(&ClusterHandle, &crate::upstream::ClusterTotals) -> u64| {
        family(out, name, kind, help);
        for (labels, cluster, totals) in &used {
            sample(out, name, labels, value(cluster, totals));
        }
    };
    let prefix = "envoy_cluster_upstream";
    all(&format!("{prefix}_cx_active"), Gauge, "Open connections to the cluster.", &|_, it| it.cx_active);
    all(&format!("{prefix}_cx_total"), Counter, "Connections to the cluster.", &|_, it| it.cx_total);
    let help = "Connections to the cluster that failed.";
    all(&format!("{prefix}_cx_connect_fail"), Counter, help, &|_, it| it.cx_connect_fail);
    all(&format!("{prefix}_rq_active"), Gauge, "Requests under way to the cluster.", &|_, it| it.rq_active);
    all(&format!("{prefix}_rq_total"), Counter, "Requests to the cluster.", &|_, it| it.rq_total);
    all(&format!("{prefix}_rq_timeout"), Counter, "Requests that were not answered in time.", &|_, it| it.rq_timeout);
    let help = "Endpoints of the cluster that may be chosen.";
    all("envoy_cluster_membership_healthy", Gauge, help, &|cluster, _| cluster.healthy_hosts() as u64);
}

/// Name resolution of the clusters that have names.
fn write_dns(clusters: &[Arc<ClusterHandle>], out: &mut dyn Write) {
    let mut all: Vec<_> = clusters
        .iter()
        .filter_map(|cluster| Some((labels(&[("cluster_name", cluster.name())]), cluster.dns_status()?)))
        .collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    let mut counter = |name: &str, help: &str, value: fn(&DnsStatus) -> u64| {
        family(out, name, Counter, help);
        for (labels, status) in &all {
            sample(out, name, labels, value(status));
        }
    };
    counter("envoy_cluster_update_attempt", "DNS queries of the cluster.", |it| it.attempts);
    counter("envoy_cluster_update_success", "DNS queries that gave addresses.", |it| it.successes);
    counter("envoy_cluster_update_empty", "DNS queries that gave no address of the family.", |it| it.empty);
    counter("envoy_cluster_update_failure", "DNS queries that failed.", |it| it.failures);
}

fn one(out: &mut dyn Write, name: &str, kind: MetricType, help: &str, value: impl std::fmt::Display) {
    family(out, name, kind, help);
    sample(out, name, "", value);
}

fn unix_seconds(at: SystemTime) -> f64 {
    // A clock before 1970 is shown as 1970.
    at.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_millis() as f64 / 1000.0)
}

/// In bytes; none where the system does not tell.
fn resident_memory() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let kibibytes = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(kibibytes.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::thread;
    use std::time::Duration;

    use tidegate_core::Lifecycle;
    use tidegate_snapshot::{DestinationService, Snapshot, Workload};

    use super::*;
    use crate::NodeInfo;
    use crate::telemetry::{Destination, GrpcStatus, RequestOutcome, RequestProtocol, ResponseFlags};

    fn metrics() -> Metrics {
        let labels = [("istio", "ingressgateway"), ("app", "istio-ingressgateway"), ("version", "v1")];
        let node = NodeInfo {
            name: "istio-ingressgateway".into(),
            namespace: "istio-system".into(),
            labels: labels.map(|(name, value)| (name.into(), value.into())).into(),
            ..NodeInfo::default()
        };
        Metrics::new(&node, Lifecycle::default())
    }

    fn service(name: &str) -> DestinationService {
        let host = format!("{name}.default.svc.cluster.local");
        DestinationService { host, name: name.into(), namespace: "default".into() }
    }

    fn reviews(metrics: &Metrics) -> Arc<Destination> {
        let workload = Workload {
            name: "reviews-v2".into(),
            namespace: "default".into(),
            app: "reviews".into(),
            version: "v2".into(),
            canonical_service: "reviews".into(),
            canonical_revision: "v2".into(),
            cluster: "Kubernetes".into(),
        };
        metrics.destinations().intern(&service("reviews"), &workload)
    }

    fn outcome(destination: &Arc<Destination>) -> RequestOutcome<'_> {
        RequestOutcome {
            destination,
            code: 200,
            flags: ResponseFlags::NONE,
            protocol: RequestProtocol::Http,
            duration: Duration::from_micros(7250),
            request_bytes: 600,
            response_bytes: 1000,
        }
    }

    fn scrape(metrics: &Metrics) -> String {
        let mut out = String::new();
        metrics.write_prometheus(&[], &mut out);
        out
    }

    /// Checks what promtool checks, and that histograms add up; gives all samples by name and labels.
    fn parse(text: &str) -> BTreeMap<String, f64> {
        let (mut samples, mut families) = (BTreeMap::new(), BTreeSet::new());
        let (mut helped, mut family, mut kind) = (String::new(), String::new(), String::new());
        assert!(text.ends_with('\n'));
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                helped = rest.split_once(' ').unwrap().0.to_owned();
                assert!(families.insert(helped.clone()), "{helped} comes twice");
                continue;
            }
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, of) = rest.split_once(' ').unwrap();
                assert_eq!(name, helped, "TYPE follows its HELP");
                (family, kind) = (name.to_owned(), of.to_owned());
                continue;
            }
            let (series, value) = line.rsplit_once(' ').unwrap();
            let name = series.split('{').next().unwrap();
            let base = match kind.as_str() {
                "histogram" => ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap(),
                _ => name,
            };
            assert_eq!(base, family, "samples stand with their family");
            assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'), "{name}");
            if let Some(labels) = series.strip_prefix(name).and_then(|it| it.strip_prefix('{')) {
                check_labels(labels.strip_suffix('}').unwrap());
            }
            assert!(samples.insert(series.to_owned(), value.parse().unwrap()).is_none(), "{series} comes twice");
        }
        check_histograms(text, &samples);
        samples
    }

    fn check_labels(mut rest: &str) {
        let mut names = BTreeSet::new();
        while !rest.is_empty() {
            let (name, after) = rest.split_once("=\"").unwrap();
            assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'), "{name}");
            assert!(names.insert(name), "label {name} comes twice");
            let mut escaped = false;
            let end = after.find(|c| {
                let ends = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                ends
            });
            rest = &after[end.unwrap() + 1..];
            rest = rest.strip_prefix(',').unwrap_or(rest);
        }
    }

    fn check_histograms(text: &str, samples: &BTreeMap<String, f64>) {
        let mut last = (String::new(), 0.0, f64::NEG_INFINITY);
        for line in text.lines().filter(|line| line.contains("le=\"")) {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let (labels, bound) = series.rsplit_once(",le=\"").unwrap();
            let bound: f64 = bound.trim_end_matches("\"}").parse().unwrap();
            let value: f64 = value.parse().unwrap();
            if last.0 == labels {
                assert!(bound > last.2 && value >= last.1, "{line}");
            }
            if bound.is_infinite() {
                let count = format!("{}}}", labels.replacen("_bucket{", "_count{", 1));
                assert_eq!(samples[&count], value, "{line}");
            }
            last = (labels.to_owned(), value, bound);
        }
    }

    const REVIEWS: &str = "reporter=\"source\",source_workload=\"istio-ingressgateway\",\
        source_canonical_service=\"istio-ingressgateway\",source_canonical_revision=\"v1\",\
        source_workload_namespace=\"istio-system\",source_principal=\"unknown\",\
        source_app=\"istio-ingressgateway\",source_version=\"v1\",source_cluster=\"Kubernetes\",\
        destination_workload=\"reviews-v2\",destination_workload_namespace=\"default\",\
        destination_principal=\"unknown\",destination_app=\"reviews\",destination_version=\"v2\",\
        destination_service=\"reviews.default.svc.cluster.local\",destination_canonical_service=\"reviews\",\
        destination_canonical_revision=\"v2\",destination_service_name=\"reviews\",\
        destination_service_namespace=\"default\",destination_cluster=\"Kubernetes\",";

    #[test]
    fn labels_are_istios_in_istios_order() {
        let metrics = metrics();
        let reviews = reviews(&metrics);
        metrics.record(&outcome(&reviews));
        let grpc = RequestProtocol::Grpc(Some(GrpcStatus::from_header(b"14")));
        let flags = ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED | ResponseFlags::UPSTREAM_CONNECTION_FAILURE;
        metrics.record(&RequestOutcome { protocol: grpc, flags, ..outcome(&reviews) });
        metrics.record(&RequestOutcome { protocol: RequestProtocol::Grpc(None), code: 0, ..outcome(&reviews) });
        let samples = parse(&scrape(&metrics));
        for rest in [
            r#"request_protocol="http",response_code="200",grpc_response_status="",response_flags="-""#,
            r#"request_protocol="grpc",response_code="200",grpc_response_status="14",response_flags="URX,UF""#,
            r#"request_protocol="grpc",response_code="0",grpc_response_status="",response_flags="-""#,
        ] {
            let labels = format!("{REVIEWS}{rest},connection_security_policy=\"unknown\"");
            assert_eq!(samples[&format!("istio_requests_total{{{labels}}}")], 1.0);
            for (name, sum) in
                [("request_duration_milliseconds", 7.25), ("request_bytes", 600.0), ("response_bytes", 1000.0)]
            {
                assert_eq!(samples[&format!("istio_{name}_sum{{{labels}}}")], sum);
                assert_eq!(samples[&format!("istio_{name}_count{{{labels}}}")], 1.0);
            }
            let bucket = |name: &str, bound: &str| samples[&format!("istio_{name}_bucket{{{labels},le=\"{bound}\"}}")];
            assert_eq!((bucket("request_duration_milliseconds", "5"), bucket("response_bytes", "500")), (0.0, 0.0));
            assert_eq!((bucket("request_duration_milliseconds", "10"), bucket("response_bytes", "1000")), (1.0, 1.0));
        }
    }

    #[test]
    fn buckets_have_envoys_bounds() {
        let metrics = metrics();
        metrics.record(&outcome(&reviews(&metrics)));
        let text = scrape(&metrics);
        let bounds: Vec<&str> = text
            .lines()
            .filter(|line| line.starts_with("istio_request_bytes_bucket"))
            .map(|line| line.rsplit_once("le=\"").unwrap().1.split('"').next().unwrap())
            .collect();
        let expected =
            "0.5 1 5 10 25 50 100 250 500 1000 2500 5000 10000 30000 60000 300000 600000 1800000 3600000 +Inf";
        assert_eq!(bounds.join(" "), expected);
    }

    #[test]
    fn requests_without_a_destination_name_none() {
        let metrics = metrics();
        let unknown = metrics.unknown_destination().clone();
        metrics.record(&RequestOutcome { code: 404, flags: ResponseFlags::NO_ROUTE_FOUND, ..outcome(&unknown) });
        let text = scrape(&metrics);
        let line = text.lines().find(|line| line.starts_with("istio_requests_total{")).unwrap();
        for label in ["workload", "service", "service_name", "service_namespace", "canonical_service", "cluster"] {
            assert!(line.contains(&format!("destination_{label}=\"unknown\"")), "{line}");
        }
        assert!(line.contains("response_flags=\"NR\""));
    }

    #[test]
    fn values_cannot_end_their_label() {
        let metrics = metrics();
        let odd = metrics.destinations().intern(&service("a\"} 1\n# \\"), &Workload::default());
        metrics.record(&outcome(&odd));
        let samples = parse(&scrape(&metrics));
        let series = samples.keys().find(|name| name.starts_with("istio_requests_total{")).unwrap();
        assert!(series.contains(r#"destination_service_name="a\"} 1\n# \\","#), "{series}");
    }

    #[test]
    fn a_scrape_names_the_process_its_configuration_and_its_listeners() {
        let metrics = metrics();
        let hash = Snapshot::empty().hash();
        metrics.config_published(hash);
        metrics.config_rejected();
        metrics.lifecycle.advance(Phase::Live);
        let listener = metrics.listener("0.0.0.0_80");
        let _open = listener.connection_opened();
        drop(listener.connection_opened());
        listener.connection_refused();
        listener.parse_error(ParseError::TooLarge);
        [200, 204, 503, 0].into_iter().for_each(|code| listener.request_finished(code));
        let text = scrape(&metrics);
        let samples = parse(&text);
        let value = |series: &str| *samples.get(series).unwrap_or_else(|| panic!("{series} in {text}"));
        let listener = r#"listener_address="0.0.0.0_80""#;
        for (series, expected) in [
            (format!("istio_build{{component=\"proxy\",tag=\"{VERSION}\"}}"), 1.0),
            (format!("tidegate_build_info{{version=\"{VERSION}\"}}"), 1.0),
            (format!("tidegate_config_info{{hash=\"{hash}\"}}"), 1.0),
            ("tidegate_config_generation".into(), 1.0),
            ("tidegate_config_last_reload_successful".into(), 0.0),
            ("tidegate_config_reloads_total{result=\"failure\"}".into(), 1.0),
            ("tidegate_config_reloads_total{result=\"success\"}".into(), 1.0),
            ("envoy_server_live".into(), 1.0),
            (format!("envoy_listener_downstream_cx_active{{{listener}}}"), 1.0),
            (format!("envoy_listener_downstream_cx_total{{{listener}}}"), 2.0),
            (format!("envoy_listener_downstream_cx_overflow{{{listener}}}"), 1.0),
            (format!("envoy_listener_http_downstream_rq{{{listener}}}"), 4.0),
            (format!("envoy_listener_http_downstream_rq_xx{{{listener},response_code_class=\"2\"}}"), 2.0),
            (format!("tidegate_listener_parse_errors_total{{{listener},reason=\"too_large\"}}"), 1.0),
            ("tidegate_access_log_dropped_total".into(), 0.0),
        ] {
            assert_eq!(value(&series), expected, "{series}");
        }
        assert!(value("tidegate_config_last_reload_success_timestamp_seconds") > 1.7e9);
        assert!(value("envoy_server_memory_allocated") > 1e6);
        metrics.config_unchanged();
        assert!(scrape(&metrics).contains("\ntidegate_config_last_reload_successful 1\n"));
    }

    #[test]
    fn listeners_have_the_series_that_they_can_have() {
        let metrics = metrics();
        let listener = metrics.listener("0.0.0.0_80");
        let shows = |name: &str| scrape(&metrics).contains(&format!("\n{name}{{listener_address=\"0.0.0.0_80\""));
        let tls =
            ["tidegate_tls_handshakes_total", "tidegate_tls_handshake_failures_total", "envoy_listener_ssl_handshake"];
        let proxy = "tidegate_proxy_protocol_failures_total";
        assert!(!tls.iter().any(|name| shows(name)) && !shows(proxy));
        listener.show_proxy_headers();
        assert!(!tls.iter().any(|name| shows(name)) && shows(proxy));
        listener.handshake_failed(HandshakeFailure::Overflow);
        assert!(tls.iter().all(|name| shows(name)), "turned away");
        let other = metrics.listener("0.0.0.0_443");
        other.show_tls();
        let shown = "\ntidegate_tls_handshakes_total{listener_address=\"0.0.0.0_443\"";
        assert!(scrape(&metrics).contains(shown));
    }

    #[tokio::test]
    async fn clusters_that_were_used_and_names_that_are_resolved_are_counted() {
        use crate::upstream::testing::{cluster, endpoint, snapshot, target};
        use crate::upstream::{ClusterRegistry, ConnectionOrigin, DnsOptions};
        use tidegate_snapshot::{Discovery, LoadBalancing};

        let metrics = metrics();
        let control = tokio::runtime::Handle::current();
        let registry = ClusterRegistry::new(metrics.destinations().clone(), DnsOptions::default(), control);
        let fixed = |name, port| cluster(name, LoadBalancing::Random, Discovery::Static(vec![endpoint(port, 1)]));
        let named = cluster("named", LoadBalancing::Random, Discovery::Dns(vec![target("127.0.0.1", 80)]));
        let clusters = registry.prepare(&snapshot(vec![fixed("used", 1), fixed("idle", 2), named]));
        let host = clusters[0].pick(&[]).unwrap();
        host.connected(ConnectionOrigin::New);
        let _open = host.connection_opened();
        let mut text = String::new();
        metrics.write_prometheus(&clusters, &mut text);
        let samples = parse(&text);
        for (name, value) in [("cx_active", 1.0), ("cx_total", 1.0), ("rq_active", 1.0), ("rq_total", 1.0)] {
            assert_eq!(samples[&format!("envoy_cluster_upstream_{name}{{cluster_name=\"used\"}}")], value);
        }
        assert_eq!(samples["envoy_cluster_membership_healthy{cluster_name=\"used\"}"], 1.0);
        assert_eq!(samples["envoy_cluster_update_attempt{cluster_name=\"named\"}"], 0.0);
        assert!(!text.contains("\"idle\""));
    }

    #[test]
    fn threads_sum_up_and_nothing_is_lost() {
        let metrics = metrics();
        let services: Vec<_> =
            (0..4).map(|n| metrics.destinations().intern(&service(&n.to_string()), &Workload::default())).collect();
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for number in 0..20_000 {
                        metrics.record(&outcome(&services[number % services.len()]));
                        if number % 5000 == 0 {
                            parse(&scrape(&metrics));
                        }
                    }
                });
            }
        });
        let samples = parse(&scrape(&metrics));
        let counts: Vec<f64> = samples
            .iter()
            .filter(|(name, _)| name.starts_with("istio_requests_total{"))
            .map(|(_, count)| *count)
            .collect();
        assert_eq!(counts, [20_000.0; 4]);
        assert_eq!(samples["tidegate_metrics_series"], 4.0);
    }

    #[test]
    fn two_gateways_in_one_process_count_apart() {
        let (a, b) = (metrics(), metrics());
        for _ in 0..3 {
            a.record(&outcome(&reviews(&a)));
            b.record(&outcome(&reviews(&b)));
        }
        for metrics in [&a, &b] {
            let samples = parse(&scrape(metrics));
            let (_, count) = samples.iter().find(|(name, _)| name.starts_with("istio_requests_total{")).unwrap();
            assert_eq!(*count, 3.0);
        }
    }
}
