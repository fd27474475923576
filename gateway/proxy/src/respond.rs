//! Heads of answers: those of backends as they leave the gateway, and local replies.

use bytes::Bytes;
use pingora_core::protocols::http::ServerSession;
use pingora_error::Result;
use pingora_proxy::Session;
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
    if let Some(start) = context.upstream_start {
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

/// Sends `reply` through Pingora unless something was sent already. An HTTP/1 connection serves on after it if the
/// request was read whole.
pub(crate) async fn send(session: &mut Session, context: &mut RequestContext, reply: &LocalReply) -> Result<()> {
    if session.response_written().is_some_and(|sent| !sent.status.is_informational() || sent.status == 101) {
        return Ok(());
    }
    let (head, body) = prepare_local(reply, context);
    let header = head.to_pingora()?;
    context.response = head;
    let leaving = context.connection.as_ref().is_some_and(|connection| connection.is_leaving());
    // A body that nobody wants is not waited for.
    if leaving || must_close(reply) || !session.is_body_done() {
        session.set_keepalive(None);
    }
    match &mut *session.downstream_session {
        ServerSession::H2(stream) => {
            stream.write_response_header(Box::new(header), body.is_empty())?;
            if !body.is_empty() {
                stream.write_body(body, true).await?;
            }
        }
        downstream => {
            downstream.write_response_header(Box::new(header)).await?;
            downstream.write_response_body(body, true).await?;
            let keeps = downstream.get_keepalive().is_some() && downstream.is_body_done();
            if keeps && let Some(connection) = &context.connection {
                connection.keep();
            }
        }
    }
    Ok(())
}

/// After a request that was not understood nobody knows where the next one begins; after CONNECT the client may take
/// what follows for a tunnel's. A status that a route names says nothing of the request.
pub(crate) fn must_close(reply: &LocalReply) -> bool {
    reply.details != DIRECT_RESPONSE && matches!(reply.status, 400 | 405 | 408 | 414 | 426 | 431)
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
