use ahash::AHashMap;
use tidegate_core::{Code, Diagnostic, Diagnostics, Host, Level, ResourceKey};
use tidegate_resources::Object;

use crate::tables::TableId;

/// What findings are made with. Whoever makes it anew makes its findings anew; all others stay as they were.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Unit {
    /// The mesh's settings and the servers of Gateways.
    Frame,
    /// The host of a DestinationRule.
    Rule(ResourceKey),
    /// The DestinationRules of a host, merged.
    Service(String),
    /// The clusters of a host and port.
    Clusters(String, u16),
    /// A VirtualService by itself: what it binds to and what its rules say.
    VirtualService(ResourceKey),
    /// The routes of a host, of whichever VirtualServices.
    VirtualHost(TableId, Host),
    /// Rules for connections, which compete over all servers of a port.
    Connections,
}

/// Diagnostics by what they are made with.
pub(crate) type ByUnit = AHashMap<Unit, Diagnostics>;

/// Collects diagnostics.
#[derive(Debug)]
pub(crate) struct Findings {
    unit: Unit,
    found: ByUnit,
}

impl Default for Findings {
    fn default() -> Self {
        Self { unit: Unit::Frame, found: ByUnit::default() }
    }
}

impl Findings {
    /// What `make` finds belongs to `unit`.
    pub(crate) fn within<T>(&mut self, unit: Unit, make: impl FnOnce(&mut Self) -> T) -> T {
        let outer = std::mem::replace(&mut self.unit, unit);
        let made = make(self);
        self.unit = outer;
        made
    }

    pub(crate) fn push(&mut self, diagnostic: Diagnostic) {
        match self.found.get_mut(&self.unit) {
            Some(list) => list.push(diagnostic),
            None => drop(self.found.insert(self.unit.clone(), vec![diagnostic])),
        }
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

    pub(crate) fn into_units(self) -> ByUnit {
        self.found
    }
}

/// By object, then by place: the order in which people read files. The same finding made twice (a VirtualService that
/// binds to two ports) is told once.
pub(crate) fn sorted(units: &ByUnit) -> Diagnostics {
    let mut all: Vec<&Diagnostic> = units.values().flatten().collect();
    all.sort_by(|a, b| (&a.key, &a.origin, a).cmp(&(&b.key, &b.origin, b)));
    all.dedup();
    all.into_iter().cloned().collect()
}

/// A diagnostic about the field at `path` of `object`.
pub(crate) fn finding(code: Code, level: Level, object: &Object, path: &str, message: impl Into<String>) -> Diagnostic {
    Diagnostic::new(code, level, object.origin_of(path), message).key(object.key.clone()).path(path)
}
