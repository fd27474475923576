//! The machine: which core runs what, what a process costs, and who else was busy.
#![expect(clippy::unwrap_used, reason = "a harness fails by panicking")]

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

/// Moves a process and all its threads to some cores, where the machine has them.
pub fn pin(pid: u32, cores: &str) {
    let _ = Command::new("taskset").args(["-a", "-c", "-p", cores, &pid.to_string()]).output();
}

/// Resident memory of a process in KiB; 0 if it has ended.
pub fn memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).unwrap_or_default()
}

/// CPU time of all processes that the machine ran, by all.
fn busy() -> Duration {
    let stat = fs::read_to_string("/proc/stat").unwrap();
    let line = stat.lines().next().unwrap();
    let ticks: Vec<u64> = line.split_whitespace().skip(1).map(|word| word.parse().unwrap()).collect();
    // user, nice, system, irq, softirq, steal; not idle and iowait.
    let used = ticks[0] + ticks[1] + ticks[2] + ticks[5] + ticks[6] + ticks.get(7).copied().unwrap_or_default();
    Duration::from_millis(used * 10)
}

/// CPU time that this program and its ended children have used.
fn own() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11..15].iter().map(|field| field.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 10)
}

/// Watches whether others used the machine during a round.
pub struct Noise {
    pids: Vec<u32>,
    at: Instant,
    others: Duration,
}

impl Noise {
    /// `pids` belong to the round, as does this program with the load generators that it runs.
    pub fn begin(pids: &[u32]) -> Self {
        Self { pids: pids.to_vec(), at: Instant::now(), others: others(pids) }
    }

    /// Whether anybody else used more than a tenth of one core.
    pub fn end(self) -> bool {
        others(&self.pids).saturating_sub(self.others) > self.at.elapsed() / 10
    }
}

fn others(pids: &[u32]) -> Duration {
    let ours: Duration = pids.iter().map(|pid| crate::process::cpu(*pid)).sum();
    busy().saturating_sub(ours + own())
}
