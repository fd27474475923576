//! R9's tool: slowhttptest (Debian's package), in its four modes, and what its table says.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::process::Command;

use super::Rig;

/// A way to be slow.
#[derive(Clone, Copy)]
pub(super) struct Mode {
    pub(super) name: &'static str,
    flag: &'static str,
    path: &'static str,
    more: &'static [&'static str],
    /// Whether nobody may have a connection left when the time for a request head is over.
    is_cut: bool,
}

pub(super) const MODES: [Mode; 4] = [
    Mode { name: "slow_heads", flag: "-H", path: "/", more: &[], is_cut: true },
    Mode { name: "slow_bodies", flag: "-B", path: "/", more: &["-s", "1000000"], is_cut: false },
    Mode {
        name: "slow_reads",
        flag: "-X",
        path: "/64k",
        // Tiny windows, some bytes each five seconds, three answers to one request.
        more: &["-w", "512", "-y", "1024", "-n", "5", "-z", "32", "-k", "3"],
        is_cut: false,
    },
    Mode { name: "ranges", flag: "-R", path: "/", more: &["-t", "GET", "-a", "10", "-b", "3000"], is_cut: true },
];

/// From the last connection to the end of the last one that never ends its head: the 10 s that a head may take, 1 s of
/// tolerance, and what the table's seconds round away.
const CUT_WITHIN: u64 = 13;

/// What one mode came to.
pub(super) struct Outcome {
    pub(super) pass: bool,
    pub(super) told: Value,
}

/// Has `clients` connections made, a fifth each second, and holds them for a while. None if slowhttptest is not there.
/// `rest` is the proxy's memory without any of them, KiB.
pub(super) async fn attack(rig: &Rig, mode: Mode, clients: usize, rest: u64) -> Option<Outcome> {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("http://{}{}", rig.proxy.plain, mode.path);
    let (clients, rate) = (clients.to_string(), clients.div_ceil(5).to_string());
    let mut child = Command::new("slowhttptest")
        .args([
            mode.flag, "-c", &clients, "-r", &rate, "-i", "2", "-l", "30", "-p", "5", "-v", "1", "-g", "-o", "table",
        ])
        .args(mode.more)
        .args(["-u", &url])
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .ok()?;
    let mut most = rest;
    let ended = tokio::time::timeout(Duration::from_secs(90), async {
        loop {
            most = most.max(rig.proxy.memory());
            if child.try_wait().unwrap().is_some() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    })
    .await
    .is_ok();
    let table = Table::read(&folder.path().join("table.csv"));
    let grown = most.saturating_sub(rest);
    let is_cut = !mode.is_cut || table.rows.is_empty() || table.last_seconds() <= CUT_WITHIN;
    let told = json!({
        "connections": table.made(),
        "connected_at_most": table.most_connected(),
        "seconds_to_the_last_end": table.ended().then(|| table.last_seconds()),
        "served_beside": table.served(),
        "rss_grown_kib": grown,
    });
    let pass = ended && table.made() > 0 && is_cut && table.served() && grown <= super::clients::MEMORY;
    Some(Outcome { pass, told })
}

/// slowhttptest's report: second, closed, pending, connected, and whether a request beside was served.
struct Table {
    rows: Vec<[u64; 5]>,
}

impl Table {
    fn read(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let row = |line: &str| {
            let fields: Vec<u64> = line.split(',').filter_map(|field| field.trim().parse().ok()).collect();
            fields.try_into().ok()
        };
        Self { rows: text.lines().filter_map(row).collect() }
    }

    fn most_connected(&self) -> u64 {
        self.rows.iter().map(|row| row[3]).max().unwrap_or_default()
    }

    /// Connections that there were, as far as a look each second shows.
    fn made(&self) -> u64 {
        self.rows.iter().map(|row| row[1] + row[3]).max().unwrap_or_default()
    }

    fn served(&self) -> bool {
        self.rows.iter().all(|row| row[4] > 0)
    }

    /// Whether no connection was left before the test's own time was over.
    fn ended(&self) -> bool {
        self.rows.last().is_some_and(|row| row[0] < 29)
    }

    /// Seconds from the one with the last new connection to the last one of all.
    fn last_seconds(&self) -> u64 {
        let all = self.made();
        let full = self.rows.iter().find(|row| row[1] + row[3] == all).map_or(0, |row| row[0]);
        self.rows.last().map_or(0, |row| row[0]).saturating_sub(full)
    }
}
