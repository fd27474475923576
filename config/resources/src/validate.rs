//! Rules that one object must keep by itself, beyond its schema: those of Istio's admission webhook
//! (istio/istio `pkg/config/validation`) and of the CRDs' expressions. What Istio accepts is accepted here, its oddities
//! included; they are marked where they stand.

mod acme;
mod destination_rule;
mod gateway;
mod grant;
mod headers;
mod http_route;
mod kubernetes;
mod load_balancer;
mod mesh;
mod metadata;
pub(crate) mod names;
mod reachability;
mod service_entry;
mod tls;
mod virtual_service;

use std::collections::HashSet;

use tidegate_core::{Code, Diagnostic, Kind, Level};

use crate::duration::Duration;
use crate::object::{Object, Spec};
use crate::re2;
use crate::redact::Scrub as _;

/// More findings about one object than this are not listed.
const MAX_FINDINGS: usize = 100;

/// Checks an object as Istio's webhook does: errors (IST0106) are what it rejects, warnings what it lets pass with a
/// warning. Kubernetes' own kinds are checked as far as the API server would refuse them.
pub fn validate(object: &Object) -> Vec<Diagnostic> {
    let mut report = Report { object, found: Vec::new() };
    metadata::check(object, &mut report);
    match &object.spec {
        Spec::Gateway(gateway) => gateway::check(gateway, &mut report),
        Spec::VirtualService(service) => virtual_service::check(service, &mut report),
        Spec::DestinationRule(rule) => destination_rule::check(rule, &mut report),
        Spec::ServiceEntry(entry) => service_entry::check(entry, &mut report),
        Spec::WorkloadEntry(entry) => service_entry::check_workload(entry, &mut report),
        Spec::Service(service) => kubernetes::check_service(service, &mut report),
        Spec::EndpointSlice(slice) => kubernetes::check_endpoint_slice(slice, &mut report),
        Spec::Endpoints(endpoints) => kubernetes::check_endpoints(endpoints, &mut report),
        Spec::ReferenceGrant(grant) => grant::check(grant, &mut report),
        Spec::AcmeCertificate(certificate) => acme::check(certificate, &mut report),
        Spec::MeshConfig(mesh) => mesh::check(mesh, &mut report),
        Spec::Secret(secret) => kubernetes::check_secret(secret, &mut report),
        Spec::ConfigMap(map) => kubernetes::check_config_map(map, &mut report),
        Spec::Pod(_) | Spec::Namespace(_) => {}
    }
    report.found
}

/// Findings about one object.
struct Report<'o> {
    object: &'o Object,
    found: Vec<Diagnostic>,
}

impl Report<'_> {
    fn namespace(&self) -> &str {
        &self.object.key.namespace
    }

    fn error(&mut self, path: &str, message: impl Into<String>) {
        self.push(Code::SCHEMA, Level::Error, path, message.into(), None);
    }

    fn error_with_help(&mut self, path: &str, message: impl Into<String>, help: impl Into<String>) {
        self.push(Code::SCHEMA, Level::Error, path, message.into(), Some(help.into()));
    }

    fn warning(&mut self, path: &str, message: impl Into<String>) {
        self.push(Code::SCHEMA_WARNING, Level::Warning, path, message.into(), None);
    }

    fn deprecated(&mut self, path: &str, message: impl Into<String>) {
        self.push(Code::DEPRECATED, Level::Warning, path, message.into(), None);
    }

    fn push(&mut self, code: Code, level: Level, path: &str, message: String, help: Option<String>) {
        // An error must not be lost behind many warnings: it decides whether the object is taken.
        if self.found.len() >= MAX_FINDINGS && (level < Level::Error || self.has_errors()) {
            return;
        }
        let mut diagnostic =
            Diagnostic::new(code, level, self.object.origin_of(path), message).key(self.object.key.clone()).path(path);
        diagnostic.help = help;
        if self.object.key.kind == Kind::Secret {
            diagnostic.scrub();
        }
        self.found.push(diagnostic);
    }

    fn has_errors(&self) -> bool {
        self.found.iter().any(|found| found.level == Level::Error)
    }

    /// 1-65535.
    fn port(&mut self, path: &str, number: u32) {
        if !(1..=65_535).contains(&number) {
            self.error(path, format!("port {number} is not in the range 1-65535"));
        }
    }

    /// At least 1 ms, in whole milliseconds.
    fn duration(&mut self, path: &str, duration: Option<Duration>) {
        let Some(duration) = duration else { return };
        self.at_least_a_millisecond(path, duration);
        if duration.subsec_nanos() % 1_000_000 != 0 {
            self.error(path, format!("`{duration}` is not a whole number of milliseconds"));
        }
    }

    /// At least 1 ms.
    fn at_least_a_millisecond(&mut self, path: &str, duration: Duration) {
        if duration < Duration::from_millis(1) {
            self.error_with_help(
                path,
                format!("`{duration}` is shorter than 1ms"),
                "leave the field out if it should not apply",
            );
        }
    }

    /// 0-100.
    fn percent(&mut self, path: &str, value: f64) {
        if !(0.0..=100.0).contains(&value) {
            self.error(path, format!("{value} is not in the range 0-100"));
        }
    }

    fn not_negative(&mut self, path: &str, value: i32) {
        if value < 0 {
            self.error(path, format!("{value} is negative"));
        }
    }

    /// RE2, at most 1024 bytes.
    fn regex(&mut self, path: &str, pattern: &str) {
        if let Err(error) = re2::check(pattern) {
            self.error(path, error.to_string());
        }
    }

    /// Keys and values of labels, as Kubernetes has them.
    fn labels<'l>(&mut self, path: &str, labels: impl IntoIterator<Item = (&'l String, &'l String)>) {
        for (key, value) in labels {
            let path = || format!("{path}{}", names::step(key));
            if !names::is_label_key(key) {
                let help =
                    "a key is `name` or `domain.example/name`; a name has at most 63 letters, digits, `-`, `_` and `.`";
                self.error_with_help(&path(), format!("`{key}` is no key of a label"), help);
            }
            if !names::is_label_value(value) {
                let help = "a value has letters, digits, `-`, `_` and `.`, and begins and ends with a letter or digit";
                self.error_with_help(&path(), format!("`{value}` is no value of a label"), help);
            }
        }
    }

    /// `.`, `*`, namespaces; `~` in a ServiceEntry.
    fn export_to(&mut self, export_to: &[String], is_service_entry: bool, has_workload_selector: bool) {
        const PATH: &str = "spec.exportTo";
        let namespace = self.namespace().to_owned();
        let mut seen: HashSet<&str> = HashSet::new();
        for (index, entry) in export_to.iter().enumerate() {
            let path = format!("{PATH}[{index}]");
            let key = if entry == "." { namespace.as_str() } else { entry };
            if key != "*" && !names::is_dns_label(key) && !(key == "~" && is_service_entry) {
                self.error(&path, format!("`{entry}` is not `.`, `*` or a namespace"));
            } else if !seen.insert(key) {
                self.error(&path, format!("`{entry}` stands twice in exportTo (`.` is the namespace `{namespace}`)"));
            }
        }
        if has_workload_selector && !seen.is_empty() && (seen.len() > 1 || !seen.contains(namespace.as_str())) {
            self.error(PATH, "a DestinationRule with a workloadSelector can be exported to its own namespace only");
        }
        if export_to.len() > 1 && seen.contains("*") {
            self.error(PATH, "`*` and other namespaces exclude each other");
        }
        if export_to.len() > 1 && seen.contains("~") {
            self.error(PATH, "`~` (nobody) and somebody exclude each other");
        }
    }

    /// Labels of a selector; the CRD limits their length.
    fn selector<'l>(&mut self, path: &str, labels: impl IntoIterator<Item = (&'l String, &'l String)>) {
        let mut is_empty = true;
        for (key, value) in labels {
            is_empty = false;
            let path = format!("{path}{}", names::step(key));
            if key.is_empty() {
                self.error(&path, "a selector's key may not be empty");
            }
            if key.contains('*') || value.contains('*') {
                self.error(&path, "a selector has no wildcards");
            }
            if value.len() > 63 {
                self.error(&path, "the value of a label has at most 63 characters");
            }
        }
        if is_empty {
            self.warning(path, "a selector without labels selects every workload of the namespace");
        }
    }
}
