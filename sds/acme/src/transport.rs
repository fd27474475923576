use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

/// One request with its answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Certificate chains are some kilobytes; nothing else is larger.
const MAX_BODY: usize = 1 << 20;
const MAX_ROOTS_FILE: u64 = 1 << 20;
/// Seconds; longer pauses are nobody's wish.
const RETRY_AFTER_MAX: u64 = 365 * 24 * 60 * 60;
/// RFC 8555 section 6.1 wants it.
const AGENT: HeaderValue = HeaderValue::from_static(concat!("tidegate/", env!("CARGO_PKG_VERSION")));

/// HTTPS to one directory, bounded in time and size. Remembers the last answer's `Retry-After`, which instant-acme
/// drops from errors.
#[derive(Clone)]
pub(crate) struct Transport {
    client: Client<HttpsConnector<HttpConnector>, BodyWrapper<Bytes>>,
    /// Seconds and one; zero if the last answer had none.
    retry_after: Arc<AtomicU64>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TransportError {
    #[error("{path} cannot be read: {source}", path = path.display())]
    Roots { path: PathBuf, source: std::io::Error },
    #[error("{path} has no certificate that could vouch for the directory: {reason}", path = path.display())]
    NoRoots { path: PathBuf, reason: String },
    #[error("the machine has no trusted authorities ({0}); name the directory's own with caCertificates")]
    NoSystemRoots(String),
    #[error("no TLS client: {0}")]
    Tls(#[from] rustls::Error),
    #[error("{host} cannot be reached: {reason}")]
    Connect { host: String, reason: String },
    #[error("{host} did not answer within {}", humantime::format_duration(REQUEST_TIMEOUT))]
    Timeout { host: String },
    #[error("{host} broke off its answer or it is larger than {MAX_BODY} bytes: {reason}")]
    Body { host: String, reason: String },
    #[error("{host} answered {status}")]
    Status { host: String, status: http::StatusCode },
    #[error("{host} redirects ({status}), which ACME does not allow")]
    Redirect { host: String, status: http::StatusCode },
}

impl Transport {
    /// Reads files: call it where blocking is allowed.
    ///
    /// # Errors
    /// No usable authorities for the directory's own TLS.
    pub(crate) fn new(roots: Option<&Path>) -> Result<Self, TransportError> {
        let roots = match roots {
            Some(path) => roots_of_file(path)?,
            None => roots_of_system()?,
        };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_only()
            .enable_http1()
            .enable_http2()
            .wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new()).build(connector);
        Ok(Self { client, retry_after: Arc::default() })
    }

    /// `Retry-After` of the last answer.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        self.retry_after.load(Relaxed).checked_sub(1).map(Duration::from_secs)
    }

    async fn exchange(self, mut request: Request<BodyWrapper<Bytes>>) -> Result<BytesResponse, TransportError> {
        request.headers_mut().insert(USER_AGENT, AGENT);
        let host = request.uri().authority().map(ToString::to_string).unwrap_or_default();
        let is_get = request.method() == http::Method::GET;
        self.retry_after.store(0, Relaxed);
        let whole = async {
            let response = self
                .client
                .request(request)
                .await
                .map_err(|error| TransportError::Connect { host: host.clone(), reason: causes(&error) })?;
            let (parts, body) = response.into_parts();
            let body = Limited::new(body, MAX_BODY)
                .collect()
                .await
                .map_err(|error| TransportError::Body { host: host.clone(), reason: error.to_string() })?
                .to_bytes();
            Ok::<_, TransportError>((parts, body))
        };
        let (mut parts, body) = match tokio::time::timeout(REQUEST_TIMEOUT, whole).await {
            Ok(result) => result?,
            Err(_) => return Err(TransportError::Timeout { host }),
        };
        if let Some(seconds) = retry_after(&parts.headers) {
            let seconds = seconds.min(RETRY_AFTER_MAX);
            self.retry_after.store(seconds + 1, Relaxed);
            // instant-acme adds any number to the time, which panics with the greatest.
            parts.headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        let status = parts.status;
        if status.is_redirection() {
            return Err(TransportError::Redirect { host, status });
        }
        // instant-acme would tell of broken JSON where a proxy in between answered in HTML, and looks at no status of the
        // directory.
        if (status.is_client_error() || status.is_server_error()) && (is_get || !is_json(&parts.headers)) {
            return Err(TransportError::Status { host, status });
        }
        Ok(Response::from_parts(parts, Full::new(body)).into())
    }
}

impl HttpClient for Transport {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let transport = self.clone();
        Box::pin(async move { transport.exchange(request).await.map_err(|error| Error::Other(Box::new(error))) })
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).is_some_and(|value| value.contains("json"))
}

/// Seconds from now (RFC 9110 section 10.2.3).
fn retry_after(headers: &HeaderMap) -> Option<u64> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    match value.parse() {
        Ok(seconds) => Some(seconds),
        Err(_) => {
            let at = httpdate::parse_http_date(value).ok()?;
            Some(at.duration_since(SystemTime::now()).unwrap_or_default().as_secs())
        }
    }
}

/// What lies below the error, all the way down: hyper's own text says only that something failed.
fn causes(error: &dyn std::error::Error) -> String {
    let error = error.source().unwrap_or(error);
    let mut text = error.to_string();
    let mut below = error.source();
    while let Some(error) = below {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        below = error.source();
    }
    text
}

fn roots_of_file(path: &Path) -> Result<RootCertStore, TransportError> {
    let unreadable = |source| TransportError::Roots { path: path.to_owned(), source };
    let none = |reason: String| TransportError::NoRoots { path: path.to_owned(), reason };
    let length = std::fs::metadata(path).map_err(unreadable)?.len();
    if length > MAX_ROOTS_FILE {
        return Err(none(format!("it is larger than {MAX_ROOTS_FILE} bytes")));
    }
    let pem = std::fs::read(path).map_err(unreadable)?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| none(error.to_string()))?;
        roots.add(certificate).map_err(|error| none(error.to_string()))?;
    }
    if roots.is_empty() { Err(none("it holds no PEM certificate".into())) } else { Ok(roots) }
}

fn roots_of_system() -> Result<RootCertStore, TransportError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        let reason = found.errors.first().map_or_else(|| "none was found".to_owned(), ToString::to_string);
        return Err(TransportError::NoSystemRoots(reason));
    }
    Ok(roots)
}
