//! Labels and annotations.

use tidegate_core::Kind;

use super::{Report, names};
use crate::object::Object;

/// Annotations that Istio sets on objects of its own making and refuses from users.
const RESERVED: &[&str] =
    &["internal.istio.io/webhook-always-reject", "internal.istio.io/parents", "internal.istio.io/parent-namespace"];

pub(super) fn check(object: &Object, report: &mut Report<'_>) {
    for (key, value) in &object.metadata.labels {
        let path = || format!("metadata.labels{}", names::step(key));
        if !names::is_label_key(key) {
            report.error(&path(), format!("`{key}` is no key of a label"));
        }
        if !names::is_label_value(value) || value.len() > 63 {
            let value = crate::node::shorten(value);
            report.error(&path(), format!("`{value}` is no value of a label"));
        }
    }
    let is_istio = object.key.kind.group() == Kind::Gateway.group();
    for key in object.metadata.annotations.keys() {
        let path = || format!("metadata.annotations{}", names::step(key));
        if is_istio && RESERVED.contains(&key.as_str()) {
            report.error(&path(), format!("the annotation `{key}` is reserved for Istio's own objects"));
        }
        if is_istio && key == "istio.io/dry-run" {
            report.error(&path(), "the annotation `istio.io/dry-run` works on an AuthorizationPolicy only");
        }
    }
}
