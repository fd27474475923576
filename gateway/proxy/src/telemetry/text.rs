//! Numbers and addresses as text, for lines that every request writes.
//!
//! The formatting of the standard library knows width, fill and sign, and asks for them with every digit; an access log
//! has a dozen of these values.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

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
            let mut text = ShortText::default();
            text.push_ip(ip);
            out.append(text.as_str());
        }
        IpAddr::V6(ip) => out.append(&ip.to_string()),
    }
}

/// Appends address and port as they display.
pub(super) fn append_socket_address(address: SocketAddr, out: &mut String) {
    match address {
        SocketAddr::V4(address) => {
            let mut text = ShortText::default();
            text.push_ip(*address.ip());
            text.push(b':');
            text.push_number(address.port());
            out.push_str(text.as_str());
        }
        SocketAddr::V6(address) => out.push_str(&address.to_string()),
    }
}

/// Where `255.255.255.255:65535` is put together: one append of it takes less than seven of its parts.
#[derive(Default)]
struct ShortText {
    bytes: [u8; 24],
    length: usize,
}

impl ShortText {
    fn push(&mut self, byte: u8) {
        // 21 bytes are the most, so there always is a place.
        if let Some(place) = self.bytes.get_mut(self.length) {
            *place = byte;
            self.length += 1;
        }
    }

    fn push_number(&mut self, number: u16) {
        let mut unit = 10_000;
        while unit > 1 && number < unit {
            unit /= 10;
        }
        while unit > 0 {
            self.push(b'0' + (number / unit % 10) as u8);
            unit /= 10;
        }
    }

    fn push_ip(&mut self, ip: Ipv4Addr) {
        for (at, part) in ip.octets().into_iter().enumerate() {
            if at > 0 {
                self.push(b'.');
            }
            if part >= 100 {
                self.push(b'0' + part / 100);
            }
            if part >= 10 {
                self.push(b'0' + part / 10 % 10);
            }
            self.push(b'0' + part % 10);
        }
    }

    fn as_str(&self) -> &str {
        // Digits, dots and a colon.
        std::str::from_utf8(&self.bytes[..self.length]).unwrap_or_default()
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
        for port in [0, 1, 9, 10, 99, 100, 999, 1000, 9999, 10_000, 60_001, u16::MAX] {
            let address = SocketAddr::from(([1, 20, 199, 200], port));
            let mut text = String::new();
            append_socket_address(address, &mut text);
            assert_eq!(text, address.to_string());
        }
        for number in [0, 7, 10, 4711, u64::MAX] {
            let mut text = String::from("x");
            append_number(number, &mut text);
            assert_eq!(text, format!("x{number}"));
        }
    }
}
