//! The engine's own cost per tick: the policy returns at once, 32 features in, 3 actions out.
//!
//! `cargo bench --bench engine [-- --core N --ticks N]`. Prints percentiles, maximum and sample count, and
//! asserts no time. Under `cargo test --benches` it runs small.
//!
//! It shows the same ticks in two ways. *Inside* is `ts_commit_ns - ts_peek_ns` of the tick records: what the
//! deadline sees, at the clock's own resolution, without the work after the verdict. *Outside* is the time of
//! a whole batch of ticks on prefilled rings, divided by their number: everything that a tick does, minus
//! what the processor overlaps between two ticks. The last tick of a batch finds the ring empty and is part
//! of the cost.

use escapement::clock::{Clock, MachineClock};
use escapement::engine::{FeatureRange, InputCheck, InputCheckMode, InputCheckSpec};
use escapement::noise::{Distribution, Noise};
use escapement::policy::Null;
use escapement::telemetry::{Histogram, Percentiles};
use escapement::wire;
use escapement_test_support::heap_engine::{CAPACITY, Checked, DIMENSIONS, HeapEngine};
use std::hint::black_box;

/// Ticks of a full run, and of a small one.
const TICKS: u64 = 2_000_000;
const TICKS_SMALL: u64 = 20_000;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let value_of = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        let text = arguments.get(at + 1).unwrap_or_else(|| panic!("{name} needs a number"));
        Some(text.parse::<u64>().unwrap_or_else(|_| panic!("{name} {text}: not a number")))
    };
    let full = arguments.iter().any(|argument| argument == "--bench");
    let ticks = value_of("--ticks").unwrap_or(if full { TICKS } else { TICKS_SMALL });
    let core = pin(value_of("--core"));

    let clock = MachineClock::new();
    println!("clock {}, core {core}, {ticks} ticks, times in ns", clock.name());
    println!("{:<28} {:>6} {:>6} {:>7} {:>9} {:>10}", "", "p50", "p99", "p99.9", "max", "count");
    for (name, checked) in [("no checksum", Checked::No), ("feed checksums", Checked::Yes)] {
        let (inside, outside) = measure(&clock, checked, ticks);
        row(&format!("peek to commit, {name}"), inside);
        row(&format!("batch / ticks, {name}"), outside);
    }
    parts(&clock, ticks);
}

/// Pins the thread to `core`, or by default to the last core that is allowed.
fn pin(core: Option<u64>) -> String {
    let allowed = core_affinity::get_core_ids().unwrap_or_default();
    let chosen = match core {
        Some(id) => allowed.into_iter().find(|candidate| candidate.id as u64 == id),
        None => allowed.into_iter().next_back(),
    };
    match chosen {
        Some(chosen) if core_affinity::set_for_current(chosen) => chosen.id.to_string(),
        _ => "not pinned".to_owned(),
    }
}

fn measure(clock: &MachineClock, checked: Checked, ticks: u64) -> (Percentiles, Percentiles) {
    let mut rig = HeapEngine::new(Box::new(Null::new(DIMENSIONS)));
    let (mut inside, mut outside) = (Histogram::new(), Histogram::new());
    let batches = ticks.div_ceil(CAPACITY);
    let warm_up = batches.div_ceil(10);
    for batch in 0..warm_up + batches {
        rig.fill(checked);
        let begun = clock.now();
        let answered = rig.answer_all();
        let ended = clock.now();
        assert_eq!(answered, CAPACITY, "every observation is answered");
        rig.engine.discipline_clock().expect("the clock is sound");
        let measured = batch >= warm_up;
        if measured {
            outside.record(ended.since(begun).0 / CAPACITY);
        }
        rig.drain(|record| {
            if measured {
                inside.record(record.ts_commit_ns - record.ts_peek_ns);
            }
        });
    }
    (inside.percentiles(), outside.percentiles())
}

/// Prints the cost of single parts of a tick, as batches of a thousand, so that a change stands out from
/// noise.
fn parts(clock: &MachineClock, ticks: u64) {
    let rounds = (ticks / 1000).clamp(20, 1000);
    let part = |name: &str, mut body: Box<dyn FnMut() + '_>| {
        let mut histogram = Histogram::new();
        for _ in 0..rounds {
            let begun = clock.now();
            for _ in 0..1000 {
                body();
            }
            histogram.record(clock.now().since(begun).0 / 1000);
        }
        row(name, histogram.percentiles());
    };
    let feature = |_| FeatureRange { low: -10.0, high: 10.0, statistics: Some((0.0, 2.0)) };
    let features: Vec<FeatureRange> = (0..DIMENSIONS.observation).map(feature).collect();
    let spec = InputCheckSpec { mode: InputCheckMode::Clamp, deviations: 4.0 };
    let guard = InputCheck::new(spec, &features).expect("the limits are paired");
    let mut inside = vec![0.25f32; DIMENSIONS.observation];
    part("input guard, all within", Box::new(|| _ = black_box(guard.apply(black_box(&mut inside)))));
    let mut outside = inside.clone();
    let guarded = || {
        outside[7] = 99.0;
        _ = black_box(guard.apply(black_box(&mut outside)));
    };
    part("input guard, one clamped", Box::new(guarded));
    let noise = Noise::new(1, Distribution::Gaussian);
    let (mut drawn, mut sequence) = ([0.0f32; 4], 0);
    let draw = || {
        sequence += 1;
        noise.fill(sequence, black_box(&mut drawn));
    };
    part("noise, 4 gaussian values", Box::new(draw));
    part("one clock read", Box::new(|| _ = black_box(clock.now())));
    let (header, action) = (vec![1u8; 76], vec![2u8; 12]);
    let checksum = |header: &[u8], payload: &[u8]| {
        black_box(wire::checksum(black_box(header), black_box(payload)));
    };
    part("checksum of an action", Box::new(|| checksum(&header, &action)));
    let observation = vec![3u8; 4 * DIMENSIONS.observation];
    part("checksum of an observation", Box::new(|| checksum(&header[..28], &observation)));
}

fn row(name: &str, figures: Percentiles) {
    let Percentiles { p50, p99, p999, max, count, .. } = figures;
    println!("{name:<28} {p50:>6} {p99:>6} {p999:>7} {max:>9} {count:>10}");
}
