//! The real program with real TorchScript policies that are slow, hang, raise or return nonsense.

use escapement::clock::Nanos;
use escapement::directory::RingFile;
use escapement::ring::Consumer;
use escapement::wire::{ActionHeader, AgentState, Outcome, Reason};
use escapement_test_support::bounds::{instantly, report};
use escapement_test_support::fixtures::{ACTION, FAULTY, GOOD, OBSERVATION, fixture};
use escapement_test_support::{Agent, long_runs, next_action, wait_for};

const SAFE_DEFAULT: [f32; ACTION] = [0.125, 0.25, 0.5];
const NEUTRAL: [f32; ACTION] = [0.0; ACTION];

/// An agent with a fixture as its policy. A good call takes far less than half a second, on a busy machine
/// too. The slow fixture is told to take longer.
fn agent(name: &str, more: &[(&str, &str)]) -> Agent {
    let path = format!("{:?}", fixture(name));
    let (observation, action) = (OBSERVATION.to_string(), ACTION.to_string());
    let mut keys = vec![
        ("policy.backend", "\"torch\""),
        ("policy.path", path.as_str()),
        ("observation.dimension", observation.as_str()),
        ("action.dimension", action.as_str()),
        ("action.low", "-1e6"),
        ("action.high", "1e6"),
        ("action.safe_default", "[0.125, 0.25, 0.5]"),
        ("action.neutral", "[0.0, 0.0, 0.0]"),
        ("warm_up.round_calls", "3"),
    ];
    keys.extend_from_slice(more);
    Agent::new(&keys)
}

fn answered(gateway: &mut Consumer) -> (Outcome, Reason, ActionHeader, [f32; ACTION]) {
    let (header, payload) = next_action(gateway);
    let outcome = Outcome::from_number(header.outcome).expect("a known outcome");
    let reason = Reason::from_number(header.reason).expect("a known reason");
    (outcome, reason, header, payload)
}

/// The good policy's answer to [`GOOD`], through the whole agent.
#[test]
fn a_good_policy_is_answered_by_itself() {
    let agent = agent("mlp.pt", &[]);
    let process = agent.start_armed();
    agent.feed().commit(&GOOD);
    let (outcome, reason, header, payload) = answered(&mut agent.gateway());
    assert_eq!((outcome, reason), (Outcome::Policy, Reason::None));
    assert!(header.inference_ns > 0);
    assert!(payload.iter().all(|value| value.is_finite()) && payload != SAFE_DEFAULT);
    assert_eq!(process.stop().0.code(), Some(0));
}

/// `slow_sometimes.pt` takes about 5 ms for [`FAULTY`], and the deadline is 1 ms. The good call before it
/// shows that the policy is late and not the machine. A busy machine may make that call late too, so it is
/// not asserted.
const TIGHT: [(&str, &str); 3] =
    [("deadline.inference_us", "1000"), ("deadline.end_to_end_us", "1000"), ("warm_up.quantile", "0.5")];

/// The guard answers at the deadline. If a busy machine delays the guard by milliseconds, the engine answers
/// first.
fn is_late(reason: Reason) -> bool {
    matches!(reason, Reason::GuardTakeover | Reason::InferenceLate)
}

#[test]
fn a_slow_policy_halts_under_halt() {
    let agent = agent("slow_sometimes.pt", &TIGHT);
    let process = agent.start_armed();
    agent.feed().commit(&FAULTY);
    let (status, stderr) = process.wait();
    assert_eq!(status.code(), Some(80), "{stderr}");
    let (outcome, reason, header, payload) = answered(&mut agent.gateway());
    assert!(is_late(reason) && stderr.contains(reason.name()), "{reason:?}: {stderr}");
    assert_eq!((outcome, payload), (Outcome::Halt, NEUTRAL));
    assert!(
        header.ts_commit_ns > header.ts_publish_ns + header.queue_ns + 1_000_000,
        "not before the deadline"
    );
    assert_eq!(agent.state(), (AgentState::Halted.number(), reason.number().into()));
}

#[test]
fn a_slow_policy_goes_on_with_safe_defaults() {
    let agent =
        agent("slow_sometimes.pt", &[TIGHT[0], TIGHT[1], TIGHT[2], ("deadline.on_miss", "\"safe_default\"")]);
    let process = agent.start_armed();
    let mut feed = agent.feed();
    let mut gateway = agent.gateway();
    for _ in 0..5 {
        feed.commit(&FAULTY);
        let (outcome, reason, _, payload) = answered(&mut gateway);
        assert!(is_late(reason), "{reason:?}");
        assert_eq!((outcome, payload), (Outcome::SafeDefault, SAFE_DEFAULT));
    }
    assert_eq!(process.stop().0.code(), Some(0));
}

#[test]
fn a_slow_policy_is_only_counted_without_enforcement() {
    let agent = agent("slow_sometimes.pt", &[TIGHT[0], TIGHT[1], ("deadline.enforce", "false")]);
    let process = agent.start_armed();
    agent.feed().commit(&FAULTY);
    let (outcome, reason, header, _) = answered(&mut agent.gateway());
    assert_eq!((outcome, reason), (Outcome::Policy, Reason::None));
    assert_ne!(header.flags, 0);
    assert_eq!(process.stop().0.code(), Some(0));
}

/// Returns the cause of the first miss, which this observation must make.
fn cause_of_a_miss(name: &str, observation: &[f32]) -> String {
    let agent = agent(name, &[TIGHT[0], TIGHT[1], TIGHT[2], ("deadline.on_miss", "\"safe_default\"")]);
    let process = agent.start_armed();
    agent.feed().commit(observation);
    assert!(is_late(answered(&mut agent.gateway()).1));
    assert_eq!(process.stop().0.code(), Some(0));
    let status = agent.status();
    status["misses"]["recent"][0]["cause"].as_str().expect("the miss was judged").to_owned()
}

/// The warm-up has measured a policy that is always slow, so its time explains the miss. It has never seen
/// what makes the other one slow: without the processor's counters, that may have been a core that stood
/// still. A busy machine may take the core in the middle of either.
#[test]
fn a_slow_policy_is_blamed_as_far_as_it_was_measured() {
    let always = cause_of_a_miss("slow.pt", &GOOD);
    assert!(["policy_slow", "core_taken"].contains(&always.as_str()), "{always}");
    let sometimes = cause_of_a_miss("slow_sometimes.pt", &FAULTY);
    assert!(["undetermined", "policy_slow", "core_taken"].contains(&sometimes.as_str()), "{sometimes}");
}

/// The warm-up finds a policy that is always slow, and the agent is never armed.
#[test]
fn an_always_slow_policy_is_not_armed_under_halt() {
    let agent = agent("slow.pt", &TIGHT);
    let (status, stderr) = agent.start().wait();
    assert_eq!(status.code(), Some(80), "{stderr}");
    assert!(stderr.contains("warm_up_too_slow"), "{stderr}");
}

#[test]
fn a_raising_policy_gives_the_safe_default_and_then_halts() {
    let agent = agent("throw_sometimes.pt", &[("errors.budget", "{ misses = 2, window = 100 }")]);
    let process = agent.start_armed();
    let mut feed = agent.feed();
    let mut gateway = agent.gateway();
    feed.commit(&GOOD);
    assert_eq!(answered(&mut gateway).0, Outcome::Policy);
    for _ in 0..2 {
        feed.commit(&FAULTY);
        let (outcome, reason, _, payload) = answered(&mut gateway);
        assert_eq!((outcome, reason, payload), (Outcome::SafeDefault, Reason::PolicyError, SAFE_DEFAULT));
    }
    feed.commit(&FAULTY);
    let (outcome, reason, _, payload) = answered(&mut gateway);
    assert_eq!((outcome, reason, payload), (Outcome::Halt, Reason::ErrorBudget, NEUTRAL));
    assert_eq!(process.wait().0.code(), Some(80));
}

#[test]
fn nan_wrong_shape_and_non_tensor_give_the_safe_default() {
    for (name, expected) in [
        ("nan_sometimes.pt", Reason::ActionNonFinite),
        ("wrong_shape_sometimes.pt", Reason::PolicyError),
        ("not_a_tensor_sometimes.pt", Reason::PolicyError),
    ] {
        let agent = agent(name, &[("errors.budget", "{ misses = 2, window = 100 }")]);
        let process = agent.start_armed();
        agent.feed().commit(&FAULTY);
        let (outcome, reason, _, payload) = answered(&mut agent.gateway());
        assert_eq!((outcome, reason, payload), (Outcome::SafeDefault, expected, SAFE_DEFAULT), "{name}");
        assert_eq!(process.stop().0.code(), Some(0));
    }
}

/// The forward never returns from libtorch. The safe default, the halt word, the latch and exit code 81 still
/// follow, although most of the process's memory belongs to libtorch.
#[test]
fn a_policy_that_hangs_in_libtorch_is_given_up() {
    const TIMEOUT: Nanos = Nanos::from_millis(300);
    let runs = if long_runs() { 50 } else { 3 };
    let (mut words, mut exits) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        let agent = agent(
            "hang_sometimes.pt",
            &[
                ("deadline.inference_us", "100000"),
                ("deadline.end_to_end_us", "100000"),
                ("deadline.on_miss", "\"safe_default\""),
                ("deadline.hang_timeout_ms", "300"),
            ],
        );
        let mut process = agent.start_armed();
        let header = agent.attach(RingFile::Actions).expect("it is armed").header();
        agent.feed().commit(&FAULTY);
        let (outcome, reason, action, payload) = answered(&mut agent.gateway());
        assert_eq!((outcome, reason, payload), (Outcome::SafeDefault, Reason::GuardTakeover, SAFE_DEFAULT));
        let due = Nanos(action.ts_publish_ns + action.queue_ns).plus(TIMEOUT);
        words.push(instantly("the halt", || header.state().0 == AgentState::Halted.number()));
        exits.push(instantly("the end", || process.try_wait().is_some()));
        let (status, stderr) = process.wait();
        assert_eq!(status.code(), Some(81), "{stderr}");
        let latch = std::fs::read_to_string(agent.state_path().join("halted")).expect("a latch");
        assert!(latch.contains("policy_hung"), "{latch}");
        for seen in [&mut words, &mut exits] {
            let seen = seen.last_mut().expect("just pushed");
            *seen = seen.map(|at| at.since(due));
        }
        // Its locks are free, even if its memory is not freed yet.
        assert_eq!(agent.start().wait().0.code(), Some(80));
    }
    report("halt word, hung in libtorch, past the hang timeout", words, Nanos::from_millis(1));
    report("exit 81, hung in libtorch, past the hang timeout", exits, Nanos::from_millis(1));
}

/// The forward never returns. When told to stop, the agent halts and gives the reason instead of waiting for
/// ever.
#[test]
fn code_81_hung_policy() {
    let agent = agent(
        "hang_sometimes.pt",
        &[
            ("agent.drain_timeout_ms", "200"),
            // Not before the test tells the agent to stop.
            ("deadline.inference_us", "10000000"),
            ("deadline.end_to_end_us", "10000000"),
        ],
    );
    let process = agent.start_armed();
    agent.feed().commit(&FAULTY);
    wait_for("the observation to be taken up", || {
        let before = agent.attach(RingFile::Actions)?.header().producer_heartbeat_ns();
        std::thread::sleep(std::time::Duration::from_millis(100));
        let after = agent.attach(RingFile::Actions)?.header().producer_heartbeat_ns();
        (before == after).then_some(())
    });
    let (status, stderr) = process.stop();
    assert_eq!(status.code(), Some(81), "{stderr}");
    assert_eq!(agent.state(), (AgentState::Halted.number(), Reason::PolicyHung.number().into()));
}
