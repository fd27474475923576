//! Numbers and addresses as text, for lines that every request writes.
//!
//! The formatting of the standard library knows width, fill and sign, and asks for them with every digit; an access log
//! has a dozen of these values.

use std::net::{IpAddr, SocketAddr};

/// Where text can be appended.
pub(crate) trait Text: Sized {
    fn append(&mut self, text: &str);
}

impl Text for String {
    fn append(&mut self, text: &str) {
        self.push_str(text);
    }
}

impl Text for Vec<u8> {
    fn append(&mut self, text: &str) {
        self.extend_from_slice(text.as_bytes());
    }
}

/// Appends a number in decimal.
pub(crate) fn append_number(value: u64, out: &mut impl Text) {
    out.append(itoa::Buffer::new().format(value));
}

/// Appends an address as it displays.
pub(crate) fn append_ip(ip: IpAddr, out: &mut impl Text) {
    match ip {
        IpAddr::V4(ip) => {
            let mut digits = itoa::Buffer::new();
            for (at, part) in ip.octets().into_iter().enumerate() {
                if at > 0 {
                    out.append(".");
                }
                out.append(digits.format(part));
            }
        }
        IpAddr::V6(ip) => out.append(&ip.to_string()),
    }
}

/// Appends address and port as they display.
pub(super) fn append_socket_address(address: SocketAddr, out: &mut String) {
    match address {
        SocketAddr::V4(address) => {
            append_ip(IpAddr::V4(*address.ip()), out);
            out.push(':');
            append_number(address.port().into(), out);
        }
        SocketAddr::V6(address) => out.push_str(&address.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_numbers_are_what_the_standard_library_shows() {
        for text in ["0.0.0.0:0", "192.0.2.7:65535", "255.255.255.255:80", "[::1]:443", "[2001:db8::a:0:1]:8080"] {
            let address: SocketAddr = text.parse().unwrap();
            let (mut whole, mut ip) = (String::new(), String::new());
            append_socket_address(address, &mut whole);
            append_ip(address.ip(), &mut ip);
            assert_eq!((whole, ip), (text.to_owned(), address.ip().to_string()));
        }
        for number in [0, 7, 10, 4711, u64::MAX] {
            let mut text = String::from("x");
            append_number(number, &mut text);
            assert_eq!(text, format!("x{number}"));
        }
    }
}
