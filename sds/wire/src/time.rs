//! How times are written in status: RFC 3339, to the second.

use std::time::SystemTime;

use serde::{Serialize as _, Serializer};

pub(crate) fn moment<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_rfc3339_seconds(*time))
}

/// Null if there is none.
pub(crate) fn maybe<S: Serializer>(time: &Option<SystemTime>, serializer: S) -> Result<S::Ok, S::Error> {
    time.map(|time| humantime::format_rfc3339_seconds(time).to_string()).serialize(serializer)
}
