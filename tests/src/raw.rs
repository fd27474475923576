//! Bytes on sockets: what no HTTP library would send, and a backend that shows what came.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::wait;

/// Sends `request` on a new connection and reads until the other side closes.
pub async fn exchange(address: SocketAddr, request: &[u8]) -> Vec<u8> {
    wait::within("an answer to raw bytes", async {
        let mut stream = TcpStream::connect(address).await.expect("a connection");
        // The gateway may answer and close before it has read everything.
        let _ = stream.write_all(request).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        answer
    })
    .await
}

/// The status of a raw HTTP/1 answer, if it is one.
pub fn status(answer: &[u8]) -> Option<u16> {
    std::str::from_utf8(answer.get(9..12)?).ok()?.parse().ok()
}

/// What follows the header block of a raw answer.
pub fn body(answer: &[u8]) -> &[u8] {
    match answer.windows(4).position(|window| window == b"\r\n\r\n") {
        Some(at) => &answer[at + 4..],
        None => b"",
    }
}

/// Answers every request with its own request target as the body, byte for byte. Knows no HTTP beyond the end of a
/// header block, so nothing is made canonical on the way.
pub struct TargetBackend {
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl TargetBackend {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("a bound address");
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer_with_target(stream));
            }
        });
        Self { address, task }
    }
}

impl Drop for TargetBackend {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer_with_target(mut stream: TcpStream) {
    let mut seen = Vec::new();
    loop {
        let end = loop {
            if let Some(at) = seen.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            match stream.read_buf(&mut seen).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        };
        let target = seen[..end].split(|byte| *byte == b' ').nth(1).unwrap_or_default().to_vec();
        seen.drain(..end);
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", target.len());
        if stream.write_all(&[head.as_bytes(), &target].concat()).await.is_err() {
            return;
        }
    }
}

/// A backend that hangs.
pub struct Silent {
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl Silent {
    /// Accepts, reads, and never answers.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("a bound address");
        let task = tokio::spawn(async move {
            let mut held = Vec::new();
            while let Ok((stream, _)) = listener.accept().await {
                held.push(stream);
            }
        });
        Self { address, task }
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Whether somebody accepts on `address`.
pub async fn accepts(address: SocketAddr) -> bool {
    matches!(tokio::time::timeout(Duration::from_secs(2), TcpStream::connect(address)).await, Ok(Ok(_)))
}
