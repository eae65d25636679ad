//! Every key by itself, and the constraints between keys.

use crate::draft::{Draft, FILE, parse, problems};
use escapement::config::{self, Allowed, CheckText, Key, Presence};
use escapement::wire::MAX_DIMENSION;
use std::process::Command;

/// Returns values that the key refuses, as they are written in a file.
fn bad_values(key: &Key) -> Vec<String> {
    let words: &[&str] = match &key.allowed {
        Allowed::Flag => &["1", "\"true\"", "[true]"],
        Allowed::Whole { .. } => &["1.0", "\"1\"", "true", "[1]", "1979-05-27", "{ a = 1 }"],
        Allowed::WholeOr { .. } => &["1.0", "\"1\"", "true", "[1]", "\"\"", "\"ANY\""],
        Allowed::PowerOfTwo { .. } => &["3", "4095", "2.0", "\"2\"", "[2]"],
        Allowed::Number { .. } => &["nan", "inf", "-inf", "\"0.9\"", "true"],
        Allowed::Choice(_) => &["\"\"", "\"nonsense\"", "1", "true", "[]"],
        Allowed::Limits(_) => {
            &["nan", "[0, nan]", "1e39", "-1e39", "1e-39", "\"1\"", "[0, \"1\"]", "[0]", "[0, 0, 0]", "true"]
        }
        Allowed::Texts { .. } => &["1", "\"text\"", "[1]", "[\"RWQ\"]", "[true]"],
        Allowed::Elements => {
            &["0", "[]", "[0]", "[0, 0, 0]", "[nan, 0]", "[0, inf]", "[0, -inf]", "[0, 1e39]", "[0, true]"]
        }
        Allowed::Text(_) => match key.path {
            "agent.name" => &["\"\"", "\"A\"", "\"a/b\"", "\"..\"", "\"-a\"", "\"a b\"", "\"ä\"", "1"],
            "agent.root" | "agent.state_root" => &["\"\"", "\"relative\"", "\"/a\\u0000b\"", "1"],
            "agent.log" => &["\"\"", "\"inof\"", "\"INFO\"", "\"a=\"", "\"=info\"", "\"info,\"", "1"],
            "policy.path" | "fallback.bundle" => &["\"\"", "\"a\\u0000b\"", "1", "[]"],
            other => panic!("{other} is new: say here which texts it refuses"),
        },
    };
    let mut values: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    match &key.allowed {
        Allowed::Whole { min, max }
        | Allowed::WholeOr { min, max, .. }
        | Allowed::PowerOfTwo { min, max } => {
            let (min, max) = (i128::from(*min), i128::from(*max));
            let outside = [min - 1, max + 1, 2 * max, -max, i128::from(u64::MAX) + 1, i128::MAX];
            values.extend(outside.map(|value| value.to_string()));
            values.push("9".repeat(60));
        }
        Allowed::Number { min, max } => {
            values.extend([min - 1e-9, max + 1e-9, -max].map(|value| value.to_string()));
        }
        Allowed::Choice(words) => {
            values.extend(words.iter().map(|word| format!("{:?}", word.to_uppercase())))
        }
        Allowed::Text(_) if key.path == "agent.name" => values.push(format!("{:?}", "a".repeat(65))),
        _ => {}
    }
    if key.path == "observation.low" || key.path.starts_with("action.") && values.contains(&"1e39".to_owned())
    {
        values.push("inf".to_owned());
    }
    if key.path == "observation.high" {
        values.push("-inf".to_owned());
    }
    values
}

/// Returns values that the key accepts: both ends of its range, every word.
fn good_values(key: &Key) -> Vec<String> {
    let literal = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect();
    match &key.allowed {
        Allowed::Flag => literal(&["true", "false"]),
        Allowed::Whole { min, max } => vec![min.to_string(), max.to_string()],
        Allowed::WholeOr { min, max, word } => vec![min.to_string(), max.to_string(), format!("{word:?}")],
        Allowed::PowerOfTwo { min, max } => vec![min.to_string(), (2 * min).to_string(), max.to_string()],
        Allowed::Number { min, max } => vec![min.to_string(), max.to_string(), format!("{max:.1}")],
        Allowed::Choice(words) => words.iter().map(|word| format!("{word:?}")).collect(),
        Allowed::Limits(_) if key.path.ends_with("low") => literal(&["-1", "-0.5", "[-1, -3.5]", "-3.4e38"]),
        Allowed::Limits(_) => literal(&["1", "0.5", "[1, 3.5]", "3.4e38"]),
        Allowed::Texts { .. } => {
            literal(&["[]", "[\"RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3\"]"])
        }
        Allowed::Elements => literal(&["[0, 0]", "[-1, 1]", "[0.5, -0.25]", "[\n  0,\n  0, # two\n]"]),
        Allowed::Text(_) => match key.path {
            "agent.name" => vec!["\"a\"".into(), "\"9_b-c\"".into(), format!("{:?}", "a".repeat(64))],
            "agent.root" | "agent.state_root" => literal(&["\"/\"", "\"/dev/shm/x\""]),
            "agent.log" => literal(&["\"off\"", "\"info,escapement::daemon=debug\"", "\"a=warn\""]),
            "policy.path" | "fallback.bundle" => literal(&["\"policy.pt\"", "\"../p\"", "\"/abs/p\""]),
            other => panic!("{other} is new: say here which texts it takes"),
        },
    }
}

#[test]
fn there_is_something_to_check() {
    assert!(config::keys().len() >= 34, "only {} keys", config::keys().len());
    parse(&Draft::minimal().text()).expect("the base of all tests is good");
}

#[test]
fn a_bad_value_is_refused_with_line_key_value_and_range() {
    for key in config::keys() {
        for value in bad_values(&key) {
            let draft = Draft::minimal().with_company(key.path, &value).set(key.path, &value);
            let found = problems(&draft.text());
            let told: Vec<String> = found.iter().map(ToString::to_string).collect();
            let at = found.iter().find(|problem| {
                let path = problem.key.as_deref().unwrap_or_default();
                path == key.path || path.split_once('[').is_some_and(|(array, _)| array == key.path)
            });
            let problem = at.unwrap_or_else(|| panic!("{} = {value}: {told:?}", key.path));
            assert_eq!(problem.line, draft.line_of(key.path), "{told:?}");
            let shown = problem.value.as_deref().expect("the value is shown");
            assert!(value.contains(shown) || shown.ends_with('…'), "{told:?}");
            if value.contains("nan") {
                assert_eq!(problem.what, "not a number");
            }
            let line = problem.to_string();
            let begins = format!("{FILE}:{}: {}", problem.line, key.path);
            assert!(line.starts_with(&begins) && line.contains(&format!(" = {shown}: ")), "{line}");
            let allowed = line.split_once("; allowed: ").expect("the range is told").1;
            // For a wrong length or an element out of bounds, the message gives the length and the bounds.
            let vector = matches!(key.allowed, Allowed::Limits(_) | Allowed::Elements);
            assert!(
                allowed == key.allowed.to_string() || vector && allowed.ends_with(" of length 2"),
                "{line}"
            );
            assert!(told.iter().all(|line| line.lines().count() == 1), "{told:?}");
        }
    }
}

#[test]
fn the_ends_of_every_range_are_accepted() {
    for key in config::keys() {
        for value in good_values(&key) {
            let draft = Draft::minimal().with_company(key.path, &value).set(key.path, &value);
            if let Err(error) = parse(&draft.text()) {
                panic!("{} = {value}: {error}", key.path);
            }
        }
    }
}

#[test]
fn numbers_may_be_written_in_every_way_of_toml() {
    let written = ["250", "+250", "2_5_0", "0xFA", "0o372", "0b1111_1010"].map(|value| {
        let draft = Draft::minimal().set("deadline.end_to_end_us", value);
        parse(&draft.text()).unwrap_or_else(|error| panic!("{error}")).settings.deadlines.end_to_end.0
    });
    assert_eq!(written, [250_000; 6]);
}

#[test]
fn an_unknown_key_is_refused_and_the_nearest_one_named() {
    for key in config::keys() {
        let misspelt = format!("{}x", key.path);
        let draft = Draft::minimal().set(&misspelt, "1");
        let found = problems(&draft.text());
        assert_eq!(found.len(), 1, "{found:?}");
        let line = found[0].to_string();
        let hint = format!("{FILE}:{}: {misspelt} = 1: unknown key", draft.line_of(&misspelt));
        assert!(line.starts_with(&hint) && line.contains(&format!("(is {} meant?)", key.path)), "{line}");
        let name = key.path.rsplit('.').next().expect("a key has a name");
        let allowed = line.split_once("; allowed: ").expect("the known keys are told").1;
        assert!(allowed.split(", ").any(|known| known == name), "{line}");
    }
    for text in ["[agnet]\nname = \"a\"\n", "agnet = { name = \"a\" }\n", "nonsense = 1\n"] {
        let found = problems(&(text.to_owned() + &Draft::minimal().text()));
        assert_eq!((found.len(), found[0].line), (1, 1), "{found:?}");
        assert!(found[0].to_string().contains("unknown"), "{found:?}");
    }
}

#[test]
fn a_required_key_is_missed() {
    let required: Vec<_> = config::keys()
        .into_iter()
        .filter(|key| key.presence == Presence::Required || key.path == "policy.path")
        .collect();
    assert_eq!(required.len(), Draft::minimal().0.len());
    for key in required {
        let found = problems(&Draft::minimal().without(key.path).text());
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].to_string().contains(&format!(": {}: missing; allowed: ", key.path)), "{found:?}");
    }
    let found = problems("");
    assert!(found.iter().all(|problem| problem.line == 1 && problem.what == "missing"), "{found:?}");
}

#[test]
fn a_key_given_twice_and_a_table_that_is_none_are_refused() {
    for key in config::keys() {
        let draft = Draft::minimal().set(key.path, "1");
        let line = draft.line_of(key.path);
        let mut lines: Vec<_> = draft.text().lines().map(str::to_owned).collect();
        lines.insert(line, lines[line - 1].clone());
        let found = problems(&lines.join("\n"));
        assert_eq!((found.len(), found[0].line), (1, line + 1), "{found:?}");
        assert!(found[0].what.starts_with("not TOML"), "{found:?}");

        let table = key.path.rsplit_once('.').expect("keys stand in tables").0;
        let mut draft = Draft::minimal();
        draft.0.retain(|other, _| !other.starts_with(table));
        // A nested table is listed among the keys of the outer table.
        let (text, line) = if table.contains('.') {
            let draft = draft.set(table, "3");
            (draft.text(), draft.line_of(table))
        } else {
            (format!("{table} = 3\n{}", draft.text()), 1)
        };
        let found = problems(&text);
        let told = format!("{FILE}:{line}: {table} = 3: wrong type (integer); allowed: a table");
        assert_eq!(found[0].to_string(), told);
        assert_eq!(found.len(), 1, "{found:?}");
    }
}

type Settings = &'static [(&'static str, &'static str)];

/// Settings that are valid alone and contradict each other: the settings, the reported key, and a part of the
/// message.
const CONTRADICTIONS: &[(Settings, &str, &str)] = &[
    (
        &[("deadline.inference_us", "200"), ("deadline.end_to_end_us", "199")],
        "deadline.end_to_end_us",
        "less than deadline.inference_us = 200; allowed: 200 or more",
    ),
    (
        &[("deadline.end_to_end_us", "99")],
        "deadline.end_to_end_us",
        "less than deadline.inference_us = 100 (the default)",
    ),
    (
        &[("deadline.inference_us", "101")],
        "deadline.inference_us",
        "more than deadline.end_to_end_us = 100 (the default)",
    ),
    (
        &[("deadline.budget.misses", "5"), ("deadline.budget.window", "5")],
        "deadline.budget.misses",
        "less than 5",
    ),
    (
        &[("deadline.budget.misses", "1")],
        "deadline.budget.misses",
        "deadline.budget.window = 1 (the default)",
    ),
    (&[("errors.budget.window", "10")], "errors.budget.window", "more than 10"),
    (
        &[("deadline.on_miss", "\"safe_default\""), ("deadline.budget.misses", "0")],
        "deadline.budget",
        "no effect",
    ),
    (&[("policy.backend", "\"null\"")], "policy.path", "\"null\""),
    (
        &[("policy.backend", "\"torch\""), ("policy.weights", "\"bf16\"")],
        "policy.weights",
        "policy.backend = \"torch\" has no such weights; allowed: \"bf16\" only with",
    ),
    (&[("policy.require_signature", "true")], "policy.require_signature", "policy.public_keys is empty"),
    (&[("policy.seed", "1")], "policy.seed", "policy.deterministic = true"),
    (&[("engine.idle_sleep_us", "50")], "engine.idle_sleep_us", "\"backoff\""),
    (&[("engine.idle", "\"spin\""), ("engine.idle_sleep_us", "50")], "engine.idle_sleep_us", "\"backoff\""),
    (&[("observation.low", "2"), ("observation.high", "1")], "observation.low", "above observation.high = 1"),
    (&[("observation.low", "[0, 2]"), ("observation.high", "1")], "observation.low[1]", "at most 1"),
    (
        &[("observation.low", "2"), ("observation.high", "[3, 1]")],
        "observation.high[1]",
        "below observation.low = 2",
    ),
    (&[("action.low", "[0, 2]"), ("action.high", "[0, 1]")], "action.low[1]", "above action.high[1] = 1"),
    (&[("action.safe_default", "[0, 1.0001]")], "action.safe_default[1]", "allowed: -1 to 1"),
    (&[("action.neutral", "[-1.5, 0]")], "action.neutral[0]", "allowed: -1 to 1"),
    (
        &[("action.dimension", "3")],
        "action.safe_default",
        "length 2, but action.dimension = 3; allowed: an array of length 3",
    ),
    (&[("observation.low", "[0]")], "observation.low", "length 1, but observation.dimension = 2"),
];

#[test]
fn contradictions_are_refused() {
    for (settings, key, part) in CONTRADICTIONS {
        let draft = settings.iter().fold(Draft::minimal(), |draft, (key, value)| draft.set(key, value));
        let found = problems(&draft.text());
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].key.as_deref(), Some(*key), "{found:?}");
        assert!(found[0].to_string().contains(part), "{} lacks {part}", found[0]);
    }
}

#[test]
fn everything_wrong_is_told_in_the_order_of_the_file() {
    let text = "[engine]\nidle = 1\ncores = 2\n[deadline]\ninference_us = 0\n[agent]\nname = \"a\"\n";
    let found = problems(text);
    let keys: Vec<_> = found
        .iter()
        .filter(|problem| problem.what != "missing")
        .map(|it| (it.line, it.key.as_deref()))
        .collect();
    assert_eq!(
        keys,
        [(2, Some("engine.idle")), (3, Some("engine.cores")), (5, Some("deadline.inference_us"))]
    );
    assert!(found.is_sorted_by_key(|problem| problem.line));

    let many: String = (0..10_000).map(|index| format!("unknown_{index} = 1\n")).collect();
    assert_eq!(problems(&many).len(), 50);
    let long = problems(&format!("{} = {:?}\n", "k".repeat(10_000), "v".repeat(10_000)));
    assert!(long.iter().all(|problem| problem.to_string().len() < 300), "a line is no page");
}

#[test]
fn an_element_is_told_at_its_own_line() {
    let draft = Draft::minimal().set("action.safe_default", "[\n  0,\n  7,\n]");
    let found = problems(&draft.text());
    assert_eq!(found[0].line, draft.line_of("action.safe_default") + 2);
    assert_eq!(found[0].value.as_deref(), Some("7"));
}

#[test]
fn every_dimension_is_accepted_up_to_the_largest() {
    let numbers = vec!["0.125"; MAX_DIMENSION].join(", ");
    let draft = Draft::minimal()
        .set("observation.dimension", "4096")
        .set("observation.low", &format!("[{numbers}]"))
        .set("action.dimension", "4096")
        .set("action.safe_default", &format!("[{numbers}]"));
    assert_eq!(parse(&draft.text()).expect("good").settings.safe_default.len(), MAX_DIMENSION);
}

/// What `check` prints about a file.
fn checked(draft: &Draft, options: &[&str]) -> String {
    let directory = tempfile::tempdir().expect("a directory can be made");
    let path = directory.path().join("agent.toml");
    std::fs::write(&path, draft.text()).expect("the directory is writable");
    let output = Command::new(env!("CARGO_BIN_EXE_escapement"))
        .args(["check", "-c", "agent.toml"])
        .args(options)
        .current_dir(directory.path())
        .output()
        .expect("the binary runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// Finds a key whose value is lost on its way to the configuration, or to the JSON or text of `check`.
#[test]
fn a_changed_value_shows_in_the_output_of_check() {
    for key in config::keys() {
        let mut values = good_values(&key);
        let mut base = Draft::minimal();
        if key.path.ends_with(".window") {
            // With `misses = 0` the text does not mention the window.
            base = base.set(&key.path.replace("window", "misses"), "1");
            values = vec!["5".to_owned(), "6".to_owned()];
        }
        let with = |value: &String| base.clone().with_company(key.path, value).set(key.path, value);
        let [one, other] = [&values[0], &values[1]].map(with);
        let with_misses = |draft: Draft| match key.path.strip_suffix(".window") {
            Some(table) => draft.set(&format!("{table}.misses"), "1"),
            None => draft,
        };
        let (one, other) = (with_misses(one), with_misses(other));
        let pointer = format!("/{}", key.path.replace('.', "/"));
        let shown = |draft: &Draft| {
            let json: serde_json::Value = serde_json::from_str(&checked(draft, &["--json"])).expect("JSON");
            json.pointer(&pointer).unwrap_or_else(|| panic!("{} is not in the JSON", key.path)).clone()
        };
        assert_ne!(shown(&one), shown(&other), "{} in the JSON", key.path);
        let same = checked(&one, &[]) == checked(&other, &[]);
        assert_eq!(same, key.text == CheckText::Omitted, "{} in the text", key.path);
    }
}
