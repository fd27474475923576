//! The process's own log: text or JSON lines on stderr, with levels that can be changed while it runs.
//!
//! Libraries that log through the `log` crate arrive here too. Those that repeat what metrics and the access log say
//! are silent unless somebody asks for them by name.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Layer, Registry, fmt, reload};

/// Form of a log line.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum LogFormat {
    #[default]
    Text,
    Json,
}

/// `--log-level` and `--log-format`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct LogOptions {
    /// A level (`info`), or levels of loggers beside it (`info,tidegate_proxy=debug`).
    pub(crate) level: String,
    pub(crate) format: LogFormat,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self { level: "info".into(), format: LogFormat::Text }
    }
}

/// Loggers that follow the general level. A logger is a crate, or a module below one.
const OWN: [&str; 11] = [
    "tidegate",
    "tidegate_acme",
    "tidegate_admin",
    "tidegate_compiler",
    "tidegate_core",
    "tidegate_mesh_bridge",
    "tidegate_proxy",
    "tidegate_resources",
    "tidegate_sds",
    "tidegate_sds_wire",
    "tidegate_snapshot",
];

/// Loggers of libraries, with the most that they say unless they are named.
const LIBRARIES: [(&str, LevelFilter); 11] = [
    // A line for each client that goes away; see the access log's response flags.
    ("h2", LevelFilter::OFF),
    ("hickory_proto", LevelFilter::OFF),
    ("hickory_resolver", LevelFilter::OFF),
    ("hyper", LevelFilter::WARN),
    ("hyper_util", LevelFilter::WARN),
    ("instant_acme", LevelFilter::WARN),
    ("mio", LevelFilter::WARN),
    // A warning for each version of a Kubernetes volume that goes away. What cannot be watched our own watcher says.
    ("notify", LevelFilter::ERROR),
    // Its warnings and errors are peers' doings, with server names as they were sent; counters tell them by reason.
    ("rustls", LevelFilter::OFF),
    ("tonic", LevelFilter::WARN),
    ("tower", LevelFilter::WARN),
];

/// The levels of all loggers, and the way to change them.
#[derive(Clone, Debug)]
pub(crate) struct LogLevels {
    levels: Arc<Mutex<Levels>>,
    /// None in tests, where nothing is installed.
    filter: Option<reload::Handle<Targets, Registry>>,
}

impl LogLevels {
    /// Installs the log of the process.
    ///
    /// # Errors
    /// `options.level` names no level, or a log is installed already.
    pub(crate) fn install(options: &LogOptions) -> anyhow::Result<Self> {
        let levels = Levels::parse(&options.level).map_err(anyhow::Error::msg).context("--log-level")?;
        let (filter, handle) = reload::Layer::new(levels.targets());
        // A terminal that goes away must not take the process with it.
        let lines = fmt::layer().with_writer(io::stderr).log_internal_errors(false);
        let lines = match options.format {
            LogFormat::Json => lines.json().flatten_event(true).boxed(),
            LogFormat::Text => {
                let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
                lines.with_ansi(io::stderr().is_terminal() && !no_color).boxed()
            }
        };
        let subscriber = Registry::default().with(lines.with_filter(filter));
        tracing::subscriber::set_global_default(subscriber).context("installing the log")?;
        tracing_log::LogTracer::builder().init().context("installing the log")?;
        log::set_max_level(levels.most_verbose());
        Ok(Self { levels: Arc::new(Mutex::new(levels)), filter: Some(handle) })
    }

    /// Every logger with its level, in Envoy's words (`warning`), sorted by name.
    pub(crate) fn list(&self) -> Vec<(String, String)> {
        self.lock().named.iter().map(|(name, level)| (name.clone(), word(*level).to_owned())).collect()
    }

    /// Sets one level for all loggers (`debug`) or levels of single ones (`tidegate_proxy=debug,h2=info`).
    ///
    /// # Errors
    /// A message for the user; nothing was changed then.
    pub(crate) fn set(&self, spec: &str) -> Result<(), String> {
        let mut levels = self.lock();
        let mut next = levels.clone();
        if spec.contains('=') {
            next.apply(spec, Unknown::Refuse)?;
        } else {
            let all = level(spec)?;
            next.general = all;
            next.named.values_mut().for_each(|level| *level = all);
        }
        if let Some(filter) = &self.filter {
            filter.reload(next.targets()).map_err(|error| error.to_string())?;
            log::set_max_level(next.most_verbose());
        }
        *levels = next;
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Levels> {
        // Levels are replaced as a whole, so they are whole even after a panic.
        self.levels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Levels {
    /// Of loggers that have no name here.
    general: LevelFilter,
    named: BTreeMap<String, LevelFilter>,
}

/// What to do with a logger that nobody is known to use.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unknown {
    Accept,
    Refuse,
}

impl Levels {
    fn parse(spec: &str) -> Result<Self, String> {
        let general = spec.split(',').map(str::trim).find(|part| !part.is_empty() && !part.contains('='));
        let general = general.map_or(Ok(LevelFilter::INFO), level)?;
        let own = OWN.iter().map(|name| ((*name).to_owned(), general));
        let libraries = LIBRARIES.iter().map(|(name, most)| ((*name).to_owned(), general.min(*most)));
        let mut levels = Self { general, named: own.chain(libraries).collect() };
        levels.apply(spec, Unknown::Accept)?;
        Ok(levels)
    }

    fn apply(&mut self, spec: &str, unknown: Unknown) -> Result<(), String> {
        for part in spec.split(',').map(str::trim) {
            let Some((name, text)) = part.split_once('=') else { continue };
            let name = name.trim().replace('-', "_");
            let krate = name.split("::").next().unwrap_or_default();
            if unknown == Unknown::Refuse && !self.named.contains_key(krate) {
                let known: Vec<_> = self.named.keys().map(String::as_str).collect();
                return Err(format!("there is no logger `{name}`; there are: {}", known.join(", ")));
            }
            self.named.insert(name, level(text.trim())?);
        }
        Ok(())
    }

    fn targets(&self) -> Targets {
        let named = self.named.iter().map(|(name, level)| (name.as_str(), *level));
        Targets::new().with_default(self.general).with_targets(named)
    }

    fn most_verbose(&self) -> log::LevelFilter {
        let most = self.named.values().fold(self.general, |most, level| most.max(*level));
        match most {
            LevelFilter::OFF => log::LevelFilter::Off,
            LevelFilter::ERROR => log::LevelFilter::Error,
            LevelFilter::WARN => log::LevelFilter::Warn,
            LevelFilter::INFO => log::LevelFilter::Info,
            LevelFilter::DEBUG => log::LevelFilter::Debug,
            _ => log::LevelFilter::Trace,
        }
    }
}

fn level(text: &str) -> Result<LevelFilter, String> {
    match text.to_ascii_lowercase().as_str() {
        "trace" => Ok(LevelFilter::TRACE),
        "debug" => Ok(LevelFilter::DEBUG),
        "info" => Ok(LevelFilter::INFO),
        "warn" | "warning" => Ok(LevelFilter::WARN),
        "error" | "critical" => Ok(LevelFilter::ERROR),
        "off" => Ok(LevelFilter::OFF),
        _ => Err(format!("`{text}` is no level; levels are trace, debug, info, warn, error, off")),
    }
}

fn word(level: LevelFilter) -> &'static str {
    match level {
        LevelFilter::OFF => "off",
        LevelFilter::ERROR => "error",
        LevelFilter::WARN => "warning",
        LevelFilter::INFO => "info",
        LevelFilter::DEBUG => "debug",
        _ => "trace",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn levels(spec: &str) -> LogLevels {
        LogLevels { levels: Arc::new(Mutex::new(Levels::parse(spec).unwrap())), filter: None }
    }

    fn level_of(levels: &LogLevels, name: &str) -> String {
        levels.list().into_iter().find(|(known, _)| known == name).map(|(_, level)| level).unwrap_or_default()
    }

    #[test]
    fn libraries_are_quiet_unless_they_are_named() {
        let levels = levels("debug,h2=info");
        for (name, expected) in
            [("tidegate_proxy", "debug"), ("hickory_proto", "off"), ("h2", "info"), ("rustls", "off")]
        {
            assert_eq!(level_of(&levels, name), expected, "{name}");
        }
    }

    #[test]
    fn levels_change_for_one_logger_or_for_all() {
        let levels = levels("info");
        levels.set("tidegate_proxy=trace,h2=debug").unwrap();
        assert_eq!(level_of(&levels, "tidegate_proxy"), "trace");
        assert_eq!(level_of(&levels, "tidegate"), "info");
        levels.set("error").unwrap();
        assert!(levels.list().iter().all(|(_, level)| level == "error"));
    }

    #[test]
    fn a_wrong_name_or_level_changes_nothing() {
        let levels = levels("info");
        let before = levels.list();
        for wrong in ["tidegate_proxy=debug,nobody=debug", "loud", "h2=loud", ""] {
            assert!(levels.set(wrong).is_err(), "{wrong}");
            assert_eq!(levels.list(), before, "{wrong}");
        }
        assert!(Levels::parse("chatty").is_err());
    }
}
