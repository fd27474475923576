//! Rules of a VirtualService that no traffic can reach because of rules before them: warnings only.

use std::collections::{BTreeMap, HashMap};

use tidegate_core::{Code, Level};

use super::Report;
use crate::networking::{HttpMatchRequest, HttpRoute, StringMatch, VirtualService};

/// Rules are compared with each other only if there are not more than this: the time grows with the square.
const MAX_COMPARED: usize = 500;

pub(super) fn check(service: &VirtualService, report: &mut Report<'_>) {
    let http = service.http.iter().map(|route| {
        let entries = route
            .r#match
            .iter()
            .map(|entry| format!("{:?}", HttpMatchRequest { name: String::new(), ..entry.clone() }));
        (route.name.as_str(), entries.collect())
    });
    check_rules("spec.http", http.collect(), report);
    let tcp = service.tcp.iter().map(|route| ("", route.r#match.iter().map(|entry| format!("{entry:?}")).collect()));
    check_rules("spec.tcp", tcp.collect(), report);
    let tls = service.tls.iter().map(|route| ("", route.r#match.iter().map(|entry| format!("{entry:?}")).collect()));
    check_rules("spec.tls", tls.collect(), report);
    check_prefixes(&service.http, report);
}

/// Finds rules behind one without conditions, and conditions that stand twice. A rule is its name and its conditions.
fn check_rules(path: &str, rules: Vec<(&str, Vec<String>)>, report: &mut Report<'_>) {
    let mut seen: HashMap<&str, usize> = HashMap::new();
    let mut catch_all: Option<usize> = None;
    let name = |index: usize| match rules[index].0 {
        "" => format!("rule #{index}"),
        name => format!("rule \"{name}\""),
    };
    for (index, (_, entries)) in rules.iter().enumerate() {
        let path = format!("{path}[{index}]");
        if let Some(earlier) = catch_all {
            let message = format!("this rule is never reached: {} before it has no conditions", name(earlier));
            report.push(Code::UNREACHABLE_RULE, Level::Warning, &path, message, None);
            continue;
        }
        if entries.is_empty() {
            catch_all = Some(index);
            continue;
        }
        let mut duplicates = 0;
        for (entry, condition) in entries.iter().enumerate() {
            match seen.get(condition.as_str()) {
                None => {
                    seen.insert(condition, index);
                }
                Some(earlier) => {
                    duplicates += 1;
                    let message = format!("this condition has no effect: it stands already in {}", name(*earlier));
                    report.push(INEFFECTIVE_MATCH, Level::Warning, &format!("{path}.match[{entry}]"), message, None);
                }
            }
        }
        if duplicates == entries.len() {
            let message = "this rule is never reached: all its conditions stand in rules before it".to_owned();
            report.push(Code::UNREACHABLE_RULE, Level::Warning, &path, message, None);
        }
    }
}

/// Istio's `VirtualServiceIneffectiveMatch`.
const INEFFECTIVE_MATCH: Code = Code("IST0131");

/// A condition with a path prefix, reduced to what is compared.
struct PrefixMatch<'r> {
    rule: usize,
    entry: usize,
    prefix: &'r str,
    condition: &'r HttpMatchRequest,
}

/// Finds conditions whose prefix begins with the prefix of an earlier one that asks for no more.
fn check_prefixes(routes: &[HttpRoute], report: &mut Report<'_>) {
    let mut matches: Vec<PrefixMatch<'_>> = Vec::new();
    for (rule, route) in routes.iter().enumerate() {
        for (entry, condition) in route.r#match.iter().enumerate() {
            if let Some(StringMatch::Prefix(prefix)) = &condition.uri
                && !prefix.is_empty()
            {
                matches.push(PrefixMatch { rule, entry, prefix, condition });
            }
        }
    }
    if matches.len() > MAX_COMPARED {
        return;
    }
    for (index, later) in matches.iter().enumerate() {
        let earlier = matches[..index].iter().find(|earlier| earlier.prefix != later.prefix && covers(earlier, later));
        if let Some(earlier) = earlier {
            let path = format!("spec.http[{}].match[{}]", later.rule, later.entry);
            let message = format!(
                "this condition has no effect: its prefix `{}` begins with `{}` of http[{}].match[{}]",
                later.prefix, earlier.prefix, earlier.rule, earlier.entry
            );
            report.push(INEFFECTIVE_MATCH, Level::Warning, &path, message, None);
        }
    }
}

fn covers(earlier: &PrefixMatch<'_>, later: &PrefixMatch<'_>) -> bool {
    let (a, b) = (earlier.condition, later.condition);
    // Without a method Istio assumes GET here.
    let method = |condition: &HttpMatchRequest| match text(condition.method.as_ref()) {
        method if method.is_empty() => "exact:GET".to_owned(),
        method => method,
    };
    later.prefix.starts_with(earlier.prefix)
        && a.port == b.port
        && method(a).starts_with(&method(b))
        && text(a.authority.as_ref()).starts_with(&text(b.authority.as_ref()))
        && are_covered(&a.headers, &b.headers)
        && are_covered(&a.query_params, &b.query_params)
        && are_covered(&a.without_headers, &b.without_headers)
}

fn are_covered(a: &BTreeMap<String, StringMatch>, b: &BTreeMap<String, StringMatch>) -> bool {
    let covered = |(name, matcher): (&String, &StringMatch)| {
        b.get(name).is_some_and(|other| text(Some(matcher)).starts_with(&text(Some(other))))
    };
    a.len() == b.len() && a.iter().all(covered)
}

/// Exact texts and prefixes, told apart; empty for everything else.
fn text(matcher: Option<&StringMatch>) -> String {
    match matcher {
        Some(StringMatch::Exact(text)) if !text.is_empty() => format!("exact:{text}"),
        Some(StringMatch::Prefix(text)) if !text.is_empty() => format!("prefix:{text}"),
        _ => String::new(),
    }
}
