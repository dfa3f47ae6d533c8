//! Keeps one event one line, whatever text others have put into it.
//!
//! A line feed in a handler's message would begin a line that looks like the node's own, and so
//! would the separators of Unicode in programs that break lines there; characters that change the
//! direction of text, or have no width, would show what is not written.

use std::borrow::Cow;

/// How lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Escape {
    /// Lines are JSON: what is escaped stays JSON. It can only stand in strings.
    pub(super) json: bool,
    /// The node's own colours are in it. The library has escaped those of others.
    pub(super) ansi: bool,
}

/// Whether a character could end a line, change how it is shown, or hide in it.
pub(crate) fn is_misleading(c: char) -> bool {
    matches!(c,
        '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}'
        | '\u{feff}')
        || (c.is_control() && c != '\t')
}

impl Escape {
    /// An event as it is written: one line.
    pub(super) fn line(self, event: &[u8]) -> Cow<'_, [u8]> {
        let text = event.strip_suffix(b"\n").unwrap_or(event);
        let is_plain = |byte: &u8| matches!(byte, b' '..=b'~' | b'\t');
        if text.iter().all(is_plain) {
            return Cow::Borrowed(event);
        }
        let text = String::from_utf8_lossy(text);
        let is_escaped = |c: char| is_misleading(c) && !(self.ansi && c == '\u{1b}');
        if !text.contains(is_escaped) {
            return Cow::Borrowed(event);
        }
        let mut line = String::with_capacity(event.len() + 32);
        for c in text.chars() {
            if !is_escaped(c) {
                line.push(c);
            } else if self.json {
                line.push_str(&format!("\\u{:04x}", u32::from(c)));
            } else {
                line.extend(c.escape_default());
            }
        }
        line.push('\n');
        Cow::Owned(line.into_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn escaped(json: bool, ansi: bool, event: &str) -> String {
        let line = Escape { json, ansi }.line(event.as_bytes());
        String::from_utf8(line.into_owned()).unwrap()
    }

    #[test]
    fn an_event_is_one_line_whatever_is_in_it() {
        for (event, expected) in [
            ("plain\tand short\n", "plain\tand short\n"),
            ("größer als 🦀\n", "größer als 🦀\n"),
            (
                "said\n2026-01-01T00:00:00Z ERROR forged\n",
                "said\\n2026-01-01T00:00:00Z ERROR forged\n",
            ),
            ("a\r\nb\u{b}\u{85}c\n", "a\\r\\nb\\u{b}\\u{85}c\n"),
            ("a\u{2028}b\u{2029}c\n", "a\\u{2028}b\\u{2029}c\n"),
            ("\u{202e}esrever\u{2066}\n", "\\u{202e}esrever\\u{2066}\n"),
            ("\u{1b}[2Kgone\u{7f}\n", "\\u{1b}[2Kgone\\u{7f}\n"),
        ] {
            assert_eq!(escaped(false, false, event), expected, "{event:?}");
        }
        let coloured = "\u{1b}[32mINFO\u{1b}[0m a\nb\n";
        assert_eq!(
            escaped(false, true, coloured),
            "\u{1b}[32mINFO\u{1b}[0m a\\nb\n"
        );
    }

    #[test]
    fn what_is_escaped_in_json_is_the_same_text() {
        let event = "{\"message\":\"a\u{2028}b\u{7f}\u{85}\"}\n";
        let line = escaped(true, false, event);
        assert_eq!(line.lines().count(), 1);
        assert!(line.is_ascii(), "{line}");
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["message"], "a\u{2028}b\u{7f}\u{85}");
    }
}
