//! Keeping keys out of what is said, wherever in a text they strayed to.

use tidegate_core::Diagnostic;
use zeroize::Zeroize;

use crate::document::Skipped;

/// Whether a text holds PEM, as it is or in base64.
pub(crate) fn is_pem(text: &str) -> bool {
    text.contains("-----BEGIN ") || text.trim_start().starts_with("LS0tLS1CRUdJTi")
}

/// What can be scrubbed of key material.
pub(crate) trait Scrub {
    fn scrub(&mut self);
}

impl Scrub for Diagnostic {
    fn scrub(&mut self) {
        scrub(&mut self.message);
        scrub(&mut self.path);
        self.help.iter_mut().for_each(scrub);
    }
}

impl Scrub for Skipped {
    /// Plain words stay: kinds such as SecretProviderClass are long.
    fn scrub(&mut self) {
        let is_word = |text: &str| text.len() <= 63 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        let are_words = |text: &str| text.split(['.', '/']).all(is_word);
        for text in [&mut self.kind, &mut self.api_version, &mut self.name] {
            if !are_words(text) {
                scrub(text);
            }
        }
    }
}

/// Takes what may be a part of a key out of a finding about a Secret: long runs of the characters that base64 has. The
/// last line of defence; a text that strayed into a name or a path is stopped here.
fn scrub(text: &mut String) {
    const SHORTEST: usize = 16;
    let is_symbol = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=');
    let mut result = String::new();
    let mut kept = 0;
    let mut start = None;
    for (at, c) in text.char_indices().chain([(text.len(), ' ')]) {
        match (is_symbol(c), start) {
            (true, None) => start = Some(at),
            (false, Some(begin)) => {
                if at - begin >= SHORTEST {
                    result.push_str(&text[kept..begin]);
                    result.push_str("[...]");
                    kept = at;
                }
                start = None;
            }
            _ => {}
        }
    }
    if kept > 0 {
        result.push_str(&text[kept..]);
        text.zeroize();
        *text = result;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_a_key_is_scrubbed() {
        let check = |text: &str, expected: &str| {
            let mut text = text.to_owned();
            scrub(&mut text);
            assert_eq!(text, expected);
        };
        check("", "");
        check("`tls.key` stands twice", "`tls.key` stands twice");
        check("a Q3J5cHRvZ3JhcGh5 b", "a [...] b");
        check("Q3J5cHRvZ3JhcGh5+/==", "[...]");
        check("é`Q3J5cHRvZ3JhcGh5SXN`é`0123456789abcdef`", "é`[...]`é`[...]`");
        check("kubernetes.io/tls", "kubernetes.io/tls");
    }
}
