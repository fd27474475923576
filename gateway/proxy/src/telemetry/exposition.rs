//! Prometheus' text format, version 0.0.4.

use std::fmt::{Display, Write};

use super::histogram::{BOUNDS, Distribution};

/// The kinds of metric that the gateway has.
#[derive(Clone, Copy, Debug)]
pub(super) enum MetricType {
    Counter,
    Gauge,
    Histogram,
}

/// Begins a family of metrics.
pub(super) fn family(out: &mut dyn Write, name: &str, kind: MetricType, help: &str) {
    let kind = match kind {
        MetricType::Counter => "counter",
        MetricType::Gauge => "gauge",
        MetricType::Histogram => "histogram",
    };
    push(out, format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
}

/// One sample. `labels` are rendered already: `a="1",b="2"`, or empty.
pub(super) fn sample(out: &mut dyn Write, name: &str, labels: &str, value: impl Display) {
    if labels.is_empty() {
        push(out, format_args!("{name} {value}\n"));
    } else {
        push(out, format_args!("{name}{{{labels}}} {value}\n"));
    }
}

/// The samples of one histogram: buckets (cumulative), sum, count.
pub(super) fn histogram(out: &mut dyn Write, name: &str, labels: &str, distribution: &Distribution) {
    let separator = if labels.is_empty() { "" } else { "," };
    let mut cumulative = 0;
    for (bound, count) in BOUNDS.iter().zip(&distribution.buckets) {
        cumulative += count;
        push(out, format_args!("{name}_bucket{{{labels}{separator}le=\"{bound}\"}} {cumulative}\n"));
    }
    let count = distribution.count();
    push(out, format_args!("{name}_bucket{{{labels}{separator}le=\"+Inf\"}} {count}\n"));
    let sum = Thousandths(distribution.sum);
    if labels.is_empty() {
        push(out, format_args!("{name}_sum {sum}\n{name}_count {count}\n"));
    } else {
        push(out, format_args!("{name}_sum{{{labels}}} {sum}\n{name}_count{{{labels}}} {count}\n"));
    }
}

/// Appends `name="value"` with a comma before it if it is not the first; escapes the value.
pub(super) fn label(out: &mut String, name: &str, value: &str) {
    if !out.is_empty() {
        out.push(',');
    }
    out.push_str(name);
    out.push_str("=\"");
    for character in value.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            other => out.push(other),
        }
    }
    out.push('"');
}

/// Labels of `pairs`, in their order.
pub(super) fn labels(pairs: &[(&str, &str)]) -> String {
    let mut out = String::new();
    pairs.iter().for_each(|(name, value)| label(&mut out, name, value));
    out
}

/// A number of thousandths as a decimal number without needless digits.
struct Thousandths(u64);

impl Display for Thousandths {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (whole, rest) = (self.0 / 1000, self.0 % 1000);
        match rest {
            0 => write!(f, "{whole}"),
            _ if rest % 100 == 0 => write!(f, "{whole}.{}", rest / 100),
            _ if rest % 10 == 0 => write!(f, "{whole}.{:02}", rest / 10),
            _ => write!(f, "{whole}.{rest:03}"),
        }
    }
}

/// A sink that fails has lost its reader, who needs no more of it.
fn push(out: &mut dyn Write, text: std::fmt::Arguments<'_>) {
    let _ = out.write_fmt(text);
}
