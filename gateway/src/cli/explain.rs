//! `tidegate explain`: why a request goes where it goes.

mod remarks;

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;
use tidegate_core::{Code, Diagnostic};
use tidegate_snapshot::{ExplainRequest, server_name_of};

use super::Exit;
use super::admin_client;
use super::arguments::{OutputFormat, ReadArgs, SecretFolders};
use super::inputs;
use super::output::Console;
use crate::control::{Offline, read_once};
use crate::render::{ExplanationView, Texts, explanation, printable, snippets};
use crate::secrets::standings;

/// Findings that are shown beside one explanation.
const SHOWN_FINDINGS: usize = 5;

const EXAMPLES: &str = "\
Examples:
  tidegate explain http://localhost:8080/reviews/0                       the gateway that runs here
  tidegate explain GET http://localhost:8080/reviews/0 -H 'end-user: jason'
  tidegate explain POST https://shop.example.com/cart --config ./gateway.d   files, before they serve
  tidegate explain http://10.0.0.7/cart -H 'Host: shop.example.com' -o json
  tidegate explain https://b.example.com/ --sni a.example.com            a connection that a client reuses
  tidegate explain tls://db.example.com:5432                             TLS whose bytes are forwarded
  tidegate explain tcp://localhost:31400                                 a plaintext connection

The method is GET if left out. Headers are those of the client: what the gateway adds is not yet there.
`--port` is the port that the Gateway names. Without it the URL's port is used (8080 also means 80 bound at +8000), or
if it has none 80 or 443, or the only one that there is.
The server name (SNI) is the URL's host, as with curl; none is sent for an IP address, or with `--sni ''`.

Exit codes: 0 explained, whatever the outcome (a 404 or a refusal too), 1 no gateway answers, 65 the files hold nothing
that can be read, 64 wrong usage.";

/// Show where a request or connection goes, and why.
///
/// Names the listener, filter chain, TLS mode and secret, virtual host, route, cluster and endpoints that it gets.
///
/// It runs the code that serves, on the configuration of a running gateway (its admin address) or on files. Every
/// route that was tried is named with the reason why it did not match, and with its file and line.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, override_usage = "tidegate explain [OPTIONS] [METHOD] URL")]
pub(crate) struct ExplainArgs {
    /// Method, and URL as a client would write it: http, https, or tls and tcp for a connection.
    #[arg(value_name = "[METHOD] URL", required = true, num_args = 1..=2)]
    request: Vec<String>,
    /// Request header; repeatable. `Host` wins over the URL's.
    #[arg(long, short = 'H', value_name = "NAME: VALUE")]
    header: Vec<String>,
    /// Port that the Gateway names.
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// Server name (SNI) of the connection, if it is another than the URL's host.
    #[arg(long, value_name = "NAME")]
    sni: Option<String>,
    /// Explain files and folders instead of a running gateway; repeatable.
    #[arg(long, short, value_name = "PATH", conflicts_with = "admin")]
    config: Vec<PathBuf>,
    /// Admin address of the running gateway.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:15000", env = "TIDEGATE_ADMIN_ADDRESS")]
    #[arg(hide_env_values = true)]
    admin: String,
    #[arg(long, short, value_enum, default_value_t)]
    output: OutputFormat,
    #[command(flatten)]
    secrets: SecretFolders,
    #[command(flatten)]
    read: ReadArgs,
}

/// Where a URL leads, in the parts that a request line and a Host header have.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Target {
    scheme: &'static str,
    authority: String,
    /// SNI; none for an address, and without TLS.
    server_name: Option<String>,
    /// The URL's own port, if it is written.
    port: Option<u16>,
    /// Path and query.
    path: String,
}

pub(crate) fn run(args: &ExplainArgs, console: Console) -> anyhow::Result<Exit> {
    let (method, url) = match args.request.as_slice() {
        [url] => ("GET", url.as_str()),
        [method, url] => (method.as_str(), url.as_str()),
        _ => return Ok(Exit::Usage),
    };
    let request = Target::parse(url).and_then(|mut target| {
        if let Some(name) = &args.sni {
            if !target.is_encrypted() {
                bail!("--sni says what a TLS client sends: the URL must begin with https:// or tls://");
            }
            target.server_name = (!name.is_empty()).then(|| name.to_ascii_lowercase());
        }
        let headers = args.header.iter().map(|header| parse_header(header)).collect::<anyhow::Result<Vec<_>>>()?;
        if method.is_empty() || http::Method::from_bytes(method.as_bytes()).is_err() {
            bail!("`{method}` is no method; write METHOD URL, as in GET http://localhost:8080/");
        }
        Ok((target, headers))
    });
    let (mut target, headers) = match request {
        Ok(request) => request,
        Err(error) => {
            console.error(&format!("{error:#}"));
            return Ok(Exit::Usage);
        }
    };
    // As in a client: the Host header replaces the URL's authority, and is sent once.
    let (host, headers): (Vec<_>, Vec<_>) = headers.into_iter().partition(|(name, _)| name == "host");
    if let Some((_, host)) = host.last() {
        target.authority = String::from_utf8_lossy(host.as_bytes()).into_owned();
    }
    let method = method.to_ascii_uppercase();
    let answer = if args.config.is_empty() {
        ask(args, &method, url, console)?
    } else {
        offline(args, &method, &target, &headers, console)?
    };
    let Some(answer) = answer else { return Ok(Exit::Data) };
    let port_note = if args.port.is_none() { port_note(&target, &answer.explanation) } else { None };
    match args.output {
        OutputFormat::Json => console.print_json(&answer.explanation)?,
        OutputFormat::Yaml => console.print_yaml(&answer.explanation)?,
        OutputFormat::Table => {
            let view: ExplanationView =
                serde_json::from_value(answer.explanation).context("the gateway's answer is not an explanation")?;
            let headers: Vec<_> = headers
                .iter()
                .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
                .collect();
            console.print(&explanation(&view, target.scheme, &headers, console.paint()))?;
        }
    }
    if let Some(note) = port_note {
        console.remark(format_args!("\n{} {note}", console.error_paint().warning("note:")));
    }
    if !answer.remarks.is_empty() {
        console.remark(format_args!("\n{}", answer.remarks.trim_end_matches('\n')));
    }
    Ok(Exit::Success)
}

/// Says that another port is explained than a URL without one means: the only one that there is.
fn port_note(target: &Target, explanation: &Value) -> Option<String> {
    let (None, Some(meant)) = (target.port, target.default_port()) else { return None };
    let explained = explanation["request"]["port"].as_u64()?;
    (explained != u64::from(meant)).then(|| {
        format!("nothing listens on port {meant}, where {}:// leads; this is about port {explained}", target.scheme)
    })
}

/// An explanation, and what was found in the configuration that bears on it.
struct Answer {
    explanation: Value,
    remarks: String,
}

/// Asks a running gateway, which reads the URL and the headers as this command does.
fn ask(args: &ExplainArgs, method: &str, url: &str, console: Console) -> anyhow::Result<Option<Answer>> {
    let mut query = vec![("method", method.to_owned()), ("url", url.to_owned())];
    query.extend(args.header.iter().map(|header| ("header", header.clone())));
    query.extend(args.port.map(|port| ("port", port.to_string())));
    query.extend(args.sni.iter().map(|name| ("sni", name.clone())));
    let body = match admin_client::get(&args.admin, "/explain", &query) {
        Ok(body) => body,
        Err(error) => {
            match error {
                admin_client::AskError::Unreachable { .. } => console.help(
                    "start one (`tidegate demo`, `tidegate run`), name its admin address with --admin, or explain \
                     files with --config",
                ),
                // The URL itself was found good before it was asked for.
                admin_client::AskError::Refused { status: 404, .. } | admin_client::AskError::Broken { .. } => console
                    .help(
                        "name the admin address with --admin; it is 127.0.0.1:15000 unless --admin-address says else",
                    ),
                _ => {}
            }
            return Err(error.into());
        }
    };
    let explanation: Value = serde_json::from_slice(&body).context("the gateway's answer is no JSON")?;
    let remarks = match admin_client::get(&args.admin, "/config/status", &[]) {
        Ok(status) => remarks::of_status(&status, &explanation),
        // It only adds to what is known already.
        Err(_) => Vec::new(),
    };
    let mut remarks = remarks;
    let mut given: Vec<_> = args.read.given().iter().map(|name| format!("--{name}")).collect();
    if !args.secrets.folders.is_empty() {
        given.push("--secrets".to_owned());
    }
    if !given.is_empty() {
        let given = given.join(", ");
        remarks.insert(0, format!("the running gateway has its own settings: {given} counts with --config only"));
    }
    let paint = console.error_paint();
    let remarks =
        remarks.iter().take(SHOWN_FINDINGS).map(|line| format!("{} {}\n", paint.warning("note:"), printable(line)));
    Ok(Some(Answer { explanation, remarks: remarks.collect() }))
}

/// Reads and compiles files as `run` does, and explains on the result. None if there is nothing to compile; stderr says
/// why.
fn offline(
    args: &ExplainArgs,
    method: &str,
    target: &Target,
    headers: &[(HeaderName, HeaderValue)],
    console: Console,
) -> anyhow::Result<Option<Answer>> {
    let Offline { snapshot, resources, diagnostics } = read_once(&args.config, &args.read.options());
    if resources.is_empty() && diagnostics.iter().any(|finding| finding.code == Code::ENVIRONMENT) {
        let shown: Vec<_> = diagnostics.iter().take(SHOWN_FINDINGS).collect();
        console.remark(show(&shown, console).trim_end_matches('\n'));
        return Ok(None);
    }
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(name, value.clone());
    }
    let mut explanation = snapshot.explain(&ExplainRequest {
        method: method.to_owned(),
        scheme: target.scheme.to_owned(),
        authority: target.authority.clone(),
        server_name: target.server_name.clone(),
        target: target.path.clone(),
        headers: map,
        port: args.port.unwrap_or_else(|| snapshot.port_of_url(target.scheme, target.port)),
    });
    let namespace = args.read.options().namespace;
    explanation.hold_against_secrets(standings(&resources, &snapshot, &args.secrets.folders, &namespace));
    let explanation = serde_json::to_value(&explanation)?;
    let findings = remarks::of_files(&diagnostics, &resources, &explanation);
    let mut remarks = show(&findings[..findings.len().min(SHOWN_FINDINGS)], console);
    if let Some(more) = findings.len().checked_sub(SHOWN_FINDINGS).filter(|more| *more > 0) {
        remarks.push_str(&format!("... and {more} more: `tidegate validate -x` lists everything\n"));
    }
    Ok(Some(Answer { explanation, remarks }))
}

fn show(findings: &[&Diagnostic], console: Console) -> String {
    snippets(findings, &inputs::texts(findings, Texts::new()), console.error_paint(), console.width())
}

fn parse_header(text: &str) -> anyhow::Result<(HeaderName, HeaderValue)> {
    let mend = "write -H 'name: value'";
    let (name, value) = text.split_once(':').with_context(|| format!("the header `{text}` has no colon; {mend}"))?;
    let name = HeaderName::from_bytes(name.trim().as_bytes())
        .with_context(|| format!("`{name}` is no header name; {mend}"))?;
    let value = HeaderValue::from_str(value.trim()).with_context(|| format!("`{value}` is no header value; {mend}"))?;
    Ok((name, value))
}

impl Target {
    /// Takes a URL apart without changing a character of its path: what a client sends is what is to be explained.
    fn parse(url: &str) -> anyhow::Result<Self> {
        let (scheme, rest) = match url.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => ("http", rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => ("https", rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("tls") => ("tls", rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("tcp") => ("tcp", rest),
            Some((scheme, _)) => bail!("`{scheme}://` is none of http://, https://, tls:// and tcp://"),
            None if url.starts_with('/') => bail!("`{url}` names no host; write http://HOST{url}"),
            // As curl does.
            None => ("http", url),
        };
        // A fragment stays in the client.
        let rest = rest.split_once('#').map_or(rest, |(rest, _)| rest);
        let (authority, path) = match rest.find(['/', '?']) {
            Some(at) if rest.as_bytes()[at] == b'?' => (&rest[..at], format!("/{}", &rest[at..])),
            Some(at) => (&rest[..at], rest[at..].to_owned()),
            None => (rest, "/".to_owned()),
        };
        if matches!(scheme, "tls" | "tcp") && path != "/" {
            bail!("a connection has no path; write {scheme}://{authority}");
        }
        if authority.contains('@') {
            bail!("a URL with a user name cannot be explained; leave `...@` out");
        }
        let parsed: http::uri::Authority =
            authority.parse().with_context(|| format!("`{authority}` is no host in `{url}`"))?;
        let port = match authority.rsplit_once(':') {
            Some((_, digits)) if !digits.ends_with(']') => Some(
                digits
                    .parse::<u16>()
                    .ok()
                    .filter(|port| *port > 0)
                    .with_context(|| format!("`{digits}` is no port"))?,
            ),
            _ => None,
        };
        if parsed.host().is_empty() {
            bail!("`{url}` names no host");
        }
        // Clients leave the scheme's own port out of the Host header.
        let mut target = Self { scheme, authority: authority.to_owned(), server_name: None, port, path };
        if target.is_encrypted() {
            target.server_name = server_name_of(authority);
        }
        if port.is_some() && port == target.default_port() {
            target.authority = parsed.host().to_owned();
        }
        Ok(target)
    }

    fn is_encrypted(&self) -> bool {
        matches!(self.scheme, "https" | "tls")
    }

    /// The port that the scheme means; none for plain connections.
    fn default_port(&self) -> Option<u16> {
        match self.scheme {
            "https" | "tls" => Some(443),
            "http" => Some(80),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart_as_clients_do() {
        let check = |url: &str, scheme: &'static str, authority: &str, port: Option<u16>, path: &str| {
            let server_name = matches!(scheme, "https" | "tls").then(|| "a.com".to_owned());
            let expected = Target { scheme, authority: authority.into(), server_name, port, path: path.into() };
            assert_eq!(Target::parse(url).unwrap(), expected, "{url}");
        };
        check("http://a.com/x?y=1#z", "http", "a.com", None, "/x?y=1");
        check("https://a.com:443", "https", "a.com", Some(443), "/");
        check("http://a.com:443", "http", "a.com:443", Some(443), "/");
        check("HTTP://a.com:80/..//%2e", "http", "a.com", Some(80), "/..//%2e");
        check("a.com:8080?q", "http", "a.com:8080", Some(8080), "/?q");
        check("http://[::1]/x", "http", "[::1]", None, "/x");
        check("tls://A.com:5432", "tls", "A.com:5432", Some(5432), "/");
        check("tcp://a.com:31400/", "tcp", "a.com:31400", Some(31400), "/");
        check("http://[::1]:9000/x", "http", "[::1]:9000", Some(9000), "/x");
        for bad in [
            "ftp://a/",
            "/x",
            "http://",
            "http:///x",
            "http://u:p@a/",
            "http://a:0/",
            "http://a:x/",
            "http://a b/",
            "tls://a/x",
        ] {
            assert!(Target::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(Target::parse("https://10.0.0.1/").unwrap().server_name, None);
    }

    #[test]
    fn headers_need_a_colon_and_a_name() {
        assert_eq!(parse_header("End-User:  jason ").unwrap().0, "end-user");
        for bad in ["jason", "a b: c", ": x", "a: b\nc"] {
            assert!(parse_header(bad).is_err(), "{bad}");
        }
    }
}
