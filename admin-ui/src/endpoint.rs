//! One table row per path: what `/help` prints is what is served.

use std::fmt;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Query, Request, State};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, StatusCode, Uri};
use serde::Serialize;
use tidegate_core::Lifecycle;
use tokio::sync::Semaphore;

use crate::Backend;
use crate::body::{Pieces, Streamed};
use crate::guard::{AllowedHosts, guard};

pub(crate) const TEXT: &str = "text/plain; charset=UTF-8";
pub(crate) const JSON: &str = "application/json";
pub(crate) const HTML: &str = "text/html; charset=UTF-8";
/// What Prometheus 3 insists on.
pub(crate) const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Requests that are worked on at once; a large config dump takes memory.
const MAX_CONCURRENT: usize = 4;
/// How long a request waits for its turn.
const TURN: Duration = Duration::from_secs(10);
/// Bytes from which on an answer is large.
const LARGE: u64 = 1024 * 1024;
/// Large answers at once that are sent: a client that does not read keeps one in memory.
const MAX_LARGE: usize = 8;

/// One path of a server.
#[derive(Clone, Copy)]
pub(crate) struct Endpoint {
    pub(crate) path: &'static str,
    pub(crate) help: &'static str,
    pub(crate) access: Access,
    pub(crate) parameters: &'static [(&'static str, &'static str)],
    pub(crate) run: Run,
}

/// What a path may do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Shows something; GET, HEAD, and POST as istioctl sends it.
    Read,
    /// Changes the process; POST only.
    Mutate,
    /// As [`Access::Read`] without parameters, and changes the process with them; POST only.
    MutateShown,
}

/// How a request is worked on.
#[derive(Clone, Copy)]
pub(crate) enum Run {
    /// In place: probes, which must be answered while large dumps are made.
    Inline(fn(&Admin, &Parameters) -> Reply),
    /// On a blocking thread, a few at once.
    Blocking(fn(&Admin, &Parameters) -> Reply),
}

pub(crate) type Endpoints = &'static [Endpoint];

/// What handlers work with.
pub(crate) struct Admin {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) lifecycle: Lifecycle,
    turns: Arc<Semaphore>,
    large: Arc<Semaphore>,
}

impl Admin {
    pub(crate) fn new(backend: Arc<dyn Backend>, lifecycle: Lifecycle) -> Self {
        Self {
            backend,
            lifecycle,
            turns: Arc::new(Semaphore::new(MAX_CONCURRENT)),
            large: Arc::new(Semaphore::new(MAX_LARGE)),
        }
    }
}

/// The query of a request, decoded, in order.
#[derive(Clone, Default, Debug)]
pub(crate) struct Parameters(Vec<(String, String)>);

impl Parameters {
    fn of(uri: &Uri) -> Result<Self, Reply> {
        match Query::<Vec<(String, String)>>::try_from_uri(uri) {
            Ok(Query(pairs)) => Ok(Self(pairs)),
            Err(error) => Err(Reply::text(StatusCode::BAD_REQUEST, format!("the query cannot be read: {error}\n"))),
        }
    }

    /// The first value of a name.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    pub(crate) fn all<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> + use<'a> {
        let name = name.to_owned();
        self.0.iter().filter(move |(key, _)| *key == name).map(|(_, value)| value.as_str())
    }

    /// Whether a flag stands there, with whatever value: Envoy takes `?include_eds=anything` for set.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    pub(crate) fn pairs(&self) -> &[(String, String)] {
        &self.0
    }

    /// The parameters whose names are not among `known`.
    pub(crate) fn unknown<'a>(&'a self, known: &'a [&str]) -> impl Iterator<Item = &'a str> {
        self.0.iter().map(|(name, _)| name.as_str()).filter(|name| !known.contains(name))
    }
}

/// Writes an answer while it is sent.
pub(crate) type WriteLater = Box<dyn FnOnce(&mut dyn fmt::Write) + Send>;

/// An answer.
pub(crate) struct Reply {
    status: StatusCode,
    content_type: &'static str,
    body: Content,
    allow: Option<&'static str>,
}

enum Content {
    Whole(Pieces),
    /// Still to be written; never reaches the connection in this form.
    Later(WriteLater),
    Streamed(Streamed),
}

impl Reply {
    pub(crate) fn new(status: StatusCode, content_type: &'static str, body: impl Into<Vec<u8>>) -> Self {
        Self { status, content_type, body: Content::Whole(Pieces::from(body.into())), allow: None }
    }

    /// An answer that may be larger than what should be in memory at once. For handlers that run blocking.
    pub(crate) fn streamed(content_type: &'static str, write: WriteLater) -> Self {
        Self { status: StatusCode::OK, content_type, body: Content::Later(write), allow: None }
    }

    pub(crate) fn text(status: StatusCode, body: impl Into<Vec<u8>>) -> Self {
        Self::new(status, TEXT, body)
    }

    /// What Envoy answers to a change that was made.
    pub(crate) fn ok() -> Self {
        Self::text(StatusCode::OK, "OK\n")
    }

    pub(crate) fn bad_request(body: impl Into<Vec<u8>>) -> Self {
        Self::text(StatusCode::BAD_REQUEST, body)
    }

    fn busy() -> Self {
        Self::text(StatusCode::SERVICE_UNAVAILABLE, "too many requests to the admin interface at once\n")
    }

    /// Pretty-printed, as Envoy does it.
    pub(crate) fn json(value: &impl Serialize) -> Self {
        let mut body = Pieces::default();
        let written = serde_json::to_writer_pretty(&mut body, value)
            .and_then(|()| body.write_all(b"\n").map_err(serde_json::Error::io));
        match written {
            Ok(()) => Self { status: StatusCode::OK, content_type: JSON, body: Content::Whole(body), allow: None },
            Err(error) => Self::text(StatusCode::INTERNAL_SERVER_ERROR, format!("cannot be shown: {error}\n")),
        }
    }
}

impl IntoResponse for Reply {
    fn into_response(self) -> Response {
        let body = match self.body {
            Content::Whole(pieces) => Body::new(pieces),
            Content::Streamed(streamed) => Body::new(streamed),
            Content::Later(_) => Body::empty(),
        };
        let mut response = Response::new(body);
        *response.status_mut() = self.status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        if let Some(allow) = self.allow {
            response.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
        }
        response
    }
}

pub(crate) fn router(admin: &Arc<Admin>, endpoints: Endpoints, hosts: AllowedHosts) -> Router {
    let mut router = Router::new();
    for endpoint in endpoints {
        let serve = move |State(admin): State<Arc<Admin>>, request: Request| serve(admin, *endpoint, request);
        router = router.route(endpoint.path, any(serve));
    }
    let unknown = move || async move {
        Reply::text(StatusCode::NOT_FOUND, format!("invalid path. {}", crate::help::text(endpoints)))
    };
    router.fallback(unknown).with_state(admin.clone()).layer(from_fn_with_state(hosts, guard))
}

async fn serve(admin: Arc<Admin>, endpoint: Endpoint, request: Request) -> Reply {
    let method = request.method();
    let reads = matches!(*method, Method::GET | Method::HEAD);
    let posts = *method == Method::POST;
    let changes = match endpoint.access {
        Access::Read => false,
        Access::Mutate => true,
        Access::MutateShown => request.uri().query().is_some_and(|query| !query.is_empty()),
    };
    if !(posts || reads && !changes) {
        let mut reply = if endpoint.access == Access::Read {
            Reply::text(StatusCode::METHOD_NOT_ALLOWED, format!("Method {method} not allowed.\n"))
        } else {
            Reply::text(StatusCode::METHOD_NOT_ALLOWED, format!("Method {method} not allowed, POST required."))
        };
        reply.allow = Some(if endpoint.access == Access::Read { "GET, HEAD, POST" } else { "POST" });
        return reply;
    }
    let parameters = match Parameters::of(request.uri()) {
        Ok(parameters) => parameters,
        Err(reply) => return reply,
    };
    let run = match endpoint.run {
        Run::Inline(run) => return run(&admin, &parameters),
        Run::Blocking(run) => run,
    };
    let Ok(Ok(turn)) = tokio::time::timeout(TURN, admin.turns.clone().acquire_owned()).await else {
        return Reply::busy();
    };
    let large = admin.large.clone();
    let worker = tokio::task::spawn_blocking(move || {
        let mut reply = run(&admin, &parameters);
        drop(turn);
        let is_large = match &reply.body {
            Content::Whole(pieces) => pieces.len() >= LARGE,
            Content::Later(_) | Content::Streamed(_) => true,
        };
        if !is_large {
            return reply;
        }
        let Ok(permit) = large.try_acquire_owned() else { return Reply::busy() };
        reply.body = match reply.body {
            Content::Whole(mut pieces) => {
                pieces.hold(permit);
                Content::Whole(pieces)
            }
            Content::Later(write) => {
                let (body, mut writer) = Streamed::new(permit);
                // Waits for its client, at most as long as a connection may last.
                tokio::task::spawn_blocking(move || write(&mut writer));
                Content::Streamed(body)
            }
            streamed @ Content::Streamed(_) => streamed,
        };
        reply
    });
    worker.await.unwrap_or_else(|error| {
        tracing::error!(%error, path = endpoint.path, "an admin handler failed");
        Reply::text(StatusCode::INTERNAL_SERVER_ERROR, "the handler failed; see the log\n")
    })
}
