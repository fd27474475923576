use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::HeaderMap;

use crate::connection::Connection;
use crate::exchange::Upstreams;
use crate::local_reply::LocalReply;
use crate::shared::Shared;
use crate::telemetry::{ParseError, RequestFacts};

/// What one worker serves HTTP with: what all workers read, and its own connections to backends.
pub(crate) struct HttpApp {
    shared: Arc<Shared>,
    upstreams: Upstreams,
}

impl HttpApp {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let upstreams = Upstreams::new(shared.limits.max_idle_upstream);
        Self { shared, upstreams }
    }

    /// The connections to backends.
    pub(crate) fn upstreams(&self) -> &Upstreams {
        &self.upstreams
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Counts and logs bytes that were refused before they became a request.
    pub(crate) fn refused(&self, connection: &Connection, head: &[u8], reply: &LocalReply) {
        let error = match reply.status {
            408 => ParseError::Timeout,
            414 | 431 => ParseError::TooLarge,
            426 => ParseError::Version,
            _ => ParseError::Malformed,
        };
        connection.listener.metrics.parse_error(error);
        connection.listener.metrics.request_finished(reply.status);
        let published = self.shared.published.load();
        let Some(sink) = published.access_log() else { return };
        let (method, path) = request_line(head);
        let headers = HeaderMap::new();
        let mut facts = RequestFacts::new(SystemTime::now(), method, path, &headers);
        facts.protocol = "HTTP/1.1";
        facts.duration = Some(Duration::ZERO);
        facts.response_code = reply.status;
        facts.flags = reply.flags;
        facts.response_code_details = Some(&reply.details);
        connection.describe(&mut facts);
        facts.hostname = Some(&self.shared.hostname);
        sink.log(&facts);
    }
}

/// Method and target of a request line, as far as they are short text; for logs only.
fn request_line(head: &[u8]) -> (&str, &str) {
    const LONGEST: usize = 256;
    let line = head.split(|byte| *byte == b'\r' || *byte == b'\n').next().unwrap_or_default();
    let mut parts = line.get(..LONGEST).unwrap_or(line).split(|byte| *byte == b' ');
    let mut next = || parts.next().and_then(|part| std::str::from_utf8(part).ok()).unwrap_or_default();
    (next(), next())
}
