//! A strict reader of chunked framing, run over bytes as they pass.
//!
//! It finds where a chunked body ends, so that what follows can wait for its turn, and refuses what RFC 9112
//! section 7.1 does not allow. What goes on are the data alone, framed anew.

/// Chunk extensions and trailers of one request together, in bytes.
const MAX_OVERHEAD: usize = 16 * 1024;

/// Hexadecimal digits of a chunk's size: what a 64-bit number can hold.
const MAX_DIGITS: u8 = 16;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Size { size: u64, digits: u8 },
    Extension { size: u64 },
    SizeLineFeed { size: u64 },
    Data { left: u64 },
    DataReturn,
    DataLineFeed,
    TrailerStart,
    Trailer,
    TrailerLineFeed,
    LastLineFeed,
    Done,
}

/// Where in a chunked body a connection is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ChunkedScan {
    state: State,
    overhead: usize,
    past_first_line: bool,
}

/// The body is not framed as RFC 9112 asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct BadChunk;

impl Default for ChunkedScan {
    fn default() -> Self {
        Self { state: State::Size { size: 0, digits: 0 }, overhead: 0, past_first_line: false }
    }
}

impl ChunkedScan {
    pub(crate) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Whether the body's first line has begun and not ended.
    pub(crate) fn is_inside_first_line(&self) -> bool {
        !self.past_first_line && !matches!(self.state, State::Size { digits: 0, .. })
    }

    /// Goes over `bytes` and returns how many of them belong to the body; fewer than all only at its end.
    pub(crate) fn advance(&mut self, bytes: &[u8]) -> Result<usize, BadChunk> {
        let mut at = 0;
        while at < bytes.len() && !self.is_done() {
            if let State::Data { left } = self.state {
                let step = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len() - at);
                at += step;
                let left = left - step as u64;
                self.state = if left == 0 { State::DataReturn } else { State::Data { left } };
                continue;
            }
            self.state = self.next(bytes[at])?;
            at += 1;
        }
        Ok(at)
    }

    /// As [`Self::advance`], and moves the data of the chunks to the front of `bytes`. Returns how many bytes belong to the
    /// body, and how many of data there are.
    pub(crate) fn decode(&mut self, bytes: &mut [u8]) -> Result<(usize, usize), BadChunk> {
        let (mut at, mut data) = (0, 0);
        while at < bytes.len() && !self.is_done() {
            if let State::Data { left } = self.state {
                let step = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len() - at);
                bytes.copy_within(at..at + step, data);
                at += step;
                data += step;
                let left = left - step as u64;
                self.state = if left == 0 { State::DataReturn } else { State::Data { left } };
                continue;
            }
            self.state = self.next(bytes[at])?;
            at += 1;
        }
        Ok((at, data))
    }

    fn next(&mut self, byte: u8) -> Result<State, BadChunk> {
        Ok(match (self.state, byte) {
            (State::Size { size, digits }, byte) if byte.is_ascii_hexdigit() => {
                let digit = char::from(byte).to_digit(16).map_or(0, u64::from);
                if digits >= MAX_DIGITS {
                    return Err(BadChunk);
                }
                State::Size { size: size << 4 | digit, digits: digits + 1 }
            }
            (State::Size { size, digits: 1.. }, b'\r') | (State::Extension { size }, b'\r') => {
                State::SizeLineFeed { size }
            }
            (State::Size { size, digits: 1.. }, b';') => State::Extension { size },
            (State::Extension { size }, byte) if is_text(byte) => {
                self.spend()?;
                State::Extension { size }
            }
            (State::SizeLineFeed { size }, b'\n') => {
                self.past_first_line = true;
                if size == 0 { State::TrailerStart } else { State::Data { left: size } }
            }
            (State::DataReturn, b'\r') => State::DataLineFeed,
            (State::DataLineFeed, b'\n') => State::Size { size: 0, digits: 0 },
            (State::TrailerStart, b'\r') => State::LastLineFeed,
            (State::Trailer, b'\r') => State::TrailerLineFeed,
            (State::TrailerStart | State::Trailer, byte) if is_text(byte) => {
                self.spend()?;
                State::Trailer
            }
            (State::TrailerLineFeed, b'\n') => State::TrailerStart,
            (State::LastLineFeed, b'\n') => State::Done,
            _ => return Err(BadChunk),
        })
    }

    fn spend(&mut self) -> Result<(), BadChunk> {
        self.overhead += 1;
        if self.overhead > MAX_OVERHEAD { Err(BadChunk) } else { Ok(()) }
    }
}

fn is_text(byte: u8) -> bool {
    byte >= b' ' && byte != 0x7f || byte == b'\t'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_ends_where_its_last_line_ends() {
        for body in ["0\r\n\r\n", "3\r\nabc\r\n0\r\n\r\n", "A;name=\"v\"\r\n0123456789\r\n000\r\nX: y\r\nZ: w\r\n\r\n"]
        {
            let text = format!("{body}GET /");
            assert_eq!(ChunkedScan::default().advance(text.as_bytes()), Ok(body.len()), "{body:?}");
            let mut scan = ChunkedScan::default();
            for (at, byte) in body.bytes().enumerate() {
                assert!(!scan.is_done(), "{body:?} at {at}");
                assert_eq!(scan.advance(&[byte]), Ok(1));
            }
            assert!(scan.is_done(), "{body:?}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        let long = format!("1;{}\r\n", "x".repeat(MAX_OVERHEAD + 1));
        for body in [
            "0x5\r\n",
            "\r\n",
            "-1\r\n",
            "5 \r\n",
            " 5\r\n",
            "5\n",
            "5;a\n",
            "3\r\nabcd",
            "3\r\nabc\n",
            "0\r\nX: y\n",
            "FFFFFFFFFFFFFFFF1\r\n",
            "0\r\nX: \0\r\n",
            "0\r\n\rX",
            "g\r\n",
            ";a\r\n",
            &long,
        ] {
            assert_eq!(ChunkedScan::default().advance(body.as_bytes()), Err(BadChunk), "{body:?}");
        }
    }
    #[test]
    fn how_a_body_is_cut_into_pieces_changes_nothing() {
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..20_000 {
            let mut bytes = b"a;b=c\r\n0123456789\r\n2\r\nab\r\n0\r\nX: y\r\n\r\nGET /".to_vec();
            for _ in 0..random.usize(..3) {
                let at = random.usize(..bytes.len());
                bytes[at] = random.u8(..);
            }
            let whole = ChunkedScan::default().advance(&bytes);
            let mut scan = ChunkedScan::default();
            let mut at = 0;
            let pieces = loop {
                let end = (at + random.usize(1..9)).min(bytes.len());
                match scan.advance(&bytes[at..end]) {
                    Ok(taken) => at += taken,
                    Err(error) => break Err(error),
                }
                if scan.is_done() || at == bytes.len() {
                    break Ok(at);
                }
            };
            assert_eq!(pieces, whole, "{:?}", String::from_utf8_lossy(&bytes));
        }
    }
}
