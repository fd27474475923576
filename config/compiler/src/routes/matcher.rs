use http::HeaderName;
use tidegate_core::Code;
use tidegate_resources::{HttpMatchRequest, StringMatch as Written};
use tidegate_snapshot::{HeaderMatch, PathMatch, QueryMatch, RouteMatch, StringMatch};

use super::patterns::{Patterns, Purpose};

/// Prefix of header names that stand for claims of a validated token.
const CLAIMS: &str = "@request.auth.claims";

/// A condition that cannot be evaluated.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Refused {
    /// Path of the field within the entry.
    pub(super) field: String,
    pub(super) reason: String,
    pub(super) code: Code,
    /// It stood in `withoutHeaders`.
    pub(super) negated: bool,
}

/// What an entry asks of a request, apart from the conditions that cannot be evaluated.
pub(super) fn compile_match(entry: &HttpMatchRequest, patterns: &mut Patterns) -> (RouteMatch, Vec<Refused>) {
    let mut refused = Vec::new();
    let mut take = |field: &str, condition: Option<&Written>| {
        let condition = condition?;
        compile_string(condition, patterns).map_err(|reason| refused.push(invalid(field, reason, false))).ok()
    };
    let mut matcher = RouteMatch {
        scheme: take("scheme", entry.scheme.as_ref()).map(Box::new),
        method: take("method", entry.method.as_ref()).map(Box::new),
        authority: take("authority", entry.authority.as_ref()).map(Box::new),
        ..RouteMatch::default()
    };
    for (name, condition) in &entry.query_params {
        let field = keyed("queryParams", name);
        matcher.query.extend(take(&field, Some(condition)).map(|value| QueryMatch { name: name.clone(), value }));
    }
    match compile_path(entry, patterns) {
        Ok(path) => matcher.path = path,
        Err(reason) => refused.push(invalid("uri", reason, false)),
    }
    for (name, condition) in &entry.headers {
        if let Err(refusal) = compile_header(name, condition, false, &mut matcher, patterns) {
            refused.push(refusal);
        }
    }
    for (name, condition) in &entry.without_headers {
        if let Err(refusal) = compile_header(name, condition, true, &mut matcher, patterns) {
            refused.push(refusal);
        }
    }
    (matcher, refused)
}

fn invalid(field: &str, reason: String, negated: bool) -> Refused {
    Refused { field: field.to_owned(), reason, code: Code::SCHEMA, negated }
}

/// Path of a map's entry, with its key quoted if it is no plain word.
fn keyed(map: &str, key: &str) -> String {
    if key.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')) {
        format!("{map}.{key}")
    } else {
        format!("{map}[\"{key}\"]")
    }
}

fn compile_string(condition: &Written, patterns: &mut Patterns) -> Result<StringMatch, String> {
    Ok(match condition {
        Written::Unset => StringMatch::Present,
        Written::Exact(value) => StringMatch::Exact(value.clone()),
        Written::Prefix(value) => StringMatch::Prefix(value.clone()),
        // No regular expression, but what Istio takes for "any value".
        Written::Regex(regex) if regex == "*" => StringMatch::Present,
        Written::Regex(regex) => StringMatch::Regex(patterns.get(Purpose::Match, regex)?),
    })
}

fn compile_path(entry: &HttpMatchRequest, patterns: &mut Patterns) -> Result<PathMatch, String> {
    let ignore_case = entry.ignore_uri_case;
    Ok(match &entry.uri {
        None | Some(Written::Unset) => PathMatch::any(),
        Some(Written::Exact(value)) => PathMatch::Exact { value: value.clone(), ignore_case },
        Some(Written::Prefix(value)) => PathMatch::Prefix { value: value.clone(), ignore_case },
        Some(Written::Regex(regex)) => PathMatch::Regex(patterns.get(Purpose::Match, regex)?),
    })
}

/// Adds a condition on a header. Names of pseudo headers are conditions on what they stand for, as in Envoy.
fn compile_header(
    name: &str,
    condition: &Written,
    invert: bool,
    matcher: &mut RouteMatch,
    patterns: &mut Patterns,
) -> Result<(), Refused> {
    let field = keyed(if invert { "withoutHeaders" } else { "headers" }, name);
    let lower = name.to_ascii_lowercase();
    if lower.starts_with(CLAIMS) {
        let reason = "claims of tokens are not evaluated yet".to_owned();
        return Err(Refused { field, reason, code: Code::NOT_ENFORCED, negated: invert });
    }
    let value = compile_string(condition, patterns).map_err(|reason| invalid(&field, reason, invert))?;
    let pseudo = match lower.as_str() {
        ":method" => Some(&mut matcher.method),
        ":scheme" => Some(&mut matcher.scheme),
        ":authority" | "host" => Some(&mut matcher.authority),
        _ => None,
    };
    if let Some(slot) = pseudo {
        let second = slot.as_ref().is_some_and(|existing| **existing != value);
        if invert || second {
            let reason = format!("a second or negated condition on `{name}` is not evaluated yet");
            return Err(Refused { field, reason, code: Code::NOT_ENFORCED, negated: invert });
        }
        *slot = Some(Box::new(value));
        return Ok(());
    }
    if lower.starts_with(':') {
        let reason = format!("a condition on `{name}` is not evaluated; use `uri` and `queryParams`");
        return Err(Refused { field, reason, code: Code::NOT_ENFORCED, negated: invert });
    }
    let name: HeaderName = lower.parse().map_err(|_| invalid(&field, format!("`{name}` is no header name"), invert))?;
    matcher.headers.push(HeaderMatch { name, value, invert });
    Ok(())
}
