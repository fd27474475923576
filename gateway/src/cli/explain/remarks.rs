//! What was found in the configuration that bears on one explanation.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::Value;
use tidegate_core::{Code, Diagnostic, Host, Level};
use tidegate_resources::{ResourceSet, Spec};

/// Findings that are worth showing beside an explanation: what was rejected and so is not in it, and what is wrong with
/// the objects that it names or with a VirtualService for its host.
pub(super) fn of_files<'a>(
    findings: &'a [Diagnostic],
    resources: &ResourceSet,
    explanation: &Value,
) -> Vec<&'a Diagnostic> {
    let objects = values_of("object", explanation);
    let origins = values_of("origin", explanation);
    let host = explanation["request"]["host"].as_str().unwrap_or_default();
    let is_for_host = |finding: &Diagnostic| {
        let object = finding.key.as_ref().and_then(|key| resources.get(key));
        matches!(object.map(|object| &object.spec), Some(Spec::VirtualService(service))
            if service.hosts.iter().any(|name| Host::new_unchecked(name).matches(host)))
    };
    findings
        .iter()
        .filter(|finding| finding.level >= Level::Warning && finding.code != Code::KIND_NOT_SERVED)
        .filter(|finding| {
            let is_rejection = finding.level == Level::Error
                && matches!(finding.code, Code::SYNTAX | Code::SCHEMA | Code::DUPLICATE | Code::ENVIRONMENT);
            let is_named = finding.key.as_ref().is_some_and(|key| objects.contains(&key.to_string()));
            is_rejection || (is_named && !is_of_another_server(finding, resources, &origins)) || is_for_host(finding)
        })
        .collect()
}

/// What is shown of `/config/status`.
#[derive(Debug, Deserialize)]
struct Status {
    #[serde(default)]
    serving_last_good: Option<String>,
    #[serde(default)]
    diagnostics: Vec<Finding>,
}

#[derive(Debug, Deserialize)]
struct Finding {
    code: String,
    level: String,
    #[serde(default)]
    key: Option<Key>,
    origin: Place,
    message: String,
    #[serde(default)]
    help: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Key {
    kind: String,
    namespace: String,
    name: String,
}

#[derive(Debug, Deserialize)]
struct Place {
    file: String,
    line: u32,
    column: u32,
}

/// The same of a running gateway's `/config/status`, as lines. A status that cannot be read is none: it only adds.
pub(super) fn of_status(status: &[u8], explanation: &Value) -> Vec<String> {
    let Ok(status) = serde_json::from_slice::<Status>(status) else { return Vec::new() };
    let objects = values_of("object", explanation);
    let mut lines: Vec<String> = status.serving_last_good.into_iter().collect();
    for finding in status.diagnostics {
        let object = match &finding.key {
            Some(key) if key.namespace.is_empty() => format!("{} {}", key.kind, key.name),
            Some(key) => format!("{} {}/{}", key.kind, key.namespace, key.name),
            None => String::new(),
        };
        if !objects.contains(&object) || finding.level == "Info" {
            continue;
        }
        let Place { file, line, column } = &finding.origin;
        let help = finding.help.map(|help| format!("; {help}")).unwrap_or_default();
        lines.push(format!(
            "{} [{}] ({object} {file}:{line}:{column}) {}{help}",
            finding.level, finding.code, finding.message
        ));
    }
    lines
}

/// Whether a finding is about a server of a Gateway that the explanation does not name: a Gateway may have thousands.
fn is_of_another_server(finding: &Diagnostic, resources: &ResourceSet, origins: &BTreeSet<String>) -> bool {
    let Some(object) = finding.key.as_ref().and_then(|key| resources.get(key)) else { return false };
    let server = finding.path.find(']').and_then(|end| finding.path.get(..=end));
    match server.filter(|path| path.starts_with("spec.servers[")) {
        Some(path) => !origins.contains(&object.origin_of(path).to_string()),
        None => false,
    }
}

/// Every value of a field, wherever it stands in an explanation: `object` and `origin` for what it names.
fn values_of(field: &str, explanation: &Value) -> BTreeSet<String> {
    fn collect(field: &str, value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Array(items) => items.iter().for_each(|item| collect(field, item, found)),
            Value::Object(fields) => {
                for (name, value) in fields {
                    match value {
                        Value::String(text) if name == field => {
                            found.insert(text.clone());
                        }
                        other => collect(field, other, found),
                    }
                }
            }
            _ => {}
        }
    }
    let mut found = BTreeSet::new();
    collect(field, explanation, &mut found);
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tidegate_core::{Kind, Origin, ResourceKey};

    use super::*;

    #[test]
    fn findings_about_other_objects_are_left_out_unless_they_were_rejected() {
        let finding = |name: &str, code| {
            Diagnostic::error(code, Origin::new("a.yaml", 1, 1), name).key(ResourceKey::local(
                Kind::VirtualService,
                "default",
                name,
            ))
        };
        let findings = [
            finding("used", Code::REFERENCE_NOT_FOUND),
            finding("other", Code::REFERENCE_NOT_FOUND),
            finding("rejected", Code::SCHEMA),
        ];
        let explanation = json!({"tried": [{"place": {"object": "VirtualService default/used"}}]});
        let shown = of_files(&findings, &ResourceSet::new(), &explanation);
        assert_eq!(shown.iter().map(|finding| finding.message.as_str()).collect::<Vec<_>>(), ["used", "rejected"]);
    }

    #[test]
    fn a_status_tells_what_is_served_in_an_earlier_form() {
        let explanation = json!({"tried": [{"place": {"object": "VirtualService default/used"}}]});
        let status = json!({
            "serving_last_good": "1 object stays in an earlier form",
            "diagnostics": [{
                "code": "IST0106", "level": "Error", "message": "unknown field `weigth`", "help": "did you mean `weight`?",
                "key": {"kind": "VirtualService", "cluster": "", "namespace": "default", "name": "used"},
                "origin": {"file": "a.yaml", "line": 3, "column": 5},
            }],
        });
        let lines = of_status(status.to_string().as_bytes(), &explanation);
        assert_eq!(
            lines,
            [
                "1 object stays in an earlier form",
                "Error [IST0106] (VirtualService default/used a.yaml:3:5) unknown field `weigth`; did you mean `weight`?",
            ]
        );
        assert!(of_status(b"nonsense", &explanation).is_empty());
    }
}
