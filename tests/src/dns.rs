//! A name server that answers as it is told to, over UDP and TCP on one port (RFC 1035).
//!
//! It knows one question: the IPv4 addresses of whatever name is asked for. Other types get an empty answer.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;

/// What a datagram may hold without EDNS; longer answers are cut off over UDP, and whole over TCP.
const DATAGRAM: usize = 512;

/// How questions are answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Mood {
    /// With these addresses, to be kept for so many seconds.
    Addresses(Vec<Ipv4Addr>, u32),
    /// SERVFAIL.
    Failure,
    /// NXDOMAIN.
    NoSuchName,
    /// NOERROR without any record.
    Empty,
    /// Not at all.
    Silent,
    /// With the identity of another question, and an address that nobody is at.
    WrongIdentity,
    /// Over UDP with half a message that says it was cut off; over TCP with a closed connection.
    CutOff,
    /// With bytes that are no message behind the right identity.
    Garbage,
}

/// A running name server; it ends when dropped.
pub struct NameServer {
    pub address: SocketAddr,
    state: Arc<State>,
    _tasks: JoinSet<()>,
}

struct State {
    mood: Mutex<Mood>,
    questions: AtomicU64,
}

impl NameServer {
    pub async fn start(mood: Mood) -> Self {
        // The port of one kind may be taken for the other.
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").await.expect("a port for a name server");
            let address = udp.local_addr().expect("a bound address");
            if let Ok(tcp) = TcpListener::bind(address).await {
                break (udp, tcp);
            }
        };
        let address = udp.local_addr().expect("a bound address");
        let state = Arc::new(State { mood: Mutex::new(mood), questions: AtomicU64::new(0) });
        let mut tasks = JoinSet::new();
        tasks.spawn(datagrams(udp, state.clone()));
        tasks.spawn(connections(tcp, state.clone()));
        Self { address, state, _tasks: tasks }
    }

    pub fn set(&self, mood: Mood) {
        *self.state.mood.lock() = mood;
    }

    /// Questions so far, over both protocols.
    pub fn questions(&self) -> u64 {
        self.state.questions.load(Relaxed)
    }
}

async fn datagrams(socket: UdpSocket, state: Arc<State>) {
    let mut buffer = [0; 4096];
    // Errors are those of answers before: somebody who asked is gone.
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else { continue };
        if let Some(answer) = state.answer(&buffer[..length], Protocol::Udp) {
            let _ = socket.send_to(&answer, from).await;
        }
    }
}

async fn connections(listener: TcpListener, state: Arc<State>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(connection(stream, state.clone()));
        while connections.try_join_next().is_some() {}
    }
}

/// Messages have their length before them (RFC 1035 section 4.2.2).
async fn connection(mut stream: TcpStream, state: Arc<State>) {
    while let Ok(length) = stream.read_u16().await {
        let mut question = vec![0; usize::from(length)];
        if stream.read_exact(&mut question).await.is_err() {
            return;
        }
        let silent = *state.mood.lock() == Mood::Silent;
        match state.answer(&question, Protocol::Tcp) {
            Some(answer) => {
                let length = u16::try_from(answer.len()).expect("an answer of less than 64 KiB");
                if stream.write_all(&[&length.to_be_bytes()[..], &answer].concat()).await.is_err() {
                    return;
                }
            }
            None if silent => {}
            None => return,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Udp,
    Tcp,
}

/// Of the second byte of flags: no error, the server failed, there is no such name.
const NO_ERROR: u8 = 0;
const SERVER_FAILURE: u8 = 2;
const NAME_ERROR: u8 = 3;
/// Type and class of an IPv4 address of the Internet.
const A_IN: [u8; 4] = [0, 1, 0, 1];

impl State {
    fn answer(&self, question: &[u8], protocol: Protocol) -> Option<Vec<u8>> {
        let asked = Question::read(question)?;
        self.questions.fetch_add(1, Relaxed);
        let mood = self.mood.lock().clone();
        let nothing = |code| Some(asked.reply(asked.id, code, Vec::new()));
        match mood {
            Mood::Silent => None,
            Mood::Failure => nothing(SERVER_FAILURE),
            Mood::NoSuchName => nothing(NAME_ERROR),
            Mood::Empty => nothing(NO_ERROR),
            Mood::Garbage => Some([&asked.id[..], &[0xff; 30]].concat()),
            Mood::CutOff if protocol == Protocol::Tcp => None,
            Mood::CutOff => {
                let mut reply = cut_off(asked.reply(asked.id, NO_ERROR, records(&[Ipv4Addr::new(192, 0, 2, 1)], 60)));
                reply.truncate(reply.len() - 7);
                Some(reply)
            }
            Mood::WrongIdentity => {
                let other = [asked.id[0] ^ 0x55, asked.id[1] ^ 0xaa];
                Some(asked.reply(other, NO_ERROR, records(&[Ipv4Addr::new(192, 0, 2, 1)], 60)))
            }
            Mood::Addresses(..) if asked.kind != A_IN => nothing(NO_ERROR),
            Mood::Addresses(addresses, seconds) => {
                let reply = asked.reply(asked.id, NO_ERROR, records(&addresses, seconds));
                if protocol == Protocol::Udp && reply.len() > DATAGRAM {
                    return Some(cut_off(asked.reply(asked.id, NO_ERROR, Vec::new())));
                }
                Some(reply)
            }
        }
    }
}

/// The first question of a message.
struct Question<'a> {
    id: [u8; 2],
    /// Name, type and class.
    bytes: &'a [u8],
    kind: [u8; 4],
}

impl<'a> Question<'a> {
    fn read(message: &'a [u8]) -> Option<Self> {
        let id = [*message.first()?, *message.get(1)?];
        let mut at = 12;
        while *message.get(at)? != 0 {
            at += 1 + usize::from(message[at]);
        }
        let kind = message.get(at + 1..at + 5)?.try_into().ok()?;
        Some(Self { id, bytes: &message[12..at + 5], kind })
    }

    /// A response (authoritative, recursion available) with these records.
    fn reply(&self, id: [u8; 2], code: u8, records: Vec<[u8; 16]>) -> Vec<u8> {
        let count = u16::try_from(records.len()).expect("a number of records").to_be_bytes();
        let head = [id[0], id[1], 0x85, 0x80 | code, 0, 1, count[0], count[1], 0, 0, 0, 0];
        [&head[..], self.bytes, &records.concat()].concat()
    }
}

/// The name is the one at byte 12: the question's.
fn records(addresses: &[Ipv4Addr], seconds: u32) -> Vec<[u8; 16]> {
    let record = |address: &Ipv4Addr| {
        let ([a, b, c, d], [t, u, v, w]) = (address.octets(), seconds.to_be_bytes());
        [0xc0, 12, 0, 1, 0, 1, t, u, v, w, 0, 4, a, b, c, d]
    };
    addresses.iter().map(record).collect()
}

fn cut_off(mut reply: Vec<u8>) -> Vec<u8> {
    reply[2] |= 2;
    reply
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The addresses of `a.test`, asked for with identity 7.
    const QUESTION: &[u8] = b"\x00\x07\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x04test\x00\x00\x01\x00\x01";

    async fn over_udp(server: &NameServer) -> Vec<u8> {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.send_to(QUESTION, server.address).await.unwrap();
        let mut buffer = [0; 512];
        let length = crate::wait::within("an answer", socket.recv(&mut buffer)).await.unwrap();
        buffer[..length].to_vec()
    }

    async fn over_tcp(server: &NameServer) -> Vec<u8> {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_u16(u16::try_from(QUESTION.len()).unwrap()).await.unwrap();
        stream.write_all(QUESTION).await.unwrap();
        let mut answer = vec![0; usize::from(stream.read_u16().await.unwrap())];
        stream.read_exact(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn an_address_is_answered_with_its_question_and_its_time() {
        let server = NameServer::start(Mood::Addresses(vec![Ipv4Addr::new(127, 0, 0, 9)], 5)).await;
        let expected = b"\x00\x07\x85\x80\x00\x01\x00\x01\x00\x00\x00\x00\x01a\x04test\x00\x00\x01\x00\x01\
                         \xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x05\x00\x04\x7f\x00\x00\x09";
        assert_eq!(over_udp(&server).await, expected);
        assert_eq!(over_tcp(&server).await, expected);
        assert_eq!(server.questions(), 2);
    }

    #[tokio::test]
    async fn what_is_too_long_for_a_datagram_comes_whole_over_tcp() {
        let server = NameServer::start(Mood::Addresses(vec![Ipv4Addr::LOCALHOST; 500], 5)).await;
        let short = over_udp(&server).await;
        assert_eq!((short[2] & 2, &short[6..8]), (2, &[0, 0][..]));
        assert_eq!(over_tcp(&server).await.len(), QUESTION.len() + 500 * 16);
    }

    #[tokio::test]
    async fn failures_are_those_that_were_asked_for() {
        let server = NameServer::start(Mood::Failure).await;
        assert_eq!(over_udp(&server).await[3] & 15, 2);
        server.set(Mood::NoSuchName);
        assert_eq!(over_udp(&server).await[3] & 15, 3);
        server.set(Mood::WrongIdentity);
        assert_ne!(over_udp(&server).await[..2], [0, 7]);
        server.set(Mood::CutOff);
        let half = over_udp(&server).await;
        assert_eq!((half[2] & 2, half.len()), (2, QUESTION.len() + 9));
    }
}
