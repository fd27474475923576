//! One command per fault: `rel NAME [--quick] [--sut tidegate|envoy|haproxy|nginx] [--n N] [--records FILE]`.
//!
//! Prints one line of JSON, `{name, sut, n, failed, p99_ms, p99_idle_ms, rss_kib, pass, ...}`, and ends with 1 if the
//! target was missed. A probe sends requests in an open loop and keeps one record of each (`--records` writes them, one
//! line of JSON for each request); it retries nothing. `--quick`
//! takes seconds and runs in CI; the long form has the numbers of the targets. `rel list` names the faults, `rel all`
//! runs every one of them.
#![expect(clippy::unwrap_used, reason = "a rig fails by panicking")]
#![expect(clippy::print_stdout, reason = "the line of JSON is the output")]

mod faults;
mod outcome;
mod probe;

use std::path::PathBuf;
use std::process::ExitCode;

use tidegate_tests::sut::Kind;

use self::faults::FAULTS;
use self::outcome::Verdict;

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
}

fn main() -> ExitCode {
    let mut names = Vec::new();
    let mut run = Run { sut: Kind::Tidegate, quick: false, number: None };
    let mut records: Option<PathBuf> = None;
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().unwrap_or_else(|| panic!("{arg} needs a value"));
        match arg.as_str() {
            "--quick" => run.quick = true,
            "--sut" => run.sut = Kind::parse(&value()).expect("tidegate, envoy, haproxy or nginx"),
            "--n" => run.number = Some(value().parse().expect("a number")),
            "--records" => records = Some(value().into()),
            "list" => {
                for fault in FAULTS {
                    println!("{:10} {} {}", fault.name, fault.id, fault.title);
                }
                return ExitCode::SUCCESS;
            }
            "all" => names.extend(FAULTS.iter().map(|fault| fault.name.to_owned())),
            name => names.push(name.to_owned()),
        }
    }
    if names.is_empty() {
        eprintln!(
            "usage: rel NAME... [--quick] [--sut tidegate|envoy|haproxy|nginx] [--n N] [--records FILE]; `rel list` names the faults"
        );
        return ExitCode::from(64);
    }
    tidegate_tests::tls::provider();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut passed = true;
    for name in names {
        let Some(fault) = FAULTS.iter().find(|fault| fault.name == name) else {
            eprintln!("there is no fault {name}; `rel list` names them");
            return ExitCode::from(64);
        };
        if !fault.suts.contains(&run.sut) {
            eprintln!("{name} does not apply to {}", run.sut.name());
            continue;
        }
        let verdict: Verdict = runtime.block_on((fault.run)(run));
        passed &= verdict.pass;
        if let Some(file) = &records {
            std::fs::write(file, verdict.records.lines()).unwrap();
        }
        println!("{}", verdict.json(fault, run.sut));
    }
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
