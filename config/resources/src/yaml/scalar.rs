//! Meaning of scalars that are not quoted.

use crate::node::Value;

/// What a plain scalar means.
pub(super) fn resolve(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" | "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => return Value::Bool(true),
        "false" | "False" | "FALSE" | "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => {
            return Value::Bool(false);
        }
        _ => {}
    }
    let starts_like_a_number = matches!(text.as_bytes()[0], b'0'..=b'9' | b'+' | b'-' | b'.');
    if starts_like_a_number && float(text).is_some() { Value::Number(text.into()) } else { Value::String(text.into()) }
}

/// Value of a whole number as YAML 1.1 writes it, also of one with zero decimals (`80.0`).
pub(crate) fn integer(text: &str) -> Option<i128> {
    let (negative, digits) = sign(text);
    if digits.len() > 200 {
        return None;
    }
    let digits = digits.replace('_', "");
    let radix = |prefix: [&str; 2]| prefix.iter().find_map(|prefix| digits.strip_prefix(prefix));
    let parse = |digits: &str, base: u32| {
        let plain = !digits.is_empty() && digits.chars().all(|c| c.is_digit(base));
        plain.then(|| i128::from_str_radix(digits, base).ok())?
    };
    let magnitude = if let Some(digits) = radix(["0x", "0X"]) {
        parse(digits, 16)?
    } else if let Some(digits) = radix(["0b", "0B"]) {
        parse(digits, 2)?
    } else if let Some(digits) = radix(["0o", "0O"]) {
        parse(digits, 8)?
    } else if digits.len() > 1 && digits.starts_with('0') && digits.bytes().all(|b| matches!(b, b'0'..=b'7')) {
        parse(&digits, 8)?
    } else if let Some(value) = parse(&digits, 10) {
        value
    } else {
        let value = float(text).filter(|value| value.fract() == 0.0 && value.abs() < 1e18)?;
        return Some(value as i128);
    };
    Some(if negative { -magnitude } else { magnitude })
}

/// Value of a number as YAML 1.1 writes it; infinities and NaN are among them.
pub(crate) fn float(text: &str) -> Option<f64> {
    let (negative, rest) = sign(text);
    match rest {
        ".inf" | ".Inf" | ".INF" => return Some(if negative { f64::NEG_INFINITY } else { f64::INFINITY }),
        ".nan" | ".NaN" | ".NAN" => return Some(f64::NAN),
        _ => {}
    }
    let bytes = rest.as_bytes();
    if bytes.len() > 200 || !bytes.first().is_some_and(|b| b.is_ascii_digit() || *b == b'.') {
        return None;
    }
    if matches!(bytes, [b'0', b'x' | b'X' | b'b' | b'B' | b'o' | b'O', ..]) {
        return integer(text).map(|value| value as f64);
    }
    if !bytes.iter().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-' | b'_')) {
        return None;
    }
    if !bytes.iter().any(u8::is_ascii_digit) {
        return None;
    }
    let value: f64 = rest.replace('_', "").parse().ok()?;
    Some(if negative { -value } else { value })
}

fn sign(text: &str) -> (bool, &str) {
    match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_scalars_mean_what_kubectl_takes_them_for() {
        let check = |text: &str, expected: &str| {
            let found = match resolve(text) {
                Value::Null => "null".to_owned(),
                Value::Bool(value) => value.to_string(),
                Value::Number(text) => format!("number {text}"),
                Value::String(text) => format!("text {text}"),
                _ => unreachable!(),
            };
            assert_eq!(found, expected);
        };
        check("~", "null");
        check("yes", "true");
        check("Off", "false");
        check("y", "true");
        check("N", "false");
        check("yn", "text yn");
        check("80", "number 80");
        check("1.0", "number 1.0");
        check("1.2.3", "text 1.2.3");
        check("1.2.3.4", "text 1.2.3.4");
        check("-5", "number -5");
        check("-", "text -");
        check(".", "text .");
        check("0x1F", "number 0x1F");
        check("1e3", "number 1e3");
        check("12:30", "text 12:30");
        check("2024-01-01", "text 2024-01-01");
        check("5s", "text 5s");
        check("v1", "text v1");
        check("1_000", "number 1_000");
        check("infinity", "text infinity");
        check("nan", "text nan");
    }

    #[test]
    fn whole_numbers_have_several_forms() {
        let check = |text: &str, expected: Option<i128>| assert_eq!(integer(text), expected, "{text}");
        check("80", Some(80));
        check("-80", Some(-80));
        check("+80", Some(80));
        check("0x50", Some(80));
        check("0120", Some(80));
        check("0b11", Some(3));
        check("089", Some(89));
        check("1_000", Some(1000));
        check("80.0", Some(80));
        check("8e1", Some(80));
        check("80.5", None);
        check("99999999999999999999999999999999999999999999", None);
        check("0x", None);
        check("abc", None);
        check("", None);
    }
}
