//! Text from a file, made safe for a terminal and a log.

use std::fmt::Write;

/// The most characters of a text that are shown. An error is one line; a file can make it as long as itself.
const MAX_CHARACTERS: usize = 2_000;

/// Returns `text` on one line: control characters, line separators and characters that change the direction
/// of writing become escapes such as `\u{1b}`. A long text is cut.
///
/// Everything that a file says goes through here before it enters an error message. Other characters stay as
/// they are, so that escaping twice changes nothing.
#[must_use]
pub fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len().min(4 * MAX_CHARACTERS));
    for (position, character) in text.chars().enumerate() {
        if position == MAX_CHARACTERS {
            safe.push('…');
            break;
        }
        match character {
            '\n' => safe.push_str("\\n"),
            '\r' => safe.push_str("\\r"),
            '\t' => safe.push_str("\\t"),
            _ if is_harmful(character) => {
                // Writing to a string cannot fail.
                let _ = write!(safe, "\\u{{{:x}}}", u32::from(character));
            }
            _ => safe.push(character),
        }
    }
    safe
}

/// Whether a terminal or a reader of logs would act on the character instead of showing it: C0 and C1
/// controls, line and paragraph separators, and Unicode's invisible and bidirectional controls.
fn is_harmful(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

#[cfg(test)]
mod tests {
    use super::{MAX_CHARACTERS, escaped};

    #[test]
    fn nothing_that_a_terminal_acts_on_is_left() {
        for (text, shown) in [
            (
                "\x1b]0;owned\x07\x1b[2J\nescapement: fine",
                "\\u{1b}]0;owned\\u{7}\\u{1b}[2J\\nescapement: fine",
            ),
            ("a\r\tb\u{9b}31m\u{7f}", "a\\r\\tb\\u{9b}31m\\u{7f}"),
            ("\u{202e}drawkcab\u{2066}\u{2028}\u{200b}", "\\u{202e}drawkcab\\u{2066}\\u{2028}\\u{200b}"),
            ("naïve Größe 観測 \\n 'x'", "naïve Größe 観測 \\n 'x'"),
        ] {
            assert_eq!(escaped(text), shown);
            assert_eq!(escaped(shown), shown, "escaping twice changes nothing");
        }
    }

    #[test]
    fn a_long_text_is_cut() {
        assert_eq!(escaped(&"x".repeat(1 << 20)).chars().count(), MAX_CHARACTERS + 1);
        assert_eq!(escaped(&"x".repeat(MAX_CHARACTERS)).len(), MAX_CHARACTERS);
    }
}
