//! The process's own log: text or JSON lines on stderr.

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
    /// A level (`info`) or `tracing-subscriber` directives (`info,tidegate_proxy=debug`).
    pub(crate) level: String,
    pub(crate) format: LogFormat,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self { level: "info".into(), format: LogFormat::Text }
    }
}
