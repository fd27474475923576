use ahash::AHashMap;
use tidegate_snapshot::{Pattern, PatternError};

/// Compiled regular expressions by their text: equal ones are compiled once and share their memory, and those of the
/// last compilation are there for the next.
#[derive(Debug, Default)]
pub(crate) struct Patterns {
    known: AHashMap<String, Known>,
    generation: u64,
}

#[derive(Debug)]
struct Known {
    pattern: Result<Pattern, PatternError>,
    last_used: u64,
}

impl Patterns {
    /// As [`Pattern::full`].
    pub(super) fn full(&mut self, text: &str) -> Result<Pattern, PatternError> {
        if let Some(known) = self.known.get_mut(text) {
            known.last_used = self.generation;
            return known.pattern.clone();
        }
        let pattern = Pattern::full(text);
        // What is refused for its length would be kept for nothing.
        if pattern != Err(PatternError::TooLong) {
            let known = Known { pattern: pattern.clone(), last_used: self.generation };
            self.known.insert(text.to_owned(), known);
        }
        pattern
    }

    /// Forgets what was not asked for since the last call.
    pub(crate) fn end_generation(&mut self) {
        self.known.retain(|_, known| known.last_used == self.generation);
        self.generation += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_kept_as_long_as_they_are_used() {
        let mut patterns = Patterns::default();
        assert!(patterns.full("a+").unwrap().is_match(b"aa"));
        assert!(patterns.full("(").is_err());
        patterns.end_generation();
        assert_eq!(patterns.known.len(), 2);
        assert!(patterns.full("a+").is_ok());
        patterns.end_generation();
        assert_eq!(patterns.known.keys().collect::<Vec<_>>(), ["a+"]);
        assert_eq!(patterns.full(&"a".repeat(2000)), Err(PatternError::TooLong));
        assert_eq!(patterns.known.len(), 1);
    }
}
