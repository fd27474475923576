//! Regular expressions in RE2's syntax, for the `regex` crate.
//!
//! The two syntaxes are nearly one. Where they differ, RE2 (as Go's `regexp/syntax` reads it, which is what Istio
//! checks with) decides: [`translate`] rewrites what the crate would read otherwise, and refuses what RE2 refuses.
//!
//! | RE2 | here |
//! |---|---|
//! | `\d` `\w` `\s` `\b` are ASCII | written out |
//! | `[`, `&&`, `--`, `~~` inside a class are plain characters | escaped |
//! | `{` that begins no repetition is a plain character | escaped |
//! | `\Q...\E` quotes | written out |
//! | `a**`, counts above 1000, lookaround, back references, `\C` are errors | errors |

use std::iter::Peekable;
use std::str::Chars;

/// Longest expression that Istio accepts.
pub const MAX_REGEX_BYTES: usize = 1024;

/// Largest compiled form in bytes. An expression of allowed length can ask for gigabytes, as `((a{900}){900}){900}`.
pub const MAX_COMPILED_BYTES: usize = 4 << 20;

/// Largest count of a repetition, RE2's.
const MAX_REPEAT: u64 = 1000;

/// Why an expression cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Re2Error {
    #[error("this regular expression has {0} bytes; at most {MAX_REGEX_BYTES} are allowed")]
    TooLong(usize),
    #[error("this regular expression is too large when compiled")]
    TooLarge,
    #[error("`{pattern}` is no regular expression: {why} (the syntax is RE2's)")]
    Syntax { pattern: String, why: String },
}

/// Rewrites an RE2 expression for the `regex` crate. The result has no anchors added: wrap it as `^(?:...)$` for a full
/// match. Compile it with [`MAX_COMPILED_BYTES`] as `size_limit`.
///
/// # Errors
/// What RE2 refuses, as far as the crate would not refuse it too; what the crate refuses shows when it is compiled.
pub fn translate(pattern: &str) -> Result<String, Re2Error> {
    if pattern.len() > MAX_REGEX_BYTES {
        return Err(Re2Error::TooLong(pattern.len()));
    }
    let translator = Translator {
        input: pattern.chars().peekable(),
        output: String::with_capacity(pattern.len() + 8),
        repeats: vec![1],
        last_repeats: 1,
    };
    translator.run().map_err(|why| syntax(pattern, why))
}

/// Whether an expression is RE2 and within the limits.
///
/// # Errors
/// Says why it is not.
pub(crate) fn check(pattern: &str) -> Result<(), Re2Error> {
    let translated = translate(pattern)?;
    match regex::RegexBuilder::new(&translated).size_limit(MAX_COMPILED_BYTES).build() {
        Ok(_) => Ok(()),
        Err(regex::Error::CompiledTooBig(_)) => Err(Re2Error::TooLarge),
        Err(error) => {
            // The crate draws the pattern and points at the place: its last line says what is wrong.
            let text = error.to_string();
            let why = text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
            Err(syntax(pattern, why))
        }
    }
}

fn syntax(pattern: &str, why: impl Into<String>) -> Re2Error {
    Re2Error::Syntax { pattern: crate::node::shorten(pattern).into_owned(), why: why.into() }
}

/// Names that may stand between `[:` and `:]`.
const POSIX_CLASSES: &[&str] = &[
    "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print", "punct", "space", "upper", "word",
    "xdigit",
];

struct Translator<'p> {
    input: Peekable<Chars<'p>>,
    output: String,
    /// For each open group and the whole: how often its content repeats something at most.
    repeats: Vec<u64>,
    /// How often what stands before the current place repeats something at most.
    last_repeats: u64,
}

/// What stands before the current place.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    /// Nothing that can be repeated.
    Start,
    Atom,
    Repetition,
}

impl Translator<'_> {
    fn run(mut self) -> Result<String, String> {
        let mut before = Before::Start;
        while let Some(c) = self.input.next() {
            before = match c {
                '\\' => self.escape(before)?,
                '[' => {
                    self.class()?;
                    Before::Atom
                }
                '(' => {
                    self.group()?;
                    self.repeats.push(1);
                    Before::Start
                }
                ')' => {
                    let inner = self.repeats.pop().filter(|_| !self.repeats.is_empty()).ok_or("a `)` has no `(`")?;
                    self.output.push(c);
                    self.note_repeats(inner);
                    Before::Atom
                }
                '|' => {
                    self.output.push(c);
                    Before::Start
                }
                '*' | '+' | '?' => {
                    self.repeat(before, &c.to_string())?;
                    Before::Repetition
                }
                '{' => match self.counts()? {
                    Some(counts) => {
                        self.repeat(before, &counts)?;
                        self.multiply(&counts)?;
                        Before::Repetition
                    }
                    None => {
                        self.output.push_str("\\{");
                        Before::Atom
                    }
                },
                '}' => {
                    self.output.push_str("\\}");
                    Before::Atom
                }
                _ => {
                    self.output.push(c);
                    Before::Atom
                }
            };
            if before == Before::Atom && c != ')' {
                self.last_repeats = 1;
            }
        }
        if self.repeats.len() > 1 { Err("a `(` has no `)`".into()) } else { Ok(self.output) }
    }

    /// A repetition, with the `?` that makes it lazy.
    fn repeat(&mut self, before: Before, operator: &str) -> Result<(), String> {
        match before {
            Before::Start => return Err(format!("there is nothing before `{operator}` to repeat")),
            Before::Repetition => return Err(format!("`{operator}` repeats a repetition")),
            Before::Atom => {}
        }
        self.output.push_str(operator);
        if self.input.next_if_eq(&'?').is_some() {
            self.output.push('?');
        }
        Ok(())
    }

    /// Notes that what stands before the current place repeats something so often.
    fn note_repeats(&mut self, repeats: u64) {
        self.last_repeats = repeats;
        if let Some(open) = self.repeats.last_mut() {
            *open = repeats.max(*open);
        }
    }

    /// Counts within counts multiply, and the product is limited as each count is.
    fn multiply(&mut self, counts: &str) -> Result<(), String> {
        let mut numbers = counts.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse::<u64>().ok());
        let repeats = self.last_repeats.saturating_mul(numbers.next_back().unwrap_or(1).max(1));
        if repeats > MAX_REPEAT {
            return Err(format!("`{counts}` repeats a repetition: {repeats} times are more than {MAX_REPEAT}"));
        }
        self.note_repeats(repeats);
        Ok(())
    }

    /// The rest of `{n}`, `{n,}` or `{n,m}`; nothing, and nothing is read, if it is none of these.
    fn counts(&mut self) -> Result<Option<String>, String> {
        let ahead: String = self.input.clone().take_while(|c| *c != '}').take(16).collect();
        let rest: Vec<&str> = ahead.splitn(2, ',').collect();
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let is_closed = self.input.clone().nth(ahead.chars().count()) == Some('}');
        let is_repetition =
            is_closed && is_number(rest[0]) && rest.get(1).is_none_or(|max| max.is_empty() || is_number(max));
        if !is_repetition {
            return Ok(None);
        }
        let counts = rest.iter().filter(|text| !text.is_empty()).map(|text| text.parse::<u64>().unwrap_or(u64::MAX));
        let counts: Vec<u64> = counts.collect();
        if counts.iter().any(|count| *count > MAX_REPEAT) || counts.get(1).is_some_and(|max| *max < counts[0]) {
            return Err(format!(
                "`{{{ahead}}}` is no repetition: counts go from 0 to {MAX_REPEAT}, the lower one first"
            ));
        }
        for _ in 0..=ahead.chars().count() {
            self.input.next();
        }
        Ok(Some(format!("{{{ahead}}}")))
    }

    /// After `(`: its kind.
    fn group(&mut self) -> Result<(), String> {
        self.output.push('(');
        if self.input.next_if_eq(&'?').is_none() {
            return Ok(());
        }
        let rest: String = self.input.clone().collect();
        let named = rest.strip_prefix("P<").or_else(|| rest.strip_prefix('<'));
        if let Some(named) = named.filter(|named| !named.starts_with(['=', '!'])) {
            let name = named.split('>').next().unwrap_or_default();
            if name.is_empty()
                || name.len() == named.len()
                || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
            {
                return Err("a group's name has letters, digits and `_`".into());
            }
            // Names are not used; the group keeps its number.
            let length = rest.len() - named.len() + name.len() + 1;
            self.input.by_ref().take(length).for_each(drop);
            return Ok(());
        }
        self.output.push('?');
        let flags: String = rest.chars().take_while(|c| !matches!(c, ':' | ')')).collect();
        if !flags.chars().all(|c| matches!(c, 'i' | 'm' | 's' | 'U' | '-')) {
            return Err(
                "a group begins with `(`, `(?:`, `(?P<name>` or flags such as `(?i)`; RE2 has no lookaround".into()
            );
        }
        // A flag may stand twice; the crate wants it once.
        let (on, off) = flags.split_once('-').map_or((&*flags, None), |(on, off)| (on, Some(off)));
        if off.is_some_and(|off| off.is_empty() || off.contains('-')) {
            return Err(format!("`(?{flags}` has no flag after its `-`"));
        }
        let once = |flags: &str| -> String {
            flags.char_indices().filter(|(at, c)| !flags[..*at].contains(*c)).map(|(_, c)| c).collect()
        };
        // What is switched off in the same group wins.
        let off = off.map(once);
        let on = once(on).replace(|c| off.as_ref().is_some_and(|off| off.contains(c)), "");
        self.output.push_str(&on);
        if let Some(off) = off {
            self.output.push('-');
            self.output.push_str(&off);
        }
        self.input.by_ref().take(flags.chars().count()).for_each(drop);
        if flags.is_empty() && self.input.peek() == Some(&')') {
            // `(?)` switches nothing.
            self.output.push(':');
        }
        // `(?i)` ends here, `(?i:` and `(?:` go on; the loop sees the `)` of the first as that of any group.
        if let Some(c) = self.input.next_if_eq(&':') {
            self.output.push(c);
        }
        Ok(())
    }

    /// After `\` outside a class.
    fn escape(&mut self, before: Before) -> Result<Before, String> {
        let c = self.input.next().ok_or("a `\\` stands alone at the end")?;
        match c {
            'd' => self.output.push_str("[0-9]"),
            'D' => self.output.push_str("[^0-9]"),
            'w' => self.output.push_str("[0-9A-Za-z_]"),
            'W' => self.output.push_str("[^0-9A-Za-z_]"),
            's' => self.output.push_str("[\\t\\n\\x0C\\r ]"),
            'S' => self.output.push_str("[^\\t\\n\\x0C\\r ]"),
            // The crate cannot match ASCII `\B` in texts; its own differs at letters beyond ASCII only.
            'b' => self.output.push_str("(?-u:\\b)"),
            'Q' => {
                let rest: String = self.input.clone().collect();
                let quoted = rest.split("\\E").next().unwrap_or_default();
                let has_end = quoted.len() < rest.len();
                let length = quoted.chars().count() + if has_end { 2 } else { 0 };
                self.input.by_ref().take(length).for_each(drop);
                self.output.push_str(&regex::escape(quoted));
                return Ok(if quoted.is_empty() { before } else { Before::Atom });
            }
            'C' => return Err("`\\C` (one byte) is not supported".into()),
            'A' | 'z' | 'B' => {
                self.output.push('\\');
                self.output.push(c);
            }
            _ => self.character(c)?,
        }
        Ok(Before::Atom)
    }

    /// After `\`: an escape that stands for a character or a Unicode class.
    fn character(&mut self, c: char) -> Result<(), String> {
        match c {
            'a' | 'f' | 't' | 'n' | 'r' | 'v' | 'x' | 'p' | 'P' => {
                let mut ahead = self.input.clone();
                let is_negated = ahead.next() == Some('{') && ahead.next() == Some('^');
                let c = match c {
                    // `\p{^Greek}` is `\P{Greek}`.
                    'p' if is_negated => 'P',
                    'P' if is_negated => 'p',
                    _ => c,
                };
                self.output.push('\\');
                self.output.push(c);
                if matches!(c, 'x' | 'p' | 'P') && self.input.next_if_eq(&'{').is_some() {
                    self.output.push('{');
                    if c != 'x' {
                        self.input.next_if_eq(&'^');
                        self.property()?;
                    }
                    for c in self.input.by_ref() {
                        self.output.push(c);
                        if c == '}' {
                            break;
                        }
                    }
                } else if c == 'x' && self.input.clone().take(2).filter(char::is_ascii_hexdigit).count() < 2 {
                    return Err("`\\x` needs two hexadecimal digits, or some in braces".into());
                }
            }
            // One digit that is not 0 would be a back reference.
            '1'..='9' if c > '7' || !self.input.peek().is_some_and(|next| next.is_digit(8)) => {
                return Err("RE2 has no back references".into());
            }
            '0'..='7' => {
                let mut value = c.to_digit(8).unwrap_or_default();
                for _ in 0..2 {
                    match self.input.next_if(|c| c.is_digit(8)).and_then(|c| c.to_digit(8)) {
                        Some(digit) => value = value * 8 + digit,
                        None => break,
                    }
                }
                self.output.push_str(&format!("\\x{{{value:X}}}"));
            }
            _ if c.is_ascii() && !c.is_ascii_alphanumeric() => self.output.push_str(&regex::escape(&c.to_string())),
            _ => return Err(format!("`\\{c}` means nothing")),
        }
        Ok(())
    }

    /// After `\p{`: RE2 knows categories and scripts by their names alone, the crate has more.
    fn property(&self) -> Result<(), String> {
        let name: String = self.input.clone().take_while(|c| *c != '}').take(64).collect();
        let is_known = |kind: &str| {
            let class = format!("\\p{{{kind}={name}}}");
            name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') && regex::Regex::new(&class).is_ok()
        };
        match is_known("gc") || is_known("sc") {
            true => Ok(()),
            false => Err(format!("`{name}` is no Unicode category or script")),
        }
    }

    /// After `[`, to the `]`.
    fn class(&mut self) -> Result<(), String> {
        const OPEN: &str = "a `[` has no `]`";
        self.output.push('[');
        if self.input.next_if_eq(&'^').is_some() {
            self.output.push('^');
        }
        let mut is_first = true;
        loop {
            let c = self.input.next().ok_or(OPEN)?;
            if c == ']' && !is_first {
                self.output.push(c);
                return Ok(());
            }
            is_first = false;
            let is_character = self.class_item(c)?;
            // A range, unless the `-` is the last character.
            let mut ahead = self.input.clone();
            if is_character && ahead.next() == Some('-') && !matches!(ahead.next(), None | Some(']')) {
                self.input.next();
                self.output.push('-');
                let end = self.input.next().ok_or(OPEN)?;
                if !self.class_item(end)? {
                    return Err("a range in a class ends with a character".into());
                }
            }
        }
    }

    /// One character or class within a class; tells whether it is a character.
    fn class_item(&mut self, c: char) -> Result<bool, String> {
        match c {
            '[' => {
                let rest: String = self.input.clone().take(16).collect();
                if let Some(name) = rest.strip_prefix(':').and_then(|rest| rest.split_once(":]")).map(|(name, _)| name)
                {
                    if !POSIX_CLASSES.contains(&name.trim_start_matches('^')) {
                        return Err(format!("`[:{name}:]` is no class"));
                    }
                    self.output.push_str(&format!("[:{name}:]"));
                    self.input.by_ref().take(name.chars().count() + 3).for_each(drop);
                    return Ok(false);
                }
                self.output.push_str("\\[");
            }
            '\\' => {
                let c = self.input.next().ok_or("a `\\` stands alone at the end")?;
                let class = match c {
                    'd' => "0-9",
                    'w' => "0-9A-Za-z_",
                    's' => "\\t\\n\\x0C\\r ",
                    'D' => "[^0-9]",
                    'W' => "[^0-9A-Za-z_]",
                    'S' => "[^\\t\\n\\x0C\\r ]",
                    _ => {
                        self.character(c)?;
                        return Ok(!matches!(c, 'p' | 'P'));
                    }
                };
                self.output.push_str(class);
                return Ok(false);
            }
            ']' | '&' | '~' | '-' | '^' => {
                self.output.push('\\');
                self.output.push(c);
            }
            _ => self.output.push(c),
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compile(pattern: &str) -> regex::Regex {
        regex::Regex::new(&format!("^(?:{})$", translate(pattern).unwrap())).unwrap()
    }

    #[test]
    fn re2_decides_where_the_syntaxes_differ() {
        let check = |pattern: &str, yes: &[&str], no: &[&str]| {
            let regex = compile(pattern);
            for text in yes {
                assert!(regex.is_match(text), "{pattern} should match {text}");
            }
            for text in no {
                assert!(!regex.is_match(text), "{pattern} should not match {text}");
            }
        };
        check(r"[[]", &["["], &["]"]);
        check(r"[^[]+", &["abc"], &["a["]);
        check(r"[]a]", &["]", "a"], &["b"]);
        check(r"[a&&b]", &["a", "&", "b"], &[]);
        check(r"[a-c-e]", &["b", "-", "e"], &["d"]);
        check(r"[-a]", &["-", "a"], &[]);
        check(r"[+--]", &["+", ",", "-"], &["."]);
        check(r"[\w.-]+", &["a.b-c_9"], &["\u{e9}"]);
        check(r"\d+", &["42"], &["\u{664}"]);
        check(r"[^\D]", &["4"], &["x"]);
        check(r"a{", &["a{"], &["a"]);
        check(r"a{,5}", &["a{,5}"], &["aa"]);
        check(r"{id}", &["{id}"], &[]);
        check(r"a{2,3}", &["aa", "aaa"], &["a"]);
        check(r"a{2}?b", &["aab"], &["ab"]);
        check(r"\Qa.b\E+", &["a.b", "a.bb"], &["axb"]);
        check(r"\Qa.b", &["a.b"], &["axb"]);
        check(r"a\Q\E*b", &["aab", "b"], &[]);
        check(r"(?P<x>a)(?<y>b)", &["ab"], &[]);
        check(r"(?i)AbC", &["abc"], &[]);
        check(r"(?i:A)b", &["ab"], &["aB"]);
        check(r"(?ii)a(?)b", &["AB"], &[]);
        check(r"(?is-i)a", &["a"], &["A"]);
        check(r"\_\/\<\-", &["_/<-"], &[]);
        check(r"\x41\x{42}\103", &["ABC"], &[]);
        check(r"[[:alpha:]]+", &["ab"], &["1"]);
        check(r"\pL+", &["\u{e9}"], &["1"]);
        check(r"\p{^L}[\P{^L}]", &["1a"], &["a1"]);
        check(r".*\bfoo\b.*", &["a foo b"], &["afoob"]);
        check(r"", &[""], &["a"]);
        check(r"a||b", &["a", "", "b"], &[]);
    }

    #[test]
    fn what_re2_refuses_is_refused() {
        for bad in [
            "*",
            "+a",
            "a**",
            "a*+",
            "a{2}{3}",
            "(",
            ")",
            "a)",
            "[",
            "[a",
            "[z-a]",
            "(?=a)",
            "(?<!a)",
            "(?!a)",
            r"(a)\1",
            r"\C",
            r"\y",
            "a{1001}",
            "a{3,2}",
            "(?x)a",
            r"a\",
            "(?P<>a)",
            "(?P<x",
            "(*)",
            "|*",
            "[a-\\d]",
            r"\p{Nope}",
            r"\p{Alphabetic}",
            r"\p{Script=Greek}",
            r"a\E",
            r"\x4\Qa",
            r"\Q\E*",
            "(?i-)a",
            "(a{100}){11}",
            "((a{10}){10}b){11}",
            "(a{1,32}){1,32}",
            "[[:nope:]]",
        ] {
            assert!(check(bad).is_err(), "{bad}");
        }
        assert!(matches!(check(&"a".repeat(1025)), Err(Re2Error::TooLong(1025))));
        assert!(check(&"a".repeat(1024)).is_ok());
        for good in ["(a{100}){10}", "(a{1000}|b)*c{1000}", "(a{1000})*", "(a{0}){1000}", r"\p{Greek}\p{Lu}\pN"] {
            assert!(check(good).is_ok(), "{good}");
        }
        assert!(matches!(check("((a{900}){900}){900}"), Err(Re2Error::Syntax { .. })));
        assert_eq!(check(r"((\pL{1000}\pL{1000}\pL{1000}){1})*"), Err(Re2Error::TooLarge));
    }
}
