//! Listeners and clusters as they are now.

use std::collections::HashSet;
use std::fmt::Write;

use http::StatusCode;
use serde_json::{Value, json};
use tidegate_snapshot::Health;

use crate::config::sorted_clusters;
use crate::dump::{address, health_status, locality, socket_address};
use crate::endpoint::{Admin, Parameters, Reply};
use crate::{ClusterStatus, EndpointStatus};

/// Envoy's way to say that there is no limit, which istiod writes into every cluster.
const UNLIMITED: u32 = u32::MAX;

/// Whether `?format=json` is asked for.
fn wants_json(parameters: &Parameters) -> Result<bool, Reply> {
    match parameters.get("format") {
        None | Some("text") => Ok(false),
        Some("json") => Ok(true),
        Some(_) => Err(Reply::bad_request("format must be one of (text, json)\n")),
    }
}

pub(crate) fn listeners(admin: &Admin, parameters: &Parameters) -> Reply {
    let as_json = match wants_json(parameters) {
        Ok(as_json) => as_json,
        Err(reply) => return reply,
    };
    // What is not bound does not listen.
    let listeners: Vec<_> = admin.backend.listeners().into_iter().filter(|one| !one.bound.is_empty()).collect();
    if as_json {
        let statuses: Vec<_> = listeners
            .iter()
            .map(|listener| {
                let mut addresses = listener.bound.iter().map(|at| socket_address(&at.ip().to_string(), at.port()));
                let mut status = json!({ "name": listener.name, "local_address": addresses.next() });
                let more: Vec<_> = addresses.collect();
                if !more.is_empty() {
                    status["additional_local_addresses"] = Value::Array(more);
                }
                status
            })
            .collect();
        return Reply::json(&json!({ "listener_statuses": statuses }));
    }
    let mut out = String::new();
    for listener in &listeners {
        for at in &listener.bound {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "{}::{at}", listener.name);
        }
    }
    Reply::text(StatusCode::OK, out)
}

pub(crate) fn clusters(admin: &Admin, parameters: &Parameters) -> Reply {
    let as_json = match wants_json(parameters) {
        Ok(as_json) => as_json,
        Err(reply) => return reply,
    };
    let clusters = sorted_clusters(admin);
    if as_json {
        let statuses: Vec<_> = clusters.iter().map(cluster_json).collect();
        return Reply::json(&json!({ "cluster_statuses": statuses }));
    }
    let mut out = String::new();
    // Envoy prints a cluster once.
    let mut seen = HashSet::new();
    for cluster in clusters.iter().filter(|cluster| seen.insert(&cluster.name)) {
        cluster_text(cluster, &mut out);
    }
    Reply::text(StatusCode::OK, out)
}

/// The counters and gauges of an endpoint, by name.
fn host_stats(endpoint: &EndpointStatus) -> [(&'static str, Metric, u64); 8] {
    [
        ("cx_active", Metric::Gauge, endpoint.cx_active),
        ("cx_connect_fail", Metric::Counter, endpoint.cx_connect_fail),
        ("cx_total", Metric::Counter, endpoint.cx_total),
        ("rq_active", Metric::Gauge, endpoint.rq_active),
        ("rq_error", Metric::Counter, endpoint.rq_error),
        ("rq_success", Metric::Counter, endpoint.rq_success),
        ("rq_timeout", Metric::Counter, endpoint.rq_timeout),
        ("rq_total", Metric::Counter, endpoint.rq_total),
    ]
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Metric {
    Counter,
    Gauge,
}

/// `name::address::statistic::value` lines, in Envoy's order.
fn cluster_text(cluster: &ClusterStatus, out: &mut String) {
    let name = &cluster.name;
    let mut line = |text: std::fmt::Arguments<'_>| {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{name}::{text}");
    };
    line(format_args!("observability_name::{name}"));
    for priority in ["default", "high"] {
        for limit in ["max_connections", "max_pending_requests", "max_requests", "max_retries"] {
            line(format_args!("{priority}_priority::{limit}::{UNLIMITED}"));
        }
    }
    line(format_args!("added_via_api::true"));
    for endpoint in &cluster.endpoints {
        let at = envoy_address(&endpoint.address);
        for (statistic, _, value) in host_stats(endpoint) {
            line(format_args!("{at}::{statistic}::{value}"));
        }
        let flags = match endpoint.health {
            Health::Healthy => "healthy",
            Health::Unhealthy => "/failed_eds_health",
        };
        line(format_args!("{at}::hostname::{}", endpoint.hostname));
        line(format_args!("{at}::health_flags::{flags}"));
        line(format_args!("{at}::weight::{}", endpoint.weight));
        line(format_args!("{at}::region::{}", endpoint.locality.region));
        line(format_args!("{at}::zone::{}", endpoint.locality.zone));
        line(format_args!("{at}::sub_zone::{}", endpoint.locality.subzone));
        line(format_args!("{at}::canary::false"));
        line(format_args!("{at}::priority::0"));
        // Nothing computes success rates: Envoy says -1 then.
        line(format_args!("{at}::success_rate::-1"));
        line(format_args!("{at}::local_origin_success_rate::-1"));
    }
}

/// Envoy prints a Unix socket's path alone.
fn envoy_address(address: &str) -> &str {
    address.strip_prefix("unix://").unwrap_or(address)
}

/// `envoy.admin.v3.ClusterStatus`; 64-bit numbers are text in protobuf's JSON.
fn cluster_json(cluster: &ClusterStatus) -> Value {
    let thresholds = ["DEFAULT", "HIGH"].map(|priority| {
        json!({
            "priority": priority,
            "max_connections": UNLIMITED,
            "max_pending_requests": UNLIMITED,
            "max_requests": UNLIMITED,
            "max_retries": UNLIMITED,
        })
    });
    let mut status = json!({
        "name": cluster.name,
        "added_via_api": true,
        "circuit_breakers": { "thresholds": thresholds },
        "observability_name": cluster.name,
    });
    let hosts: Vec<_> = cluster.endpoints.iter().map(host_json).collect();
    if !hosts.is_empty() {
        status["host_statuses"] = Value::Array(hosts);
    }
    status
}

fn host_json(endpoint: &EndpointStatus) -> Value {
    let stats: Vec<_> = host_stats(endpoint)
        .into_iter()
        .map(|(name, metric, value)| {
            // The default of the enumeration, and zero, are left out as Envoy leaves them out.
            let mut stat = json!({ "name": name });
            if metric == Metric::Gauge {
                stat["type"] = json!("GAUGE");
            }
            if value > 0 {
                stat["value"] = Value::String(value.to_string());
            }
            stat
        })
        .collect();
    let mut status = json!({
        "address": address(endpoint),
        "stats": stats,
        "health_status": { "eds_health_status": health_status(endpoint.health) },
        "weight": endpoint.weight,
    });
    if !endpoint.hostname.is_empty() {
        status["hostname"] = Value::String(endpoint.hostname.clone());
    }
    if let Some(locality) = locality(&endpoint.locality) {
        status["locality"] = locality;
    }
    status
}
