//! PROXY protocol, versions 1 and 2: what a balancer in front of the gateway says of its client.
//!
//! Source: HAProxy, "The PROXY protocol"; Envoy's listener filter for what is refused. A header is required where the
//! protocol is switched on, as in Istio: without it anybody could claim an address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::{Buf, BufMut, BytesMut};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// The longest header of version 1, with its CRLF.
const MAX_V1: usize = 107;
/// What follows the fixed part of version 2: addresses, and what else is said (TLVs). The protocol allows 64 KiB.
const MAX_V2_REST: usize = 4096;
/// Fixed part of version 2.
const V2_HEAD: usize = 16;
const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const V1_SIGNATURE: &[u8] = b"PROXY ";
/// What is read at once while the length is not known: all of a usual header, and little of what follows.
const READ: usize = 256;

/// What a header says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Proxied {
    /// The connection is the proxy's own (a health check), or its client has no address of the Internet.
    Unchanged,
    From {
        source: SocketAddr,
        destination: SocketAddr,
    },
}

/// Why a connection has no header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub(crate) enum ProxyHeaderFailure {
    /// The peer went before its header was whole.
    Closed,
    Timeout,
    /// It begins with something else, or breaks the protocol's rules.
    Malformed,
    /// It says more than is read.
    TooLarge,
}

impl ProxyHeaderFailure {
    pub(crate) const ALL: [Self; 4] = [Self::Closed, Self::Timeout, Self::Malformed, Self::TooLarge];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Timeout => "timeout",
            Self::Malformed => "malformed",
            Self::TooLarge => "too_large",
        }
    }
}

/// Reads a header, of which `bytes` came already, and gives back what follows it: at most what came with it, or 256
/// bytes. The caller limits the time.
///
/// # Errors
/// There is no header that may be believed; the connection must be closed.
pub(crate) async fn read(tcp: &mut TcpStream, mut bytes: BytesMut) -> Result<(Proxied, BytesMut), ProxyHeaderFailure> {
    loop {
        let room = match parse(&bytes)? {
            Step::Done { proxied, length } => {
                bytes.advance(length);
                return Ok((proxied, bytes));
            }
            Step::More(room) => room,
        };
        bytes.reserve(room);
        match tcp.read_buf(&mut (&mut bytes).limit(room)).await {
            Ok(1..) => {}
            Ok(0) | Err(_) => return Err(ProxyHeaderFailure::Closed),
        }
    }
}

enum Step {
    Done {
        proxied: Proxied,
        /// Of the header.
        length: usize,
    },
    /// At most so many bytes should be read.
    More(usize),
}

fn parse(bytes: &[u8]) -> Result<Step, ProxyHeaderFailure> {
    if begins(bytes, V2_SIGNATURE) && !bytes.is_empty() {
        return parse_v2(bytes);
    }
    if !begins(bytes, V1_SIGNATURE) {
        return Err(ProxyHeaderFailure::Malformed);
    }
    let window = &bytes[..bytes.len().min(MAX_V1)];
    match window.windows(2).position(|two| two == b"\r\n") {
        Some(end) => Ok(Step::Done { proxied: parse_v1(&bytes[..end])?, length: end + 2 }),
        None if bytes.len() >= MAX_V1 => Err(ProxyHeaderFailure::TooLarge),
        None => Ok(Step::More(READ.saturating_sub(bytes.len()))),
    }
}

/// Whether `bytes` begin with `signature`, as far as they go.
fn begins(bytes: &[u8], signature: &[u8]) -> bool {
    let common = bytes.len().min(signature.len());
    bytes[..common] == signature[..common]
}

/// `PROXY TCP4 192.0.2.1 198.51.100.1 4711 443`.
fn parse_v1(line: &[u8]) -> Result<Proxied, ProxyHeaderFailure> {
    let line = std::str::from_utf8(line).map_err(|_| ProxyHeaderFailure::Malformed)?;
    let mut words = line.split(' ').skip(1);
    let family = words.next();
    if family == Some("UNKNOWN") {
        // Whatever else it says must be ignored.
        return Ok(Proxied::Unchanged);
    }
    let address = |word: Option<&str>| -> Option<IpAddr> {
        match family? {
            "TCP4" => word?.parse().ok().map(IpAddr::V4),
            "TCP6" => word?.parse().ok().map(IpAddr::V6),
            _ => None,
        }
    };
    let port = |word: Option<&str>| -> Option<u16> {
        let word = word?;
        let plain = word.bytes().all(|byte| byte.is_ascii_digit()) && (word == "0" || !word.starts_with('0'));
        word.parse().ok().filter(|_| plain)
    };
    let (source, destination) = (address(words.next()), address(words.next()));
    let (from, to) = (port(words.next()), port(words.next()));
    match (source, destination, from, to, words.next()) {
        (Some(source), Some(destination), Some(from), Some(to), None) => {
            Ok(Proxied::From { source: SocketAddr::new(source, from), destination: SocketAddr::new(destination, to) })
        }
        _ => Err(ProxyHeaderFailure::Malformed),
    }
}

fn parse_v2(bytes: &[u8]) -> Result<Step, ProxyHeaderFailure> {
    let malformed = ProxyHeaderFailure::Malformed;
    if let Some(command) = bytes.get(12)
        && !matches!(command, 0x20 | 0x21)
    {
        return Err(malformed);
    }
    let Some(head) = bytes.get(..V2_HEAD) else { return Ok(Step::More(V2_HEAD - bytes.len())) };
    let rest = usize::from(u16::from_be_bytes([head[14], head[15]]));
    if rest > MAX_V2_REST {
        return Err(ProxyHeaderFailure::TooLarge);
    }
    let length = V2_HEAD + rest;
    let Some(mut body) = bytes.get(V2_HEAD..length) else { return Ok(Step::More(length - bytes.len())) };
    let is_local = head[12] == 0x20;
    let proxied = match head[13] {
        // TCP over IPv4, over IPv6.
        0x11 if body.len() >= 12 => {
            let (source, destination) = (v4(&mut body), v4(&mut body));
            from(source, destination, &mut body)
        }
        0x21 if body.len() >= 36 => {
            let (source, destination) = (v6(&mut body), v6(&mut body));
            from(source, destination, &mut body)
        }
        // Unix sockets; their paths say nothing here.
        0x31 if body.len() >= 216 => {
            body.advance(216);
            Proxied::Unchanged
        }
        // Unspecified: the receiver ignores what follows.
        0x00 => return Ok(Step::Done { proxied: Proxied::Unchanged, length }),
        _ if is_local => return Ok(Step::Done { proxied: Proxied::Unchanged, length }),
        _ => return Err(malformed),
    };
    if !is_list_of_tlvs(body) {
        return Err(malformed);
    }
    Ok(Step::Done { proxied: if is_local { Proxied::Unchanged } else { proxied }, length })
}

fn v4(body: &mut &[u8]) -> IpAddr {
    Ipv4Addr::from(body.get_u32()).into()
}

fn v6(body: &mut &[u8]) -> IpAddr {
    Ipv6Addr::from(body.get_u128()).into()
}

fn from(source: IpAddr, destination: IpAddr, body: &mut &[u8]) -> Proxied {
    let (from, to) = (body.get_u16(), body.get_u16());
    Proxied::From { source: SocketAddr::new(source, from), destination: SocketAddr::new(destination, to) }
}

/// Type, length in two bytes, value; nothing left over.
fn is_list_of_tlvs(mut body: &[u8]) -> bool {
    while let [_, high, low, rest @ ..] = body {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let Some(rest) = rest.get(length..) else { return false };
        body = rest;
    }
    body.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(bytes: &[u8]) -> Result<Option<(Proxied, usize)>, ProxyHeaderFailure> {
        parse(bytes).map(|step| match step {
            Step::Done { proxied, length } => Some((proxied, length)),
            Step::More(_) => None,
        })
    }

    /// What comes of a header in one piece; every shorter beginning of it asks for more.
    fn check(header: &[u8], expected: Result<Proxied, ProxyHeaderFailure>) {
        let mut with_data = header.to_vec();
        with_data.extend_from_slice(b"GET / HTTP/1.1\r\n");
        let result = done(&with_data);
        assert_eq!(
            result.map(|found| found.map(|it| it.0)),
            expected.map(Some),
            "{:?}",
            String::from_utf8_lossy(header)
        );
        if expected.is_ok() {
            assert_eq!(result.unwrap().unwrap().1, header.len());
            for cut in 0..header.len() {
                assert_eq!(done(&header[..cut]), Ok(None), "{cut}");
            }
        }
    }

    fn from(source: &str, destination: &str) -> Result<Proxied, ProxyHeaderFailure> {
        Ok(Proxied::From { source: source.parse().unwrap(), destination: destination.parse().unwrap() })
    }

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let mut header = V2_SIGNATURE.to_vec();
        header.extend([command, family]);
        header.extend((body.len() as u16).to_be_bytes());
        header.extend(body);
        header
    }

    #[test]
    fn version_1() {
        let malformed = Err(ProxyHeaderFailure::Malformed);
        check(b"PROXY TCP4 192.0.2.1 198.51.100.1 4711 443\r\n", from("192.0.2.1:4711", "198.51.100.1:443"));
        check(b"PROXY TCP6 2001:db8::1 2001:db8::2 1 0\r\n", from("[2001:db8::1]:1", "[2001:db8::2]:0"));
        check(b"PROXY UNKNOWN\r\n", Ok(Proxied::Unchanged));
        check(b"PROXY UNKNOWN ffff::1 whatever 1 2\r\n", Ok(Proxied::Unchanged));
        check(b"PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n", malformed);
        check(b"PROXY TCP4 192.0.2.1 198.51.100.1 4711\r\n", malformed);
        check(b"PROXY TCP4 192.0.2.1 198.51.100.1 4711 443 1\r\n", malformed);
        check(b"PROXY TCP4  192.0.2.1 198.51.100.1 4711 443\r\n", malformed);
        check(b"PROXY TCP4 192.0.2.1 198.51.100.1 65536 443\r\n", malformed);
        check(b"PROXY TCP4 192.0.2.1 198.51.100.1 +1 443\r\n", malformed);
        check(b"PROXY TCP4 192.0.2.1 198.51.100.1 01 443\r\n", malformed);
        check(b"PROXY TCP4 192.0.2.999 198.51.100.1 1 443\r\n", malformed);
        check(b"PROXY UDP4 192.0.2.1 198.51.100.1 1 443\r\n", malformed);
        check(b"PROXY \xff\r\n", malformed);
        check(b"PROXX", malformed);
        check(b"GET / HTTP/1.1\r\n", malformed);
        check(&[b"PROXY UNKNOWN ".as_slice(), &[b'x'; 200]].concat(), Err(ProxyHeaderFailure::TooLarge));
        let mut longest = b"PROXY UNKNOWN ".to_vec();
        longest.resize(MAX_V1 - 2, b'x');
        longest.extend(b"\r\n");
        check(&longest, Ok(Proxied::Unchanged));
        longest.insert(20, b'x');
        check(&longest, Err(ProxyHeaderFailure::TooLarge));
    }

    #[test]
    fn version_2() {
        let malformed = Err(ProxyHeaderFailure::Malformed);
        let four = [192, 0, 2, 1, 198, 51, 100, 1, 0x12, 0x67, 1, 0xbb];
        let told = from("192.0.2.1:4711", "198.51.100.1:443");
        check(&v2(0x21, 0x11, &four), told);
        check(&v2(0x20, 0x11, &four), Ok(Proxied::Unchanged));
        check(&v2(0x20, 0x00, &[]), Ok(Proxied::Unchanged));
        check(&v2(0x21, 0x00, &[1, 2, 3]), Ok(Proxied::Unchanged));
        let mut six = Ipv6Addr::LOCALHOST.octets().to_vec();
        six.extend(Ipv6Addr::LOCALHOST.octets());
        six.extend([0, 1, 0, 2]);
        check(&v2(0x21, 0x21, &six), from("[::1]:1", "[::1]:2"));
        check(&v2(0x21, 0x31, &[0; 216]), Ok(Proxied::Unchanged));

        check(&v2(0x21, 0x11, &four[..11]), malformed);
        check(&v2(0x21, 0x21, &four), malformed);
        check(&v2(0x21, 0x12, &four), malformed);
        check(&v2(0x31, 0x11, &four), malformed);
        check(&v2(0x22, 0x11, &four), malformed);

        let with = |tlvs: &[u8]| v2(0x21, 0x11, &[&four, tlvs].concat());
        check(&with(&[4, 0, 2, 9, 9, 1, 0, 0]), told);
        check(&with(&[4, 0, 3, 9, 9]), malformed);
        check(&with(&[4, 0]), malformed);
        check(&v2(0x21, 0x11, &[0; MAX_V2_REST + 1]), Err(ProxyHeaderFailure::TooLarge));
        assert_eq!(done(&v2(0x31, 0x11, &four)[..13]), malformed.map(|_: Proxied| None));
    }

    /// Headers with some bytes changed: whatever comes of them is within them, and nothing panics.
    #[test]
    fn damaged_headers_do_no_harm() {
        let mut random = fastrand::Rng::with_seed(7);
        let whole = [
            b"PROXY TCP4 192.0.2.1 198.51.100.1 4711 443\r\n".to_vec(),
            b"PROXY UNKNOWN\r\n".to_vec(),
            v2(0x21, 0x11, &[192, 0, 2, 1, 198, 51, 100, 1, 0x12, 0x67, 1, 0xbb, 4, 0, 2, 9, 9]),
            v2(0x21, 0x21, &[1; 40]),
        ];
        for round in 0..100_000 {
            let mut bytes = whole[round % whole.len()].clone();
            for _ in 0..random.usize(..4) {
                let at = random.usize(..bytes.len());
                bytes[at] = random.u8(..);
            }
            bytes.truncate(random.usize(..=bytes.len()));
            match parse(&bytes) {
                Ok(Step::Done { length, .. }) => assert!(length <= bytes.len()),
                Ok(Step::More(room)) => assert!((1..=V2_HEAD + MAX_V2_REST).contains(&room), "{bytes:?}"),
                Err(_) => {}
            }
        }
    }
}
