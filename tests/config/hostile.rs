//! Any text is either accepted or refused with printable lines.

use crate::draft::{AGENT, parse};
use proptest::prelude::*;

/// Asserts that the text gives a configuration, or problems that can be printed.
fn answers(text: &str) -> Result<(), TestCaseError> {
    if let Err(error) = parse(text) {
        let lines = 1 + text.matches('\n').count();
        prop_assert!(!error.problems().is_empty());
        for problem in error.problems() {
            prop_assert!((1..=lines).contains(&problem.line), "{problem}");
            let line = problem.to_string();
            prop_assert!(!line.contains(char::is_control), "{line:?}");
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_mutated_file_is_answered(
        edits in prop::collection::vec(
            (any::<prop::sample::Index>(), 0usize..4, "\\PC|[\\[\\]{}=\"'#.,\n\r\t\0]|nan|[-+0-9e.]{1,6}"),
            1..8
        )
    ) {
        // Comments are most of the file, and their content hardly matters.
        let bare = AGENT.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        let mut text: Vec<char> = bare.collect::<Vec<_>>().join("\n").chars().collect();
        for (index, removed, inserted) in edits {
            let from = index.index(text.len());
            let to = (from + removed).min(text.len());
            text.splice(from..to, inserted.chars());
        }
        answers(&text.into_iter().collect::<String>())?;
    }

    #[test]
    fn lines_in_any_order_are_answered(order in prop::collection::vec(any::<prop::sample::Index>(), 0..60)) {
        let lines: Vec<_> = AGENT.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).collect();
        let shuffled: Vec<_> = order.iter().map(|index| lines[index.index(lines.len())]).collect();
        answers(&shuffled.join("\n"))?;
    }

    #[test]
    fn any_text_is_answered(text in "(?s).{0,200}") {
        answers(&text)?;
    }
}
