//! Compares the Rust features with the file that defines them and with the values computed in Python.

use super::*;

fn read(path: &str) -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn names_and_bounds_are_those_of_the_definition_file() {
    let file: toml::Table = read("config/features.toml").parse().unwrap();
    let number =
        |value: &toml::Value| value.as_float().or(value.as_integer().map(|whole| whole as f64)).unwrap();
    let defined: Vec<_> = file["feature"]
        .as_array()
        .unwrap()
        .iter()
        .map(|feature| {
            (feature["name"].as_str().unwrap(), (number(&feature["low"]), number(&feature["high"])))
        })
        .collect();
    let ours: Vec<_> = NAMES.into_iter().zip(BOUNDS).collect();
    assert_eq!(defined, ours);
}

#[test]
fn every_observation_is_the_one_that_python_computes() {
    let mut features = Features::new();
    let mut compared = 0;
    for (index, line) in read("tests/golden/features.jsonl").lines().enumerate() {
        let step: serde_json::Value = serde_json::from_str(line).unwrap();
        let event = step["event"].as_array().unwrap();
        let ts_ns = event[1].as_u64().unwrap();
        let number = |field: usize| event[field].as_f64().unwrap();
        match event[0].as_str().unwrap() {
            "quote" => features.quote(ts_ns, number(2), number(3), number(4), number(5)),
            "trade" => features.trade(ts_ns, number(2), number(3), event[4].as_bool().unwrap()),
            other => panic!("line {}: event {other:?}", index + 1),
        }
        let mut ours = [f32::NAN; N];
        let Some(expected) = step["observation"].as_array() else {
            assert!(!features.observation(&mut ours), "line {}: an observation without a quote", index + 1);
            continue;
        };
        assert!(features.observation(&mut ours), "line {}: no observation", index + 1);
        assert_eq!(step["ts_event_ns"].as_u64(), Some(features.ts_ns()), "line {}", index + 1);
        assert_eq!(expected.len(), N);
        for ((name, ours), expected) in NAMES.iter().zip(ours).zip(expected) {
            let expected = expected.as_f64().unwrap();
            let tolerance = 1e-6 * expected.abs().max(1.0);
            assert!(
                (f64::from(ours) - expected).abs() <= tolerance,
                "line {}: {name} is {ours}, Python has {expected}",
                index + 1
            );
            compared += 1;
        }
    }
    assert!(compared >= 30 * N, "only {compared} values to compare");
}

#[test]
fn values_beyond_the_bounds_are_set_to_them() {
    let mut features = Features::new();
    features.quote(0, 1.0, 1e-9, 3.0, 1e9);
    let mut out = [0.0; N];
    assert!(features.observation(&mut out));
    assert_eq!(out[0], 100.0, "a spread as wide as the mid");
    assert_eq!(out[6], -10.0, "next to nothing on the bid");
}
