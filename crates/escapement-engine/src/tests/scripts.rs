//! Random scripts, played to the engine and to the oracle: both must give the same actions, in the same
//! order, with the same stamps.

use super::oracle::{Oracle, Planted, TickTiming, Waiting};
use super::*;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;

/// What happens next in a script.
#[derive(Debug, Clone)]
enum Event {
    /// The feed commits, unless its ring is full. The fields say how far the sequence moves, and what is
    /// wrong.
    Publish { moved: i64, age: u64, restart: bool, torn: bool, feature: Option<(usize, f32)> },
    /// The engine ticks.
    Tick(TickTiming),
    /// Time passes between ticks.
    Pass(u64),
    /// The gateway reads this many actions.
    Read(usize),
    /// The daemon dies and the next one starts. The last release may be lost.
    Restart { release_lost: bool },
}

const BAD: [f32; 4] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 11.0];

/// Returns times at every limit, one below, and one above.
fn around(limits: &'static [u64]) -> impl Strategy<Value = u64> {
    (select(limits), 0..3u64).prop_map(|(limit, offset)| (limit + offset).saturating_sub(1))
}

fn step() -> impl Strategy<Value = Step> {
    let answer = prop_oneof![
        12 => Just(Ok(vec![ANSWER; NARROW.action])),
        1 => (0..NARROW.action, select(&BAD[..])).prop_map(|(at, value)| {
            let mut action = vec![ANSWER; NARROW.action];
            action[at] = value;
            Ok(action)
        }),
        1 => select(&[Fault::Raised, Fault::NotAnAction][..]).prop_map(Err),
    ];
    let time = prop_oneof![8 => Just(0), 2 => around(&[50_000, INFERENCE, END_TO_END])];
    let after = prop_oneof![8 => Just(0), 1 => around(&[END_TO_END - INFERENCE, END_TO_END])];
    (time, after, answer).prop_map(|(latency, after_return, answer)| Step::new(latency, after_return, answer))
}

fn event() -> impl Strategy<Value = Event> {
    let publish = (
        prop_oneof![20 => Just(1i64), 1 => -3..4i64],
        prop_oneof![
            60 => Just(0),
            8 => around(&[MAX_AGE]),
            1 => around(&[MAX_SKEW, 1 << 60]).prop_map(|ahead| 0u64.wrapping_sub(ahead)),
        ],
        prop::bool::weighted(0.5),
        prop::bool::weighted(0.03),
        prop::option::weighted(0.05, (0..NARROW.observation, select(&BAD[..]))),
    )
        .prop_map(|(moved, age, restart, torn, feature)| Event::Publish {
            moved,
            age,
            restart,
            torn,
            feature,
        });
    let after_peek = prop_oneof![15 => Just(0), 1 => around(&[END_TO_END])];
    let tick =
        (after_peek, step()).prop_map(|(after_peek, step)| Event::Tick(TickTiming { after_peek, step }));
    prop_oneof![
        44 => publish,
        48 => tick,
        4 => around(&[200_000, MAX_AGE]).prop_map(Event::Pass),
        12 => (0..12usize).prop_map(Event::Read),
        2 => any::<bool>().prop_map(|release_lost| Event::Restart { release_lost }),
    ]
}

fn script_settings() -> impl Strategy<Value = Settings> {
    let budget = || (0..4u32, 1..20u32).prop_map(|(misses, window)| BudgetSpec { misses, window });
    let switches = (prop::bool::weighted(0.8), any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    (switches, prop::bool::weighted(0.8), budget(), budget()).prop_map(
        |((enforce, halt, latest, full_halts, gap_counts), aged, miss_budget, error_budget)| {
            let mut settings = settings(NARROW);
            settings.enforce = enforce;
            settings.on_miss = if halt { OnMiss::Halt } else { OnMiss::SafeDefault };
            settings.backlog = if latest { Backlog::Latest } else { Backlog::Every };
            settings.on_full = if full_halts { OnFull::Halt } else { OnFull::Drop };
            settings.on_gap = if gap_counts { OnGap::Count } else { OnGap::SafeDefault };
            settings.deadlines.max_age = aged.then_some(Nanos(MAX_AGE));
            (settings.miss_budget, settings.error_budget) = (miss_budget, error_budget);
            settings
        },
    )
}

fn script() -> impl Strategy<Value = (Settings, Vec<Event>)> {
    (script_settings(), prop::collection::vec(event(), 2_500))
}

/// What a run of scripts has reached.
#[derive(Default)]
struct Seen {
    ticks: Cell<u64>,
    verdicts: RefCell<BTreeSet<(Outcome, Reason)>>,
    skipped: Cell<u64>,
}

/// Plays a script to both, and compares everything that can be seen from outside.
fn play(settings: &Settings, events: &[Event], planted: Planted, seen: &Seen) -> Result<(), TestCaseError> {
    let mut rig = Rig::new(|own| own.clone_from(settings));
    let mut oracle = Oracle::new(settings, planted, rig.clock.manual.now().0);
    let (mut published, mut last_sequence) = (0, 1_000u64);
    for event in events {
        match event {
            Event::Publish { moved, age, restart, torn, feature } => {
                let sequence = last_sequence.saturating_add_signed(*moved);
                let mut payload = vec![0.25; NARROW.observation];
                if let Some((at, value)) = feature {
                    payload[*at] = *value;
                }
                let flags = if *restart { ObservationFlags::RESTART } else { 0 };
                let observation = Published { sequence, age: *age, flags, torn: *torn, payload };
                let room = (oracle.waiting.len() as u64) < CAPACITY;
                prop_assert_eq!(rig.publish(&observation), room);
                if room {
                    last_sequence = sequence;
                    published += 1;
                    let ts_publish_ns = oracle.now.wrapping_sub(*age);
                    oracle.waiting.push_back(Waiting { published: observation, ts_publish_ns });
                }
            }
            Event::Tick(timing) => {
                rig.steps.lock().unwrap().clear();
                rig.script(timing.step.clone());
                rig.clock.pass_after_next_read(timing.after_peek);
                let progress = rig.engine.tick();
                // A tick that did not read the clock must not pass this time on to the next one.
                rig.clock.pass_after_next_read(0);
                oracle.tick(timing);
                seen.ticks.set(seen.ticks.get() + 1);
                prop_assert_eq!(matches!(progress, Progress::Halted(_)), oracle.halted);
                prop_assert_eq!(rig.clock.manual.now().0, oracle.now);
            }
            Event::Pass(time) => {
                rig.clock.manual.advance(Nanos(*time));
                oracle.now += time;
            }
            Event::Read(count) => read(&mut rig, &mut oracle, *count, seen)?,
            Event::Restart { release_lost } => {
                // The release cannot be lost if the feed has already used the slot.
                let room = (oracle.waiting.len() as u64) < CAPACITY;
                let lost = *release_lost && room && oracle.answered_last.is_some();
                if lost {
                    let released = rig.feed.released().unwrap();
                    rig.observations.overwrite(Bytes::CONSUMER_POSITION, released - 1);
                }
                let restarted = rig.restart();
                prop_assert!(restarted.is_ok(), "{restarted:?}");
                oracle.restart(lost);
            }
        }
    }
    read(&mut rig, &mut oracle, usize::MAX, seen)?;
    // Every observation that was published is accounted for.
    let counted = rig.counted();
    prop_assert_eq!(counted.observations, counted.actions + counted.skipped);
    prop_assert_eq!(counted.observations + oracle.waiting.len() as u64, published);
    prop_assert_eq!(
        (counted.observations, counted.actions, counted.skipped),
        (oracle.observations, oracle.actions, oracle.skipped)
    );
    seen.skipped.set(seen.skipped.get() + counted.skipped);
    Ok(())
}

/// Reads as the gateway, and compares each action with the one that the oracle expects.
fn read(rig: &mut Rig, oracle: &mut Oracle, count: usize, seen: &Seen) -> Result<(), TestCaseError> {
    for _ in 0..count {
        let (sent, expected) = (rig.sent(), oracle.unread.pop_front());
        let (Some(sent), Some(expected)) = (&sent, expected) else {
            prop_assert!(sent.is_none() && expected.is_none(), "{sent:?} where {expected:?} is due");
            return Ok(());
        };
        let (outcome, reason) = sent.verdict();
        let ActionHeader { position, sequence, flags, inference_ns, ts_commit_ns, epoch, .. } = sent.header;
        let value = sent.payload[0];
        let found = oracle::Expected {
            position,
            sequence,
            outcome,
            reason,
            flags,
            inference_ns,
            ts_commit_ns,
            epoch,
            value,
        };
        prop_assert_eq!(found, expected);
        seen.verdicts.borrow_mut().insert((outcome, reason));
    }
    Ok(())
}

/// 100,000 ticks of random scripts, each of which follows the documents.
#[test]
fn the_engine_does_what_the_documents_say() {
    let seen = Seen::default();
    let config = Config { cases: 110, failure_persistence: None, ..Config::default() };
    TestRunner::new(config)
        .run(&script(), |(settings, events)| play(&settings, &events, Planted::Nothing, &seen))
        .unwrap_or_else(|failure| panic!("{failure}"));
    assert!(seen.ticks.get() >= 100_000, "only {} ticks", seen.ticks.get());
    assert!(seen.skipped.get() > 1_000, "only {} skipped", seen.skipped.get());
    // The scripts must reach every verdict that they can reach. Otherwise they would show less than they seem
    // to.
    let verdicts = seen.verdicts.take();
    for (outcome, reason) in [
        (Outcome::Policy, Reason::None),
        (Outcome::SafeDefault, Reason::InferenceLate),
        (Outcome::SafeDefault, Reason::EndToEndLate),
        (Outcome::SafeDefault, Reason::Stale),
        (Outcome::SafeDefault, Reason::ObservationNonFinite),
        (Outcome::SafeDefault, Reason::ObservationOutOfRange),
        (Outcome::SafeDefault, Reason::ObservationTorn),
        (Outcome::SafeDefault, Reason::SequenceGap),
        (Outcome::SafeDefault, Reason::SequenceDuplicate),
        (Outcome::SafeDefault, Reason::SequenceReordered),
        (Outcome::SafeDefault, Reason::ActionNonFinite),
        (Outcome::SafeDefault, Reason::ActionOutOfBounds),
        (Outcome::SafeDefault, Reason::PolicyError),
        (Outcome::Halt, Reason::InferenceLate),
        (Outcome::Halt, Reason::EndToEndLate),
        (Outcome::Halt, Reason::ErrorBudget),
    ] {
        assert!(verdicts.contains(&(outcome, reason)), "never saw {outcome:?} {reason:?}");
    }
}

/// With any one rule restated wrongly, the same scripts must fail. A test that cannot fail proves nothing.
#[test]
fn a_planted_mistake_in_any_rule_is_found() {
    for planted in Planted::ALL {
        let config =
            Config { cases: 40, max_shrink_iters: 0, failure_persistence: None, ..Config::default() };
        let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
        let found = TestRunner::new_with_rng(config, rng)
            .run(&script(), |(settings, events)| play(&settings, &events, planted, &Seen::default()));
        assert!(matches!(found, Err(TestError::Fail(..))), "{planted:?} went unnoticed");
    }
}
