//! The client's side: against frames by hand, against our server, and against the `h2` crate's.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeMap;

use bytes::Bytes;
use common::*;
use tidegate_http2::{
    Client, Connection, ConnectionError, ErrorCode, Event, Field, Flood, Known, Malformed, OpenError, PREFACE,
    RequestLine, ResetBy, Settings, StreamId, Then,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const GET: RequestLine<'static> = RequestLine { method: b"GET", scheme: b"http", authority: Some(b"h"), path: b"/" };

/// A client that the server greeted, with its own greeting taken.
fn client() -> Connection<Client> {
    let mut client = Connection::connect(Settings::default());
    assert_eq!(&client.output()[..24], PREFACE);
    client.advance_output(24);
    assert_eq!(events(&mut client, &[frame(SETTINGS, 0, 0, &[]), frame(SETTINGS, ACK, 0, &[])].concat()), []);
    sent(&mut client);
    client
}

fn open(client: &mut Connection<Client>) -> u32 {
    client.open(GET, [], Then::End).unwrap().get()
}

fn response(stream: u32, flags: u8, fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | flags, stream, &block(fields))
}

const OK: (&str, &str) = (":status", "200");

#[test]
fn a_client_says_the_preface_and_wants_no_pushes() {
    let client = Connection::connect(Settings::default());
    let frames = frames(&client.output()[24..]);
    assert_eq!((frames[0].kind, &frames[0].payload[..6]), (SETTINGS, &[0, 2, 0, 0, 0, 0][..]));
    assert_eq!(frames[1].kind, WINDOW_UPDATE);
    let mut client = client;
    let error = feed(&mut client, &frame(PING, 0, 0, &[0; 8])).1;
    assert_eq!(error, Some(ConnectionError::Protocol("the first frame is not SETTINGS")));
}

#[test]
fn a_request_has_its_answer() {
    let mut client = client();
    let fields = [Field::new(b"Accept", b"*/*"), Field::known(Known::Connection, b"close")];
    assert_eq!(client.open(GET, fields, Then::End), Ok(StreamId::new(1)));
    let frames = sent(&mut client);
    assert_eq!((frames[0].kind, frames[0].flags, frames[0].stream), (HEADERS, END_HEADERS | END_STREAM, 1));
    assert_eq!(frames[0].payload, [&[0x82, 0x86, 0x41, 1][..], b"h", &[0x84, 0x40 | 19, 3], b"*/*"].concat());
    let answer = [
        response(1, 0, &[(":status", "103"), ("link", "x")]),
        response(1, 0, &[OK, ("content-length", "5")]),
        frame(DATA, 0, 1, b"hello"),
        response(1, END_STREAM, &[("grpc-status", "0")]),
    ];
    let expected = [
        Seen::Interim { stream: 1, status: 103 },
        Seen::Response { stream: 1, status: 200, end_stream: false },
        Seen::Data { stream: 1, bytes: b"hello".to_vec(), end_stream: false },
        Seen::Trailers { stream: 1, fields: vec![("grpc-status".to_owned(), "0".to_owned())] },
    ];
    assert_eq!(events(&mut client, &answer.concat()), expected);
    assert_eq!(client.open_streams(), 0);
}

#[test]
fn responses_that_are_none_end_their_stream_only() {
    let too_many = [&[OK][..], &[("a", "b"); 150]].concat();
    for (answer, reason) in [
        (response(1, 0, &[("server", "x")]), Malformed::MissingPseudo),
        (response(1, 0, &[(":status", "2000")]), Malformed::Status),
        (response(1, 0, &[(":status", "101")]), Malformed::Status),
        (response(1, END_STREAM, &[(":status", "100")]), Malformed::Status),
        (response(1, 0, &[OK, ("connection", "close")]), Malformed::ConnectionField),
        (response(1, 0, &[OK, ("x", "a\r\nb")]), Malformed::FieldValue),
        (response(1, 0, &too_many), Malformed::HeadTooLarge),
        (response(1, END_STREAM, &[OK, ("content-length", "5")]), Malformed::BodyLength),
        (
            [response(1, 0, &[OK, ("content-length", "5")]), frame(DATA, 0, 1, b"123456")].concat(),
            Malformed::BodyLength,
        ),
        ([response(1, 0, &[(":status", "204")]), frame(DATA, 0, 1, b"1")].concat(), Malformed::BodyLength),
        (frame(DATA, 0, 1, b"1"), Malformed::BodyBeforeHead),
        ([response(1, END_STREAM, &[OK]), frame(DATA, 0, 1, b"1")].concat(), Malformed::AfterEnd),
    ] {
        let mut client = client();
        client.open(GET, [], Then::More).unwrap();
        let seen = events(&mut client, &answer);
        let expected = Seen::Reset { stream: 1, code: reason.code(), by: ResetBy::Us(reason) };
        assert_eq!(seen.last(), Some(&expected), "{seen:?}");
        assert!(client.can_open());
    }
}

#[test]
fn answers_to_head_have_a_length_and_no_body() {
    let mut client = client();
    client.open(RequestLine { method: b"HEAD", ..GET }, [], Then::End).unwrap();
    let seen = events(&mut client, &response(1, END_STREAM, &[OK, ("content-length", "5")]));
    assert_eq!(seen, [Seen::Response { stream: 1, status: 200, end_stream: true }]);
}

#[test]
fn what_a_server_may_not_do_ends_the_connection() {
    for bad in [
        frame(5, END_HEADERS, 1, &[0, 0, 0, 2, 0x88]),
        response(2, 0, &[OK]),
        response(3, 0, &[OK]),
        frame(DATA, 0, 3, b"x"),
        setting(2, 1),
        rst_stream(3),
    ] {
        let mut client = client();
        open(&mut client);
        let (_, error) = feed(&mut client, &bad);
        assert_eq!(error.map(ConnectionError::code), Some(ErrorCode::PROTOCOL_ERROR));
        assert!(client.is_leaving() && client.is_finished());
        assert_eq!(client.open(GET, [], Then::End), Err(OpenError::Leaving));
        // The peer opened no stream.
        let last = sent(&mut client).pop().unwrap();
        assert_eq!((last.kind, &last.payload[..4]), (GOAWAY, &[0; 4][..]));
    }
}

#[test]
fn floods_of_a_server_are_floods() {
    for (flood, bad) in [
        (Flood::ControlReplies, frame(PING, 0, 0, &[0; 8])),
        (Flood::ControlReplies, frame(SETTINGS, 0, 0, &[])),
        (Flood::EmptyFrames, frame(DATA, 0, 1, &[])),
        (Flood::WindowUpdate, window_update(1, 1)),
        (Flood::UnknownFrames, frame(0xee, 0, 0, &[])),
        (Flood::UnknownFrames, response(3, 0, &[(":status", "100")])),
    ] {
        let mut client = client();
        client.open(GET, [], Then::End).unwrap();
        events(&mut client, &response(1, 0, &[OK]));
        client.open(GET, [], Then::End).unwrap();
        let (_, error) = feed(&mut client, &bad.repeat(2000));
        assert_eq!(error, Some(ConnectionError::Flood(flood)));
    }
}

#[test]
fn as_many_streams_are_opened_as_the_server_allows() {
    let mut client = client();
    events(&mut client, &setting(3, 2));
    assert_eq!((open(&mut client), open(&mut client)), (1, 3));
    assert!(!client.can_open());
    assert_eq!(client.open(GET, [], Then::End), Err(OpenError::TooMany));
    events(&mut client, &response(1, END_STREAM, &[OK]));
    assert_eq!(open(&mut client), 5);
    let bad = RequestLine { path: b"/a b", ..GET };
    events(&mut client, &setting(3, 100));
    assert_eq!(client.open(bad, [], Then::End), Err(OpenError::Line));
}

#[test]
fn goaway_ends_what_was_not_looked_at() {
    let mut client = client();
    let streams = [open(&mut client), open(&mut client), open(&mut client)];
    assert_eq!(streams, [1, 3, 5]);
    let goaway = frame(GOAWAY, 0, 0, &[&3u32.to_be_bytes()[..], &[0; 4]].concat());
    assert_eq!(events(&mut client, &goaway), [Seen::GoAway { last_stream: 3, code: ErrorCode::NO_ERROR }]);
    assert_eq!((client.open_streams(), client.can_open(), client.is_finished()), (2, false, false));
    assert_eq!(events(&mut client, &response(5, END_STREAM, &[OK])), []);
    events(&mut client, &[response(1, END_STREAM, &[OK]), response(3, END_STREAM, &[OK])].concat());
    assert!(client.is_finished());
}

#[test]
fn our_client_and_our_server_understand_each_other() {
    let mut random = fastrand::Rng::with_seed(9);
    let settings = Settings { header_table_size: 500, initial_stream_window: 3000, ..Settings::default() };
    let (mut client, mut server) = (Connection::connect(settings), Connection::new(settings));
    let mut waiting: BTreeMap<u32, (Vec<u8>, Vec<u8>)> = BTreeMap::new();
    let mut to_send: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
    let mut answered = 0;
    while answered < 2_000 {
        if client.can_open() && random.bool() {
            let path = format!("/{}", random.u32(..50));
            let line = RequestLine { path: path.as_bytes(), ..GET };
            let tag = "t".repeat(random.usize(..40));
            let stream = client.open(line, [Field::new(b"x-tag", tag.as_bytes())], Then::End).unwrap();
            waiting.insert(stream.get(), (tag.repeat(100).into_bytes(), vec![]));
        }
        let up = client.output()[..random.usize(..=client.output().len())].to_vec();
        client.advance_output(up.len());
        let mut rest = &up[..];
        loop {
            let received = server.receive(rest).unwrap();
            rest = &rest[received.consumed..];
            match received.event {
                None => break,
                Some(Event::Request { stream, head, .. }) => {
                    let tag = head.fields().iter().next().unwrap().value.to_vec();
                    server.send_headers(stream, 200, [Field::new(b"x-tag", &tag)], Then::More).unwrap();
                    to_send.insert(stream.get(), tag.repeat(100));
                }
                Some(Event::Writable { .. }) => {}
                Some(other) => panic!("{other:?}"),
            }
        }
        to_send.retain(|stream, body| {
            let count = server.send_data(id(*stream), body, Then::End).unwrap();
            let is_all = count == body.len();
            body.drain(..count);
            !is_all
        });
        let down = server.output()[..random.usize(..=server.output().len())].to_vec();
        server.advance_output(down.len());
        for event in events(&mut client, &down) {
            if let Seen::Data { stream, bytes, end_stream } = event {
                client.release(id(stream), bytes.len());
                waiting.get_mut(&stream).unwrap().1.extend(bytes);
                if end_stream {
                    let (expected, body) = waiting.remove(&stream).unwrap();
                    assert!(expected == body);
                    answered += 1;
                }
            }
        }
    }
}

/// Whatever comes: no panic, bounded memory, frames that are whole.
#[test]
fn random_changes_of_what_a_server_says_break_nothing() {
    let all = [
        frame(SETTINGS, 0, 0, &[]),
        frame(SETTINGS, ACK, 0, &[]),
        response(1, 0, &[(":status", "103"), ("link", "x")]),
        response(1, 0, &[OK, ("content-length", "5"), ("x-long", &"v".repeat(200))]),
        frame(DATA, PADDED, 1, b"\x02hello\0\0"),
        frame(PING, 0, 0, &[1; 8]),
        response(1, END_STREAM, &[("grpc-status", "0")]),
        window_update(0, 100),
        frame(HEADERS, 0, 3, &block(&[OK])),
        frame(CONTINUATION, END_HEADERS, 3, &block(&[("server", "x")])),
        setting(4, 100),
        frame(DATA, END_STREAM, 3, b"abc"),
        rst_stream(5),
        frame(GOAWAY, 0, 0, &[0, 0, 0, 7, 0, 0, 0, 0]),
        response(7, END_STREAM, &[OK]),
    ]
    .concat();
    let mut random = fastrand::Rng::with_seed(77);
    for _ in 0..10_000 {
        let mut changed = all.clone();
        for _ in 0..random.usize(..6) {
            let at = random.usize(18..changed.len());
            match random.u8(..3) {
                0 => changed[at] = random.u8(..),
                1 => drop(changed.remove(at)),
                _ => {
                    let to = random.usize(at..=changed.len());
                    let copy = changed[at..to].to_vec();
                    changed.splice(at..at, copy);
                }
            }
        }
        let mut client = Connection::connect(Settings::default());
        for _ in 0..4 {
            client.open(GET, [], Then::More).unwrap();
        }
        let size = random.usize(1..400);
        for piece in changed.chunks(size) {
            let (events, error) = feed(&mut client, piece);
            for event in events {
                if let Seen::Data { stream, bytes, .. } = event {
                    client.release(id(stream), bytes.len());
                }
            }
            if error.is_some() {
                break;
            }
            let _ = client.send_data(id(random.u32(..4) * 2 + 1), b"body", Then::More);
        }
        frames(&client.output()[24..]);
        assert!(client.memory() < 100 * 1024 && client.open_streams() <= 4);
    }
}

/// The `h2` crate's server, which says what it got and closes the connection when the client does.
async fn h2_server(pipe: tokio::io::DuplexStream) {
    let mut connection =
        h2::server::Builder::new().initial_window_size(5_000).handshake::<_, Bytes>(pipe).await.unwrap();
    while let Some(request) = connection.accept().await {
        let Ok((request, mut respond)) = request else { return };
        tokio::spawn(async move {
            let (parts, mut body) = request.into_parts();
            let mut echoed = Vec::new();
            while let Some(piece) = body.data().await {
                let piece = piece.unwrap();
                body.flow_control().release_capacity(piece.len()).unwrap();
                echoed.extend_from_slice(&piece);
            }
            let trailers = body.trailers().await.unwrap();
            let mut response = http::Response::builder().header("x-path", parts.uri.path());
            *response.headers_mut().unwrap() =
                parts.headers.into_iter().map(|(name, value)| (name.unwrap(), value)).collect();
            let response = response.header("x-path", parts.uri.path()).body(()).unwrap();
            let mut send = respond.send_response(response, false).unwrap();
            send.reserve_capacity(echoed.len());
            send.send_data(echoed.into(), trailers.is_none()).unwrap();
            if let Some(trailers) = trailers {
                send.send_trailers(trailers).unwrap();
            }
        });
    }
}

#[test]
fn an_h2_server_gives_back_what_we_say() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (ours, theirs) = tokio::io::duplex(20_000);
        let (mut read, mut write) = tokio::io::split(ours);
        tokio::spawn(h2_server(theirs));
        let mut client = Connection::connect(Settings { initial_stream_window: 7_000, ..Settings::default() });
        let mut random = fastrand::Rng::with_seed(3);
        // Body to send and what of it was sent, and what came back.
        let mut open: BTreeMap<StreamId, (Vec<u8>, usize, Vec<u8>)> = BTreeMap::new();
        let (mut opened, mut done) = (0, 0);
        let mut buffer = vec![0; 4096];
        while done < 200 {
            while opened < 200 && open.len() < 20 && client.can_open() {
                let path = format!("/{opened}");
                let value = "v".repeat(random.usize(..200));
                let fields = [Field::new(b"X-Some", value.as_bytes()), Field::known(Known::UserAgent, b"tidegate")];
                let line = RequestLine { method: b"POST", path: path.as_bytes(), ..GET };
                let stream = client.open(line, fields, Then::More).unwrap();
                open.insert(stream, (vec![b'b'; random.usize(..40_000)], 0, vec![]));
                opened += 1;
            }
            for (stream, (body, sent, _)) in &mut open {
                if *sent < body.len() || body.is_empty() && *sent == 0 {
                    *sent += client.send_data(*stream, &body[*sent..], Then::More).unwrap();
                    if *sent == body.len() {
                        client.send_trailers(*stream, [Field::new(b"x-end", b"1")]).unwrap();
                        *sent += usize::from(body.is_empty());
                    }
                }
            }
            let output = client.output().to_vec();
            tokio::select! {
                biased;
                count = write.write(&output), if !output.is_empty() => client.advance_output(count.unwrap()),
                count = read.read(&mut buffer) => {
                    for event in events(&mut client, &buffer[..count.unwrap()]) {
                        match event {
                            Seen::Response { status, .. } => assert_eq!(status, 200),
                            Seen::Data { stream, bytes, end_stream } => {
                                assert!(!end_stream);
                                client.release(id(stream), bytes.len());
                                open.get_mut(&id(stream)).unwrap().2.extend(bytes);
                            }
                            Seen::Trailers { stream, fields } => {
                                assert_eq!(fields, [("x-end".to_owned(), "1".to_owned())]);
                                let (body, _, echoed) = open.remove(&id(stream)).unwrap();
                                assert!(body == echoed);
                                done += 1;
                            }
                            Seen::Writable { .. } => {}
                            other => panic!("{other:?}"),
                        }
                    }
                }
            }
        }
    });
}
