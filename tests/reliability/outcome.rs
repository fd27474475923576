//! What a request came to, and what a fault came to.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value, json};
use tidegate_tests::sut::Kind;

use crate::faults::Fault;

/// What became of one request.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Outcome {
    Ok,
    WrongBody,
    /// An answer of a configuration that should not serve any more, or of two at once.
    WrongConfig,
    Status(u16),
    Refused,
    Reset,
    Timeout,
    Tls,
}

/// One request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record {
    /// When it was due, since the probe began.
    pub(crate) at: Duration,
    /// From then to its whole answer.
    pub(crate) took: Duration,
    pub(crate) outcome: Outcome,
}

/// All requests of a probe.
#[derive(Default, Debug)]
pub(crate) struct Records(pub(crate) Vec<Record>);

impl Records {
    pub(crate) fn failed(&self) -> usize {
        self.0.iter().filter(|record| record.outcome != Outcome::Ok).count()
    }

    /// Share of good answers, 1 for no requests.
    pub(crate) fn good(&self) -> f64 {
        1.0 - self.failed() as f64 / self.0.len().max(1) as f64
    }

    pub(crate) fn p99(&self) -> Duration {
        let mut took: Vec<Duration> = self.0.iter().map(|record| record.took).collect();
        took.sort_unstable();
        let last = took.len().saturating_sub(1);
        took.get(last * 99 / 100).copied().unwrap_or_default()
    }

    /// One line of JSON for each request.
    pub(crate) fn lines(&self) -> String {
        let line = |record: &Record| {
            let (at, took) = (record.at.as_secs_f64() * 1e3, record.took.as_secs_f64() * 1e3);
            format!("{{\"at_ms\":{at:.3},\"took_ms\":{took:.3},\"outcome\":\"{:?}\"}}\n", record.outcome)
        };
        self.0.iter().map(line).collect()
    }

    /// How many of each kind failed.
    fn failures(&self) -> Value {
        let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
        for record in self.0.iter().filter(|record| record.outcome != Outcome::Ok) {
            *kinds.entry(format!("{:?}", record.outcome)).or_default() += 1;
        }
        json!(kinds)
    }
}

/// How a fault ended.
pub(crate) struct Verdict {
    /// How many times the fault was made.
    pub(crate) n: usize,
    pub(crate) records: Records,
    pub(crate) p99_idle: Duration,
    /// Resident memory at the end, KiB.
    pub(crate) memory: u64,
    pub(crate) pass: bool,
    /// Why the fault was not made at all, which is neither a pass nor a failure.
    pub(crate) skipped: Option<String>,
    /// What else there is to tell.
    pub(crate) more: Map<String, Value>,
}

impl Verdict {
    fn empty() -> Self {
        Self {
            n: 0,
            records: Records::default(),
            p99_idle: Duration::ZERO,
            memory: 0,
            pass: false,
            skipped: None,
            more: Map::new(),
        }
    }

    /// Something that the fault needs is not on this machine.
    pub(crate) fn skipped(why: impl Into<String>) -> Self {
        Self { skipped: Some(why.into()), ..Self::empty() }
    }

    /// The rig ended in the middle: a proxy that does not start, or an answer that nobody expected.
    pub(crate) fn broken(why: impl Into<String>) -> Self {
        Self { more: Map::from_iter([("error".to_owned(), json!(why.into()))]), ..Self::empty() }
    }

    /// Whether the target was missed.
    pub(crate) fn is_failure(&self) -> bool {
        !self.pass && self.skipped.is_none()
    }

    pub(crate) fn json(&self, fault: &Fault, sut: Kind) -> Value {
        let milliseconds = |time: Duration| (time.as_secs_f64() * 1e5).round() / 100.0;
        let mut line = json!({
            "name": fault.name,
            "id": fault.id,
            "sut": sut.name(),
            "n": self.n,
            "requests": self.records.0.len(),
            "failed": self.records.failed(),
            "failures": self.records.failures(),
            "p99_ms": milliseconds(self.records.p99()),
            "p99_idle_ms": milliseconds(self.p99_idle),
            "rss_kib": self.memory,
            "pass": if self.skipped.is_some() { Value::Null } else { json!(self.pass) },
        });
        let fields = line.as_object_mut().unwrap();
        if let Some(why) = &self.skipped {
            fields.insert("skipped".into(), json!(why));
        }
        fields.extend(self.more.clone());
        line
    }
}
