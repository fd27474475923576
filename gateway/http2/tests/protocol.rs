//! Frames in, events and frames out: RFC 9113 as a client sees it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::*;
use tidegate_http2::{Connection, ConnectionError, ErrorCode, Field, Malformed, ResetBy, SendError, Settings, Then};

fn request(stream: u32, end_stream: bool) -> Seen {
    Seen::Request { stream, path: "/".to_owned(), fields: vec![], end_stream }
}

fn data(stream: u32, bytes: &[u8], end_stream: bool) -> Seen {
    Seen::Data { stream, bytes: bytes.to_vec(), end_stream }
}

fn our_reset(stream: u32, reason: Malformed) -> Seen {
    Seen::Reset { stream, code: reason.code(), by: ResetBy::Us(reason) }
}

fn kinds(connection: &mut Connection) -> Vec<(u8, u32)> {
    sent(connection).iter().map(|frame| (frame.kind, frame.stream)).collect()
}

#[test]
fn a_connection_begins_with_settings_and_its_window() {
    let connection = Connection::new(Settings::default());
    let first = frames(connection.output());
    assert_eq!((first[0].kind, first[0].payload.len()), (SETTINGS, 18));
    assert_eq!((first[1].kind, &first[1].payload[..]), (WINDOW_UPDATE, &((1u32 << 20) - 65_535).to_be_bytes()[..]));
}

#[test]
fn what_is_no_preface_is_refused() {
    for text in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"PRI * HTTP/2.0\r\n\r\nXM\r\n\r\n", b"\0"] {
        let mut connection = Connection::new(Settings::default());
        assert_eq!(feed(&mut connection, text).1, Some(ConnectionError::Preface));
    }
    let mut connection = Connection::new(Settings::default());
    let no_settings = [&tidegate_http2::PREFACE[..], &frame(PING, 0, 0, &[0; 8])].concat();
    let error = feed(&mut connection, &no_settings).1;
    assert_eq!(error, Some(ConnectionError::Protocol("the first frame is not SETTINGS")));
}

#[test]
fn a_request_is_answered() {
    let mut connection = greeted();
    let fields = [("x-a", "1"), ("cookie", "a=b"), ("cookie", "c=d")];
    let head = frame(HEADERS, END_HEADERS | END_STREAM, 1, &request_block(&fields));
    let fields = vec![("x-a".to_owned(), "1".to_owned()), ("cookie".to_owned(), "a=b; c=d".to_owned())];
    let expected = Seen::Request { stream: 1, path: "/".to_owned(), fields, end_stream: true };
    assert_eq!(events(&mut connection, &head), [expected]);
    assert_eq!(connection.open_streams(), 1);
    let answer = [Field::new(b"Server", b"t"), Field::new(b"Connection", b"close"), Field::new(b"X-Bad", b"a\nb")];
    assert_eq!(connection.send_headers(id(1), 200, answer, Then::More), Ok(1));
    assert_eq!(connection.send_data(id(1), b"hello", Then::End), Ok(5));
    assert_eq!(connection.open_streams(), 0);
    let frames = sent(&mut connection);
    assert_eq!((frames[0].kind, frames[0].flags), (HEADERS, END_HEADERS));
    assert_eq!(frames[0].payload, [&[0x88, 0x40 | 54, 1][..], b"t"].concat());
    assert_eq!((frames[1].kind, frames[1].flags, &frames[1].payload[..]), (DATA, END_STREAM, &b"hello"[..]));
    assert_eq!(connection.send_data(id(1), b"x", Then::End), Err(SendError::Closed));
}

#[test]
fn messages_are_sent_in_their_order() {
    let mut connection = greeted();
    events(&mut connection, &get(1));
    assert!(matches!(connection.send_data(id(1), b"x", Then::End), Err(SendError::Order(_))));
    assert!(matches!(connection.send_headers(id(1), 101, [], Then::More), Err(SendError::Order(_))));
    assert!(matches!(connection.send_headers(id(1), 100, [], Then::End), Err(SendError::Order(_))));
    assert_eq!(connection.send_headers(id(1), 103, [], Then::More), Ok(0));
    assert_eq!(connection.send_headers(id(1), 200, [], Then::More), Ok(0));
    assert!(matches!(connection.send_headers(id(1), 200, [], Then::More), Err(SendError::Order(_))));
    assert_eq!(connection.send_trailers(id(1), [Field::new(b"grpc-status", b"0")]), Ok(0));
    let flags: Vec<u8> = sent(&mut connection).iter().map(|frame| frame.flags).collect();
    assert_eq!(flags, [END_HEADERS, END_HEADERS, END_HEADERS | END_STREAM]);
    assert_eq!(connection.send_headers(id(3), 200, [], Then::End), Err(SendError::Closed));
}

#[test]
fn large_heads_are_cut_where_frames_end() {
    let mut connection = greeted();
    events(&mut connection, &get(1));
    let value = vec![b'v'; 40_000];
    connection.send_headers(id(1), 200, [Field::new(b"x-large", &value)], Then::End).unwrap();
    let frames = sent(&mut connection);
    let shape: Vec<_> = frames.iter().map(|frame| (frame.kind, frame.flags, frame.payload.len())).collect();
    assert_eq!(
        shape,
        [(HEADERS, END_STREAM, 16_384), (CONTINUATION, 0, 16_384), (CONTINUATION, END_HEADERS, shape[2].2)]
    );
    assert_eq!(frames.iter().map(|frame| frame.payload.len()).sum::<usize>(), 1 + 1 + 1 + 7 + 4 + 40_000);
}

#[test]
fn a_body_comes_in_pieces_and_its_window_is_given_back() {
    let mut connection = greeted();
    let body = vec![7; 16_384];
    let mut all = post(1, &[("content-length", "49152")]);
    for at in 0..3 {
        all.extend(frame(DATA, if at == 2 { END_STREAM } else { 0 }, 1, &body));
    }
    let seen = events(&mut connection, &all);
    assert_eq!(seen[1..], [data(1, &body, false), data(1, &body, false), data(1, &body, true)]);
    assert_eq!(sent(&mut connection), []);
    connection.release(id(1), 49_152);
    // The stream has ended, so that only the connection's window is of use, and half of that is not reached.
    assert_eq!(sent(&mut connection), []);

    events(&mut connection, &[post(3, &[]), frame(DATA, 0, 3, &body), frame(DATA, 0, 3, &body)].concat());
    connection.release(id(3), 20_000);
    assert_eq!(sent(&mut connection), []);
    connection.release(id(3), 12_768);
    let frames = sent(&mut connection);
    assert_eq!((frames.len(), frames[0].kind, frames[0].stream), (1, WINDOW_UPDATE, 3));
    assert_eq!(frames[0].payload, 32_768u32.to_be_bytes());
    // More than is held cannot be released.
    connection.release(id(3), 1_000_000);
    assert_eq!(sent(&mut connection), []);
}

#[test]
fn closed_streams_give_their_window_back_to_the_connection() {
    let mut connection = greeted();
    let mut updates = 0;
    for number in (1..400).step_by(2) {
        events(&mut connection, &[post(number, &[]), frame(DATA, 0, number, &[0; 16_384])].concat());
        connection.reset(id(number), ErrorCode::NO_ERROR);
        updates += kinds(&mut connection).iter().filter(|frame| **frame == (WINDOW_UPDATE, 0)).count();
    }
    // 200 times 16 KiB are more than three windows.
    assert_eq!(updates, 200 * 16_384 / (1 << 19));
}

#[test]
fn padding_is_counted_and_given_back_at_once() {
    let mut connection = greeted_with(Settings { initial_stream_window: 1000, ..Settings::default() });
    let padded = |data: &[u8], padding: u8| [&[padding][..], data, &vec![0; usize::from(padding)]].concat();
    events(&mut connection, &post(1, &[]));
    for _ in 0..100 {
        assert_eq!(events(&mut connection, &frame(DATA, PADDED, 1, &padded(b"ab", 250))), [data(1, b"ab", false)]);
        connection.release(id(1), 2);
    }
    check_error(
        &[post(1, &[]), frame(DATA, PADDED, 1, &[3, 0, 0])].concat(),
        ConnectionError::Protocol("padding is longer than its frame"),
    );
}

#[test]
fn windows_of_the_receiver_are_kept() {
    let settings = Settings { initial_stream_window: 100, ..Settings::default() };
    let mut connection = greeted_with(settings);
    events(&mut connection, &post(1, &[]));
    assert_eq!(events(&mut connection, &frame(DATA, 0, 1, &[0; 100])).len(), 1);
    assert_eq!(events(&mut connection, &frame(DATA, 0, 1, &[0; 1])), [our_reset(1, Malformed::WindowExceeded)]);
    // Before it acknowledged, the client may think that it has the default.
    let mut connection = Connection::new(settings);
    let preface = [&tidegate_http2::PREFACE[..], &frame(SETTINGS, 0, 0, &[])].concat();
    events(&mut connection, &[preface, post(1, &[]), frame(DATA, 0, 1, &[0; 16_000])].concat());
    events(&mut connection, &frame(SETTINGS, ACK, 0, &[]));
    assert_eq!(events(&mut connection, &frame(DATA, 0, 1, &[0; 1])), [our_reset(1, Malformed::WindowExceeded)]);
    // The connection's window.
    let mut connection = greeted_with(Settings { connection_window: 70_000, ..Settings::default() });
    let body = frame(DATA, 0, 1, &[0; 16_000]);
    events(&mut connection, &[post(1, &[]), body.repeat(4), post(3, &[])].concat());
    let (_, error) = feed(&mut connection, &frame(DATA, 0, 3, &[0; 7_000]));
    assert_eq!(error.map(ConnectionError::code), Some(ErrorCode::FLOW_CONTROL_ERROR));
}

#[test]
fn windows_of_the_sender_are_kept() {
    let mut connection = greeted();
    events(&mut connection, &[setting(4, 10), get(1), get(3)].concat());
    sent(&mut connection);
    for number in [1, 3] {
        connection.send_headers(id(number), 200, [], Then::More).unwrap();
    }
    assert_eq!(connection.capacity(id(1)), 10);
    assert_eq!(connection.send_data(id(1), &[1; 25], Then::End), Ok(10));
    assert!(connection.is_stalled(id(1)) && !connection.is_stalled(id(3)));
    assert_eq!(events(&mut connection, &window_update(1, 5)), [Seen::Writable { stream: 1 }]);
    assert_eq!(connection.send_data(id(1), &[1; 15], Then::End), Ok(5));
    // Settings may make it negative, and large again.
    assert_eq!(events(&mut connection, &setting(4, 0)), []);
    assert_eq!(connection.send_data(id(1), &[1; 10], Then::End), Ok(0));
    assert_eq!(events(&mut connection, &window_update(1, 10)), []);
    assert_eq!(events(&mut connection, &window_update(1, 1)), [Seen::Writable { stream: 1 }]);
    assert_eq!(connection.send_data(id(1), &[1; 10], Then::End), Ok(1));
    assert_eq!(events(&mut connection, &setting(4, 100)), [Seen::Writable { stream: 0 }]);
    assert_eq!(connection.send_data(id(1), &[1; 9], Then::End), Ok(9));
    // The connection's window is for all.
    assert_eq!(events(&mut connection, &setting(4, 0x7fff_ffff)), []);
    connection.advance_output(usize::MAX);
    assert_eq!(connection.send_data(id(3), &[1; 65_000], Then::More), Ok(65_000));
    connection.advance_output(usize::MAX);
    assert_eq!(connection.send_data(id(3), &[1; 1000], Then::End), Ok(65_535 - 65_000 - 25));
    assert!(connection.is_stalled(id(3)));
    assert_eq!(events(&mut connection, &window_update(3, 1)), []);
    assert_eq!(events(&mut connection, &window_update(0, 1000)), [Seen::Writable { stream: 0 }]);
    assert!(!connection.is_stalled(id(3)));
    assert_eq!(connection.send_data(id(3), &[1; 490], Then::End), Ok(490));
    assert_eq!(connection.open_streams(), 0);
    // An empty end needs no window.
    events(&mut connection, &[setting(4, 0), get(5)].concat());
    connection.send_headers(id(5), 200, [], Then::More).unwrap();
    assert_eq!(connection.send_data(id(5), &[], Then::End), Ok(0));
    assert_eq!(connection.open_streams(), 0);
}

#[test]
fn a_body_may_be_read_into_the_output() {
    let mut connection = greeted();
    events(&mut connection, &[setting(4, 100), get(1)].concat());
    sent(&mut connection);
    let fill = |count: usize, then| {
        move |room: &mut [u8]| {
            room[..count].fill(b'x');
            (count, then)
        }
    };
    assert!(matches!(connection.send_data_from(id(1), 10, fill(1, Then::More)), Err(SendError::Order(_))));
    connection.send_headers(id(1), 200, [], Then::More).unwrap();
    sent(&mut connection);
    assert_eq!(connection.send_data_from(id(1), 50, fill(0, Then::More)), Ok(0));
    assert_eq!(connection.send_data_from(id(1), 50, fill(50, Then::More)), Ok(50));
    assert_eq!(connection.send_data_from(id(1), 500, fill(50, Then::More)), Ok(50));
    assert_eq!(connection.send_data_from(id(1), 500, |_| panic!("there is no room")), Ok(0));
    assert!(connection.is_stalled(id(1)));
    assert_eq!(events(&mut connection, &window_update(1, 5)), [Seen::Writable { stream: 1 }]);
    assert_eq!(connection.send_data_from(id(1), 500, fill(3, Then::End)), Ok(3));
    let frames = sent(&mut connection);
    let shape: Vec<_> = frames.iter().map(|frame| (frame.kind, frame.flags, frame.payload.clone())).collect();
    assert_eq!(shape, [(DATA, 0, vec![b'x'; 50]), (DATA, 0, vec![b'x'; 50]), (DATA, END_STREAM, vec![b'x'; 3])]);
    assert_eq!(connection.open_streams(), 0);
}

#[test]
fn fields_that_must_not_be_indexed_are_marked_again() {
    let mut connection = greeted();
    let head = [&[0x82, 0x86, 0x84][..], &block(&[(":authority", "h")]), &[0x10, 1, b'a', 1, b'b']].concat();
    let head = frame(HEADERS, END_HEADERS | END_STREAM, 1, &head);
    let received = connection.receive(&head).unwrap();
    let Some(tidegate_http2::Event::Request { head, .. }) = received.event else { panic!("a request") };
    let field = head.fields().iter().next().unwrap();
    assert!(field.never_indexed && field.name == b"a");
    let secret = Field { never_indexed: true, ..Field::new(b"a", b"b") };
    connection.send_headers(id(1), 200, [secret], Then::End).unwrap();
    assert_eq!(sent(&mut connection)[0].payload, [0x88, 0x10, 1, b'a', 1, b'b']);
}

#[test]
fn windows_that_overflow_end_their_stream_or_connection() {
    let mut connection = greeted();
    let seen = events(&mut connection, &[get(1), window_update(1, 0x7fff_ffff)].concat());
    assert_eq!(seen[1..], [our_reset(1, Malformed::WindowOverflow)]);
    let overflow = ConnectionError::FlowControl("a window is larger than 2^31-1");
    check_error(&window_update(0, 0x7fff_ffff), overflow);
    check_error(&[get(1), window_update(1, 100_000), setting(4, 0x7fff_ffff)].concat(), overflow);
    let seen = events(&mut greeted(), &[get(1), window_update(1, 0)].concat());
    assert_eq!(seen[1..], [our_reset(1, Malformed::ZeroWindowUpdate)]);
    check_error(&window_update(0, 0), ConnectionError::Protocol("a window update of nothing"));
}

#[test]
fn content_length_is_what_the_body_has() {
    let reset = our_reset(1, Malformed::BodyLength);
    for (length, frames, expected) in [
        ("5", vec![frame(DATA, END_STREAM, 1, b"1234")], vec![reset.clone()]),
        ("5", vec![frame(DATA, END_STREAM, 1, b"123456")], vec![reset.clone()]),
        ("5", vec![frame(DATA, 0, 1, b"123456")], vec![reset.clone()]),
        ("5", vec![frame(DATA, 0, 1, b"123"), frame(DATA, 0, 1, b"456")], vec![data(1, b"123", false), reset.clone()]),
        ("5", vec![frame(HEADERS, END_HEADERS | END_STREAM, 1, &[])], vec![reset.clone()]),
        (
            "5",
            vec![frame(DATA, 0, 1, b"12345"), frame(DATA, END_STREAM, 1, b"")],
            vec![data(1, b"12345", false), data(1, b"", true)],
        ),
        ("0", vec![frame(DATA, END_STREAM, 1, b"")], vec![data(1, b"", true)]),
        ("0", vec![frame(DATA, END_STREAM, 1, b"1")], vec![reset]),
    ] {
        let seen = events(&mut greeted(), &[post(1, &[("content-length", length)]), frames.concat()].concat());
        assert_eq!(seen[1..], expected);
    }
    let head = frame(HEADERS, END_HEADERS | END_STREAM, 1, &request_block(&[("content-length", "5")]));
    let expected = Seen::Malformed { stream: 1, reason: Malformed::BodyLength };
    assert_eq!(events(&mut greeted(), &head), [expected]);
}

#[test]
fn trailers_end_a_request() {
    let trailers = |flags, fields: &[(&str, &str)]| frame(HEADERS, END_HEADERS | flags, 1, &block(fields));
    let mut connection = greeted();
    let all = [post(1, &[]), frame(DATA, 0, 1, b"x"), trailers(END_STREAM, &[("grpc-status", "0")])].concat();
    let fields = vec![("grpc-status".to_owned(), "0".to_owned())];
    assert_eq!(events(&mut connection, &all)[1..], [data(1, b"x", false), Seen::Trailers { stream: 1, fields }]);
    for (bad, reason) in [
        (trailers(0, &[("a", "b")]), Malformed::TrailersWithoutEnd),
        (trailers(END_STREAM, &[(":path", "/")]), Malformed::PseudoInTrailers),
        (trailers(END_STREAM, &[("connection", "close")]), Malformed::ConnectionField),
        (trailers(END_STREAM, &[("A", "b")]), Malformed::FieldName),
        (trailers(END_STREAM, &[("a", "b"); 200]), Malformed::TrailersTooLarge),
    ] {
        let seen = events(&mut greeted(), &[post(1, &[]), bad].concat());
        assert_eq!(seen[1..], [our_reset(1, reason)]);
    }
}

#[test]
fn a_malformed_request_may_be_answered_or_reset() {
    let bad = frame(HEADERS, END_HEADERS, 1, &block(&[(":method", "GET"), ("x", "y")]));
    for answers in [false, true] {
        let mut connection = greeted();
        let seen = events(&mut connection, &[bad.clone(), frame(DATA, 0, 1, &[0; 16_384]).repeat(3)].concat());
        // Its body is nobody's.
        assert_eq!(seen, [Seen::Malformed { stream: 1, reason: Malformed::MissingPseudo }]);
        if answers {
            assert_eq!(connection.send_headers(id(1), 400, [], Then::End), Ok(0));
            let last = sent(&mut connection).pop().unwrap();
            assert_eq!((last.kind, &last.payload[..]), (RST_STREAM, &ErrorCode::NO_ERROR.0.to_be_bytes()[..]));
            assert_eq!(events(&mut connection, &frame(DATA, END_STREAM, 1, b"x")), []);
        } else {
            connection.reset(id(1), Malformed::MissingPseudo.code());
            assert_eq!(events(&mut connection, &frame(DATA, END_STREAM, 1, b"x")), []);
        }
        assert_eq!(connection.open_streams(), 0);
    }
}

#[test]
fn frames_for_streams_that_we_reset_are_ignored() {
    let mut connection = greeted();
    events(&mut connection, &[post(1, &[]), post(3, &[])].concat());
    connection.reset(id(1), ErrorCode::CANCEL);
    assert_eq!(kinds(&mut connection), [(RST_STREAM, 1)]);
    let late = [
        frame(DATA, 0, 1, b"late"),
        window_update(1, 5),
        frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&[("a", "b")])),
        rst_stream(1),
    ];
    assert_eq!(events(&mut connection, &late.concat()), []);
    assert_eq!(kinds(&mut connection), []);
    // Also those of a frame that is half here.
    let (half, rest) = (&frame(DATA, 0, 3, b"abcdef")[..12].to_vec(), b"def");
    assert_eq!(events(&mut connection, half), [data(3, b"abc", false)]);
    connection.reset(id(3), ErrorCode::CANCEL);
    assert_eq!(events(&mut connection, &[&rest[..], &get(5)].concat()), [request(5, true)]);
}

#[test]
fn frames_for_streams_that_ended_are_errors() {
    let mut connection = greeted();
    events(&mut connection, &[get(1), rst_stream(1)].concat());
    assert_eq!(events(&mut connection, &frame(DATA, 0, 1, b"late")), []);
    let frames = sent(&mut connection);
    assert_eq!((frames[0].kind, &frames[0].payload[..]), (RST_STREAM, &ErrorCode::STREAM_CLOSED.0.to_be_bytes()[..]));
    let mut connection = greeted();
    events(&mut connection, &get(1));
    connection.send_headers(id(1), 200, [], Then::End).unwrap();
    assert_eq!(feed(&mut connection, &get(1)).1, Some(ConnectionError::StreamClosed));
    check_error(
        &[get(5), get(3)].concat(),
        ConnectionError::Protocol("the number of a new stream is not above that of the last one"),
    );
    check_error(&get(2), ConnectionError::Protocol("clients open streams with odd numbers"));
    check_error(&frame(DATA, 0, 1, b"x"), ConnectionError::Protocol("DATA for a stream that is not open"));
    let seen = events(&mut greeted(), &[get(1), frame(DATA, 0, 1, b"x")].concat());
    assert_eq!(seen[1..], [our_reset(1, Malformed::AfterEnd)]);
}

#[test]
fn a_stream_too_many_is_refused() {
    let mut connection = greeted_with(Settings { max_concurrent_streams: 1, ..Settings::default() });
    assert_eq!(events(&mut connection, &[get(1), get(3)].concat()), [request(1, true)]);
    let refused = sent(&mut connection);
    assert_eq!((refused[0].stream, &refused[0].payload[..]), (3, &ErrorCode::REFUSED_STREAM.0.to_be_bytes()[..]));
    connection.send_headers(id(1), 200, [], Then::End).unwrap();
    assert_eq!(events(&mut connection, &get(5)), [request(5, true)]);
}

#[test]
fn a_connection_that_drains_serves_what_was_on_its_way() {
    let mut connection = greeted();
    events(&mut connection, &get(1));
    connection.drain();
    let announced = sent(&mut connection);
    assert_eq!((announced[0].kind, &announced[0].payload[..4]), (GOAWAY, &0x7fff_ffffu32.to_be_bytes()[..]));
    assert_eq!(announced[1].kind, PING);
    assert_eq!(events(&mut connection, &get(3)), [request(3, true)]);
    assert_eq!(events(&mut connection, &frame(PING, ACK, 0, &announced[1].payload)), []);
    let last = sent(&mut connection);
    assert_eq!((last[0].kind, &last[0].payload[..4]), (GOAWAY, &3u32.to_be_bytes()[..]));
    assert_eq!(events(&mut connection, &[post(5, &[]), frame(DATA, 0, 5, b"x")].concat()), []);
    for number in [1, 3] {
        assert!(!connection.is_finished());
        connection.send_headers(id(number), 200, [], Then::End).unwrap();
    }
    assert!(connection.is_finished());
}

#[test]
fn pings_go_both_ways() {
    let mut connection = greeted();
    events(&mut connection, &frame(PING, 0, 0, b"12345678"));
    let frames = sent(&mut connection);
    assert_eq!((frames[0].kind, frames[0].flags, &frames[0].payload[..]), (PING, ACK, &b"12345678"[..]));
    connection.ping(*b"abcdefgh");
    assert_eq!(events(&mut connection, &frame(PING, ACK, 0, b"abcdefgh")), [Seen::Pong(*b"abcdefgh")]);
    assert_eq!(events(&mut connection, &frame(PING, ACK, 0, b"abcdefgh")), []);
}

#[test]
fn the_peers_goaway_is_told() {
    let goaway = frame(GOAWAY, 0, 0, &[&7u32.to_be_bytes()[..], &2u32.to_be_bytes(), b"text"].concat());
    let mut connection = greeted();
    let expected = Seen::GoAway { last_stream: 7, code: ErrorCode::INTERNAL_ERROR };
    assert_eq!(events(&mut connection, &[goaway, get(1)].concat()), [expected, request(1, true)]);
}

#[test]
fn an_end_of_input_is_clean_only_between_requests() {
    let mut connection = greeted();
    assert!(connection.end_of_input());
    events(&mut connection, &post(1, &[]));
    assert!(!connection.end_of_input());
    events(&mut connection, &frame(DATA, END_STREAM, 1, b"x"));
    assert!(connection.end_of_input());
    events(&mut connection, &[0, 0]);
    assert!(!connection.end_of_input());
}

/// A connection with everything in it, each request answered as soon as it is complete.
fn conversation() -> Vec<u8> {
    let cut = request_block(&[("x-cut", "in two")]);
    let priority = [&0x8000_0003u32.to_be_bytes()[..], &[9], &request_block(&[])].concat();
    [
        greeting(),
        get(1),
        post(3, &[("content-length", "10"), ("x-long", &"v".repeat(300))]),
        frame(DATA, 0, 3, b"abcde"),
        frame(PING, 0, 0, b"12345678"),
        frame(DATA, PADDED | END_STREAM, 3, b"\x03fghij\0\0\0"),
        frame(HEADERS, END_STREAM, 5, &cut[..5]),
        frame(CONTINUATION, 0, 5, &cut[5..6]),
        frame(CONTINUATION, END_HEADERS, 5, &cut[6..]),
        frame(HEADERS, END_HEADERS | 0x20, 7, &priority),
        frame(DATA, 0, 7, &[]),
        frame(PRIORITY, 0, 9, &[0; 5]),
        frame(0x7f, 0xff, 7, b"whatever"),
        window_update(0, 100),
        window_update(7, 100),
        frame(HEADERS, END_HEADERS | END_STREAM, 7, &block(&[("trailer-a", "b")])),
        post(9, &[]),
        rst_stream(9),
        frame(HEADERS, END_HEADERS | END_STREAM, 11, &block(&[("not", "enough")])),
        setting(1, 100),
        get(13),
        frame(GOAWAY, 0, 0, &[0; 8]),
    ]
    .concat()
}

/// Pieces of a body that follow one another are one: cutting the input cuts them.
fn joined(events: Vec<Seen>) -> Vec<Seen> {
    let mut joined: Vec<Seen> = Vec::new();
    for event in events {
        if let (
            Some(Seen::Data { stream, bytes, end_stream }),
            Seen::Data { stream: next, bytes: more, end_stream: end },
        ) = (joined.last_mut(), &event)
            && stream == next
            && !*end_stream
        {
            bytes.extend(more);
            *end_stream = *end;
            continue;
        }
        joined.push(event);
    }
    joined
}

#[test]
fn input_may_be_cut_anywhere() {
    let all = conversation();
    let mut connection = Connection::new(Settings::default());
    let whole = joined(events(&mut connection, &all));
    assert_eq!(whole.len(), 11, "{whole:#?}");
    let output = connection.output().to_vec();
    for cut in 0..=all.len() {
        let mut connection = Connection::new(Settings::default());
        let mut seen = events(&mut connection, &all[..cut]);
        seen.extend(events(&mut connection, &all[cut..]));
        assert_eq!(joined(seen), whole, "{cut}");
        assert_eq!(connection.output(), output, "{cut}");
    }
    for size in 1..20 {
        let mut connection = Connection::new(Settings::default());
        let seen: Vec<Seen> = all.chunks(size).flat_map(|piece| events(&mut connection, piece)).collect();
        assert_eq!(joined(seen), whole, "{size}");
        assert_eq!(connection.output(), output, "{size}");
    }
}

/// Whatever comes: no panic, bounded memory, frames that are whole.
#[test]
fn random_changes_break_nothing() {
    let all = conversation();
    let mut random = fastrand::Rng::with_seed(42);
    for _ in 0..10_000 {
        let mut changed = all.clone();
        for _ in 0..random.usize(1..8) {
            let at = random.usize(24..changed.len());
            match random.u8(..4) {
                0 => changed[at] = random.u8(..),
                1 => changed[at] ^= 1 << random.u8(..8),
                2 => {
                    changed.remove(at);
                }
                _ => {
                    let to = random.usize(at..=changed.len());
                    let copy = changed[at..to].to_vec();
                    let to = random.usize(24..changed.len());
                    changed.splice(to..to, copy);
                }
            }
        }
        let mut connection = Connection::new(Settings { max_concurrent_streams: 3, ..Settings::default() });
        let size = random.usize(1..2000);
        'all: for piece in changed.chunks(size) {
            let mut rest = piece;
            loop {
                let Ok(received) = connection.receive(rest) else { break 'all };
                rest = &rest[received.consumed..];
                let Some(event) = received.event else { break };
                match seen(&event) {
                    Seen::Request { stream, .. } | Seen::Malformed { stream, .. } => {
                        let _ = connection.send_headers(id(stream), 200, [Field::new(b"server", b"t")], Then::More);
                        let then = if random.bool() { Then::End } else { Then::More };
                        let _ = connection.send_data(id(stream), b"answer", then);
                    }
                    Seen::Data { stream, bytes, .. } => {
                        connection.release(id(stream), bytes.len());
                        if random.u8(..10) == 0 {
                            connection.reset(id(stream), ErrorCode::CANCEL);
                        }
                    }
                    _ => {}
                }
            }
        }
        frames(connection.output());
        assert!(connection.memory() < 200 * 1024 && connection.open_streams() <= 3);
    }
}
