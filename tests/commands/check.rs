//! `escapement check`: the real program, its two streams and its exit codes.

use escapement::config;
use escapement_test_support::escapement;
use std::path::Path;
use std::process::Output;

fn check(arguments: &[&str]) -> Output {
    escapement()
        .arg("check")
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("the binary runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("output is text")
}

fn write(directory: &Path, content: &[u8]) -> String {
    let path = directory.join("agent.toml");
    std::fs::write(&path, content).expect("the directory is writable");
    path.to_str().expect("temporary paths are text").to_owned()
}

#[test]
fn a_good_file_is_explained() {
    for file in ["config/agent.toml", "config/demo.toml"] {
        let output = check(&["-c", file]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let told = text(&output.stdout);
        assert!(told.starts_with(&format!("{file}: good\n")), "{told}");
        assert!(told.contains("inference 100 us, end to end 100 us"), "{told}");
        assert!(output.stderr.is_empty());
    }
}

#[test]
fn json_holds_every_key() {
    let output = check(&["--json", "-c", "config/agent.toml"]);
    assert_eq!(output.status.code(), Some(0));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(json["ok"], true);
    for key in config::keys() {
        let pointer = format!("/{}", key.path.replace('.', "/"));
        assert!(json.pointer(&pointer).is_some(), "{} is missing", key.path);
    }
    assert_eq!(json["deadline"]["inference_us"], 100);
    assert_eq!(json["action"]["safe_default"], serde_json::json!([0.0, 0.0, 0.0]));
    assert_eq!(json["observation"]["high"][31], 200.0);

    let directory = tempfile::tempdir().expect("a temporary directory");
    let text = std::fs::read_to_string("config/agent.toml").expect("agent.toml").replace("200.0", "inf");
    let output = check(&["--json", "-c", &write(directory.path(), text.as_bytes())]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(json["observation"]["low"][0].is_null(), "no limit is null");
}

#[test]
fn a_refused_file_ends_with_78_and_a_line_for_each_problem() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let good = std::fs::read_to_string("config/agent.toml").expect("agent.toml");
    let bad = good.replace("\ninference_us = 100", "\ninference_us = 0").replace("\nstrict =", "\nstrikt =");
    let file = write(directory.path(), bad.as_bytes());
    let line_of =
        |start: &str| 1 + bad.lines().position(|line| line.starts_with(start)).expect("the line is there");

    let output = check(&["-c", &file]);
    assert_eq!(output.status.code(), Some(78));
    assert!(output.stdout.is_empty());
    let strikt = format!(
        "escapement: {file}:{}: agent.strikt = false: unknown key (is agent.strict meant?); \
         allowed: name, root, state_root, strict, drain_timeout_ms, on_files_lost, \
         log\n",
        line_of("strikt")
    );
    let range = format!(
        "escapement: {file}:{}: deadline.inference_us = 0: out of range; \
         allowed: a whole number from 1 to 10000000\n",
        line_of("inference_us")
    );
    assert_eq!(text(&output.stderr), strikt + &range);

    let output = check(&["--json", "-c", &file]);
    assert_eq!(output.status.code(), Some(78));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(json["ok"], false);
    assert_eq!(json["problems"][1]["key"], "deadline.inference_us");
    assert_eq!(json["problems"][1]["line"], line_of("inference_us"));
}

#[test]
fn what_is_no_configuration_at_all_ends_with_78_and_one_line() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let contents: [(&[u8], &str); 4] = [
        (b"[agent]\nname = \"a\n", ":2: not TOML"),
        (b"[agent]\nname = \"\xff\"\n", ":2: not UTF-8"),
        (&[b'#'; config::MAX_FILE_BYTES + 1], ":1: the file has more than 1048576 bytes"),
        (&[0; 64], ":1: not TOML"),
    ];
    for (content, part) in contents {
        let output = check(&["-c", &write(directory.path(), content)]);
        let told = text(&output.stderr);
        assert_eq!(output.status.code(), Some(78), "{told}");
        assert!(told.contains(part) && told.lines().count() == 1, "{told}");
    }
    assert_eq!(check(&["-c", "/dev/zero"]).status.code(), Some(78), "endless input has an end");
}

#[test]
fn a_missing_file_ends_with_66_and_a_wrong_command_line_with_64() {
    for missing in ["no/such/file.toml", "config", "Cargo.toml/agent.toml"] {
        let output = check(&["-c", missing]);
        let told = text(&output.stderr);
        assert_eq!(output.status.code(), Some(66), "{told}");
        assert!(told.contains(missing) && told.lines().count() == 1, "{told}");
        assert!(output.stdout.is_empty());
    }
    assert_eq!(check(&[]).status.code(), Some(64));
    assert_eq!(check(&["-c", "config/agent.toml", "--jsn"]).status.code(), Some(64));
}
