//! The measurement on a clock that is moved by hand: what is counted, and what the verdict is on.

use super::*;
use crate::policy::{Dimensions, Null};
use escapement_engine::KeepWarm;
use escapement_ring::clock::{ManualClock, MonotonicClock};

/// A clock that also moves by itself, so that waiting ends.
struct Ticking(ManualClock);

impl Clock for Ticking {
    fn now(&self) -> Nanos {
        self.0.advance(Nanos(10));
        self.0.now()
    }
}

/// Every call takes one microsecond; every hundredth five. After a pause of `goes_cold` the call takes five,
/// like one on a core that has gone cold.
struct Scripted {
    clock: ManualClock,
    goes_cold: Nanos,
    returned: Nanos,
    calls: u64,
    state: [f32; 1],
}

impl Scripted {
    fn new(clock: &ManualClock, goes_cold: Nanos) -> Self {
        Self { clock: clock.clone(), goes_cold, returned: Nanos(0), calls: 0, state: [0.0] }
    }
}

impl Policy for Scripted {
    fn dimensions(&self) -> Dimensions {
        Dimensions { observation: 1, action: 1 }
    }

    fn backend(&self) -> &'static str {
        "scripted"
    }

    fn infer(&mut self, _observation: &[f32], _action: &mut [f32]) -> Result<(), Fault> {
        self.calls += 1;
        self.state[0] += 1.0;
        let is_slow =
            self.calls.is_multiple_of(100) || self.clock.now().since(self.returned) >= self.goes_cold;
        self.clock.advance(if is_slow { Nanos(5_000) } else { Nanos(1_000) });
        self.returned = self.clock.now();
        Ok(())
    }

    fn state_mut(&mut self, index: usize) -> Option<&mut [f32]> {
        (index == 0).then_some(&mut self.state[..])
    }

    fn can_run_dry(&self) -> bool {
        true
    }
}

const NEVER: Nanos = Nanos(u64::MAX);
const DEADLINE: Nanos = Nanos(2_000);

/// Arrivals each `gap`.
fn each(gap: Nanos, calls: u64, keep_warm: KeepWarm) -> Pacing {
    let times = (1..=calls).map(|index| Nanos(index * gap.0)).collect();
    Pacing::scheduled(times, "evenly".to_owned(), keep_warm)
}

fn measure(policy: &mut Scripted, trials: u64, pacing: Pacing, share: f64) -> LatencyReport {
    let mut clock = Ticking(policy.clock.clone());
    let objective = Objective { deadline: DEADLINE, share };
    measure_latency(policy, &mut clock, &[vec![0.0]], objective, trials, pacing, &mut ()).unwrap()
}

#[test]
fn every_trial_is_counted_and_judged() {
    let clock = ManualClock::new(Nanos(0));
    let measure = |share| {
        let pacing = each(Nanos(20_000), 1_000, KeepWarm::Off);
        measure(&mut Scripted::new(&clock, NEVER), 10_000, pacing, share)
    };
    let met = measure(0.99);
    for (series, calls) in [(&met.paced, 1_000), (&met.back_to_back, 10_000)] {
        assert_eq!(series.calls(), calls);
        assert!((series.within_deadline() - 0.99).abs() < 1e-9, "{}", series.within_deadline());
        assert_eq!(series.slice_medians_ns.len(), 20);
    }
    // A hiccup in the middle of each gap, which are one fewer than the calls.
    assert_eq!(
        (met.paced.hiccup.percentiles().count, met.back_to_back.hiccup.percentiles().count),
        (999, 10_000)
    );
    assert!(met.holds());
    assert!(!measure(0.991).holds());
}

/// The planted case of this command: back to back all is well, and at the rate of the observations it is not.
#[test]
fn a_policy_that_is_fast_back_to_back_and_slow_when_paced_fails() {
    let clock = ManualClock::new(Nanos(0));
    let pacing = each(Nanos(50_000), 500, KeepWarm::Off);
    // Back to back, the first call after each block of hiccups is a cold one too.
    let report = measure(&mut Scripted::new(&clock, Nanos(30_000)), 10_000, pacing, 0.95);
    assert!(report.back_to_back.within_deadline() >= 0.95 && report.paced.within_deadline() < 0.01);
    assert!(!report.holds());
    let summary = report.summary();
    assert_eq!((summary.verdict.as_str(), summary.paced.calls.inference_ns.of_all.p50 / 100), ("fail", 50));
    assert_eq!(summary.back_to_back.inference_ns.of_all.p50 / 100, 10);
    // The other way round: what calls back to back miss does not count.
    let pacing = each(Nanos(50_000), 90, KeepWarm::Off);
    let mut policy = Scripted::new(&clock, NEVER);
    let report = measure(&mut policy, 10_000, pacing, 0.995);
    assert!(report.back_to_back.within_deadline() < 0.995 && report.holds());
}

#[test]
fn calls_in_between_keep_it_warm_and_leave_no_trace() {
    let clock = ManualClock::new(Nanos(0));
    let mut policy = Scripted::new(&clock, Nanos(30_000));
    // The deadline is so short that only a shorter call may be made: see `KeepWarm::interval`.
    let objective = Objective { deadline: Nanos(40_000), share: 0.98 };
    let pacing = each(Nanos(90_000), 500, KeepWarm::Every(Nanos(20_000)));
    let mut ticking = Ticking(clock.clone());
    let report =
        measure_latency(&mut policy, &mut ticking, &[vec![0.0]], objective, 100, pacing, &mut ()).unwrap();
    let within = |series: &Series| series.inference.quantile_ns(0.9) < 1_500;
    assert!(within(&report.paced), "{:?}", report.paced.inference.percentiles());
    let summary = report.summary().paced.keep_warm;
    // Four pauses of 20 us fit into each gap of 90.
    assert!((1_500..=2_000).contains(&summary.calls), "{}", summary.calls);
    assert_eq!((summary.setting.as_str(), summary.interval_us), ("20 us", Some(20.0)));
    assert!((summary.expected_delay_ns - 24.0).abs() < 2.0, "{summary:?}");
    // Every call adds one to the carried state; those in between are taken back.
    assert_eq!(f64::from(policy.state[0]) as u64, 1_000 + 100 + 500);
    assert_eq!(policy.calls, 1_000 + 100 + 500 + summary.calls);
}

#[test]
fn an_observation_that_arrives_during_such_a_call_is_counted_with_its_delay() {
    let clock = ManualClock::new(Nanos(0));
    let mut policy = Scripted::new(&clock, NEVER);
    let objective = Objective { deadline: Nanos(40_000), share: 0.5 };
    // The call in between begins 20 us after the last answer and takes 1 us. The next observation comes
    // within.
    let pacing = each(Nanos(21_500), 50, KeepWarm::Every(Nanos(20_000)));
    let mut ticking = Ticking(clock.clone());
    let report =
        measure_latency(&mut policy, &mut ticking, &[vec![0.0]], objective, 100, pacing, &mut ()).unwrap();
    let used = &report.keep_warm;
    // After a delayed answer the next gap is too short for such a call.
    assert_eq!(used.delayed, 25);
    let mean = used.delay.0 / used.delayed;
    assert!((100..=1_000).contains(&mean), "{mean}");
}

#[test]
fn what_keeps_it_from_staying_warm_is_said() {
    let clock = ManualClock::new(Nanos(0));
    let words = |keep_warm| {
        let pacing = each(Nanos(50_000), 5, keep_warm);
        measure(&mut Scripted::new(&clock, NEVER), 10, pacing, 0.5).summary().paced.keep_warm.words()
    };
    // A call takes half the deadline here.
    assert_eq!(words(KeepWarm::Auto), "keep-warm auto, but no calls: a call takes too long for the deadline");
    assert_eq!(words(KeepWarm::Off), "keep-warm off");
}

#[test]
fn fewer_trials_than_slices() {
    let objective = Objective { deadline: Nanos(1), share: 0.0 };
    let mut policy = Null::new(Dimensions { observation: 1, action: 1 });
    let pacing = each(Nanos(1_000), 3, KeepWarm::Auto);
    let found =
        measure_latency(&mut policy, &mut MonotonicClock, &[vec![0.0]], objective, 3, pacing, &mut ());
    let found = found.unwrap();
    assert_eq!((found.paced.calls(), found.back_to_back.calls()), (3, 3));
}

#[test]
fn an_observer_ends_it() {
    struct Ending;
    impl Observer for Ending {
        fn is_over(&mut self, now: Nanos) -> bool {
            now > Nanos::from_millis(500)
        }
    }
    let clock = ManualClock::new(Nanos(0));
    let objective = Objective { deadline: DEADLINE, share: 0.0 };
    let pacing = each(Nanos(1_000_000), 1_000, KeepWarm::Off);
    let mut policy = Scripted::new(&clock, NEVER);
    let mut ticking = Ticking(clock.clone());
    let ended = measure_latency(&mut policy, &mut ticking, &[vec![0.0]], objective, 3, pacing, &mut Ending);
    assert!(matches!(ended, Err(LatencyError::Interrupted)));
}
