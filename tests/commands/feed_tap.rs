//! `escapement feed` and `escapement tap`: with the real daemon between them, and against a faulty daemon or
//! ring.

use escapement::clock::{Clock, ManualClock, Nanos};
use escapement::directory::RingFile;
use escapement::feed::Feed;
use escapement::gateway::check_log;
use escapement::ring::{Consumer, Producer};
use escapement::wire::{ActionHeader, AgentState, ObservationFlags, ObservationHeader, Outcome, Reason};
use escapement_test_support::{Agent, Process, escapement, wait_for};
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use zerocopy::IntoBytes;

/// Returns the command for this agent, with its report as JSON.
fn neighbour(agent: &Agent, name: &str, arguments: &[&str]) -> Command {
    let mut command = escapement();
    command.args([name, "--name", "test", "--json", "--root"]).arg(agent.root.path()).args(arguments);
    command
}

fn output(mut command: Command) -> Output {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).output().unwrap()
}

/// Waits for the end and asserts the code. Returns the text on standard error.
fn fails_with(code: i32, command: Command) -> String {
    let output = output(command);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    stderr
}

fn json(output: &Output) -> Value {
    let stderr = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}: {stderr}"))
}

fn report(command: Command) -> Value {
    let output = output(command);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    json(&output)
}

/// An agent that has rings and no running daemon: the test takes the daemon's place.
fn agent_without_daemon(capacity: u64) -> Agent {
    let agent = Agent::new(&[]);
    agent.directory.create().unwrap();
    agent.directory.make(RingFile::Actions, RingFile::Actions.spec(2, capacity, 7)).unwrap();
    agent.directory.make(RingFile::Observations, RingFile::Observations.spec(4, capacity, 7)).unwrap();
    agent
}

#[test]
fn feed_daemon_and_tap_account_for_every_observation() {
    let agent = Agent::new(&[("deadline.on_miss", "\"safe_default\"")]);
    let daemon = agent.start_armed();
    let log = agent.root.path().join("actions.csv");
    let tap = neighbour(&agent, "tap", &["--log", log.to_str().unwrap()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let faults = "nan=0.05,inf=0.05,gap=0.05,duplicate=0.05,reorder=0.05,torn=0.05";
    let feed = report(neighbour(&agent, "feed", &["--rate", "20000", "--count", "4000", "--fault", faults]));
    assert_eq!(daemon.stop().0.code(), Some(0));
    let tap = tap.wait_with_output().unwrap();
    assert_eq!(tap.status.code(), Some(0), "{}", String::from_utf8_lossy(&tap.stderr));
    let tap = json(&tap);

    let ledger = &tap["ledger"];
    assert_eq!(ledger["observations"], feed["published"]);
    assert_eq!(ledger["actions"], feed["published"], "{tap}");
    for none in ["skipped", "duplicates", "out_of_order", "torn", "waiting", "invented"] {
        assert_eq!(ledger[none], 0, "{none}");
    }
    // The agent finds each fault and names it correctly. A NaN may be in a torn frame, so the counts are
    // bounds.
    let injected = |name: &str| feed["faults"][name].as_u64().unwrap();
    let found = |name: &str| tap["outcomes"][name].as_u64().unwrap_or(0);
    assert!(injected("torn") > 100 && injected("duplicate") > 100, "{feed}");
    assert_eq!(found("observation_torn"), injected("torn"));
    let non_finite = found("observation_non_finite");
    assert!(non_finite > injected("nan") && non_finite <= 2 * (injected("nan") + injected("inf")), "{tap}");
    assert!(found("sequence_gap") > 100 && found("sequence_reordered") > 50, "{tap}");
    assert!(found("policy") > 1_000);
    assert_eq!(tap["latency_ns"]["tick_to_action"]["count"], ledger["actions"]);

    let summary = check_log(&log).unwrap();
    assert_eq!((summary.lost, summary.contradictions, summary.read_again), (0, 0, 0));
    let mut check = escapement();
    check.args(["tap", "--check-log"]).arg(&log);
    let check = output(check);
    assert_eq!(check.status.code(), Some(0));
    let said = String::from_utf8(check.stdout).unwrap();
    assert!(said.starts_with(&format!("{} actions, 0 skipped", ledger["actions"])), "{said}");
}

#[test]
fn a_killed_tap_loses_nothing_and_its_successor_goes_on() {
    let mut agent = PlayedAgent::new(64);
    let log = agent.agent.root.path().join("actions.csv");
    let arguments = ["--log", log.to_str().unwrap()];
    let mut next = 0;
    for _ in 0..5 {
        let tap = Process::spawn(neighbour(&agent.agent, "tap", &arguments));
        let goal = next + 40;
        while next < goal {
            agent.answer(next);
            next += 1;
        }
        // The tap is killed at a random moment after it has taken some of them.
        wait_for("the tap to take some", || (agent.producer.released().unwrap() > next - 25).then_some(()));
        tap.signal(rustix::process::Signal::KILL);
        tap.wait();
    }
    let last = Process::spawn(neighbour(&agent.agent, "tap", &arguments));
    wait_for("the tap to take the rest", || (agent.producer.released().unwrap() == next).then_some(()));
    last.stop();
    let summary = check_log(&log).unwrap();
    assert_eq!((summary.lost, summary.contradictions), (0, 0), "{summary:?}");
    let [(7, ledger)] = summary.ledgers[..] else { panic!("{summary:?}") };
    let account = ledger.account(next, next);
    assert!(account.holds() && account.actions == next, "{account:?}");
}

/// The test in the daemon's place.
struct PlayedAgent {
    agent: Agent,
    producer: Producer,
    observations: Consumer,
}

impl PlayedAgent {
    fn new(capacity: u64) -> Self {
        let agent = agent_without_daemon(capacity);
        let actions = agent.attach(RingFile::Actions).unwrap();
        actions.header().reset_state(AgentState::Armed.number(), 0);
        let observations = Consumer::attach(agent.attach(RingFile::Observations).unwrap()).unwrap();
        Self { producer: Producer::attach(actions).unwrap(), observations, agent }
    }

    /// Waits for room, then commits an action for this position.
    fn answer(&mut self, position: u64) {
        let payload = [0.5f32, -0.5];
        let header = ActionHeader { position, outcome: Outcome::Policy.number(), ..ActionHeader::default() };
        wait_for("room in the action ring", || {
            let mut claim = self.producer.try_claim().ok()?;
            claim.write(0, header.sealed(&payload).as_bytes());
            claim.write(ActionHeader::BYTES, payload.as_bytes());
            claim.commit();
            Some(())
        });
    }

    fn observe(&mut self, count: u64) {
        let region = self.agent.attach(RingFile::Observations).unwrap();
        let mut feed = Feed::attach(region, ManualClock::new(Nanos(1))).unwrap();
        for _ in 0..count {
            feed.publish(0, &[0.0; 4]).unwrap();
            self.observations.peek().unwrap().unwrap().release();
        }
    }

    fn end(&self, state: AgentState, reason: Reason) {
        let region = self.agent.attach(RingFile::Actions).unwrap();
        region.header().reset_state(state.number(), reason.number().into());
    }

    /// Returns the report and exit code of a tap that reads all of this and the end of the agent.
    fn tapped(&self) -> (Option<i32>, Value) {
        let output = output(neighbour(&self.agent, "tap", &["--wait", "0"]));
        (output.status.code(), json(&output))
    }
}

/// A tap must fail on an agent that answers twice, out of order, without an observation, or with torn frames.
#[test]
fn a_planted_fault_of_the_agent_fails_the_ledger() {
    let faults: [(&str, &[u64]); 4] = [
        ("duplicates", &[0, 1, 1, 2]),
        ("out_of_order", &[0, 2, 1]),
        ("invented", &[0, 1, 2, 3]),
        ("none", &[0, 2]),
    ];
    for (fault, positions) in faults {
        let mut agent = PlayedAgent::new(16);
        agent.observe(3);
        for position in positions {
            agent.answer(*position);
        }
        agent.end(AgentState::Stopped, Reason::None);
        let (code, report) = agent.tapped();
        if fault == "none" {
            assert_eq!(code, Some(0), "{report}");
            assert_eq!((&report["ledger"]["actions"], &report["ledger"]["skipped"]), (&2.into(), &1.into()));
        } else {
            assert_eq!(code, Some(1), "{report}");
            assert_eq!(report["ledger"][fault], 1, "{report}");
        }
    }
}

#[test]
fn a_tap_says_that_the_agent_is_lost_and_that_it_halted() {
    let mut agent = PlayedAgent::new(16);
    let header = agent.agent.attach(RingFile::Actions).unwrap().header();
    header.beat_producer(escapement::clock::MonotonicClock.now().0);
    agent.observe(2);
    let tap = Process::spawn(neighbour(&agent.agent, "tap", &["--heartbeat-timeout-ms", "50"]));
    // There is no heartbeat. The tap finds the agent silent, and later halted.
    wait_for("the tap", || (header.consumer_heartbeat_ns() > 0).then_some(()));
    std::thread::sleep(std::time::Duration::from_millis(100));
    agent.answer(0);
    agent.answer(1);
    wait_for("both to be taken", || (agent.producer.released().unwrap() == 2).then_some(()));
    agent.end(AgentState::Halted, Reason::InferenceLate);
    let (status, stderr) = tap.wait();
    assert_eq!(status.code(), Some(0), "{stderr}");
    assert!(stderr.contains("-> halted: inference_late"), "{stderr}");
}

#[test]
fn actions_of_a_silent_agent_are_withheld() {
    let mut agent = PlayedAgent::new(16);
    agent.observe(3);
    (0..3).for_each(|position| agent.answer(position));
    let report = report(neighbour(&agent.agent, "tap", &["--count", "3"]));
    assert_eq!((&report["sent"], &report["withheld"]["silent"]), (&0.into(), &3.into()), "{report}");
}

#[test]
fn a_successor_continues_the_numbers_and_an_open_loop_counts_its_lag() {
    let agent = agent_without_daemon(1024);
    for _ in 0..2 {
        let feed = report(neighbour(&agent, "feed", &["--rate", "5000", "--burst", "10", "--count", "100"]));
        assert_eq!((&feed["published"], &feed["dropped"]), (&100.into(), &0.into()));
        assert_eq!(feed["lag_ns"]["count"], 100);
        // The tenth burst is due 18 ms after the first.
        assert!(feed["elapsed_ns"].as_u64().unwrap() >= 18_000_000, "{feed}");
    }
    let mut reader = Consumer::attach(agent.attach(RingFile::Observations).unwrap()).unwrap();
    for expected in 1..=200u64 {
        let (mut header, mut payload) = (ObservationHeader::default(), [0.0f32; 4]);
        let peek = reader.peek().unwrap().expect("two hundred observations");
        peek.read(0, header.as_mut_bytes());
        peek.read(ObservationHeader::BYTES, payload.as_mut_bytes());
        peek.release();
        assert!(header.is_whole(&payload) && payload.iter().all(|value| value.is_finite()));
        assert_eq!(header.sequence, expected);
        assert_eq!(header.flags & ObservationFlags::RESTART != 0, expected == 1 || expected == 101);
    }
}

#[test]
fn a_full_ring_drops_or_waits_as_told() {
    let agent = agent_without_daemon(16);
    let feed = report(neighbour(&agent, "feed", &["--rate", "max", "--count", "100", "--on-full", "drop"]));
    assert_eq!((&feed["published"], &feed["dropped"]), (&16.into(), &84.into()));
    // The ring is full. Nothing fits, and the feed still ends on time.
    let feed = report(neighbour(&agent, "feed", &["--rate", "max", "--count", "100", "--seconds", "0.2"]));
    assert_eq!((&feed["published"], &feed["waited"]), (&0.into(), &1.into()));
}

#[test]
fn a_replay_publishes_what_was_recorded() {
    let agent = agent_without_daemon(64);
    let path = agent.root.path().join("recorded.obs");
    let observations: Vec<(u64, [f32; 4])> =
        (0..10).map(|index| (1_000 + index * 3_000_000, [index as f32; 4])).collect();
    write_recording(&path, &observations);
    let replay = path.to_str().unwrap();
    let feed = report(neighbour(&agent, "feed", &["--replay", replay, "--repeat", "2", "--pace", "2"]));
    assert_eq!(feed["published"], 20);
    // Two runs of ten observations, 3 ms apart, at double speed: 19 gaps of 1.5 ms.
    assert!(feed["elapsed_ns"].as_u64().unwrap() >= 28_500_000, "{feed}");
    let mut reader = Consumer::attach(agent.attach(RingFile::Observations).unwrap()).unwrap();
    for index in 0..20u64 {
        let (mut header, mut payload) = (ObservationHeader::default(), [0.0f32; 4]);
        let peek = reader.peek().unwrap().unwrap();
        peek.read(0, header.as_mut_bytes());
        peek.read(ObservationHeader::BYTES, payload.as_mut_bytes());
        peek.release();
        assert_eq!(payload, [(index % 10) as f32; 4]);
        assert_eq!(header.ts_event_ns, 1_000 + index * 3_000_000);
    }

    let other = Agent::new(&[]);
    other.directory.create().unwrap();
    other.directory.make(RingFile::Observations, RingFile::Observations.spec(5, 16, 1)).unwrap();
    let stderr = fails_with(64, neighbour(&other, "feed", &["--replay", replay]));
    assert!(stderr.contains("observations of 4 features; the agent takes 5"), "{stderr}");
}

/// Writes a recording as `docs/FORMATS-obs.md` describes it.
fn write_recording(path: &Path, observations: &[(u64, [f32; 4])]) {
    let names = b"a\nb\nc\nd";
    let mut bytes = b"ESCOBSV1".to_vec();
    bytes.extend(128u32.to_le_bytes());
    bytes.extend(4u32.to_le_bytes());
    bytes.extend((observations.len() as u64).to_le_bytes());
    bytes.extend((names.len() as u32).to_le_bytes());
    bytes.resize(64, 0);
    bytes.extend(names);
    bytes.resize(128, 0);
    for (index, (ts_event_ns, values)) in observations.iter().enumerate() {
        bytes.extend((index as u64 + 1).to_le_bytes());
        bytes.extend(ts_event_ns.to_le_bytes());
        bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    }
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_feed_follows_its_agent_to_new_rings() {
    let agent = agent_without_daemon(16);
    let feed =
        Process::spawn(neighbour(&agent, "feed", &["--rate", "500", "--count", "400", "--on-full", "wait"]));
    let committed = |generation: u64| {
        agent.attach(RingFile::Observations).and_then(|region| {
            let committed = region.positions().0;
            (region.spec().generation == generation && committed > 0).then_some(committed)
        })
    };
    wait_for("the first observations", || committed(7));
    agent.directory.make(RingFile::Observations, RingFile::Observations.spec(4, 1024, 8)).unwrap();
    wait_for("observations in the new ring", || committed(8));
    let (status, stderr) = feed.stop();
    assert_eq!(status.code(), Some(0), "{stderr}");
}

#[test]
fn code_64_usage() {
    let agent = Agent::new(&[]);
    for (arguments, says) in [
        (&["feed"][..], "--config"),
        (&["tap"], "--config"),
        (&["feed", "--name", "x", "--rate", "0"], "or max"),
        (&["feed", "--name", "x", "--pace", "-1"], "0.001"),
        (&["feed", "--name", "x", "--fault", "nan=2"], "from 0 to 1"),
        (&["feed", "--name", "x", "--fault", "wrong=0.1"], "out_of_range"),
        (&["feed", "--name", "x", "--rate", "1", "--pace", "1"], "--pace"),
        (&["feed", "--name", "x", "--seconds", "-3"], "0 or more"),
        (&["feed", "--name", "../x"], "one directory"),
        (&["tap", "--name", "x", "--heartbeat-timeout-ms", "0"], "heartbeat-timeout-ms"),
        (&["tap", "--name", "x", "--check-log", "y"], "--check-log"),
        (&["demo", "--rate", "fast"], "or max"),
    ] {
        let mut command = escapement();
        command.args(arguments);
        let stderr = fails_with(64, command);
        assert!(stderr.contains(says), "{arguments:?}: {stderr}");
    }
    let stderr = fails_with(64, neighbour(&agent, "feed", &["--core", "100000", "--wait", "0"]));
    assert!(stderr.contains("core 100000"), "{stderr}");
}

#[test]
fn code_66_no_ring_and_no_recording() {
    let agent = Agent::new(&[]);
    for name in ["feed", "tap"] {
        let stderr = fails_with(66, neighbour(&agent, name, &["--wait", "0.05"]));
        assert!(stderr.contains("waited 0.05 s"), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
    }
    let stderr = fails_with(66, neighbour(&agent, "feed", &["--replay", "no/such.obs"]));
    assert!(stderr.contains("no/such.obs"), "{stderr}");
}

#[test]
fn code_69_second_feed_and_second_tap() {
    let agent = agent_without_daemon(16);
    for name in ["feed", "tap"] {
        let first = Process::spawn(neighbour(&agent, name, &["--seconds", "60"]));
        let lock = agent.directory.path().join(format!("{name}.lock"));
        wait_for("the first to take its role", || {
            let holder = std::fs::read_to_string(&lock).ok()?;
            (holder.trim() == first.id().to_string()).then_some(())
        });
        let stderr = fails_with(69, neighbour(&agent, name, &[]));
        assert!(stderr.contains(&first.id().to_string()), "{stderr}");
        assert_eq!(first.stop().0.code(), Some(0));
    }
}

#[test]
fn code_76_a_position_that_lies() {
    let agent = agent_without_daemon(16);
    let path = agent.directory.path().join(RingFile::Observations.name());
    use std::os::unix::fs::FileExt;
    // The consumer's position, 256 bytes into the region, says that more was released than committed.
    std::fs::File::options().write(true).open(path).unwrap().write_all_at(&99u64.to_le_bytes(), 256).unwrap();
    let stderr = fails_with(76, neighbour(&agent, "feed", &[]));
    assert!(stderr.contains("consumer position 99"), "{stderr}");
}
