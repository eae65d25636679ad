//! The guard on a manual clock. It looks from inside the policy's call, at instants from the script, so every
//! interleaving of a tick is a sequence of calls.

use super::super::{DeadlineGuard, GuardPoll, GuardWake};
use super::*;
use escapement_ring::wire::{ActionFlags, ObservationFlags};
use proptest::prelude::*;

const HANG: u64 = 5_000_000;
/// How long before the end of the hang timeout the guard reports a policy as overdue.
const OVERDUE: u64 = HANG / 2;
/// What the fallback policy answers.
const SPARE: f32 = 0.125;

type Guard = Arc<Mutex<Option<DeadlineGuard<ScriptedClock>>>>;

/// A policy whose call takes time in steps. The guard looks after each step.
struct Watched {
    clock: ScriptedClock,
    guard: Guard,
    steps: Arc<Mutex<VecDeque<u64>>>,
    looks: Arc<Mutex<Vec<GuardPoll>>>,
    answer: Result<f32, Fault>,
    calls: Arc<Mutex<u64>>,
}

impl Policy for Watched {
    fn dimensions(&self) -> Dimensions {
        NARROW
    }

    fn backend(&self) -> &'static str {
        "watched"
    }

    fn infer(&mut self, _observation: &[f32], action: &mut [f32]) -> Result<(), Fault> {
        *self.calls.lock().unwrap() += 1;
        for step in self.steps.lock().unwrap().drain(..) {
            self.clock.manual.advance(Nanos(step));
            if let Some(guard) = self.guard.lock().unwrap().as_mut() {
                self.looks.lock().unwrap().push(guard.poll());
            }
        }
        action.fill(self.answer?);
        Ok(())
    }
}

/// A rig whose policy is watched.
struct WatchedRig {
    rig: Rig,
    guard: Guard,
    looks: Arc<Mutex<Vec<GuardPoll>>>,
    main: Arc<Mutex<VecDeque<u64>>>,
    fallback: Arc<Mutex<VecDeque<u64>>>,
    main_calls: Arc<Mutex<u64>>,
}

impl WatchedRig {
    fn new(change: impl FnOnce(&mut Settings)) -> Self {
        Self::hung_after(HANG, change)
    }

    fn hung_after(hang: u64, change: impl FnOnce(&mut Settings)) -> Self {
        let mut rig = Rig::new(change);
        let guard: Guard = Arc::default();
        let looks: Arc<Mutex<Vec<GuardPoll>>> = Arc::default();
        let (main, fallback, main_calls) = (Arc::default(), Arc::default(), Arc::default());
        rig.engine.pipeline.policies.policy = Box::new(Watched {
            clock: rig.clock.clone(),
            guard: Arc::clone(&guard),
            steps: Arc::clone(&main),
            looks: Arc::clone(&looks),
            answer: Ok(ANSWER),
            calls: Arc::clone(&main_calls),
        });
        *guard.lock().unwrap() = rig.engine.guard(GuardWake::Spin, Some(Nanos(hang)));
        assert!(rig.engine.guard(GuardWake::Spin, None).is_none(), "there is one guard");
        Self { rig, guard, looks, main, fallback, main_calls }
    }

    fn with_fallback(mut self, answer: Result<f32, Fault>) -> Self {
        self.rig.engine.pipeline.policies.fallback = Some(Box::new(Watched {
            clock: self.rig.clock.clone(),
            guard: Arc::clone(&self.guard),
            steps: Arc::clone(&self.fallback),
            looks: Arc::clone(&self.looks),
            answer,
            calls: Arc::default(),
        }));
        self
    }

    /// Answers one observation while time passes in these steps, and returns the one action.
    fn answer(&mut self, steps: &[u64]) -> Sent {
        self.main.lock().unwrap().extend(steps);
        let observation = self.rig.ordinary();
        self.rig.answer(&observation)
    }

    fn looks(&self) -> Vec<GuardPoll> {
        std::mem::take(&mut self.looks.lock().unwrap())
    }
}

#[test]
fn the_guard_steps_in_after_the_deadline_and_not_at_it() {
    let mut watched = WatchedRig::new(|_| ());
    let begun = watched.rig.clock.manual.now().0;
    let sent = watched.answer(&[INFERENCE - 1, 1]);
    let deadline = Nanos(begun + INFERENCE);
    assert_eq!(watched.looks(), [GuardPoll::Due(deadline), GuardPoll::Due(deadline)]);
    assert_eq!((sent.verdict(), sent.header.flags), ((Outcome::Policy, Reason::None), 0));

    let begun = watched.rig.clock.manual.now().0;
    let sent = watched.answer(&[INFERENCE + 1, 700_000]);
    assert!(
        matches!(watched.looks()[..], [GuardPoll::TookOver { halted: false }, GuardPoll::Later(_)]),
        "taken once"
    );
    assert_eq!(sent.verdict(), (Outcome::SafeDefault, Reason::GuardTakeover));
    assert_eq!((sent.payload, sent.header.flags), (vec![SAFE; 2], ActionFlags::INFERENCE_LATE));
    assert_eq!((sent.header.ts_commit_ns, sent.header.inference_ns), (begun + INFERENCE + 1, INFERENCE + 1));
    let counted = watched.rig.counted();
    assert_eq!((counted.actions, counted.discarded, counted.inference_late), (2, 1, 1));
    // First the record of the takeover, then the time that the policy really took.
    let mut records = std::iter::from_fn(|| watched.rig.record()).skip(1);
    let taken = records.next().unwrap();
    assert_eq!(
        (taken.reason, taken.outcome),
        (Reason::GuardTakeover.number(), Outcome::SafeDefault.number())
    );
    assert_eq!((taken.deadline_ns, taken.ts_done_ns), (begun + INFERENCE, begun + INFERENCE + 1));
    let late = records.next().unwrap();
    assert_eq!((late.outcome, late.inference_ns), (0, INFERENCE + 700_001));
}

#[test]
fn the_end_to_end_deadline_is_guarded_too() {
    // Two thirds of it have passed before the policy is called. The rest is less than the inference deadline.
    let clock = ScriptedClock { after_every_read: 60_000, ..ScriptedClock::new() };
    let mut rig = Rig::with(NARROW, clock.clone(), |_| ());
    let looks: Arc<Mutex<Vec<GuardPoll>>> = Arc::default();
    let guard: Guard = Arc::default();
    rig.engine.pipeline.policies.policy = Box::new(Watched {
        clock,
        guard: Arc::clone(&guard),
        steps: Arc::new(Mutex::new(VecDeque::from([31_000]))),
        looks: Arc::clone(&looks),
        answer: Ok(ANSWER),
        calls: Arc::default(),
    });
    *guard.lock().unwrap() = rig.engine.guard(GuardWake::Spin, None);
    let observation = rig.ordinary();
    let sent = rig.answer(&observation);
    assert_eq!(looks.lock().unwrap()[0], GuardPoll::TookOver { halted: false });
    assert_eq!(sent.header.flags, ActionFlags::END_TO_END_LATE);
}

#[test]
fn where_nothing_is_enforced_the_guard_stays_out_but_notices_a_hang() {
    let mut watched = WatchedRig::new(|settings| settings.enforce = false);
    let sent = watched.answer(&[INFERENCE, 2 * END_TO_END, HANG - INFERENCE - 2 * END_TO_END, 1]);
    // A hang is measured from the first look that saw the tick in flight, here after INFERENCE.
    let looks = watched.looks();
    assert!(
        matches!(
            looks[..],
            [GuardPoll::Later(_), GuardPoll::Later(_), GuardPoll::Overdue(_), GuardPoll::Later(_)]
        ),
        "{looks:?}"
    );
    assert_eq!(sent.verdict(), (Outcome::Policy, Reason::None));
    assert_eq!(sent.header.flags, ActionFlags::INFERENCE_LATE | ActionFlags::END_TO_END_LATE);
    watched.answer(&[1, HANG, 1]);
    assert!(matches!(
        watched.looks()[..],
        [GuardPoll::Later(_), GuardPoll::Overdue(_), GuardPoll::Hung { sequence: None }]
    ));
}

#[test]
fn a_policy_that_does_not_return_is_hung_after_the_timeout_and_not_at_it() {
    let mut watched = WatchedRig::new(|_| ());
    // Measured from the tick's beginning, which the guard learns when it takes over.
    let sent = watched.answer(&[INFERENCE + 1, HANG - OVERDUE - INFERENCE - 1, 1, 1, OVERDUE - 2, 1]);
    let looks = watched.looks();
    assert_eq!(looks[0], GuardPoll::TookOver { halted: false });
    assert!(matches!(looks[1], GuardPoll::Later(_)), "{looks:?}");
    let GuardPoll::Overdue(hang) = looks[2] else { panic!("{looks:?}") };
    assert!(matches!(looks[3..5], [GuardPoll::Later(_), GuardPoll::Later(_)]), "reported once: {looks:?}");
    assert_eq!(hang.0, sent.header.ts_publish_ns + sent.header.queue_ns + HANG);
    assert_eq!(looks[5], GuardPoll::Hung { sequence: Some(sent.header.sequence) });
    assert_eq!(watched.rig.actions.state(), (Some(AgentState::Halted), Some(Reason::PolicyHung)));
}

/// This holds however late a tick was first seen, and however long its deadline is.
#[test]
fn a_hang_is_measured_from_the_ticks_beginning() {
    // The most that one look may add to the time for which a tick was watched.
    const LOOK: u64 = 5_000_000;
    for first in [1, LOOK / 5, LOOK] {
        let mut watched = WatchedRig::hung_after(4 * LOOK, |settings| {
            settings.deadlines.inference = Nanos(2 * LOOK);
            settings.deadlines.end_to_end = Nanos(2 * LOOK);
        });
        watched.answer(&[first, LOOK, LOOK - first + 1, LOOK, LOOK - 1, 1]);
        let looks = watched.looks();
        assert_eq!(looks[2], GuardPoll::TookOver { halted: false }, "{first}");
        assert!(
            !matches!(looks[4], GuardPoll::Hung { .. }) && matches!(looks[5], GuardPoll::Hung { .. }),
            "{looks:?}"
        );
    }
}

#[test]
fn the_guard_spends_the_same_budget_and_halts() {
    let mut watched = WatchedRig::new(|settings| {
        settings.on_miss = OnMiss::Halt;
        settings.miss_budget = BudgetSpec { misses: 2, window: 10 };
    });
    // The engine notices one miss, because the guard did not look. The guard notices two.
    *watched.guard.lock().unwrap() = {
        let guard = watched.guard.lock().unwrap().take();
        watched.main.lock().unwrap().push_back(INFERENCE + 1);
        let observation = watched.rig.ordinary();
        assert_eq!(watched.rig.answer(&observation).verdict(), (Outcome::SafeDefault, Reason::InferenceLate));
        guard
    };
    assert_eq!(watched.answer(&[INFERENCE + 1]).verdict(), (Outcome::SafeDefault, Reason::GuardTakeover));
    let sent = watched.answer(&[INFERENCE + 1]);
    assert_eq!(watched.looks().last(), Some(&GuardPoll::TookOver { halted: true }));
    assert_eq!((sent.verdict(), sent.payload), ((Outcome::Halt, Reason::GuardTakeover), vec![NEUTRAL; 2]));
    assert_eq!(watched.rig.actions.state(), (Some(AgentState::Halted), Some(Reason::GuardTakeover)));
    assert_eq!(watched.rig.engine.tick(), Progress::Halted(Reason::GuardTakeover));
    let calls = *watched.main_calls.lock().unwrap();
    watched.rig.publish_ordinary();
    watched.rig.engine.tick();
    assert_eq!((watched.rig.sent(), *watched.main_calls.lock().unwrap()), (None, calls));
}

#[test]
fn a_fallback_stands_in_for_the_policy_and_not_for_the_observation() {
    let late = [INFERENCE + 1];
    let mut watched = WatchedRig::new(|_| ()).with_fallback(Ok(SPARE));
    assert_eq!(watched.answer(&[]).payload, [ANSWER; 2]);
    let sent = watched.answer(&late);
    assert_eq!((sent.verdict(), sent.payload), ((Outcome::Fallback, Reason::GuardTakeover), vec![SPARE; 2]));
    *watched.guard.lock().unwrap() = None;
    let sent = watched.answer(&late);
    assert_eq!((sent.verdict(), sent.payload), ((Outcome::Fallback, Reason::InferenceLate), vec![SPARE; 2]));
    assert_eq!(watched.rig.counted().fallbacks, 2);
    let nonsense = Published { payload: vec![f32::NAN; 3], ..watched.rig.ordinary() };
    let sent = watched.rig.answer(&nonsense);
    assert_eq!(
        (sent.verdict(), sent.payload),
        ((Outcome::SafeDefault, Reason::ObservationNonFinite), vec![SAFE; 2])
    );

    for bad in [Err(Fault::Raised), Ok(f32::NAN), Ok(7.0)] {
        let mut watched = WatchedRig::new(|_| ()).with_fallback(bad);
        let sent = watched.answer(&late);
        assert_eq!(
            (sent.verdict(), sent.payload),
            ((Outcome::SafeDefault, Reason::GuardTakeover), vec![SAFE; 2])
        );
    }
}

/// A policy that counts its resets.
struct Beginner(Arc<Mutex<u64>>);

impl Policy for Beginner {
    fn dimensions(&self) -> Dimensions {
        NARROW
    }

    fn backend(&self) -> &'static str {
        "beginner"
    }

    fn infer(&mut self, _observation: &[f32], action: &mut [f32]) -> Result<(), Fault> {
        action.fill(SPARE);
        Ok(())
    }

    fn reset(&mut self) {
        *self.0.lock().unwrap() += 1;
    }
}

/// The state of a fallback is only valid for observations that follow each other.
#[test]
fn a_fallback_begins_anew_where_the_stream_does() {
    let mut rig = Rig::new(|_| ());
    let resets: Arc<Mutex<u64>> = Arc::default();
    rig.engine.pipeline.policies.fallback = Some(Box::new(Beginner(Arc::clone(&resets))));
    let count = || *resets.lock().unwrap();
    for _ in 0..2 {
        let observation = rig.ordinary();
        rig.answer(&observation);
    }
    assert_eq!(count(), 0);
    let episode = Published { flags: ObservationFlags::RESTART, ..rig.ordinary() };
    rig.answer(&episode);
    assert_eq!(count(), 1, "an episode");
    let ordinary = rig.ordinary();
    rig.answer(&Published { sequence: ordinary.sequence + 5, ..ordinary });
    assert_eq!(count(), 2, "a gap");
    for _ in 0..3 {
        rig.publish_ordinary();
    }
    rig.engine.tick();
    assert_eq!(count(), 3, "observations that were skipped");
}

#[test]
fn a_fallback_that_hangs_is_answered_for_with_the_constant() {
    let mut watched = WatchedRig::new(|_| ()).with_fallback(Ok(SPARE));
    watched.fallback.lock().unwrap().extend([END_TO_END, 1]);
    let sent = watched.answer(&[]);
    assert!(matches!(watched.looks()[..], [GuardPoll::Due(_), GuardPoll::TookOver { halted: false }]));
    assert_eq!(
        (sent.verdict(), sent.payload),
        ((Outcome::SafeDefault, Reason::GuardTakeover), vec![SAFE; 2])
    );
    assert_eq!((sent.header.flags, sent.header.inference_ns), (ActionFlags::END_TO_END_LATE, 0));
    assert_eq!(*watched.main_calls.lock().unwrap(), 0, "the policy is not called for a tick that is over");
    assert_eq!(watched.answer(&[]).verdict(), (Outcome::Policy, Reason::None));
}

/// The guard is stopped between its claim and its commit: the engine does not touch the rings until the guard
/// is done.
#[test]
fn an_engine_waits_for_a_guard_that_is_at_work() {
    let mut watched = WatchedRig::new(|_| ());
    watched.answer(&[]);
    assert_eq!(watched.rig.engine.tick(), Progress::Idle);
    watched.rig.engine.pipeline.session.lost_tick =
        Some(super::super::pipeline::LostTick { inference_ns: 1, returned: Nanos(1) });
    watched.rig.engine.pipeline.session.responder.grant(Nanos(u64::MAX));
    watched.rig.publish_ordinary();
    for _ in 0..3 {
        assert_eq!(watched.rig.engine.tick(), Progress::Waiting);
    }
    assert_eq!((watched.rig.sent(), watched.rig.feed.released().unwrap()), (None, 1));
}

proptest! {
    /// Whenever the guard looks, and however long the policy takes, there is one action for each observation,
    /// in order. It is the guard's action exactly if the guard looked after the deadline.
    #[test]
    fn one_action_for_each_observation(
        ticks in prop::collection::vec(prop::collection::vec(1u64..INFERENCE, 0..4), 1..40)
    ) {
        let mut watched = WatchedRig::new(|_| ());
        for steps in &ticks {
            let sent = watched.answer(steps);
            let elapsed: u64 = steps.iter().sum();
            let expected = if elapsed > INFERENCE { Reason::GuardTakeover } else { Reason::None };
            prop_assert_eq!(sent.verdict().1, expected);
        }
        let counted = watched.rig.counted();
        prop_assert_eq!((counted.actions, counted.skipped), (ticks.len() as u64, 0));
        prop_assert_eq!(watched.rig.feed.released().unwrap(), ticks.len() as u64);
    }
}

/// Rehearsals go through the same code as takeovers, and answer nothing.
#[test]
fn a_rehearsed_takeover_answers_nothing_and_the_real_one_follows() {
    let mut watched = WatchedRig::new(|settings| {
        settings.keep_warm = KeepWarm::Auto;
        settings.on_miss = OnMiss::Halt;
    });
    for _ in 0..100 {
        let now = watched.rig.clock.manual.now();
        watched.guard.lock().unwrap().as_mut().expect("a guard").rehearse(now);
    }
    assert_eq!(watched.rig.sent(), None);
    assert_eq!(watched.rig.counted(), CounterSnapshot::default());
    assert_eq!(watched.rig.record(), None);
    assert_eq!(watched.rig.actions.region.header().state().0, AgentState::Armed.number());
    let sent = watched.answer(&[INFERENCE + 1]);
    assert_eq!(sent.verdict(), (Outcome::Halt, Reason::GuardTakeover));
}
