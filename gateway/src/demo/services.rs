//! What the application's services answer.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::caller::Caller;
use super::page::{self, PageFacts};

/// Reviews that the page remembers to show how traffic is split.
const REMEMBERED: usize = 60;
/// Longest name of a user.
const MAX_USER: usize = 32;
/// Calls that one request may cause in a row: a route that sends services in circles ends here.
const MAX_HOPS: u8 = 4;
const HOPS: &str = "x-demo-hops";
const SERVED_BY: &str = "x-served-by";

/// One version of one service.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Service {
    ProductPage,
    Details,
    ReviewsV1,
    ReviewsV2,
    ReviewsV3,
    Ratings,
}

impl Service {
    pub(crate) const ALL: [Service; 6] =
        [Self::ProductPage, Self::Details, Self::ReviewsV1, Self::ReviewsV2, Self::ReviewsV3, Self::Ratings];

    pub(crate) fn app(self) -> &'static str {
        match self {
            Self::ProductPage => "productpage",
            Self::Details => "details",
            Self::ReviewsV1 | Self::ReviewsV2 | Self::ReviewsV3 => "reviews",
            Self::Ratings => "ratings",
        }
    }

    pub(crate) fn version(self) -> &'static str {
        match self {
            Self::ReviewsV2 => "v2",
            Self::ReviewsV3 => "v3",
            _ => "v1",
        }
    }

    fn served_by(self) -> String {
        format!("{}-{}", self.app(), self.version())
    }
}

/// The application. One value serves all its services.
#[derive(Debug)]
pub(crate) struct Application {
    caller: Caller,
    /// Shown on the page, as the place to edit.
    folder: String,
    /// `http://localhost:8080`.
    url: String,
    /// Known when the gateway serves, see [`page::PageFacts::explain_options`].
    explain_options: Arc<OnceLock<String>>,
    /// Who answered the last calls for reviews, latest last.
    answered: Mutex<VecDeque<String>>,
}

impl Application {
    pub(crate) fn new(caller: Caller, folder: String, url: String, explain_options: Arc<OnceLock<String>>) -> Self {
        Self { caller, folder, url, explain_options, answered: Mutex::default() }
    }

    /// The answer of one service.
    pub(crate) async fn respond(
        self: Arc<Self>,
        service: Service,
        request: Request<Incoming>,
    ) -> Response<Full<Bytes>> {
        let served_by = service.served_by();
        let mut response = self.route(service, &request).await;
        if let Ok(value) = HeaderValue::from_str(&served_by) {
            response.headers_mut().insert(SERVED_BY, value);
        }
        response
    }

    async fn route(&self, service: Service, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return reply(StatusCode::METHOD_NOT_ALLOWED, &json!({"error": "only GET is served here"}));
        }
        let Some(headers) = onward(request.headers()) else {
            let message = json!({"error": "these routes send the services in circles"});
            return reply(StatusCode::LOOP_DETECTED, &message);
        };
        let path = request.uri().path();
        if path == "/health" {
            return reply(StatusCode::OK, &json!({"status": "healthy"}));
        }
        match service {
            Service::ProductPage => self.product_page(request, headers).await,
            Service::Details if path.starts_with("/details/") => reply(StatusCode::OK, &details()),
            Service::Ratings if path.starts_with("/ratings/") => reply(StatusCode::OK, &ratings()),
            Service::ReviewsV1 | Service::ReviewsV2 | Service::ReviewsV3 if path.starts_with("/reviews/") => {
                self.reviews(service, headers).await
            }
            _ => {
                let message = format!("{} has no {}", service.served_by(), path.get(..64).unwrap_or(path));
                reply(StatusCode::NOT_FOUND, &json!({"error": message}))
            }
        }
    }

    /// Version 1 knows no stars; the others ask `ratings` for them, through the gateway.
    async fn reviews(&self, service: Service, headers: HeaderMap) -> Response<Full<Bytes>> {
        let color = match service {
            Service::ReviewsV2 => "black",
            Service::ReviewsV3 => "red",
            _ => "",
        };
        let ratings = if color.is_empty() { None } else { Some(self.caller.get("/ratings/0", headers).await) };
        let rating = |reviewer: &str| match &ratings {
            None => Value::Null,
            Some(call) => match call.body["ratings"][reviewer].as_u64() {
                Some(stars) => json!({"stars": stars, "color": color}),
                None => json!({"error": "the ratings service does not answer"}),
            },
        };
        let review = |reviewer: &str, text: &str| {
            let mut review = json!({"reviewer": reviewer, "text": text});
            let rating = rating(reviewer);
            if !rating.is_null() {
                review["rating"] = rating;
            }
            review
        };
        let body = json!({
            "id": "0",
            "version": service.version(),
            "servedBy": service.served_by(),
            "reviews": [
                review("Conseil", "I have classified every creature in it, and I found no error worth \
                                   mentioning. Monsieur will want a second copy for the library."),
                review("Ned Land", "Too much water and not one decent steak. I read it in a single night all the \
                                    same, and I would follow that captain only as far as the nearest shore."),
            ],
        });
        reply(StatusCode::OK, &body)
    }

    async fn product_page(&self, request: &Request<Incoming>, mut headers: HeaderMap) -> Response<Full<Bytes>> {
        match request.uri().path() {
            "/static/page.css" => return asset("text/css; charset=utf-8", page::CSS),
            "/static/icon.svg" => return asset("image/svg+xml", page::ICON),
            path if path.starts_with("/static/") => {
                return reply(StatusCode::NOT_FOUND, &json!({"error": "no such file"}));
            }
            _ => {}
        }
        let query = request.uri().query().unwrap_or_default();
        if let Some(user) = parameter(query, "user") {
            return sign_in(user);
        }
        let user = signed_in(request.headers());
        match user.as_deref().map(HeaderValue::from_str) {
            Some(Ok(user)) => {
                headers.insert("end-user", user);
            }
            _ => {
                headers.remove("end-user");
            }
        }
        let (details, reviews) =
            tokio::join!(self.caller.get("/details/0", headers.clone()), self.caller.get("/reviews/0", headers));
        let answered = {
            let mut answered = self.answered.lock();
            if answered.len() == REMEMBERED {
                answered.pop_front();
            }
            answered.push_back(page::version_of(&reviews).to_owned());
            answered.iter().cloned().collect::<Vec<_>>()
        };
        let facts = PageFacts {
            user: user.as_deref(),
            refresh: parameter(query, "refresh") == Some("on"),
            details: &details,
            reviews: &reviews,
            answered: &answered,
            folder: &self.folder,
            url: &self.url,
            explain_options: self.explain_options.get().map_or("", String::as_str),
        };
        html(page::render(&facts))
    }
}

/// The headers that go on with the calls a request causes: who asks, and what traces need. None after too many hops.
fn onward(headers: &HeaderMap) -> Option<HeaderMap> {
    const NAMES: [&str; 9] = [
        "end-user",
        "x-request-id",
        "traceparent",
        "tracestate",
        "b3",
        "x-b3-traceid",
        "x-b3-spanid",
        "x-b3-parentspanid",
        "x-b3-sampled",
    ];
    let hops: u8 = headers.get(HOPS).and_then(|hops| hops.to_str().ok()?.parse().ok()).unwrap_or(0);
    if hops >= MAX_HOPS {
        return None;
    }
    let mut onward = HeaderMap::new();
    onward.insert(HOPS, HeaderValue::from(u16::from(hops) + 1));
    for name in NAMES {
        if let Some(value) = headers.get(name) {
            onward.insert(name, value.clone());
        }
    }
    Some(onward)
}

/// Who asks: the header `end-user`, else the cookie that signing in sets.
fn signed_in(headers: &HeaderMap) -> Option<String> {
    let header = headers.get("end-user").and_then(|user| user.to_str().ok());
    let cookie = || {
        headers
            .get_all(header::COOKIE)
            .iter()
            .filter_map(|cookies| cookies.to_str().ok())
            .find_map(|cookies| cookies.split(';').find_map(|cookie| cookie.trim().strip_prefix("demo-user=")))
    };
    header.or_else(cookie).filter(|user| is_user(user)).map(str::to_owned)
}

fn is_user(name: &str) -> bool {
    (1..=MAX_USER).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// The value of a query parameter as written: nothing that we look for needs decoding.
fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}

/// Signs in by cookie, or out if the name is empty or no name, and goes back to the page.
fn sign_in(user: &str) -> Response<Full<Bytes>> {
    let cookie = if is_user(user) {
        format!("demo-user={user}; Path=/; HttpOnly; SameSite=Lax")
    } else {
        "demo-user=; Path=/; Max-Age=0; HttpOnly; SameSite=Lax".to_owned()
    };
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SEE_OTHER;
    response.headers_mut().insert(header::LOCATION, HeaderValue::from_static("/productpage"));
    if let Ok(cookie) = HeaderValue::from_str(&cookie) {
        response.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    response
}

fn details() -> Value {
    json!({
        "id": 0, "author": "Jules Verne", "year": 1870, "pages": 616, "publisher": "Hetzel",
        "language": "French", "illustrations": 111, "servedBy": "details-v1",
    })
}

fn ratings() -> Value {
    json!({"id": 0, "ratings": {"Conseil": 5, "Ned Land": 4}, "servedBy": "ratings-v1"})
}

fn reply(status: StatusCode, body: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(format!("{body}\n")));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn html(body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    let policy = "default-src 'none'; style-src 'self' 'unsafe-inline'; img-src 'self'; base-uri 'none'";
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    response
}

fn asset(content_type: &'static str, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("max-age=60"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_wins_over_the_cookie_and_odd_names_are_nobody() {
        let user = |pairs: &[(&'static str, &str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.append(*name, value.parse().unwrap());
            }
            signed_in(&headers)
        };
        assert_eq!(user(&[("cookie", "a=b; demo-user=jason; c=d")]).as_deref(), Some("jason"));
        assert_eq!(user(&[("end-user", "ann"), ("cookie", "demo-user=jason")]).as_deref(), Some("ann"));
        assert_eq!(user(&[("end-user", "<script>")]), None);
        assert_eq!(user(&[("end-user", &"x".repeat(MAX_USER + 1))]), None);
        assert_eq!(user(&[("cookie", "xdemo-user=jason")]), None);
    }

    #[test]
    fn circles_of_calls_end() {
        let mut headers = HeaderMap::new();
        headers.insert("end-user", HeaderValue::from_static("jason"));
        headers.insert("authorization", HeaderValue::from_static("secret"));
        for hop in 1..=MAX_HOPS {
            headers = onward(&headers).unwrap();
            assert_eq!(headers[HOPS], hop.to_string());
            assert_eq!(headers["end-user"], "jason");
            assert!(!headers.contains_key("authorization"));
        }
        assert_eq!(onward(&headers), None);
    }

    #[test]
    fn parameters_are_found_by_their_whole_name() {
        assert_eq!(parameter("a=1&user=jason", "user"), Some("jason"));
        assert_eq!(parameter("user=", "user"), Some(""));
        assert_eq!(parameter("username=x", "user"), None);
    }
}
