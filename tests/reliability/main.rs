//! One command per fault: `rel NAME... [--quick] [--sut tidegate|envoy|haproxy|nginx] [--n N] [--binary FILE]
//! [--out DIR]`.
//!
//! Prints one line of JSON, `{name, sut, n, failed, p99_ms, p99_idle_ms, rss_kib, pass, ...}`, and ends with 1 if the
//! target was missed; `pass` is null where the fault could not be made, and `skipped` says why. A probe sends requests
//! in an open loop and keeps one record of each; it retries nothing. `--quick` takes seconds; the long form has the
//! numbers of the targets. `--binary` runs another tidegate than the one that was built beside this program.
//!
//! `rel list` names the faults; `rel all` runs every one of them, `rel ci` those that a loaded machine and a debug build
//! can be held to. Lines and records are kept in `--out` (by default target/reliability), and `rel summary` makes one
//! Markdown table of what is there.
#![expect(clippy::unwrap_used, reason = "a rig fails by panicking")]
#![expect(clippy::print_stdout, reason = "the line of JSON is the output")]

mod faults;
mod outcome;
mod probe;
mod report;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde_json::json;
use tidegate_tests::sut::Kind;

use self::faults::{FAULTS, Fault};
use self::outcome::Verdict;
use self::report::Reports;

const USAGE: &str = "usage: rel NAME...|all|ci|list|summary [--quick] [--sut tidegate|envoy|haproxy|nginx] [--n N] \
                     [--binary FILE] [--out DIR]; `rel list` names the faults";

/// How a fault is to be run.
#[derive(Clone, Copy)]
pub(crate) struct Run {
    pub(crate) sut: Kind,
    quick: bool,
    number: Option<usize>,
}

impl Run {
    /// `--n`, else the size of the quick or of the long form.
    pub(crate) fn size(&self, quick: usize, long: usize) -> usize {
        self.number.unwrap_or(if self.quick { quick } else { long })
    }

    pub(crate) fn is_quick(&self) -> bool {
        self.quick
    }

    /// What a percentile of times may be above its target: some, as two cores are shared; more in the quick form, whose
    /// machine is busy with other tests and whose binary is a debug build. The long form is what times are judged by.
    pub(crate) fn slack(&self) -> Duration {
        Duration::from_millis(if self.quick { 250 } else { 5 })
    }

    /// How long a change is waited for before it counts as lost.
    pub(crate) fn patience(&self) -> Duration {
        Duration::from_secs(if self.quick { 5 } else { 20 })
    }

    /// A target in time, five times as long in the quick form; see [`Self::slack`].
    pub(crate) fn target(&self, target: Duration) -> Duration {
        if self.quick { target * 5 } else { target }
    }
}

/// What the command line asks for.
struct Order {
    names: Vec<String>,
    run: Run,
    out: PathBuf,
}

impl Order {
    fn parse(mut args: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut order = Self {
            names: Vec::new(),
            run: Run { sut: Kind::Tidegate, quick: false, number: None },
            out: tidegate_tests::process::target().join("reliability"),
        };
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
            match arg.as_str() {
                "--quick" => order.run.quick = true,
                "--sut" => {
                    let name = value()?;
                    order.run.sut = Kind::parse(&name).ok_or_else(|| format!("there is no proxy {name}"))?;
                }
                "--n" => {
                    let number = value()?.parse().ok().filter(|number| *number > 0);
                    order.run.number = Some(number.ok_or("--n needs a number above 0")?);
                }
                "--binary" => {
                    let file = PathBuf::from(value()?);
                    let file = file.canonicalize().map_err(|error| format!("{}: {error}", file.display()))?;
                    tidegate_tests::process::use_binary(file);
                }
                "--out" => order.out = value()?.into(),
                option if option.starts_with('-') => return Err(format!("there is no option {option}")),
                "all" => order.names.extend(FAULTS.iter().map(|fault| fault.name.to_owned())),
                "ci" => {
                    let held = FAULTS.iter().filter(|fault| fault.kept_from_ci.is_none());
                    order.names.extend(held.map(|fault| fault.name.to_owned()));
                }
                name => order.names.push(name.to_owned()),
            }
        }
        if order.names.is_empty() {
            return Err(USAGE.into());
        }
        Ok(order)
    }
}

fn main() -> ExitCode {
    let order = match Order::parse(std::env::args().skip(1)) {
        Ok(order) => order,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(64);
        }
    };
    let reports = Reports::new(order.out);
    match order.names[0].as_str() {
        "list" => {
            for fault in FAULTS {
                let kept = fault.kept_from_ci.map(|why| format!(" (not in CI: {why})")).unwrap_or_default();
                println!("{:10} {:7} {}{kept}", fault.name, fault.id, fault.title);
            }
            return ExitCode::SUCCESS;
        }
        "summary" => {
            println!("{}", reports.table());
            return ExitCode::SUCCESS;
        }
        _ => {}
    }
    let mut faults = Vec::new();
    for name in &order.names {
        let Some(fault) = FAULTS.iter().find(|fault| fault.name == name) else {
            eprintln!("there is no fault {name}; `rel list` names them");
            return ExitCode::from(64);
        };
        faults.push(fault);
    }
    tidegate_tests::tls::provider();
    let mut passed = true;
    for fault in faults {
        if !fault.suts.contains(&order.run.sut) {
            eprintln!("{} does not apply to {}", fault.name, order.run.sut.name());
            continue;
        }
        let begun = Instant::now();
        let mut verdict = contained(fault, order.run);
        let form = if order.run.quick { "quick" } else { "long" };
        verdict.more.insert("form".into(), json!(form));
        verdict.more.insert("seconds".into(), json!(begun.elapsed().as_secs()));
        passed &= !verdict.is_failure();
        let line = verdict.json(fault, order.run.sut);
        println!("{line}");
        reports.keep(&line, &verdict.records);
    }
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs a fault. A rig that panics, for instance because a proxy does not start under these conditions, is a verdict,
/// too; what it left running ends with its runtime.
fn contained(fault: &Fault, run: Run) -> Verdict {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    // One line says it all; a backtrace would be the rig's own.
    std::panic::set_hook(Box::new(|panic| eprintln!("rel: {panic}")));
    let verdict = catch_unwind(AssertUnwindSafe(|| runtime.block_on((fault.run)(run))));
    runtime.shutdown_timeout(Duration::from_secs(1));
    verdict.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Verdict::broken(text.unwrap_or_else(|| "the rig panicked".into()))
    })
}
