//! What a request costs in this crate, alone: `cargo run --profile quick -p tidegate-http2 --example cost`.
//!
//! A client's GET with ten fields, all but the path known to both sides' tables, is decoded, judged, read as an application
//! would, and answered with eight fields and a small body. Best of several rounds, in nanoseconds.
#![expect(clippy::print_stdout, reason = "it prints figures")]

use std::hint::black_box;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use tidegate_http2::{Connection, Event, Field, Known, Settings, StreamId, Then};

const REQUESTS: u32 = 1_000;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8], out: &mut Vec<u8>) {
    let [_, a, b, c] = (payload.len() as u32).to_be_bytes();
    out.extend([a, b, c, kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
}

/// Fields spelled out, to be put into the table or not.
fn literal(pattern: u8, name: &str, value: &str, out: &mut Vec<u8>) {
    out.push(pattern);
    for text in [name, value] {
        out.push(text.len() as u8);
        out.extend(text.bytes());
    }
}

const FIELDS: [(&str, &str); 7] = [
    (":authority", "shop.example.com"),
    ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"),
    ("accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
    ("accept-language", "en-US,en;q=0.5"),
    ("accept-encoding", "gzip, deflate, br, zstd"),
    ("cookie", "session=0123456789abcdef0123456789abcdef"),
    ("x-custom-tenant", "blue"),
];

/// The first request fills the table, those behind it refer to it. `fresh` says whether each path is spelled out, `table` how
/// large the client lets ours be, in units of 256 bytes.
fn requests(fresh: bool, table: u8) -> (Vec<u8>, Vec<u8>) {
    let mut first = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    frame(4, 0, 0, &[0, 1, 0, 0, table, 0], &mut first);
    frame(4, 1, 0, &[], &mut first);
    frame(8, 0, 0, &(1u32 << 30).to_be_bytes(), &mut first);
    let mut block = vec![0x82, 0x87, 0x84];
    for (name, value) in FIELDS {
        literal(0x40, name, value, &mut block);
    }
    frame(1, 5, 1, &block, &mut first);
    let mut rest = Vec::new();
    for number in 0..REQUESTS {
        let mut block = vec![0x82, 0x87];
        if fresh {
            literal(0, ":path", &format!("/api/v1/products/{number:08}?page=2"), &mut block);
        } else {
            block.push(0x84);
        }
        block.extend((62..62 + FIELDS.len() as u8).rev().map(|index| 0x80 | index));
        frame(1, 5, 3 + 2 * number, &block, &mut rest);
    }
    (first, rest)
}

fn serve(connection: &mut Connection, mut input: &[u8], answer: impl Fn(&mut Connection, StreamId)) {
    loop {
        let Ok(received) = connection.receive(input) else { return };
        input = &input[received.consumed..];
        let Some(event) = received.event else { return };
        if let Event::Request { stream, head, .. } = event {
            for field in head.fields().iter() {
                black_box(field);
            }
            black_box((head.method(), head.path(), head.authority()));
            answer(connection, stream);
        }
    }
}

fn measure(name: &str, fresh: bool, table: u8, answer: impl Fn(&mut Connection, StreamId) + Copy) {
    let (first, rest) = requests(fresh, table);
    let mut best = Duration::MAX;
    let mut written = 0;
    for _ in 0..200 {
        let settings = Settings { max_concurrent_streams: REQUESTS * 2, ..Settings::default() };
        let mut connection = Connection::new(settings);
        serve(&mut connection, &first, answer);
        connection.advance_output(usize::MAX);
        let start = Instant::now();
        // As a socket gives it: some requests at a time.
        for piece in rest.chunks(1_400) {
            serve(&mut connection, black_box(piece), answer);
            written = connection.output().len();
            connection.advance_output(usize::MAX);
        }
        best = best.min(start.elapsed());
    }
    println!("{name:40} {:6.0} ns ({written} bytes in the last write)", best.as_nanos() as f64 / f64::from(REQUESTS));
}

fn answer(connection: &mut Connection, stream: StreamId) {
    let fields = [
        Field::known(Known::Server, b"tidegate"),
        Field::known(Known::Date, b"Sat, 21 Nov 2026 04:00:00 GMT"),
        Field::known(Known::ContentType, b"application/json; charset=utf-8"),
        Field::known(Known::ContentLength, b"100"),
        Field::known(Known::CacheControl, b"no-cache"),
        Field::known(Known::XEnvoyUpstreamServiceTime, if stream.get() & 2 == 0 { b"0" } else { b"1" }),
        Field::known(Known::Vary, b"accept-encoding"),
        Field::new(b"x-powered-by", b"backend"),
    ];
    let _ = connection.send_headers(stream, 200, fields, Then::More);
    let _ = connection.send_data(stream, &[b'x'; 100], Then::End);
}

/// A socket that has bytes to read, so many at a time, and takes all that is written.
struct Prepared {
    bytes: Vec<u8>,
    at: usize,
}

impl AsyncRead for Prepared {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, room: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let count = (self.bytes.len() - self.at).min(room.remaining()).min(1_400);
        room.put_slice(&self.bytes[self.at..self.at + count]);
        self.at += count;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Prepared {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// The same requests and answers with the `h2` crate, without tasks or a socket. Its handshake is in the figure: one part in a
/// thousand.
fn measure_h2(name: &str, table: u8) {
    let (first, rest) = requests(true, table);
    let bytes = [first, rest].concat();
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().build() else { return };
    let mut best = Duration::MAX;
    for _ in 0..200 {
        let socket = Prepared { bytes: bytes.clone(), at: 0 };
        let start = Instant::now();
        runtime.block_on(async {
            let Ok(mut connection) =
                h2::server::Builder::new().max_concurrent_streams(2 * REQUESTS).handshake(socket).await
            else {
                return;
            };
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                for field in request.headers() {
                    black_box(field);
                }
                black_box((request.method(), request.uri()));
                let response = http::Response::builder()
                    .header("server", "tidegate")
                    .header("date", "Sat, 21 Nov 2026 04:00:00 GMT")
                    .header("content-type", "application/json; charset=utf-8")
                    .header("content-length", "100")
                    .header("cache-control", "no-cache")
                    .header("x-envoy-upstream-service-time", "0")
                    .header("vary", "accept-encoding")
                    .header("x-powered-by", "backend");
                let Ok(response) = response.body(()) else { return };
                if let Ok(mut stream) = respond.send_response(response, false) {
                    let _ = stream.send_data(Bytes::from_static(&[b'x'; 100]), true);
                }
            }
        });
        best = best.min(start.elapsed());
    }
    println!("{name:40} {:6.0} ns", best.as_nanos() as f64 / f64::from(REQUESTS));
}

fn main() {
    measure("decode, all in the table, and refuse", false, 16, |connection, stream| {
        let _ = connection.send_headers(stream, 404, [], Then::End);
    });
    measure("decode with a path, and refuse", true, 16, |connection, stream| {
        let _ = connection.send_headers(stream, 404, [], Then::End);
    });
    measure("decode with a path, and answer", true, 16, answer);
    measure("the same to a client without a table", true, 0, answer);
    measure_h2("the same by the h2 crate", 16);
}
