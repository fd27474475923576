//! Binding of listening sockets.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

use crate::PortOffset;

/// Connections that wait to be accepted, for one socket.
const BACKLOG: i32 = 4096;

/// What is added to a port that the process may not bind.
const DEFAULT_OFFSET: u16 = 8000;

/// The sockets of one listener: as many as were asked for, on one address, among which the kernel spreads connections.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) address: SocketAddr,
    pub(crate) sockets: Vec<TcpListener>,
}

/// Binds `bind`, or all addresses of both families, at `port` moved by `offset`.
///
/// Port 0 takes a free one.
///
/// # Errors
/// What the operating system said for the last address and port that were tried.
pub(crate) fn bind(bind: Option<IpAddr>, port: u16, offset: PortOffset, count: usize) -> io::Result<Bound> {
    let privileged = (1..1024).contains(&port);
    match offset {
        PortOffset::Fixed(offset) if privileged => bind_any(bind, port.saturating_add(offset), count),
        PortOffset::Auto if privileged => match bind_any(bind, port, count) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                bind_any(bind, port + DEFAULT_OFFSET, count)
            }
            result => result,
        },
        _ => bind_any(bind, port, count),
    }
}

/// The ports at which `port` may end up.
pub(crate) fn candidates(port: u16, offset: PortOffset) -> Vec<u16> {
    match offset {
        _ if !(1..1024).contains(&port) => vec![port],
        PortOffset::Fixed(offset) => vec![port.saturating_add(offset)],
        PortOffset::Auto => vec![port, port + DEFAULT_OFFSET],
    }
}

fn bind_any(bind: Option<IpAddr>, port: u16, count: usize) -> io::Result<Bound> {
    match bind {
        Some(address) => bind_all(SocketAddr::new(address, port), count),
        None => match bind_all(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port), count) {
            // A machine without IPv6.
            Err(error) if no_ipv6(&error) => bind_all(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port), count),
            result => result,
        },
    }
}

fn no_ipv6(error: &io::Error) -> bool {
    // EAFNOSUPPORT is 97 on Linux and has no `ErrorKind`.
    matches!(error.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported)
        || error.raw_os_error() == Some(97)
}

fn bind_all(address: SocketAddr, count: usize) -> io::Result<Bound> {
    // Sockets that share a port also share it with those of other processes, silently. A probe that shares with nobody
    // finds out whether somebody is there.
    let probe = open(address, Sharing::None)?;
    let address = probe.local_addr()?.as_socket().unwrap_or(address);
    drop(probe);
    let sockets = (0..count.max(1))
        .map(|_| {
            let socket = open(address, Sharing::Port)?;
            socket.listen(BACKLOG)?;
            Ok(socket.into())
        })
        .collect::<io::Result<_>>()?;
    Ok(Bound { address, sockets })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sharing {
    None,
    Port,
}

fn open(address: SocketAddr, sharing: Sharing) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // `[::]` stands for both families, an address of IPv6 for itself.
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    // Without it the address stays taken for a minute after connections were closed.
    socket.set_reuse_address(true)?;
    if sharing == Sharing::Port {
        socket.set_reuse_port(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOPBACK: Option<IpAddr> = Some(IpAddr::V4(Ipv4Addr::LOCALHOST));

    #[test]
    fn a_port_is_shared_by_the_sockets_of_a_listener_and_by_nobody_else() {
        let first = bind(LOOPBACK, 0, PortOffset::Auto, 3).unwrap();
        assert_eq!(first.sockets.len(), 3);
        assert!(first.sockets.iter().all(|socket| socket.local_addr().unwrap() == first.address));
        let second = bind(LOOPBACK, first.address.port(), PortOffset::Auto, 3);
        assert_eq!(second.unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn all_addresses_take_both_families() {
        let bound = bind(None, 0, PortOffset::Auto, 1).unwrap();
        std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, bound.address.port())).unwrap();
    }

    #[test]
    fn low_ports_move() {
        let free = bind(LOOPBACK, 0, PortOffset::Auto, 1).unwrap().address.port();
        assert_eq!(bind(LOOPBACK, 7, PortOffset::Fixed(free - 7), 1).unwrap().address.port(), free);
        assert_eq!(candidates(80, PortOffset::Auto), [80, 8080]);
        assert_eq!(candidates(443, PortOffset::Fixed(8000)), [8443]);
        assert_eq!(candidates(8080, PortOffset::Fixed(8000)), [8080]);
        assert_eq!(candidates(80, PortOffset::Fixed(0)), [80]);
    }
}
