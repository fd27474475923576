//! When to renew and when to try again: pure functions.

use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};

use crate::leaf::Validity;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);

/// First pause after a failure; each further one is [`BACK_OFF_FACTOR`] times as long, up to [`BACK_OFF_MAX`]. With
/// these an hour sees four attempts, below the five failed validations per name and hour that Let's Encrypt allows.
const BACK_OFF_FIRST: Duration = MINUTE;
const BACK_OFF_FACTOR: u32 = 4;
const BACK_OFF_MAX: Duration = HOUR;
/// An authority may send us away for a week (Let's Encrypt's longest limit), not for ever.
const RETRY_AFTER_MAX: Duration = HOUR.saturating_mul(24 * 7);
/// How often the authority's own wish for renewal is asked for (RFC 9773 section 4.3.2).
const RENEWAL_INFO_MIN: Duration = HOUR;
const RENEWAL_INFO_MAX: Duration = HOUR.saturating_mul(24);

/// A number in `[0, 1)` that is always the same for a name and a purpose, and spread over names.
pub(crate) fn fraction(name: &str, purpose: &str) -> f64 {
    let digest = Sha256::new().chain_update(purpose).chain_update([0]).chain_update(name).finalize();
    let mut first = [0; 4];
    first.copy_from_slice(&digest[..4]);
    f64::from(u32::from_be_bytes(first)) / (f64::from(u32::MAX) + 1.0)
}

/// Start of the authority's suggested window, and its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Window {
    pub(crate) start: SystemTime,
    pub(crate) end: SystemTime,
}

/// When a certificate is to be renewed: at two thirds of its lifetime, spread over a fifteenth of it so that
/// certificates of one day do not return on one day; or `renew_before` its end, but never in the first sixth of its
/// life, which would renew for ever; or when the authority suggests it (RFC 9773), but never later than five sixths.
pub(crate) fn renew_at(
    validity: Validity,
    renew_before: Option<Duration>,
    suggested: Option<Window>,
    name: &str,
) -> SystemTime {
    let lifetime = validity.lifetime();
    let own = match renew_before {
        Some(before) => validity.not_after - before.min(longest_renew_before(validity)),
        None => {
            let spread = (fraction(name, "renewal") - 0.5) / 15.0;
            validity.not_before + lifetime.mul_f64(2.0 / 3.0 + spread)
        }
    };
    match suggested {
        None => own,
        Some(window) => {
            let width = window.end.duration_since(window.start).unwrap_or_default();
            let picked = window.start + width.mul_f64(fraction(name, "suggested"));
            let latest = if renew_before.is_some() { own } else { validity.not_before + lifetime.mul_f64(5.0 / 6.0) };
            picked.min(latest)
        }
    }
}

/// The longest `renew_before` that a certificate can have: five sixths of its lifetime.
pub(crate) fn longest_renew_before(validity: Validity) -> Duration {
    validity.lifetime().mul_f64(5.0 / 6.0)
}

/// The pause after the `failures`th failure in a row: exponential, spread by a fifth either way, and at least what the
/// authority asked for with `Retry-After`.
pub(crate) fn back_off(name: &str, failures: u32, retry_after: Option<Duration>) -> Duration {
    let exponent = failures.saturating_sub(1).min(8);
    let pause = BACK_OFF_FIRST.saturating_mul(BACK_OFF_FACTOR.saturating_pow(exponent)).min(BACK_OFF_MAX);
    let spread = 0.8 + 0.4 * fraction(name, &format!("failure {failures}"));
    pause.mul_f64(spread).max(retry_after.unwrap_or_default().min(RETRY_AFTER_MAX))
}

/// When to ask for the suggested window again, given what the authority said of it.
pub(crate) fn renewal_info_again(retry_after: Duration) -> Duration {
    retry_after.clamp(RENEWAL_INFO_MIN, RENEWAL_INFO_MAX)
}

/// Over which time the first questions after a start are spread.
pub(crate) const RENEWAL_INFO_SPREAD: Duration = MINUTE.saturating_mul(10);

/// After an answer that was none.
pub(crate) const RENEWAL_INFO_FAILED: Duration = HOUR.saturating_mul(6);

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = HOUR.saturating_mul(24);

    fn at(days: u32) -> SystemTime {
        SystemTime::UNIX_EPOCH + DAY * days
    }

    fn ninety_days() -> Validity {
        Validity { not_before: at(1000), not_after: at(1090) }
    }

    #[test]
    fn renewal_is_around_two_thirds_and_differs_between_names() {
        let times: Vec<_> =
            (0..100).map(|n| renew_at(ninety_days(), None, None, &format!("kubernetes://a/{n}"))).collect();
        assert!(times.iter().all(|time| (at(1057)..=at(1063)).contains(time)), "{times:?}");
        let days: std::collections::BTreeSet<_> =
            times.iter().map(|time| time.duration_since(at(1000)).unwrap().as_secs() / 86400).collect();
        assert!(days.len() >= 5, "{days:?}");
        assert_eq!(times[7], renew_at(ninety_days(), None, None, "kubernetes://a/7"));
    }

    #[test]
    fn an_override_holds_unless_it_would_renew_for_ever() {
        assert_eq!(renew_at(ninety_days(), Some(DAY * 20), None, "a"), at(1070));
        assert_eq!(renew_at(ninety_days(), Some(DAY * 500), None, "a"), at(1015));
    }

    #[test]
    fn the_authority_may_ask_for_an_earlier_renewal_and_for_a_later_one_within_bounds() {
        let window = |start, end| Some(Window { start: at(start), end: at(end) });
        assert!(renew_at(ninety_days(), None, window(1010, 1011), "a") < at(1011));
        let later = renew_at(ninety_days(), None, window(1070, 1074), "a");
        assert!((at(1070)..at(1074)).contains(&later));
        assert_eq!(renew_at(ninety_days(), None, window(1200, 1300), "a"), at(1075));
        assert_eq!(renew_at(ninety_days(), Some(DAY * 30), window(1070, 1074), "a"), at(1060));
        assert_eq!(renew_at(ninety_days(), None, window(1012, 1010), "a"), at(1012));
    }

    #[test]
    fn pauses_grow_to_an_hour_and_honour_the_authority() {
        let minutes = |failures| back_off("a", failures, None).as_secs_f64() / 60.0;
        assert!((0.8..1.2).contains(&minutes(1)));
        assert!((3.2..4.8).contains(&minutes(2)));
        assert!((12.8..19.2).contains(&minutes(3)));
        assert!((48.0..72.0).contains(&minutes(4)));
        assert!((48.0..72.0).contains(&minutes(u32::MAX)));
        assert_eq!(back_off("a", 1, Some(DAY)), DAY);
        assert_eq!(back_off("a", 1, Some(DAY * 400)), DAY * 7);
    }

    #[test]
    fn the_authority_is_asked_at_most_hourly_and_at_least_daily() {
        assert_eq!(renewal_info_again(Duration::ZERO), HOUR);
        assert_eq!(renewal_info_again(HOUR * 6), HOUR * 6);
        assert_eq!(renewal_info_again(DAY * 30), DAY);
    }
}
