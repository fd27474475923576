//! The store and its sources through their public face. Every certificate is made here; the clock stands where a test
//! puts it.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod breakage;
mod canary;
mod flaws;
mod hostile;
mod kubernetes;
mod rotation;
mod several;
mod sources;
mod support;
mod trust;
