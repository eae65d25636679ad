//! House rules that the compiler does not check: layers, files with `unsafe`, one file for the clock and one
//! for atomics, labels on both ends of every synchronisation, sizes, line widths, and words that must not
//! ship.
//!
//! The checker is a function of a tree of files, so that a test can show each rule fail on a made-up tree. It
//! also fails when it finds nothing to check: a rule without a subject would never fail.

mod layers;
mod lexer;

use lexer::{Token, tokens};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The files that hold `unsafe`. A file that no longer needs it must leave the list. A new one needs a change
/// here, which a reviewer sees.
const MAY_HOLD_UNSAFE: &[&str] = &[
    "crates/escapement-engine/src/lease/mailbox.rs",
    "crates/escapement-engine/src/lease/timed.rs",
    "crates/escapement-engine/src/tests.rs",
    "crates/escapement-native/src/kernels/avx2.rs",
    "crates/escapement-native/src/kernels/avx512.rs",
    "crates/escapement-native/src/kernels/avx512_bf16.rs",
    "crates/escapement-native/src/kernels/conformance/guarded.rs",
    "crates/escapement-native/src/kernels/conv.rs",
    "crates/escapement-native/src/kernels/dense.rs",
    "crates/escapement-native/src/kernels/elementwise.rs",
    "crates/escapement-native/src/kernels/dispatch.rs",
    "crates/escapement-native/src/kernels/lanes.rs",
    "crates/escapement-native/src/kernels/limits.rs",
    "crates/escapement-native/src/kernels/normalize.rs",
    "crates/escapement-native/src/kernels/panel.rs",
    "crates/escapement-native/src/kernels/recurrent/blocks.rs",
    "crates/escapement-native/src/kernels/recurrent/gru.rs",
    "crates/escapement-native/src/kernels/recurrent/lstm.rs",
    "crates/escapement-native/src/kernels/recurrent/mod.rs",
    "crates/escapement-native/src/kernels/storage.rs",
    "crates/escapement-policy/src/denormals.rs",
    "crates/escapement-reference/src/demo/children.rs",
    "crates/escapement-ring/src/backing.rs",
    "crates/escapement-ring/src/clock.rs",
    "crates/escapement-ring/src/ring/consumer.rs",
    "crates/escapement-ring/src/ring/copy.rs",
    "crates/escapement-ring/src/ring/heap.rs",
    "crates/escapement-ring/src/ring/hint.rs",
    "crates/escapement-ring/src/ring/layout.rs",
    "crates/escapement-ring/src/ring/memory.rs",
    "crates/escapement-ring/src/ring/model.rs",
    "crates/escapement-ring/src/ring/producer.rs",
    "crates/escapement-ring/src/ring/region.rs",
    "crates/escapement-ring/src/ring/tests.rs",
    "crates/escapement-ring/src/ring/tests/hints.rs",
    "crates/escapement-ring/src/shm.rs",
    "crates/escapement-ring/src/sync.rs",
    "src/halt/caretaker.rs",
    "src/halt/crash.rs",
    "src/halt/kill_switch.rs",
    "src/os/core.rs",
    "src/os/memory.rs",
    "src/os/pipe.rs",
    "src/os/signals.rs",
    "src/policy/torch.rs",
];

const LONGEST_FILE: usize = 500;
const LONGEST_MAIN: usize = 60;
/// Where no line may be longer than `max_width` of rustfmt.toml. rustfmt does not wrap comments and strings.
const WIDTH_HOLDS_IN: &[&str] = &["tests/", "benches/", "crates/", "examples/"];
/// How many lines above an ordering its label may stand.
const LABEL_REACH: usize = 8;

/// Returns the `max_width` of rustfmt.toml, in characters.
fn longest_line() -> usize {
    let settings = include_str!("../../rustfmt.toml").lines();
    let width = settings.filter_map(|line| line.strip_prefix("max_width = ")).next();
    width.and_then(|width| width.parse().ok()).expect("rustfmt.toml sets max_width")
}

/// A file, with its path from the repository's root.
struct Source {
    path: String,
    text: String,
}

/// Returns everything wrong with the tree, one line each: file, line, rule.
fn violations(tree: &[Source], may_hold_unsafe: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    let mut checked = Checked::default();
    let parsed: Vec<_> = tree.iter().map(|source| (source, tokens(&source.text))).collect();
    let test_files = test_files(&parsed);
    for (source, tokens) in &parsed {
        let is_test = !is_shipped(&source.path)
            || test_files.iter().any(|stem| {
                source.path == format!("{stem}.rs") || source.path.starts_with(&format!("{stem}/"))
            });
        sizes_and_words(source, tokens, &mut found);
        line_widths(source, &mut checked, &mut found);
        if is_shipped(&source.path) {
            checked.files += 1;
            layering(source, tokens, &mut checked, &mut found);
            unsafe_code(source, tokens, may_hold_unsafe, &mut checked, &mut found);
            labels(source, tokens, is_test, &mut checked, &mut found);
            if !is_test {
                shipped_code(source, tokens, &mut found);
            }
        }
    }
    for listed in may_hold_unsafe.iter().filter(|listed| !checked.unsafe_files.contains(**listed)) {
        found.push(format!(
            "{listed}: is listed as holding unsafe code, and holds none: take it off the list"
        ));
    }
    for (label, sides) in &checked.labels {
        if sides.len() < 2 {
            found.push(format!("SYNC POINT {label}: stands only at {sides:?}; a Release needs its Acquire"));
        }
    }
    checked.found_nothing(&mut found);
    found
}

/// Whether the file is part of a package that ships, rather than of its tests or benchmarks.
fn is_shipped(path: &str) -> bool {
    layers::place_of(path).is_some_and(|(package, _)| package != "escapement-test-support")
}

/// Counts of what the rules were applied to.
#[derive(Default)]
struct Checked {
    files: usize,
    lines_measured: usize,
    imports: usize,
    unsafe_files: BTreeSet<String>,
    labels: BTreeMap<String, BTreeSet<&'static str>>,
}

impl Checked {
    fn found_nothing(&self, found: &mut Vec<String>) {
        let subjects = [
            (self.files, "source files"),
            (self.lines_measured, "lines to measure"),
            (self.imports, "imports between modules"),
            (self.unsafe_files.len(), "unsafe code"),
            (self.labels.len(), "SYNC POINT labels"),
        ];
        for (_, what) in subjects.iter().filter(|(count, _)| *count == 0) {
            found.push(format!("found no {what}: the checker has nothing to check"));
        }
    }
}

/// Returns the paths, without extension, of the modules that are declared for tests only.
fn test_files(parsed: &[(&Source, Vec<Token<'_>>)]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (source, tokens) in parsed {
        let stem = source.path.trim_end_matches(".rs");
        let directory = match stem.rsplit_once('/') {
            Some((directory, "mod" | "lib" | "main")) => directory,
            _ => stem,
        };
        let declared = tokens.windows(3).filter(|window| window[0].text == "mod" && window[2].text == ";");
        found.extend(
            declared.filter(|window| window[0].test).map(|window| format!("{directory}/{}", window[1].text)),
        );
    }
    found
}

fn layering(source: &Source, tokens: &[Token<'_>], checked: &mut Checked, found: &mut Vec<String>) {
    let Some((package, module)) = layers::module_of(&source.path) else { return };
    for (imported, line) in layers::imports(&source.path, tokens) {
        checked.imports += 1;
        if let Some(objection) = layers::objection(package, module, &imported) {
            found.push(format!("{}:{line}: {objection}", source.path));
        }
    }
}

fn unsafe_code(
    source: &Source,
    tokens: &[Token<'_>],
    may_hold_unsafe: &[&str],
    checked: &mut Checked,
    found: &mut Vec<String>,
) {
    let Some(first) = tokens.iter().find(|token| token.text == "unsafe") else { return };
    checked.unsafe_files.insert(source.path.clone());
    if !may_hold_unsafe.contains(&source.path.as_str()) {
        found
            .push(format!("{}:{}: unsafe code in a file that is not listed for it", source.path, first.line));
    }
}

/// Checks that every label has both ends, and that every acquiring or releasing ordering has a label.
fn labels(
    source: &Source,
    tokens: &[Token<'_>],
    is_test: bool,
    checked: &mut Checked,
    found: &mut Vec<String>,
) {
    const MARK: &str = "SYNC POINT `";
    for (index, line) in source.text.lines().enumerate() {
        let Some((_, after)) = line.split_once(MARK) else { continue };
        let Some((label, rest)) = after.split_once('`') else { continue };
        let side = ["Release", "Acquire"].into_iter().find(|side| rest.starts_with(&format!(", {side}")));
        match side {
            Some(side) => _ = checked.labels.entry(label.to_owned()).or_default().insert(side),
            None => found.push(format!(
                "{}:{}: SYNC POINT {label} says neither Release nor Acquire",
                source.path,
                index + 1
            )),
        }
    }
    let lines: Vec<_> = source.text.lines().collect();
    for window in tokens.windows(4) {
        let [ordering, colon, _, kind] = window else { continue };
        let orders = ["Release", "Acquire", "AcqRel", "SeqCst"].contains(&kind.text);
        if is_test || kind.test || !orders || ordering.text != "Ordering" || colon.text != ":" {
            continue;
        }
        let above = &lines[kind.line.saturating_sub(LABEL_REACH)..kind.line];
        if !above.iter().any(|line| line.contains(MARK)) {
            found.push(format!(
                "{}:{}: Ordering::{} without a SYNC POINT label",
                source.path, kind.line, kind.text
            ));
        }
    }
}

/// Checks for code that must not ship.
fn shipped_code(source: &Source, tokens: &[Token<'_>], found: &mut Vec<String>) {
    let path = source.path.as_str();
    const SYNC: &str = "crates/escapement-ring/src/sync.rs";
    const CLOCK: &str = "crates/escapement-ring/src/clock.rs";
    // Words in a row, the file where they are allowed, and what to do instead.
    let rules: [(&[&str], &str, &str); 10] = [
        (&["sync", ":", ":", "atomic"], SYNC, "atomics are named in sync.rs only"),
        (&["UnsafeCell"], SYNC, "cells of shared memory are named in sync.rs only"),
        (&["loom", ":", ":"], SYNC, "loom is named in sync.rs only"),
        (&["Instant", ":", ":", "now"], CLOCK, "the machine is asked for the time in clock.rs only"),
        (&["SystemTime"], CLOCK, "the machine is asked for the time in clock.rs only"),
        (&["clock_gettime"], CLOCK, "the machine is asked for the time in clock.rs only"),
        (&[".", "unwrap", "(", ")"], "", "say why it cannot fail: expect with a reason, or return the error"),
        (&["todo", "!"], "", "unfinished"),
        (&["unimplemented", "!"], "", "unfinished"),
        (&["dbg", "!"], "", "a debugging aid"),
    ];
    for (words, _, why) in rules.into_iter().filter(|(_, home, _)| *home != path) {
        for window in tokens.windows(words.len()) {
            let same = window.iter().zip(words).all(|(token, word)| token.text == *word);
            if same && !window[0].test {
                found.push(format!("{path}:{}: {} ({why})", window[0].line, words.concat()));
            }
        }
    }
}

fn sizes_and_words(source: &Source, tokens: &[Token<'_>], found: &mut Vec<String>) {
    let path = source.path.as_str();
    let lines = source.text.lines().count();
    if lines > LONGEST_FILE {
        found.push(format!("{path}: {lines} lines, at most {LONGEST_FILE}"));
    }
    if path == "src/main.rs" && lines >= LONGEST_MAIN {
        found.push(format!("{path}: {lines} lines, fewer than {LONGEST_MAIN}"));
    }
    // Put together here, so that this file does not contain them.
    let words = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("/ro", "ot/"), concat!("/wo", "rk/")];
    for (index, line) in source.text.lines().enumerate() {
        for word in words.iter().filter(|word| line.contains(**word)) {
            found.push(format!("{path}:{}: {word}", index + 1));
        }
    }
    for window in tokens.windows(3).filter(|window| window[0].text == "[" && window[2].text == "]") {
        if window[1].text == "ignore" {
            found.push(format!("{path}:{}: an ignored test without a reason", window[1].line));
        }
    }
}

/// Checks that no line is longer than the width at which rustfmt wraps code.
fn line_widths(source: &Source, checked: &mut Checked, found: &mut Vec<String>) {
    // Elsewhere it holds for comments, except for output that a comment quotes in a fence. A message may be
    // longer.
    let every_line = WIDTH_HOLDS_IN.iter().any(|place| source.path.starts_with(place));
    let mut in_fence = false;
    for (index, line) in source.text.lines().enumerate() {
        let text = line.trim_start();
        in_fence ^= text.trim_start_matches(['/', '!', ' ']).starts_with("```") && text.starts_with("//");
        if !every_line && (in_fence || !text.starts_with("//")) {
            continue;
        }
        checked.lines_measured += 1;
        let (width, longest) = (line.chars().count(), longest_line());
        if width > longest {
            found.push(format!("{}:{}: {width} characters, at most {longest}", source.path, index + 1));
        }
    }
}

/// Returns every Rust file below the directories that hold source.
fn this_package() -> Vec<Source> {
    fn collect(root: &Path, directory: &Path, tree: &mut Vec<Source>) {
        let entries =
            std::fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
        for entry in entries {
            let path = entry.expect("the directory is readable").path();
            if path.is_dir() {
                // Generated code is not checked.
                if path.file_name().is_some_and(|name| name != "target") {
                    collect(root, &path, tree);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).expect("sources are UTF-8");
                let relative = path.strip_prefix(root).expect("it was found below the root");
                tree.push(Source {
                    path: relative.to_str().expect("sources have plain names").to_owned(),
                    text,
                });
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut tree = Vec::new();
    for directory in ["src", "crates", "tests", "benches", "examples"] {
        collect(root, &root.join(directory), &mut tree);
    }
    tree
}

#[test]
fn this_package_is_tidy() {
    let found = violations(&this_package(), MAY_HOLD_UNSAFE);
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

/// Returns a tree with one subject for every rule, and no violation.
fn clean() -> Vec<(&'static str, String)> {
    let labelled = "\
        // SYNC POINT `X`, Release: partner\n fn a() { w.store(1, Ordering::Release); }\n\
        // SYNC POINT `X`, Acquire: partner\n fn b() { w.load(Ordering::Acquire); }\n";
    vec![
        ("src/main.rs", "fn main() {}\n".to_owned()),
        (
            "crates/escapement-test-support/src/quiet.rs",
            "fn f() { unsafe { g() }; h().unwrap(); }\n".to_owned(),
        ),
        ("tests/whole/main.rs", format!("// {}\n", "x".repeat(longest_line() - 3))),
        (
            "crates/escapement-ring/src/ring/mod.rs",
            format!("use crate::sync::AtomicU64;\n{labelled} fn c() {{ unsafe {{ d() }} }}\n"),
        ),
        (
            "crates/escapement-engine/src/lib.rs",
            "use escapement_ring::{clock::{Clock, Nanos}, wire::X};\n#[cfg(test)]\nmod tests;\n".to_owned(),
        ),
        ("crates/escapement-ring/src/shm.rs", "use crate::backing::Backing;\n".to_owned()),
        (
            "crates/escapement-engine/src/tests.rs",
            "fn t() { x().unwrap(); std::time::Instant::now(); }\n".to_owned(),
        ),
    ]
}

fn check(files: &[(&str, String)]) -> Vec<String> {
    let tree: Vec<_> =
        files.iter().map(|(path, text)| Source { path: (*path).to_owned(), text: text.clone() }).collect();
    violations(&tree, &["crates/escapement-ring/src/ring/mod.rs"])
}

#[test]
fn a_clean_tree_is_clean() {
    assert_eq!(check(&clean()), [""; 0]);
}

#[test]
fn a_checker_with_nothing_to_check_goes_red() {
    let found = violations(&[], &[]);
    assert_eq!(found.iter().filter(|line| line.contains("nothing to check")).count(), 5, "{found:?}");
}

/// Each violation, planted alone, and the words by which the checker must report it.
#[test]
fn a_planted_violation_of_any_rule_is_found() {
    let long = "// line\n".repeat(LONGEST_FILE + 1);
    let long_main = "// line\n".repeat(LONGEST_MAIN);
    let wide = format!("// {}", "x".repeat(longest_line() - 2));
    let planted: Vec<(&str, &str, &str)> = vec![
        ("crates/escapement-ring/src/ring/layout.rs", "use crate::wire::X;", "ring never imports wire"),
        ("crates/escapement-ring/src/ring/layout.rs", "use crate::shm::X;", "ring never imports shm"),
        (
            "crates/escapement-ring/src/ring/layout.rs",
            "fn f() { crate::feed::x(); }",
            "ring imports feed, which is not below it",
        ),
        (
            "crates/escapement-ring/src/shm.rs",
            "use super::{feed::Feed, backing::Backing};",
            "shm imports feed",
        ),
        ("crates/escapement-ring/src/shm.rs", "use crate::ring::Region;", "shm imports ring"),
        ("crates/escapement-ring/src/clock.rs", "use crate::wire::X;", "clock imports wire"),
        ("crates/escapement-ring/src/sidecar.rs", "use crate::wire::X;", "sidecar is not in the table"),
        ("src/config/keys.rs", "use crate::os::pin_to;", "config never imports os"),
        ("src/config/keys.rs", "use crate::{policy::{A, B}, daemon::C};", "config imports daemon"),
        ("src/policy/torch.rs", "use crate::bundle::Bundle;", "policy imports bundle"),
        ("src/os/core.rs", "use super::super::evidence::Timeline;", "os imports evidence"),
        ("src/halt/latch.rs", "use crate::cli::main;", "halt imports cli"),
        ("src/halt/keeper.rs", "use crate::daemon::DaemonError;", "halt imports daemon"),
        ("src/halt/keeper.rs", "use crate::config::AgentConfig;", "halt never imports config"),
        ("src/halt/latch.rs", "use crate::evidence::Timeline;", "halt never imports evidence"),
        ("src/sidecar.rs", "use crate::policy::X;", "sidecar is not in the table"),
        ("crates/escapement-native/src/kernels/dense.rs", "use crate::ir::Tensor;", "kernels imports ir"),
        ("crates/escapement-native/src/readers/mod.rs", "use crate::lower::X;", "readers imports lower"),
        ("crates/escapement-native/src/lower/walk.rs", "use crate::plan::Plan;", "lower imports plan"),
        ("crates/escapement-native/src/plan/mod.rs", "use super::lower::Known;", "plan imports lower"),
        ("crates/escapement-native/src/onnx.rs", "use crate::ir::Graph;", "onnx is not in the table"),
        ("crates/escapement-engine/src/tick.rs", "fn f() { unsafe { g() } }", "not listed for it"),
        ("crates/escapement-engine/src/tick.rs", "use std::sync::atomic::AtomicBool;", "sync.rs only"),
        ("crates/escapement-engine/src/tick.rs", "use core::cell::UnsafeCell;", "sync.rs only"),
        ("crates/escapement-engine/src/tick.rs", "fn f() { std::time::Instant::now(); }", "clock.rs only"),
        ("crates/escapement-engine/src/tick.rs", "fn f(t: SystemTime) {}", "clock.rs only"),
        ("crates/escapement-engine/src/tick.rs", "fn f() { g().unwrap(); }", "expect with a reason"),
        (
            "crates/escapement-engine/src/tick.rs",
            "#[cfg(not(test))] fn f() { g().unwrap(); }",
            "expect with a reason",
        ),
        ("crates/escapement-engine/src/tick.rs", "fn f() { todo!() }", "unfinished"),
        ("crates/escapement-engine/src/tick.rs", "fn f() { dbg!(1); }", "debugging aid"),
        (
            "crates/escapement-engine/src/tick.rs",
            "// SYNC POINT `Y`, Release: nobody",
            "a Release needs its Acquire",
        ),
        ("crates/escapement-engine/src/tick.rs", "// SYNC POINT `X`: neither", "neither Release nor Acquire"),
        (
            "crates/escapement-engine/src/tick.rs",
            "fn f() { w.store(1, Ordering::Release); }",
            "without a SYNC POINT label",
        ),
        ("crates/escapement-engine/src/tick.rs", concat!("// TO", "DO: later"), concat!("TO", "DO")),
        (
            "crates/escapement-engine/src/tick.rs",
            concat!("const P: &str = \"/ro", "ot/x\";"),
            concat!("/ro", "ot/"),
        ),
        ("tests/one.rs", "#[test] #[ignore] fn f() {}", "ignored test without a reason"),
        ("crates/escapement-engine/src/tick.rs", &long, "at most 500"),
        ("src/main.rs", &long_main, "fewer than 60"),
        ("tests/one.rs", &wide, "111 characters, at most 110"),
        ("src/daemon/one.rs", &wide, "111 characters, at most 110"),
        ("crates/escapement-test-support/src/one.rs", &wide, "111 characters, at most 110"),
    ];
    for (path, text, expected) in planted {
        let mut tree = clean();
        tree.retain(|(existing, _)| *existing != path);
        tree.push((path, text.to_owned()));
        let found = check(&tree);
        assert!(
            found.len() == 1 && found[0].contains(expected),
            "{path}: {text:.60}: expected {expected}: {found:?}"
        );
    }
}

#[test]
fn the_lists_of_exemptions_can_only_shrink() {
    let mut tree = clean();
    tree[3].1 = tree[3].1.replace("unsafe", "");
    let found = check(&tree);
    assert_eq!(found.iter().filter(|line| line.contains("take it off the list")).count(), 1, "{found:?}");
}
