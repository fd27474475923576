//! What stands in the memory of the process that runs the test: for tests that keys leave no copies.
#![expect(clippy::unwrap_used, reason = "a harness fails by panicking")]

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;

use memchr::memchr_iter;

const MASK: u8 = 0x15;
const PAGE: usize = 4096;

/// Bytes of a key, never in memory as they are.
pub struct Needle(Vec<u8>);

impl Needle {
    pub fn new(bytes: &[u8]) -> Self {
        Self(bytes.iter().map(|byte| byte ^ MASK).collect())
    }

    /// How often it stands in the writable memory of this process.
    pub fn count(&self) -> usize {
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let memory = File::open("/proc/self/mem").unwrap();
        let pages = File::open("/proc/self/pagemap").unwrap();
        // Two pages side by side, so that a border between them does not matter.
        let mut buffer = vec![0_u8; 2 * PAGE];
        let own = buffer.as_ptr() as usize;
        let mut count = 0;
        for line in maps.lines().filter(|line| line.split_whitespace().nth(1).unwrap().starts_with("rw")) {
            let (start, end) = line.split_whitespace().next().unwrap().split_once('-').unwrap();
            let [start, end] = [start, end].map(|text| usize::from_str_radix(text, 16).unwrap());
            let mut entries = vec![0_u8; (end - start) / PAGE * 8];
            let read = pages.read_at(&mut entries, (start / PAGE * 8) as u64).unwrap_or(0);
            for (page, entry) in (start..end).step_by(PAGE).zip(entries[..read].chunks_exact(8)) {
                // Bit 63: present; bit 62: swapped out. An allocator reserves much and touches little.
                if entry[7] & 0xc0 == 0 {
                    continue;
                }
                let length = memory.read_at(&mut buffer, page as u64).unwrap_or(0);
                let is_own = |offset: usize| (own..own + 2 * PAGE).contains(&(page + offset));
                let is_it = |offset: usize| {
                    let found = buffer[..length].get(offset..offset + self.0.len());
                    found.is_some_and(|found| found.iter().zip(&self.0).all(|(byte, masked)| byte ^ MASK == *masked))
                };
                let begins = memchr_iter(self.0[0] ^ MASK, &buffer[..length.min(PAGE)]);
                count += begins.filter(|offset| !is_own(*offset) && is_it(*offset)).count();
                buffer.fill(0);
            }
        }
        count
    }
}
