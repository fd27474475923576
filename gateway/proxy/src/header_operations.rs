use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{HeaderName, HeaderValue};
use pingora_error::Result;
use pingora_http::{RequestHeader, ResponseHeader};
use tidegate_snapshot::{HeaderOperations, HeaderValueTemplate};

use crate::telemetry::RequestFacts;

/// Who can fill the operators of a header's value.
pub(crate) trait FactSource {
    fn facts<'a>(&'a self, request: &'a RequestHeader, response: Option<&'a ResponseHeader>) -> RequestFacts<'a>;
}

/// Carries out a route's operations on a request: removes, then sets, then adds. Operations on `host` are not for
/// headers: see [`authority`].
pub(crate) fn apply_to_request(
    request: &mut RequestHeader,
    operations: &HeaderOperations,
    source: &impl FactSource,
) -> Result<()> {
    for name in operations.remove.iter().filter(|name| may_change(name)) {
        request.remove_header(name);
    }
    for (name, template) in operations.set.iter().filter(|(name, _)| may_change(name)) {
        if let Some(value) = value(template, || source.facts(request, None)) {
            request.insert_header(name, value)?;
        }
    }
    for (name, template) in operations.add.iter().filter(|(name, _)| may_change(name)) {
        if let Some(value) = value(template, || source.facts(request, None)) {
            request.append_header(name, value)?;
        }
    }
    Ok(())
}

/// As [`apply_to_request`], on the answer to `request`.
pub(crate) fn apply_to_response(
    response: &mut ResponseHeader,
    request: &RequestHeader,
    operations: &HeaderOperations,
    source: &impl FactSource,
) -> Result<()> {
    for name in operations.remove.iter().filter(|name| may_change(name)) {
        response.remove_header(name);
    }
    for (name, template) in operations.set.iter().filter(|(name, _)| may_change(name)) {
        if let Some(value) = value(template, || source.facts(request, Some(response))) {
            response.insert_header(name, value)?;
        }
    }
    for (name, template) in operations.add.iter().filter(|(name, _)| may_change(name)) {
        if let Some(value) = value(template, || source.facts(request, Some(response))) {
            response.append_header(name, value)?;
        }
    }
    Ok(())
}

/// The authority that `operations` give a request; `set` wins over `add`.
pub(crate) fn authority(
    operations: &HeaderOperations,
    request: &RequestHeader,
    source: &impl FactSource,
) -> Option<HeaderValue> {
    let find = |list: &[(HeaderName, HeaderValueTemplate)]| {
        let (_, template) = list.iter().find(|(name, _)| *name == HOST)?;
        value(template, || source.facts(request, None))
    };
    find(&operations.set).or_else(|| find(&operations.add))
}

/// Framing belongs to the connection, and the authority is changed elsewhere.
fn may_change(name: &HeaderName) -> bool {
    *name != HOST && *name != CONTENT_LENGTH && *name != TRANSFER_ENCODING
}

/// None if an operator has nothing to say, or something that no header may hold: line breaks of an attacker.
fn value<'a>(template: &HeaderValueTemplate, facts: impl FnOnce() -> RequestFacts<'a>) -> Option<HeaderValue> {
    match template {
        HeaderValueTemplate::Literal(value) => Some(value.clone()),
        HeaderValueTemplate::Template(template) => {
            let mut text = String::new();
            template.render(&facts(), "", &mut text);
            HeaderValue::try_from(text).ok().filter(|value| !value.is_empty())
        }
    }
}
