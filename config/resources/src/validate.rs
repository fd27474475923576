//! Rules that one object must keep by itself, beyond its schema: those of Istio's admission webhook and of its CRDs.

pub(crate) mod names;

use tidegate_core::Diagnostic;

use crate::object::Object;

/// Checks an object as Istio's webhook does: errors are what it rejects, warnings what it lets pass with a warning.
pub fn validate(_object: &Object) -> Vec<Diagnostic> {
    Vec::new()
}
