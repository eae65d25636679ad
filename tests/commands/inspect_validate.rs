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

/// Few calls, close together, so that a test takes no time.
const QUICK: [&str; 6] = ["--trials", "2000", "--rate", "5000", "--paced-trials", "500"];
/// The longest deadline there is.
const UNHURRIED: [&str; 2] = ["--deadline-us", "60000000"];

fn keys(object: &Value) -> Vec<&str> {
    object.as_object().expect("an object").keys().map(String::as_str).collect()
}

#[test]
fn validate_prints_these_keys_and_no_others() {
    let files = Files::new();
    let output = run("validate", &files.path("sound.pt"), &[&QUICK[..], &UNHURRIED, &["--json"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let summary = json(&output);
    assert_eq!(keys(&summary), ["back_to_back", "backend", "paced", "verdict"]);
    assert_eq!((&summary["backend"], &summary["verdict"]), (&"native".into(), &"pass".into()));
    let of_both = ["hiccup_ns", "inference_ns", "trials", "within_deadline"];
    assert_eq!(keys(&summary["back_to_back"]), of_both);
    let mut of_paced = [&of_both[..], &["arrivals", "feed", "keep_warm"]].concat();
    of_paced.sort_unstable();
    assert_eq!(keys(&summary["paced"]), of_paced);
    let of_keep_warm =
        ["calls", "expected_delay_ns", "interval_us", "mean_delay_ns", "setting", "typical_ns"];
    assert_eq!(keys(&summary["paced"]["keep_warm"]), of_keep_warm);
    assert_eq!(summary["paced"]["arrivals"], "5000 a second, evenly");
    assert_eq!(summary["paced"]["keep_warm"]["setting"], "auto");
    // A tenth of a second with a call after each 10 us without work, at the most.
    let between = summary["paced"]["keep_warm"]["calls"].as_u64().expect("a number");
    assert!((1..=10_000).contains(&between), "{between}");
    for (which, calls) in [("paced", 500), ("back_to_back", 2000)] {
        let series = &summary[which];
        assert_eq!((&series["trials"], &series["within_deadline"]), (&calls.into(), &1.0.into()));
        for kind in ["inference_ns", "hiccup_ns"] {
            let figures = &series[kind];
            let of = |key: &str| figures[key].as_u64().unwrap_or_else(|| panic!("{which} lacks {key}"));
            assert!(of("count") <= calls && (kind == "hiccup_ns" || of("count") == calls), "{figures}");
            let rising = ["min", "p50", "p90", "p99", "p999", "max"].map(of);
            assert!(rising.is_sorted(), "{figures}");
        }
    }
    // No call is that short, on any machine.
    let all = ["--within", "100", "--deadline-us", "1", "--backend", "null", "--dimension", "4096"];
    let output = run("validate", &files.path("sound.pt"), &[&QUICK[..], &all].concat());
    let told = text(&output.stdout);
    let share = if told.contains("100.0000 % of paced calls within 1 us") { Some(0) } else { Some(1) };
    assert_eq!(output.status.code(), share, "{told}");
    let rows: Vec<_> = told.lines().map(|line| line.chars().take(12).collect::<String>()).collect();
    let expected = ["ns          ", "paced       ", "  hiccups   ", "back to back", "  hiccups   "];
    assert_eq!(rows[..5], expected, "{told}");
    assert!(told.contains("\npaced: 5000 a second, evenly; keep-warm auto: after "), "{told}");
}

#[test]
fn calls_are_paced_as_asked_for() {
    let files = Files::new();
    let policy = files.path("sound.pt");
    std::fs::write(files.path("gaps.txt"), "100\n300\n").expect("written");
    let gaps = files.path("gaps.txt").to_str().expect("UTF-8").to_owned();
    let paced = |more: &[&str]| {
        let common = ["--trials", "100", "--paced-trials", "200", "--json"];
        let output = run("validate", &policy, &[&common[..], &UNHURRIED, more].concat());
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let paced = json(&output)["paced"].clone();
        assert_eq!((&paced["trials"], &paced["feed"]), (&200.into(), &more.contains(&"--feed").into()));
        paced
    };
    assert_eq!(paced(&["--gaps", "poisson:4000"])["arrivals"], "4000 a second on average, at random");
    assert_eq!(paced(&["--gaps", &gaps])["arrivals"], format!("5000.0 a second on average, as in {gaps}"));
    let cold = paced(&["--keep-warm", "off"]);
    assert_eq!((&cold["keep_warm"]["setting"], &cold["keep_warm"]["calls"]), (&"off".into(), &0.into()));
    assert_eq!(cold["arrivals"], "1000 a second, evenly");

    let fed = paced(&["--feed", "--rate", "2000", "--dimension", "32", "--backend", "null"]);
    assert_eq!(fed["arrivals"], "2000 a second, evenly");
}

#[test]
fn a_pace_that_makes_no_sense_is_refused_with_one_line() {
    let files = Files::new();
    let policy = files.path("sound.pt");
    std::fs::write(files.path("gaps.txt"), "100\nsoon\n").expect("written");
    let gaps = files.path("gaps.txt").to_str().expect("UTF-8").to_owned();
    let none = files.path("none.obs").to_str().expect("UTF-8").to_owned();
    for (arguments, code, part) in [
        (vec!["--gaps", &gaps], 64, "gaps.txt: line 2: \"soon\": allowed: a gap in microseconds"),
        (vec!["--gaps", "poisson:0"], 64, "allowed: poisson:N, N a whole number from 1 to 1000000"),
        (vec!["--gaps", &none], 66, "none.obs: "),
        (vec!["--rate", "0"], 64, "allowed: a whole number from 1 to 1000000"),
        (vec!["--rate", "5", "--gaps", "poisson:5"], 64, "cannot be used with"),
        (vec!["--feed", "--gaps", "poisson:5"], 64, "cannot be used with"),
        (vec!["--keep-warm", "on"], 64, "allowed: off, auto, or microseconds"),
        (vec!["--feed", "--paced-trials", "1"], 64, "say --dimension N"),
    ] {
        let output = run("validate", &policy, &arguments);
        let told = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {told}");
        assert!(told.contains(part) && output.stdout.is_empty(), "{arguments:?}: {told}");
    }
}

/// The feed of a measurement leaves neither a process nor a file, also if the measurement is killed.
#[test]
fn a_killed_validate_leaves_no_feed() {
    let files = Files::new();
    let arguments = ["--feed", "--dimension", "77", "--backend", "null", "--paced-trials", "1000000"];
    let mut child = escapement()
        .arg("validate")
        .arg(files.path("sound.pt"))
        .args(arguments)
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("the program runs");
    let root = format!("escapement-demo-{}-", child.id());
    let is_there = || {
        let directory = std::fs::read_dir("/dev/shm").or_else(|_| std::fs::read_dir(std::env::temp_dir()));
        let mut names = directory.expect("a directory").flatten().map(|entry| entry.file_name());
        names.any(|name| name.to_string_lossy().starts_with(&root))
    };
    let feeds = || {
        let processes = std::fs::read_dir("/proc").expect("processes").flatten();
        let lines =
            processes.map(|process| std::fs::read(process.path().join("cmdline")).unwrap_or_default());
        lines.filter(|line| String::from_utf8_lossy(line).contains(&root)).count()
    };
    let until = |what: &str, reached: &dyn Fn() -> bool| {
        let begun = std::time::Instant::now();
        while !reached() {
            assert!(begun.elapsed() < std::time::Duration::from_secs(30), "{what}");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    };
    until("no feed", &|| feeds() == 1);
    until("the directory stays while the feed runs", &|| !is_there());
    assert_eq!(feeds(), 1);
    child.kill().expect("it runs");
    child.wait().expect("it ends");
    until("the feed outlives the measurement", &|| feeds() == 0);
    assert!(!is_there());
}

#[test]
fn a_run_is_compared_with_its_baseline_and_reported() {
    let files = Files::new();
    let policy = files.path("sound.pt");
    let report = |name: &str| files.path(name).to_str().expect("UTF-8").to_owned();
    let (page, log, base) = (report("r.html"), report("r.hlog"), report("base.json"));
    let with = |more: &[&str]| run("validate", &policy, &[&QUICK[..], &UNHURRIED, more].concat());
    let output = with(&["--json", "--html", &page, "--hlog", &log]);
    let mut summary = json(&output);
    let page = std::fs::read_to_string(page).expect("a page");
    assert!(page.starts_with("<!doctype html>") && page.contains("<svg") && !page.contains("http"), "{page}");
    let log = std::fs::read_to_string(log).expect("a log");
    for tag in ["paced_inference", "paced_hiccup", "back_to_back_inference", "back_to_back_hiccup"] {
        assert!(log.contains(&format!("Tag={tag},")), "{log} lacks {tag}");
    }

    // Baselines that are a hundred times as fast, and a hundred times as slow.
    for (factor, code) in [(0.01, 1), (100.0, 0)] {
        let figures = summary["paced"]["inference_ns"].clone();
        let scaled = |value: &Value| ((value.as_f64().expect("a number") * factor) as u64).max(1);
        summary["paced"]["inference_ns"]["p50"] = scaled(&figures["p50"]).into();
        let slices = figures["slice_p50"].as_array().expect("slices").iter().map(scaled);
        summary["paced"]["inference_ns"]["slice_p50"] = slices.collect();
        std::fs::write(&base, summary.to_string()).expect("written");
        let output = with(&["--baseline", &base]);
        assert_eq!(output.status.code(), Some(code), "{}", text(&output.stdout));
        assert!(text(&output.stdout).contains("times the baseline's; noise explains up to"));
        assert_eq!(text(&output.stderr).contains("regression: the median"), code == 1);
        summary["paced"]["inference_ns"] = figures;
    }
    // A run that was paced otherwise is not compared, nor is the report of a version without paced calls.
    let output = with(&["--baseline", &base, "--keep-warm", "off"]);
    let told = text(&output.stderr);
    assert_eq!(output.status.code(), Some(64), "{told}");
    assert!(told.contains("base.json: its calls were paced otherwise: 5000 a second"), "{told}");
    std::fs::write(&base, summary["back_to_back"].to_string()).expect("written");
    let output = with(&["--baseline", &base]);
    let told = text(&output.stderr);
    assert_eq!(output.status.code(), Some(64), "{told}");
    assert!(told.contains("no paced figures: an earlier version wrote it"), "{told}");
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
