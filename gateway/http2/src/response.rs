//! Whether a list of fields is a response (RFC 9113 section 8.3.2).

use crate::error::Malformed;
use crate::fields::Fields;
use crate::known::Known;
use crate::request::{check_connection_field, decimal};

/// The head of a response.
#[derive(Clone, Default, Debug)]
pub struct ResponseHead {
    fields: Fields,
    status: u16,
    content_length: Option<u64>,
}

impl ResponseHead {
    /// 100 to 999.
    #[must_use]
    #[inline]
    pub fn status(&self) -> u16 {
        self.status
    }

    /// What `content-length` says. The connection compares it with the body, where there may be one.
    #[must_use]
    #[inline]
    pub fn content_length(&self) -> Option<u64> {
        self.content_length
    }

    /// The fields in the order in which they came.
    #[must_use]
    #[inline]
    pub fn fields(&self) -> &Fields {
        &self.fields
    }

    /// Empties the head and keeps its memory.
    pub fn clear(&mut self) {
        self.fields.clear();
        self.status = 0;
        self.content_length = None;
    }

    #[inline]
    pub(crate) fn fields_mut(&mut self) -> &mut Fields {
        &mut self.fields
    }

    /// Takes the status out of the decoded fields, and checks them.
    pub(crate) fn judge(&mut self) -> Result<(), Malformed> {
        let mut is_late = false;
        for at in 0..self.fields.entries().len() {
            let entry = self.fields.entries()[at];
            self.fields.check_marks(at)?;
            match entry.known {
                Some(Known::PseudoStatus) => {
                    if is_late {
                        return Err(Malformed::LatePseudo);
                    }
                    if self.status != 0 {
                        return Err(Malformed::DuplicatePseudo);
                    }
                    self.status = status(self.fields.bytes(entry.value())).ok_or(Malformed::Status)?;
                    self.fields.hide(at);
                    continue;
                }
                Some(known) if known.is_pseudo() => return Err(Malformed::UnknownPseudo),
                Some(Known::ContentLength) => {
                    let length = decimal(self.fields.bytes(entry.value())).ok_or(Malformed::ContentLength)?;
                    if self.content_length.replace(length).is_some() {
                        return Err(Malformed::ContentLength);
                    }
                }
                Some(known) => check_connection_field(known, self.fields.bytes(entry.value()))?,
                None => {}
            }
            is_late = true;
        }
        if self.status == 0 { Err(Malformed::MissingPseudo) } else { Ok(()) }
    }
}

/// Three digits, the first of which is none (RFC 9110 section 15).
fn status(value: &[u8]) -> Option<u16> {
    let digits = value.as_array::<3>()?;
    let number = decimal(digits)?;
    u16::try_from(number).ok().filter(|number| *number >= 100)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fields::{Marks, name_marks, value_marks};

    fn head(fields: &[(&str, &str)]) -> ResponseHead {
        let mut head = ResponseHead::default();
        for (name, value) in fields {
            let known = Known::of(name.as_bytes());
            let name_is = if known.is_some() { Marks::default() } else { name_marks(name.as_bytes()) };
            let marks = name_is.with(value_marks(value.as_bytes()));
            head.fields.push(known, name.as_bytes(), value.as_bytes(), marks);
        }
        head
    }

    #[test]
    fn a_status_and_fields_are_a_response() {
        let mut good = head(&[(":status", "204"), ("server", "x"), ("content-length", "0")]);
        assert_eq!(good.judge(), Ok(()));
        assert_eq!((good.status(), good.content_length(), good.fields().len()), (204, Some(0), 2));
        for (fields, expected) in [
            (&[("server", "x")][..], Malformed::MissingPseudo),
            (&[("server", "x"), (":status", "200")], Malformed::LatePseudo),
            (&[(":status", "200"), (":status", "200")], Malformed::DuplicatePseudo),
            (&[(":status", "200"), (":path", "/")], Malformed::UnknownPseudo),
            (&[(":status", "99")], Malformed::Status),
            (&[(":status", "099")], Malformed::Status),
            (&[(":status", "1000")], Malformed::Status),
            (&[(":status", "+20")], Malformed::Status),
            (&[(":status", "")], Malformed::Status),
            (&[(":status", "200"), ("connection", "close")], Malformed::ConnectionField),
            (&[(":status", "200"), ("content-length", "5"), ("content-length", "5")], Malformed::ContentLength),
            (&[(":status", "200"), ("x", "a\nb")], Malformed::FieldValue),
        ] {
            assert_eq!(head(fields).judge(), Err(expected), "{fields:?}");
        }
    }
}
