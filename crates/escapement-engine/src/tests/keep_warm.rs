//! Dry runs: nothing that anybody can read shows that there were any.

use super::super::{CarryRule, CarryRules, FeatureRange, InputCheck, InputCheckMode, InputCheckSpec};
use super::super::{
    Command, CommandWord, IdleStrategy, OnFull, PolicyExtras, RunEnd, StateCopy, Update, run,
};
use super::*;
use crate::noise::{Distribution, Noise};
use crate::telemetry::{FeatureCounts, KeepWarmSnapshot};
use escapement_policy::random::SplitMix64;
use std::hash::{DefaultHasher, Hash, Hasher};

const WIDTHS: Dimensions = Dimensions { observation: 3, action: 2 };

/// Answers from the observation, the noise and a state that every call changes. Faults at some observations.
#[derive(Default)]
struct Recurrent {
    states: [Vec<f32>; 2],
    noise: Vec<f32>,
    calls: Arc<Mutex<u64>>,
}

impl Recurrent {
    fn new() -> Self {
        Self { states: [vec![0.0; 4], vec![0.0; 1]], noise: vec![0.0; 2], calls: Arc::default() }
    }
}

impl Policy for Recurrent {
    fn dimensions(&self) -> Dimensions {
        WIDTHS
    }

    fn backend(&self) -> &'static str {
        "recurrent"
    }

    fn infer(&mut self, observation: &[f32], action: &mut [f32]) -> Result<(), Fault> {
        *self.calls.lock().unwrap() += 1;
        let [long, short] = &mut self.states;
        for (index, state) in long.iter_mut().enumerate() {
            *state = 0.75 * *state + observation[index % observation.len()] * 0.25;
        }
        short[0] = long.iter().sum::<f32>() * 0.125 + self.noise[0];
        if observation[0] > 0.97 {
            return Err(Fault::Raised);
        }
        action[0] = short[0].clamp(-1.0, 1.0);
        action[1] = (long[1] + self.noise[1]).clamp(-1.0, 1.0);
        Ok(())
    }

    fn reset(&mut self) {
        self.states.iter_mut().for_each(|state| state.fill(0.0));
    }

    fn noise_mut(&mut self) -> &mut [f32] {
        &mut self.noise
    }

    fn state_mut(&mut self, index: usize) -> Option<&mut [f32]> {
        self.states.get_mut(index).map(|state| &mut state[..])
    }

    fn can_run_dry(&self) -> bool {
        true
    }
}

fn extras() -> PolicyExtras {
    let spec = InputCheckSpec { mode: InputCheckMode::Clamp, deviations: 1.0 };
    let feature = FeatureRange { low: -1.0, high: 0.99, statistics: None };
    PolicyExtras {
        input_check: InputCheck::new(spec, &[feature; 3]),
        noise: Some(Noise::new(7, Distribution::Gaussian)),
        carry: Some(CarryRules { on_miss: CarryRule::BurnIn(3), on_gap: CarryRule::Reset }),
    }
}

/// Everything that an engine leaves behind.
#[derive(Debug, PartialEq)]
struct Left {
    /// A digest of every frame sent and of every record, in order.
    sent: u64,
    records: u64,
    counted: CounterSnapshot,
    features: (u64, Vec<(usize, u64)>),
    states: Vec<Vec<f32>>,
    noise: Vec<f32>,
    heartbeats: [u64; 2],
    word: (u32, u32),
    released: u64,
}

/// Answers random observations, some of which are refused, late, faulty or after a gap, and runs dry between
/// them as `idle` says.
fn left_after(observations: u64, mut idle: impl FnMut(&mut Rig)) -> Left {
    let mut rig = Rig::with(WIDTHS, ScriptedClock::new(), |settings| {
        settings.miss_budget = BudgetSpec { misses: 900, window: 1000 };
        settings.keep_warm = KeepWarm::Every(Nanos(1));
    });
    rig.engine.pipeline.policies.policy = Box::new(Recurrent::new());
    let Engine { pipeline, dry, .. } = &mut rig.engine;
    dry.serve(&mut pipeline.policies, None);
    dry.plan(&pipeline.settings);
    let extras = extras();
    let features = extras.input_check.as_ref().expect("a check").counts();
    rig.engine.set_extras(extras);
    let mut random = SplitMix64::new(99);
    let (mut sent, mut records) = (0, 0);
    for _ in 0..observations {
        let mut published = rig.ordinary();
        for value in &mut published.payload {
            *value = (random.next_word() >> 40) as f32 / (1u32 << 23) as f32 - 1.0;
        }
        match random.below(50) {
            0 => rig.next_sequence += 3,
            1 => published.torn = true,
            2 => published.payload[2] = f32::NAN,
            3 => published.age = 2 * MAX_AGE,
            4 => published.flags = ObservationFlags::RESTART,
            5 => rig.clock.pass_after_next_read(2 * END_TO_END),
            _ => {}
        }
        let Sent { header, payload } = rig.answer(&published);
        sent = mix(sent, &[header.as_bytes(), payload.as_bytes()]);
        while let Some(record) = rig.record() {
            records = mix(records, &[record.as_bytes()]);
        }
        idle(&mut rig);
    }
    let policy = rig.engine.pipeline.policies.policy.as_mut();
    let noise = policy.noise_mut().to_vec();
    let states = (0..2).map(|index| policy.state_mut(index).expect("two states").to_vec()).collect();
    let (actions, observed) = (rig.actions.region.header(), rig.observations.region.header());
    Left {
        sent,
        records,
        counted: rig.counted(),
        features: read(&features),
        states,
        noise,
        heartbeats: [actions.producer_heartbeat_ns(), observed.consumer_heartbeat_ns()],
        word: actions.state(),
        released: rig.observations.region.positions().1,
    }
}

/// Adds bytes to a digest in which the order counts.
fn mix(digest: u64, parts: &[&[u8]]) -> u64 {
    let mut hasher = DefaultHasher::new();
    (digest, parts).hash(&mut hasher);
    hasher.finish()
}

fn read(features: &FeatureCounts) -> (u64, Vec<(usize, u64)>) {
    (features.observations(), features.outside())
}

/// Some passes of a loop without work, each of which may run dry.
fn runs_dry(rig: &mut Rig) {
    for _ in 0..3 {
        rig.engine.run_dry();
    }
}

#[test]
fn nothing_shows_that_there_were_dry_runs() {
    const OBSERVATIONS: u64 = 1_000_000;
    let cold = left_after(OBSERVATIONS, |_| ());
    let warm = left_after(OBSERVATIONS, runs_dry);
    assert_eq!((warm.counted.observations, warm.released), (OBSERVATIONS, OBSERVATIONS));
    let reasons = cold.counted.outcomes.len();
    assert!(reasons > 5, "the script meets few reasons: {:?}", cold.counted.outcomes);
    assert!(cold.features.0 > 100 && cold.counted.state_resets > 100, "{cold:?}");
    // Noise is drawn anew for every observation, so what is left of it may be that of a dry run.
    assert!(Left { noise: cold.noise.clone(), ..warm } == cold, "a dry run left something behind");
}

#[test]
fn planted_bug_a_dry_run_that_counts_on_the_real_counters_is_found() {
    let cold = left_after(100, |_| ());
    let warm = left_after(100, |rig| {
        let real = Arc::clone(&rig.counters);
        rig.engine.dry.session.responder.with(|responder| responder.counters = real);
        rig.engine.run_dry();
    });
    assert_ne!(warm.counted, cold.counted);
}

#[test]
fn planted_bug_a_dry_run_that_does_not_put_the_states_back_is_found() {
    let cold = left_after(100, |_| ());
    let warm = left_after(100, |rig| {
        rig.engine.dry.states = StateCopy::default();
        rig.engine.run_dry();
    });
    assert_ne!((warm.states, warm.sent), (cold.states, cold.sent));
}

#[test]
fn planted_bug_a_dry_run_in_the_real_session_is_found() {
    let cold = left_after(100, |_| ());
    let warm = left_after(100, |rig| {
        let Engine { pipeline, dry, .. } = &mut rig.engine;
        std::mem::swap(&mut pipeline.session.admission, &mut dry.session.admission);
        rig.engine.run_dry();
    });
    assert_ne!(warm.sent, cold.sent);
}

/// Runs the loop while nothing comes, for this long on the engine's clock, and returns the calls of the
/// policy and the figures.
fn idle_for(
    passed: u64,
    per_look: u64,
    can_run_dry: bool,
    change: impl FnOnce(&mut Settings),
) -> (u64, KeepWarmSnapshot) {
    struct Timed(ScriptedClock, Arc<Mutex<u64>>, bool);
    impl Policy for Timed {
        fn dimensions(&self) -> Dimensions {
            WIDTHS
        }
        fn backend(&self) -> &'static str {
            "timed"
        }
        fn infer(&mut self, _: &[f32], action: &mut [f32]) -> Result<(), Fault> {
            *self.1.lock().unwrap() += 1;
            self.0.manual.advance(Nanos(4_000));
            action.fill(0.0);
            Ok(())
        }
        fn can_run_dry(&self) -> bool {
            self.2
        }
    }
    let mut clock = ScriptedClock::new();
    clock.after_every_read = per_look;
    let mut rig = Rig::with(WIDTHS, clock.clone(), change);
    let calls = Arc::default();
    rig.engine.pipeline.policies.policy = Box::new(Timed(clock.clone(), Arc::clone(&calls), can_run_dry));
    let Engine { pipeline, dry, .. } = &mut rig.engine;
    dry.serve(&mut pipeline.policies, None);
    dry.plan(&pipeline.settings);
    let commands = CommandWord::new();
    let until = clock.now().plus(Nanos(passed));
    let end = std::thread::scope(|scope| {
        let looping = scope.spawn(|| run(&mut rig.engine, IdleStrategy::Spin, &commands));
        while clock.manual.now() < until {
            std::thread::yield_now();
        }
        commands.request(Command::Stop);
        looping.join().unwrap()
    });
    assert_eq!(end, RunEnd::Stopped);
    let figures = rig.engine.keep_warm_meter().snapshot();
    let calls = *calls.lock().unwrap();
    (calls, figures)
}

const SECOND: u64 = 1_000_000_000;

#[test]
fn an_idle_engine_runs_dry_at_its_interval() {
    let every = |settings: &mut Settings| settings.keep_warm = KeepWarm::Every(Nanos(1_000_000));
    let (calls, figures) = idle_for(SECOND, 1_000, true, every);
    // Each run takes 4 us and a few looks at the clock. The loop may go on for a while after the second.
    assert!(figures.runs > 900 && figures.typical_ns > 4_000, "{figures:?}");
    assert!(figures.typical_ns < 20_000, "{figures:?}");
    // One in 64 takes the path of an observation that the policy does not see.
    assert!(calls < figures.runs && calls > figures.runs * 9 / 10, "{calls} {figures:?}");
}

#[test]
fn an_engine_does_not_run_dry_if_it_must_not() {
    let off = |settings: &mut Settings| settings.keep_warm = KeepWarm::Off;
    assert_eq!(idle_for(SECOND / 100, 1_000, true, off).1.runs, 0);
    let every = |settings: &mut Settings| settings.keep_warm = KeepWarm::Every(Nanos(1_000));
    let (calls, figures) = idle_for(SECOND / 100, 1_000, false, every);
    assert_eq!((calls, figures.runs), (0, 0), "the policy keeps more than its states");
}

fn tight(settings: &mut Settings) {
    settings.keep_warm = KeepWarm::Auto;
    settings.deadlines.inference = Nanos(10_000);
}

/// Lets an engine of this policy be idle for so many milliseconds, a look every 10 us, and returns how often
/// it ran dry. The first `long_ones` calls take 4 us, the others half a microsecond.
fn idle_ms(milliseconds: u64, long_ones: u64) -> u64 {
    struct Shrinking(ScriptedClock, u64);
    impl Policy for Shrinking {
        fn dimensions(&self) -> Dimensions {
            WIDTHS
        }
        fn backend(&self) -> &'static str {
            "shrinking"
        }
        fn infer(&mut self, _: &[f32], action: &mut [f32]) -> Result<(), Fault> {
            self.0.manual.advance(Nanos(if self.1 > 0 { 4_000 } else { 500 }));
            self.1 = self.1.saturating_sub(1);
            action.fill(0.0);
            Ok(())
        }
        fn can_run_dry(&self) -> bool {
            true
        }
    }
    let mut rig = Rig::new(tight);
    rig.engine.pipeline.policies.policy = Box::new(Shrinking(rig.clock.clone(), long_ones));
    let Engine { pipeline, dry, .. } = &mut rig.engine;
    dry.serve(&mut pipeline.policies, None);
    dry.plan(&pipeline.settings);
    for _ in 0..milliseconds * 100 {
        rig.clock.manual.advance(Nanos(10_000));
        rig.engine.keep_warm(rig.clock.manual.now());
    }
    rig.engine.keep_warm_meter().snapshot().runs
}

/// Dry runs of 4 us and more do not fit a deadline of 10 us. Fifteen of them find that out. Fifteen more are
/// made after a pause, which doubles each time.
#[test]
fn dry_runs_that_do_not_fit_the_deadline_end_with_the_trials() {
    // Fifteen trials and their pauses take a millisecond, and the pauses between the trials 1, 2, 4 ms.
    for (milliseconds, expected) in [(1, 15), (3, 30), (6, 45), (900, 150), (5_000, 195)] {
        let runs = idle_ms(milliseconds, u64::MAX);
        // One in 64 takes the path of an observation that the policy does not see, and says nothing.
        assert!((expected..=expected + expected / 32).contains(&runs), "{milliseconds} ms: {runs}");
    }
}

/// The core was disturbed, or so cold that no dry run fitted. That does not last.
#[test]
fn dry_runs_begin_again_when_they_fit_again() {
    assert_eq!(idle_ms(1, 15), 15);
    let runs = idle_ms(10, 15);
    assert!(runs > 300, "{runs}");
}

/// What a call takes is known from the warm-up or from the measurement before a reload.
#[test]
fn a_policy_whose_call_does_not_fit_is_never_run_dry() {
    let mut rig = Rig::new(tight);
    rig.engine.pipeline.policies.policy = Box::new(Recurrent::new());
    for (call, is_ever_due) in [(Some(Nanos(2_500)), true), (Some(Nanos(2_501)), false), (None, true)] {
        let Engine { pipeline, dry, .. } = &mut rig.engine;
        dry.serve(&mut pipeline.policies, call);
        dry.plan(&pipeline.settings);
        assert_eq!(rig.engine.dry.is_ever_due(), is_ever_due, "{call:?}");
    }
}

/// The policy has not seen an observation that was skipped.
#[test]
fn dry_runs_answer_what_the_policy_has_answered_and_nothing_else() {
    let mut rig = Rig::new(|settings| settings.on_full = OnFull::Drop);
    let sampled = |rig: &mut Rig, payload: f32| {
        let mut published = rig.ordinary();
        published.payload.fill(payload);
        assert!(rig.publish(&published));
        assert!(matches!(rig.engine.tick(), Progress::Done(_)));
        rig.record().expect("a tick has a record");
    };
    for _ in 0..CAPACITY {
        sampled(&mut rig, 0.25);
    }
    // The action ring is full now.
    sampled(&mut rig, 0.5);
    rig.engine.run_dry();
    assert!(!rig.engine.dry.sample.contains(&0.5), "{:?}", rig.engine.dry.sample);
}

/// A stream whose pauses are shorter than the time between two trials still gets them.
#[test]
fn a_steady_stream_does_not_keep_the_trials_from_happening() {
    let mut rig = Rig::new(|settings| settings.keep_warm = KeepWarm::Auto);
    rig.engine.pipeline.policies.policy = Box::new(Recurrent::new());
    let Engine { pipeline, dry, .. } = &mut rig.engine;
    dry.serve(&mut pipeline.policies, None);
    dry.plan(&pipeline.settings);
    for _ in 0..100 {
        let published = rig.ordinary();
        rig.answer(&published);
        let now = rig.clock.manual.now();
        rig.engine.note_answer(now);
        assert_eq!(rig.engine.keep_warm(now), None, "it has just been busy");
        rig.clock.manual.advance(Nanos(500_000));
        rig.engine.keep_warm(rig.clock.manual.now());
    }
    let runs = rig.engine.keep_warm_meter().snapshot().runs;
    assert!(runs > 80, "{runs} dry runs in 50 ms");
}

#[test]
fn a_dry_run_that_is_late_says_nothing_about_the_next_one() {
    let mut rig = Rig::new(|settings| {
        settings.on_miss = OnMiss::Halt;
        settings.error_budget = BudgetSpec::NONE;
    });
    for _ in 0..3 {
        rig.script(Step::taking(INFERENCE + 1, 0));
        rig.engine.run_dry();
        rig.script(Step::new(0, 0, Err(Fault::Raised)));
        rig.engine.run_dry();
    }
    assert_eq!(*rig.calls.lock().unwrap(), 6, "each run reaches the policy");
    assert_eq!(rig.engine.dry.session.halted, None);
    assert_eq!(rig.actions.region.header().state().0, AgentState::Armed.number());
    let published = rig.ordinary();
    assert_eq!(rig.answer(&published).verdict(), (Outcome::Policy, Reason::None));
}

/// What an observation loses to a dry run is counted from its stamp, and only if it came meanwhile.
#[test]
fn the_delay_of_an_observation_is_counted() {
    let mut rig = Rig::new(|_| ());
    rig.script(Step::taking(3_000, 0));
    let span = rig.engine.run_dry();
    assert_eq!(span.ended.since(span.begun), Nanos(3_000));
    for (age, delay) in [(0, 0), (1_000, 1_000), (3_000, 3_000), (9_000, 3_000)] {
        let before = rig.engine.keep_warm_meter().snapshot();
        let mut published = rig.ordinary();
        published.age = age;
        assert!(rig.publish(&published));
        rig.engine.pipeline.session.dry_before = span;
        let Progress::Done(now) = rig.engine.tick() else { panic!("it is answered") };
        rig.engine.note_answer(now);
        let counted = rig.engine.keep_warm_meter().snapshot().since(&before);
        assert_eq!((counted.delay_ns, counted.delayed), (delay, u64::from(delay > 0)), "age {age}");
        rig.sent();
    }
}

#[test]
fn an_update_keeps_the_figures_and_the_observation() {
    let mut rig = Rig::new(|settings| settings.keep_warm = KeepWarm::Every(Nanos(1)));
    rig.engine.pipeline.policies.policy = Box::new(Recurrent::new());
    let Engine { pipeline, dry, .. } = &mut rig.engine;
    dry.serve(&mut pipeline.policies, None);
    dry.plan(&pipeline.settings);
    let mut published = rig.ordinary();
    published.payload = vec![0.5, 0.25, -0.5];
    rig.answer(&published);
    rig.engine.run_dry();
    let meter = rig.engine.keep_warm_meter();
    let mut update = Update::new(rig.settings.clone(), extras(), None, 2);
    assert!(rig.engine.apply(&mut update));
    rig.engine.run_dry();
    assert_eq!(meter.snapshot().runs, 2);
    assert_eq!(rig.engine.dry.sample[..], [0.5, 0.25, -0.5]);
}
