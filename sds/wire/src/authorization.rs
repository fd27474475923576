//! Who may read which secrets.

use std::fmt;
use std::str::FromStr;

use tidegate_core::SecretName;

/// Who a client is, as far as the transport proves it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Identity {
    /// The process at the other end of a Unix socket, by the kernel's word.
    Unix {
        uid: u32,
        /// Whether that is the user that the server itself runs as.
        same_user: bool,
    },
    /// The names in a client certificate that was verified.
    Certificate {
        /// SPIFFE ids among them.
        uris: Vec<String>,
        /// As they stand in the certificate.
        dns: Vec<String>,
    },
    /// Plaintext TCP, or TLS without a client certificate.
    Anonymous,
}

/// For status and logs: `uid 1000`, the first name of the certificate, `anonymous`.
impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Identity::Unix { uid, .. } => write!(f, "uid {uid}"),
            Identity::Certificate { uris, dns } => match uris.first().or(dns.first()) {
                Some(name) => write!(f, "{:.256}", name.escape_debug().to_string()),
                None => f.write_str("a certificate without names"),
            },
            Identity::Anonymous => f.write_str("anonymous"),
        }
    }
}

/// Whom a rule is for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Who {
    /// Processes of the server's own user, through the Unix socket.
    SameUser,
    /// Processes of a user, through the Unix socket. The socket's file mode must admit them too: see
    /// [`crate::UnixOptions::for_clients_of`].
    Uid(u32),
    /// Clients with a verified certificate that has such a URI.
    Uri(NamePattern),
    /// Clients with a verified certificate that has such a DNS name; case does not matter.
    Dns(NamePattern),
    /// Everybody who can connect, proven or not.
    Any,
}

impl Who {
    fn matches(&self, identity: &Identity) -> bool {
        match (self, identity) {
            (Who::Any, _) => true,
            (Who::SameUser, Identity::Unix { same_user, .. }) => *same_user,
            (Who::Uid(wanted), Identity::Unix { uid, .. }) => wanted == uid,
            (Who::Uri(pattern), Identity::Certificate { uris, .. }) => uris.iter().any(|uri| pattern.matches(uri)),
            (Who::Dns(pattern), Identity::Certificate { dns, .. }) => {
                dns.iter().any(|name| pattern.matches(&name.to_ascii_lowercase()))
            }
            _ => false,
        }
    }
}

/// A name with stars: a `*` stands for any run of characters but `/`; at the very end it stands for anything.
///
/// `kubernetes://istio-system/*` is all of a namespace, its `-cacert` names included; `kubernetes://*/web` is `web` of
/// every namespace; `*` is everything.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NamePattern(Box<str>);

impl NamePattern {
    pub fn new(pattern: &str) -> Self {
        Self(pattern.into())
    }

    pub fn everything() -> Self {
        Self::new("*")
    }

    pub fn matches(&self, name: &str) -> bool {
        let (pattern, open_end) = match self.0.strip_suffix('*') {
            Some(pattern) => (pattern.as_bytes(), true),
            None => (self.0.as_bytes(), false),
        };
        let name = name.as_bytes();
        let (mut p, mut n) = (0, 0);
        // Where to resume if what follows the last star does not fit: one more character for that star.
        let mut resume: Option<(usize, usize)> = None;
        loop {
            if p == pattern.len() && (open_end || n == name.len()) {
                return true;
            }
            if p < pattern.len() && pattern[p] == b'*' {
                resume = Some((p + 1, n));
                p += 1;
            } else if p < pattern.len() && n < name.len() && pattern[p] == name[n] {
                p += 1;
                n += 1;
            } else {
                match resume {
                    Some((after, from)) if from < name.len() && name[from] != b'/' => {
                        resume = Some((after, from + 1));
                        p = after;
                        n = from + 1;
                    }
                    _ => return false,
                }
            }
        }
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Some clients, and the names that they may read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    pub who: Who,
    /// Of secrets as the store names them: an alias grants nothing by itself.
    pub names: Vec<NamePattern>,
}

/// Why a text is no rule.
#[derive(Debug, thiserror::Error)]
pub enum RuleError {
    #[error("line {line}: {error}")]
    Line { line: usize, error: Box<RuleError> },
    #[error("a rule says who, and after a space which names: `spiffe://td/ns/edge/sa/* kubernetes://edge/*`")]
    NoNames,
    #[error(
        "`{0}` names nobody: write same-user, uid:<number>, spiffe://<pattern>, uri:<pattern>, dns:<pattern> or any"
    )]
    Who(String),
}

/// `<who> <name>[,<name>...]`, where who is `same-user`, `uid:1000`, `spiffe://...`, `uri:...`, `dns:...` or `any`, and
/// names are patterns ([`NamePattern`]), separated by commas or spaces.
impl FromStr for Rule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        let (who, names) = text.trim().split_once(char::is_whitespace).ok_or(RuleError::NoNames)?;
        let names: Vec<_> = names
            .split(|c: char| c == ',' || c.is_whitespace())
            .filter(|name| !name.is_empty())
            .map(NamePattern::new)
            .collect();
        if names.is_empty() {
            return Err(RuleError::NoNames);
        }
        let unknown = || RuleError::Who(format!("{:.256}", who.escape_debug().to_string()));
        let who = match who {
            "any" => Who::Any,
            "same-user" => Who::SameUser,
            _ if who.starts_with("spiffe://") => Who::Uri(NamePattern::new(who)),
            _ => match who.split_once(':') {
                Some(("uid", uid)) => Who::Uid(uid.parse().map_err(|_| unknown())?),
                Some(("uri", pattern)) if !pattern.is_empty() => Who::Uri(NamePattern::new(pattern)),
                Some(("dns", pattern)) if !pattern.is_empty() => {
                    Who::Dns(NamePattern::new(&pattern.to_ascii_lowercase()))
                }
                _ => return Err(unknown()),
            },
        };
        Ok(Rule { who, names })
    }
}

/// The policy of a server: what no rule grants is refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Authorization {
    rules: Vec<Rule>,
}

impl Authorization {
    pub fn new(rules: Vec<Rule>) -> Self {
        Self { rules }
    }

    /// One rule per line; empty lines and what follows `#` at a line's start are skipped.
    ///
    /// # Errors
    /// The first line that is no rule.
    pub fn from_text(text: &str) -> Result<Self, RuleError> {
        let lines = text.lines().enumerate().map(|(at, line)| (at + 1, line.trim()));
        let rules = lines
            .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
            .map(|(line, rule)| rule.parse().map_err(|error| RuleError::Line { line, error: Box::new(error) }));
        Ok(Self { rules: rules.collect::<Result<_, _>>()? })
    }

    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Whether a client may read a secret.
    pub fn allows(&self, identity: &Identity, name: &SecretName) -> bool {
        self.rules
            .iter()
            .any(|rule| rule.who.matches(identity) && rule.names.iter().any(|pattern| pattern.matches(name.as_str())))
    }

    /// Whether a client may read anything at all; others are not even spoken with.
    pub fn admits(&self, identity: &Identity) -> bool {
        self.rules.iter().any(|rule| rule.who.matches(identity))
    }
}

/// The server's own user may read everything through the Unix socket; nobody else anything.
impl Default for Authorization {
    fn default() -> Self {
        Self { rules: vec![Rule { who: Who::SameUser, names: vec![NamePattern::everything()] }] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stays_within_a_segment_unless_it_ends_the_pattern() {
        let check = |pattern: &str, name: &str, expected: bool| {
            assert_eq!(NamePattern::new(pattern).matches(name), expected, "{pattern} {name}");
        };
        check("*", "kubernetes://ns/a", true);
        check("*", "", true);
        check("", "", true);
        check("", "a", false);
        check("kubernetes://ns/*", "kubernetes://ns/a-cacert", true);
        check("kubernetes://ns/*", "kubernetes://ns/", true);
        check("kubernetes://ns/*", "kubernetes://ns2/a", false);
        check("kubernetes://ns*", "kubernetes://ns2/a", true);
        check("kubernetes://*/web", "kubernetes://ns/web", true);
        check("kubernetes://*/web", "kubernetes://ns/x/web", false);
        check("kubernetes://*/web", "kubernetes://ns/webs", false);
        check("kubernetes://*/w*b", "kubernetes://ns/wb", true);
        check("kubernetes://*/w*b", "kubernetes://ns/wbxb", true);
        check("kubernetes://*/w*b", "kubernetes://ns/w/b", false);
        check("spiffe://td/ns/*/sa/x", "spiffe://td/ns/a/sa/x", true);
        check("spiffe://td/ns/*/sa/x", "spiffe://td/ns/a/sa/y/sa/x", false);
        check("*a*a*a*a*a*b", &"a".repeat(300), false);
        check("**", "a/b", true);
    }

    #[test]
    fn by_default_only_the_same_user_reads() {
        let policy = Authorization::default();
        let name = SecretName::kubernetes("ns", "a");
        assert!(policy.allows(&Identity::Unix { uid: 7, same_user: true }, &name));
        assert!(!policy.allows(&Identity::Unix { uid: 0, same_user: false }, &name));
        assert!(!policy.allows(&Identity::Anonymous, &name));
        let certificate = Identity::Certificate { uris: vec!["spiffe://td/a".into()], dns: vec!["a".into()] };
        assert!(!policy.admits(&certificate));
    }

    #[test]
    fn rules_are_read_from_lines() {
        let policy = Authorization::from_text(
            "# edge\nspiffe://td/ns/edge/sa/* kubernetes://edge/*, kubernetes://edge-ca/x\n\n uid:1337 ROOTCA\ndns:*.Edge.example a\n",
        )
        .expect("three rules");
        assert_eq!(policy.rules().len(), 3);
        let edge = Identity::Certificate { uris: vec!["spiffe://td/ns/edge/sa/gw".into()], dns: vec![] };
        assert!(policy.allows(&edge, &SecretName::kubernetes("edge", "a")));
        assert!(policy.allows(&edge, &SecretName::new("kubernetes://edge-ca/x")));
        assert!(!policy.allows(&edge, &SecretName::new("kubernetes://other/x")));
        assert!(policy.allows(&Identity::Unix { uid: 1337, same_user: false }, &SecretName::new("ROOTCA")));
        let named = Identity::Certificate { uris: vec![], dns: vec!["GW.edge.example".into()] };
        assert!(policy.allows(&named, &SecretName::new("a")));
    }

    #[test]
    fn what_is_no_rule_is_told_with_its_line() {
        let error = |text: &str| Authorization::from_text(text).expect_err(text).to_string();
        assert!(error("any *\nsomebody *").starts_with("line 2: `somebody` names nobody"));
        assert!(error("uid:-1 *").starts_with("line 1: `uid:-1`"));
        assert!(error("any").starts_with("line 1: a rule says who"));
        assert!(error("any ,").starts_with("line 1: a rule says who"));
    }
}
