use http::{HeaderName, HeaderValue};
use tidegate_core::Code;
use tidegate_resources::{HeaderOperations as Written, Headers, Object};
use tidegate_snapshot::{HeaderOperations, HeaderValueTemplate, Template};

use crate::findings::Findings;

/// Header operations in both directions, and the Host that they set.
#[derive(Clone, Debug, Default)]
pub(super) struct Operations {
    pub(super) request: HeaderOperations,
    pub(super) response: HeaderOperations,
    /// From `set`, else `add`, of `host` or `:authority`; taken as it stands, without operators.
    pub(super) authority: Option<String>,
}

/// Compiles a `headers` block that stands at `path`.
pub(super) fn compile_headers(
    headers: Option<&Headers>,
    object: &Object,
    path: &str,
    findings: &mut Findings,
) -> Operations {
    let Some(headers) = headers else { return Operations::default() };
    let mut direction = |written: Option<&Written>, name: &str| {
        written.map(|written| compile(written, object, &format!("{path}.headers.{name}"), findings)).unwrap_or_default()
    };
    Operations {
        request: direction(headers.request.as_ref(), "request"),
        response: direction(headers.response.as_ref(), "response"),
        authority: headers.request.as_ref().and_then(|request| {
            let of = |map: &std::collections::BTreeMap<String, String>| {
                map.iter().filter(|(name, _)| is_authority(name)).map(|(_, value)| value.clone()).next_back()
            };
            of(&request.set).or_else(|| of(&request.add)).filter(|value| !value.is_empty())
        }),
    }
}

fn is_authority(name: &str) -> bool {
    name.eq_ignore_ascii_case("host") || name.eq_ignore_ascii_case(":authority")
}

/// Pseudo headers and `host`, which operations do not touch as headers.
fn is_internal(name: &str) -> bool {
    name.starts_with(':') || name.eq_ignore_ascii_case("host")
}

fn compile(written: &Written, object: &Object, path: &str, findings: &mut Findings) -> HeaderOperations {
    let mut operations = HeaderOperations::default();
    for (at, name) in written.remove.iter().enumerate().filter(|(_, name)| !is_internal(name)) {
        match name.parse() {
            Ok(name) => operations.remove.push(name),
            Err(_) => refuse_name(object, &format!("{path}.remove[{at}]"), name, findings),
        }
    }
    for (map, is_set) in [(&written.set, true), (&written.add, false)] {
        let list = if is_set { "set" } else { "add" };
        for (name, value) in map.iter().filter(|(name, _)| !is_internal(name)) {
            let field = format!("{path}.{list}.{name}");
            let Ok(parsed) = name.parse::<HeaderName>() else {
                refuse_name(object, &field, name, findings);
                continue;
            };
            match compile_value(value) {
                Ok(value) if is_set => operations.set.push((parsed, value)),
                Ok(value) => operations.add.push((parsed, value)),
                Err(reason) => {
                    let kept = if is_set {
                        "; the header is removed, so that no value of the client's passes for it"
                    } else {
                        "; it is not added"
                    };
                    let message = format!("the value of `{name}` cannot be used: {reason}{kept}");
                    findings.error(Code::SCHEMA, object, &field, message);
                    if is_set {
                        operations.remove.push(parsed);
                    }
                }
            }
        }
    }
    operations
}

fn compile_value(value: &str) -> Result<HeaderValueTemplate, String> {
    let template = Template::parse(value).map_err(|error| error.to_string())?;
    match template.as_literal() {
        Some(literal) => HeaderValue::from_str(&literal)
            .map(HeaderValueTemplate::Literal)
            .map_err(|_| "it holds characters that a header may not hold".to_owned()),
        None => Ok(HeaderValueTemplate::Template(template)),
    }
}

fn refuse_name(object: &Object, path: &str, name: &str, findings: &mut Findings) {
    findings.error(Code::SCHEMA, object, path, format!("`{name}` is no header name; the operation is left out"));
}
