//! What becomes of a request, before anything of it is sent.

use crate::belonging::{self, Misdirected};
use crate::edge::{self, Downstream};
use crate::local_reply::{Client, LocalReply};
use crate::message::RequestHead;
use crate::request_context::RequestContext;
use crate::routing;
use crate::shared::Shared;

/// RFC 8555 section 8.3; a token follows.
const ACME_CHALLENGE: &str = "/.well-known/acme-challenge/";

/// Everything between the head of a request and its first byte upstream; an answer if it ends here. The context has its
/// connection, its configuration and its request.
pub(crate) fn decide(context: &mut RequestContext, shared: &Shared) -> Option<LocalReply> {
    let (Some(connection), Some(published)) = (context.connection.clone(), context.published.clone()) else {
        return Some(LocalReply::INTERNAL);
    };
    context.client = Client::of(&context.request.fields);
    let downstream = Downstream { peer: connection.peer, tls: connection.tls.as_deref() };
    match edge::admit(&mut context.request, downstream, published.snapshot().mesh(), &shared.limits) {
        Ok(admitted) => context.admitted = Some(admitted),
        Err(reply) => return Some(reply),
    }
    let Some(listener) = published.listener(&connection.listener.name) else {
        return Some(LocalReply::NO_ROUTE);
    };
    if let Some(reply) = answer_challenge(&context.request, shared) {
        return Some(reply);
    }
    let chain = match belonging::filter_chain(listener, connection.tls.as_deref(), &context.request.authority) {
        Ok(chain) => chain,
        Err(Misdirected::Request) => return Some(LocalReply::MISDIRECTED),
        Err(Misdirected::Connection) => {
            connection.ask_to_leave();
            return Some(LocalReply::MISDIRECTED);
        }
    };
    routing::route(chain, listener.port, context)
}

/// The answer to an authority's question (HTTP-01), which nothing that is configured may come before.
fn answer_challenge(request: &RequestHead, shared: &Shared) -> Option<LocalReply> {
    let challenges = shared.secrets.challenges();
    if !challenges.any() {
        return None;
    }
    let token = request.target.strip_prefix(ACME_CHALLENGE)?;
    Some(LocalReply::acme_challenge(&challenges.http(token)?))
}
