//! Lists in prose, held to the program: a new cause, outcome, file or key must be named by its page.
//!
//! `tests/shared_memory/gateway_page.rs` holds the lists of what a gateway does.

use escapement::config;
use escapement::directory::{RingFile, Role};
use escapement::evidence::Cause;
use escapement::wire::Outcome;
use escapement_test_support::{Agent, escapement, in_repository};
use serde_json::Value;
use std::collections::BTreeSet;

fn page(name: &str) -> String {
    std::fs::read_to_string(in_repository(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Returns the words in backticks, in order.
fn quoted(text: &str) -> Vec<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Returns the items of a list that the page marks. A list that is missing or empty fails the test.
fn list(page: &str, name: &str) -> BTreeSet<String> {
    let begin = format!("<!-- list: {name} -->");
    let (_, rest) = page.split_once(&begin).unwrap_or_else(|| panic!("no list {name}"));
    let (body, _) = rest.split_once("<!-- end -->").unwrap_or_else(|| panic!("list {name} has no end"));
    let items = body.lines().filter(|line| line.starts_with("- "));
    let items: BTreeSet<String> = items.filter_map(|line| quoted(line).into_iter().next()).collect();
    assert!(!items.is_empty(), "list {name} is empty");
    items
}

/// Returns the first cells of the table whose first column has this title.
fn first_cells(page: &str, title: &str) -> BTreeSet<String> {
    let (_, rest) = page
        .split_once(&format!("\n| {title} |"))
        .unwrap_or_else(|| panic!("no table whose first column is {title}"));
    let rows = rest.lines().skip(2).take_while(|line| line.starts_with('|'));
    let cells: BTreeSet<String> = rows.filter_map(|row| quoted(row).into_iter().next()).collect();
    assert!(!cells.is_empty(), "the table of {title} is empty");
    cells
}

fn owned<'a>(names: impl IntoIterator<Item = &'a str>) -> BTreeSet<String> {
    names.into_iter().map(str::to_owned).collect()
}

#[test]
fn the_page_of_causes_has_every_cause() {
    assert_eq!(first_cells(&page("docs/CAUSES.md"), "cause"), owned(Cause::ALL.map(Cause::name)));
}

#[test]
fn the_page_of_formats_has_every_file_of_an_agent() {
    let locks = [Role::Daemon, Role::Feed, Role::Tap].map(|role| format!("{}.lock", role.name()));
    let rings = [RingFile::Observations, RingFile::Actions].map(RingFile::name);
    let files = owned(rings.into_iter().chain(locks.iter().map(String::as_str)));
    assert_eq!(first_cells(&page("docs/FORMATS.md"), "file"), files);
    let operations = quoted(&page("docs/OPERATIONS.md"));
    for file in &files {
        assert!(operations.contains(file), "docs/OPERATIONS.md does not name {file}");
    }
}

#[test]
fn the_glossary_has_every_outcome() {
    let page = page("docs/GLOSSARY.md");
    let row = page.lines().find(|line| line.starts_with("| outcome |")).expect("the glossary has the term");
    assert_eq!(owned(quoted(row).iter().map(String::as_str)), owned(Outcome::ALL.iter().map(|it| it.name())));
}

/// A list that leaves an item out, and one that is not there, do not pass.
#[test]
fn a_list_that_forgets_an_item_goes_red() {
    let page = page("docs/CAUSES.md");
    let row = page.lines().find(|line| line.starts_with("| `queued`")).expect("the cause has a row");
    let forgetful = page.replacen(&format!("{row}\n"), "", 1);
    assert_ne!(first_cells(&forgetful, "cause"), owned(Cause::ALL.map(Cause::name)));
    assert!(std::panic::catch_unwind(|| list("no lists here", "keys")).is_err());
    assert!(std::panic::catch_unwind(|| list("<!-- list: keys -->\n<!-- end -->", "keys")).is_err());
}

/// For each key: the keys that are set to change it, apart from what a test agent has.
const CHANGES: &[(&str, &[(&str, &str)])] = &[
    ("agent.name", &[("agent.name", "\"other\"")]),
    ("agent.root", &[("agent.root", "\"/dev/shm/elsewhere\"")]),
    ("agent.state_root", &[("agent.state_root", "\"/dev/shm/elsewhere\"")]),
    ("agent.strict", &[("agent.strict", "true")]),
    ("agent.drain_timeout_ms", &[("agent.drain_timeout_ms", "1999")]),
    ("agent.log", &[("agent.log", "\"warn\"")]),
    ("observation.dimension", &[("observation.dimension", "5")]),
    ("observation.capacity", &[("observation.capacity", "2048")]),
    ("observation.backlog", &[("observation.backlog", "\"latest\"")]),
    ("observation.on_gap", &[("observation.on_gap", "\"count\"")]),
    ("observation.low", &[("observation.low", "-100.0")]),
    ("observation.high", &[("observation.high", "100.0")]),
    ("observation.guard.mode", &[("observation.guard.mode", "\"off\"")]),
    ("observation.guard.deviations", &[("observation.guard.deviations", "5.0")]),
    (
        "action.dimension",
        &[
            ("action.dimension", "3"),
            ("action.safe_default", "[0.0, 0.0, 0.0]"),
            ("action.neutral", "[0.0, 0.0, 0.0]"),
        ],
    ),
    ("action.capacity", &[("action.capacity", "2048")]),
    ("action.low", &[("action.low", "-2.0")]),
    ("action.high", &[("action.high", "2.0")]),
    ("action.safe_default", &[("action.safe_default", "[0.5, 0.5]")]),
    ("action.neutral", &[("action.neutral", "[0.5, 0.5]")]),
    ("action.on_full", &[("action.on_full", "\"drop\"")]),
    ("agent.on_files_lost", &[("agent.on_files_lost", "\"report\"")]),
    ("gateway.on_lost", &[("gateway.on_lost", "\"halt\"")]),
    ("gateway.lost_after_ms", &[("gateway.lost_after_ms", "2000")]),
    ("deadline.enforce", &[("deadline.enforce", "false")]),
    ("engine.keep_warm_us", &[("engine.keep_warm_us", "0")]),
    ("deadline.inference_us", &[("deadline.inference_us", "900000")]),
    ("deadline.end_to_end_us", &[("deadline.end_to_end_us", "1100000")]),
    ("observation.max_skew_us", &[("observation.max_skew_us", "2000")]),
    ("deadline.max_age_us", &[("deadline.max_age_us", "5000000")]),
    ("deadline.hang_timeout_ms", &[("deadline.hang_timeout_ms", "20000")]),
    ("deadline.on_miss", &[("deadline.on_miss", "\"safe_default\"")]),
    ("deadline.budget.misses", &[("deadline.budget.misses", "1"), ("deadline.budget.window", "10")]),
    ("deadline.budget.window", &[("deadline.budget.window", "10")]),
    ("errors.budget.misses", &[("errors.budget.misses", "11")]),
    ("errors.budget.window", &[("errors.budget.window", "1001")]),
    ("engine.core", &[("engine.core", "0")]),
    ("engine.idle", &[("engine.idle", "\"pause\""), ("engine.idle_sleep_us", "-")]),
    ("engine.idle_sleep_us", &[("engine.idle_sleep_us", "300")]),
    ("engine.realtime_priority", &[("engine.realtime_priority", "10")]),
    ("engine.lock_memory", &[("engine.lock_memory", "true")]),
    ("guard.core", &[("guard.core", "0")]),
    ("guard.wake", &[("guard.wake", "\"spin\"")]),
    ("warm_up.round_calls", &[("warm_up.round_calls", "11")]),
    ("warm_up.limit_ms", &[("warm_up.limit_ms", "400")]),
    ("warm_up.quantile", &[("warm_up.quantile", "0.9")]),
    ("warm_up.rate", &[("warm_up.rate", "2000")]),
    ("warm_up.paced_calls", &[("warm_up.paced_calls", "20")]),
];

/// Tables whose keys say which policies run. A reload loads them anew; `tests/reload` shows that.
const POLICIES: &[&str] = &["policy.", "fallback."];

#[test]
fn the_page_of_reloads_has_every_key_that_waits_or_is_refused() {
    for key in config::keys() {
        let is_known = CHANGES.iter().any(|(name, _)| *name == key.path)
            || POLICIES.iter().any(|table| key.path.starts_with(table));
        assert!(is_known, "{} is new: add a change of it to CHANGES", key.path);
    }
    let agent = Agent::new(&[("agent.log", "\"off\"")]);
    let process = agent.start_armed();
    let (mut waiting, mut refused) = (BTreeSet::new(), BTreeSet::new());
    for (key, change) in CHANGES {
        let log_off = [("agent.log", "\"off\"")];
        let rest = log_off.iter().filter(|_| *key != "agent.log").copied();
        agent.reconfigure(&change.iter().copied().chain(rest).collect::<Vec<_>>());
        let output =
            escapement().args(["reload", "test", "--json", "--root"]).arg(agent.root.path()).output();
        let output = output.expect("the program runs");
        let outcome: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
            panic!("{key}: {error}: {}", String::from_utf8_lossy(&output.stderr));
        });
        if outcome["refused"].is_null() {
            let names = outcome["waits_for_restart"].as_array().expect("an array of keys");
            waiting.extend(names.iter().filter_map(Value::as_str).map(str::to_owned));
        } else {
            assert!(outcome["refused"].as_str().is_some_and(|why| why.contains(key)), "{key}: {outcome}");
            refused.insert((*key).to_owned());
        }
    }
    drop(process);
    let page = page("docs/DEADLINES.md");
    assert_eq!(list(&page, "keys that wait for the next start"), waiting);
    assert_eq!(list(&page, "keys that make another agent"), refused);
}
