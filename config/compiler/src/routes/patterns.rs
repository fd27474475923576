use ahash::AHashMap;
use tidegate_resources::re2;
use tidegate_snapshot::Pattern;

/// Compiled regular expressions by their text: equal ones are compiled once and share their memory, and those of the
/// last compilation are there for the next.
#[derive(Debug, Default)]
pub(crate) struct Patterns {
    known: AHashMap<String, Known>,
    generation: u64,
}

#[derive(Debug)]
struct Known {
    pattern: Result<Pattern, String>,
    last_used: u64,
}

impl Patterns {
    /// An expression in RE2's syntax for matches of the whole value.
    ///
    /// # Errors
    /// Why it cannot be used, for people.
    pub(super) fn full(&mut self, text: &str) -> Result<Pattern, String> {
        if let Some(known) = self.known.get_mut(text) {
            known.last_used = self.generation;
            return known.pattern.clone();
        }
        let expression = re2::translate(text).map_err(|error| error.to_string())?;
        let pattern = Pattern::full_translated(text, &expression).map_err(|error| error.to_string());
        self.known.insert(text.to_owned(), Known { pattern: pattern.clone(), last_used: self.generation });
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
        assert!(patterns.full("(a{1000}){1000}").is_err());
        patterns.end_generation();
        assert_eq!(patterns.known.len(), 2);
        assert!(patterns.full("a+").is_ok());
        patterns.end_generation();
        assert_eq!(patterns.known.keys().collect::<Vec<_>>(), ["a+"]);
        assert!(patterns.full(&"a".repeat(2000)).is_err());
        assert_eq!(patterns.known.len(), 1);
    }

    #[test]
    fn the_syntax_is_re2s() {
        let check = |pattern: &str, value: &str, expected: bool| {
            let compiled = Patterns::default().full(pattern).unwrap();
            assert_eq!((compiled.is_match(value.as_bytes()), compiled.source()), (expected, pattern));
        };
        check(r"\Qa.b\E+", "a.bb", true);
        check(r"\Qa.b\E", "axb", false);
        check("a{b", "a{b", true);
        check("[a&&b]", "&", true);
        for refused in ["a**", r"(?=x)", r"(a)\1", r"\C"] {
            assert!(Patterns::default().full(refused).is_err(), "{refused}");
        }
    }
}
