//! Heads of answers: those of backends as they leave the gateway, and local replies.

use bytes::Bytes;
use tidegate_snapshot::ServerHeader;
use tokio::time::Instant;

use crate::header_operations::apply_to_response;
use crate::local_reply::{DIRECT_RESPONSE, LocalReply, SERVER_NAME};
use crate::message::{Known, ResponseHead};
use crate::request_context::RequestContext;
use crate::telemetry::append_number;

/// Makes a backend's head what the client gets.
pub(crate) fn prepare_proxied(response: &mut ResponseHead, context: &RequestContext) {
    use Known::{DecoratorOperation, KeepAlive, PeerMetadata, PeerMetadataId, ProxyConnection};
    // What ends at the edge: headers of the backend's connection, and what only the mesh may see.
    response.fields.retain(|known, _| {
        !matches!(known, KeepAlive | ProxyConnection | DecoratorOperation | PeerMetadata | PeerMetadataId)
    });
    // As Envoy, from the end of the request on: tries that failed count, and a request that is not over has no such time.
    if let Some(start) = context.request_end {
        let end = context.response_start.unwrap_or_else(Instant::now);
        let milliseconds = u64::try_from((end - start).as_millis()).unwrap_or(u64::MAX);
        response.fields.set_with(Known::ServiceTime, |text| append_number(milliseconds, text));
    }
    apply_operations(response, context);
    match server_header(context) {
        ServerHeader::Default => response.fields.set_known(Known::Server, SERVER_NAME.as_bytes()),
        ServerHeader::Value(value) => response.fields.set_known(Known::Server, value.as_bytes()),
        ServerHeader::PassThrough => {}
    }
}

/// The head and the body of `reply` as the client of `context` gets them; `context` takes what logs say of it.
pub(crate) fn prepare_local(reply: &LocalReply, context: &mut RequestContext) -> (ResponseHead, Bytes) {
    context.flags |= reply.flags;
    context.details = reply.details.clone();
    let (mut head, body) = reply.response(context.client, server_header(context));
    apply_operations(&mut head, context);
    let body = if context.request.is_head() { Bytes::new() } else { body };
    (head, body)
}

/// After a request that was not understood nobody knows where the next one begins; after CONNECT the client may take
/// what follows for a tunnel's. A status that a route names says nothing of the request.
pub(crate) fn must_close(reply: &LocalReply) -> bool {
    let is_refusal = matches!(reply.status, 400 | 405 | 408 | 414 | 426 | 431 | 501);
    reply.details != DIRECT_RESPONSE && is_refusal || *reply == LocalReply::UPGRADE_FAILED
}

fn apply_operations(response: &mut ResponseHead, context: &RequestContext) {
    let Some(selected) = &context.selected else { return };
    let rule = &selected.route().response_headers;
    let own = selected.destination().map(|destination| &destination.response_headers);
    let single = selected.forward().is_none_or(|forward| forward.clusters().len() == 1);
    let ordered = if single { [Some(rule), own] } else { [own, Some(rule)] };
    for operations in ordered.into_iter().flatten().filter(|operations| !operations.is_empty()) {
        apply_to_response(response, operations, context);
    }
}

fn server_header(context: &RequestContext) -> &ServerHeader {
    static DEFAULT: ServerHeader = ServerHeader::Default;
    context.published.as_ref().map_or(&DEFAULT, |published| &published.snapshot().mesh().server_header)
}
