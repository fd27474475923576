use annotate_snippets::renderer::{AnsiColor, Effects, Style};

/// Colours by meaning, or none at all.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Paint {
    colored: bool,
}

impl Paint {
    pub(crate) fn new(colored: bool) -> Self {
        Self { colored }
    }

    pub(crate) fn is_colored(self) -> bool {
        self.colored
    }

    fn apply(self, style: Style, text: &str) -> String {
        if self.colored { format!("{style}{text}{style:#}") } else { text.to_owned() }
    }

    pub(crate) fn error(self, text: &str) -> String {
        self.apply(AnsiColor::BrightRed.on_default().effects(Effects::BOLD), text)
    }

    pub(crate) fn warning(self, text: &str) -> String {
        self.apply(AnsiColor::Yellow.on_default(), text)
    }

    pub(crate) fn good(self, text: &str) -> String {
        self.apply(AnsiColor::Green.on_default(), text)
    }

    /// Names that a reader looks for.
    pub(crate) fn strong(self, text: &str) -> String {
        self.apply(Style::new().effects(Effects::BOLD), text)
    }

    /// Labels in front of values.
    pub(crate) fn label(self, text: &str) -> String {
        self.apply(AnsiColor::Cyan.on_default(), text)
    }

    /// What is there for completeness.
    pub(crate) fn faint(self, text: &str) -> String {
        self.apply(Style::new().effects(Effects::DIMMED), text)
    }

    /// A place or an address.
    pub(crate) fn place(self, text: &str) -> String {
        self.apply(AnsiColor::Blue.on_default().effects(Effects::UNDERLINE), text)
    }
}
