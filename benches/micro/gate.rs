//! Instruction gates: fixed workloads under callgrind, compared with a table that is kept in the repository.
//!
//! It owns running, counting, comparing and the table. It does not own the workloads.
//!
//! Instructions of a fixed workload do not depend on who else uses the machine, where wall time on shared cores does.
//! Each workload runs in a process of its own. Callgrind counts inside of one function only, not in what is built
//! before: a table of 40,000 routes is many times the work that is gated, and since hash maps are seeded at random no
//! two runs build it in equally many instructions. What that leaves in the work itself is below the tolerance.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{env, fs, io, thread};

use serde::{Deserialize, Serialize};

/// First argument of a program that is to call [`Gate::run_workload`]; a workload's name and the number of operations
/// follow.
pub const RUN: &str = "run-workload";

/// What a table that is begun allows: see [`Table`].
const TOLERANCE: f64 = 0.05;
const SLACK: u64 = 50;

/// Something that can be done again and again at the same cost.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    /// Unique, and the key in the table.
    pub name: &'static str,
    /// How often it is done while instructions are counted; at least 1.
    pub operations: u64,
    /// Builds what has to be in place, and gives back the operation.
    pub prepare: fn() -> Box<dyn FnMut()>,
}

/// What `name` may cost at most, whatever the table says: `factor` times `base`.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    pub name: &'static str,
    pub factor: f64,
    pub base: &'static str,
}

/// Workloads and what is kept of them.
#[derive(Clone, Debug)]
pub struct Gate {
    /// Where the table is.
    pub table: PathBuf,
    pub workloads: &'static [Workload],
    pub bounds: &'static [Bound],
}

/// Instructions for one operation, by name of the workload.
pub type Counts = BTreeMap<String, u64>;

/// How counts compare with the table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// A table in Markdown, one line for each count.
    pub report: String,
    /// One line for each workload that costs more than it may, or of which nothing is recorded; empty if all is well.
    pub failures: Vec<String>,
}

/// Why there is nothing to compare.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    #[error("there is no workload with `{0}` in its name")]
    UnknownWorkload(String),
    #[error("there is no option `{0}`; there is `--update`")]
    UnknownOption(String),
    #[error("cannot run valgrind ({0}); `sh tests/setup.sh micro` installs it")]
    Valgrind(io::Error),
    #[error("{workload}: callgrind counted nothing: {problem}")]
    NotCounted { workload: &'static str, problem: String },
    #[error("cannot prepare a run: {0}")]
    Environment(io::Error),
    #[error("cannot read the table {path} ({problem}); `make gate GATE_ARGS=--update` writes it")]
    NoTable { path: PathBuf, problem: String },
    #[error("cannot write the table {path}: {source}")]
    TableNotWritten { path: PathBuf, source: io::Error },
    #[error("the table is of {recorded}, this machine is {}: there is nothing to compare with", env::consts::ARCH)]
    OtherArchitecture { recorded: String },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Table {
    /// Counts of two architectures are not comparable.
    arch: String,
    /// Part of the recorded count by which another may exceed it.
    tolerance: f64,
    /// Instructions by which any count may exceed the recorded one: where the compiler draws the line between functions
    /// moves with changes elsewhere, and is much to a workload of a few hundred.
    slack: u64,
    /// Instructions for one operation.
    workloads: Counts,
}

impl Table {
    /// The most that may be counted where `recorded` was.
    fn allowed(&self, recorded: u64) -> u64 {
        recorded + self.slack.max((recorded as f64 * self.tolerance) as u64)
    }
}

impl Gate {
    /// Does the work that [`RUN`] asks for, `operations` times.
    ///
    /// # Errors
    /// There is no workload of this name.
    pub fn run_workload(&self, name: &str, operations: u64) -> Result<(), GateError> {
        let workload = self.workloads.iter().find(|workload| workload.name == name);
        let mut operation = (workload.ok_or_else(|| GateError::UnknownWorkload(name.to_owned()))?.prepare)();
        // What is made at the first use only does not count.
        operation();
        measured_by_callgrind(operations, &mut *operation);
        Ok(())
    }

    /// Counts the instructions of the workloads that have one of `wanted` in their names, or of all if that is empty.
    /// Runs this program, which passes the arguments after [`RUN`] on to [`Gate::run_workload`].
    ///
    /// # Errors
    /// One of `wanted` is in no name, there is no valgrind, or a run failed.
    pub fn measure(&self, wanted: &[&str]) -> Result<Counts, GateError> {
        let is_known = |part: &&&str| self.workloads.iter().any(|workload| workload.name.contains(**part));
        if let Some(unknown) = wanted.iter().find(|part| !is_known(part)) {
            return Err(GateError::UnknownWorkload((*unknown).to_owned()));
        }
        let program = env::current_exe().map_err(GateError::Environment)?;
        let folder = tempfile::tempdir().map_err(GateError::Environment)?;
        let is_wanted = |workload: &&Workload| wanted.is_empty() || wanted.iter().any(|it| workload.name.contains(it));
        let chosen: Vec<&Workload> = self.workloads.iter().filter(is_wanted).collect();
        let (next, results) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        thread::scope(|scope| {
            for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
                scope.spawn(|| {
                    while let Some(workload) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let out = folder.path().join(format!("{:p}", *workload));
                        let count = callgrind(&program, workload, &out).map(|count| (workload.name.to_owned(), count));
                        // A panic while it was held would have ended the scope.
                        results.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(count);
                    }
                });
            }
        });
        results.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()).into_iter().collect()
    }

    /// Holds `counts` against the table and the bounds.
    ///
    /// # Errors
    /// There is no table, or it is another architecture's.
    pub fn compare(&self, counts: &Counts) -> Result<Verdict, GateError> {
        let table = self.read()?;
        if table.arch != env::consts::ARCH {
            return Err(GateError::OtherArchitecture { recorded: table.arch });
        }
        let mut failures = Vec::new();
        for (name, count) in counts {
            let Some(recorded) = table.workloads.get(name) else {
                failures.push(format!("{name}: not in the table"));
                continue;
            };
            let allowed = table.allowed(*recorded);
            if *count > allowed {
                failures.push(format!("{name}: {count} instructions, {recorded} are recorded and {allowed} allowed"));
            }
        }
        for Bound { name, factor, base } in self.bounds {
            if let (Some(count), Some(of_base)) = (counts.get(*name), counts.get(*base))
                && *count as f64 > *of_base as f64 * factor
            {
                failures.push(format!("{name}: {count} instructions, more than {factor} times {base} ({of_base})"));
            }
        }
        Ok(Verdict { report: self.report(counts, &table), failures })
    }

    /// Writes `counts` into the table and gives back how they compare with what it said. Workloads that are gone leave
    /// it.
    ///
    /// # Errors
    /// The table cannot be written.
    pub fn update(&self, counts: &Counts) -> Result<String, GateError> {
        let fresh = || Table {
            arch: env::consts::ARCH.to_owned(),
            tolerance: TOLERANCE,
            slack: SLACK,
            workloads: Counts::new(),
        };
        let mut table = self.read().ok().filter(|table| table.arch == env::consts::ARCH).unwrap_or_else(fresh);
        let report = self.report(counts, &table);
        table.workloads.extend(counts.clone());
        table.workloads.retain(|name, _| self.workloads.iter().any(|workload| workload.name == name));
        let failed = |source| GateError::TableNotWritten { path: self.table.clone(), source };
        let text = serde_json::to_string_pretty(&table).map_err(|error| failed(error.into()))?;
        fs::write(&self.table, text + "\n").map_err(failed)?;
        Ok(report)
    }

    fn read(&self) -> Result<Table, GateError> {
        let failed = |problem: String| GateError::NoTable { path: self.table.clone(), problem };
        let text = fs::read_to_string(&self.table).map_err(|error| failed(error.to_string()))?;
        serde_json::from_str(&text).map_err(|error| failed(error.to_string()))
    }

    /// In the order of the workloads.
    fn report(&self, counts: &Counts, table: &Table) -> String {
        let mut report = "| workload | instructions | recorded | change |\n|---|---:|---:|---:|\n".to_owned();
        for name in self.workloads.iter().map(|workload| workload.name) {
            let Some(count) = counts.get(name) else { continue };
            let (recorded, change) = match table.workloads.get(name) {
                Some(recorded) => (recorded.to_string(), format!("{:+.1} %", change(*count, *recorded) * 100.0)),
                None => ("-".to_owned(), "-".to_owned()),
            };
            // Writing to a text cannot fail.
            let _ = writeln!(report, "| {name} | {count} | {recorded} | {change} |");
        }
        report
    }
}

/// The one function in which callgrind counts; it knows it by its name.
#[inline(never)]
fn measured_by_callgrind(operations: u64, operation: &mut dyn FnMut()) {
    for _ in 0..operations {
        operation();
    }
}

/// Instructions for one operation.
fn callgrind(program: &Path, workload: &Workload, out: &Path) -> Result<u64, GateError> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--toggle-collect=*measured_by_callgrind*"])
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(program)
        .args([RUN, workload.name, &workload.operations.to_string()])
        .output()
        .map_err(GateError::Valgrind)?;
    let failed = |problem: String| GateError::NotCounted { workload: workload.name, problem };
    if !output.status.success() {
        return Err(failed(format!("{}\n{}", output.status, String::from_utf8_lossy(&output.stderr))));
    }
    let profile = fs::read_to_string(out).map_err(|error| failed(error.to_string()))?;
    let total = total(&profile).ok_or_else(|| failed("its profile has no total".to_owned()))?;
    Ok(total / workload.operations)
}

/// All instructions of a profile in callgrind's format; none if there were none.
fn total(profile: &str) -> Option<u64> {
    let total = profile.lines().find_map(|line| line.strip_prefix("totals: "))?;
    total.trim().parse().ok().filter(|total| *total > 0)
}

fn change(count: u64, recorded: u64) -> f64 {
    count as f64 / recorded.max(1) as f64 - 1.0
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn workload(name: &'static str) -> Workload {
        Workload { name, operations: 1, prepare: || Box::new(|| {}) }
    }

    const WORKLOADS: &[Workload] = &[workload("small"), workload("large")];

    fn gate(folder: &Path) -> Gate {
        let bounds = &[Bound { name: "large", factor: 1.1, base: "small" }];
        Gate { table: folder.join("instructions.json"), workloads: WORKLOADS, bounds }
    }

    fn counts(counts: &[(&str, u64)]) -> Counts {
        counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
    }

    #[test]
    fn more_than_the_tolerance_fails_and_less_never_does() {
        let folder = tempfile::tempdir().unwrap();
        let gate = gate(folder.path());
        let failures = |now: &[(&str, u64)]| gate.compare(&counts(now)).unwrap().failures.len();
        gate.update(&counts(&[("small", 10_000), ("large", 10_000)])).unwrap();
        assert_eq!(failures(&[("small", 10_500), ("large", 10_500)]), 0);
        assert_eq!(failures(&[("small", 10), ("large", 11)]), 0);
        assert_eq!(failures(&[("small", 10_501)]), 1);
        assert_eq!(failures(&[("small", 9_000), ("large", 10_000)]), 1, "the bound between the two");
        gate.update(&counts(&[("small", 300)])).unwrap();
        assert_eq!((failures(&[("small", 350)]), failures(&[("small", 351)])), (0, 1), "few instructions");
    }

    #[test]
    fn a_workload_that_was_never_recorded_fails() {
        let folder = tempfile::tempdir().unwrap();
        let gate = gate(folder.path());
        assert!(matches!(gate.compare(&Counts::new()), Err(GateError::NoTable { .. })));
        gate.update(&counts(&[("small", 1)])).unwrap();
        let verdict = gate.compare(&counts(&[("small", 1), ("large", 1)])).unwrap();
        assert_eq!(verdict.failures, ["large: not in the table"]);
        assert!(verdict.report.ends_with("| small | 1 | 1 | +0.0 % |\n| large | 1 | - | - |\n"), "{}", verdict.report);
    }

    #[test]
    fn an_update_of_some_keeps_others_and_forgets_what_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let gate = gate(folder.path());
        gate.update(&counts(&[("small", 1), ("large", 2)])).unwrap();
        gate.update(&counts(&[("large", 3), ("gone", 4)])).unwrap();
        assert_eq!(gate.read().unwrap().workloads, counts(&[("small", 1), ("large", 3)]));
    }

    #[test]
    fn counts_of_another_architecture_are_not_compared() {
        let folder = tempfile::tempdir().unwrap();
        let gate = gate(folder.path());
        fs::write(&gate.table, r#"{"arch": "z80", "tolerance": 0.05, "slack": 50, "workloads": {"small": 1}}"#)
            .unwrap();
        assert!(matches!(gate.compare(&counts(&[("small", 1)])), Err(GateError::OtherArchitecture { .. })));
        gate.update(&counts(&[("small", 7)])).unwrap();
        assert!(gate.compare(&counts(&[("small", 7)])).unwrap().failures.is_empty());
    }

    #[test]
    fn names_that_no_workload_has_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let gate = gate(folder.path());
        assert!(
            matches!(gate.measure(&["small", "nothing"]), Err(GateError::UnknownWorkload(name)) if name == "nothing")
        );
        assert!(matches!(gate.run_workload("nothing", 1), Err(GateError::UnknownWorkload(_))));
        assert!(gate.run_workload("small", 3).is_ok());
    }

    #[test]
    fn totals_are_read_from_callgrinds_format() {
        assert_eq!(total("version: 1\nevents: Ir\nfn=(1)\n1 2\ntotals: 1234\n"), Some(1234));
        assert_eq!(total("totals: 0\n"), None);
        assert_eq!(total("events: Ir\n"), None);
    }
}
