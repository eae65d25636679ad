//! The lists of "What a gateway does" in `docs/FORMATS.md`, held to the program; and a gateway in C written
//! from them.

use crate::layout::{assert_compiled, c_compiler, compile, in_package};
use escapement::clock::{Clock, ManualClock, MonotonicClock, Nanos};
use escapement::directory::RingFile;
use escapement::gateway::{Condition, Gateway, Limits, Present, Received};
use escapement::ring::{HeapRegion, Producer, ProtocolViolation, Region};
use escapement::shm::{MappedFile, ShmError};
use escapement::wire::{ActionHeader, AgentState, Outcome, Reason};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use zerocopy::IntoBytes;

const TIMEOUT: Nanos = Nanos::from_millis(10);
const LIMITS: Limits = Limits { heartbeat_timeout: TIMEOUT, max_action_age: Nanos::from_millis(20) };

/// The items of a marked list of the page. A list that is missing or empty fails the test.
fn list(page: &str, name: &str) -> Vec<String> {
    let begin = format!("<!-- list: {name} -->");
    let (_, rest) = page.split_once(&begin).unwrap_or_else(|| panic!("no list {name}"));
    let (body, _) = rest.split_once("<!-- end -->").unwrap_or_else(|| panic!("list {name} has no end"));
    let is_item =
        |line: &&str| line.starts_with("- ") || line.starts_with(|first: char| first.is_ascii_digit());
    let items: Vec<String> = body
        .lines()
        .filter(is_item)
        .map(|line| line.trim_start_matches(|c: char| "- .0123456789".contains(c)).replace('`', ""))
        .collect();
    assert!(!items.is_empty(), "list {name} is empty");
    items
}

fn page() -> String {
    std::fs::read_to_string(in_package("docs/FORMATS.md")).expect("the page is there")
}

fn received(outcome: Outcome, condition: Condition) -> Received<'static> {
    let verdict = Some((outcome, Reason::None));
    let (now, max_action_age) = (Nanos(0), Nanos(0));
    Received {
        generation: 1,
        ring_position: 0,
        header: ActionHeader::default(),
        payload: &[],
        verdict,
        present: Present { condition, generation: 1, epoch: 0, now, max_action_age },
    }
}

/// The names of the outcomes that the program sends, or does not send.
fn outcomes(sent: bool) -> Vec<&'static str> {
    let is_sent = |outcome: Outcome| received(outcome, Condition::Armed).may_be_sent();
    Outcome::ALL.iter().filter(|outcome| is_sent(**outcome) == sent).map(|outcome| outcome.name()).collect()
}

fn sorted<T: Ord>(mut items: Vec<T>) -> Vec<T> {
    items.sort();
    items
}

#[test]
fn the_page_lists_the_outcomes_that_the_program_sends() {
    let page = page();
    assert_eq!(sorted(list(&page, "outcomes to send")), sorted(outcomes(true)));
    assert_eq!(sorted(list(&page, "outcomes not to send")), sorted(outcomes(false)));
    let all = list(&page, "outcomes to send").len() + list(&page, "outcomes not to send").len();
    assert_eq!(all, Outcome::ALL.len(), "every outcome is in one list");
}

#[test]
fn the_page_lists_the_states_in_which_the_program_sends() {
    let (actions, observations) = (heap(RingFile::Actions), heap(RingFile::Observations));
    let clock = ManualClock::new(Nanos(1));
    let gateway = Gateway::over(actions.clone(), observations, clock, LIMITS).expect("a pair");
    let header = actions.header();
    header.beat_producer(1);
    let sends = |state: &&AgentState| {
        header.reset_state(state.number(), 0);
        gateway.condition() == Condition::Armed
    };
    let found: Vec<&str> = AgentState::ALL.iter().filter(sends).map(|state| state.name()).collect();
    assert_eq!(list(&page(), "states to send in"), found);
}

fn heap(ring: RingFile) -> Region {
    HeapRegion::ring(ring.spec(2, 8, 1)).expect("an allowed geometry")
}

/// A page that leaves an outcome out, as an earlier one did, does not agree with the program.
#[test]
fn a_page_that_forgets_an_outcome_goes_red() {
    let page = page().replacen("- `fallback`\n", "", 1);
    assert_ne!(sorted(list(&page, "outcomes to send")), sorted(outcomes(true)));
    let emptied = page.replacen("- `armed`\n", "", 1);
    assert!(std::panic::catch_unwind(|| list(&emptied, "states to send in")).is_err());
}

/// An action frame: position, outcome, and whether its checksum is wrong.
type Frame = (u64, u16, bool);

/// The epoch of the ring, and of the frames of checks 1 to 5.
const EPOCH: u32 = 3;

fn commit(producer: &mut Producer, (position, outcome, is_spoilt): Frame, committed: Nanos) {
    commit_in_epoch(producer, (position, outcome, is_spoilt), committed, EPOCH);
}

fn commit_in_epoch(
    producer: &mut Producer,
    (position, outcome, is_spoilt): Frame,
    committed: Nanos,
    epoch: u32,
) {
    let payload = [0.5f32, -0.5];
    let header = ActionHeader { position, sequence: position + 1, outcome, ..ActionHeader::default() };
    let mut header = ActionHeader { epoch, ts_commit_ns: committed.0, ..header }.sealed(&payload);
    header.checksum ^= u32::from(is_spoilt);
    let mut claim = producer.try_claim().expect("room");
    claim.write(ActionHeader::BYTES, payload.as_bytes());
    claim.write(0, header.as_bytes());
    claim.commit();
}

fn arm(region: &Region, heartbeat: Nanos) {
    region.header().reset_state(AgentState::Armed.number(), 0);
    region.header().set_epoch(EPOCH.into());
    region.header().beat_producer(heartbeat.0);
}

const POLICY: u16 = Outcome::Policy.number();
/// Frames that may be sent, and between them one or two for each of the checks 1, 2 and 3, which that check
/// alone refuses.
const FRAMES: [Frame; 8] = [
    (0, POLICY, false),
    (1, Outcome::Fallback.number(), false),
    (2, Outcome::SafeDefault.number(), false),
    (3, POLICY, true),
    (3, 99, false),
    (3, Outcome::Halt.number(), false),
    (2, POLICY, false),
    (4, POLICY, false),
];
/// The index of the frame with a repeated position. The program's own gateway leaves it to its caller and
/// counts it.
const REPEATED: usize = 6;
const SENT: [bool; 8] = [true, true, true, false, false, false, false, true];
/// Checks 4 to 8 are made with frames of their own; check 6 by the gateway's own tests in Rust, here in C.
const CHECKS: usize = 8;

#[test]
fn the_programs_gateway_makes_the_checks_of_the_page() {
    let (actions, observations) = (heap(RingFile::Actions), heap(RingFile::Observations));
    let mut producer = Producer::attach(actions.clone()).expect("a new ring");
    for frame in FRAMES {
        commit(&mut producer, frame, Nanos(1));
    }
    arm(&actions, Nanos(1));
    let clock = ManualClock::new(Nanos(1));
    let mut gateway = Gateway::over(actions.clone(), observations, clock.clone(), LIMITS).expect("a pair");
    let mut take = || {
        let taken = gateway.take(|action| Ok::<_, ProtocolViolation>(action.may_be_sent()));
        taken.expect("an honest ring")
    };
    let found: Vec<bool> = std::iter::from_fn(&mut take).collect();
    let mut expected = SENT;
    expected[REPEATED] = true;
    assert_eq!(found, expected);

    commit(&mut producer, (5, POLICY, false), Nanos(1));
    actions.header().reset_state(AgentState::Draining.number(), 0);
    assert_eq!(take(), Some(false), "check 4");
    commit(&mut producer, (6, POLICY, false), Nanos(1));
    arm(&actions, Nanos(1));
    clock.advance(TIMEOUT.plus(Nanos(1)));
    assert_eq!(take(), Some(false), "check 5");
    arm(&actions, clock.now());
    commit_in_epoch(&mut producer, (7, POLICY, false), clock.now(), EPOCH - 1);
    assert_eq!(take(), Some(false), "check 7");
    clock.advance(LIMITS.max_action_age);
    arm(&actions, clock.now());
    commit(&mut producer, (8, POLICY, false), Nanos(1));
    assert_eq!(take(), Some(false), "check 8");
    commit(&mut producer, (9, POLICY, false), clock.now());
    assert_eq!(take(), Some(true), "the neighbour");
    assert_eq!(gateway.account().duplicates + gateway.account().out_of_order, 1);
    assert_eq!(list(&page(), "checks before a send").len(), CHECKS, "each check has a frame here");
}

#[test]
fn a_gateway_in_c_makes_the_checks_of_the_page() {
    let Some(compiler) = c_compiler() else { return };
    let directory = tempfile::tempdir().expect("a directory");
    let program = directory.path().join("gateway");
    let source = in_package("examples/gateway.c");
    assert_compiled(&compile(compiler, &[&source, Path::new("-o"), &program]));
    let spec = RingFile::Actions.spec(2, 16, 1);
    let path = directory.path().join(RingFile::Actions.name());
    let region = MappedFile::create(&path, spec.region_bytes(), |map| {
        Ok::<_, ShmError>(Region::format(Arc::new(map), spec).expect("an allowed geometry"))
    })
    .expect("a new ring");
    let an_hour_ms = 3_600_000;
    let run_with = |count: usize, timeout_ms: u64, max_age_ms: u64| {
        let output = Command::new(&program)
            .arg(directory.path())
            .args([count.to_string(), timeout_ms.to_string(), max_age_ms.to_string()])
            .stdin(Stdio::null())
            .output()
            .expect("the program runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let run = |count, timeout_ms| run_with(count, timeout_ms, an_hour_ms);
    let mut producer = Producer::attach(region.clone()).expect("a new ring");
    let now = MonotonicClock.now();
    for frame in FRAMES {
        commit(&mut producer, frame, now);
    }
    arm(&region, MonotonicClock.now());
    let sent = SENT.iter().filter(|sent| **sent).count();
    let withheld = FRAMES.len() - sent;
    let reasons = "torn 2\nhalt 1\nrepeated 1\n";
    let expected = format!("{sent} actions to send, {withheld} withheld\n{reasons}");
    assert_eq!(run(FRAMES.len(), an_hour_ms), expected);

    let only = |why: &str| format!("0 actions to send, 1 withheld\n{why} 1\n");
    commit(&mut producer, (5, POLICY, false), now);
    region.header().reset_state(AgentState::Draining.number(), 0);
    assert_eq!(run(1, an_hour_ms), only("not_armed"), "check 4");
    commit(&mut producer, (6, POLICY, false), now);
    arm(&region, Nanos(1));
    assert_eq!(run(1, 1), only("silent"), "check 5");
    arm(&region, now);
    commit_in_epoch(&mut producer, (7, POLICY, false), now, EPOCH - 1);
    assert_eq!(run(1, an_hour_ms), only("past_epoch"), "check 7");
    commit(&mut producer, (8, POLICY, false), Nanos(now.0 - 1_000_000_000));
    assert_eq!(run_with(1, an_hour_ms, 900), only("too_old"), "check 8");
    commit(&mut producer, (9, POLICY, false), now.plus(Nanos::from_millis(an_hour_ms)));
    assert_eq!(run(1, an_hour_ms), only("stamped_ahead"), "check 8");
    commit(&mut producer, (10, POLICY, false), now);
    assert_eq!(run(1, an_hour_ms), "1 actions to send, 0 withheld\n", "the neighbour");
}
