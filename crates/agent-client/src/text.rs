//! Text that came from the guest, made fit for a log line or an error message.

/// Longest text kept by [`sanitize`], in characters.
pub const MAX_TEXT: usize = 512;

/// Makes guest-made text safe to log: control characters and direction overrides become spaces,
/// and what is longer than [`MAX_TEXT`] characters is cut and marked with `...`.
///
/// The guest is not trusted: a newline could forge a log record, an escape sequence could drive the
/// operator's terminal.
pub fn sanitize(text: &str) -> String {
    let mut out: String = text.chars().take(MAX_TEXT).map(|c| if is_harmless(c) { c } else { ' ' }).collect();
    if text.chars().nth(MAX_TEXT).is_some() {
        out.push_str("...");
    }
    out.truncate(out.trim_end().len());
    out
}

/// [`sanitize`] for bytes that need not be UTF-8.
pub(crate) fn sanitize_bytes(bytes: &[u8]) -> String {
    // Four bytes a character at most: what lies beyond would be cut anyway.
    let kept = &bytes[..bytes.len().min(4 * MAX_TEXT + 4)];
    sanitize(&String::from_utf8_lossy(kept))
}

fn is_harmless(c: char) -> bool {
    let invisible = matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    !c.is_control() && !invisible
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn control_characters_become_spaces() {
        assert_eq!(sanitize("a\nb\x1b[31mc\u{202e}d"), "a b [31mc d");
    }

    #[test]
    fn long_text_is_cut_and_marked() {
        let cut = sanitize(&"x".repeat(MAX_TEXT + 1));
        assert_eq!(cut.len(), MAX_TEXT + 3);
        assert!(cut.ends_with("..."));
        assert_eq!(sanitize(&"x".repeat(MAX_TEXT)).len(), MAX_TEXT);
    }

    proptest! {
        #[test]
        fn nothing_harmful_survives(bytes in proptest::collection::vec(any::<u8>(), 0..4096)) {
            let text = sanitize_bytes(&bytes);
            prop_assert!(text.chars().all(is_harmless));
            prop_assert!(text.chars().count() <= MAX_TEXT + 3);
        }
    }
}
