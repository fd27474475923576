//! Durations as Istio's API writes them.

use std::fmt;
use std::ops::Deref;

use crate::decode::{Decode, Decoder};
use crate::node::{Node, Value};

/// A span of time, read from Go's form (`1h30m`, `1.5s`, `300ms`), of which protobuf's (`1.5s`) is a part.
/// Never negative; nanosecond resolution.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Duration(pub std::time::Duration);

/// The text is no duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    #[error("`{0}` is no duration")]
    Syntax(String),
    #[error("`{0}` has no unit")]
    MissingUnit(String),
    #[error("`{0}` is negative")]
    Negative(String),
    #[error("`{0}` is longer than 292 years")]
    TooLong(String),
}

impl Duration {
    pub const fn from_millis(millis: u64) -> Self {
        Self(std::time::Duration::from_millis(millis))
    }

    pub const fn from_secs(seconds: u64) -> Self {
        Self(std::time::Duration::from_secs(seconds))
    }

    pub fn get(self) -> std::time::Duration {
        self.0
    }

    /// Reads Go's form (`time.ParseDuration`): decimal numbers, each with a unit of `h`, `m`, `s`, `ms`, `us`, `µs`,
    /// `ns`; `0` needs none.
    ///
    /// # Errors
    /// A text that is not of that form, is negative, or exceeds 2^63 ns.
    pub fn parse(text: &str) -> Result<Self, DurationError> {
        let error = || DurationError::Syntax(crate::node::shorten(text).into_owned());
        let (negative, mut rest) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        if rest == "0" {
            return Ok(Self::default());
        }
        if rest.is_empty() {
            return Err(error());
        }
        let mut total: u128 = 0;
        while !rest.is_empty() {
            let (integer, after) = split_digits(rest);
            let (fraction, after) = match after.strip_prefix('.') {
                Some(after) => split_digits(after),
                None => ("", after),
            };
            if integer.is_empty() && fraction.is_empty() {
                return Err(error());
            }
            let end = after.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(after.len());
            let unit: u128 = match &after[..end] {
                "" => return Err(DurationError::MissingUnit(crate::node::shorten(text).into_owned())),
                "ns" => 1,
                // U+00B5 (micro sign) and U+03BC (Greek mu), as in Go.
                "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
                "ms" => 1_000_000,
                "s" => 1_000_000_000,
                "m" => 60_000_000_000,
                "h" => 3_600_000_000_000,
                _ => return Err(error()),
            };
            rest = &after[end..];
            let too_long = || DurationError::TooLong(crate::node::shorten(text).into_owned());
            let whole: u64 = if integer.is_empty() { 0 } else { integer.parse().map_err(|_| too_long())? };
            total += u128::from(whole) * unit;
            let mut scale = unit;
            // Below a nanosecond nothing counts, so the loop ends after at most 13 digits.
            for digit in fraction.bytes() {
                if scale == 0 {
                    break;
                }
                total += u128::from(digit - b'0') * scale / 10;
                scale /= 10;
            }
            if total > i64::MAX as u128 {
                return Err(too_long());
            }
        }
        if negative && total > 0 {
            return Err(DurationError::Negative(crate::node::shorten(text).into_owned()));
        }
        // `total` was checked to be below 2^63.
        Ok(Self(std::time::Duration::from_nanos(total as u64)))
    }
}

fn split_digits(text: &str) -> (&str, &str) {
    text.split_at(text.bytes().take_while(u8::is_ascii_digit).count())
}

impl Deref for Duration {
    type Target = std::time::Duration;

    fn deref(&self) -> &std::time::Duration {
        &self.0
    }
}

impl From<Duration> for std::time::Duration {
    fn from(duration: Duration) -> Self {
        duration.0
    }
}

/// Protobuf's form: seconds with as many decimals as needed, as in `1.5s`.
impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.subsec_nanos();
        if nanos == 0 {
            return write!(f, "{}s", self.0.as_secs());
        }
        let decimals = format!("{nanos:09}");
        write!(f, "{}.{}s", self.0.as_secs(), decimals.trim_end_matches('0'))
    }
}

impl Decode for Duration {
    const EXPECTS: &'static str = "a duration such as `5s` or `300ms`";

    fn decode<'n>(node: &'n Node, decoder: &mut Decoder<'n>) -> Option<Self> {
        match &node.value {
            Value::String(text) => match Duration::parse(text) {
                Ok(duration) => Some(duration),
                Err(error) => decoder.bad_value(
                    node,
                    error.to_string(),
                    Some("write a duration with its unit, such as `5s`, `300ms` or `1h30m`".into()),
                ),
            },
            Value::Number(text) => decoder.bad_value(
                node,
                format!("expected {}, found {}", Self::EXPECTS, decoder.describe(node)),
                Some(format!("a duration needs a unit: write `{text}s`")),
            ),
            _ => decoder.wrong_type(node, Self::EXPECTS),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gos_and_protobufs_forms_are_read() {
        let check = |text: &str, expected: &str| {
            assert_eq!(Duration::parse(text).unwrap().to_string(), expected, "{text}");
        };
        check("1.5s", "1.5s");
        check("300ms", "0.3s");
        check("0.5s", "0.5s");
        check("1h30m10ms", "5400.01s");
        check("0", "0s");
        check("0s", "0s");
        check("-0s", "0s");
        check(".5s", "0.5s");
        check("1.s", "1s");
        check("2us", "0.000002s");
        check("2\u{b5}s", "0.000002s");
        check("1.0000000000000000000001s", "1s");
        check("0.000000001s", "0.000000001s");
    }

    #[test]
    fn other_texts_are_refused() {
        for bad in ["", "5", "s", "1.5", "5 s", "5d", "-1s", "1s-", "abc", ".s", "+", "-", "9999999999h", "5S"] {
            assert!(Duration::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(Duration::parse("5"), Err(DurationError::MissingUnit("5".into())));
        assert_eq!(Duration::parse("-1s"), Err(DurationError::Negative("-1s".into())));
    }
}
