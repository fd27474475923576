//! A client that says whatever a test wants, and what it gets to see.
#![allow(dead_code, reason = "each test program uses some of it")]

use tidegate_http2::{
    Client, ClientEvent, Connection, ConnectionError, ErrorCode, Event, Limits, Malformed, PREFACE, ResetBy, Role,
    Settings, StreamId,
};

pub(crate) fn id(number: u32) -> StreamId {
    StreamId::new(number)
}

/// An event that lasts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Seen {
    Request { stream: u32, path: String, fields: Vec<(String, String)>, end_stream: bool },
    Malformed { stream: u32, reason: Malformed },
    TooLarge { stream: u32 },
    Response { stream: u32, status: u16, end_stream: bool },
    Interim { stream: u32, status: u16 },
    Data { stream: u32, bytes: Vec<u8>, end_stream: bool },
    Trailers { stream: u32, fields: Vec<(String, String)> },
    Reset { stream: u32, code: ErrorCode, by: ResetBy },
    Writable { stream: u32 },
    GoAway { last_stream: u32, code: ErrorCode },
    Pong([u8; 8]),
}

fn pairs(fields: &tidegate_http2::Fields) -> Vec<(String, String)> {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    fields.iter().map(|field| (text(field.name), text(field.value))).collect()
}

pub(crate) fn seen(event: &Event<'_>) -> Seen {
    match event {
        Event::Request { stream, head, end_stream } => Seen::Request {
            stream: stream.get(),
            path: String::from_utf8_lossy(head.path().unwrap_or_default()).into_owned(),
            fields: pairs(head.fields()),
            end_stream: *end_stream,
        },
        Event::Malformed { stream, reason, .. } => Seen::Malformed { stream: stream.get(), reason: *reason },
        Event::TooLarge { stream, .. } => Seen::TooLarge { stream: stream.get() },
        Event::Data { stream, bytes, end_stream } => {
            Seen::Data { stream: stream.get(), bytes: bytes.to_vec(), end_stream: *end_stream }
        }
        Event::Trailers { stream, fields } => Seen::Trailers { stream: stream.get(), fields: pairs(fields) },
        Event::Reset { stream, code, by } => Seen::Reset { stream: stream.get(), code: *code, by: *by },
        Event::Writable { stream } => Seen::Writable { stream: stream.get() },
        Event::GoAway { last_stream, code } => Seen::GoAway { last_stream: last_stream.get(), code: *code },
        Event::Pong { payload } => Seen::Pong(*payload),
    }
}

pub(crate) fn client_seen(event: &ClientEvent<'_>) -> Seen {
    match event {
        ClientEvent::Response { stream, head, end_stream } => {
            Seen::Response { stream: stream.get(), status: head.status(), end_stream: *end_stream }
        }
        ClientEvent::Interim { stream, head } => Seen::Interim { stream: stream.get(), status: head.status() },
        ClientEvent::Data { stream, bytes, end_stream } => {
            Seen::Data { stream: stream.get(), bytes: bytes.to_vec(), end_stream: *end_stream }
        }
        ClientEvent::Trailers { stream, fields } => Seen::Trailers { stream: stream.get(), fields: pairs(fields) },
        ClientEvent::Reset { stream, code, by } => Seen::Reset { stream: stream.get(), code: *code, by: *by },
        ClientEvent::Writable { stream } => Seen::Writable { stream: stream.get() },
        ClientEvent::GoAway { last_stream, code } => Seen::GoAway { last_stream: last_stream.get(), code: *code },
        ClientEvent::Pong { payload } => Seen::Pong(*payload),
    }
}

/// Either side of a connection.
pub(crate) trait Receive {
    fn next(&mut self, input: &[u8]) -> Result<(usize, Option<Seen>), ConnectionError>;
}

impl Receive for Connection {
    fn next(&mut self, input: &[u8]) -> Result<(usize, Option<Seen>), ConnectionError> {
        self.receive(input).map(|received| (received.consumed, received.event.as_ref().map(seen)))
    }
}

impl Receive for Connection<Client> {
    fn next(&mut self, input: &[u8]) -> Result<(usize, Option<Seen>), ConnectionError> {
        self.receive(input).map(|received| (received.consumed, received.event.as_ref().map(client_seen)))
    }
}

/// Feeds everything and returns the events, and what ended it if something did.
pub(crate) fn feed(connection: &mut impl Receive, mut input: &[u8]) -> (Vec<Seen>, Option<ConnectionError>) {
    let mut events = Vec::new();
    loop {
        match connection.next(input) {
            Ok((taken, Some(event))) => {
                events.push(event);
                input = &input[taken..];
            }
            Ok((taken, None)) => {
                assert_eq!(taken, input.len(), "without an event all input is taken");
                return (events, None);
            }
            Err(error) => return (events, Some(error)),
        }
    }
}

pub(crate) fn events(connection: &mut impl Receive, input: &[u8]) -> Vec<Seen> {
    let (events, error) = feed(connection, input);
    assert_eq!(error, None, "{events:?}");
    events
}

#[track_caller]
pub(crate) fn check_error(input: &[u8], expected: ConnectionError) {
    let mut connection = greeted();
    let (events, error) = feed(&mut connection, input);
    assert_eq!(error, Some(expected), "{events:?}");
    assert!(connection.is_finished());
    let last = frames(connection.output()).pop().unwrap();
    assert_eq!((last.kind, &last.payload[4..]), (GOAWAY, &expected.code().0.to_be_bytes()[..]));
    assert_eq!(connection.receive(b"more").err(), Some(expected));
}

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const ACK: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
pub(crate) const PADDED: u8 = 8;

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = (payload.len() as u32).to_be_bytes();
    let mut frame = vec![a, b, c, kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A frame that the server sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Sent {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

pub(crate) fn frames(mut bytes: &[u8]) -> Vec<Sent> {
    let mut frames = Vec::new();
    while let Some((header, rest)) = bytes.split_first_chunk::<9>() {
        let [a, b, c, kind, flags, stream @ ..] = *header;
        let (payload, rest) = rest.split_at(u32::from_be_bytes([0, a, b, c]) as usize);
        frames.push(Sent { kind, flags, stream: u32::from_be_bytes(stream), payload: payload.to_vec() });
        bytes = rest;
    }
    assert!(bytes.is_empty());
    frames
}

/// Takes the output.
pub(crate) fn sent<R: Role>(connection: &mut Connection<R>) -> Vec<Sent> {
    let frames = frames(connection.output());
    connection.advance_output(usize::MAX);
    frames
}

pub(crate) fn greeting() -> Vec<u8> {
    [&PREFACE[..], &frame(SETTINGS, 0, 0, &[]), &frame(SETTINGS, ACK, 0, &[])].concat()
}

pub(crate) fn greeted_with(settings: Settings) -> Connection {
    let mut connection = Connection::new(settings);
    assert_eq!(events(&mut connection, &greeting()), []);
    sent(&mut connection);
    connection
}

pub(crate) fn greeted() -> Connection {
    greeted_with(Settings::default())
}

pub(crate) fn limited(limits: Limits) -> Connection {
    greeted_with(Settings { limits, ..Settings::default() })
}

/// Fields spelled out, for no table.
pub(crate) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            match text.len() {
                length @ 0..127 => block.push(length as u8),
                length => {
                    let rest = length - 127;
                    assert!(rest < 1 << 14);
                    block.extend([127, 0x80 | (rest & 0x7f) as u8, (rest >> 7) as u8]);
                }
            }
            block.extend(text.bytes());
        }
    }
    block
}

/// GET / with authority `h`, and more fields.
pub(crate) fn request_block(fields: &[(&str, &str)]) -> Vec<u8> {
    [&[0x82, 0x86, 0x84][..], &block(&[&[(":authority", "h")], fields].concat())].concat()
}

pub(crate) fn get(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &request_block(&[]))
}

/// The head of a request whose body is to come.
pub(crate) fn post(stream: u32, fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &request_block(fields))
}

pub(crate) fn window_update(stream: u32, increment: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &increment.to_be_bytes())
}

pub(crate) fn rst_stream(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &ErrorCode::CANCEL.0.to_be_bytes())
}

pub(crate) fn setting(id: u16, value: u32) -> Vec<u8> {
    frame(SETTINGS, 0, 0, &[&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
}
