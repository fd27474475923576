//! The `grpc-timeout` header: how long a gRPC client waits.
//!
//! Source: "gRPC over HTTP2", Timeout; Envoy's `max_grpc_timeout`, which Istio sets to the route's timeout.

use std::time::Duration;

use crate::message::{Fields, Known};

/// Digits that a value may have.
const MAX_DIGITS: usize = 8;
const UNITS: [(u8, u64); 4] = [(b'm', 1), (b'S', 1000), (b'M', 60_000), (b'H', 3_600_000)];

/// The time that a client gives its call, in whole milliseconds rounded up. None without one, for zero, which is no limit,
/// and for what is no such value.
pub(crate) fn read(fields: &Fields) -> Option<Duration> {
    let (unit, digits) = fields.get(Known::GrpcTimeout)?.split_last()?;
    if digits.is_empty() || digits.len() > MAX_DIGITS || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let value: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    let milliseconds = match unit {
        b'u' => value.div_ceil(1000),
        b'n' => value.div_ceil(1_000_000),
        // At most eight digits of hours: far from the end of 64 bits.
        unit => value * UNITS.iter().find(|(name, _)| name == unit)?.1,
    };
    (milliseconds > 0).then(|| Duration::from_millis(milliseconds))
}

/// `timeout` as the header says it, in the smallest unit that has room.
pub(crate) fn write(timeout: Duration) -> String {
    let milliseconds = timeout.as_millis();
    let fits = |unit: &&(u8, u64)| milliseconds / u128::from(unit.1) < 10u128.pow(MAX_DIGITS as u32);
    match UNITS.iter().find(fits) {
        Some((unit, length)) => format!("{}{}", milliseconds / u128::from(*length), char::from(*unit)),
        None => "99999999H".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read() {
        let check = |text: &str, milliseconds: Option<u64>| {
            let mut fields = Fields::default();
            fields.add("grpc-timeout", text.as_bytes());
            assert_eq!(read(&fields), milliseconds.map(Duration::from_millis), "{text}");
        };
        check("300m", Some(300));
        check("2S", Some(2000));
        check("1M", Some(60_000));
        check("99999999H", Some(99_999_999 * 3_600_000));
        check("1u", Some(1));
        check("1000001n", Some(2));
        for bad in ["0m", "", "m", "5", "5x", "-1S", "+1S", "1.5S", "123456789m", "1 S"] {
            check(bad, None);
        }
        assert_eq!(read(&Fields::default()), None);
    }

    #[test]
    fn timeouts_are_written_in_eight_digits() {
        assert_eq!(write(Duration::from_millis(400)), "400m");
        assert_eq!(write(Duration::from_millis(99_999_999)), "99999999m");
        assert_eq!(write(Duration::from_secs(100_000)), "100000S");
        assert_eq!(write(Duration::from_secs(99_999_999 * 3600)), "99999999H");
    }
}
