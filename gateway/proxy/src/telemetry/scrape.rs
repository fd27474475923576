//! All metrics as one text.

use std::fs;
use std::sync::Weak;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use tidegate_core::Phase;

use super::Metrics;
use super::exposition::{MetricType, family, histogram, labels, sample};
use super::histogram::Distribution;
use super::listener::ParseError;
use super::series::SeriesTotals;
use crate::upstream::ClusterHandle;
use std::sync::Arc;

use MetricType::{Counter, Gauge, Histogram};

const VERSION: &str = env!("CARGO_PKG_VERSION");

impl Metrics {
    /// Appends everything in Prometheus' text format: each family once with HELP and TYPE, samples sorted by labels,
    /// so that two scrapes differ in numbers only. `clusters` are those of the Snapshot that serves.
    pub(crate) fn write_prometheus(&self, clusters: &[Arc<ClusterHandle>], out: &mut String) {
        self.series.sweep(Instant::now());
        self.write_requests(out);
        self.write_config(out);
        self.write_server(out);
        self.write_listeners(out);
        write_clusters(clusters, out);
    }

    fn write_requests(&self, out: &mut String) {
        let series = self.series.collect();
        let name = "istio_requests_total";
        family(out, name, Counter, "Requests that the gateway has handled.");
        for (labels, totals) in &series {
            sample(out, name, labels, totals.duration.count());
        }
        let mut histograms = |name: &str, help: &str, select: fn(&SeriesTotals) -> &Distribution| {
            family(out, name, Histogram, help);
            for (labels, totals) in &series {
                histogram(out, name, labels, select(totals));
            }
        };
        histograms(
            "istio_request_duration_milliseconds",
            "Time from the first byte of a request to the last byte of its response.",
            |totals| &totals.duration,
        );
        histograms("istio_request_bytes", "Size of requests, head and body.", |totals| &totals.request_bytes);
        histograms("istio_response_bytes", "Size of responses, head and body.", |totals| &totals.response_bytes);

        one(out, "tidegate_metrics_series", Gauge, "Label sets that request metrics have.", self.series.len());
        let help = "Requests that are missing in the istio_ metrics because there are too many label sets.";
        one(out, "tidegate_metrics_overflow_total", Counter, help, self.series.overflow());
    }

    fn write_config(&self, out: &mut String) {
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
        family(out, name, Counter, "Readings of the configuration by result.");
        sample(out, name, &labels(&[("result", "failure")]), reloads.failures);
        sample(out, name, &labels(&[("result", "success")]), reloads.successes);
    }

    fn write_server(&self, out: &mut String) {
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

    fn write_listeners(&self, out: &mut String) {
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
        let name = "tidegate_listener_parse_errors_total";
        family(out, name, Counter, "Bytes of clients that were refused before there was a request.");
        for (address, listener) in &listeners {
            for error in ParseError::ALL {
                let reason = labels(&[("reason", error.as_str())]);
                sample(out, name, &format!("{address},{reason}"), listener.parse_errors(error));
            }
        }
    }
}

/// Clusters that were used, as Envoy names their counters. Those that were not would be thousands of zeros.
fn write_clusters(clusters: &[Arc<ClusterHandle>], out: &mut String) {
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

fn one(out: &mut String, name: &str, kind: MetricType, help: &str, value: impl std::fmt::Display) {
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
