//! The shipped files are valid, and the annotated one agrees with the code.

use crate::draft::{AGENT, Draft, parse};
use escapement::config::{self, Key, PolicySource, Presence};
use escapement::engine::{BudgetSpec, IdleStrategy, OnMiss};
use std::collections::BTreeMap;
use std::path::Path;

#[test]
fn the_shipped_files_mean_what_they_say() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let agent = config::load(&directory.join("agent.toml")).expect("agent.toml is good");
    assert_eq!((agent.settings.on_miss, agent.settings.miss_budget), (OnMiss::Halt, BudgetSpec::NONE));
    assert!(agent.settings.enforce && agent.engine.lock_memory);
    assert_eq!(agent.engine.idle, IdleStrategy::Spin);
    assert_eq!(agent.policy.source, PolicySource::Path(directory.join("example.bundle")));

    let demo = config::load(&directory.join("demo.toml")).expect("demo.toml is good");
    assert_eq!(demo.settings.on_miss, OnMiss::SafeDefault);
    assert!(demo.settings.enforce && !demo.strict);
    assert_eq!((demo.dimensions, demo.policy.source), (agent.dimensions, agent.policy.source));
}

/// Returns for every key of agent.toml: the comment above it on one line, its value, and whether it is set.
fn annotations() -> BTreeMap<String, (String, String, bool)> {
    let mut found = BTreeMap::new();
    let (mut table, mut comment) = ("", String::new());
    for line in AGENT.lines() {
        let assignment = line.trim_start_matches('#').split_once(" = ");
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            table = name;
            comment.clear();
        } else if let Some(text) = line.strip_prefix("# ") {
            comment = comment + text + " ";
        } else if let Some((name, value)) = assignment {
            let annotation = (std::mem::take(&mut comment), value.to_owned(), !line.starts_with('#'));
            found.insert(format!("{table}.{name}"), annotation);
        } else {
            comment.clear();
        }
    }
    found
}

#[test]
fn the_annotated_file_explains_every_key_as_it_is() {
    let annotations = annotations();
    let keys = config::keys();
    assert_eq!(annotations.len(), keys.len());
    for Key { path, allowed, presence, .. } in keys {
        let (comment, _, is_set) = annotations.get(path).unwrap_or_else(|| panic!("{path} is not explained"));
        assert!(comment.contains(&format!("Allowed: {allowed}.")), "{path}: {comment} lacks {allowed}");
        match presence {
            Presence::Required => assert!(is_set, "{path} is required"),
            Presence::Optional => {
                assert!(["Left out: ", "Required, except"].iter().any(|it| comment.contains(it)), "{path}");
            }
            Presence::Default => {
                let default =
                    comment.rsplit_once("Default: ").unwrap_or_else(|| panic!("{path} has no default")).1;
                let default = default.trim_end().trim_end_matches('.');
                let spelt_out = Draft::minimal().set(path, default);
                let (spelt_out, left_out) = (parse(&spelt_out.text()), parse(&Draft::minimal().text()));
                assert_eq!(
                    spelt_out.expect("the default is good"),
                    left_out.expect("the base is good"),
                    "{path}"
                );
            }
        }
    }
    let backoff = |sleep: &str| {
        let draft = Draft::minimal().set("engine.idle", "\"backoff\"");
        parse(&if sleep.is_empty() { draft } else { draft.set("engine.idle_sleep_us", sleep) }.text())
            .expect("good")
    };
    assert_eq!(backoff(""), backoff("50"), "agent.toml says 50");
}

#[test]
fn the_keys_that_agent_toml_does_not_set_are_good_when_set() {
    let unset: Vec<_> = annotations().into_iter().filter(|(_, (_, _, is_set))| !is_set).collect();
    assert_eq!(unset.len(), 10);
    for (path, (_, value, _)) in unset {
        let name = path.rsplit('.').next().expect("a key has a name");
        let text = AGENT.replace(&format!("#{name} = {value}"), &format!("{name} = {value}"));
        assert_ne!(text, AGENT);
        let text = match name {
            "idle_sleep_us" => text.replace("\"spin\"\n", "\"backoff\"\n"),
            "burn_in" => text.replace("#on_gap = \"reset\"\n", "on_gap = \"burn_in\"\n"),
            "seed" => text.replace("deterministic = true\n", "deterministic = false\n"),
            _ => text,
        };
        parse(&text).unwrap_or_else(|error| panic!("{error}"));
    }
}
