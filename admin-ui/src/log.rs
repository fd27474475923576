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

/// Envoy's loggers that people name in `istioctl proxy-config log --level http:debug,router:debug`, and those of ours
/// that say the same. Several share one: the last level that is set holds for all of them.
const ENVOY_LOGGERS: [(&str, &str); 10] = [
    ("admin", "tidegate_admin"),
    ("config", "tidegate_compiler"),
    ("conn_handler", "tidegate_proxy"),
    ("connection", "tidegate_proxy"),
    ("filter", "tidegate_proxy"),
    ("http", "tidegate_proxy"),
    ("main", "tidegate"),
    ("pool", "tidegate_proxy"),
    ("router", "tidegate_proxy"),
    ("upstream", "tidegate_proxy"),
];

/// `/logging`: changes levels if it is asked to, then lists them, in Envoy's words.
pub(crate) fn logging(admin: &Admin, parameters: &Parameters) -> Reply {
    let mut out = String::new();
    let mut status = StatusCode::OK;
    if !parameters.pairs().is_empty() {
        let own: Vec<_> = admin.backend.log_levels().into_iter().map(|(name, _)| name).collect();
        let changed = specification(parameters.pairs(), &own).and_then(|spec| {
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
    for (name, level) in with_envoys(admin.backend.log_levels()) {
        let _ = writeln!(out, "  {name}: {level}");
    }
    out.push('\n');
    Reply::text(status, out)
}

pub(crate) fn reopen(admin: &Admin, _: &Parameters) -> Reply {
    admin.backend.reopen_logs();
    Reply::ok()
}

/// Adds Envoy's names for loggers that exist, since istioctl sets only what it finds in the list.
fn with_envoys(mut levels: Vec<(String, String)>) -> Vec<(String, String)> {
    let find = |name: &str| levels.iter().find(|(own, _)| own == name);
    let aliases: Vec<_> = ENVOY_LOGGERS
        .iter()
        .filter(|(envoy, _)| find(envoy).is_none())
        .filter_map(|(envoy, own)| Some(((*envoy).to_owned(), find(own)?.1.clone())))
        .collect();
    levels.extend(aliases);
    levels.sort();
    levels
}

/// What [`crate::Backend::set_log_level`] takes, from Envoy's parameters; `own` are the names that the backend has.
fn specification(parameters: &[(String, String)], own: &[String]) -> Result<String, String> {
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
                pairs.push(format!("{}={}", logger(name, own)?, level(wanted)?));
            }
            if pairs.is_empty() {
                return Err("empty logger name or empty logger level".into());
            }
            Ok(pairs.join(","))
        }
        name => Ok(format!("{}={}", logger(name, own)?, level(value)?)),
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

/// The backend's name of a logger; one that could break out of the specification is refused.
fn logger<'a>(name: &'a str, own: &[String]) -> Result<&'a str, String> {
    let name = name.trim();
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b':' | b'.');
    if name.is_empty() || !name.bytes().all(is_plain) {
        return Err("unknown logger name".into());
    }
    if own.iter().any(|own| own == name) {
        return Ok(name);
    }
    Ok(ENVOY_LOGGERS.iter().find(|(envoy, _)| *envoy == name).map_or(name, |(_, own)| own))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn specified(pairs: &[(&str, &str)]) -> Result<String, String> {
        let pairs: Vec<_> = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        specification(&pairs, &["http".to_owned(), "tidegate_proxy".to_owned()])
    }

    #[test]
    fn envoys_three_ways_of_naming_levels_are_understood() {
        assert_eq!(specified(&[("level", "warning")]).unwrap(), "warn");
        assert_eq!(specified(&[("level", "critical")]).unwrap(), "error");
        assert_eq!(specified(&[("http", "debug")]).unwrap(), "http=debug");
        assert_eq!(specified(&[("paths", "http:debug, x:off")]).unwrap(), "http=debug,x=off");
        assert_eq!(
            specified(&[("paths", "tidegate_proxy::listener:trace")]).unwrap(),
            "tidegate_proxy::listener=trace"
        );
    }

    #[test]
    fn envoys_loggers_stand_for_ours() {
        assert_eq!(
            specified(&[("paths", "router:debug,admin:info")]).unwrap(),
            "tidegate_proxy=debug,tidegate_admin=info"
        );
        let level = |name: &str, level: &str| (name.to_owned(), level.to_owned());
        let listed = with_envoys(vec![level("http", "trace"), level("tidegate_admin", "off")]);
        // One that the backend has itself stays its own; one that stands for nothing is not listed.
        assert_eq!(listed, [level("admin", "off"), level("http", "trace"), level("tidegate_admin", "off")]);
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
