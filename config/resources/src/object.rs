//! One resource, as it was written.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidegate_core::{Origin, ResourceKey};

use crate::acme::AcmeCertificate;
use crate::grant::ReferenceGrant;
use crate::kubernetes::{Accepted, ConfigMap, EndpointSlice, Endpoints, Namespace, Pod, Secret, Service};
use crate::mesh::MeshConfig;
use crate::networking::{DestinationRule, Gateway, ServiceEntry, VirtualService, WorkloadEntry};
use crate::spans::Spans;

/// A resource that was decoded without an error. [`validate`](crate::validate) checks the rules beyond its schema.
#[derive(Clone, Debug)]
pub struct Object {
    pub key: ResourceKey,
    pub metadata: Metadata,
    /// As written, such as `networking.istio.io/v1`.
    pub api_version: Arc<str>,
    pub spec: Spec,
    /// Where the object begins: its first key.
    pub origin: Origin,
    /// Places of its fields, by path from the object's root.
    pub spans: Spans,
    /// The lines from `origin` to the object's end, so that line `n` of the file is line `n - origin.line` here.
    /// Empty for Secrets, and for objects longer than 256 KiB.
    pub source: Arc<str>,
}

impl Object {
    /// Where the field at `path` (as in `spec.http[0].match[1].uri`) was written; the nearest known ancestor's place
    /// if that is not known, the object's at last.
    pub fn origin_of(&self, path: &str) -> Origin {
        match self.spans.find(path) {
            Some(position) => self.origin.at(position),
            None => self.origin.clone(),
        }
    }
}

/// What `metadata` says beyond name and namespace, which are in the key.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Metadata {
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    /// RFC 3339, as written.
    pub creation_timestamp: Option<String>,
    pub generation: Option<i64>,
    pub resource_version: Option<String>,
}

impl Metadata {
    /// Creation time in seconds since 1970; none if there is no timestamp (files seldom have one), or none that can be
    /// read.
    pub fn created(&self) -> Option<i64> {
        self.creation_timestamp.as_deref().and_then(rfc3339_seconds)
    }
}

/// The content of an object, by kind.
#[derive(Clone, PartialEq, Debug)]
pub enum Spec {
    Gateway(Gateway),
    VirtualService(VirtualService),
    DestinationRule(DestinationRule),
    ServiceEntry(ServiceEntry),
    WorkloadEntry(WorkloadEntry),
    Service(Service),
    EndpointSlice(EndpointSlice),
    Endpoints(Endpoints),
    Pod(Box<Pod>),
    Namespace(Namespace),
    Secret(Secret),
    ConfigMap(ConfigMap),
    ReferenceGrant(ReferenceGrant),
    AcmeCertificate(AcmeCertificate),
    MeshConfig(Box<MeshConfig>),
}

crate::decode::message! {
    /// `metadata` in the file.
    pub(crate) struct ObjectMeta {
        pub name: String => "name",
        pub namespace: String => "namespace",
        pub labels: BTreeMap<String, String> => "labels",
        pub annotations: BTreeMap<String, String> => "annotations",
        pub creation_timestamp: Option<String> => "creationTimestamp",
        pub generation: Option<i64> => "generation",
        pub resource_version: Option<String> => "resourceVersion",
        pub generate_name: String => "generateName",
        pub uid: Accepted => "uid",
        pub self_link: Accepted => "selfLink",
        pub deletion_timestamp: Accepted => "deletionTimestamp",
        pub deletion_grace_period_seconds: Accepted => "deletionGracePeriodSeconds",
        pub owner_references: Accepted => "ownerReferences",
        pub finalizers: Accepted => "finalizers",
        pub managed_fields: Accepted => "managedFields",
        pub cluster_name: Accepted => "clusterName",
    }
}

/// Seconds since 1970 of `2006-01-02T15:04:05Z` or `2006-01-02T15:04:05.999+02:00`.
pub(crate) fn rfc3339_seconds(text: &str) -> Option<i64> {
    let number = |range: std::ops::Range<usize>| -> Option<i64> {
        let digits = text.get(range)?;
        digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?
    };
    let separator = |index: usize, any: &[u8]| text.as_bytes().get(index).filter(|byte| any.contains(byte));
    separator(4, b"-")?;
    separator(7, b"-")?;
    separator(10, b"Tt ")?;
    separator(13, b":")?;
    separator(16, b":")?;
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let mut zone = text.get(19..)?;
    if let Some(fraction) = zone.strip_prefix('.') {
        zone = fraction.trim_start_matches(|c: char| c.is_ascii_digit());
    }
    let offset = match zone.as_bytes() {
        [b'Z' | b'z'] => 0,
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] if [h1, h2, m1, m2].iter().all(|b| b.is_ascii_digit()) => {
            let two = |a: &u8, b: &u8| i64::from(a - b'0') * 10 + i64::from(b - b'0');
            let seconds = two(h1, h2) * 3600 + two(m1, m2) * 60;
            if *sign == b'-' { -seconds } else { seconds }
        }
        _ => return None,
    };
    // Days since 1970-01-01 of a civil date (proleptic Gregorian), counting years from March.
    let shifted_year = if month <= 2 { year - 1 } else { year };
    let era = shifted_year.div_euclid(400);
    let year_of_era = shifted_year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = era * 146_097 + day_of_era - 719_468;
    Some(days * 86_400 + hour * 3600 + minute * 60 + second - offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_become_seconds() {
        let check = |text: &str, expected: Option<i64>| assert_eq!(rfc3339_seconds(text), expected, "{text}");
        check("1970-01-01T00:00:00Z", Some(0));
        check("2000-02-29T12:00:00Z", Some(951_825_600));
        check("2024-01-01T02:00:00+02:00", Some(1_704_067_200));
        check("2024-01-01T00:00:00.123Z", Some(1_704_067_200));
        check("2024-13-01T00:00:00Z", None);
        check("2024-01-01", None);
        check("2024-01-01T00:00:00", None);
        check("garbage\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}", None);
        check("", None);
    }
}
