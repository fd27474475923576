//! OCSP responses (RFC 6960 section 4.2), as far as a server that staples one must understand it.
//!
//! Clients verify the signature; a server looks whether the answer is about its certificate, good and current.

use crate::Timestamp;
use crate::problem::StapleFlaw;

const SEQUENCE: u8 = 0x30;
const ENUMERATED: u8 = 0x0a;
const INTEGER: u8 = 0x02;
const OID: u8 = 0x06;
const OCTET_STRING: u8 = 0x04;
const GENERALIZED_TIME: u8 = 0x18;
/// `[0]`, constructed.
const CONTEXT_0: u8 = 0xa0;
/// `[0] IMPLICIT NULL`: the status good.
const GOOD: u8 = 0x80;

/// id-pkix-ocsp-basic, 1.3.6.1.5.5.7.48.1.1.
const BASIC: [u8; 9] = [0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x30, 0x01, 0x01];

/// Until when a response may be shown; none if it names no end.
///
/// # Errors
/// Bytes that are no response, and responses that are not good, or not about the certificate with this serial number.
pub(crate) fn check(der: &[u8], serial: &[u8]) -> Result<Option<Timestamp>, StapleFlaw> {
    let mut response = Reader(Reader(der).expect(SEQUENCE).ok_or(StapleFlaw::Unreadable)?);
    match response.expect(ENUMERATED) {
        Some([0]) => {}
        Some(_) => return Err(StapleFlaw::Unsuccessful),
        None => return Err(StapleFlaw::Unreadable),
    }
    let single = single_response(response).ok_or(StapleFlaw::Unreadable)?;
    let mut single = Reader(single);
    let stated = (|| {
        let mut id = Reader(single.expect(SEQUENCE)?);
        id.expect(SEQUENCE)?;
        id.expect(OCTET_STRING)?;
        id.expect(OCTET_STRING)?;
        id.expect(INTEGER)
    })()
    .ok_or(StapleFlaw::Unreadable)?;
    if significant(stated) != significant(serial) {
        return Err(StapleFlaw::OtherCertificate);
    }
    match single.next().ok_or(StapleFlaw::Unreadable)? {
        (GOOD, _) => {}
        _ => return Err(StapleFlaw::NotGood),
    }
    single.expect(GENERALIZED_TIME).ok_or(StapleFlaw::Unreadable)?;
    match single.expect(CONTEXT_0) {
        Some(next_update) => {
            let text = Reader(next_update).expect(GENERALIZED_TIME).ok_or(StapleFlaw::Unreadable)?;
            generalized_time(text).map(Some).ok_or(StapleFlaw::Unreadable)
        }
        None => Ok(None),
    }
}

/// The first SingleResponse of what follows the response's status.
fn single_response(mut response: Reader<'_>) -> Option<&[u8]> {
    let mut bytes = Reader(Reader(response.expect(CONTEXT_0)?).expect(SEQUENCE)?);
    if bytes.expect(OID)? != BASIC {
        return None;
    }
    let mut basic = Reader(Reader(bytes.expect(OCTET_STRING)?).expect(SEQUENCE)?);
    let mut data = Reader(basic.expect(SEQUENCE)?);
    // A version other than the default is `[0]`; the responder's id is `[1]` or `[2]`.
    data.expect(CONTEXT_0);
    data.next()?;
    data.expect(GENERALIZED_TIME)?;
    Reader(data.expect(SEQUENCE)?).expect(SEQUENCE)
}

fn significant(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}

fn generalized_time(text: &[u8]) -> Option<Timestamp> {
    let text = std::str::from_utf8(text).ok()?;
    let time = chrono::NaiveDateTime::parse_from_str(text, "%Y%m%d%H%M%SZ").ok()?;
    Some(Timestamp::from_seconds(time.and_utc().timestamp()))
}

/// Reads DER elements one after another.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// The next element's tag and content; stays where it is if there is none.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, rest) = rest.split_first()?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81..=0x83 => {
                let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                (digits.iter().fold(0, |length, digit| (length << 8) | usize::from(*digit)), rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, content))
    }

    /// The content of the next element if it has this tag; stays where it is otherwise.
    fn expect(&mut self, tag: u8) -> Option<&'a [u8]> {
        let before = self.0;
        match self.next() {
            Some((found, content)) if found == tag => Some(content),
            _ => {
                self.0 = before;
                None
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn element(tag: u8, content: &[u8]) -> Vec<u8> {
        let mut element = vec![tag, 0x82];
        element.extend(u16::try_from(content.len()).unwrap().to_be_bytes());
        element.extend(content);
        element
    }

    /// A response with a signature that nobody has made.
    pub(crate) fn response(serial: &[u8], status: u8, next_update: &str) -> Vec<u8> {
        let id =
            [element(SEQUENCE, &[]), element(OCTET_STRING, &[]), element(OCTET_STRING, &[]), element(INTEGER, serial)];
        let single = [
            element(SEQUENCE, &id.concat()),
            element(status, &[]),
            element(GENERALIZED_TIME, b"20200101000000Z"),
            element(CONTEXT_0, &element(GENERALIZED_TIME, next_update.as_bytes())),
        ];
        let data = [
            element(0xa2, &[]),
            element(GENERALIZED_TIME, b"20200101000000Z"),
            element(SEQUENCE, &element(SEQUENCE, &single.concat())),
        ];
        let basic = element(SEQUENCE, &element(SEQUENCE, &data.concat()));
        let bytes = [element(OID, &BASIC), element(OCTET_STRING, &basic)].concat();
        let response = [element(ENUMERATED, &[0]), element(CONTEXT_0, &element(SEQUENCE, &bytes))].concat();
        element(SEQUENCE, &response)
    }

    #[test]
    fn a_good_response_about_the_certificate_is_accepted_and_others_are_not() {
        let good = response(&[0, 200, 1], GOOD, "20300101000000Z");
        assert_eq!(check(&good, &[200, 1]), Ok(Some(Timestamp::from_seconds(1_893_456_000))));
        assert_eq!(check(&good, &[200, 2]), Err(StapleFlaw::OtherCertificate));
        assert_eq!(check(&response(&[5], 0xa1, "20300101000000Z"), &[5]), Err(StapleFlaw::NotGood));
        assert_eq!(check(&response(&[5], GOOD, "yesterday"), &[5]), Err(StapleFlaw::Unreadable));
        assert_eq!(check(&element(SEQUENCE, &element(ENUMERATED, &[6])), &[5]), Err(StapleFlaw::Unsuccessful));
        for length in 0..good.len() {
            assert_eq!(check(&good[..length], &[200, 1]), Err(StapleFlaw::Unreadable), "{length} bytes");
        }
    }
}
