//! HTTP/2 frames by hand: what no library would send.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::wait;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// One frame (RFC 9113 section 4.1).
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a frame's length").to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// `GET path` for `authority`, then `fields` as literals without indexing and without Huffman coding.
pub fn header_block(authority: &str, path: &str, fields: &[(&[u8], &[u8])]) -> Vec<u8> {
    // `:method: GET` and `:scheme: http` of the static table; `:authority` and `:path` by its names.
    let mut block = vec![0x82, 0x86];
    block.push(0x01);
    string(&mut block, authority.as_bytes());
    block.push(0x04);
    string(&mut block, path.as_bytes());
    for (name, value) in fields {
        block.push(0);
        string(&mut block, name);
        string(&mut block, value);
    }
    block
}

/// A string literal of HPACK.
pub fn string(block: &mut Vec<u8>, text: &[u8]) {
    let mut length = text.len();
    if length < 127 {
        block.push(u8::try_from(length).expect("below 127"));
    } else {
        block.push(127);
        length -= 127;
        while length >= 128 {
            block.push(u8::try_from(length % 128 + 128).expect("a byte"));
            length /= 128;
        }
        block.push(u8::try_from(length).expect("below 128"));
    }
    block.extend(text);
}

/// A frame as it came.
#[derive(Debug)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    /// The error code of RST_STREAM or GOAWAY.
    pub fn error(&self) -> Option<u32> {
        let at = match self.kind {
            RST_STREAM => 0,
            GOAWAY => 4,
            _ => return None,
        };
        Some(u32::from_be_bytes(self.payload.get(at..at + 4)?.try_into().ok()?))
    }
}

/// A connection on which everything is allowed.
pub struct Connection {
    stream: TcpStream,
    unread: Vec<u8>,
}

impl Connection {
    /// Connects and sends the preface with empty SETTINGS.
    pub async fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("a connection");
        let mut connection = Self { stream, unread: Vec::new() };
        let hello = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &frame(SETTINGS, 0, 0, &[])].concat();
        connection.write(&hello).await;
        connection
    }

    /// Writes as far as the other side takes it: false once it has closed, or takes nothing for some seconds.
    pub async fn write(&mut self, bytes: &[u8]) -> bool {
        let written = tokio::time::timeout(Duration::from_secs(3), self.stream.write_all(bytes)).await;
        matches!(written, Ok(Ok(())))
    }

    /// The next frame; none when the other side has closed.
    pub async fn read(&mut self) -> Option<Frame> {
        loop {
            if let Some(head) = self.unread.get(..9) {
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
                if self.unread.len() >= 9 + length {
                    let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff;
                    let (kind, flags) = (head[3], head[4]);
                    let payload = self.unread[9..9 + length].to_vec();
                    self.unread.drain(..9 + length);
                    return Some(Frame { kind, flags, stream, payload });
                }
            }
            let read = wait::within("a frame or the end", self.stream.read_buf(&mut self.unread)).await;
            if !matches!(read, Ok(1..)) {
                return None;
            }
        }
    }

    /// Reads until a frame fits, or the end.
    pub async fn find(&mut self, fits: impl Fn(&Frame) -> bool) -> Option<Frame> {
        while let Some(frame) = self.read().await {
            if fits(&frame) {
                return Some(frame);
            }
        }
        None
    }
}
