//! ReferenceGrant: what the CRD asks for.

use super::{Report, names};
use crate::grant::ReferenceGrant;

/// Entries of `from` and of `to`.
const MAX_ENTRIES: usize = 16;

pub(super) fn check(grant: &ReferenceGrant, report: &mut Report<'_>) {
    for (field, count) in [("from", grant.from.len()), ("to", grant.to.len())] {
        let path = format!("spec.{field}");
        if count == 0 {
            report.error(&path, format!("a ReferenceGrant needs at least one entry in `{field}`"));
        } else if count > MAX_ENTRIES {
            report.error(&path, format!("`{field}` has at most {MAX_ENTRIES} entries, and this has {count}"));
        }
    }
    for (index, from) in grant.from.iter().enumerate().take(MAX_ENTRIES) {
        let path = format!("spec.from[{index}]");
        check_group_and_kind(from.group.as_deref(), &from.kind, &path, report);
        match from.namespace.as_str() {
            "" => report.error(&path, "`namespace` is missing"),
            namespace if !names::is_label(namespace) => {
                report.error_with_help(
                    &format!("{path}.namespace"),
                    format!("`{namespace}` is no namespace"),
                    "a grant names each namespace: it has no wildcards",
                );
            }
            _ => {}
        }
    }
    for (index, to) in grant.to.iter().enumerate().take(MAX_ENTRIES) {
        let path = format!("spec.to[{index}]");
        check_group_and_kind(to.group.as_deref(), &to.kind, &path, report);
        if let Some(name) = &to.name
            && !names::is_subdomain(name)
        {
            report.error_with_help(
                &format!("{path}.name"),
                format!("`{name}` is no name for an object"),
                "leave `name` out to mean every object of the kind",
            );
        }
    }
}

fn check_group_and_kind(group: Option<&str>, kind: &str, path: &str, report: &mut Report<'_>) {
    match group {
        None => report.error_with_help(
            path,
            "`group` is missing",
            "write `group: \"\"` for Kubernetes' core group, which Secret and ConfigMap are of",
        ),
        Some(group) if !group.is_empty() && !names::is_subdomain(group) => {
            let message = format!("`{group}` is no API group");
            report.error_with_help(&format!("{path}.group"), message, "write the group without its version");
        }
        Some(_) => {}
    }
    let is_kind = |kind: &str| names::is_dns_label(kind) && kind.starts_with(|first: char| first.is_ascii_alphabetic());
    match kind {
        "" => report.error(path, "`kind` is missing"),
        kind if !is_kind(kind) => report.error(&format!("{path}.kind"), format!("`{kind}` is no kind")),
        _ => {}
    }
}
