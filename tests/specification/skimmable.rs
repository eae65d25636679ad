//! Pages that can be skimmed: short table cells, and nothing about what does not exist.

use std::path::Path;

/// The longest table cell, in characters: two lines on a screen.
const LONGEST_CELL: usize = 140;

/// The pages for readers: their names and texts.
fn pages() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for directory in ["", "docs"] {
        for entry in std::fs::read_dir(root.join(directory)).expect("the folder is there") {
            let path = entry.expect("the folder can be read").path();
            if path.extension().is_some_and(|extension| extension == "md") {
                let name = path.strip_prefix(root).expect("it is below the root").display().to_string();
                found.push((name, std::fs::read_to_string(&path).expect("pages are UTF-8")));
            }
        }
    }
    assert!(found.len() > 10, "the pages are found: {}", found.len());
    found
}

/// Cells of tables that are too long to skim.
fn long_cells(name: &str, page: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (index, line) in page.lines().enumerate().filter(|(_, line)| line.starts_with('|')) {
        for cell in line.trim_matches('|').split(" | ").map(str::trim) {
            let length = cell.chars().count();
            if length > LONGEST_CELL {
                found.push(format!(
                    "{name}:{}: a cell of {length} characters, at most {LONGEST_CELL}",
                    index + 1
                ));
            }
        }
    }
    found
}

/// Lines that speak of a journal of the agent. Only its crate and its format exist; no daemon writes one.
/// systemd's journal is another one.
fn journals(name: &str, page: &str) -> Vec<String> {
    if name.ends_with("FORMATS-journal.md") || name.ends_with("SPECIFICATION.md") {
        return Vec::new();
    }
    let speaks = |line: &str| {
        let line = line.to_lowercase().replace("systemd's journal", "").replace("journalctl", "");
        let is_of_the_format = ["escapement-journal", "formats-journal"].iter().any(|it| line.contains(it));
        line.contains("journal") && !is_of_the_format && !line.contains("74")
    };
    let lines = page.lines().enumerate().filter(|(_, line)| speaks(line));
    lines.map(|(index, line)| format!("{name}:{}: {line}", index + 1)).collect()
}

#[test]
fn tables_can_be_skimmed() {
    let found: Vec<String> = pages().iter().flat_map(|(name, page)| long_cells(name, page)).collect();
    assert!(found.is_empty(), "\n{}", found.join("\n"));
    let planted = format!("| a | {} |\n", "x".repeat(LONGEST_CELL + 1));
    assert_eq!(long_cells("made-up", &planted).len(), 1);
}

#[test]
fn pages_do_not_speak_of_a_journal_that_nobody_writes() {
    let found: Vec<String> = pages().iter().flat_map(|(name, page)| journals(name, page)).collect();
    assert!(found.is_empty(), "\n{}", found.join("\n"));
    assert_eq!(journals("made-up", "It stands in the journal.").len(), 1);
}
