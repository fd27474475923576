//! A server for test programs (h2spec, h2load, nghttp, curl): HTTP/2 with prior knowledge over TCP on loopback.
//!
//! `cargo run -p tidegate-http2 --example echo -- [port]`; it prints where it listens.
//! `/` is answered with a few bytes, `/big` with 64 KiB, and a request with a body with that body.
#![expect(clippy::print_stdout, reason = "it says where it listens")]

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use tidegate_http2::{Connection, ConnectionError, Event, Field, Known, Settings, StreamId, Then};

/// What is still to be sent on a stream.
#[derive(Default)]
struct Answer {
    body: Vec<u8>,
    sent: usize,
    is_complete: bool,
}

#[derive(Default)]
struct Echo {
    answers: HashMap<StreamId, Answer>,
}

impl Echo {
    fn event(&mut self, connection: &mut Connection, input: &mut &[u8]) -> Result<bool, ConnectionError> {
        let received = connection.receive(input)?;
        *input = &input[received.consumed..];
        let Some(event) = received.event else { return Ok(false) };
        match event {
            Event::Request { stream, head, end_stream } => {
                let body: &[u8] = match head.path() {
                    _ if !end_stream => &[],
                    Some(b"/big") => &[b'x'; 64 * 1024],
                    _ => b"hello from tidegate-http2\n",
                };
                self.answer(connection, stream, body, end_stream);
            }
            Event::Data { stream, bytes, end_stream } => {
                let length = bytes.len();
                if let Some(answer) = self.answers.get_mut(&stream) {
                    answer.body.extend_from_slice(bytes);
                    answer.is_complete = end_stream;
                }
                connection.release(stream, length);
                self.send(connection, stream);
            }
            Event::Trailers { stream, .. } => {
                if let Some(answer) = self.answers.get_mut(&stream) {
                    answer.is_complete = true;
                }
                self.send(connection, stream);
            }
            Event::Malformed { stream, reason, .. } => connection.reset(stream, reason.code()),
            Event::TooLarge { stream, .. } => {
                let _ = connection.send_headers(stream, 431, [], Then::End);
            }
            Event::Reset { stream, .. } => {
                self.answers.remove(&stream);
            }
            Event::Writable { .. } => self.send_all(connection),
            _ => {}
        }
        Ok(true)
    }

    fn answer(&mut self, connection: &mut Connection, stream: StreamId, body: &[u8], is_complete: bool) {
        let length = body.len().to_string();
        let fields = [
            Field::known(Known::Server, b"tidegate"),
            Field::known(Known::ContentType, b"text/plain"),
            Field::known(Known::Date, b"Sat, 21 Nov 2026 04:00:00 GMT"),
            Field::known(Known::XEnvoyUpstreamServiceTime, b"0"),
            Field::known(Known::ContentLength, length.as_bytes()),
        ];
        let count = if is_complete { 5 } else { 4 };
        if connection.send_headers(stream, 200, fields.into_iter().take(count), Then::More).is_ok() {
            self.answers.insert(stream, Answer { body: body.to_vec(), sent: 0, is_complete });
            self.send(connection, stream);
        }
    }

    fn send(&mut self, connection: &mut Connection, stream: StreamId) {
        let Some(answer) = self.answers.get_mut(&stream) else { return };
        let then = if answer.is_complete { Then::End } else { Then::More };
        let rest = &answer.body[answer.sent..];
        match connection.send_data(stream, rest, then) {
            Ok(count) if count == rest.len() && answer.is_complete => {
                self.answers.remove(&stream);
            }
            Ok(count) => answer.sent += count,
            Err(_) => {
                self.answers.remove(&stream);
            }
        }
    }

    fn send_all(&mut self, connection: &mut Connection) {
        let streams: Vec<StreamId> = self.answers.keys().copied().collect();
        for stream in streams {
            self.send(connection, stream);
        }
    }
}

fn serve(mut socket: TcpStream) -> std::io::Result<()> {
    socket.set_nodelay(true)?;
    let mut connection = Connection::new(Settings::default());
    let mut echo = Echo::default();
    let mut buffer = vec![0; 16 * 1024];
    loop {
        while !connection.output().is_empty() {
            let written = socket.write(connection.output())?;
            connection.advance_output(written);
            if connection.output().is_empty() {
                echo.send_all(&mut connection);
            }
        }
        if connection.is_finished() {
            return Ok(());
        }
        let length = socket.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        let mut input = &buffer[..length];
        loop {
            match echo.event(&mut connection, &mut input) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    eprintln!("{error}");
                    break;
                }
            }
        }
    }
}

fn main() -> std::io::Result<()> {
    let port = std::env::args().nth(1).and_then(|port| port.parse().ok()).unwrap_or(0);
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    println!("{}", listener.local_addr()?);
    for socket in listener.incoming() {
        let socket = socket?;
        std::thread::spawn(move || {
            if let Err(error) = serve(socket) {
                eprintln!("{error}");
            }
        });
    }
    Ok(())
}
