//! `escapement inspect` and `escapement validate`: the real program, its streams and its exit codes.

use escapement_test_support::escapement;
use escapement_test_support::torchscript::{archive, perceptron, weights};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Output;

/// A directory with a policy that lowers, one that does not, and one that is damaged.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        let files = Self(tempfile::tempdir().expect("a temporary directory"));
        let sound = perceptron();
        let body = "y = torch.tanh(torch.linear(x, CONSTANTS.c0, CONSTANTS.c1))\n\
                    return torch.cdist(y, CONSTANTS.c0)";
        std::fs::write(files.path("damaged.pt"), &sound[..sound.len() / 2]).expect("written");
        std::fs::write(files.path("sound.pt"), sound).expect("written");
        let constants = [weights(&[4, 4], 1), weights(&[4], 2)];
        std::fs::write(files.path("unsupported.pt"), archive(body, &constants)).expect("written");
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

fn run(command: &str, policy: &Path, arguments: &[&str]) -> Output {
    escapement().arg(command).arg(policy).args(arguments).output().expect("the program runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("output is text")
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", text(&output.stdout)))
}

#[test]
fn a_plan_is_shown_step_by_step() {
    let files = Files::new();
    let output = run("inspect", &files.path("sound.pt"), &[]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let told = text(&output.stdout);
    for part in ["operator", "fused", "kernel", "mul-adds", "torch.linear", "dense (", "code/__torch__.py:"] {
        assert!(told.contains(part), "{told} lacks {part}");
    }
    assert!(told.contains("multiply-adds, ") && told.contains("at the median of 20000"), "{told}");
    assert!(output.stderr.is_empty());

    let output = run("inspect", &files.path("sound.pt"), &["--json"]);
    let plan = json(&output);
    assert_eq!(plan["lowered"], true);
    let steps = plan["steps"].as_array().expect("steps");
    let sum = |key: &str| steps.iter().map(|step| step[key].as_u64().expect("a number")).sum::<u64>();
    assert_eq!(plan["multiply_adds"], sum("multiply_adds"));
    assert_eq!(plan["weight_bytes"], sum("weight_bytes"));
    assert!(plan["multiply_adds"].as_u64() > Some(0) && plan["speed"]["p50_ns"].as_u64() > Some(0), "{plan}");
    assert!(plan["golden"].is_null(), "a file that stands alone has no vectors");
}

#[test]
fn what_stopped_the_lowering_is_told_with_its_place() {
    let files = Files::new();
    let file = files.path("unsupported.pt");
    let output = run("inspect", &file, &["--dimension", "4"]);
    assert_eq!(output.status.code(), Some(65));
    let told = text(&output.stdout);
    for part in
        ["not lowered", "file      code/__torch__.py", "operator  torch.cdist", "torch     may run it"]
    {
        assert!(told.contains(part), "{told} lacks {part}");
    }
    let line = text(&output.stderr);
    assert_eq!(line.lines().count(), 1, "{line}");
    assert!(
        line.contains("unsupported.pt: code/__torch__.py:") && line.contains(": torch.cdist: "),
        "{line}"
    );

    let output = run("inspect", &file, &["--dimension", "4", "--json"]);
    let refused = json(&output);
    assert_eq!((output.status.code(), &refused["lowered"]), (Some(65), &false.into()));
    assert_eq!(refused["refused"]["kind"], "unsupported");
    let place = &refused["refused"]["place"];
    assert_eq!((&place["file"], &place["operator"]), (&"code/__torch__.py".into(), &"torch.cdist".into()));
    assert!(place["line"].as_u64() > Some(0), "{refused}");

    let output = run("inspect", &files.path("damaged.pt"), &["--json"]);
    let refused = json(&output);
    assert_eq!((output.status.code(), &refused["refused"]["kind"]), (Some(65), &"malformed".into()));
    assert!(refused["torch"].is_null(), "no backend runs what is damaged");
    assert_eq!(run("inspect", &files.path("none.pt"), &[]).status.code(), Some(66));
}

#[test]
fn validate_prints_these_keys_and_no_others() {
    let files = Files::new();
    let output = run(
        "validate",
        &files.path("sound.pt"),
        &["--trials", "2000", "--json", "--deadline-us", "60000000"],
    );
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let summary = json(&output);
    let keys: Vec<_> = summary.as_object().expect("an object").keys().cloned().collect();
    let mut expected = ["backend", "trials", "inference_ns", "hiccup_ns", "within_deadline", "verdict"];
    expected.sort_unstable();
    assert_eq!(keys, expected);
    assert_eq!((&summary["backend"], &summary["trials"]), (&"native".into(), &2000.into()));
    assert_eq!((&summary["within_deadline"], &summary["verdict"]), (&1.0.into(), &"pass".into()));
    for which in ["inference_ns", "hiccup_ns"] {
        let figures = &summary[which];
        let of = |key: &str| figures[key].as_u64().unwrap_or_else(|| panic!("{which} lacks {key}"));
        assert_eq!(of("count"), 2000);
        let rising = ["min", "p50", "p90", "p99", "p999", "max"].map(of);
        assert!(rising.is_sorted(), "{figures}");
    }
    // No call is that short, on any machine.
    let all = [
        "--trials",
        "100",
        "--within",
        "100",
        "--deadline-us",
        "1",
        "--backend",
        "null",
        "--dimension",
        "4096",
    ];
    let output = run("validate", &files.path("sound.pt"), &all);
    let told = text(&output.stdout);
    let share = if told.contains("100.0000 % within 1 us") { Some(0) } else { Some(1) };
    assert_eq!(output.status.code(), share, "{told}");
}

#[test]
fn a_run_is_compared_with_its_baseline_and_reported() {
    let files = Files::new();
    let policy = files.path("sound.pt");
    let report = |name: &str| files.path(name).to_str().expect("UTF-8").to_owned();
    let (page, log, base) = (report("r.html"), report("r.hlog"), report("base.json"));
    let common = ["--trials", "2000", "--deadline-us", "60000000"];
    let with = |more: &[&str]| run("validate", &policy, &[&common, more].concat());
    let output = with(&["--json", "--html", &page, "--hlog", &log]);
    let mut summary = json(&output);
    let page = std::fs::read_to_string(page).expect("a page");
    assert!(page.starts_with("<!doctype html>") && page.contains("<svg") && !page.contains("http"), "{page}");
    let log = std::fs::read_to_string(log).expect("a log");
    assert!(log.contains("Tag=inference,") && log.contains("Tag=hiccup"), "{log}");

    // Baselines that are a hundred times as fast, and a hundred times as slow.
    for (factor, code) in [(0.01, 1), (100.0, 0)] {
        let figures = summary["inference_ns"].clone();
        let scaled = |value: &Value| ((value.as_f64().expect("a number") * factor) as u64).max(1);
        summary["inference_ns"]["p50"] = scaled(&figures["p50"]).into();
        let slices = figures["slice_p50"].as_array().expect("slices").iter().map(scaled);
        summary["inference_ns"]["slice_p50"] = slices.collect();
        std::fs::write(&base, summary.to_string()).expect("written");
        let output = with(&["--baseline", &base]);
        assert_eq!(output.status.code(), Some(code), "{}", text(&output.stdout));
        assert!(text(&output.stdout).contains("times the baseline's; noise explains up to"));
        assert_eq!(text(&output.stderr).contains("regression: the median"), code == 1);
        summary["inference_ns"] = figures;
    }
    std::fs::write(&base, "{}").expect("written");
    assert_eq!(with(&["--baseline", &base]).status.code(), Some(64));
    assert_eq!(with(&["--baseline", &report("none.json")]).status.code(), Some(66));
}

#[test]
fn text_of_a_file_is_escaped() {
    let files = Files::new();
    let shouts = "\u{1b}]0;owned\u{7}\u{1b}[2J\u{202e}\\nescapement: everything is fine";
    let body = format!("ops.prim.RaiseException('{shouts}')\nreturn torch.linear(x, CONSTANTS.c0)");
    std::fs::write(files.path("shouts.pt"), archive(&body, &[weights(&[3, 4], 1)])).expect("written");
    for arguments in [&["--dimension", "4"][..], &["--dimension", "4", "--json"]] {
        let output = run("inspect", &files.path("shouts.pt"), arguments);
        assert_eq!(output.status.code(), Some(65));
        let said = text(&output.stderr);
        assert!(said.contains("\\u{1b}]0;owned") && said.contains("\\nescapement: everything"), "{said:?}");
        assert_eq!(said.lines().count(), 1, "{said:?}");
        for stream in [said, text(&output.stdout)] {
            let harmful = |it: char| it != '\n' && (it.is_control() || it == '\u{202e}');
            assert!(!stream.contains(harmful), "{stream:?}");
        }
    }
}
