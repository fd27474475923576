use std::fmt::Write;
use std::time::SystemTime;

use chrono::format::{Item, StrftimeItems};
use chrono::{DateTime, Utc};

/// How `%START_TIME(..)%` writes a moment: strftime's conversions, with Envoy's `%f` (nanoseconds, nine digits), `%3f` and
/// `%6f` for parts of a second and `%s` for seconds since 1970; always in UTC.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TimeFormat {
    items: Vec<Item<'static>>,
}

impl TimeFormat {
    /// None for a conversion that does not exist.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let items = StrftimeItems::new(text).parse_to_owned().ok()?;
        let format = Self { items };
        // Some conversions are for reading only.
        let mut sample = String::new();
        format.append(SystemTime::UNIX_EPOCH, &mut sample).then_some(format)
    }

    /// Appends `time`; false, with nothing appended, if it cannot be written.
    pub fn append(&self, time: SystemTime, out: &mut String) -> bool {
        let start = out.len();
        let written = write!(out, "{}", DateTime::<Utc>::from(time).format_with_items(self.items.iter())).is_ok();
        if !written {
            out.truncate(start);
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn moments_are_written_as_strftime_writes_them() {
        let time = SystemTime::UNIX_EPOCH + Duration::new(1_766_400_306, 26_490_000);
        let check = |format: &str, expected: &str| {
            let mut out = String::from("at ");
            assert!(TimeFormat::parse(format).unwrap().append(time, &mut out));
            assert_eq!(out, format!("at {expected}"), "{format}");
        };
        check("%Y/%m/%dT%H:%M:%S%z", "2025/12/22T10:45:06+0000");
        check("%s.%3f", "1766400306.026");
        check("%f", "026490000");
        check("%b %e %T UTC", "Dec 22 10:45:06 UTC");
        for bad in ["%Q", "%", "%#z"] {
            assert_eq!(TimeFormat::parse(bad), None, "{bad}");
        }
    }
}
