//! What costs a peer little ends its connection before it costs us much. Each has a name.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::*;
use tidegate_http2::{Connection, ConnectionError, Flood, HpackError, Limits, Settings, Then};

/// Sends the same frames again and again, answering no request and reading nothing, until the connection ends; says how
/// often that was.
fn rounds(connection: &mut Connection, most: u32, make: impl Fn(u32) -> Vec<u8>) -> (u32, Option<ConnectionError>) {
    for round in 0..most {
        let (_, error) = feed(connection, &make(round));
        if error.is_some() {
            assert!(connection.output().len() < 64 * 1024 && connection.memory() < 300 * 1024);
            return (round, error);
        }
    }
    (most, None)
}

#[track_caller]
fn check_flood(flood: Flood, rounds_allowed: u32, make: impl Fn(u32) -> Vec<u8>) {
    let mut connection = greeted();
    let (round, error) = rounds(&mut connection, 100_000, make);
    assert_eq!(error, Some(ConnectionError::Flood(flood)));
    assert!(round <= rounds_allowed, "{flood} after {round}");
}

#[test]
fn rapid_reset_ends_the_connection() {
    check_flood(Flood::Resets, 500, |round| [get(2 * round + 1), rst_stream(2 * round + 1)].concat());
}

/// CVE-2025-8671: the server is made to reset, so that no limit on the client's resets sees it.
#[test]
fn resets_that_the_peer_provokes_count_as_its_own() {
    check_flood(Flood::Resets, 500, |round| [get(2 * round + 1), window_update(2 * round + 1, 0)].concat());
    check_flood(Flood::Resets, 500, |round| {
        [get(2 * round + 1), frame(DATA, END_STREAM, 2 * round + 1, b"x")].concat()
    });
    check_flood(Flood::Resets, 500, |round| {
        [post(2 * round + 1, &[]), window_update(2 * round + 1, 0x7fff_ffff)].concat()
    });
    check_flood(Flood::Resets, 500, |round| {
        let dependency = [&(2 * round + 1).to_be_bytes()[..], &[0]].concat();
        [post(2 * round + 1, &[]), frame(PRIORITY, 0, 2 * round + 1, &dependency)].concat()
    });
}

#[test]
fn streams_beyond_the_limit_are_refused_and_counted() {
    let mut connection = greeted();
    let (round, error) = rounds(&mut connection, 10_000, |round| get(2 * round + 1));
    assert_eq!((round, error), (600, Some(ConnectionError::Flood(Flood::Resets))));
    assert_eq!(connection.open_streams(), 100);
}

#[test]
fn malformed_requests_are_counted_though_the_application_answers_them() {
    let mut connection = greeted();
    for round in 0..=500 {
        let request = frame(HEADERS, END_HEADERS | END_STREAM, 2 * round + 1, &block(&[(":method", "GET")]));
        let (_, error) = feed(&mut connection, &request);
        assert_eq!(error.is_some(), round == 500, "{round}");
        let _ = connection.send_headers(id(2 * round + 1), 400, [], Then::End);
        connection.advance_output(usize::MAX);
    }
}

#[test]
fn who_is_served_may_cancel_as_often() {
    let mut connection = greeted();
    for round in 0..10_000 {
        let (served, cancelled) = (4 * round + 1, 4 * round + 3);
        events(&mut connection, &[get(served), get(cancelled), rst_stream(cancelled)].concat());
        connection.send_headers(id(served), 200, [], Then::End).unwrap();
        connection.advance_output(usize::MAX);
    }
}

#[test]
fn what_is_forgiven_is_not_counted_for_ever() {
    let mut connection = greeted();
    for round in 0..10_000 {
        events(&mut connection, &[get(2 * round + 1), rst_stream(2 * round + 1)].concat());
        if round % 200 == 199 {
            connection.forgive();
        }
    }
}

#[test]
fn a_header_block_has_so_many_frames_and_bytes() {
    let start = frame(HEADERS, 0, 1, &request_block(&[]));
    for piece in [&[][..], &[0x82]] {
        let mut connection = greeted();
        events(&mut connection, &start);
        let (round, error) = rounds(&mut connection, 10_000, |_| frame(CONTINUATION, 0, 1, piece));
        assert_eq!((round, error), (32, Some(ConnectionError::Flood(Flood::Continuation))));
    }
    let mut connection = greeted();
    events(&mut connection, &start);
    let (round, error) = rounds(&mut connection, 10_000, |_| frame(CONTINUATION, 0, 1, &[0; 16_384]));
    assert_eq!((round, error), (3, Some(ConnectionError::Flood(Flood::HeaderBlock))));
}

/// CVE-2026-105297's kind: 4 KiB in the table, and one byte for each time that it is meant.
#[test]
fn a_block_that_grows_when_it_is_decoded_is_too_large_before_it_has_grown() {
    let value = "v".repeat(4000);
    let mut insert = request_block(&[("a", &value)]);
    // The literal becomes one with indexing.
    let at = insert.len() - 4000 - 3 - 2 - 1;
    insert[at] = 0x40;
    let mut connection = greeted();
    events(&mut connection, &frame(HEADERS, END_HEADERS | END_STREAM, 1, &insert));
    let block = [request_block(&[]), vec![0xbe; 40]].concat();
    assert_eq!(events(&mut connection, &frame(HEADERS, END_HEADERS, 3, &block)), [Seen::TooLarge { stream: 3 }]);
    assert!(connection.memory() < 160 * 1024, "{}", connection.memory());
    let block = [request_block(&[]), vec![0xbe; 16_000]].concat();
    let (events, error) = feed(&mut connection, &frame(HEADERS, END_HEADERS, 5, &block));
    assert_eq!((events, error), (vec![], Some(ConnectionError::Flood(Flood::HeaderBlock))));
    assert!(connection.memory() < 160 * 1024, "{}", connection.memory());
}

#[test]
fn a_request_with_too_many_fields_is_too_large() {
    for (count, too_many) in [(100, false), (101, true), (150, true)] {
        let fields = vec![("a", "b"); count];
        let seen = events(&mut greeted(), &frame(HEADERS, END_HEADERS | END_STREAM, 1, &request_block(&fields)));
        assert_eq!(matches!(seen[..], [Seen::TooLarge { stream: 1 }]), too_many, "{count}");
    }
}

#[test]
fn empty_frames_in_a_row_are_a_flood() {
    let mut connection = greeted();
    events(&mut connection, &post(1, &[]));
    let (round, error) = rounds(&mut connection, 10, |_| frame(DATA, 0, 1, &[]));
    assert_eq!((round, error), (1, Some(ConnectionError::Flood(Flood::EmptyFrames))));
    // Padding is no payload.
    let mut connection = greeted();
    events(&mut connection, &post(1, &[]));
    let (round, error) = rounds(&mut connection, 10, |_| frame(DATA, PADDED, 1, &[3, 0, 0, 0]));
    assert_eq!((round, error), (1, Some(ConnectionError::Flood(Flood::EmptyFrames))));
    let mut connection = greeted();
    events(&mut connection, &post(1, &[]));
    for _ in 0..1000 {
        events(&mut connection, &[frame(DATA, 0, 1, &[]), frame(DATA, 0, 1, b"x")].concat());
    }
}

#[test]
fn replies_that_nobody_reads_are_bounded() {
    check_flood(Flood::ControlReplies, 1000, |_| frame(PING, 0, 0, &[0; 8]));
    check_flood(Flood::ControlReplies, 1000, |_| frame(SETTINGS, 0, 0, &[]));
    let mut connection = limited(Limits { max_premature_resets: u32::MAX, ..Limits::default() });
    let (round, error) = rounds(&mut connection, 10_000, |round| get(2 * round + 1));
    assert_eq!((round, error), (1100, Some(ConnectionError::Flood(Flood::ControlReplies))));
    // One read may have many.
    check_flood(Flood::ControlReplies, 0, |_| frame(PING, 0, 0, &[0; 8]).repeat(2000));
}

#[test]
fn resets_of_the_application_that_nobody_reads_are_bounded() {
    let mut connection = greeted();
    for round in 0..=1001 {
        let (events, error) = feed(&mut connection, &get(2 * round + 1));
        if round == 1001 {
            assert_eq!((events, error), (vec![], Some(ConnectionError::Flood(Flood::ControlReplies))));
        }
        connection.reset(id(2 * round + 1), tidegate_http2::ErrorCode::CANCEL);
    }
}

#[test]
fn replies_that_are_read_are_not() {
    let mut connection = greeted();
    for _ in 0..100_000 {
        events(&mut connection, &frame(PING, 0, 0, &[0; 8]));
        connection.advance_output(usize::MAX);
    }
}

#[test]
fn frames_that_mean_nothing_are_bounded() {
    check_flood(Flood::UnknownFrames, 100, |_| frame(0xbe, 0, 0, &[0; 10]));
    check_flood(Flood::UnknownFrames, 100, |_| frame(0xbe, 0, 7, &[]));
    check_flood(Flood::Priority, 100, |_| frame(PRIORITY, 0, 3, &[0; 5]));
    check_flood(Flood::Priority, 100, |_| frame(16, 0, 0, &[0, 0, 0, 3, b'u']));
    check_flood(Flood::WindowUpdate, 5, |_| window_update(0, 1));
    let mut connection = greeted();
    events(&mut connection, &get(1));
    let (_, error) = rounds(&mut connection, 1000, |_| window_update(1, 1));
    assert_eq!(error, Some(ConnectionError::Flood(Flood::WindowUpdate)));
    let mut connection = greeted();
    events(&mut connection, &[get(1), rst_stream(1)].concat());
    let (_, error) = rounds(&mut connection, 1000, |_| rst_stream(1));
    assert_eq!(error, Some(ConnectionError::Flood(Flood::UnknownFrames)));
    check_error(
        &frame(SETTINGS, ACK, 0, &[]),
        ConnectionError::Protocol("an acknowledgement of SETTINGS that were not sent"),
    );
    let (_, error) = rounds(&mut greeted(), 1000, |_| frame(PING, ACK, 0, &[9; 8]));
    assert_eq!(error, Some(ConnectionError::Flood(Flood::UnknownFrames)));
}

#[test]
fn a_table_changes_its_size_twice_in_a_block_and_no_more() {
    let block = [&[0x20, 0x3f, 0xe1, 0x1f, 0x20][..], &request_block(&[])].concat();
    check_error(&frame(HEADERS, END_HEADERS, 1, &block), ConnectionError::Compression(HpackError::SizeUpdate));
}

/// The peer makes us answer and does not read: the caller is told not to read, and data is not taken.
#[test]
fn output_stops_at_its_mark() {
    let mut connection = greeted_with(Settings { max_concurrent_streams: 10, ..Settings::default() });
    events(&mut connection, &[setting(4, 0x7fff_ffff), window_update(0, 0x7000_0000)].concat());
    connection.advance_output(usize::MAX);
    let mut number = 1;
    while connection.should_read() {
        events(&mut connection, &get(number));
        connection.send_headers(id(number), 200, [], Then::More).unwrap();
        connection.send_data(id(number), &[0; 5000], Then::End).unwrap();
        number += 2;
        assert!(number < 100);
    }
    let waiting = connection.output().len();
    assert!((64 * 1024..70 * 1024).contains(&waiting), "{waiting}");
    events(&mut connection, &get(number));
    connection.send_headers(id(number), 200, [], Then::More).unwrap();
    assert_eq!(connection.send_data(id(number), &[0; 5000], Then::End), Ok(0));
    connection.advance_output(usize::MAX);
    assert_eq!(connection.send_data(id(number), &[0; 5000], Then::End), Ok(5000));
}

#[test]
fn an_idle_connection_holds_little() {
    let mut connection = greeted();
    for number in (1..1001).step_by(2) {
        events(&mut connection, &get(number));
        connection.send_headers(id(number), 200, [], Then::End).unwrap();
        connection.advance_output(usize::MAX);
    }
    connection.release_memory();
    let beyond_tables = connection.memory() - connection.table_memory();
    assert!(beyond_tables < 2048, "{beyond_tables}");
}
