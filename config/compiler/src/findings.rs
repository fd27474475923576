use tidegate_core::{Code, Diagnostic, Diagnostics, Level};
use tidegate_resources::Object;

/// Collects diagnostics. The same finding made twice (a VirtualService that binds to two ports) is kept once.
#[derive(Debug, Default)]
pub(crate) struct Findings(Diagnostics);

impl Findings {
    pub(crate) fn push(&mut self, diagnostic: Diagnostic) {
        self.0.push(diagnostic);
    }

    pub(crate) fn error(&mut self, code: Code, object: &Object, path: &str, message: impl Into<String>) {
        self.push(finding(code, Level::Error, object, path, message));
    }

    pub(crate) fn warning(&mut self, code: Code, object: &Object, path: &str, message: impl Into<String>) {
        self.push(finding(code, Level::Warning, object, path, message));
    }

    pub(crate) fn info(&mut self, code: Code, object: &Object, path: &str, message: impl Into<String>) {
        self.push(finding(code, Level::Info, object, path, message));
    }

    /// By object, then by place: the order in which people read files.
    pub(crate) fn into_sorted(self) -> Diagnostics {
        let mut all = self.0;
        all.sort_by(|a, b| (&a.key, &a.origin, a).cmp(&(&b.key, &b.origin, b)));
        all.dedup();
        all
    }
}

/// A diagnostic about the field at `path` of `object`.
pub(crate) fn finding(code: Code, level: Level, object: &Object, path: &str, message: impl Into<String>) -> Diagnostic {
    Diagnostic::new(code, level, object.origin_of(path), message).key(object.key.clone()).path(path)
}
