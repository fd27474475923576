//! Keeping keys from the YAML parser.
//!
//! The parser's buffers grow while it reads a scalar, and what they leave behind in memory cannot be reached. So it is
//! given a text in which every long run of letters and digits, as base64 has them, is replaced by a token of the same
//! length; the scalars that it makes get their runs back. Syntax and places are those of the original, because a run
//! and its token are made of the same characters, none of which means anything in YAML.

use std::borrow::Cow;
use std::collections::HashMap;

use zeroize::Zeroizing;

/// Runs shorter than this are left: passwords may be shorter, lines of PEM are not.
const SHORTEST: usize = 24;
/// Longest escape in a double-quoted text, without its backslash.
const ESCAPE: usize = 9;
/// Begins a token; digits of its index and filling follow.
const PREFIX: &str = "TidegateMask";
const DIGITS: usize = 8;
const FILLING: char = 'x';

/// A text whose long runs are hidden.
pub(super) struct Masked<'t> {
    /// What the parser may see.
    pub(super) text: Zeroizing<String>,
    /// By the index in the tokens.
    runs: Vec<&'t str>,
}

impl<'t> Masked<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        let mut masked = Zeroizing::new(String::with_capacity(text.len()));
        let mut runs = Vec::new();
        // Equal runs have one token, so that aliases find their anchors.
        let mut indices: HashMap<&str, u32> = HashMap::new();
        let mut rest = text;
        while let Some(start) = rest.find(is_symbol) {
            let (before, from) = rest.split_at(start);
            masked.push_str(before);
            let length = from.find(|c| !is_symbol(c)).unwrap_or(from.len());
            let (run, after) = from.split_at(length);
            rest = after;
            let shown = match masked.as_bytes().last() {
                Some(b'\\') => ESCAPE.min(run.len()),
                // A tag that is changed is another one.
                Some(b'!') => run.len(),
                _ => 0,
            };
            let (shown, hidden) = run.split_at(shown);
            masked.push_str(shown);
            // A number stays one.
            let is_hidden = hidden.len() >= SHORTEST && hidden.bytes().any(|b| b.is_ascii_alphabetic());
            let next = u32::try_from(runs.len()).ok().filter(|index| *index < 10u32.pow(DIGITS as u32));
            match next {
                Some(next) if is_hidden => {
                    let index = *indices.entry(hidden).or_insert_with(|| {
                        runs.push(hidden);
                        next
                    });
                    push_token(&mut masked, index, hidden.len());
                }
                _ => masked.push_str(hidden),
            }
        }
        masked.push_str(rest);
        Self { text: masked, runs }
    }

    /// Gives a scalar its runs back.
    pub(super) fn restore<'s>(&self, scalar: &'s str) -> Cow<'s, str> {
        if self.runs.is_empty() || !scalar.contains(PREFIX) {
            return scalar.into();
        }
        // Nothing becomes longer, so that the buffer does not grow.
        let mut restored = String::with_capacity(scalar.len());
        let mut rest = scalar;
        while let Some(at) = rest.find(PREFIX) {
            let (before, from) = rest.split_at(at);
            restored.push_str(before);
            let length = match self.run_of(from) {
                Some(run) => {
                    restored.push_str(run);
                    run.len()
                }
                // It stood in the text.
                None => {
                    restored.push_str(PREFIX);
                    PREFIX.len()
                }
            };
            rest = &from[length..];
        }
        restored.push_str(rest);
        restored.into()
    }

    /// The run whose token a text begins with.
    fn run_of(&self, text: &str) -> Option<&'t str> {
        let digits = text.get(PREFIX.len()..PREFIX.len() + DIGITS)?;
        let index: u32 = digits.parse().ok()?;
        let run = self.runs.get(index as usize)?;
        let filling = text.get(PREFIX.len() + DIGITS..run.len())?;
        filling.chars().all(|c| c == FILLING).then_some(*run)
    }
}

fn is_symbol(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=')
}

fn push_token(text: &mut String, index: u32, length: usize) {
    use std::fmt::Write as _;
    // Writing into a String does not fail.
    let _ = write!(text, "{PREFIX}{index:0DIGITS$}");
    text.extend(std::iter::repeat_n(FILLING, length - PREFIX.len() - DIGITS));
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: &str = "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49";

    #[test]
    fn long_runs_are_hidden_and_come_back() {
        let check = |text: &str, hidden: usize| {
            let masked = Masked::new(text);
            assert_eq!(masked.runs.len(), hidden, "{}", *masked.text);
            assert_eq!(masked.text.len(), text.len());
            assert_eq!(masked.text.contains(RUN), hidden == 0 && text.contains(RUN));
            assert_eq!(masked.restore(&masked.text), text);
        };
        check("", 0);
        check("a: b", 0);
        check(RUN, 1);
        check(&format!("k: {RUN}==\n  {RUN}\né{RUN}"), 2);
        check(&format!("k: \"\\n{RUN}\\u00e9{RUN}\""), 2);
        check(&format!("a: &{RUN} x\nb: *{RUN}"), 1);
        check(&format!("!{RUN} a"), 0);
        check("123456789012345678901234567890", 0);
        check("TidegateMask", 0);
        check("TidegateMask00000000", 0);
        check("TidegateMask00000000xxxxxxxxxxxx", 1);
        check(&format!("{RUN} TidegateMask0000000 TidegateMask99999999 TidegateMask"), 1);
    }

    #[test]
    fn escapes_stay_what_they_are() {
        let masked =
            Masked::new("\"\\U0001f600AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\\\\nBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBB\"");
        assert!(masked.text.starts_with("\"\\U0001f600Tidegate"), "{}", *masked.text);
        assert!(masked.text.contains("\\\\nBBBBBBBBTidegate"), "{}", *masked.text);
    }
}
