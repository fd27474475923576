//! An explanation of a request, for people.
//!
//! It reads the JSON form, which is stable: an explanation made here and one fetched from a running gateway, perhaps of
//! another version, print the same.

use std::fmt::Write;

use serde::Deserialize;
use serde_json::Value;

use super::diagnostics::printable;
use super::{Paint, Table};

/// Routes that are shown at the beginning and at the end of a long list.
const SHOWN_ROUTES: usize = 20;
/// Endpoints that are shown of one cluster.
const SHOWN_ENDPOINTS: usize = 10;

/// What is shown of `tidegate_snapshot::Explanation`.
#[derive(Debug, Deserialize)]
pub(crate) struct ExplanationView {
    snapshot: String,
    request: Request,
    listener: Option<Listener>,
    /// Absent in the answer of an older gateway, as all that is optional below.
    filter_chain: Option<FilterChain>,
    virtual_host: Option<VirtualHost>,
    tried: Vec<Tried>,
    outcome: Outcome,
    #[serde(default)]
    hints: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Request {
    method: String,
    authority: String,
    host: String,
    target: String,
    normalized: String,
    port: u16,
    #[serde(default)]
    server_name: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Listener {
    name: String,
    configured_at: Vec<Place>,
}

#[derive(Debug, Deserialize)]
struct FilterChain {
    name: String,
    server_names: Vec<String>,
    server_name_count: usize,
    tls_mode: String,
    tls: Option<Tls>,
    configured_at: Vec<Place>,
}

#[derive(Debug, Deserialize)]
struct Tls {
    min_version: String,
    max_version: String,
    alpn: Vec<String>,
    certificates: Vec<Secret>,
    client_authorities: Option<Secret>,
    #[serde(default)]
    client_conditions: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Secret {
    names: Vec<String>,
    configured_at: Option<Place>,
    standing: Option<Standing>,
}

#[derive(Debug, Deserialize)]
struct Standing {
    state: String,
    #[serde(default)]
    remarks: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct VirtualHost {
    name: String,
    domains: Vec<String>,
    route_table: String,
    configured_at: Vec<Place>,
}

#[derive(Debug, Deserialize)]
struct Place {
    object: String,
    origin: String,
}

#[derive(Debug, Deserialize)]
struct Tried {
    index: usize,
    name: String,
    place: Place,
    matched: bool,
    reason: String,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "action", rename_all = "camelCase")]
enum Outcome {
    #[serde(rename_all = "camelCase")]
    Forward {
        clusters: Vec<Cluster>,
        path: String,
        authority: String,
        #[serde(default)]
        timeout_ms: Option<u64>,
        #[serde(default)]
        request_headers: HeaderOperations,
        #[serde(default)]
        response_headers: HeaderOperations,
    },
    Redirect {
        status: u16,
        location: String,
    },
    DirectResponse {
        status: u16,
    },
    #[serde(rename_all = "camelCase")]
    Proxy {
        clusters: Vec<Cluster>,
        #[serde(default)]
        idle_timeout_ms: Option<u64>,
    },
    Accepted {
        reason: String,
    },
    LocalReply {
        status: u16,
        flags: String,
        details: String,
        reason: String,
    },
}

#[derive(Debug, Deserialize)]
struct Cluster {
    name: String,
    percent: f64,
    found: bool,
    endpoints: Vec<Endpoint>,
    configured_at: Vec<Place>,
    tls: Option<ClientTls>,
    #[serde(default)]
    request_headers: HeaderOperations,
    #[serde(default)]
    response_headers: HeaderOperations,
}

#[derive(Debug, Deserialize)]
struct ClientTls {
    server_name: Option<String>,
    authorities: Option<Secret>,
    #[serde(default)]
    subject_alt_names: Vec<String>,
    certificate: Option<Secret>,
}

impl ClientTls {
    /// One line of its parts.
    fn shown(&self, paint: Paint) -> String {
        let mut parts = Vec::new();
        parts.push(match &self.server_name {
            Some(name) => format!("server name {}", printable(name)),
            None => "server name of the Host".to_owned(),
        });
        parts.push(match &self.authorities {
            Some(authorities) => format!("verified by {}", secret(authorities, paint)),
            None => paint.error("not verified"),
        });
        if !self.subject_alt_names.is_empty() {
            parts.push(format!("for {}", printable(&self.subject_alt_names.join(" or "))));
        }
        if let Some(certificate) = &self.certificate {
            parts.push(format!("as {}", secret(certificate, paint)));
        }
        parts.join(", ")
    }
}

#[derive(Debug, Deserialize)]
struct Endpoint {
    address: String,
    healthy: bool,
    weight: u32,
    workload: String,
    origin: String,
}

#[derive(Debug, Default, Deserialize)]
struct HeaderOperations {
    #[serde(default)]
    remove: Vec<String>,
    #[serde(default)]
    set: Vec<(String, Value)>,
    #[serde(default)]
    add: Vec<(String, Value)>,
}

impl HeaderOperations {
    fn write_rows(&self, label: &str, paint: Paint, table: &mut Table) {
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let removed = self.remove.iter().map(|name| format!("remove {name}"));
        let set = self.set.iter().map(|(name, value)| format!("set {name}: {}", text(value)));
        let added = self.add.iter().map(|(name, value)| format!("add {name}: {}", text(value)));
        for (at, operation) in removed.chain(set).chain(added).enumerate() {
            let label = if at == 0 { paint.label(label) } else { String::new() };
            table.row([label, printable(&operation)]);
        }
    }
}

/// The whole explanation. `scheme` and `headers` are the request's own, which the JSON form does not repeat.
pub(crate) fn explanation(view: &ExplanationView, scheme: &str, headers: &[(String, String)], paint: Paint) -> String {
    let mut out = String::new();
    let request = &view.request;
    if matches!(scheme, "tls" | "tcp") {
        let url = format!("{scheme}://{}", request.authority);
        let _ = writeln!(out, "{}", paint.strong(&printable(&url)));
    } else {
        let url = format!("{scheme}://{}{}", request.authority, request.target);
        let _ = writeln!(out, "{} {}", paint.strong(&request.method), paint.strong(&printable(&url)));
    }
    if let Some(name) = request.server_name.as_ref().filter(|name| **name != request.host) {
        let _ = writeln!(out, "  {} {}", paint.faint("server name (SNI):"), printable(name));
    }
    for (name, value) in headers {
        let _ = writeln!(out, "  {} {}", paint.faint(&format!("{name}:")), printable(value));
    }
    if !request.normalized.is_empty() && request.normalized != request.target {
        let _ = writeln!(out, "  {} {}", paint.faint("normalized to"), printable(&request.normalized));
    }
    out.push('\n');
    write_selection(&mut out, view, paint);
    write_routes(&mut out, view, paint);
    write_outcome(&mut out, &view.outcome, paint);
    for hint in &view.hints {
        let _ = writeln!(out, "{} {}", paint.good("hint:"), printable(hint));
    }
    let _ = writeln!(out, "{}", paint.faint(&format!("snapshot {}", view.snapshot)));
    out
}

fn write_selection(out: &mut String, view: &ExplanationView, paint: Paint) {
    let mut table = Table::default();
    let mut row = |label: &str, value: String, places: &[Place]| {
        let none = [Place { object: String::new(), origin: String::new() }];
        let places = if places.is_empty() { &none } else { places };
        for (at, place) in places.iter().enumerate() {
            let (label, value) =
                if at == 0 { (paint.label(label), value.clone()) } else { (String::new(), String::new()) };
            table.row([label, value, printable(&place.object), paint_origin(&place.origin, paint)]);
        }
    };
    match &view.listener {
        Some(listener) => row("listener", paint.strong(&printable(&listener.name)), &listener.configured_at),
        None => row("listener", paint.error(&format!("none on port {}", view.request.port)), &[]),
    }
    if let Some(chain) = &view.filter_chain {
        write_chain(chain, &mut row, paint);
    }
    let routes_requests = !matches!(view.outcome, Outcome::Proxy { .. } | Outcome::Accepted { .. });
    let is_misdirected = matches!(&view.outcome, Outcome::LocalReply { status: 0 | 421, .. });
    if view.listener.is_some() && routes_requests && !is_misdirected {
        match &view.virtual_host {
            Some(host) => {
                let name = paint.strong(&printable(&host.name));
                let value = if host.domains.len() > 1 {
                    format!("{name} {}", paint.faint(&format!("({} domains)", host.domains.len())))
                } else {
                    name
                };
                row("virtual host", value, &host.configured_at);
            }
            None => row("virtual host", paint.error(&format!("none for `{}`", printable(&view.request.host))), &[]),
        }
    }
    out.push_str(&table.render(""));
}

/// The filter chain with its TLS, if it is one of several or has TLS. Plaintext HTTP has nothing to choose.
fn write_chain(chain: &FilterChain, row: &mut impl FnMut(&str, String, &[Place]), paint: Paint) {
    if chain.tls_mode == "NONE" {
        return;
    }
    let mut names = chain.server_names.first().map_or("any server name".to_owned(), |name| printable(name));
    if chain.server_name_count > 1 {
        let _ = write!(names, " and {} more", chain.server_name_count - 1);
    }
    let name = format!("{} {}", paint.strong(&printable(&chain.name)), paint.faint(&format!("({names})")));
    row("filter chain", name, &chain.configured_at);
    let Some(tls) = &chain.tls else {
        let what = if chain.tls_mode == "PASSTHROUGH" { "not terminated here" } else { "no handshake succeeds" };
        row("tls", format!("{}: {what}", printable(&chain.tls_mode)), &[]);
        return;
    };
    let mut versions = tls.min_version.clone();
    if tls.max_version != tls.min_version {
        let _ = write!(versions, " to {}", tls.max_version);
    }
    let alpn = if tls.alpn.is_empty() { String::new() } else { format!(", {}", tls.alpn.join(" ")) };
    row(
        "tls",
        format!("{} {}", printable(&chain.tls_mode), paint.faint(&printable(&format!("{versions}{alpn}")))),
        &[],
    );
    for certificate in &tls.certificates {
        row("certificate", secret(certificate, paint), certificate.configured_at.as_slice());
    }
    if let Some(authorities) = &tls.client_authorities {
        row("client's CA", secret(authorities, paint), authorities.configured_at.as_slice());
    }
    for condition in &tls.client_conditions {
        row("client", printable(condition), &[]);
    }
}

fn secret(secret: &Secret, paint: Paint) -> String {
    let mut names = secret.names.iter().map(|name| printable(name));
    let first = names.next().unwrap_or_default();
    let shown = names.fold(first, |shown, name| format!("{shown} {} {name}", paint.faint("or")));
    let Some(standing) = &secret.standing else { return shown };
    let remarks = printable(&standing.remarks.join("; "));
    match standing.state.as_str() {
        "MISSING" => format!("{shown} {}", paint.error(&format!("(missing: {remarks})"))),
        _ if remarks.is_empty() => shown,
        _ => format!("{shown} {}", paint.warning(&format!("({remarks})"))),
    }
}

fn paint_origin(origin: &str, paint: Paint) -> String {
    if origin.is_empty() { String::new() } else { paint.place(&printable(origin)) }
}

fn write_routes(out: &mut String, view: &ExplanationView, paint: Paint) {
    let Some(host) = &view.virtual_host else {
        out.push('\n');
        return;
    };
    if view.tried.is_empty() {
        out.push('\n');
        return;
    }
    let heading = format!("routes of {} that were tried, in order", host.route_table);
    let _ = writeln!(out, "\n{}", paint.label(&heading));
    let hidden = view.tried.len().saturating_sub(2 * SHOWN_ROUTES);
    let mut table = Table::default();
    for (at, tried) in view.tried.iter().enumerate() {
        if hidden > 0 && (SHOWN_ROUTES..SHOWN_ROUTES + hidden).contains(&at) {
            if at == SHOWN_ROUTES {
                let note = format!("... {hidden} more that did not match (all of them: -o json)");
                table.row([String::new(), String::new(), paint.faint(&note), String::new()]);
            }
            continue;
        }
        let (mark, verdict) = if tried.matched {
            (paint.good("✓"), paint.good("taken"))
        } else {
            (paint.faint("✗"), printable(&tried.reason))
        };
        let name = if tried.name.is_empty() { format!("#{}", tried.index + 1) } else { printable(&tried.name) };
        let name = if tried.matched { paint.strong(&name) } else { name };
        let place =
            format!("{}  {}", paint.faint(&printable(&tried.place.object)), paint_origin(&tried.place.origin, paint));
        table.row([format!("{mark} {name}"), verdict, place, String::new()]);
    }
    out.push_str(&table.render("  "));
    out.push('\n');
}

fn write_outcome(out: &mut String, outcome: &Outcome, paint: Paint) {
    match outcome {
        Outcome::Forward { clusters, path, authority, timeout_ms, request_headers, response_headers } => {
            let mut table = Table::default();
            let upstream = format!("{} {}", printable(path), paint.faint(&format!("Host: {}", printable(authority))));
            table.row([paint.label("forwarded as"), upstream]);
            if let Some(timeout) = timeout_ms {
                let timeout = humantime::format_duration(std::time::Duration::from_millis(*timeout));
                table.row([paint.label("timeout"), timeout.to_string()]);
            }
            request_headers.write_rows("request headers", paint, &mut table);
            response_headers.write_rows("response headers", paint, &mut table);
            out.push_str(&table.render(""));
            for cluster in clusters {
                write_cluster(out, cluster, "503", paint);
            }
            out.push('\n');
        }
        Outcome::Redirect { status, location } => {
            let _ = writeln!(
                out,
                "{} {} to {}\n",
                paint.label("redirected"),
                paint.strong(&status.to_string()),
                paint.place(&printable(location))
            );
        }
        Outcome::DirectResponse { status } => {
            let status = paint.strong(&status.to_string());
            let _ = writeln!(out, "{} {status} by the gateway itself\n", paint.label("answered"));
        }
        Outcome::Proxy { clusters, idle_timeout_ms } => {
            let idle = match idle_timeout_ms {
                Some(idle) => {
                    format!(
                        "ends after {} of silence",
                        humantime::format_duration(std::time::Duration::from_millis(*idle))
                    )
                }
                None => "never ends for being silent".to_owned(),
            };
            let _ = writeln!(out, "{} {}", paint.label("forwarded as bytes"), paint.faint(&format!("({idle})")));
            for cluster in clusters {
                write_cluster(out, cluster, "closed,", paint);
            }
            out.push('\n');
        }
        Outcome::Accepted { reason } => {
            let _ = writeln!(out, "{} {}\n", paint.label("accepted"), printable(reason));
        }
        Outcome::LocalReply { status: 0, flags, reason, .. } if flags == "-" => {
            let _ = writeln!(out, "{} {}\n", paint.error("refused"), printable(reason));
        }
        Outcome::LocalReply { status: 0, flags, details, reason } => {
            let details = paint.faint(&printable(&format!("({flags} {details})")));
            let _ = writeln!(out, "{} {} {details}\n", paint.error("refused"), printable(reason));
        }
        Outcome::LocalReply { status, flags, details, reason } => {
            let answer = if flags == "-" { status.to_string() } else { format!("{status} {flags}") };
            let _ = writeln!(
                out,
                "{} {}: {} {}\n",
                paint.label("answered"),
                paint.error(&printable(&answer)),
                printable(reason),
                paint.faint(&format!("({})", printable(details)))
            );
        }
    }
}

/// `failure` is what becomes of traffic that finds no endpoint: `503` or `closed,`.
fn write_cluster(out: &mut String, cluster: &Cluster, failure: &str, paint: Paint) {
    let percent = format!("{:>5} %", (cluster.percent * 10.0).round() / 10.0);
    let _ = writeln!(out, "{}  {}", paint.strong(&percent), paint.strong(&printable(&cluster.name)));
    if let Some(tls) = &cluster.tls {
        let _ = writeln!(out, "         {} {}", paint.label("TLS"), tls.shown(paint));
    }
    let mut table = Table::default();
    for place in &cluster.configured_at {
        let object = paint.faint(&printable(&place.object));
        table.row([object, String::new(), String::new(), paint_origin(&place.origin, paint)]);
    }
    if !cluster.found {
        let verdict = paint.error(&format!("{failure} NC: no such service, port or subset"));
        table.row([verdict, String::new(), String::new(), String::new()]);
    } else if cluster.endpoints.is_empty() {
        table.row([paint.error(&format!("{failure} UH: no endpoints")), String::new(), String::new(), String::new()]);
    }
    for endpoint in cluster.endpoints.iter().take(SHOWN_ENDPOINTS) {
        let health = if endpoint.healthy { paint.good("healthy") } else { paint.error("unhealthy") };
        let mut workload = printable(&endpoint.workload);
        if endpoint.weight != 1 {
            let _ = write!(workload, " (weight {})", endpoint.weight);
        }
        table.row([printable(&endpoint.address), health, workload, paint_origin(&endpoint.origin, paint)]);
    }
    if cluster.endpoints.len() > SHOWN_ENDPOINTS {
        let note = paint.faint(&format!("... {} more", cluster.endpoints.len() - SHOWN_ENDPOINTS));
        table.row([note, String::new(), String::new(), String::new()]);
    }
    out.push_str(&table.render("         "));
    if cluster.found && !cluster.endpoints.is_empty() && cluster.endpoints.iter().all(|endpoint| !endpoint.healthy) {
        let _ = writeln!(out, "         {}", paint.error(&format!("{failure} UH: no healthy endpoint")));
    }
    let mut operations = Table::default();
    cluster.request_headers.write_rows("request headers", paint, &mut operations);
    cluster.response_headers.write_rows("response headers", paint, &mut operations);
    if !operations.is_empty() {
        out.push_str(&operations.render("         "));
    }
}
