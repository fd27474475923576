//! Heads of answers: those of backends as they leave the gateway, and local replies.

use pingora_core::protocols::http::ServerSession;
use pingora_error::Result;
use pingora_http::ResponseHeader;
use pingora_proxy::Session;
use tidegate_snapshot::ServerHeader;
use tokio::time::Instant;

use crate::header_operations::apply_to_response;
use crate::local_reply::{DIRECT_RESPONSE, LocalReply, SERVER_NAME};
use crate::request_context::RequestContext;

const SERVICE_TIME: &str = "x-envoy-upstream-service-time";

/// Headers of a backend's answer that end at the edge: those of its connection, and what only the mesh may see.
const NOT_FOR_CLIENTS: [&str; 5] = [
    "keep-alive",
    "proxy-connection",
    "x-envoy-decorator-operation",
    "x-envoy-peer-metadata",
    "x-envoy-peer-metadata-id",
];

/// Makes a backend's head what the client gets.
pub(crate) fn prepare_proxied(
    session: &Session,
    response: &mut ResponseHeader,
    context: &RequestContext,
) -> Result<()> {
    for name in NOT_FOR_CLIENTS {
        response.remove_header(name);
    }
    if let Some(start) = context.upstream_start {
        let end = context.response_start.unwrap_or_else(Instant::now);
        response.insert_header(SERVICE_TIME, (end - start).as_millis().to_string())?;
    }
    apply_operations(session, response, context)?;
    match server_header(context) {
        ServerHeader::Default => response.insert_header(http::header::SERVER, SERVER_NAME),
        ServerHeader::Value(value) => response.insert_header(http::header::SERVER, value.as_str()),
        ServerHeader::PassThrough => Ok(()),
    }
}

/// Sends `reply` unless something was sent already. An HTTP/1 connection serves on after it if the request was read
/// whole.
pub(crate) async fn send(session: &mut Session, context: &mut RequestContext, reply: &LocalReply) -> Result<()> {
    if session.response_written().is_some_and(|sent| !sent.status.is_informational() || sent.status == 101) {
        return Ok(());
    }
    context.flags |= reply.flags;
    context.details = reply.details.clone();
    let (mut header, body) = reply.response(context.client, server_header(context))?;
    apply_operations(session, &mut header, context)?;
    let leaving = context.connection.as_ref().is_some_and(|connection| connection.is_leaving());
    // A body that nobody wants is not waited for.
    if leaving || must_close(reply) || !session.is_body_done() {
        session.set_keepalive(None);
    }
    let has_body = !body.is_empty() && session.req_header().method != http::Method::HEAD;
    match &mut *session.downstream_session {
        ServerSession::H2(stream) => {
            stream.write_response_header(Box::new(header), !has_body)?;
            if has_body {
                stream.write_body(body, true).await?;
            }
        }
        downstream => {
            downstream.write_response_header(Box::new(header)).await?;
            let body = if has_body { body } else { bytes::Bytes::new() };
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
fn must_close(reply: &LocalReply) -> bool {
    reply.details != DIRECT_RESPONSE && matches!(reply.status, 400 | 405 | 408 | 414 | 426 | 431)
}

fn apply_operations(session: &Session, response: &mut ResponseHeader, context: &RequestContext) -> Result<()> {
    let Some(selected) = &context.selected else { return Ok(()) };
    let rule = &selected.route().response_headers;
    let own = selected.destination().map(|destination| &destination.response_headers);
    let single = selected.forward().is_none_or(|forward| forward.clusters().len() == 1);
    let ordered = if single { [Some(rule), own] } else { [own, Some(rule)] };
    for operations in ordered.into_iter().flatten().filter(|operations| !operations.is_empty()) {
        apply_to_response(response, session.req_header(), operations, context)?;
    }
    Ok(())
}

fn server_header(context: &RequestContext) -> &ServerHeader {
    static DEFAULT: ServerHeader = ServerHeader::Default;
    context.published.as_ref().map_or(&DEFAULT, |published| &published.snapshot().mesh().server_header)
}
