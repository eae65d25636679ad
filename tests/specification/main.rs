//! The page of promises, `docs/SPECIFICATION.md`, held to the tests that it names.
//!
//! A promise is a row of a table whose first column is called `number`. Its number is unique. Its last cell
//! names the tests that hold it, or is `pending`, or is `retired`. A named test must exist: a Rust
//! function with a test attribute that is not ignored, or a function `test_...` in a Python file
//! `test_*.py`. The whole tree is searched, so that a test may move from file to file.

mod lists;
mod paths;
mod skimmable;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// One row of the page.
#[derive(Debug, PartialEq, Eq)]
struct Promise {
    line: usize,
    number: String,
    text: String,
    evidence: Evidence,
}

/// What the last cell of a row says.
#[derive(Debug, PartialEq, Eq)]
enum Evidence {
    Tests(Vec<String>),
    /// No test holds it yet.
    Pending,
    /// It is no promise any more; its number is not used again.
    Retired,
}

/// The longest cell, in characters: two lines on a screen.
const LONGEST_CELL: usize = 140;

/// The promises of a page, and what is wrong with its rows.
fn promises(page: &str) -> (Vec<Promise>, Vec<String>) {
    let (mut promises, mut problems) = (Vec::new(), Vec::new());
    let mut in_table = false;
    for (index, row) in page.lines().enumerate() {
        let line = index + 1;
        let Some(cells) = cells(row) else {
            in_table = false;
            continue;
        };
        if cells[0] == "number" {
            in_table = true;
        } else if in_table && !cells[0].starts_with("---") {
            match promise(line, &cells) {
                Ok(promise) => promises.push(promise),
                Err(problem) => problems.push(format!("line {line}: {problem}")),
            }
        } else if is_number(cells[0]) {
            problems.push(format!("line {line}: {} is in a table without the column `number`", cells[0]));
        }
    }
    (promises, problems)
}

/// The cells of a line, where the line is a row of a table.
fn cells(line: &str) -> Option<Vec<&str>> {
    let inner = line.trim().strip_prefix('|')?.strip_suffix('|')?;
    Some(inner.split('|').map(str::trim).collect())
}

fn promise(line: usize, cells: &[&str]) -> Result<Promise, String> {
    let [number, text, evidence] = cells else {
        return Err(format!("{} cells where number, promise and test are wanted", cells.len()));
    };
    if !is_number(number) {
        return Err(format!("`{number}` is not a number like OBS-1"));
    }
    if text.is_empty() {
        return Err(format!("{number} promises nothing"));
    }
    if let Some(long) = cells.iter().find(|cell| cell.chars().count() > LONGEST_CELL) {
        return Err(format!("{number} has a cell of more than {LONGEST_CELL} characters: {long}"));
    }
    let evidence = match *evidence {
        "pending" => Evidence::Pending,
        "retired" => Evidence::Retired,
        _ => Evidence::Tests(quoted(evidence).map(str::to_owned).collect()),
    };
    if evidence == Evidence::Tests(Vec::new()) {
        return Err(format!("{number} names no test and is not pending"));
    }
    Ok(Promise { line, number: (*number).to_owned(), text: (*text).to_owned(), evidence })
}

/// Capital letters, a hyphen, and a number from 1 on without leading zeros.
fn is_number(text: &str) -> bool {
    text.split_once('-').is_some_and(|(theme, count)| {
        !theme.is_empty()
            && theme.chars().all(|letter| letter.is_ascii_uppercase())
            && !count.starts_with('0')
            && count.parse::<u32>().is_ok_and(|count| count > 0)
    })
}

/// What stands between pairs of backticks.
fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

/// The functions of the tree, by name, and whether each is a test that runs.
#[derive(Debug, Default)]
struct Functions(BTreeMap<String, bool>);

impl Functions {
    fn of_this_tree() -> Self {
        let mut functions = Self::default();
        functions.visit(Path::new(env!("CARGO_MANIFEST_DIR")));
        functions
    }

    fn visit(&mut self, directory: &Path) {
        for entry in fs::read_dir(directory).expect("a directory of the tree can be read") {
            let entry = entry.expect("a directory entry can be read");
            let (path, name) = (entry.path(), entry.file_name());
            let name = name.to_string_lossy();
            if entry.file_type().expect("its type is known").is_dir() {
                if !name.starts_with('.') && name != "target" {
                    self.visit(&path);
                }
            } else if name.ends_with(".rs") {
                self.read_rust(&fs::read_to_string(&path).expect("a source file can be read"));
            } else if name.starts_with("test_") && name.ends_with(".py") {
                self.read_python(&fs::read_to_string(&path).expect("a source file can be read"));
            }
        }
    }

    fn read_rust(&mut self, source: &str) {
        let (mut is_test, mut is_ignored) = (false, false);
        for line in source.lines().map(str::trim) {
            if line.starts_with("//") {
                continue;
            }
            if line.starts_with("#[") {
                is_test |= line == "#[test]";
                is_ignored |= line.starts_with("#[ignore");
                continue;
            }
            if let Some((before, after)) = line.split_once("fn ")
                && (before.is_empty() || before.ends_with(' '))
                && let Some(length) =
                    after.find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_')
            {
                self.note(&after[..length], is_test && !is_ignored);
            }
            (is_test, is_ignored) = (false, false);
        }
    }

    fn read_python(&mut self, source: &str) {
        let names = source.lines().filter_map(|line| line.trim_start().strip_prefix("def ")?.split_once('('));
        for (name, _) in names.filter(|(name, _)| name.starts_with("test_")) {
            self.note(name, true);
        }
    }

    fn note(&mut self, name: &str, is_test: bool) {
        *self.0.entry(name.to_owned()).or_default() |= is_test;
    }
}

/// Everything that is wrong with a page; nothing where it is good.
fn problems(page: &str, functions: &Functions) -> Vec<String> {
    let (promises, mut problems) = promises(page);
    if promises.is_empty() {
        problems.push("the page holds no promise".to_owned());
    }
    let (mut numbers, mut texts) = (BTreeSet::new(), BTreeSet::new());
    for Promise { line, number, text, evidence } in &promises {
        if !numbers.insert(number) {
            problems.push(format!("line {line}: {number} is used twice"));
        }
        if !texts.insert(text) {
            problems.push(format!("line {line}: {number} repeats another promise"));
        }
        let Evidence::Tests(tests) = evidence else { continue };
        for test in tests {
            let problem = match functions.0.get(test) {
                Some(true) => continue,
                Some(false) => "is a function, but not a test that runs",
                None => "does not exist",
            };
            problems.push(format!("line {line}: {number}: `{test}` {problem}"));
        }
    }
    problems
}

#[test]
fn every_promise_has_its_number_and_its_tests() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/SPECIFICATION.md");
    let page = fs::read_to_string(path).expect("the page is there");
    let found = problems(&page, &Functions::of_this_tree());
    assert!(found.is_empty(), "docs/SPECIFICATION.md:\n{}", found.join("\n"));
    let (promises, _) = promises(&page);
    let pending = promises.iter().filter(|promise| promise.evidence == Evidence::Pending).count();
    println!("{} promises, {pending} of them pending", promises.len());
}

/// A page with one row more than a good one.
fn page_with(row: &str) -> String {
    format!("# Promises\n\n| number | promise | test |\n|---|---|---|\n{GOOD}\n{row}\n")
}

const GOOD: &str = "| OBS-1 | One outcome. | `every_promise_has_its_number_and_its_tests` |";

#[test]
fn a_good_page_is_good() {
    let functions = Functions::of_this_tree();
    for row in ["", "| OBS-2 | Two. | pending |", "| DL-1 | Once promised. | retired |", "| other | tables |"]
    {
        let page =
            if row.starts_with("| other") { format!("{}\n{row}", page_with("")) } else { page_with(row) };
        assert_eq!(problems(&page, &functions), Vec::<String>::new(), "{row}");
    }
}

#[test]
fn a_planted_mistake_in_the_page_is_found() {
    let functions = Functions::of_this_tree();
    let planted = [
        ("| OBS-2 | Two. | `no_test_has_this_name` |", "does not exist"),
        ("| OBS-2 | Two. | `a_good_page_is_good`, `no_test_has_this_name` |", "does not exist"),
        ("| OBS-2 | Two. | `page_with` |", "not a test that runs"),
        ("| OBS-1 | Two. | pending |", "OBS-1 is used twice"),
        ("| OBS-2 | One outcome. | pending |", "repeats another promise"),
        ("| OBS-2 | Two. | |", "names no test"),
        ("| OBS-2 | Two. | later |", "names no test"),
        ("| OBS-2 | | pending |", "promises nothing"),
        ("| OBS-02 | Two. | pending |", "not a number like"),
        ("| Two. | pending |", "2 cells"),
        ("\n| OBS-2 | Two. | pending |", "without the column `number`"),
    ];
    for (row, expected) in planted {
        let found = problems(&page_with(row), &functions);
        assert!(found.len() == 1 && found[0].contains(expected), "{row}: {found:?}");
    }
    let long = format!("| OBS-2 | {} | pending |", "long ".repeat(30));
    assert!(problems(&page_with(&long), &functions)[0].contains("has a cell of more than"));
    assert_eq!(problems("# Promises\n", &functions), ["the page holds no promise"]);
}

#[test]
fn a_function_counts_as_a_test_only_where_it_is_run_as_one() {
    let mut functions = Functions::default();
    functions.read_rust(
        "#[test]\n#[cfg(debug_assertions)]\n/// Why.\nfn runs() {}\n\
         #[test]\n#[ignore = \"slow\"]\nfn is_ignored() {}\n\
         fn helper() {}\n// fn commented() {}\npub const fn other<T>() {}\n\
         proptest! {\n    #[test]\n    fn property(x in 0..1) {}\n}",
    );
    functions.read_python("def test_python(tmp_path: Path) -> None:\n    pass\n\ndef helper() -> None:\n");
    let expected = [
        ("helper", false),
        ("is_ignored", false),
        ("other", false),
        ("property", true),
        ("runs", true),
        ("test_python", true),
    ];
    let found: Vec<(&str, bool)> =
        functions.0.iter().map(|(name, is_test)| (name.as_str(), *is_test)).collect();
    assert_eq!(found, expected);
}
