//! The Huffman code of strings (RFC 7541 section 5.2 and appendix B).
//!
//! The code is canonical: of codes with the same length the values ascend with their symbols, and each length begins
//! where the one before ended. So the lengths alone make the whole table. Codes up to 8 bits, which is all of letters,
//! digits and usual punctuation, are decoded by one look-up; the others by comparing with the first code of each length.

use super::HpackError;

/// Symbols by length of their code, in the order of their codes. 256 is the end of the string (EOS).
const BY_LENGTH: [(u32, &[u16]); 21] = [
    (5, &[48, 49, 50, 97, 99, 101, 105, 111, 115, 116]),
    (
        6,
        &[
            32, 37, 45, 46, 47, 51, 52, 53, 54, 55, 56, 57, 61, 65, 95, 98, 100, 102, 103, 104, 108, 109, 110, 112,
            114, 117,
        ],
    ),
    (
        7,
        &[
            58, 66, 67, 68, 69, 70, 71, 72, 73, 74, 75, 76, 77, 78, 79, 80, 81, 82, 83, 84, 85, 86, 87, 89, 106, 107,
            113, 118, 119, 120, 121, 122,
        ],
    ),
    (8, &[38, 42, 44, 59, 88, 90]),
    (10, &[33, 34, 40, 41, 63]),
    (11, &[39, 43, 124]),
    (12, &[35, 62]),
    (13, &[0, 36, 64, 91, 93, 126]),
    (14, &[94, 125]),
    (15, &[60, 96, 123]),
    (19, &[92, 195, 208]),
    (20, &[128, 130, 131, 162, 184, 194, 224, 226]),
    (21, &[153, 161, 167, 172, 176, 177, 179, 209, 216, 217, 227, 229, 230]),
    (
        22,
        &[
            129, 132, 133, 134, 136, 146, 154, 156, 160, 163, 164, 169, 170, 173, 178, 181, 185, 186, 187, 189, 190,
            196, 198, 228, 232, 233,
        ],
    ),
    (
        23,
        &[
            1, 135, 137, 138, 139, 140, 141, 143, 147, 149, 150, 151, 152, 155, 157, 158, 165, 166, 168, 174, 175, 180,
            182, 183, 188, 191, 197, 231, 239,
        ],
    ),
    (24, &[9, 142, 144, 145, 148, 159, 171, 206, 215, 225, 236, 237]),
    (25, &[199, 207, 234, 235]),
    (26, &[192, 193, 200, 201, 202, 205, 210, 213, 218, 219, 238, 240, 242, 243, 255]),
    (27, &[203, 204, 211, 212, 214, 221, 222, 223, 241, 244, 245, 246, 247, 248, 250, 251, 252, 253, 254]),
    (
        28,
        &[
            2, 3, 4, 5, 6, 7, 8, 11, 12, 14, 15, 16, 17, 18, 19, 20, 21, 23, 24, 25, 26, 27, 28, 29, 30, 31, 127, 220,
            249,
        ],
    ),
    (30, &[10, 13, 22, EOS]),
];

const EOS: u16 = 256;

/// The first four lengths, up to 8 bits, are in the table of short codes.
const SHORT_LENGTHS: usize = 4;

#[derive(Clone, Copy)]
struct Short {
    symbol: u8,
    /// Bits of the code; 0 where the code is longer than 8.
    bits: u8,
}

#[derive(Clone, Copy)]
struct Long {
    bits: u32,
    /// Codes of this length are below this, shifted to the left end of 32 bits. None of 32 ones exists, so it fits for
    /// all lengths but the last, where every pattern that is left belongs to it.
    below: u32,
    /// The first code of this length.
    first: u32,
    symbols: &'static [u16],
}

const fn tables() -> ([Short; 256], [Long; BY_LENGTH.len() - SHORT_LENGTHS]) {
    let mut short = [Short { symbol: 0, bits: 0 }; 256];
    let mut long = [Long { bits: 0, below: 0, first: 0, symbols: &[] }; BY_LENGTH.len() - SHORT_LENGTHS];
    let mut code: u32 = 0;
    let mut length = 0;
    let mut at = 0;
    while at < BY_LENGTH.len() {
        let (bits, symbols) = BY_LENGTH[at];
        code <<= bits - length;
        length = bits;
        if at < SHORT_LENGTHS {
            let mut index = 0;
            while index < symbols.len() {
                let spare = 8 - bits;
                let mut low = 0;
                while low < 1 << spare {
                    short[((code << spare) | low) as usize] = Short { symbol: symbols[index] as u8, bits: bits as u8 };
                    low += 1;
                }
                code += 1;
                index += 1;
            }
        } else {
            let first = code;
            code += symbols.len() as u32;
            let below = if at + 1 == BY_LENGTH.len() { u32::MAX } else { code << (32 - bits) };
            long[at - SHORT_LENGTHS] = Long { bits, below, first, symbols };
        }
        at += 1;
    }
    // A complete code uses up every pattern.
    assert!(code == 1 << 30);
    (short, long)
}

const TABLES: ([Short; 256], [Long; BY_LENGTH.len() - SHORT_LENGTHS]) = tables();
static SHORT: [Short; 256] = TABLES.0;
static LONG: [Long; BY_LENGTH.len() - SHORT_LENGTHS] = TABLES.1;

/// The symbol whose code `window` begins with, and the bits of the code.
fn long(window: u32) -> (u16, u32) {
    for codes in &LONG {
        if window < codes.below || codes.bits == 30 {
            let index = (window >> (32 - codes.bits)).wrapping_sub(codes.first) as usize;
            // Short codes never come here and each length begins where the one before ended, so the index is inside.
            return (codes.symbols.get(index).copied().unwrap_or(EOS), codes.bits);
        }
    }
    (EOS, 30)
}

/// Appends what `encoded` says to `out`: at most 8/5 of its length.
///
/// # Errors
/// [`HpackError::Huffman`] for a code of EOS, and for an end that is not fewer than 8 bits of EOS.
pub(super) fn decode(encoded: &[u8], out: &mut Vec<u8>) -> Result<(), HpackError> {
    let start = out.len();
    // One more than needed: every step below may write before it knows that it was the last.
    out.resize(start + encoded.len() * 8 / 5 + 1, 0);
    let target = &mut out[start..];
    let mut written = 0;
    // Bits that were read and not used, at the left end; what is behind `bits` of them is repeated by the next refill.
    let mut window: u64 = 0;
    let mut bits: u32 = 0;
    let mut rest = encoded;
    loop {
        if let Some((eight, _)) = rest.split_first_chunk::<8>() {
            window |= u64::from_be_bytes(*eight) >> bits;
            let bytes = (63 - bits) / 8;
            rest = &rest[bytes as usize..];
            bits += bytes * 8;
        } else {
            while bits <= 56 {
                let Some((byte, after)) = rest.split_first() else {
                    return tail(window, bits, target, written).map(|length| out.truncate(start + length));
                };
                window |= u64::from(*byte) << (56 - bits);
                rest = after;
                bits += 8;
            }
        }
        // No code is longer than 30 bits.
        while bits >= 30 {
            let short = SHORT[(window >> 56) as usize];
            if short.bits != 0 {
                target[written] = short.symbol;
                window <<= short.bits;
                bits -= u32::from(short.bits);
            } else {
                let (symbol, used) = long((window >> 32) as u32);
                target[written] = u8::try_from(symbol).map_err(|_| HpackError::Huffman)?;
                window <<= used;
                bits -= used;
            }
            written += 1;
        }
    }
}

/// Decodes the last `bits` bits and returns how many bytes `target` has then.
fn tail(mut window: u64, mut bits: u32, target: &mut [u8], mut written: usize) -> Result<usize, HpackError> {
    loop {
        // What is behind the end reads as ones, as the padding has to.
        let padded = window | u64::MAX.checked_shr(bits).unwrap_or(0);
        if bits < 8 && padded == u64::MAX {
            return Ok(written);
        }
        let short = SHORT[(padded >> 56) as usize];
        let (symbol, used) = match short.bits {
            0 => long((padded >> 32) as u32),
            used => (u16::from(short.symbol), u32::from(used)),
        };
        if used > bits {
            return Err(HpackError::Huffman);
        }
        target[written] = u8::try_from(symbol).map_err(|_| HpackError::Huffman)?;
        written += 1;
        window <<= used;
        bits -= used;
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The code of each symbol and its bits, made from the same lengths in the plain way.
    fn codes() -> Vec<(u32, u32)> {
        let mut codes = vec![(0, 0); 257];
        let (mut code, mut length) = (0u32, 0);
        for (bits, symbols) in BY_LENGTH {
            code <<= bits - length;
            length = bits;
            for symbol in symbols {
                codes[usize::from(*symbol)] = (code, bits);
                code += 1;
            }
        }
        codes
    }

    pub(crate) fn encode(text: &[u8]) -> Vec<u8> {
        let codes = codes();
        let mut bits: Vec<bool> = Vec::new();
        for byte in text {
            let (code, length) = codes[usize::from(*byte)];
            bits.extend((0..length).rev().map(|at| code >> at & 1 == 1));
        }
        bits.resize(bits.len().next_multiple_of(8), true);
        bits.chunks(8).map(|byte| byte.iter().fold(0, |sum, bit| sum << 1 | u8::from(*bit))).collect()
    }

    fn decoded(encoded: &[u8]) -> Result<Vec<u8>, HpackError> {
        let mut out = b"before".to_vec();
        decode(encoded, &mut out)?;
        Ok(out.split_off(6))
    }

    #[test]
    fn codes_are_those_of_the_rfc() {
        let codes = codes();
        for (symbol, code, bits) in [
            (0, 0x1ff8, 13),
            (9, 0xff_ffea, 24),
            (10, 0x3fff_fffc, 30),
            (usize::from(b'0'), 0, 5),
            (usize::from(b'X'), 0xfc, 8),
            (usize::from(b'z'), 0x7b, 7),
            (127, 0xfff_fffc, 28),
            (128, 0xf_ffe6, 20),
            (200, 0x3ff_ffe2, 26),
            (220, 0xfff_fffd, 28),
            (249, 0xfff_fffe, 28),
            (255, 0x3ff_ffee, 26),
            (256, 0x3fff_ffff, 30),
        ] {
            assert_eq!(codes[symbol], (code, bits), "{symbol}");
        }
    }

    #[test]
    fn every_pair_of_bytes_comes_back() {
        for first in 0..=255u8 {
            for second in 0..=255u8 {
                let text = [first, second];
                assert_eq!(decoded(&encode(&text)), Ok(text.to_vec()));
            }
        }
    }

    #[test]
    fn random_strings_come_back() {
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..3_000 {
            let printable = random.bool();
            let text: Vec<u8> =
                (0..random.usize(..200)).map(|_| if printable { random.u8(32..127) } else { random.u8(..) }).collect();
            assert_eq!(decoded(&encode(&text)), Ok(text));
        }
    }

    #[test]
    fn padding_is_fewer_than_eight_ones() {
        assert_eq!(decoded(&[]), Ok(vec![]));
        assert_eq!(decoded(&[0b0000_0111]), Ok(b"0".to_vec()));
        for wrong in [&[0b0000_0110][..], &[0xff], &[0b0000_0111, 0xff], &[0xff; 4], &[0xff; 40], &[0x00, 0x80 - 2]] {
            assert_eq!(decoded(wrong), Err(HpackError::Huffman), "{wrong:?}");
        }
    }

    #[test]
    fn random_bytes_never_panic() {
        let mut random = fastrand::Rng::with_seed(8);
        for _ in 0..20_000 {
            let bytes: Vec<u8> = (0..random.usize(..40)).map(|_| random.u8(..) | random.u8(..)).collect();
            let mut out = Vec::new();
            let _ = decode(&bytes, &mut out);
            assert!(out.len() <= bytes.len() * 8 / 5 + 1);
        }
    }
}
