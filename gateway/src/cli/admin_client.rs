//! Questions to the admin address of a running gateway.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Limit for the whole exchange.
const TIMEOUT: Duration = Duration::from_secs(10);
/// An explanation of ten thousand routes fits many times.
const MAX_BODY: usize = 64 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    #[error("`{0}` is no address: write HOST:PORT, or a port of this machine")]
    NoAddress(String),
    #[error("no gateway answers on {address}: {reason}")]
    Unreachable { address: String, reason: String },
    #[error("{address} answered {status} to {path}: {body}")]
    Refused { address: String, path: String, status: u16, body: String },
    #[error("{address} did not answer as a gateway does: {reason}")]
    Broken { address: String, reason: String },
}

/// GETs a path from `address` (`ip:port`, `host:port` or a port of this machine).
///
/// # Errors
/// Nobody listens, the answer is none of 200, or it is broken off.
pub(crate) fn get(address: &str, path: &str, query: &[(&str, String)]) -> Result<Bytes, AskError> {
    let address = address.trim_start_matches("http://").trim_end_matches('/');
    let address = match address.trim_start_matches(':').parse::<u16>() {
        Ok(port) => format!("127.0.0.1:{port}"),
        Err(_) => address.to_owned(),
    };
    if !address.contains(':') {
        return Err(AskError::NoAddress(address));
    }
    let broken = |reason: String| AskError::Broken { address: address.clone(), reason };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| broken(format!("this process cannot start a runtime: {error}")))?;
    let target = format!("{path}{}", encode(query));
    let exchange = async {
        let stream = TcpStream::connect(address.as_str())
            .await
            .map_err(|error| AskError::Unreachable { address: address.clone(), reason: error.to_string() })?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(error.to_string()))?;
        let driver = tokio::spawn(connection);
        let request = Request::get(target.as_str())
            .header(header::HOST, address.as_str())
            .header(header::ACCEPT, "application/json")
            .body(Empty::<Bytes>::new())
            .map_err(|error| broken(error.to_string()))?;
        let response = sender.send_request(request).await.map_err(|error| broken(error.to_string()))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_BODY).collect().await;
        let body = body.map_err(|error| broken(error.to_string()))?.to_bytes();
        driver.abort();
        if status == http::StatusCode::OK {
            return Ok(body);
        }
        let text = String::from_utf8_lossy(&body[..body.len().min(500)]);
        let body = crate::render::printable(text.trim());
        Err(AskError::Refused { address: address.clone(), path: path.to_owned(), status: status.as_u16(), body })
    };
    runtime.block_on(async {
        match tokio::time::timeout(TIMEOUT, exchange).await {
            Ok(outcome) => outcome,
            Err(_) => Err(broken(format!("no answer within {} s", TIMEOUT.as_secs()))),
        }
    })
}

/// `?a=b&c=d` with everything but letters, digits and `-._~` percent-encoded; empty for no pairs.
fn encode(query: &[(&str, String)]) -> String {
    let mut out = String::new();
    for (at, (name, value)) in query.iter().enumerate() {
        out.push(if at == 0 { '?' } else { '&' });
        out.push_str(name);
        out.push('=');
        for byte in value.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                out.push(char::from(byte));
            } else {
                out.push_str(&format!("%{byte:02X}"));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_encoded() {
        assert_eq!(encode(&[]), "");
        let query = [("url", "http://a/b?c=d&e".to_owned()), ("header", "x: ä".to_owned())];
        assert_eq!(encode(&query), "?url=http%3A%2F%2Fa%2Fb%3Fc%3Dd%26e&header=x%3A%20%C3%A4");
    }
}
