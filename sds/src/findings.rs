//! What users are told of a secret.

use tidegate_core::{Code, Diagnostic, Host, Level, SecretName, SecretSource};

use crate::ledger::{Ledger, Reason, Refused};
use crate::offer::Offer;
use crate::problem::{Flaw, Part};
use crate::{Content, Secret, SourceKind, Timestamp};

/// Days before the end at which a certificate is told to expire, and is told again in stronger words.
const DAYS_WARNED: i64 = 30;
const DAYS_URGED: i64 = 7;

/// Hosts that one text tells.
const MAX_HOSTS_TOLD: usize = 4;

/// Everything wrong with one secret at a moment, most severe first.
pub(crate) fn of(
    name: &SecretName,
    ledger: &Ledger,
    current: Option<&Secret>,
    now: Timestamp,
    into: &mut Vec<Diagnostic>,
) {
    if let Some(refused) = &ledger.refused {
        into.push(refusal(name, ledger, refused, current));
    }
    let (Some(secret), Some(offer)) = (current, &ledger.serving) else { return };
    let flaws = secret.content.flaws(&ledger.hosts, now);
    for (text, flaw) in grouped(&flaws) {
        let message = match flaw {
            // Nothing was taken in spite of it.
            flaw if !flaw.blocks() => text,
            _ => format!("{text}; it serves all the same, as there is nothing better"),
        };
        let finding = at(name, offer, flaw.part(), Code::CERTIFICATE_FLAWED, Level::Warning, message);
        into.push(with_help(finding, flaw.help().map(str::to_owned)));
    }
    if let Some((days, end)) = days_left(name, offer, &secret.content, now) {
        let what = match secret.content {
            Content::Certificate(_) => "the certificate expires",
            _ => "the last of the authorities expires",
        };
        let urgency = if days <= DAYS_URGED { ": replace it now" } else { "" };
        let message = match days {
            0 => format!("{what} today, on {end}{urgency}"),
            1 => format!("{what} in 1 day, on {end}{urgency}"),
            days => format!("{what} in {days} days, on {end}{urgency}"),
        };
        into.push(at(name, offer, Part::Chain, Code::CERTIFICATE_EXPIRES, Level::Warning, message));
    }
    if ledger.orphaned {
        let level = if ledger.hosts.is_empty() { Level::Info } else { Level::Warning };
        let message = format!("its source no longer has it; {}", serves_on(secret));
        let help = "put it back, or take the references to it away: nothing renews it any more".to_owned();
        let finding = at(name, offer, Part::Whole, Code::SECRET_ORPHANED, level, message);
        into.push(with_help(finding, (level == Level::Warning).then_some(help)));
    }
    for waiting in &ledger.waiting {
        let message = format!("the name is also that of {}, which goes first", described(offer));
        into.push(at(name, waiting, Part::Whole, Code::SHADOWED, Level::Info, message));
    }
}

fn refusal(name: &SecretName, ledger: &Ledger, refused: &Refused, current: Option<&Secret>) -> Diagnostic {
    let reasons = refusal_texts(refused).join("; ");
    let help = match &refused.reason {
        Reason::Unusable(error) => error.help(),
        Reason::Worse(_, flaws) => flaws.first().and_then(Flaw::help).map(str::to_owned),
    };
    let (code, message) = match current {
        Some(secret) => (Code::SECRET_REFUSED, format!("{reasons}; refused, {}", serves_on(secret))),
        None if ledger.hosts.is_empty() => (Code::SCHEMA, format!("{reasons}; refused, nothing serves under its name")),
        None => {
            let hosts = told_hosts(ledger.hosts.iter());
            (Code::SCHEMA, format!("{reasons}; refused, handshakes for {hosts} fail until it is mended"))
        }
    };
    with_help(at(name, &refused.offer, refused.part(), code, Level::Error, message), help)
}

/// Why an offer was refused, each reason a sentence.
pub(crate) fn refusal_texts(refused: &Refused) -> Vec<String> {
    match &refused.reason {
        Reason::Unusable(error) => vec![error.to_string()],
        Reason::Worse(_, flaws) => texts(flaws),
    }
}

/// Flaws as sentences; the hosts that a certificate does not cover are one.
pub(crate) fn texts(flaws: &[Flaw]) -> Vec<String> {
    grouped(flaws).into_iter().map(|(text, _)| text).collect()
}

fn grouped(flaws: &[Flaw]) -> Vec<(String, &Flaw)> {
    let mut grouped = Vec::new();
    let mut hosts_told = false;
    for flaw in flaws {
        let Flaw::HostNotCovered { names, .. } = flaw else {
            grouped.push((flaw.to_string(), flaw));
            continue;
        };
        if !hosts_told {
            hosts_told = true;
            let hosts = told_hosts(flaws.iter().filter_map(|flaw| match flaw {
                Flaw::HostNotCovered { host, .. } => Some(host),
                _ => None,
            }));
            grouped.push((format!("the certificate is not for {hosts}; its names are {names}"), flaw));
        }
    }
    grouped
}

fn told_hosts<'a>(hosts: impl Iterator<Item = &'a Host>) -> String {
    let hosts: Vec<&str> = hosts.map(Host::as_str).collect();
    let told = hosts.iter().take(MAX_HOSTS_TOLD).copied().collect::<Vec<_>>().join(", ");
    match hosts.len().saturating_sub(MAX_HOSTS_TOLD) {
        0 => told,
        more => format!("{told} and {more} more"),
    }
}

fn serves_on(secret: &Secret) -> String {
    match secret.content.end() {
        Some(end) => format!("version {} (until {end}) serves on", secret.version),
        None => format!("version {} serves on", secret.version),
    }
}

/// Days until the end and the end, if it is time to tell.
fn days_left(name: &SecretName, offer: &Offer, content: &Content, now: Timestamp) -> Option<(i64, Timestamp)> {
    let (end, lifetime) = match content {
        Content::Certificate(material) => {
            let validity = material.facts().validity;
            (validity.not_after, validity.not_after.days_from(validity.not_before))
        }
        // Of several authorities the last one counts: that is what an overlap is for.
        Content::Trust(material) if name.source() != SecretSource::SystemRoots => (material.last_end()?, i64::MAX),
        Content::Trust(_) | Content::Crl(_) => return None,
    };
    let limit = match offer.source {
        // Our own issuer renews at two thirds of the lifetime, which may be days; later than that, something is wrong.
        SourceKind::Acme => DAYS_WARNED.min(lifetime / 4),
        _ => DAYS_WARNED,
    };
    let days = end.days_from(now);
    (now <= end && days <= limit).then_some((days, end))
}

fn described(offer: &Offer) -> String {
    match &offer.key {
        Some(key) => format!("{key} ({})", offer.source.as_str()),
        None => format!("{} ({})", offer.origin, offer.source.as_str()),
    }
}

fn at(name: &SecretName, offer: &Offer, part: Part, code: Code, level: Level, message: String) -> Diagnostic {
    let (path, origin) = offer.place(part);
    let finding = match &offer.key {
        Some(key) => Diagnostic::new(code, level, origin.clone(), message).key(key.clone()),
        None => Diagnostic::new(code, level, origin.clone(), format!("secret `{name}`: {message}")),
    };
    finding.path(path)
}

fn with_help(finding: Diagnostic, help: Option<String>) -> Diagnostic {
    match help {
        Some(help) => finding.help(help),
        None => finding,
    }
}
