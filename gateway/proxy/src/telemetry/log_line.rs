//! One request as one line of a log.
//!
//! Nothing that a client or a backend sends reaches a log as it is: in text its control characters, quotes and
//! backslashes become `\xHH`, in JSON they are escaped as JSON wants it.

use tidegate_snapshot::{AccessLogFormat, Facts, Operator, Part, Template};

/// A format with everything done that does not depend on the request.
#[derive(Debug)]
pub(super) enum LineFormat {
    Text(Template),
    /// `"key":` with the template of its value, in order.
    Json(Vec<(String, Template)>),
}

impl LineFormat {
    pub(super) fn new(format: &AccessLogFormat) -> Self {
        match format {
            AccessLogFormat::Text(template) => Self::Text(template.clone()),
            AccessLogFormat::Json(fields) => Self::Json(
                fields
                    .iter()
                    .map(|(key, template)| {
                        let mut prefix = format!("\"{key}");
                        escape_json(&mut prefix, 1);
                        prefix.push_str("\":");
                        (prefix, template.clone())
                    })
                    .collect(),
            ),
        }
    }

    /// Appends the line of one request with its newline.
    pub(super) fn render(&self, facts: &impl Facts, out: &mut String) {
        match self {
            Self::Text(template) => template.render(&Escaped { facts, escape: escape_text }, "-", out),
            Self::Json(fields) => {
                let facts = Escaped { facts, escape: escape_json };
                out.push('{');
                for (number, (prefix, template)) in fields.iter().enumerate() {
                    if number > 0 {
                        out.push(',');
                    }
                    out.push_str(prefix);
                    json_value(template, &facts, out);
                }
                out.push('}');
            }
        }
        if !out.ends_with('\n') {
            out.push('\n');
        }
    }
}

/// A value of a JSON line: typed if it is one operator, a string else.
fn json_value(template: &Template, facts: &impl Facts, out: &mut String) {
    let start = out.len();
    if let [Part::Operator(operator)] = template.parts() {
        if operator.is_number() && append_number(operator, facts, out) {
            return;
        }
        out.truncate(start);
        out.push('"');
        if facts.append(operator, out) {
            out.push('"');
        } else {
            out.truncate(start);
            out.push_str("null");
        }
        return;
    }
    out.push('"');
    for part in template.parts() {
        match part {
            Part::Literal(text) => {
                let literal = out.len();
                out.push_str(text);
                escape_json(out, literal);
            }
            Part::Operator(operator) => {
                if !facts.append(operator, out) {
                    out.push('-');
                }
            }
        }
    }
    out.push('"');
}

fn append_number(operator: &Operator, facts: &impl Facts, out: &mut String) -> bool {
    let start = out.len();
    facts.append(operator, out) && out.len() > start && out.as_bytes()[start..].iter().all(u8::is_ascii_digit)
}

/// Facts whose values are made harmless as they are appended.
struct Escaped<'a, F> {
    facts: &'a F,
    escape: fn(&mut String, usize),
}

impl<F: Facts> Facts for Escaped<'_, F> {
    fn append(&self, operator: &Operator, out: &mut String) -> bool {
        let start = out.len();
        let found = self.facts.append(operator, out);
        (self.escape)(out, start);
        found
    }
}

/// Characters that could move a terminal's cursor, end a line or end a quoted text. U+0080 to U+009F are control
/// characters, too; U+2028 and U+2029 end lines for some readers.
fn is_harmful(character: char) -> bool {
    character.is_control() || matches!(character, '"' | '\\' | '\u{2028}' | '\u{2029}')
}

/// Escapes `out` from `start` on as `\xHH` for each byte of a harmful character, as nginx does.
fn escape_text(out: &mut String, start: usize) {
    escape(out, start, |character, out| {
        let mut bytes = [0; 4];
        for byte in character.encode_utf8(&mut bytes).bytes() {
            out.push_str("\\x");
            hex(out, byte);
        }
    });
}

/// Escapes `out` from `start` on for the inside of a JSON string.
fn escape_json(out: &mut String, start: usize) {
    escape(out, start, |character, out| match character {
        '"' => out.push_str("\\\""),
        '\\' => out.push_str("\\\\"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        other => {
            // All harmful characters fit one UTF-16 unit.
            let unit = u32::from(other);
            out.push_str("\\u");
            hex(out, (unit >> 8) as u8);
            hex(out, unit as u8);
        }
    });
}

fn escape(out: &mut String, start: usize, mut replace: impl FnMut(char, &mut String)) {
    // Nearly all values are harmless and stay where they are. The bytes of a harmful character above ASCII begin with
    // 0xC2 or 0xE2.
    let suspicious = |byte: &u8| *byte < 0x20 || matches!(*byte, 0x7F | b'"' | b'\\' | 0xC2 | 0xE2);
    if !out.as_bytes()[start..].iter().any(suspicious) {
        return;
    }
    let value = out.split_off(start);
    for character in value.chars() {
        if is_harmful(character) {
            replace(character, out);
        } else {
            out.push(character);
        }
    }
}

fn hex(out: &mut String, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    out.push(DIGITS[usize::from(byte >> 4)].into());
    out.push(DIGITS[usize::from(byte & 15)].into());
}
