//! Integers with a prefix (RFC 7541 section 5.1).

use super::HpackError;

/// Nothing that HPACK counts may reach this: it bounds what later sums can be, far below overflow.
const LIMIT: usize = 1 << 28;

/// Reads the integer whose first byte is at `*at`, of which the low `prefix` bits belong to it, and moves `*at` past it.
#[inline]
pub(super) fn decode(block: &[u8], at: &mut usize, prefix: u32) -> Result<usize, HpackError> {
    let mask = (1usize << prefix) - 1;
    let first = usize::from(*block.get(*at).ok_or(HpackError::Truncated)?) & mask;
    *at += 1;
    if first < mask {
        return Ok(first);
    }
    let mut value = first;
    // Four more bytes reach the limit; whoever needs a fifth counts too far or pads with zeros.
    for shift in [0, 7, 14, 21] {
        let byte = usize::from(*block.get(*at).ok_or(HpackError::Truncated)?);
        *at += 1;
        value += (byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return if value < LIMIT { Ok(value) } else { Err(HpackError::Integer) };
        }
    }
    Err(HpackError::Integer)
}

/// Appends `value` with `prefix` bits in the first byte, whose other bits are `pattern`'s.
#[inline]
pub(super) fn encode(value: usize, prefix: u32, pattern: u8, out: &mut Vec<u8>) {
    let mask = (1usize << prefix) - 1;
    if value < mask {
        out.push(pattern | value as u8);
        return;
    }
    out.push(pattern | mask as u8);
    let mut rest = value - mask;
    while rest >= 0x80 {
        out.push(0x80 | (rest & 0x7f) as u8);
        rest >>= 7;
    }
    out.push(rest as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(value: usize, prefix: u32, bytes: &[u8]) {
        let mut out = Vec::new();
        encode(value, prefix, 0, &mut out);
        assert_eq!(out, bytes, "{value}");
        let mut at = 0;
        assert_eq!(decode(bytes, &mut at, prefix), Ok(value));
        assert_eq!(at, bytes.len());
    }

    /// RFC 7541 appendix C.1.
    #[test]
    fn the_examples_of_the_rfc_hold() {
        check(10, 5, &[0b01010]);
        check(1337, 5, &[0b11111, 0b1001_1010, 0b0000_1010]);
        check(42, 8, &[0b0010_1010]);
    }

    #[test]
    fn edges_of_prefixes_go_both_ways() {
        for prefix in 4..=8 {
            for value in (0..600).chain([16_383, 16_384, 1 << 20, (1 << 27) + 5]) {
                let mut out = Vec::new();
                encode(value, prefix, 0, &mut out);
                let mut at = 0;
                assert_eq!((decode(&out, &mut at, prefix), at), (Ok(value), out.len()));
            }
        }
    }

    #[test]
    fn what_is_cut_or_too_large_is_refused() {
        assert_eq!(decode(&[], &mut 0, 7), Err(HpackError::Truncated));
        assert_eq!(decode(&[0x7f], &mut 0, 7), Err(HpackError::Truncated));
        assert_eq!(decode(&[0x7f, 0x80], &mut 0, 7), Err(HpackError::Truncated));
        assert_eq!(decode(&[0x7f, 0x80, 0x80, 0x80, 0x80, 0], &mut 0, 7), Err(HpackError::Integer));
        assert_eq!(decode(&[0x7f, 0xff, 0xff, 0xff, 0xff, 0x7f], &mut 0, 7), Err(HpackError::Integer));
        assert_eq!(decode(&[0x7f, 0xff, 0xff, 0xff, 0x7f], &mut 0, 7), Err(HpackError::Integer));
    }
}
