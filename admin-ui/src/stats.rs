//! Statistics: Prometheus' text as the backend writes it, and Envoy's `name: value` lines over the same numbers.

use std::collections::HashMap;
use std::fmt::Write;
use std::time::SystemTime;

use http::StatusCode;
use serde_json::{Value, json};
use tidegate_core::Phase;
use tidegate_snapshot::{Health, Pattern};

use crate::endpoint::{Admin, PROMETHEUS, Parameters, Reply};

pub(crate) fn prometheus(admin: &Admin, parameters: &Parameters) -> Reply {
    let filter = match filter(parameters) {
        Ok(filter) => filter,
        Err(reply) => return reply,
    };
    let used_only = parameters.has("usedonly");
    if filter.is_none() && !used_only {
        let backend = admin.backend.clone();
        return Reply::streamed(PROMETHEUS, Box::new(move |out| backend.write_metrics(out)));
    }
    let mut text = String::new();
    admin.backend.write_metrics(&mut text);
    Reply::new(StatusCode::OK, PROMETHEUS, filtered(&text, filter.as_ref(), used_only))
}

pub(crate) fn stats(admin: &Admin, parameters: &Parameters) -> Reply {
    let as_json = match parameters.get("format") {
        None | Some("text") => false,
        Some("json") => true,
        Some("prometheus") => return prometheus(admin, parameters),
        Some(_) => return Reply::bad_request("usage: /stats?format=(text|json|prometheus)\n\n"),
    };
    let filter = match filter(parameters) {
        Ok(filter) => filter,
        Err(reply) => return reply,
    };
    let mut text = String::new();
    admin.backend.write_metrics(&mut text);
    let mut lines = own(admin);
    lines.extend(samples(&text).map(|sample| (sample.series.to_owned(), sample.value.to_owned())));
    let used_only = parameters.has("usedonly");
    lines.retain(|(name, value)| {
        filter.as_ref().is_none_or(|filter| filter.is_match(name.as_bytes())) && !(used_only && is_zero(value))
    });
    lines.sort();
    if as_json {
        let stats: Vec<_> = lines.iter().map(|(name, value)| json!({ "name": name, "value": number(value) })).collect();
        return Reply::json(&json!({ "stats": stats }));
    }
    let mut out = String::new();
    for (name, value) in lines {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{name}: {value}");
    }
    Reply::text(StatusCode::OK, out)
}

/// `?filter=`: a search anywhere in the name, as Envoy does it.
fn filter(parameters: &Parameters) -> Result<Option<Pattern>, Reply> {
    let filter = parameters.get("filter").filter(|filter| !filter.is_empty());
    filter
        .map(Pattern::search)
        .transpose()
        .map_err(|error| Reply::bad_request(format!("Invalid re2 regex: \"{error}\"\n")))
}

/// Statistics that scripts know by Envoy's own names.
fn own(admin: &Admin) -> Vec<(String, String)> {
    let phase = admin.lifecycle.phase();
    // The numbers of envoy.admin.v3.ServerInfo.State.
    let state = match phase {
        Phase::Live if admin.lifecycle.is_ready() => 0,
        Phase::Live | Phase::Draining => 1,
        Phase::PreInitializing => 2,
    };
    let started = admin.backend.node().started;
    let uptime = started.and_then(|at| SystemTime::now().duration_since(at).ok()).unwrap_or_default().as_secs();
    let listeners = admin.backend.listeners();
    let clusters = admin.backend.clusters();
    let mut lines = Vec::with_capacity(clusters.len() * 8 + listeners.len() * 2 + 6);
    let mut line = |name: String, value: u64| lines.push((name, value.to_string()));
    let bound = listeners.iter().filter(|listener| !listener.bound.is_empty());
    line("server.state".into(), state);
    line("server.live".into(), u64::from(state == 0));
    line("server.uptime".into(), uptime);
    line("listener_manager.workers_started".into(), u64::from(phase != Phase::PreInitializing));
    line("listener_manager.total_listeners_active".into(), bound.count() as u64);
    line("cluster_manager.active_clusters".into(), clusters.len() as u64);
    for listener in &listeners {
        line(format!("listener.{}.downstream_cx_active", listener.name), listener.connections_active);
        line(format!("listener.{}.downstream_cx_total", listener.name), listener.connections_total);
    }
    for cluster in &clusters {
        let healthy = cluster.endpoints.iter().filter(|endpoint| endpoint.health == Health::Healthy).count();
        let sum = |of: fn(&crate::EndpointStatus) -> u64| cluster.endpoints.iter().map(of).fold(0, u64::saturating_add);
        for (name, value) in [
            ("membership_healthy", healthy as u64),
            ("membership_total", cluster.endpoints.len() as u64),
            ("upstream_cx_active", sum(|endpoint| endpoint.cx_active)),
            ("upstream_cx_connect_fail", sum(|endpoint| endpoint.cx_connect_fail)),
            ("upstream_cx_total", sum(|endpoint| endpoint.cx_total)),
            ("upstream_rq_active", sum(|endpoint| endpoint.rq_active)),
            ("upstream_rq_timeout", sum(|endpoint| endpoint.rq_timeout)),
            ("upstream_rq_total", sum(|endpoint| endpoint.rq_total)),
        ] {
            line(format!("cluster.{}.{name}", cluster.name), value);
        }
    }
    lines
}

/// One line of Prometheus' text format.
struct Sample<'a> {
    /// Name with labels.
    series: &'a str,
    value: &'a str,
}

fn samples(text: &str) -> impl Iterator<Item = Sample<'_>> {
    text.lines().filter_map(sample)
}

/// None for comments, empty lines, and what is no sample. A time after the value is cut off.
fn sample(line: &str) -> Option<Sample<'_>> {
    if line.starts_with('#') {
        return None;
    }
    // A label's value may hold spaces and braces; outside of labels there are none before the value.
    let end = match line.find('{') {
        Some(open) => open + 1 + end_of_labels(&line[open + 1..])?,
        None => line.find(' ')?,
    };
    let (series, rest) = line.split_at(end);
    Some(Sample { series, value: rest.split_ascii_whitespace().next()? })
}

/// Length of labels up to and with the closing brace.
fn end_of_labels(labels: &str) -> Option<usize> {
    let mut quoted = false;
    let mut escaped = false;
    for (at, byte) in labels.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'}' if !quoted => return Some(at + 1),
            _ => {}
        }
    }
    None
}

/// The families whose names a filter finds, with their comments; with `used_only` without counters and gauges at zero.
fn filtered(text: &str, filter: Option<&Pattern>, used_only: bool) -> String {
    let mut kinds: HashMap<&str, &str> = HashMap::new();
    for line in text.lines() {
        if let Some((family, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            kinds.insert(family, kind);
        }
    }
    let wanted = |family: &str| filter.is_none_or(|filter| filter.is_match(family.as_bytes()));
    let mut out = String::new();
    for line in text.lines() {
        let keep = match line.strip_prefix("# ") {
            Some(comment) => wanted(comment.split(' ').nth(1).unwrap_or_default()),
            None => sample(line).is_some_and(|sample| {
                let name = sample.series.split('{').next().unwrap_or_default();
                let family = family(name, &kinds);
                // Parts of a histogram belong together.
                let whole = matches!(kinds.get(family), Some(&"histogram" | &"summary"));
                wanted(family) && (whole || !(used_only && is_zero(sample.value)))
            }),
        };
        if keep {
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}

/// The family of a sample: `x` for `x_bucket`, `x_sum` and `x_count` of a histogram.
fn family<'a>(name: &'a str, kinds: &HashMap<&str, &str>) -> &'a str {
    for suffix in ["_bucket", "_sum", "_count"] {
        if let Some(base) = name.strip_suffix(suffix).filter(|base| kinds.contains_key(base)) {
            return base;
        }
    }
    name
}

fn is_zero(value: &str) -> bool {
    value.parse::<f64>().is_ok_and(|value| value == 0.0)
}

/// A JSON number where the value is one; `NaN` and `+Inf` stay text.
fn number(value: &str) -> Value {
    value.parse::<u64>().map(Value::from).or_else(|_| value.parse::<f64>().map(Value::from)).map_or_else(
        |_| Value::String(value.to_owned()),
        |number| if number.is_null() { Value::String(value.to_owned()) } else { number },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# HELP a_total Of a.\n# TYPE a_total counter\na_total{x=\"1 } \\\" {\"} 5\na_total 0\n\
                        # TYPE h histogram\nh_bucket{le=\"+Inf\"} 0\nh_sum 0\nh_count 0\n# TYPE g gauge\ng 1.5 17000\n";

    #[test]
    fn samples_are_split_whatever_their_labels_hold() {
        let found: Vec<_> = samples(TEXT).map(|s| (s.series, s.value)).collect();
        assert_eq!(found[0], ("a_total{x=\"1 } \\\" {\"}", "5"));
        assert_eq!(found[1], ("a_total", "0"));
        assert_eq!(found.last(), Some(&("g", "1.5")));
        for broken in ["", "name", "a{x=\"1", "a{x=\"1\"}"] {
            assert!(sample(broken).is_none(), "{broken}");
        }
    }

    #[test]
    fn filters_keep_whole_families() {
        let check = |filter: Option<&str>, used_only: bool, expected: &[&str]| {
            let filter = filter.map(|filter| Pattern::search(filter).unwrap());
            let text = filtered(TEXT, filter.as_ref(), used_only);
            let lines: Vec<_> = text.lines().map(|line| line.split([' ', '{']).next().unwrap()).collect();
            assert_eq!(lines, expected);
        };
        check(Some("^a"), false, &["#", "#", "a_total", "a_total"]);
        check(Some("^a"), true, &["#", "#", "a_total"]);
        check(Some("h$"), true, &["#", "h_bucket", "h_sum", "h_count"]);
        check(None, true, &["#", "#", "a_total", "#", "h_bucket", "h_sum", "h_count", "#", "g"]);
    }

    #[test]
    fn json_values_are_numbers_where_they_can_be() {
        assert_eq!(number("5"), json!(5));
        assert_eq!(number("1.5"), json!(1.5));
        assert_eq!(number("+Inf"), json!("+Inf"));
        assert_eq!(number("NaN"), json!("NaN"));
    }
}
