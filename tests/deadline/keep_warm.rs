//! Keep-warm in the real program: an idle agent runs dry, says what that costs, and answers as ever.

use escapement_test_support::{Agent, escapement, in_repository, next_action, wait_for};
use serde_json::Value;
use std::process::Output;

fn status(agent: &Agent, words: &[&str]) -> Output {
    let mut command = escapement();
    command.args(["status", "test", "--root"]).arg(agent.root.path()).args(words);
    command.output().expect("the command starts")
}

fn page(agent: &Agent) -> Value {
    let output = status(agent, &["--json"]);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[test]
fn an_idle_agent_stays_warm_and_says_what_that_costs() {
    // A test agent sleeps when it is idle, so it runs dry once per sleep.
    let agent = Agent::new(&[]);
    let process = agent.start_armed();
    let warm = wait_for("the length of a dry run to be known", || {
        let page = page(&agent);
        let warm = page["keep_warm"].clone();
        (warm["dry_runs"].as_u64()? > 100 && warm["typical_ns"].is_u64()).then_some((warm, page))
    });
    let (warm, page) = warm;
    assert_eq!((&warm["setting"], &warm["why_off"]), (&"auto".into(), &Value::Null));
    assert!(warm["interval_us"].as_f64().is_some_and(|micros| micros >= 10.0), "{warm}");
    assert!(warm["share_of_time"].as_f64().is_some_and(|share| share > 0.0 && share < 1.0), "{warm}");
    assert!(warm["expected_delay_ns"].as_f64().is_some_and(|delay| delay > 0.0), "{warm}");
    // Nothing else shows them.
    assert_eq!(page["counters"]["observations"], 0);
    assert_eq!(page["counters"]["outcomes"], serde_json::json!({}));
    assert_eq!(page["latency_ns"]["inference"]["count"], 0);
    let causes = page["misses"]["by_cause"].as_object().expect("counts by cause");
    assert!(causes.values().all(|count| *count == 0), "{causes:?}");

    let text = String::from_utf8(status(&agent, &[]).stdout).expect("text");
    for words in ["keep-warm    auto: a dry run after", "dry runs of", "they delay an observation by"] {
        assert!(text.contains(words), "{words:?} is not in:\n{text}");
    }
    agent.feed().commit(&[0.0; 4]);
    next_action::<2>(&mut agent.gateway());
    assert_eq!(process.stop().0.code(), Some(0));
    assert_eq!(agent.status()["counters"]["actions"], 1);
}

#[test]
fn an_agent_that_must_not_run_dry_says_why() {
    let agent = Agent::new(&[("engine.keep_warm_us", "0")]);
    let process = agent.start_armed();
    let off = wait_for("the page", || Some(page(&agent)["keep_warm"].clone()).filter(Value::is_object));
    assert_eq!(
        (&off["setting"], &off["dry_runs"], &off["why_off"]),
        (&"off".into(), &0.into(), &Value::Null)
    );
    let text = String::from_utf8(status(&agent, &[]).stdout).expect("text");
    assert!(text.contains("keep-warm    off"), "{text}");
    drop(process);

    // A tick of the example policy takes longer than a quarter of a microsecond on every machine.
    let example = format!("{:?}", in_repository("config/example.bundle"));
    let tight = Agent::new(&[
        ("policy.path", &example),
        ("policy.backend", "\"native\""),
        ("observation.dimension", "32"),
        ("action.dimension", "3"),
        ("action.safe_default", "[0.0, 0.0, 0.0]"),
        ("action.neutral", "[0.0, 0.0, 0.0]"),
        ("deadline.inference_us", "1"),
        ("deadline.end_to_end_us", "1"),
        ("deadline.on_miss", "\"safe_default\""),
    ]);
    let process = tight.start_armed();
    wait_for("the trials to end", || {
        let warm = page(&tight)["keep_warm"].clone();
        let why = warm["why_off"].as_str()?;
        why.contains("too much for a deadline of 1 us").then_some(())
    });
    let warm = page(&tight)["keep_warm"].clone();
    let (runs, why) = (warm["dry_runs"].as_u64().expect("a number"), warm["why_off"].as_str());
    // Fifteen trials at a time, with pauses that double from a millisecond on; none if a call alone is too
    // long.
    let most = if why.is_some_and(|why| why.starts_with("a call")) { 0 } else { 15 * 16 };
    assert!(runs <= most, "{runs} dry runs, of which only the trials may be: {why:?}");
    drop(process);
}
