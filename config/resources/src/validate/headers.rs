//! Names and values of header fields.

use super::{Report, names};
use crate::networking::Headers;

/// HTTP/2's pseudo header fields, which conditions may name.
const PSEUDO: &[&str] = &[":method", ":scheme", ":authority", ":path", ":status"];

/// Operations of a rule (`path` ends with `headers`) or of a destination.
pub(super) fn check(headers: &Headers, path: &str, report: &mut Report<'_>) {
    for (direction, operations) in [("request", &headers.request), ("response", &headers.response)] {
        let Some(operations) = operations else { continue };
        let writes_request = direction == "request";
        for (kind, fields) in [("set", &operations.set), ("add", &operations.add)] {
            for (name, value) in fields {
                let path = format!("{path}.{direction}.{kind}{}", names::step(name));
                if writes_request && is_authority(name) {
                    // `host` and `:authority` of requests can be written.
                } else if let Err(why) = operation_name(name) {
                    report.error(&path, why);
                }
                if let Err(why) = value_format(value) {
                    report.error(&path, why);
                }
            }
        }
        for (index, name) in operations.remove.iter().enumerate() {
            if let Err(why) = operation_name(name) {
                report.error(&format!("{path}.{direction}.remove[{index}]"), why);
            }
        }
    }
}

/// `host` and `:authority`, which are one.
pub(super) fn is_authority(name: &str) -> bool {
    name.eq_ignore_ascii_case(":authority") || name.eq_ignore_ascii_case("host")
}

fn operation_name(name: &str) -> Result<(), String> {
    match name {
        "" => Err("the name of a header may not be empty".into()),
        _ if name.eq_ignore_ascii_case("host") => Err("`host` can be set or added in requests only".into()),
        _ if name.starts_with(':') => Err(format!("`{name}` cannot be changed: it is no header field")),
        _ => Ok(()),
    }
}

/// Name in a condition: a header field, a pseudo header field or a JWT claim.
pub(super) fn condition_name(name: &str) -> Result<(), String> {
    match name {
        "" => Err("the name of a header may not be empty".into()),
        _ if is_claim(name) || PSEUDO.contains(&name) || is_token(name) => Ok(()),
        _ => Err(format!("`{name}` is no name of a header")),
    }
}

/// `@request.auth.claims.a.b` or `@request.auth.claims[a][b]`.
pub(super) fn is_claim(name: &str) -> bool {
    const PREFIX: &str = "@request.auth.claims";
    let Some(prefix) = name.get(..PREFIX.len()) else { return false };
    let rest = &name[PREFIX.len()..];
    prefix.eq_ignore_ascii_case(PREFIX)
        && rest.len() > 1
        && (rest.starts_with('.') || (rest.starts_with('[') && rest.ends_with(']') && rest.len() > 2))
}

/// RFC 9110's token; Istio lets a comma pass too.
pub(super) fn is_token(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+,-.^_`|~".contains(&b))
}

/// Why Envoy would not take a value: control characters, a `%` that begins no `%VARIABLE%`.
fn value_format(value: &str) -> Result<(), String> {
    if value.bytes().any(|b| (b < 0x20 && b != b'\t') || b == 0x7f) {
        return Err("the value of a header may not hold control characters".into());
    }
    Format::check(value).map_err(|why| format!("{why}; a literal percent sign is written `%%`"))
}

/// States of Envoy's parser of custom header values (envoy `source/common/router/header_parser.cc`).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Literal,
    VariableName,
    ArrayStart,
    StringStart,
    InString,
    ArrayNext,
    ArgumentsEnd,
    VariableEnd,
}

impl Format {
    fn check(value: &str) -> Result<(), String> {
        let mut state = Format::Literal;
        let mut bytes = value.bytes().peekable();
        while let Some(byte) = bytes.next() {
            state = match (state, byte) {
                (Format::Literal, b'%') => match bytes.peek() {
                    None => return Err("a `%` stands alone at the end".into()),
                    Some(b'%') => {
                        bytes.next();
                        Format::Literal
                    }
                    Some(_) => Format::VariableName,
                },
                (Format::Literal, _) => Format::Literal,
                (Format::VariableName, b'%') => Format::Literal,
                (Format::VariableName, b'(') => Format::ArrayStart,
                (Format::VariableName, _) => Format::VariableName,
                (Format::ArrayStart, b'[') => Format::StringStart,
                (Format::StringStart, b'"') => Format::InString,
                (Format::InString, b'\\') => match bytes.next() {
                    Some(_) => Format::InString,
                    None => return Err("a backslash stands alone at the end".into()),
                },
                (Format::InString, b')') => Format::VariableEnd,
                (Format::InString, b'"') => Format::ArrayNext,
                (Format::InString, _) => Format::InString,
                (Format::ArrayNext, b',') => Format::StringStart,
                (Format::ArrayNext, b']') => Format::ArgumentsEnd,
                (Format::ArgumentsEnd, b')') => Format::VariableEnd,
                (Format::VariableEnd, b'%') => Format::Literal,
                // Between the parts of a variable spaces do not count.
                (state, b' ') => state,
                (Format::ArrayStart, _) => Format::InString,
                (_, other) => {
                    return Err(format!(
                        "`{}` does not fit into a %VARIABLE(...)%",
                        char::from(other).escape_default()
                    ));
                }
            };
        }
        match state {
            Format::Literal => Ok(()),
            _ => Err("a `%` begins a variable that does not end".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_hold_text_and_variables() {
        for good in [
            "",
            "foo",
            "%HOSTNAME%",
            "100%%",
            "a %HOSTNAME% b",
            "%REQ(X-Id)%",
            "%X([\"a\", \"b\"])%",
            "%START_TIME(%s)%",
            "tab\tx",
        ] {
            assert!(value_format(good).is_ok(), "{good}");
        }
        for bad in
            ["abc%123", "%START_TIME%%", "%", "x%", "%X(a)y%", "%X([a])%", "%X([\"a\"x])%", "%X(", "a\nb", "\u{7f}"]
        {
            assert!(value_format(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn conditions_name_fields_or_claims() {
        for good in ["end-user", ":path", "@request.auth.claims.sub", "@request.auth.claims[a][b]", "x_y"] {
            assert!(condition_name(good).is_ok(), "{good}");
        }
        for bad in ["", ":foo", "@request.auth.claims", "@request.auth.claims.", "@request.auth.claims[]", "a b", "é"]
        {
            assert!(condition_name(bad).is_err(), "{bad}");
        }
    }
}
