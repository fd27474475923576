//! Metrics of secrets, one series of each family for each name.

use std::fmt::{self, Write};
use std::time::SystemTime;

use tidegate_sds_wire::ServerCounters;

use super::sources::SourceGauges;
use super::status::SecretFacts;

/// Writes them in Prometheus' text format. As many lines as there are secrets, whatever clients do.
pub(super) fn write(secrets: &[SecretFacts], now: SystemTime, out: &mut dyn Write) -> fmt::Result {
    let with_end = || secrets.iter().filter_map(|secret| Some((secret, secret.not_after?)));
    if with_end().next().is_some() {
        family(
            out,
            "tidegate_secret_days_until_expiration",
            "gauge",
            "Days until the certificate expires; negative since it has.",
        )?;
        for (secret, end) in with_end() {
            series(out, "tidegate_secret_days_until_expiration", secret, format_args!("{:.3}", days(now, end)))?;
        }
    }
    if secrets.iter().any(|secret| secret.rotated.is_some()) {
        let name = "tidegate_secret_last_rotation_timestamp_seconds";
        family(out, name, "gauge", "When what serves came into use, in seconds since 1970.")?;
        for (secret, at) in secrets.iter().filter_map(|secret| Some((secret, secret.rotated?))) {
            let at = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            series(out, name, secret, format_args!("{:.3}", at.as_secs_f64()))?;
        }
    }
    if !secrets.is_empty() {
        family(out, "tidegate_secret_failures_total", "counter", "Offers of a secret that were refused.")?;
        for secret in secrets {
            series(out, "tidegate_secret_failures_total", secret, format_args!("{}", secret.failures))?;
        }
        family(out, "tidegate_secret_version", "gauge", "Counts what served under the name; 0 while nothing did.")?;
        for secret in secrets {
            series(out, "tidegate_secret_version", secret, format_args!("{}", secret.version))?;
        }
    }
    Ok(())
}

/// Writes how SDS servers and ACME authorities get on.
pub(super) fn write_sources(gauges: &SourceGauges, out: &mut dyn Write) -> fmt::Result {
    if !gauges.providers.is_empty() {
        let name = "tidegate_sds_provider_connected";
        family(out, name, "gauge", "Whether an SDS server is connected: 1 or 0.")?;
        for (provider, connected) in &gauges.providers {
            labelled(out, name, ("provider", provider), format_args!("{}", u8::from(*connected)))?;
        }
    }
    if !gauges.acme.is_empty() {
        let name = "tidegate_acme_failures";
        family(out, name, "gauge", "Orders of a certificate that failed in a row; 0 once one succeeded.")?;
        for (secret, failures) in &gauges.acme {
            labelled(out, name, ("name", secret.as_str()), format_args!("{failures}"))?;
        }
    }
    Ok(())
}

/// Writes the counters of the SDS server.
pub(super) fn write_sds_server(counters: &ServerCounters, out: &mut dyn Write) -> fmt::Result {
    let families = [
        ("tidegate_sds_connections_active", "gauge", "Connections of SDS clients.", counters.connections_open),
        ("tidegate_sds_streams_active", "gauge", "Streams of SDS clients.", counters.streams_open),
        ("tidegate_sds_subscriptions", "gauge", "Secrets that SDS clients are subscribed to.", counters.subscriptions),
        ("tidegate_sds_connections_total", "counter", "Connections that were taken.", counters.connections),
        (
            "tidegate_sds_connections_refused_total",
            "counter",
            "Connections that were closed at once: nobody may be there, or too many are.",
            counters.connections_refused,
        ),
        (
            "tidegate_sds_handshake_failures_total",
            "counter",
            "TLS handshakes of SDS clients that failed.",
            counters.handshake_failures,
        ),
        ("tidegate_sds_responses_total", "counter", "Responses that were sent.", counters.responses),
        ("tidegate_sds_acks_total", "counter", "Responses that clients took.", counters.acks),
        ("tidegate_sds_nacks_total", "counter", "Responses that clients rejected.", counters.nacks),
        (
            "tidegate_sds_names_refused_total",
            "counter",
            "Secrets that a client asked for and may not read.",
            counters.names_refused,
        ),
    ];
    for (name, kind, help, value) in families {
        family(out, name, kind, help)?;
        writeln!(out, "{name} {value}")?;
    }
    Ok(())
}

fn days(now: SystemTime, end: SystemTime) -> f64 {
    const DAY: f64 = 86_400.0;
    match end.duration_since(now) {
        Ok(left) => left.as_secs_f64() / DAY,
        Err(past) => -past.duration().as_secs_f64() / DAY,
    }
}

fn family(out: &mut dyn Write, name: &str, kind: &str, help: &str) -> fmt::Result {
    writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}")
}

fn series(out: &mut dyn Write, family: &str, secret: &SecretFacts, value: fmt::Arguments<'_>) -> fmt::Result {
    labelled(out, family, ("name", secret.name.as_str()), value)
}

fn labelled(out: &mut dyn Write, family: &str, (label, text): (&str, &str), value: fmt::Arguments<'_>) -> fmt::Result {
    write!(out, "{family}{{{label}=\"")?;
    // Names hold paths of files.
    for character in text.chars() {
        match character {
            '\\' => out.write_str("\\\\")?,
            '"' => out.write_str("\\\"")?,
            '\n' => out.write_str("\\n")?,
            other => out.write_char(other)?,
        }
    }
    writeln!(out, "\"}} {value}")
}

#[cfg(test)]
mod tests {
    use tidegate_core::SecretName;

    use super::*;

    #[test]
    fn sources_have_their_series_and_labels_are_escaped() {
        let gauges = SourceGauges {
            providers: vec![("vault".into(), true), ("old".into(), false)],
            acme: vec![(SecretName::new("odd\\\"\nname"), 3)],
        };
        let mut text = String::new();
        write_sources(&gauges, &mut text).unwrap();
        let lines: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            lines,
            [
                "tidegate_sds_provider_connected{provider=\"vault\"} 1",
                "tidegate_sds_provider_connected{provider=\"old\"} 0",
                "tidegate_acme_failures{name=\"odd\\\\\\\"\\nname\"} 3",
            ]
        );
    }
}
