//! Log levels and log files.

use std::fmt::Write;

use http::StatusCode;

use crate::endpoint::{Admin, Parameters, Reply};

/// Envoy's names of levels and ours.
const LEVELS: [(&str, &str); 7] = [
    ("trace", "trace"),
    ("debug", "debug"),
    ("info", "info"),
    ("warning", "warn"),
    ("error", "error"),
    // We have none above error.
    ("critical", "error"),
    ("off", "off"),
];

/// `/logging`: changes levels if it is asked to, then lists them, in Envoy's words.
pub(crate) fn logging(admin: &Admin, parameters: &Parameters) -> Reply {
    let mut out = String::new();
    let mut status = StatusCode::OK;
    if !parameters.pairs().is_empty() {
        let changed = specification(parameters.pairs()).and_then(|spec| {
            admin.backend.set_log_level(&spec)?;
            tracing::info!(spec, "log levels were changed");
            Ok(())
        });
        if let Err(error) = changed {
            status = StatusCode::BAD_REQUEST;
            let levels = LEVELS.map(|(level, _)| level).join(" ");
            let _ = write!(
                out,
                "error: {error}\n\nusage: /logging?<name>=<level> (change single level)\n\
                 usage: /logging?paths=name1:level1,name2:level2,... (change multiple levels)\n\
                 usage: /logging?level=<level> (change all levels)\nlevels: {levels} \n"
            );
        }
    }
    out.push_str("active loggers:\n");
    for (name, level) in admin.backend.log_levels() {
        let _ = writeln!(out, "  {name}: {level}");
    }
    out.push('\n');
    Reply::text(status, out)
}

pub(crate) fn reopen(admin: &Admin, _: &Parameters) -> Reply {
    admin.backend.reopen_logs();
    Reply::ok()
}

/// What [`crate::Backend::set_log_level`] takes, from Envoy's parameters.
fn specification(parameters: &[(String, String)]) -> Result<String, String> {
    let [(key, value)] = parameters else { return Err("invalid number of parameters".into()) };
    match key.as_str() {
        "level" => Ok(level(value)?.to_owned()),
        "paths" => {
            let mut pairs = Vec::new();
            for pair in value.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
                // From the right: the names of our loggers may hold colons.
                let (name, wanted) = pair.rsplit_once(':').unwrap_or(("", ""));
                if name.is_empty() || wanted.is_empty() {
                    return Err("empty logger name or empty logger level".into());
                }
                pairs.push(format!("{}={}", logger(name)?, level(wanted)?));
            }
            if pairs.is_empty() {
                return Err("empty logger name or empty logger level".into());
            }
            Ok(pairs.join(","))
        }
        name => Ok(format!("{}={}", logger(name)?, level(value)?)),
    }
}

fn level(name: &str) -> Result<&'static str, String> {
    let name = name.trim();
    // istioctl says `warning`, people say `warn`.
    let name = if name == "warn" { "warning" } else { name };
    LEVELS
        .iter()
        .find(|(envoy, _)| *envoy == name)
        .map(|(_, own)| *own)
        .ok_or_else(|| "unknown logger level".to_owned())
}

/// A name that cannot break out of the specification.
fn logger(name: &str) -> Result<&str, String> {
    let name = name.trim();
    if !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b':' | b'.')) {
        Ok(name)
    } else {
        Err("unknown logger name".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn specified(pairs: &[(&str, &str)]) -> Result<String, String> {
        let pairs: Vec<_> = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        specification(&pairs)
    }

    #[test]
    fn envoys_three_ways_of_naming_levels_are_understood() {
        assert_eq!(specified(&[("level", "warning")]).unwrap(), "warn");
        assert_eq!(specified(&[("level", "critical")]).unwrap(), "error");
        assert_eq!(specified(&[("http", "debug")]).unwrap(), "http=debug");
        assert_eq!(specified(&[("paths", "http:debug, router:off")]).unwrap(), "http=debug,router=off");
        assert_eq!(
            specified(&[("paths", "tidegate_proxy::listener:trace")]).unwrap(),
            "tidegate_proxy::listener=trace"
        );
    }

    #[test]
    fn what_is_no_level_is_refused_in_envoys_words() {
        for (pairs, expected) in [
            (&[("level", "loud")][..], "unknown logger level"),
            (&[("level", "debug"), ("http", "debug")], "invalid number of parameters"),
            (&[("paths", "http")], "empty logger name or empty logger level"),
            (&[("paths", "http:")], "empty logger name or empty logger level"),
            (&[("paths", "")], "empty logger name or empty logger level"),
            (&[("a,b=trace", "debug")], "unknown logger name"),
        ] {
            assert_eq!(specified(pairs).unwrap_err(), expected, "{pairs:?}");
        }
    }
}
