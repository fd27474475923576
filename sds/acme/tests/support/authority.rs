//! An ACME authority in the test's own process: as little of RFC 8555 as an order needs, and faults on demand. It takes
//! signatures on trust; that ours are right is what pebble is for.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, IsCa, KeyPair, PublicKeyData, SerialNumber,
};
use serde_json::{Value, json};
use tidegate_sds::SecretStore;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// An answer that a fault gives in place of the real one.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// A problem document with a type, and `Retry-After`.
    Problem(u16, &'static str, &'static str, Option<&'static str>),
    /// What a proxy in between would send.
    Html(u16),
}

#[derive(Default)]
struct Order {
    names: Vec<String>,
    status: &'static str,
    replaces: Option<String>,
    chain: Option<String>,
}

/// What the authority has seen, and how it is to behave.
#[derive(Default)]
pub(crate) struct Books {
    /// Public keys of accounts, in the order of their registration.
    accounts: Vec<String>,
    contacts: BTreeMap<usize, Value>,
    orders: Vec<Order>,
    faults: VecDeque<(&'static str, Fault)>,
    /// Life of certificates; they begin at `now`.
    lifetime: Duration,
    now: Option<SystemTime>,
    window: Option<(SystemTime, SystemTime)>,
    /// Names that certificates carry in place of the ordered ones.
    misnames: Option<Vec<String>>,
    issued: u64,
    requests: u64,
}

pub(crate) struct Authority {
    pub(crate) url: String,
    /// PEM file that vouches for the authority's own TLS.
    pub(crate) roots: PathBuf,
    books: Arc<Mutex<Books>>,
    hold: watch::Sender<bool>,
    held: watch::Receiver<u64>,
    tasks: JoinSet<()>,
    port: u16,
    tls: TlsAcceptor,
    shared: Arc<Shared>,
    _folder: tempfile::TempDir,
}

struct Shared {
    books: Arc<Mutex<Books>>,
    /// Challenges are looked up here, if anywhere.
    store: Option<Arc<SecretStore>>,
    hold: watch::Receiver<bool>,
    held: watch::Sender<u64>,
    base: String,
    ca: rcgen::CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    /// Without a store every challenge is believed.
    pub(crate) async fn start(store: Option<Arc<SecretStore>>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (tls, roots) = own_tls(folder.path());
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let base = format!("https://localhost:{port}");
        let books = Arc::new(Mutex::new(Books { lifetime: Duration::from_secs(90 * 86400), ..Books::default() }));
        let (hold, hold_of_task) = watch::channel(false);
        let (held_of_task, held) = watch::channel(0);
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = rcgen::CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let shared = Arc::new(Shared {
            books: books.clone(),
            store,
            hold: hold_of_task,
            held: held_of_task,
            base: base.clone(),
            ca,
        });
        let mut authority = Self {
            url: format!("{base}/directory"),
            roots,
            books,
            hold,
            held,
            tasks: JoinSet::new(),
            port,
            tls,
            shared,
            _folder: folder,
        };
        authority.serve(listener);
        authority
    }

    fn serve(&mut self, listener: TcpListener) {
        let (tls, shared) = (self.tls.clone(), self.shared.clone());
        self.tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (tls, shared) = (tls.clone(), shared.clone());
                connections.spawn(async move {
                    let Ok(stream) = tls.accept(stream).await else { return };
                    let service = service_fn(move |request| answer(shared.clone(), request));
                    let connection = hyper::server::conn::http1::Builder::new();
                    let _ = connection.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
    }

    /// Nobody answers any more.
    pub(crate) async fn go_down(&mut self) {
        self.tasks.shutdown().await;
    }

    pub(crate) async fn come_back(&mut self) {
        let listener = TcpListener::bind(("127.0.0.1", self.port)).await.unwrap();
        self.serve(listener);
    }

    /// The next requests whose path begins so get these answers, one each.
    pub(crate) fn fail(&self, path: &'static str, fault: Fault) {
        self.books.lock().faults.push_back((path, fault));
    }

    /// Certificates begin at this time and live so long.
    pub(crate) fn issue_at(&self, now: SystemTime, lifetime: Duration) {
        let mut books = self.books.lock();
        books.now = Some(now);
        books.lifetime = lifetime;
    }

    /// Renewal information is offered and suggests this window.
    pub(crate) fn suggest(&self, start: SystemTime, end: SystemTime) {
        self.books.lock().window = Some((start, end));
    }

    pub(crate) fn misname(&self, names: &[&str]) {
        self.books.lock().misnames = Some(names.iter().map(|&name| name.to_owned()).collect());
    }

    /// From now on challenges are not validated until [`Authority::release`].
    pub(crate) fn hold(&self) {
        self.hold.send_replace(true);
    }

    pub(crate) fn release(&self) {
        self.hold.send_replace(false);
    }

    /// Waits until so many challenges have been held since the start.
    pub(crate) async fn challenged(&self, times: u64) {
        let mut held = self.held.clone();
        tokio::time::timeout(super::PATIENCE, held.wait_for(|held| *held >= times))
            .await
            .expect("a challenge")
            .unwrap();
    }

    pub(crate) fn accounts(&self) -> usize {
        self.books.lock().accounts.len()
    }

    pub(crate) fn contacts(&self) -> Vec<Value> {
        self.books.lock().contacts.values().cloned().collect()
    }

    pub(crate) fn orders(&self) -> usize {
        self.books.lock().orders.len()
    }

    pub(crate) fn requests(&self) -> u64 {
        self.books.lock().requests
    }

    /// What each order says that it replaces.
    pub(crate) fn replaced(&self) -> Vec<bool> {
        self.books.lock().orders.iter().map(|order| order.replaces.is_some()).collect()
    }
}

fn own_tls(folder: &Path) -> (TlsAcceptor, PathBuf) {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    let roots = folder.join("roots.pem");
    std::fs::write(&roots, certificate.pem()).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    (TlsAcceptor::from(Arc::new(config)), roots)
}

type Answer = Response<Full<Bytes>>;

async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Answer, Infallible> {
    let path = request.uri().path().to_owned();
    let method = request.method().clone();
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    shared.books.lock().requests += 1;
    let mut response = match fault(&shared, &path) {
        Some(response) => response,
        None => serve(&shared, &method, &path, &body).await,
    };
    let nonce = format!("nonce-{}", shared.books.lock().requests);
    response.headers_mut().insert("replay-nonce", nonce.parse().unwrap());
    Ok(response)
}

fn fault(shared: &Shared, path: &str) -> Option<Answer> {
    let mut books = shared.books.lock();
    let at = books.faults.iter().position(|(prefix, _)| path.starts_with(prefix))?;
    let (_, fault) = books.faults.remove(at)?;
    Some(match fault {
        Fault::Problem(status, kind, detail, retry_after) => {
            let problem = json!({"type": format!("urn:ietf:params:acme:error:{kind}"), "detail": detail});
            let mut response = reply(status, &problem);
            response.headers_mut().insert("content-type", "application/problem+json".parse().unwrap());
            if let Some(after) = retry_after {
                response.headers_mut().insert("retry-after", after.parse().unwrap());
            }
            response
        }
        Fault::Html(status) => {
            let mut response = Response::new(Full::new(Bytes::from_static(b"<html>bad gateway</html>")));
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            response.headers_mut().insert("content-type", "text/html".parse().unwrap());
            response
        }
    })
}

fn reply(status: u16, body: &Value) -> Answer {
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response.headers_mut().insert("content-type", "application/json".parse().unwrap());
    response
}

fn located(status: u16, body: &Value, location: &str) -> Answer {
    let mut response = reply(status, body);
    response.headers_mut().insert("location", location.parse().unwrap());
    response
}

/// The protected header and the payload of a JWS.
fn unpack(body: &[u8]) -> (Value, Value) {
    let decode = |text: &Value| BASE64_URL_SAFE_NO_PAD.decode(text.as_str().unwrap_or_default()).unwrap_or_default();
    let jws: Value = serde_json::from_slice(body).unwrap_or_default();
    let header = serde_json::from_slice(&decode(&jws["protected"])).unwrap_or_default();
    (header, serde_json::from_slice(&decode(&jws["payload"])).unwrap_or_default())
}

async fn serve(shared: &Shared, method: &Method, path: &str, body: &[u8]) -> Answer {
    let base = &shared.base;
    let (header, payload) = unpack(body);
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let number = |at: usize| parts.get(at).and_then(|part| part.parse::<usize>().ok()).unwrap_or(usize::MAX);
    match (method, parts[0]) {
        (&Method::GET, "directory") => {
            let mut directory = json!({
                "newNonce": format!("{base}/nonce"),
                "newAccount": format!("{base}/account"),
                "newOrder": format!("{base}/order"),
            });
            if shared.books.lock().window.is_some() {
                directory["renewalInfo"] = json!(format!("{base}/renewal"));
            }
            reply(200, &directory)
        }
        (&Method::HEAD, "nonce") => Response::default(),
        (&Method::GET, "renewal") => {
            let window = shared.books.lock().window;
            let Some((start, end)) = window else { return reply(404, &json!({})) };
            let time = |time| humantime::format_rfc3339_seconds(time).to_string();
            let mut response = reply(200, &json!({"suggestedWindow": {"start": time(start), "end": time(end)}}));
            response.headers_mut().insert("retry-after", "21600".parse().unwrap());
            response
        }
        (&Method::POST, "account") if parts.len() == 1 => {
            let key = header["jwk"].to_string();
            let mut books = shared.books.lock();
            let known = books.accounts.iter().position(|account| *account == key);
            let number = known.unwrap_or_else(|| {
                books.accounts.push(key);
                books.accounts.len() - 1
            });
            let status = if known.is_some() { 200 } else { 201 };
            located(status, &json!({"status": "valid"}), &format!("{base}/account/{number}"))
        }
        (&Method::POST, "account") => {
            shared.books.lock().contacts.insert(number(1), payload["contact"].clone());
            reply(200, &json!({"status": "valid"}))
        }
        (&Method::POST, "order") if parts.len() == 1 => {
            let identifiers = payload["identifiers"].as_array().cloned().unwrap_or_default();
            let names = identifiers.iter().map(|name| name["value"].as_str().unwrap_or_default().to_owned()).collect();
            let mut books = shared.books.lock();
            let replaces = payload["replaces"].as_str().map(str::to_owned);
            books.orders.push(Order { names, status: "pending", replaces, chain: None });
            let number = books.orders.len() - 1;
            located(201, &order_body(shared, &books, number), &format!("{base}/order/{number}"))
        }
        (&Method::POST, "order") => {
            let books = shared.books.lock();
            if number(1) < books.orders.len() {
                reply(200, &order_body(shared, &books, number(1)))
            } else {
                reply(404, &json!({"type": "urn:ietf:params:acme:error:malformed", "detail": "no such order"}))
            }
        }
        (&Method::POST, "authz") => {
            let books = shared.books.lock();
            let order = &books.orders[number(1)];
            let challenge = |kind: &str| {
                json!({
                    "type": kind,
                    "url": format!("{base}/challenge/{}/{}/{kind}", number(1), number(2)),
                    "token": format!("token-{}-{}", number(1), number(2)),
                    "status": if order.status == "pending" { "pending" } else { "valid" },
                })
            };
            reply(
                200,
                &json!({
                    "identifier": {"type": "dns", "value": order.names[number(2)]},
                    "status": if order.status == "pending" { "pending" } else { "valid" },
                    "challenges": [challenge("http-01"), challenge("tls-alpn-01")],
                }),
            )
        }
        (&Method::POST, "challenge") => {
            let mut hold = shared.hold.clone();
            if *hold.borrow() {
                shared.held.send_modify(|held| *held += 1);
                let _ = hold.wait_for(|hold| !hold).await;
            }
            let mut books = shared.books.lock();
            let order = &mut books.orders[number(1)];
            let token = format!("token-{}-{}", number(1), number(2));
            let answered = shared.store.as_ref().is_none_or(|store| match parts[3] {
                "http-01" => store.challenges().http(&token).is_some_and(|answer| answer.starts_with(&token)),
                _ => store.challenges().tls_alpn(&order.names[number(2)]).is_some(),
            });
            // A real one looks at all names; the tests that are refused have one.
            order.status = match (answered, number(2) + 1 == order.names.len()) {
                (false, _) => "invalid",
                (true, true) => "ready",
                (true, false) => order.status,
            };
            reply(
                200,
                &json!({"type": parts[3], "url": format!("{base}{path}"), "token": token, "status": "processing"}),
            )
        }
        (&Method::POST, "finalize") => {
            let csr = BASE64_URL_SAFE_NO_PAD.decode(payload["csr"].as_str().unwrap_or_default()).unwrap();
            let mut books = shared.books.lock();
            let chain = sign(shared, &mut books, &csr);
            let order = &mut books.orders[number(1)];
            order.chain = Some(chain);
            order.status = "valid";
            reply(200, &order_body(shared, &books, number(1)))
        }
        (&Method::POST, "certificate") => {
            let chain = shared.books.lock().orders[number(1)].chain.clone().unwrap();
            let mut response = Response::new(Full::new(Bytes::from(chain)));
            response.headers_mut().insert("content-type", "application/pem-certificate-chain".parse().unwrap());
            response
        }
        _ => reply(404, &json!({"type": "urn:ietf:params:acme:error:malformed", "detail": "no such resource"})),
    }
}

fn order_body(shared: &Shared, books: &Books, number: usize) -> Value {
    let order = &books.orders[number];
    let base = &shared.base;
    let authorizations: Vec<String> = (0..order.names.len()).map(|at| format!("{base}/authz/{number}/{at}")).collect();
    let mut body = json!({
        "status": order.status,
        "authorizations": authorizations,
        "finalize": format!("{base}/finalize/{number}"),
    });
    if let Some(replaces) = &order.replaces {
        body["replaces"] = json!(replaces);
    }
    if order.chain.is_some() {
        body["certificate"] = json!(format!("{base}/certificate/{number}"));
    }
    body
}

fn sign(shared: &Shared, books: &mut Books, csr: &[u8]) -> String {
    let mut request = CertificateSigningRequestParams::from_der(&csr.to_vec().into()).unwrap();
    books.issued += 1;
    let now = books.now.unwrap_or_else(SystemTime::now);
    request.params.not_before = now.into();
    request.params.not_after = (now + books.lifetime).into();
    request.params.serial_number = Some(SerialNumber::from(books.issued));
    request.params.use_authority_key_identifier_extension = true;
    if let Some(names) = &books.misnames {
        request.params.subject_alt_names = CertificateParams::new(names.clone()).unwrap().subject_alt_names;
    }
    assert!(!request.public_key.der_bytes().is_empty());
    let leaf = request.signed_by(&shared.ca).unwrap();
    format!("{}{}", leaf.pem(), shared.ca.pem())
}
