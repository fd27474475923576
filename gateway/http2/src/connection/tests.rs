//! What only the inside shows: that no byte of a window is ever lost or made.

use super::*;
use crate::event::Event;
use crate::fields::Field;
use crate::frame::FrameHeader;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let header = FrameHeader { length: payload.len(), kind, flags, stream: StreamId::new(stream) };
    [&header.bytes()[..], payload].concat()
}

/// The peer, and an application that releases, answers and resets as it comes.
struct Game {
    random: fastrand::Rng,
    connection: Connection,
    /// Streams, with what the application holds of them.
    open: Vec<(u32, usize)>,
    next: u32,
    /// Bytes of data on all streams that the peer may send, as the peer sees it.
    window: u64,
}

impl Game {
    fn new(seed: u64) -> Self {
        let settings = Settings { connection_window: 70_000, initial_stream_window: 20_000, ..Settings::default() };
        let mut connection = Connection::new(settings);
        let greeting = [&PREFACE[..], &frame(kind::SETTINGS, 0, 0, &[]), &frame(kind::SETTINGS, flag::ACK, 0, &[])];
        assert!(connection.receive(&greeting.concat()).unwrap().event.is_none());
        let random = fastrand::Rng::with_seed(seed);
        Self { random, connection, open: Vec::new(), next: 1, window: 65_535 }
    }

    /// What the peer reads of the output: how much more it may send.
    fn read_output(&mut self) {
        let mut output = self.connection.output();
        while let Some((header, rest)) = output.split_first_chunk::<9>() {
            let header = FrameHeader::parse(header);
            let (payload, rest) = rest.split_at(header.length);
            if header.kind == kind::WINDOW_UPDATE && header.stream.is_connection() {
                self.window += u64::from(u32::from_be_bytes(payload.try_into().unwrap()));
            }
            output = rest;
        }
        self.connection.advance_output(usize::MAX);
        assert_eq!(self.window, u64::from(self.connection.receive_window));
    }

    fn feed(&mut self, bytes: &[u8]) {
        let cut = self.random.usize(..=bytes.len());
        for mut piece in [&bytes[..cut], &bytes[cut..]] {
            loop {
                let received = self.connection.receive(piece).unwrap();
                piece = &piece[received.consumed..];
                let Some(event) = received.event else { break };
                match event {
                    Event::Request { stream, .. } => self.open.push((stream.get(), 0)),
                    Event::Malformed { stream, .. } => {
                        let _ = self.connection.send_headers(stream, 400, [], Then::End);
                    }
                    Event::Data { stream, bytes, .. } => {
                        let length = bytes.len();
                        self.open.iter_mut().find(|open| open.0 == stream.get()).unwrap().1 += length;
                    }
                    Event::Reset { stream, .. } => self.open.retain(|open| open.0 != stream.get()),
                    _ => {}
                }
            }
        }
    }

    fn step(&mut self) {
        self.read_output();
        let which = self.random.usize(..self.open.len().max(1));
        let open = self.open.get(which).copied();
        let number = open.map_or(1, |open| open.0);
        let end = if self.random.u8(..4) == 0 { flag::END_STREAM } else { 0 };
        match self.random.u8(..12) {
            0 | 1 => {
                // GET / with an authority, or without a path.
                let block: &[u8] = if self.random.u8(..5) > 0 { b"\x82\x86\x84\x01\x01h" } else { b"\x82\x86" };
                let bytes = frame(kind::HEADERS, flag::END_HEADERS | end, self.next, block);
                self.next += 2;
                self.feed(&bytes);
            }
            2..=6 if self.next > 1 => {
                let number = if self.random.u8(..8) == 0 { 1 + 2 * self.random.u32(..self.next / 2) } else { number };
                let length = self.random.usize(1..3000).min(self.window as usize);
                let padding = self.random.usize(..length.clamp(1, 200));
                let mut payload = vec![0; length];
                if let Some(first) = payload.first_mut() {
                    *first = padding as u8;
                }
                let is_padded = self.random.bool() && length > 0;
                let flags = if is_padded { flag::PADDED } else { 0 };
                let has_data = length > if is_padded { padding + 1 } else { 0 };
                self.window -= length as u64;
                // One without data is a flood; so it ends its stream.
                let end = if has_data { end } else { flag::END_STREAM };
                self.feed(&frame(kind::DATA, flags | end, number, &payload));
            }
            7 => {
                let Some((number, _)) = open else { return };
                self.feed(&frame(kind::RST_STREAM, 0, number, &[0; 4]));
            }
            8 => {
                let Some((number, _)) = open else { return };
                self.connection.reset(StreamId::new(number), ErrorCode::CANCEL);
                self.open.swap_remove(which);
            }
            9 => {
                let Some((number, _)) = open else { return };
                let id = StreamId::new(number);
                let _ = self.connection.send_headers(id, 200, [Field::new(b"a", b"b")], Then::More);
                let _ = self.connection.send_data(id, b"answer", Then::End);
            }
            _ => {
                let Some((number, held)) = self.open.get_mut(which) else { return };
                let count = self.random.usize(..=*held);
                *held -= count;
                self.connection.release(StreamId::new(*number), count);
            }
        }
        self.connection.forgive();
    }
}

#[test]
fn every_byte_of_the_window_comes_back() {
    for seed in 0..60 {
        let mut game = Game::new(seed);
        for _ in 0..2_000 {
            game.step();
            let connection = &game.connection;
            let held: u32 = connection.streams.iter().map(|stream| stream.held).sum();
            assert!(matches!(connection.reading, Reading::Header));
            assert_eq!(connection.receive_window + connection.released + held, 70_000);
            assert!(connection.streams.iter().all(|stream| stream.receive_window >= 0));
        }
        for (number, _) in std::mem::take(&mut game.open) {
            game.connection.reset(StreamId::new(number), ErrorCode::CANCEL);
        }
        for id in game.connection.streams.iter().map(|stream| stream.id).collect::<Vec<_>>() {
            game.connection.reset(id, ErrorCode::CANCEL);
        }
        game.read_output();
        assert_eq!(game.connection.receive_window + game.connection.released, 70_000);
        assert_eq!(game.connection.open_streams(), 0);
    }
}
