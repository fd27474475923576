//! `tidegate certs`: the certificates of a running gateway, how long they last and what is wrong with them.

use std::time::SystemTime;

use anyhow::Context;
use clap::Args;
use serde::Deserialize;
use serde_json::Value;

use super::Exit;
use super::admin_client::{self, AskError};
use super::arguments::OutputFormat;
use super::output::Console;
use crate::render::{Paint, Table, printable};

/// Hosts that one row names.
const HOSTS_SHOWN: usize = 2;
/// From here on a certificate is about to expire: its renewal should have happened.
const SOON_DAYS: i64 = 30;

const EXAMPLES: &str = "\
Examples:
  tidegate certs                                    every secret of the gateway that runs here
  tidegate certs webapp-credential                  one, by the end of its name
  tidegate certs -o json | jq '.[] | select(.standing != \"ok\")'
  tidegate certs >/dev/null || echo 'look at the certificates'

The first seven columns are those of `istioctl proxy-config secret`. Keys are never shown.

STATE is one of: ok; expires soon (30 days or less); flawed (it serves, and something is wrong with it); expired;
not yet valid; refused (something newer cannot be used, the last good serves); orphaned (its source no longer has it,
it serves on); missing (handshakes that need it fail). In JSON and YAML it is `standing`, with underscores (expires_soon),
beside `days_left`; `state` is the gateway's own word, which knows no dates.

Exit codes: 0 all serve and are valid, 79 something is missing, refused, expired or not yet valid, 1 no gateway answers
or no secret has that name, 64 wrong usage. Flaws, orphans and what expires soon do not count.";

/// Show the certificates of a running gateway: who they are for, how long they last, what is wrong.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct CertsArgs {
    /// Only secrets of this name: whole (kubernetes://default/web), or its end (default/web, web).
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Admin address of the running gateway.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:15000", env = "TIDEGATE_ADMIN_ADDRESS")]
    #[arg(hide_env_values = true)]
    admin: String,
    #[arg(long, short, value_enum, default_value_t)]
    output: OutputFormat,
}

pub(crate) fn run(args: &CertsArgs, console: Console) -> anyhow::Result<Exit> {
    let body = match admin_client::get(&args.admin, "/secrets", &[]) {
        Ok(body) => body,
        Err(error) => {
            match error {
                AskError::Unreachable { .. } => {
                    console.help("start one (`tidegate run`), or name its admin address with --admin");
                }
                AskError::Refused { status: 404, .. } | AskError::Broken { .. } => console.help(
                    "name the admin address with --admin; it is 127.0.0.1:15000 unless --admin-address says else",
                ),
                _ => {}
            }
            return Err(error.into());
        }
    };
    let mut answer: Answer = serde_json::from_slice(&body).context("the gateway's answer is no list of secrets")?;
    if let Some(wanted) = &args.name {
        answer.secrets.retain(|secret| is_called(secret["name"].as_str().unwrap_or_default(), wanted));
        if answer.secrets.is_empty() {
            console.error(&format!("no secret is called {}", printable(wanted)));
            console.help("`tidegate certs` without a name lists all");
            return Ok(Exit::Failure);
        }
    }
    let now = SystemTime::now();
    let secrets = answer.secrets.iter().map(Secret::deserialize).collect::<Result<Vec<_>, _>>();
    let secrets = secrets.context("the gateway's answer is no list of secrets")?;
    for (value, secret) in answer.secrets.iter_mut().zip(&secrets) {
        value["standing"] = secret.standing(now).as_str().replace(' ', "_").into();
        value["days_left"] = secret.certificates.first().map(|leaf| leaf.days_left(now)).into();
    }
    match args.output {
        OutputFormat::Json => console.print_json(&answer.secrets)?,
        OutputFormat::Yaml => console.print_yaml(&answer.secrets)?,
        OutputFormat::Table if secrets.is_empty() => console.remark("the gateway has no secrets, and asks for none"),
        OutputFormat::Table => console.print(&table(&secrets, now, console.paint()))?,
    }
    let bad = secrets.iter().any(|secret| secret.standing(now).is_bad());
    Ok(if bad { Exit::Findings } else { Exit::Success })
}

/// Whether `wanted` is `name`, or its end after a slash.
fn is_called(name: &str, wanted: &str) -> bool {
    name.strip_suffix(wanted).is_some_and(|rest| rest.is_empty() || rest.ends_with('/') || wanted.starts_with('/'))
}

#[derive(Deserialize)]
struct Answer {
    secrets: Vec<Value>,
}

/// What the table needs of `/secrets`.
#[derive(Deserialize)]
struct Secret {
    name: String,
    content: String,
    source: String,
    state: String,
    remarks: Vec<String>,
    hosts: Vec<String>,
    certificates: Vec<Certificate>,
}

#[derive(Deserialize)]
struct Certificate {
    serial_number: String,
    #[serde(deserialize_with = "time")]
    not_before: SystemTime,
    #[serde(deserialize_with = "time")]
    not_after: SystemTime,
}

fn time<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<SystemTime, D::Error> {
    let text = String::deserialize(deserializer)?;
    humantime::parse_rfc3339(&text).map_err(serde::de::Error::custom)
}

/// How a secret stands, by the worst of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Standing {
    Ok,
    ExpiresSoon,
    Flawed,
    Expired,
    NotYetValid,
    Refused,
    Orphaned,
    Missing,
}

impl Standing {
    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::ExpiresSoon => "expires soon",
            Self::Flawed => "flawed",
            Self::Expired => "expired",
            Self::NotYetValid => "not yet valid",
            Self::Refused => "refused",
            Self::Orphaned => "orphaned",
            Self::Missing => "missing",
        }
    }

    fn is_bad(self) -> bool {
        matches!(self, Self::Expired | Self::NotYetValid | Self::Refused | Self::Missing)
    }

    fn paint(self, paint: Paint) -> String {
        match self {
            Self::Ok => paint.good(self.as_str()),
            bad if bad.is_bad() => paint.error(self.as_str()),
            _ => paint.warning(self.as_str()),
        }
    }
}

impl Secret {
    fn standing(&self, now: SystemTime) -> Standing {
        let leaf = self.certificates.first();
        match self.state.as_str() {
            "WARMING" => Standing::Missing,
            // What is refused may matter less than that what serves has expired.
            _ if leaf.is_some_and(|leaf| leaf.not_after < now) => Standing::Expired,
            _ if leaf.is_some_and(|leaf| now < leaf.not_before) => Standing::NotYetValid,
            "REFUSED" => Standing::Refused,
            "ORPHANED" => Standing::Orphaned,
            _ if leaf.is_some_and(|leaf| leaf.days_left(now) <= SOON_DAYS) => Standing::ExpiresSoon,
            _ if !self.remarks.is_empty() => Standing::Flawed,
            _ => Standing::Ok,
        }
    }
}

impl Certificate {
    /// Whole days until it expires, or negative, since it has; 0 for less than a day either way.
    fn days_left(&self, now: SystemTime) -> i64 {
        const DAY: u64 = 86_400;
        let days = |seconds: u64| i64::try_from(seconds / DAY).unwrap_or(i64::MAX);
        match self.not_after.duration_since(now) {
            Ok(left) => days(left.as_secs()),
            Err(past) => -days(past.duration().as_secs()),
        }
    }
}

fn table(secrets: &[Secret], now: SystemTime, paint: Paint) -> String {
    let mut table = Table::default();
    let heads = [
        "RESOURCE NAME",
        "TYPE",
        "STATUS",
        "VALID CERT",
        "SERIAL NUMBER",
        "NOT AFTER",
        "NOT BEFORE",
        "SOURCE",
        "HOSTS",
        "DAYS LEFT",
        "STATE",
    ];
    table.row(heads.map(|head| paint.strong(head)));
    for secret in secrets {
        table.row(row(secret, now, paint));
    }
    table.render("")
}

fn row(secret: &Secret, now: SystemTime, paint: Paint) -> [String; 11] {
    // A gap in the middle of a row would shift what `awk` counts.
    let or_dash = |text: String| if text.is_empty() { "-".to_owned() } else { text };
    let standing = secret.standing(now);
    let leaf = secret.certificates.first();
    let seconds = |at: SystemTime| humantime::format_rfc3339_seconds(at.max(SystemTime::UNIX_EPOCH)).to_string();
    let mut hosts: Vec<_> = secret.hosts.iter().take(HOSTS_SHOWN).map(|host| printable(host)).collect();
    hosts.extend(secret.hosts.len().checked_sub(HOSTS_SHOWN).filter(|rest| *rest > 0).map(|rest| format!("+{rest}")));
    let state = match secret.remarks.as_slice() {
        [] => standing.paint(paint),
        remarks => format!("{}: {}", standing.paint(paint), printable(&remarks.join("; "))),
    };
    [
        printable(&secret.name),
        or_dash(secret.content.replace("Unknown", "")),
        if standing == Standing::Missing { "WARMING".into() } else { "ACTIVE".into() },
        or_dash(leaf.map(|leaf| (leaf.not_before <= now && now <= leaf.not_after).to_string()).unwrap_or_default()),
        or_dash(leaf.map(|leaf| printable(&leaf.serial_number)).unwrap_or_default()),
        or_dash(leaf.map(|leaf| seconds(leaf.not_after)).unwrap_or_default()),
        or_dash(leaf.map(|leaf| seconds(leaf.not_before)).unwrap_or_default()),
        or_dash(secret.source.clone()),
        or_dash(hosts.join(",")),
        or_dash(leaf.map(|leaf| leaf.days_left(now).to_string()).unwrap_or_default()),
        state,
    ]
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn day(days: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(days * 86_400)
    }

    fn secret(state: &str, remarks: &[&str], validity: Option<(u64, u64)>) -> Secret {
        let certificate = |(from, to): (u64, u64)| Certificate {
            serial_number: "1f".into(),
            not_before: day(from),
            not_after: day(to),
        };
        Secret {
            name: "kubernetes://default/web".into(),
            content: "Cert Chain".into(),
            source: "Kubernetes".into(),
            state: state.into(),
            remarks: remarks.iter().map(ToString::to_string).collect(),
            hosts: ["a.com", "b.com", "c.com"].map(str::to_owned).into(),
            certificates: validity.map(certificate).into_iter().collect(),
        }
    }

    #[test]
    fn names_are_found_by_their_end() {
        let check = |wanted: &str, expected: bool| assert_eq!(is_called("kubernetes://default/web", wanted), expected);
        check("kubernetes://default/web", true);
        check("default/web", true);
        check("web", true);
        check("eb", false);
        check("default", false);
    }

    #[test]
    fn the_worst_of_a_secret_is_its_standing() {
        let check = |state: &str, remarks: &[&str], validity, expected: Standing| {
            assert_eq!(
                secret(state, remarks, validity).standing(day(100)),
                expected,
                "{state} {remarks:?} {validity:?}"
            );
        };
        check("ACTIVE", &[], Some((90, 200)), Standing::Ok);
        check("ACTIVE", &["weak"], Some((90, 200)), Standing::Flawed);
        check("ACTIVE", &[], Some((90, 120)), Standing::ExpiresSoon);
        check("ACTIVE", &["expired"], Some((90, 99)), Standing::Expired);
        check("ACTIVE", &[], Some((101, 200)), Standing::NotYetValid);
        check("REFUSED", &["no key"], Some((90, 200)), Standing::Refused);
        check("ORPHANED", &["gone"], Some((90, 200)), Standing::Orphaned);
        check("WARMING", &["no source has it"], None, Standing::Missing);
    }

    #[test]
    fn days_left_are_whole_days_before_and_after_the_end() {
        let certificate = secret("ACTIVE", &[], Some((0, 10))).certificates.remove(0);
        let half = Duration::from_secs(43_200);
        for (now, days) in [(day(8) + half, 1), (day(9) + half, 0), (day(10) + half, 0), (day(11) + half, -1)] {
            assert_eq!(certificate.days_left(now), days, "{now:?}");
        }
    }

    #[test]
    fn rows_have_istioctls_columns_and_ours() {
        let secrets = [secret("ACTIVE", &[], Some((90, 200))), secret("WARMING", &["no source has it"], None)];
        let text = table(&secrets, day(100), Paint::new(false));
        let lines: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split("   ").map(str::trim).filter(|cell| !cell.is_empty()).collect())
            .collect();
        assert_eq!(lines[0].len(), 11);
        assert_eq!(
            lines[1],
            [
                "kubernetes://default/web",
                "Cert Chain",
                "ACTIVE",
                "true",
                "1f",
                "1970-07-20T00:00:00Z",
                "1970-04-01T00:00:00Z",
                "Kubernetes",
                "a.com,b.com,+1",
                "100",
                "ok"
            ]
        );
        assert_eq!(lines[2][2..4], ["WARMING", "-"]);
        assert_eq!(lines[2][10], "missing: no source has it");
    }
}
