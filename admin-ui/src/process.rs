//! The process itself: its state, its identity, its end.

use std::time::SystemTime;

use http::StatusCode;
use serde_json::{Map, Value, json};
use tidegate_core::{Lifecycle, Phase};

use crate::endpoint::{Admin, Parameters, Reply};

/// Envoy's state: a forced health failure shows as draining, as there.
pub(crate) fn state(lifecycle: &Lifecycle) -> &'static str {
    match lifecycle.phase() {
        Phase::Live if !lifecycle.is_ready() => Phase::Draining.as_str(),
        phase => phase.as_str(),
    }
}

pub(crate) fn ready(admin: &Admin, _: &Parameters) -> Reply {
    let status = if admin.lifecycle.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Reply::text(status, format!("{}\n", state(&admin.lifecycle)))
}

/// `envoy.admin.v3.ServerInfo`.
pub(crate) fn server_info(admin: &Admin, _: &Parameters) -> Reply {
    let node = admin.backend.node();
    let uptime = node.started.and_then(|started| SystemTime::now().duration_since(started).ok()).unwrap_or_default();
    let uptime = format!("{}s", uptime.as_secs());
    let build = if cfg!(debug_assertions) { "DEBUG" } else { "RELEASE" };
    let revision = if node.revision.is_empty() { "unknown" } else { &node.revision };
    Reply::json(&json!({
        "version": format!("{revision}/{}/tidegate/{build}/aws-lc", node.version),
        "state": state(&admin.lifecycle),
        "hot_restart_version": "disabled",
        "command_line_options": {
            "mode": "Serve",
            "service_cluster": crate::dump::service_cluster(&node),
            "service_node": node.id,
        },
        "node": crate::dump::node(&node),
        "uptime_current_epoch": uptime,
        "uptime_all_epochs": uptime,
    }))
}

/// `envoy.admin.v3.Memory`, as far as the kernel knows it. `allocated` is left out: the allocator does not tell. The heap
/// is what of it is in memory: the allocator reserves addresses far beyond.
pub(crate) fn memory(_: &Admin, _: &Parameters) -> Reply {
    let status = match std::fs::read_to_string("/proc/self/status") {
        Ok(status) => status,
        Err(error) => {
            return Reply::text(
                StatusCode::NOT_IMPLEMENTED,
                format!("/proc/self/status, from which memory is read, cannot be read: {error}\n"),
            );
        }
    };
    let mut memory = Map::new();
    for (field, line) in [("heap_size", "RssAnon"), ("total_physical_bytes", "VmRSS")] {
        if let Some(bytes) = status_bytes(&status, line) {
            // Protobuf's JSON writes 64-bit numbers as text.
            memory.insert(field.to_owned(), Value::String(bytes.to_string()));
        }
    }
    Reply::json(&Value::Object(memory))
}

/// The bytes of a line such as `VmRSS:     1234 kB`.
fn status_bytes(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    kilobytes.checked_mul(1024)
}

pub(crate) fn hot_restart_version(_: &Admin, _: &Parameters) -> Reply {
    Reply::text(StatusCode::OK, "disabled")
}

pub(crate) fn healthcheck_fail(admin: &Admin, _: &Parameters) -> Reply {
    tracing::info!("health checks fail from now on, as the admin port was asked");
    admin.lifecycle.force_unhealthy(true);
    Reply::ok()
}

pub(crate) fn healthcheck_ok(admin: &Admin, _: &Parameters) -> Reply {
    tracing::info!("health checks pass again, as the admin port was asked");
    admin.lifecycle.force_unhealthy(false);
    Reply::ok()
}

pub(crate) fn drain_listeners(admin: &Admin, parameters: &Parameters) -> Reply {
    if let Some(name) = parameters.unknown(&["graceful", "skip_exit", "inboundonly"]).next() {
        return Reply::bad_request(format!("unknown parameter {name}; there are graceful, skip_exit, inboundonly\n"));
    }
    let (graceful, skip_exit) = (parameters.has("graceful"), parameters.has("skip_exit"));
    if skip_exit && !graceful {
        return Reply::bad_request("skip_exit requires graceful\n");
    }
    if parameters.has("inboundonly") {
        // Listeners of a gateway are outbound to Envoy and Istio alike, so that is the whole answer.
        tracing::info!("asked to drain inbound listeners: a gateway has none");
        return Reply::ok();
    }
    tracing::info!(graceful, skip_exit, "draining listeners, as the admin port was asked");
    admin.backend.drain(graceful, skip_exit);
    Reply::ok()
}

pub(crate) fn quit(admin: &Admin, _: &Parameters) -> Reply {
    tracing::info!("shutting down, as the admin port was asked");
    admin.backend.quit();
    Reply::ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_from_the_kernel() {
        let status = "Name:\tx\nVmRSS:\t    12 kB\nVmData:\t  3 kB\n";
        assert_eq!(status_bytes(status, "VmRSS"), Some(12 * 1024));
        assert_eq!(status_bytes(status, "VmSwap"), None);
        assert_eq!(status_bytes("VmRSS: x kB", "VmRSS"), None);
    }
}
