//! The deadline guard: its cost for the engine, and its lateness past a deadline.
//!
//! `cargo bench --bench guard [-- --ticks N --core N --guard-core N]`. Prints percentiles, maximum and sample
//! count. It asserts only what must hold at any speed: one action per observation, in order, and none late.
//! Under `cargo test --benches` it runs small.
//!
//! *Cost*: the same ticks with a policy that answers at once, in turn without a guard and with one on another
//! core. *Lateness*: from the deadline to the guard's committed action, with a deadline of 100 us. The policy
//! sleeps for 1 ms, 10 ms or 1 s in one tick of a hundred. *Hiccups* are gaps in a busy loop on the guard's
//! core just before. Only the platform and other processes can cause them.

use escapement::clock::{Clock, MachineClock, Nanos};
use escapement::engine::GuardWake;
use escapement::policy::{Dimensions, Fault, Null, Policy};
use escapement::telemetry::{Histogram, Percentiles};
use escapement::wire::{Outcome, Reason};
use escapement_test_support::heap_engine::{CAPACITY, Checked, DIMENSIONS, HeapEngine};
use std::time::Duration;

const DEADLINE: Nanos = Nanos::from_micros(100);
/// One tick of this many oversleeps.
const ONE_IN: u64 = 100;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let value_of = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        let text = arguments.get(at + 1).unwrap_or_else(|| panic!("{name} needs a number"));
        Some(text.parse::<u64>().unwrap_or_else(|_| panic!("{name} {text}: not a number")))
    };
    let full = arguments.iter().any(|argument| argument == "--bench");
    let ticks = value_of("--ticks").unwrap_or(if full { 1_000_000 } else { 4_000 });
    let cores: Vec<usize> =
        core_affinity::get_core_ids().unwrap_or_default().iter().map(|id| id.id).collect();
    let core = |name, default: Option<&usize>| value_of(name).map(|core| core as usize).or(default.copied());
    let (engine_core, guard_core) = (core("--core", cores.last()), core("--guard-core", cores.first()));
    pin(engine_core);

    println!("engine on core {engine_core:?}, guard on core {guard_core:?}, {ticks} ticks, times in ns");
    println!("{:<34} {:>7} {:>7} {:>8} {:>9} {:>10} {:>9}", "", "p50", "p90", "p99", "p99.9", "max", "count");
    cost(ticks, guard_core);
    for wake in [GuardWake::Spin, GuardWake::Sleep] {
        lateness(wake, ticks, guard_core);
    }
}

fn pin(core: Option<usize>) {
    if let Some(id) = core {
        core_affinity::set_for_current(core_affinity::CoreId { id });
    }
}

/// Runs `ticks`, with a guard on another thread if `wake` is given.
fn beside_a_guard(
    rig: &mut HeapEngine,
    wake: Option<GuardWake>,
    core: Option<usize>,
    ticks: impl FnOnce(&mut HeapEngine),
) {
    let guard = wake.and_then(|wake| rig.engine.guard(wake, None));
    let watching = guard.map(|mut guard| {
        std::thread::spawn(move || {
            pin(core);
            guard.run(|_| ())
        })
    });
    ticks(rig);
    // The guard ends when the engine is dropped.
    let successor = HeapEngine::new(Box::new(Null::new(DIMENSIONS)));
    drop(std::mem::replace(rig, successor));
    if let Some(watching) = watching {
        watching.join().expect("the guard");
    }
}

fn cost(ticks: u64, guard_core: Option<usize>) {
    let batches = ticks.div_ceil(CAPACITY);
    let ways = [
        ("no guard", None),
        ("guard spins", Some(GuardWake::Spin)),
        ("guard sleeps", Some(GuardWake::Sleep)),
    ];
    let mut inside = ways.map(|_| Histogram::new());
    let mut outside = ways.map(|_| Histogram::new());
    const ROUNDS: u64 = 10;
    for _ in 0..ROUNDS {
        for (way, (_, wake)) in ways.iter().enumerate() {
            let deadline = |settings: &mut escapement::engine::Settings| {
                settings.deadlines.inference = DEADLINE;
                settings.deadlines.end_to_end = DEADLINE;
                settings.deadlines.max_age = None;
            };
            let mut rig = HeapEngine::with(Box::new(Null::new(DIMENSIONS)), deadline);
            let clock = MachineClock::new();
            beside_a_guard(&mut rig, *wake, guard_core, |rig| {
                for batch in 0..batches.div_ceil(ROUNDS) + 2 {
                    rig.fill(Checked::No);
                    let begun = clock.now();
                    assert_eq!(rig.answer_all(), CAPACITY);
                    let ended = clock.now();
                    let measured = batch >= 2;
                    if measured {
                        outside[way].record(ended.since(begun).0 / CAPACITY);
                    }
                    rig.drain(|record| {
                        if measured && record.ts_done_ns == 0 {
                            inside[way].record(record.ts_commit_ns - record.ts_peek_ns);
                        }
                    });
                }
            });
        }
    }
    for (way, (name, _)) in ways.iter().enumerate() {
        row(&format!("peek to verdict, {name}"), inside[way].percentiles());
        row(&format!("batch / ticks, {name}"), outside[way].percentiles());
    }
}

/// Sleeps past its deadline now and then. The fixed pattern hits every batch at other places.
struct Sleeper {
    calls: u64,
}

impl Sleeper {
    fn oversleeps(call: u64) -> Option<Duration> {
        let scattered = call.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        (scattered.is_multiple_of(ONE_IN)).then(|| match scattered / ONE_IN % 1_000 {
            0 => Duration::from_secs(1),
            1..20 => Duration::from_millis(10),
            _ => Duration::from_millis(1),
        })
    }
}

impl Policy for Sleeper {
    fn dimensions(&self) -> Dimensions {
        DIMENSIONS
    }

    fn backend(&self) -> &'static str {
        "sleeper"
    }

    fn infer(&mut self, _observation: &[f32], action: &mut [f32]) -> Result<(), Fault> {
        action.fill(0.5);
        self.calls += 1;
        if let Some(time) = Self::oversleeps(self.calls) {
            std::thread::sleep(time);
        }
        Ok(())
    }
}

fn lateness(wake: GuardWake, ticks: u64, guard_core: Option<usize>) {
    let name = wake.name();
    row(&format!("hiccups of the guard's core, {name}"), hiccups(guard_core));
    let mut rig = HeapEngine::with(Box::new(Sleeper { calls: 0 }), |settings| {
        settings.deadlines.inference = DEADLINE;
        settings.deadlines.end_to_end = DEADLINE;
        settings.deadlines.max_age = None;
    });
    let mut late = Histogram::new();
    let (mut actions, mut overslept, mut missed_by_guard, mut platform) = (0u64, 0u64, 0u64, 0u64);
    let mut next = 0;
    beside_a_guard(&mut rig, Some(wake), guard_core, |rig| {
        while actions < ticks {
            rig.fill(Checked::No);
            assert_eq!(rig.answer_all(), CAPACITY, "every observation is answered");
            rig.engine.discipline_clock().expect("the clock is sound");
            rig.drain(|record| {
                // A record without an outcome says how long a policy took whose tick the guard answered.
                if record.outcome == 0 {
                    return;
                }
                assert_eq!(record.sequence, next, "one action for each observation, in order");
                next += 1;
                actions += 1;
                assert!(
                    record.outcome == Outcome::SafeDefault.number()
                        || record.ts_commit_ns <= record.deadline_ns,
                    "a late action left"
                );
                let taken = record.reason == Reason::GuardTakeover.number();
                if taken {
                    assert_eq!(record.outcome, Outcome::SafeDefault.number());
                    late.record(record.ts_done_ns - record.deadline_ns);
                }
                match (Sleeper::oversleeps(record.sequence + 1), taken) {
                    (Some(_), true) => overslept += 1,
                    (Some(_), false) => missed_by_guard += 1,
                    // The engine lost its core during an ordinary tick until the deadline had passed.
                    (None, true) => platform += 1,
                    (None, false) => {}
                }
            });
        }
    });
    assert!(overslept > 0, "the guard has stepped in");
    row(&format!("past the deadline, guard {name}s"), late.percentiles());
    println!(
        "  {actions} ticks, {actions} actions; of those that slept through their deadline the guard answered \
         {overslept} and the engine, back before the guard had its core, {missed_by_guard}; \
         {platform} others were taken over"
    );
}

/// Returns the gaps in a busy loop on that core.
fn hiccups(core: Option<usize>) -> Percentiles {
    let measuring = std::thread::spawn(move || {
        pin(core);
        let clock = MachineClock::new();
        let mut histogram = Histogram::new();
        let begun = clock.now();
        let mut last = begun;
        while last.since(begun) < Nanos::from_millis(1_000) {
            let now = clock.now();
            histogram.record(now.since(last).0);
            last = now;
        }
        histogram.percentiles()
    });
    measuring.join().expect("the meter")
}

fn row(name: &str, figures: Percentiles) {
    let Percentiles { p50, p90, p99, p999, max, count, .. } = figures;
    println!("{name:<34} {p50:>7} {p90:>7} {p99:>8} {p999:>9} {max:>10} {count:>9}");
}
