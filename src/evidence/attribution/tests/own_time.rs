//! Tests of the verdict on a tick's own time: every rule at its boundary.

use super::*;

const NATIVE: FixedWork = FixedWork { in_call: true, around_call: true };
const TORCH: FixedWork = FixedWork { in_call: false, around_call: true };

/// A policy with this median and 99.9th percentile, in microseconds.
fn policy(p50: u64, p999: u64, work: FixedWork) -> PolicyTimes {
    PolicyTimes { p50_ns: p50 * MICRO, p999_ns: p999 * MICRO, work }
}

/// The cause of a call from 0 to `end` with a limit of 100 us.
fn call(known: &[(ThreadState, u64, u64)], end: u64, policy: PolicyTimes) -> Cause {
    call_on(&timeline(known), end, Some(policy))
}

fn call_on(timeline: &Timeline, end: u64, policy: Option<PolicyTimes>) -> Cause {
    let window = at(0, end);
    let usual = policy.map(|policy| UsualTimes { policy, around_ns: 0 });
    let kind = MissKind::Late { window, call: window, limit: 100 * MICRO };
    judge(timeline, kind, true, usual.as_ref()).0
}

#[test]
fn a_plan_that_fits_is_never_slow() {
    // Its usual time is a hundredth of the deadline. Its measured tail is the machine's, however long.
    let plan = policy(1, 4, NATIVE);
    assert_eq!(call(&[], 101, plan), Cause::CoreStalled);
    assert_eq!(call(&[], 100_000, plan), Cause::CoreStalled);
    assert_eq!(call(&[], 101, policy(1, 150, NATIVE)), Cause::CoreStalled);
    // Other evidence decides where it did before.
    assert_eq!(call(&[(ThreadState::Preempted, 20, 110)], 120, plan), Cause::CoreTaken);
    assert_eq!(call(&[(ThreadState::MinorFault, 20, 110)], 120, plan), Cause::PageFault);
    assert_eq!(call(&[(ThreadState::Preempted, 20, 40)], 121, plan), Cause::CoreStalled);
}

#[test]
fn a_plan_is_slow_where_its_median_or_its_tail_explains_the_time() {
    // The median does not fit: an undisturbed call would have been late too.
    assert_eq!(call(&[], 110, policy(101, 103, NATIVE)), Cause::PolicySlow);
    assert_eq!(call(&[], 5_000, policy(101, 103, NATIVE)), Cause::PolicySlow);
    assert_eq!(call(&[], 5_000, policy(100, 103, NATIVE)), Cause::CoreStalled);
    // The measured tail reaches beyond the limit.
    assert_eq!(call(&[], 140, policy(80, 140, NATIVE)), Cause::PolicySlow);
    assert_eq!(call(&[], 141, policy(80, 140, NATIVE)), Cause::CoreStalled);
    // Beyond two medians it was slowed down, whatever the tail.
    assert_eq!(call(&[], 160, policy(80, 500, NATIVE)), Cause::PolicySlow);
    assert_eq!(call(&[], 161, policy(80, 500, NATIVE)), Cause::CoreStalled);
}

#[test]
fn a_plan_that_was_off_its_core_did_not_sleep() {
    let stopped = [(ThreadState::Asleep, 10, 400)];
    assert_eq!(call(&stopped, 450, policy(1, 4, NATIVE)), Cause::CoreTaken);
    assert_eq!(call(&stopped, 450, policy(1, 4, TORCH)), Cause::PolicySlow);
}

#[test]
fn another_policy_is_slow_up_to_twice_its_tail() {
    let torch = policy(30, 90, TORCH);
    assert_eq!(call(&[], 180, torch), Cause::PolicySlow);
    assert_eq!(call(&[], 181, torch), Cause::Undetermined);
    // The median does not fit.
    assert_eq!(call(&[], 10_000, policy(101, 150, TORCH)), Cause::PolicySlow);
}

#[test]
fn a_sleep_decides_where_it_made_the_call_late() {
    let torch = policy(10, 20, TORCH);
    // Without the sleep it would have been in time.
    assert_eq!(call(&[(ThreadState::Asleep, 10, 30)], 120, torch), Cause::PolicySlow);
    // It would have been late without the sleep, and without the rest.
    assert_eq!(call(&[(ThreadState::Asleep, 10, 111)], 250, torch), Cause::PolicySlow);
    // The sleep alone would not have made it late, and the rest is not explained.
    assert_eq!(call(&[(ThreadState::Asleep, 10, 110)], 250, torch), Cause::Undetermined);
}

#[test]
fn what_was_not_measured_blames_nobody() {
    assert_eq!(call_on(&timeline(&[]), 500, None), Cause::Undetermined);
    assert_eq!(call_on(&timeline(&[(ThreadState::Preempted, 10, 450)]), 500, None), Cause::CoreTaken);
}

#[test]
fn unknown_time_and_stolen_time_leave_it_open() {
    let plan = policy(1, 4, NATIVE);
    assert_eq!(call(&[(ThreadState::SwitchesUnknown, 10, 110)], 120, plan), Cause::Undetermined);
    assert_eq!(call(&[(ThreadState::FaultsUnknown, 10, 15)], 120, plan), Cause::CoreStalled);
    let mut stolen = timeline(&[]);
    stolen.add_stolen(at(0, 5_000), 900 * MICRO);
    assert_eq!(call_on(&stolen, 500, Some(plan)), Cause::Undetermined);
    let mut stolen = timeline(&[]);
    stolen.add_stolen(at(0, 5_000), 450 * MICRO);
    assert_eq!(call_on(&stolen, 500, Some(plan)), Cause::CoreTaken);
}

/// The cause of a tick from 0 to `end` with a limit of 100 us, whose call lies between these instants. The
/// work around the call usually takes 2 us.
fn tick(known: &[(ThreadState, u64, u64)], called: (u64, u64), end: u64, policy: PolicyTimes) -> Cause {
    let kind = MissKind::Late { window: at(0, end), call: at(called.0, called.1), limit: 100 * MICRO };
    judge(&timeline(known), kind, true, Some(&UsualTimes { policy, around_ns: 2 * MICRO })).0
}

#[test]
fn a_stall_outside_the_call_is_the_cores() {
    for work in [NATIVE, TORCH] {
        assert_eq!(tick(&[], (1, 10), 120, policy(9, 12, work)), Cause::CoreStalled);
        assert_eq!(tick(&[], (110, 119), 120, policy(9, 12, work)), Cause::CoreStalled);
    }
    // The call took 100 us more than it usually does; the rest 99 us more, then 101 us.
    let torch = policy(10, 60, TORCH);
    assert_eq!(tick(&[], (1, 111), 211, torch), Cause::PolicySlow);
    assert_eq!(tick(&[], (1, 111), 213, torch), Cause::CoreStalled);
    // The call took more than usual, and with the usual work around it would have been in time.
    assert_eq!(tick(&[], (1, 99), 118, policy(50, 98, NATIVE)), Cause::CoreStalled);
    assert_eq!(tick(&[], (1, 100), 119, policy(50, 100, NATIVE)), Cause::PolicySlow);
    // The work around the call is not known to be fixed: there is a fallback in libtorch.
    let beside_torch = FixedWork { in_call: true, around_call: false };
    assert_eq!(tick(&[], (110, 119), 120, policy(9, 12, beside_torch)), Cause::Undetermined);
}

/// A fallback may sleep; the plan beside it does not.
#[test]
fn a_fallback_that_sleeps_is_not_a_core_that_was_taken() {
    let asleep = [(ThreadState::Asleep, 1, 109)];
    let beside_torch = FixedWork { in_call: true, around_call: false };
    assert_eq!(tick(&asleep, (110, 119), 120, policy(9, 12, beside_torch)), Cause::Undetermined);
    // Nothing around the call sleeps here, so something stopped the thread.
    assert_eq!(tick(&asleep, (110, 119), 120, policy(9, 12, NATIVE)), Cause::CoreTaken);
    // In the call of a plan it did not sleep either.
    let in_call = [(ThreadState::Asleep, 10, 110)];
    assert_eq!(tick(&in_call, (5, 119), 120, policy(9, 12, beside_torch)), Cause::CoreTaken);
}

#[test]
fn a_call_and_the_work_around_it_that_do_not_fit_together() {
    // 99 us and 2 us are more than 100 us: the larger part is to blame.
    assert_eq!(tick(&[], (1, 100), 101, policy(99, 99, NATIVE)), Cause::PolicySlow);
    // 98 us and 2 us fit.
    assert_eq!(tick(&[], (1, 300), 301, policy(98, 98, NATIVE)), Cause::CoreStalled);
    let kind = MissKind::Late { window: at(0, 200), call: at(190, 199), limit: 100 * MICRO };
    let usual = UsualTimes { policy: policy(9, 12, NATIVE), around_ns: 95 * MICRO };
    assert_eq!(judge(&timeline(&[]), kind, true, Some(&usual)).0, Cause::Undetermined);
}

/// The call does not fit by itself, whatever the work around it takes.
#[test]
fn a_call_that_does_not_fit_is_slow_beside_longer_work_around_it() {
    let kind = MissKind::Late { window: at(0, 320), call: at(1, 102), limit: 100 * MICRO };
    let usual = |p50| UsualTimes { policy: policy(p50, 120, NATIVE), around_ns: 200 * MICRO };
    assert_eq!(judge(&timeline(&[]), kind, true, Some(&usual(101))).0, Cause::PolicySlow);
    assert_eq!(judge(&timeline(&[]), kind, true, Some(&usual(100))).0, Cause::Undetermined);
}

#[test]
fn a_tick_that_never_called_the_policy_does_not_blame_it() {
    assert_eq!(tick(&[], (120, 120), 120, policy(101, 150, NATIVE)), Cause::CoreStalled);
}

/// A call of 20 ms with two samples of 5 ms within it, and one at its edge.
fn counted(cycles: u64, instructions: u64) -> Timeline {
    let mut timeline = timeline(&[]);
    let counts = UserCounts { cycles, instructions };
    timeline.add_counted(at(4_000, 9_000), counts);
    timeline.add_counted(at(9_000, 14_000), counts);
    timeline.add_counted(at(19_000, 24_000), UserCounts { cycles: u64::MAX / 4, instructions: u64::MAX / 4 });
    timeline
}

#[test]
fn counters_decide_about_a_policy_whose_work_may_vary() {
    let torch = policy(30, 50, TORCH);
    // Its measured tail explains 100 us: at most 4,800,000 instructions.
    let cause = |cycles, instructions| call_on(&counted(cycles, instructions), 20_000, Some(torch));
    assert_eq!(cause(15_000_000, 2_400_001), Cause::PolicySlow);
    assert_eq!(cause(15_000_000, 2_400_000), Cause::Undetermined);
    // No cycles in 10 ms of 20 ms is not most of the time; the call must be shorter for that.
    assert_eq!(cause(0, 0), Cause::Undetermined);
    let stood = |cycles| call_on(&counted(cycles, 0), 18_000, Some(torch));
    assert_eq!(stood(0), Cause::CoreStalled);
    // 500,000 cycles may have taken 1 ms: 9 ms of 18 ms are left.
    assert_eq!(stood(249_999), Cause::CoreStalled);
    assert_eq!(stood(250_000), Cause::Undetermined);
}

#[test]
fn counters_say_nothing_about_time_off_the_core() {
    let mut timeline = timeline(&[(ThreadState::Preempted, 4_000, 13_000)]);
    timeline.add_counted(at(4_000, 14_000), UserCounts::default());
    assert_eq!(call_on(&timeline, 26_000, Some(policy(30, 50, TORCH))), Cause::Undetermined);
}

#[test]
fn the_evidence_shows_what_the_policy_takes() {
    let (cause, evidence) = late(&[], 101);
    assert_eq!(cause, Cause::PolicySlow);
    assert_eq!(
        (evidence.policy_p50_ns, evidence.policy_p999_ns),
        (Some(50 * MICRO), Some(1_000_000 * MICRO))
    );
    assert_eq!(stale(&[], 500).1.policy_p50_ns, None);
}

/// The engine was held up between the policy's return, in time, and its claim to the tick.
#[test]
fn a_takeover_after_a_return_in_time_is_late_up_to_the_takeover() {
    let mut misses = Misses::new(Nanos(0), DEADLINES);
    misses.measured(policy(1, 4, NATIVE));
    misses.note(&record(1, 1_000, 101, Reason::GuardTakeover));
    misses.note(&TickRecord { outcome: 0, ..record(1, 1_000, 98, Reason::GuardTakeover) });
    assert_eq!(judged(&mut misses), [(101, Cause::CoreStalled)]);
}

#[test]
fn a_reload_brings_the_times_of_its_policy() {
    let mut misses = Misses::new(Nanos(0), DEADLINES);
    misses.measured(policy(1, 4, NATIVE));
    misses.expect(2, DEADLINES, Some(policy(150, 160, NATIVE)));
    misses.note(&record(1, 1_000, 151, Reason::InferenceLate));
    misses.note(&TickRecord { revision: 2, ..record(2, 2_000, 151, Reason::InferenceLate) });
    assert_eq!(judged(&mut misses), [(101, Cause::CoreStalled), (102, Cause::PolicySlow)]);
}

/// The work around a call is learned from the ticks, and a stall among them does not spoil it.
#[test]
fn the_usual_work_around_a_call_is_learned() {
    let mut misses = Misses::new(Nanos(0), DEADLINES);
    misses.measured(policy(985, 990, NATIVE));
    let deadlines = Deadlines { inference: Nanos::from_micros(1_000), ..DEADLINES };
    misses.expect(1, deadlines, Some(policy(985, 990, NATIVE)));
    // The peek is 1 us before the call: 20 us around the call are 19 us after it.
    let tick = |position: u64, reason| {
        let record = record(position, 10_000 * position, 985, reason);
        TickRecord { revision: 1, ts_commit_ns: record.ts_commit_ns + 18 * MICRO, ..record }
    };
    // At first 2 us are assumed, which would fit.
    misses.note(&tick(1, Reason::EndToEndLate));
    assert_eq!(judged(&mut misses), [(101, Cause::CoreStalled)]);
    (2..200).for_each(|position| misses.note(&tick(position, Reason::None)));
    misses.note(&TickRecord { ts_commit_ns: START + 2_009_000 * MICRO, ..tick(200, Reason::None) });
    // 985 us and 20 us are more than the limit of 1,000 us.
    misses.note(&tick(201, Reason::EndToEndLate));
    assert_eq!(judged(&mut misses), [(301, Cause::PolicySlow)]);
}

proptest! {
    /// Whatever happened, a plan whose explained time fits the limit, with the work around it, is not blamed.
    #[test]
    fn a_plan_that_fits_is_not_blamed(
        known in prop::collection::vec((kind(), 0u64..2_000, 0u64..400), 0..20),
        end in 1u64..3_000,
        (called, returned) in (0u64..3_000, 0u64..3_000),
        p50 in 1u64..500,
        tail in 0u64..1_000,
        around in 0u64..100,
        more in 0u64..1_000,
        stolen in 0u64..3_000,
    ) {
        let mut known = known;
        known.sort_by_key(|(_, begin, length)| begin + length);
        let spans: Vec<_> = known.into_iter().map(|(kind, begin, length)| (kind, begin, begin + length)).collect();
        let mut timeline = timeline(&spans);
        if stolen > 0 {
            timeline.add_stolen(at(0, 3_000), stolen * MICRO);
        }
        let plan = policy(p50, p50 + tail, NATIVE);
        let fits = (p50 + tail).min(2 * p50) + around;
        for call in [at(0, end), at(called.min(end), returned.clamp(called.min(end), end))] {
            let kind = MissKind::Late { window: at(0, end), call, limit: (fits + more) * MICRO };
            let usual = UsualTimes { policy: plan, around_ns: around * MICRO };
            let (cause, _) = judge(&timeline, kind, true, Some(&usual));
            prop_assert_ne!(cause, Cause::PolicySlow);
        }
    }

    /// Whatever a policy was measured to take, more time in its call never turns a stall into its fault.
    #[test]
    fn a_longer_stall_stays_a_stall(
        p50 in 1u64..200, p999 in 1u64..1_000, took in 101u64..1_000, more in 0u64..10_000,
    ) {
        let plan = policy(p50, p999, NATIVE);
        prop_assume!(call(&[], took, plan) == Cause::CoreStalled);
        prop_assert_eq!(call(&[], took + more, plan), Cause::CoreStalled);
    }
}
