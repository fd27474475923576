//! What is left in memory of a Secret that nobody holds any more.
//!
//! Alone in its binary: it reads the memory of the process, which other tests would fill.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use tidegate_resources::{ParseOptions, parse, validate};
use zeroize::Zeroizing;

/// The binary's: it moves what grows, where glibc often finds room behind it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Never in memory as it is, but for where the test puts it.
struct Needle([u8; 32]);

impl Needle {
    const MASK: u8 = 0x15;

    fn new(seed: u8) -> Self {
        let mut state = u32::from(seed).wrapping_mul(2_654_435_761);
        Self(std::array::from_fn(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (b'a' + (state >> 24) as u8 % 26) ^ Self::MASK
        }))
    }

    fn text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(self.0.len()));
        text.extend(self.0.iter().map(|byte| char::from(byte ^ Self::MASK)));
        text
    }

    /// How often it stands in the writable memory of this process.
    fn count(&self) -> usize {
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let memory = File::open("/proc/self/mem").unwrap();
        let pages = File::open("/proc/self/pagemap").unwrap();
        let mut buffer = vec![0u8; 1 << 20];
        let mut count = 0;
        let is_writable = |line: &&str| line.split_whitespace().nth(1).is_some_and(|mode| mode.starts_with("rw"));
        for line in maps.lines().filter(is_writable) {
            let (start, end) = line.split_whitespace().next().unwrap().split_once('-').unwrap();
            let parse = |text: &str| u64::from_str_radix(text, 16).unwrap();
            for (mut at, end) in touched(&pages, parse(start), parse(end)) {
                while at < end {
                    let length = buffer.len().min((end - at) as usize);
                    let Ok(read) = memory.read_at(&mut buffer[..length], at) else { break };
                    count += self.count_in(&buffer[..read], at);
                    buffer.fill(0);
                    if read <= self.0.len() || at + read as u64 >= end {
                        break;
                    }
                    // It may stand across the border.
                    at += (read - self.0.len()) as u64;
                }
            }
        }
        count
    }

    /// How often it stands in a copy of the memory at `address`; what is the copy's own memory does not count.
    fn count_in(&self, copy: &[u8], address: u64) -> usize {
        let own = copy.as_ptr() as u64;
        let is_it = |found: &[u8]| found.iter().zip(&self.0).all(|(byte, masked)| byte ^ Self::MASK == *masked);
        let hits = memchr::memchr_iter(self.0[0] ^ Self::MASK, copy).filter(|offset| {
            let is_own = (own..own + (1 << 20)).contains(&(address + *offset as u64));
            !is_own && copy.get(*offset..offset + self.0.len()).is_some_and(is_it)
        });
        hits.count()
    }
}

/// The parts of a range of addresses that are in memory: the allocator reserves much and touches little.
fn touched(pages: &File, start: u64, end: u64) -> Vec<(u64, u64)> {
    const PAGE: u64 = 4096;
    let mut parts: Vec<(u64, u64)> = Vec::new();
    let mut entries = vec![0u8; ((end - start) / PAGE * 8) as usize];
    let read = pages.read_at(&mut entries, start / PAGE * 8).unwrap_or(0);
    for (page, entry) in (start..end).step_by(PAGE as usize).zip(entries[..read].chunks_exact(8)) {
        // Bit 63: present; bit 62: swapped out.
        if entry[7] & 0xc0 == 0 {
            continue;
        }
        match parts.last_mut() {
            Some((_, end)) if *end == page => *end += PAGE,
            _ => parts.push((page, page + PAGE)),
        }
    }
    parts
}

/// Before every key.
const PAD: &str = "0123456789abcdef0123456789abcdef0123456789abcdef";

const HEAD: &str = "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\n";

/// The parts one after the other, without copies on the way.
fn text(parts: &[&str]) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(parts.iter().map(|part| part.len()).sum()));
    text.extend(parts.iter().copied());
    text
}

fn base64(bytes: &str) -> Zeroizing<String> {
    const SYMBOLS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = Zeroizing::new(String::with_capacity(bytes.len() * 2));
    for group in bytes.as_bytes().chunks(3) {
        let of = |index: usize| u32::from(group.get(index).copied().unwrap_or_default());
        let bits = of(0) << 16 | of(1) << 8 | of(2);
        for symbol in 0..4 {
            let is_padding = symbol > group.len();
            text.push(if is_padding { '=' } else { SYMBOLS[(bits >> (18 - 6 * symbol) & 63) as usize].into() });
        }
    }
    text
}

/// Reads what `write` makes of a key and drops it again. `held` is how often the bytes of the key may be in memory while
/// the object is there, beside the text.
#[track_caller]
fn check(seed: u8, held: usize, write: fn(&str) -> Zeroizing<String>) {
    let needle = Needle::new(seed);
    assert_eq!(needle.count(), 0, "before");
    // The allocator writes into the beginning of what is freed: the key must not stand there.
    let text = write(&text(&[PAD, &needle.text()]));
    let written = text.matches(&**needle.text()).count();
    assert_eq!(needle.count(), written, "in the text");
    let parsed = parse("s.yaml", &text, &ParseOptions::default());
    let found: Vec<_> = parsed.objects.iter().flat_map(validate).collect();
    assert!(parsed.objects.len() == 1 || held == 0, "{:?}", parsed.diagnostics);
    drop(text);
    assert_eq!(needle.count(), held, "while the object is held");
    drop((parsed, found));
    assert_eq!(needle.count(), 0, "in the end");
}

#[test]
fn a_secret_that_nobody_holds_leaves_no_copy() {
    check(1, 1, |key| text(&[HEAD, "stringData: {k: ", key, "}\n"]));
    check(2, 1, |key| text(&[HEAD, "stringData: {k: \"", key, "\\n\"}\n"]));
    check(3, 1, |key| text(&[HEAD, "stringData:\n  k: |\n    a\n    ", key, "\n    b\n"]));
    check(4, 40, |key| {
        let line = text(&["    ", key, key, "\n"]);
        let mut parts = vec![HEAD, "stringData:\n  k: |\n"];
        parts.extend(std::iter::repeat_n(&**line, 20));
        text(&parts)
    });
    check(5, 1, |key| text(&[HEAD, "data:\n  k: ", &base64(key), "\n"]));
    check(6, 1, |key| {
        let json =
            "{\"kind\": \"Secret\", \"apiVersion\": \"v1\", \"metadata\": {\"name\": \"a\"}, \"data\": {\"k\": \"";
        text(&[json, &base64(key), "\"}}"])
    });
    // The base64 itself.
    check(14, 0, |key| text(&[HEAD, "data: {k: ", key, "}\n"]));
    // Long ones, for which buffers grow.
    check(16, 1, |key| {
        let line = text(&["    ", &"QUJD".repeat(16), "\n"]);
        let mut parts = vec![HEAD, "stringData:\n  k: |\n    ", key, "\n"];
        parts.extend(std::iter::repeat_n(&**line, 100));
        text(&parts)
    });
    check(17, 0, |key| text(&[HEAD, "data:\n  k: ", key, &"QUJD".repeat(2000), "\n"]));
    check(18, 0, |key| text(&[HEAD, "data: {k: \"", key, &"QUJD".repeat(2000), "\"}\n"]));
    check(19, 1, |key| text(&[HEAD, "stringData: {k: \"", key, "\\n", &"QUJD".repeat(2000), "\"}\n"]));
    // An anchor, a repaired text, and documents that come to nothing.
    check(7, 2, |key| text(&[HEAD, "stringData: {k: &k ", key, ", l: *k}\n"]));
    check(15, 2, |key| text(&[HEAD, "data: &d {k: c2VjcmV0}\nstringData: {<<: {k: &k ", key, "}, k: *k, l: *k}\n"]));
    check(8, 1, |key| text(&[HEAD, "stringData: {\nk: \"", key, "\"\n}\n"]));
    check(9, 0, |key| text(&[HEAD, "stringData:\n  k: |\n    ", key, "\n  l: [\n"]));
    check(10, 0, |key| text(&[HEAD, "data:\n  k: ", &base64(key), "*\n"]));
    check(11, 0, |key| text(&[HEAD, "stringData:\n  k: &k ", key, "\n  l: \"\n"]));
    check(12, 0, |key| text(&[HEAD, "stringDat: {k: ", key, "}\n"]));
    check(13, 0, |key| {
        let annotation = "    kubectl.kubernetes.io/last-applied-configuration: ";
        let head = "apiVersion: v1\nkind: Secret\nmetadata:\n  name: a\n  annotations:\n";
        text(&[head, annotation, key, "\nstringDat: x\n"])
    });
}
