//! Panics on purpose, for the rig that shows that a panic costs one request, or one reload, and nothing else.
//!
//! They exist in debug builds only, which nobody serves with: a release has no variable that could make it panic. A
//! Cargo feature was the alternative; it would be one more binary to build for one test, under the name of the other.

/// Panics if `TIDEGATE_INJECT_PANIC`, a list of `place=subject` with commas between, has this place and `is_subject` says
/// so of its subject. Does nothing, and asks nothing, in a release build.
///
/// The message holds the subject, as that of a real panic may hold what a client sent.
#[inline]
pub fn panic_point(place: &str, is_subject: impl FnOnce(&str) -> bool) {
    #[cfg(debug_assertions)]
    {
        static WANTED: std::sync::LazyLock<Vec<(String, String)>> = std::sync::LazyLock::new(|| {
            let variable = std::env::var("TIDEGATE_INJECT_PANIC").unwrap_or_default();
            let pairs = variable.split(',').filter_map(|pair| pair.split_once('='));
            pairs.map(|(place, subject)| (place.to_owned(), subject.to_owned())).collect()
        });
        if let Some((_, subject)) = WANTED.iter().find(|(wanted, _)| wanted == place)
            && is_subject(subject)
        {
            panic!("injected for {subject}");
        }
    }
    #[cfg(not(debug_assertions))]
    let _ = (place, is_subject);
}
