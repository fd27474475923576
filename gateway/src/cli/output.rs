//! The one place that writes to stdout and stderr.
//!
//! A reader that goes away (`tidegate ... | head`) ends the output and is no failure.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use crate::render::Paint;

/// `--color`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub(crate) enum ColorWhen {
    /// On a terminal, unless NO_COLOR is set.
    #[default]
    Auto,
    Always,
    Never,
}

/// Where the process's own words go, and how they look there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Console {
    color: ColorWhen,
}

impl Console {
    pub(crate) fn new(color: ColorWhen) -> Self {
        Self { color }
    }

    pub(crate) fn color(self) -> ColorWhen {
        self.color
    }

    /// Whether a person reads stdout.
    pub(crate) fn is_terminal(self) -> bool {
        io::stdout().is_terminal()
    }

    pub(crate) fn paint(self) -> Paint {
        self.paint_for(io::stdout().is_terminal())
    }

    pub(crate) fn error_paint(self) -> Paint {
        self.paint_for(io::stderr().is_terminal())
    }

    fn paint_for(self, terminal: bool) -> Paint {
        let colored = match self.color {
            ColorWhen::Always => true,
            ColorWhen::Never => false,
            ColorWhen::Auto => {
                let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
                terminal && !set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
            }
        };
        Paint::new(colored)
    }

    /// Columns of the terminal that stdout is; else what COLUMNS says; else a width that is easy to read.
    pub(crate) fn width(self) -> usize {
        let terminal = rustix::termios::tcgetwinsize(io::stdout()).ok().map(|size| usize::from(size.ws_col));
        let variable = || std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
        terminal.filter(|columns| *columns > 0).or_else(variable).unwrap_or(120).clamp(40, 400)
    }

    /// Writes data.
    ///
    /// # Errors
    /// What the operating system says; [`is_broken_pipe`] tells a reader that left from a full disk.
    pub(crate) fn print(self, text: &str) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes())?;
        stdout.flush()
    }

    /// Writes one value as indented JSON.
    ///
    /// # Errors
    /// As [`Console::print`].
    pub(crate) fn print_json(self, value: &impl Serialize) -> anyhow::Result<()> {
        let mut text = serde_json::to_string_pretty(value)?;
        text.push('\n');
        Ok(self.print(&text)?)
    }

    /// Writes one value as YAML.
    ///
    /// # Errors
    /// As [`Console::print`].
    pub(crate) fn print_yaml(self, value: &impl Serialize) -> anyhow::Result<()> {
        // Through JSON, so that both forms have the same fields, whatever a type's serializer does.
        let value = serde_json::to_value(value)?;
        let mut text = serde_saphyr::to_string(&value)?;
        if !text.ends_with('\n') {
            text.push('\n');
        }
        Ok(self.print(&text)?)
    }

    /// A remark for the person at the terminal, to stderr.
    pub(crate) fn remark(self, text: impl Display) {
        // Where nobody reads remarks, there is nobody to tell.
        let _ = writeln!(io::stderr().lock(), "{text}");
    }

    /// What went wrong, to stderr.
    pub(crate) fn error(self, text: &str) {
        let paint = self.error_paint();
        self.remark(format_args!("{} {text}", paint.error("error:")));
    }

    /// How to go on from there, to stderr.
    pub(crate) fn help(self, text: &str) {
        let paint = self.error_paint();
        self.remark(format_args!("{} {text}", paint.good("help:")));
    }
}

/// Whether the error is that the reader of our output left.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| cause.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe))
}
