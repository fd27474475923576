//! Tables for people (Markdown) and for programs (JSON).

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::Options;
use crate::load::Figures;

pub(crate) struct Report {
    markdown: String,
    json: Vec<Value>,
    out: PathBuf,
    noisy: usize,
    rounds: usize,
}

fn command(program: &str, args: &[&str]) -> String {
    let output = std::process::Command::new(program).args(args).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}

impl Report {
    pub(crate) fn begin(options: &Options) -> Self {
        let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name\t: ")).unwrap_or("unknown CPU").to_owned();
        let machine = format!("{cpu}, {} cores, Linux {}", command("nproc", &[]), command("uname", &["-r"]));
        let revision = command("git", &["rev-parse", "--short=12", "HEAD"]);
        let date = command("date", &["-u", "+%Y-%m-%d %H:%M UTC"]);
        let markdown = format!(
            "# Tidegate beside its peers\n\n{date}, revision {revision}, {machine}. {} rounds of {} s, interleaved; medians. \
             Proxy on core 0 with one worker, load and backend on core 1.\n",
            options.rounds, options.seconds
        );
        let json = vec![json!({ "date": date, "revision": revision, "machine": machine, "rounds": options.rounds })];
        println!("{markdown}");
        Self { markdown, json, out: options.out.clone(), noisy: 0, rounds: 0 }
    }

    /// The table of one load; the first row is what ratios refer to, unless Envoy is among them.
    pub(crate) fn load(&mut self, name: &str, title: &str, rows: Vec<(&'static str, Vec<Figures>)>) {
        let medians: Vec<(&str, Figures, f64, f64, usize)> = rows
            .iter()
            .filter(|(_, figures)| !figures.is_empty())
            .map(|(proxy, figures)| {
                let (median, least, most) = middle(figures);
                (*proxy, median, least, most, figures.iter().filter(|figures| figures.noisy).count())
            })
            .collect();
        let envoy = medians.iter().find(|row| row.0 == "envoy").or(medians.first()).map(|row| row.1.cpu);
        let mut text = format!(
            "\n## {title}\n\n| proxy | CPU-s/100k | min–max | of Envoy's | per second | p50 ms | p99 ms | failed | noisy rounds |\n\
             |---|---|---|---|---|---|---|---|---|\n"
        );
        for (proxy, median, least, most, noisy) in &medians {
            let ratio = envoy.map_or(1.0, |envoy| median.cpu / envoy);
            let latency = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"));
            writeln!(
                text,
                "| {proxy} | {:.2} | {least:.2}–{most:.2} | {ratio:.2} | {:.0} | {} | {} | {} | {noisy} |",
                median.cpu,
                median.rate,
                latency(median.p50),
                latency(median.p99),
                median.failed,
            )
            .unwrap();
            self.noisy += noisy;
            self.json.push(json!({
                "case": name, "proxy": proxy, "cpu_s_per_100k": median.cpu, "min": least, "max": most,
                "of_envoy": ratio, "per_second": median.rate, "p50_ms": median.p50, "p99_ms": median.p99,
                "failed": median.failed, "noisy_rounds": noisy,
            }));
        }
        self.rounds += rows.iter().map(|(_, figures)| figures.len()).sum::<usize>();
        self.add(&text);
    }

    /// A table of another shape.
    pub(crate) fn table(&mut self, name: &str, title: &str, columns: &[&str], rows: &[Vec<String>]) {
        let mut text = format!("\n## {title}\n\n| {} |\n|{}\n", columns.join(" | "), "---|".repeat(columns.len()));
        for row in rows {
            writeln!(text, "| {} |", row.join(" | ")).unwrap();
            let fields: serde_json::Map<String, Value> =
                columns.iter().zip(row).map(|(column, value)| ((*column).to_owned(), json!(value))).collect();
            self.json.push(json!({ "case": name, "row": fields }));
        }
        self.add(&text);
    }

    fn add(&mut self, text: &str) {
        println!("{text}");
        self.markdown.push_str(text);
        self.save();
    }

    /// After every table, so that an interrupted run is not lost.
    fn save(&self) {
        fs::write(self.out.join("compare.md"), &self.markdown).unwrap();
        fs::write(self.out.join("compare.json"), serde_json::to_string_pretty(&self.json).unwrap()).unwrap();
    }

    pub(crate) fn finish(mut self) {
        let text = format!(
            "\n{} of {} measurements were noisy: others used more than a tenth of a core meanwhile.\n",
            self.noisy, self.rounds
        );
        self.add(&text);
        println!("written to {}", self.out.join("compare.{md,json}").display());
    }
}

/// Median by CPU, and the range of CPU.
pub(crate) fn middle(figures: &[Figures]) -> (Figures, f64, f64) {
    let mut sorted = figures.to_vec();
    sorted.sort_by(|a, b| a.cpu.total_cmp(&b.cpu));
    (sorted[sorted.len() / 2].clone(), sorted[0].cpu, sorted[sorted.len() - 1].cpu)
}
