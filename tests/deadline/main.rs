//! The deadline guard in the real program. The safe default leaves while the policy sleeps, a policy that
//! hangs ends the process, and a halt by the guard is kept.
//!
//! Test hooks make the policies misbehave (`src/daemon/planted.rs`), so these tests need no libtorch.
//! `tests/torch/end_to_end.rs` shows the same with TorchScript. `ESCAPEMENT_LONG` sets the counts for a
//! release.

mod keep_warm;

use escapement::clock::{Clock, MonotonicClock, Nanos};
use escapement::directory::RingFile;
use escapement::wire::{AgentState, Outcome, Reason};
use escapement_test_support::bounds::{instantly, report};
use escapement_test_support::{Agent, Process, long_runs, next_action, test_data, wait_for};
use std::time::Duration;

/// The test agents' safe default. The policy's own answer is all zeros.
const SAFE_DEFAULT: [f32; 2] = [0.25, -0.25];
/// An observation from which the policy never returns.
const HANG: [f32; 4] = [1_000_000.0, 0.0, 0.0, 0.0];

/// Returns an observation during which the policy sleeps for `time`.
fn sleeping(time: Duration) -> [f32; 4] {
    [time.as_micros() as f32, 0.0, 0.0, 0.0]
}

fn agent(more: &[(&str, &str)]) -> Agent {
    let mut keys = vec![
        ("deadline.inference_us", "2000"),
        ("deadline.end_to_end_us", "2000"),
        ("deadline.on_miss", "\"safe_default\""),
    ];
    keys.extend_from_slice(more);
    Agent::new(&keys)
}

fn start(agent: &Agent, hook: (&str, &str)) -> Process {
    let mut command = agent.command();
    command.env(hook.0, hook.1);
    let process = Process::spawn(command);
    wait_for("the agent to be armed", || {
        let header = agent.attach(RingFile::Actions)?.header();
        (header.state().0 == AgentState::Armed.number()).then_some(())
    });
    process
}

/// Shows that the other tests can fail: without its guard, an agent answers only after the policy returns.
#[test]
fn planted_bug_an_agent_without_its_guard_is_found_out() {
    let agent = agent(&[]);
    let mut command = agent.command();
    command.env("ESCAPEMENT_TEST_SLEEP", "1").env("ESCAPEMENT_TEST_NO_GUARD", "1");
    let process = Process::spawn(command);
    wait_for("the agent to be armed", || {
        let header = agent.attach(RingFile::Actions)?.header();
        (header.state().0 == AgentState::Armed.number()).then_some(())
    });
    agent.feed().commit(&sleeping(Duration::from_secs(1)));
    let (header, payload) = next_action(&mut agent.gateway());
    assert_eq!((header.reason, payload), (Reason::InferenceLate.number(), SAFE_DEFAULT));
    assert!(header.ts_commit_ns > header.ts_publish_ns + 1_000_000_000, "a second late");
    assert_eq!(process.stop().0.code(), Some(0));
}

/// The deadline is 2 ms and the policy sleeps for a second. That is far longer than a busy machine keeps the
/// guard from its core.
#[test]
fn the_safe_default_leaves_while_the_policy_sleeps() {
    for wake in ["\"spin\"", "\"sleep\""] {
        let agent = agent(&[("guard.wake", wake)]);
        let process = start(&agent, ("ESCAPEMENT_TEST_SLEEP", "1"));
        let (mut feed, mut gateway) = (agent.feed(), agent.gateway());
        feed.commit(&sleeping(Duration::from_secs(1)));
        let (header, payload) = next_action(&mut gateway);
        let seen = MonotonicClock.now();
        assert_eq!(
            (header.outcome, header.reason),
            (Outcome::SafeDefault.number(), Reason::GuardTakeover.number())
        );
        assert_eq!(payload, SAFE_DEFAULT);
        let peeked = header.ts_publish_ns + header.queue_ns;
        assert!(header.ts_commit_ns > peeked + 2_000_000, "not before the deadline");
        assert!(seen.0 < peeked + 1_000_000_000, "it left while the policy slept");

        // The policy's own answer is discarded. The engine answers the next observation when the policy has
        // returned.
        feed.commit(&[0.0; 4]);
        let (next, _) = next_action::<2>(&mut gateway);
        assert_eq!((next.position, next.sequence), (header.position + 1, header.sequence + 1));
        let (status, stderr) = process.stop();
        assert_eq!(status.code(), Some(0), "{stderr}");
        let counters = agent.status()["counters"].clone();
        assert_eq!((&counters["discarded"], &counters["actions"]), (&1.into(), &2.into()), "{counters:#}");
    }
}

#[test]
fn a_takeover_that_spends_the_budget_halts_and_is_kept() {
    let agent = agent(&[("deadline.on_miss", "\"halt\""), ("warm_up.quantile", "0.5")]);
    let process = start(&agent, ("ESCAPEMENT_TEST_SLEEP", "1"));
    agent.feed().commit(&sleeping(Duration::from_secs(1)));
    let (header, payload) = next_action::<2>(&mut agent.gateway());
    assert_eq!((header.outcome, header.reason), (Outcome::Halt.number(), Reason::GuardTakeover.number()));
    assert_eq!(payload, [0.0; 2], "the neutral action");
    assert_eq!(agent.state(), (AgentState::Halted.number(), Reason::GuardTakeover.number().into()));
    let (status, stderr) = process.wait();
    assert_eq!(status.code(), Some(80), "{stderr}");
    let (status, stderr) = agent.start().wait();
    assert_eq!(status.code(), Some(80), "{stderr}");
    assert!(stderr.contains("guard_takeover") && stderr.contains("rearm"), "{stderr}");
}

#[test]
fn a_fallback_policy_answers_where_the_main_one_is_late() {
    let bundle = |name: &str| format!("{:?}", test_data(name));
    let (main, fallback) = (bundle("small.bundle"), bundle("other.bundle"));
    let agent = agent(&[
        ("policy.backend", "\"native\""),
        ("policy.path", &main),
        ("fallback.bundle", &fallback),
        ("observation.dimension", "3"),
    ]);
    let process = start(&agent, ("ESCAPEMENT_TEST_SLEEP", "1"));
    agent.feed().commit(&[1_000_000.0, 0.5, 0.5]);
    let (header, payload) = next_action::<2>(&mut agent.gateway());
    assert_eq!((header.outcome, header.reason), (Outcome::Fallback.number(), Reason::GuardTakeover.number()));
    assert!(payload != SAFE_DEFAULT && payload.iter().all(|value| value.is_finite()), "{payload:?}");
    assert_eq!(process.stop().0.code(), Some(0));
    assert_eq!(agent.status()["counters"]["fallbacks"], 1);
    assert_eq!(agent.status()["policy"]["fallback"], "other");
}

/// A policy that looked hung and returned: the prepared latch is removed, and nothing halts.
#[test]
fn a_policy_that_is_overdue_and_returns_leaves_no_trace() {
    // The policy is overdue for a quarter of a second before it counts as hung. This is in the middle of it.
    const SLEEP: Duration = Duration::from_millis(1_475);
    let agent = agent(&[("deadline.hang_timeout_ms", "1600"), ("warm_up.quantile", "0.5")]);
    let prepared = agent.state_path().join("halted.new");
    let children = |process: &Process| {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", process.id())).expect("it runs");
        let of_task = |task: std::io::Result<std::fs::DirEntry>| {
            std::fs::read_to_string(task.expect("a task").path().join("children")).unwrap_or_default()
        };
        tasks.map(of_task).collect::<String>()
    };
    let mut process = start(&agent, ("ESCAPEMENT_TEST_SLEEP", "1"));
    let (mut feed, mut gateway) = (agent.feed(), agent.gateway());
    let mut cared_for = false;
    for round in 0..2 {
        feed.commit(&sleeping(SLEEP));
        assert_eq!(next_action::<2>(&mut gateway).0.reason, Reason::GuardTakeover.number());
        wait_for("a latch to be prepared", || prepared.exists().then_some(()));
        // A caretaker that does not start in time is left out.
        cared_for |= !children(&process).is_empty();
        assert_eq!(agent.status()["overdue"], true);
        assert!(!agent.state_path().join("halted").exists());
        if round == 0 {
            wait_for("the policy's return", || (!prepared.exists()).then_some(()));
            wait_for("the caretaker's end", || children(&process).is_empty().then_some(()));
            wait_for("a status file that says so", || (agent.status()["overdue"] == false).then_some(()));
            // A busy machine may make this answer late.
            wait_for("the policy's answer", || {
                feed.commit(&[0.0; 4]);
                (next_action::<2>(&mut gateway).0.outcome == Outcome::Policy.number()).then_some(())
            });
        }
    }
    assert!(cared_for, "a caretaker was made");
    // A latch that a killed daemon only prepared is not a halt.
    process.kill();
    let next = agent.start_armed();
    assert!(!prepared.exists());
    assert_eq!(next.stop().0.code(), Some(0));
}

/// The policy never returns. The safe default leaves at the deadline; then come the halt word, the latch and
/// exit code 81.
///
/// The latch is on a disk, if this machine has one, so that syncing takes its real time.
/// `ESCAPEMENT_TEST_STATE_ROOT` chooses another place.
#[test]
fn a_policy_that_hangs_ends_the_process_with_its_halt_kept() {
    const TIMEOUT: Nanos = Nanos::from_millis(500);
    let runs = if long_runs() { 100 } else { 6 };
    let mut word = Vec::new();
    let mut exits = std::collections::BTreeMap::<_, Vec<_>>::new();
    for run in 0..runs {
        let on_miss = if run % 2 == 0 { "\"safe_default\"" } else { "\"halt\"" };
        let wake = if run % 4 < 2 { "\"sleep\"" } else { "\"spin\"" };
        let root = std::env::var_os("ESCAPEMENT_TEST_STATE_ROOT");
        let root = root.unwrap_or_else(|| env!("CARGO_TARGET_TMPDIR").into());
        let disk = tempfile::tempdir_in(root).expect("a directory on disk");
        let state_root = format!("{:?}", disk.path());
        let agent = agent(&[
            ("agent.state_root", &state_root),
            ("deadline.on_miss", on_miss),
            ("deadline.hang_timeout_ms", "500"),
            ("guard.wake", wake),
            ("warm_up.quantile", "0.5"),
        ]);
        let mut process = start(&agent, ("ESCAPEMENT_TEST_HANG", "1000000"));
        let header = agent.attach(RingFile::Actions).expect("it is armed").header();
        let mut gateway = agent.gateway();
        agent.feed().commit(&HANG);
        let (action, _) = next_action::<2>(&mut gateway);
        assert_eq!(action.reason, Reason::GuardTakeover.number());
        let peeked = Nanos(action.ts_publish_ns + action.queue_ns);
        // Under `halt` the first miss has already halted the agent. The process still waits for the policy.
        let halted = instantly("the halt", || header.state().0 == AgentState::Halted.number());
        let ended = instantly("the end", || process.try_wait().is_some());
        let (status, stderr) = process.wait();
        let kept = |name| std::fs::read_to_string(disk.path().join("test").join(name)).expect("it is kept");
        let (latch, audit) = (kept("halted"), kept("audit.jsonl"));
        assert_eq!(status.code(), Some(81), "{stderr}");
        let expected = if on_miss.contains("halt") { Reason::GuardTakeover } else { Reason::PolicyHung };
        assert_eq!(agent.state(), (AgentState::Halted.number(), expected.number().into()));
        assert!(latch.contains(expected.name()), "{latch}");
        // The supervisor may read the halt before its record. The guard, which gives up the policy, knows the
        // sequence.
        let answered = latch.contains(r#""sequence":1,"#);
        assert!(
            answered || expected == Reason::GuardTakeover && latch.contains(r#""sequence":null,"#),
            "{latch}"
        );
        let halts = audit.lines().filter(|line| line.contains(r#""what":"halt""#));
        assert_eq!(halts.count(), 1, "{audit}");
        let last = audit.lines().last().expect("its end");
        assert!(last.contains(r#""what":"stop","reason":"policy_hung""#), "{audit}");
        // This was written while the policy was overdue.
        assert_eq!(agent.status()["counters"]["actions"], 1);
        assert_eq!(agent.status()["misses"]["recent"][0]["reason"], "guard_takeover");
        let past = |at: Nanos| at.since(peeked.plus(TIMEOUT));
        // The engine's clock follows the system's. Shortly after the start it is not exact yet.
        let apart = Nanos(TIMEOUT.0 / 200);
        assert!(ended[1].plus(apart).since(peeked) > TIMEOUT, "not before its time");
        if expected == Reason::PolicyHung {
            assert!(halted[1].plus(apart).since(peeked) > TIMEOUT, "not before its time");
            word.push(halted.map(past));
        }
        let kind = format!("exit 81, guard.wake = {wake}, on_miss = {on_miss}, past the hang timeout");
        exits.entry(kind).or_default().push(ended.map(past));
        assert_eq!(agent.start().wait().0.code(), Some(80), "the halt stays");
    }
    report("halt word, past the hang timeout", word, Nanos::from_millis(1));
    for (kind, exit) in exits {
        report(&kind, exit, Nanos::from_millis(1));
    }
}
