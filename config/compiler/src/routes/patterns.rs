use ahash::AHashMap;
use tidegate_resources::re2;
use tidegate_snapshot::Pattern;

/// Most memory in bytes for the regular expressions of one Snapshot. One of them may be small text and large when
/// compiled, and there may be many.
const MAX_BYTES: usize = 512 << 20;

/// Compiled regular expressions by their text: equal ones are compiled once and share their memory, and those of the
/// last compilation are there for the next.
#[derive(Debug, Default)]
pub(crate) struct Patterns {
    known: AHashMap<(Purpose, String), Known>,
    generation: u64,
    /// Bytes of the expressions that this generation uses, rounded up.
    bytes: usize,
    /// Expressions that came since the generation began to be followed.
    added: usize,
    /// Whether the generation has an expression refused for want of memory.
    is_full: bool,
}

/// Most expressions that come while a generation is followed, before all are looked through for those that are not used
/// any more.
const MAX_ADDED: usize = 1000;

/// How an expression is used.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Purpose {
    /// It must match the whole value.
    Match,
    /// It is searched for anywhere in the value.
    Search,
}

#[derive(Debug)]
struct Known {
    pattern: Result<Pattern, String>,
    last_used: u64,
}

impl Patterns {
    /// An expression in RE2's syntax.
    ///
    /// # Errors
    /// Why it cannot be used, for people.
    pub(super) fn get(&mut self, purpose: Purpose, text: &str) -> Result<Pattern, String> {
        let key = (purpose, text.to_owned());
        if let Some(known) = self.known.get_mut(&key) {
            if known.last_used != self.generation {
                known.last_used = self.generation;
                charge(&mut self.bytes, &known.pattern).inspect_err(|_| self.is_full = true)?;
            }
            return known.pattern.clone();
        }
        // What is refused before it is compiled is not worth its place.
        let expression = re2::translate(text).map_err(|error| error.to_string())?;
        let pattern = match purpose {
            Purpose::Match => Pattern::full_translated(text, &expression),
            Purpose::Search => Pattern::search_translated(text, &expression),
        };
        let pattern = pattern.map_err(|error| error.to_string());
        charge(&mut self.bytes, &pattern).inspect_err(|_| self.is_full = true)?;
        self.added += 1;
        self.known.insert(key, Known { pattern: pattern.clone(), last_used: self.generation });
        pattern
    }

    /// Begins to count what is used.
    pub(crate) fn begin_generation(&mut self) {
        self.generation += 1;
        self.bytes = 0;
        self.is_full = false;
    }

    /// Forgets what was not asked for since the generation began. What is asked for from now on is counted on top of it.
    pub(crate) fn end_generation(&mut self) {
        self.known.retain(|_, known| known.last_used == self.generation);
        self.added = 0;
    }

    /// Whether a generation that is followed must end: what it refuses for want of memory may not be what the
    /// configuration alone has refused, or much may be kept that is not used.
    pub(crate) fn is_spent(&self) -> bool {
        self.is_full || self.added > MAX_ADDED
    }
}

/// Adds an expression to those in use, whether it was kept or is new: so what is refused depends on the configuration
/// alone.
fn charge(bytes: &mut usize, pattern: &Result<Pattern, String>) -> Result<(), String> {
    let more = bytes.saturating_add(pattern.as_ref().map_or(0, Pattern::max_bytes));
    if more > MAX_BYTES {
        return Err(format!(
            "the regular expressions of the whole configuration need more than {} MiB",
            MAX_BYTES >> 20
        ));
    }
    *bytes = more;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full(patterns: &mut Patterns, text: &str) -> Result<Pattern, String> {
        patterns.get(Purpose::Match, text)
    }

    #[test]
    fn expressions_are_kept_as_long_as_they_are_used() {
        let mut patterns = Patterns::default();
        assert!(full(&mut patterns, "a+").unwrap().is_match(b"aa"));
        assert!(full(&mut patterns, r"(\pL\pN\pL){1000}").is_err());
        patterns.end_generation();
        assert_eq!(patterns.known.len(), 2);
        patterns.begin_generation();
        assert!(full(&mut patterns, "a+").is_ok());
        patterns.end_generation();
        assert_eq!(patterns.known.len(), 1);
        assert!(full(&mut patterns, &"a".repeat(2000)).is_err());
        assert_eq!(patterns.known.len(), 1);
    }

    #[test]
    fn the_memory_of_all_expressions_together_is_bounded() {
        let mut patterns = Patterns::default();
        let large = |number: usize| format!(r"\pL{{40}}b{number}");
        let first = full(&mut patterns, &large(0)).unwrap();
        assert!(first.max_bytes() > 1 << 20, "{}", first.max_bytes());
        // Used again it costs nothing.
        for _ in 0..1000 {
            assert!(full(&mut patterns, &large(0)).is_ok());
        }
        patterns.bytes = MAX_BYTES - first.max_bytes();
        assert!(full(&mut patterns, &large(1)).is_ok());
        assert!(full(&mut patterns, &large(2)).unwrap_err().contains("512 MiB"));
        assert!(full(&mut patterns, &large(1)).is_ok());
        assert!(patterns.is_spent());
        patterns.end_generation();
        patterns.begin_generation();
        assert!(full(&mut patterns, &large(2)).is_ok() && !patterns.is_spent());
    }

    #[test]
    fn the_syntax_is_re2s() {
        let check = |pattern: &str, value: &str, expected: bool| {
            let compiled = full(&mut Patterns::default(), pattern).unwrap();
            assert_eq!((compiled.is_match(value.as_bytes()), compiled.source()), (expected, pattern));
        };
        check(r"\Qa.b\E+", "a.bb", true);
        check(r"\Qa.b\E", "axb", false);
        check("a{b", "a{b", true);
        check("[a&&b]", "&", true);
        for refused in ["a**", r"(?=x)", r"(a)\1", r"\C"] {
            assert!(full(&mut Patterns::default(), refused).is_err(), "{refused}");
        }
    }
}
