use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Origin, ResourceKey};

/// How much a finding matters. Orders from least to most severe.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum Level {
    Info,
    Warning,
    Error,
}

impl Level {
    pub fn as_str(self) -> &'static str {
        match self {
            Level::Info => "Info",
            Level::Warning => "Warning",
            Level::Error => "Error",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A stable code of a finding. Where Istio has a code for the same finding it is Istio's (`IST0106`); codes of our own
/// start with `TG`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize)]
#[serde(transparent)]
pub struct Code(pub &'static str);

impl Code {
    /// The text is no YAML or JSON, is not a resource, or breaks a limit on files.
    pub const SYNTAX: Code = Code("TG0001");
    /// An object of the set is defined twice.
    pub const DUPLICATE: Code = Code("TG0002");
    /// A kind that Tidegate does not serve yet; the object is skipped.
    pub const KIND_NOT_SERVED: Code = Code("TG0003");
    /// A field that Tidegate reads and does not enforce yet.
    pub const NOT_ENFORCED: Code = Code("TG0004");
    /// A field that has no effect where it stands; the message says why.
    pub const IGNORED: Code = Code("TG0005");
    /// A rule or object that another one hides.
    pub const SHADOWED: Code = Code("TG0006");
    /// A rejected object whose last good form stays in use.
    pub const LAST_GOOD_KEPT: Code = Code("TG0007");
    /// The host could not do what the configuration asks (bind a port, read a folder).
    pub const ENVIRONMENT: Code = Code("TG0008");
    /// A service that routes name and that has no endpoints.
    pub const NO_ENDPOINTS: Code = Code("TG0009");
    /// Material of a secret that was refused; what served before serves on.
    pub const SECRET_REFUSED: Code = Code("TG0010");
    /// A certificate that serves in spite of a flaw: expired, not for its host, weak.
    pub const CERTIFICATE_FLAWED: Code = Code("TG0011");
    /// A certificate that expires soon.
    pub const CERTIFICATE_EXPIRES: Code = Code("TG0012");
    /// A secret that its source no longer has; what served before serves on.
    pub const SECRET_ORPHANED: Code = Code("TG0013");
    /// A secret of a namespace that does not let the object refer to it.
    pub const SECRET_NOT_PERMITTED: Code = Code("TG0014");
    /// Something that works here and would not with Istio.
    pub const BEYOND_ISTIO: Code = Code("TG0015");
    /// A certificate that an ACME authority did not issue or renew yet.
    pub const CERTIFICATE_NOT_ISSUED: Code = Code("TG0016");
    /// Referenced object not found.
    pub const REFERENCE_NOT_FOUND: Code = Code("IST0101");
    /// The object breaks its schema or a rule that Istio's webhook rejects.
    pub const SCHEMA: Code = Code("IST0106");
    /// The object breaks a rule that Istio's webhook only warns of.
    pub const SCHEMA_WARNING: Code = Code("IST0133");
    /// A deprecated field.
    pub const DEPRECATED: Code = Code("IST0002");
    /// A rule that can never be reached.
    pub const UNREACHABLE_RULE: Code = Code("IST0130");
    /// Servers of Gateways that contradict each other.
    pub const CONFLICTING_GATEWAYS: Code = Code("IST0145");
    /// A VirtualService host that no server of its Gateway admits.
    pub const HOST_NOT_IN_GATEWAY: Code = Code("IST0132");
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// One finding about one place in the configuration.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
pub struct Diagnostic {
    pub code: Code,
    pub level: Level,
    /// The object that the finding is about; none if the text never became an object.
    pub key: Option<ResourceKey>,
    pub origin: Origin,
    /// Path of the field, as in `spec.http[0].route[1].weight`; empty for the whole object.
    pub path: String,
    /// What is wrong and why, in one sentence without the place.
    pub message: String,
    /// How to mend it, if there is something better to say than the message.
    pub help: Option<String>,
}

impl Diagnostic {
    pub fn new(code: Code, level: Level, origin: Origin, message: impl Into<String>) -> Self {
        Self { code, level, key: None, origin, path: String::new(), message: message.into(), help: None }
    }

    pub fn error(code: Code, origin: Origin, message: impl Into<String>) -> Self {
        Self::new(code, Level::Error, origin, message)
    }

    pub fn warning(code: Code, origin: Origin, message: impl Into<String>) -> Self {
        Self::new(code, Level::Warning, origin, message)
    }

    #[must_use]
    pub fn key(mut self, key: ResourceKey) -> Self {
        self.key = Some(key);
        self
    }

    #[must_use]
    pub fn path(mut self, path: impl Into<String>) -> Self {
        self.path = path.into();
        self
    }

    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// One line in istioctl's shape: `Error [IST0106] (VirtualService ns/name file.yaml:12:5) message`.
impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}] (", self.level, self.code)?;
        if let Some(key) = &self.key {
            write!(f, "{key} ")?;
        }
        write!(f, "{}) ", self.origin)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)?;
        if let Some(help) = &self.help {
            write!(f, " ({help})")?;
        }
        Ok(())
    }
}

/// Findings of one pass, in the order in which they were found.
pub type Diagnostics = Vec<Diagnostic>;
