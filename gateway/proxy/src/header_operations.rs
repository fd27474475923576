use tidegate_snapshot::{HeaderOperations, HeaderValueTemplate};

use crate::message::{Fields, Known, ResponseHead};
use crate::request_context::RequestContext;

/// Carries out a route's operations on a request: removes, then sets, then adds. Operations on `host` are not for
/// headers: see [`authority`].
pub(crate) fn apply_to_request(context: &mut RequestContext, operations: &HeaderOperations) {
    for name in operations.remove.iter().filter(|name| may_change(name.as_str())) {
        context.request.fields.remove(name.as_str());
    }
    for (operation, list) in [(Fields::set as Edit, &operations.set), (Fields::add, &operations.add)] {
        for (name, template) in list.iter().filter(|(name, _)| may_change(name.as_str())) {
            match template {
                HeaderValueTemplate::Literal(value) => {
                    operation(&mut context.request.fields, name.as_str(), value.as_bytes());
                }
                template => {
                    if let Some(value) = render(template, context, None) {
                        operation(&mut context.request.fields, name.as_str(), value.as_bytes());
                    }
                }
            }
        }
    }
}

/// As [`apply_to_request`], on the answer.
pub(crate) fn apply_to_response(response: &mut ResponseHead, operations: &HeaderOperations, context: &RequestContext) {
    for name in operations.remove.iter().filter(|name| may_change(name.as_str())) {
        response.fields.remove(name.as_str());
    }
    for (operation, list) in [(Fields::set as Edit, &operations.set), (Fields::add, &operations.add)] {
        for (name, template) in list.iter().filter(|(name, _)| may_change(name.as_str())) {
            match template {
                HeaderValueTemplate::Literal(value) => {
                    operation(&mut response.fields, name.as_str(), value.as_bytes());
                }
                template => {
                    if let Some(value) = render(template, context, Some(response)) {
                        operation(&mut response.fields, name.as_str(), value.as_bytes());
                    }
                }
            }
        }
    }
}

type Edit = fn(&mut Fields, &str, &[u8]);

/// The authority that `operations` give a request; `set` wins over `add`.
pub(crate) fn authority(operations: &HeaderOperations, context: &RequestContext) -> Option<String> {
    let is_host = |name: &http::HeaderName| *name == http::header::HOST;
    let all = || operations.set.iter().chain(operations.add.iter());
    let (_, template) = all().find(|(name, _)| is_host(name))?;
    match template {
        HeaderValueTemplate::Literal(value) => value.to_str().ok().map(str::to_owned),
        template => render(template, context, None),
    }
}

/// Framing belongs to the connection, and the authority is changed elsewhere.
fn may_change(name: &str) -> bool {
    !matches!(Known::of(name.as_bytes()), Known::Host | Known::ContentLength | Known::TransferEncoding)
}

/// None if an operator has nothing to say, or something that no header may hold: line breaks of an attacker.
fn render(template: &HeaderValueTemplate, context: &RequestContext, response: Option<&ResponseHead>) -> Option<String> {
    let mut text = String::new();
    match template {
        HeaderValueTemplate::Literal(value) => text.push_str(value.to_str().ok()?),
        HeaderValueTemplate::Template(template) => template.render(&context.facts(response), "", &mut text),
    }
    let is_value = !text.is_empty() && text.bytes().all(|byte| byte >= b' ' && byte != 0x7f || byte == b'\t');
    is_value.then_some(text)
}
