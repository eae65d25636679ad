//! Tests of the verdicts at their limits, on timelines made by hand.

mod own_time;

use super::*;
use escapement_engine::{Deadlines, TickRecord};
use escapement_ring::clock::Nanos;
use escapement_ring::wire::{ActionFlags, Outcome, Reason};
use proptest::prelude::*;

const MICRO: u64 = 1_000;
const START: u64 = 1_000_000_000;

/// An interval in microseconds after the start.
fn at(begin: u64, end: u64) -> Interval {
    Interval::new(START + begin * MICRO, START + end * MICRO)
}

fn timeline(known: &[(ThreadState, u64, u64)]) -> Timeline {
    let mut timeline = Timeline::new(0);
    known.iter().for_each(|(kind, begin, end)| timeline.add(*kind, at(*begin, *end)));
    timeline
}

/// A policy that may take any time, as measured: its own time alone blames it.
const ANY_TIME: PolicyTimes = PolicyTimes {
    p50_ns: 50 * MICRO,
    p999_ns: 1_000_000 * MICRO,
    work: FixedWork { in_call: false, around_call: true },
};

/// The verdict on a call from 0 to `end` with a limit of 100 us, of a policy that may take any time.
fn late(known: &[(ThreadState, u64, u64)], end: u64) -> (Cause, Evidence) {
    judge_late(&timeline(known), at(0, end), true)
}

fn judge_late(timeline: &Timeline, call: Interval, alone: bool) -> (Cause, Evidence) {
    let kind = MissKind::Late { window: call, call, limit: 100 * MICRO };
    judge(timeline, kind, alone, Some(&UsualTimes { policy: ANY_TIME, around_ns: 0 }))
}

/// The verdict on an observation that waited from 0 to `end` with a limit of 100 us.
fn stale(known: &[(ThreadState, u64, u64)], end: u64) -> (Cause, Evidence) {
    judge(&timeline(known), MissKind::Stale { window: at(0, end), limit: 100 * MICRO }, true, None)
}

#[test]
fn a_policy_is_slow_by_its_own_time_alone() {
    assert_eq!(late(&[], 101).0, Cause::PolicySlow);
    // Its own time equals its limit: on an undisturbed core it would have been on time.
    assert_eq!(late(&[(ThreadState::Preempted, 20, 21)], 101).0, Cause::CoreTaken);
    assert_eq!(late(&[(ThreadState::Preempted, 20, 21)], 102).0, Cause::PolicySlow);
    assert_eq!(late(&[(ThreadState::Asleep, 20, 300)], 301).0, Cause::PolicySlow);
}

#[test]
fn a_longer_disturbance_outweighs_a_policy_that_is_late_by_itself() {
    // 150 us of its own, and 151 us taken: either alone would have missed.
    assert_eq!(late(&[(ThreadState::Preempted, 10, 161)], 301).0, Cause::CoreTaken);
    assert_eq!(late(&[(ThreadState::Preempted, 10, 160)], 300).0, Cause::PolicySlow);
    // More was taken than its own time, but less than the limit: that alone would not have missed.
    assert_eq!(late(&[(ThreadState::Preempted, 10, 110)], 201).0, Cause::PolicySlow);
}

#[test]
fn faults_and_switches_are_told_apart() {
    let fault = late(&[(ThreadState::MinorFault, 10, 70), (ThreadState::MajorFault, 80, 200)], 201);
    assert_eq!(fault.0, Cause::PageFault);
    assert_eq!((fault.1.fault_ns, fault.1.minor_faults, fault.1.major_faults), (180 * MICRO, 1, 1));
    // The wait for the disk is part of the fault.
    let waiting = late(&[(ThreadState::Asleep, 30, 190), (ThreadState::MajorFault, 20, 200)], 210);
    assert_eq!((waiting.0, waiting.1.fault_ns, waiting.1.asleep_ns), (Cause::PageFault, 180 * MICRO, 0));
    // Preempted in the middle of a fault: the other thread made it long.
    let taken = late(&[(ThreadState::Preempted, 30, 190), (ThreadState::MinorFault, 20, 200)], 210);
    assert_eq!((taken.0, taken.1.preempted_ns, taken.1.preemptions), (Cause::CoreTaken, 160 * MICRO, 1));
}

#[test]
fn a_span_outside_the_tick_explains_nothing() {
    assert_eq!(late(&[(ThreadState::Preempted, 300, 900)], 300).0, Cause::PolicySlow);
}

#[test]
fn what_is_not_known_decides_nothing() {
    // Faults may have taken all of the time or none.
    assert_eq!(late(&[(ThreadState::FaultsUnknown, 0, 300)], 300).0, Cause::Undetermined);
    assert_eq!(late(&[(ThreadState::SwitchesUnknown, 50, 250)], 300).0, Cause::Undetermined);
    // 20 unknown us change nothing about 200 us of its own, nor about 180 us taken.
    assert_eq!(late(&[(ThreadState::SwitchesUnknown, 50, 70)], 220).0, Cause::PolicySlow);
    let taken = late(&[(ThreadState::SwitchesUnknown, 50, 70), (ThreadState::Preempted, 70, 250)], 260);
    assert_eq!((taken.0, taken.1.unknown_ns), (Cause::CoreTaken, 20 * MICRO));
}

#[test]
fn a_thread_that_is_not_watched_has_no_verdict() {
    let mut timeline = timeline(&[]);
    timeline.forget_before(u64::MAX);
    assert_eq!(judge_late(&timeline, at(0, 500), true).0, Cause::Undetermined);
    assert_eq!(judge(&timeline, MissKind::ActionRingFull, true, None).0, Cause::ActionRingFull);
}

#[test]
fn a_gap_is_the_platforms_and_bounded_by_what_it_took() {
    let gap = (ThreadState::PlatformGap, 20, 520);
    assert_eq!(late(&[gap], 550).0, Cause::CoreTaken);
    let window = at(0, 550);
    let mut timeline = timeline(&[gap]);
    // This hypervisor reports when it takes the engine's core, and did not: the gap was on the guard's core
    // alone.
    timeline.rely_on_steal();
    assert_eq!(judge_late(&timeline, window, true).0, Cause::PolicySlow);
    timeline.add_stolen(at(0, 5_000), 480 * MICRO);
    assert_eq!(judge_late(&timeline, window, true).0, Cause::CoreTaken);
}

#[test]
fn stolen_time_explains_what_it_matches() {
    let verdict = |stolen: u64, alone: bool| {
        let mut timeline = timeline(&[]);
        timeline.add_stolen(at(0, 5_000), stolen * MICRO);
        judge_late(&timeline, at(1_000, 1_500), alone)
    };
    // 500 us, 400 us too many. Less stolen time does not explain the miss; as much does.
    assert_eq!(verdict(399, true).0, Cause::PolicySlow);
    let (cause, evidence) = verdict(400, true);
    assert_eq!((cause, evidence.platform_ns), (Cause::CoreTaken, 400 * MICRO));
    // Far more was stolen than is to be explained: an unknown part of it was taken elsewhere.
    assert_eq!(verdict(900, true).0, Cause::Undetermined);
    // Two misses and one sample of stolen time.
    assert_eq!(verdict(400, false).0, Cause::Undetermined);
}

#[test]
fn a_stale_observation_waited_for_its_feed_up_to_the_last_look() {
    // The engine was on its core with nothing to do for the whole time.
    let (cause, evidence) = stale(&[], 500);
    assert_eq!((cause, evidence.feed_ns), (Cause::FeedStalled, 500 * MICRO));
    // It worked for most of the time, and polled before that.
    let (cause, evidence) = stale(&[(ThreadState::Busy, 100, 500)], 501);
    assert_eq!((cause, evidence.feed_ns, evidence.queued_ns), (Cause::Queued, 100 * MICRO, 400 * MICRO));
    // It worked, then polled in vain: the work is not the cause.
    assert_eq!(stale(&[(ThreadState::Busy, 0, 400)], 420).0, Cause::FeedStalled);
    assert_eq!(stale(&[(ThreadState::Busy, 0, 401)], 420).0, Cause::Queued);
    // The core was taken in the middle of its work.
    assert_eq!(
        stale(&[(ThreadState::Busy, 0, 500), (ThreadState::Preempted, 100, 480)], 501).0,
        Cause::CoreTaken
    );
    // Asleep between polls: it polls each time before it goes to sleep.
    let naps =
        [(ThreadState::Asleep, 10, 200), (ThreadState::Asleep, 205, 400), (ThreadState::Asleep, 405, 495)];
    let (cause, evidence) = stale(&naps, 500);
    assert_eq!((cause, evidence.feed_ns, evidence.asleep_ns), (Cause::FeedStalled, 405 * MICRO, 90 * MICRO));
    assert_eq!(stale(&[(ThreadState::Asleep, 0, 495)], 500).0, Cause::IdleSleep);
}

#[test]
fn the_guards_own_absence_is_no_gap() {
    let (mut engine, mut guard) = (timeline(&[]), timeline(&[(ThreadState::Preempted, 0, 400)]));
    engine.add_gap(at(0, 410), &guard);
    assert_eq!(engine.count(ThreadState::PlatformGap, at(0, 1_000)), 0);
    guard.add(ThreadState::Asleep, at(500, 600));
    engine.add_gap(at(490, 700), &guard);
    assert_eq!(
        engine.cut(at(0, 1_000)).iter().filter(|segment| segment.is(ThreadState::PlatformGap)).count(),
        1
    );
}

#[test]
fn what_was_forgotten_is_unknown() {
    let mut timeline = timeline(&[]);
    for index in 0..20_000 {
        timeline.add(ThreadState::Preempted, at(10 * index, 10 * index + 1));
    }
    assert_eq!(judge_late(&timeline, at(0, 500), true).0, Cause::Undetermined);
}

const DEADLINES: Deadlines = Deadlines {
    inference: Nanos::from_micros(100),
    end_to_end: Nanos::from_micros(1_000),
    max_age: Some(Nanos::from_micros(500)),
};

/// A tick that is peeked at `peek`, calls the policy 1 us later and works for `inference`, in microseconds.
fn record(position: u64, peek: u64, inference: u64, reason: Reason) -> TickRecord {
    TickRecord {
        sequence: 100 + position,
        position,
        ts_publish_ns: START + peek * MICRO - 10 * MICRO,
        ts_peek_ns: START + peek * MICRO,
        ts_called_ns: START + (peek + 1) * MICRO,
        ts_commit_ns: START + (peek + 2 + inference) * MICRO,
        inference_ns: inference * MICRO,
        outcome: Outcome::SafeDefault.number(),
        reason: reason.number(),
        ..TickRecord::default()
    }
}

/// The misses of a policy that may take any time.
fn misses() -> Misses {
    let mut misses = Misses::new(Nanos(0), DEADLINES);
    misses.measured(ANY_TIME);
    misses
}

fn judged(misses: &mut Misses) -> Vec<(u64, Cause)> {
    let mut found = Vec::new();
    misses.judge(Nanos(START + 1_000_000 * MICRO), |miss| found.push((miss.sequence, miss.cause)));
    found
}

#[test]
fn a_takeover_is_judged_once_the_policy_has_returned() {
    let mut misses = misses();
    let taken = record(1, 1_000, 101, Reason::GuardTakeover);
    misses.note(&taken);
    let mut told = 0;
    misses.judge(Nanos(taken.ts_commit_ns + 1), |_| told += 1);
    assert_eq!(told, 0);
    misses.timeline().add(ThreadState::Preempted, at(1_050, 4_000));
    misses.note(&TickRecord { outcome: 0, ..record(1, 1_000, 3_050, Reason::GuardTakeover) });
    assert_eq!(judged(&mut misses), [(101, Cause::CoreTaken)]);
}

#[test]
fn a_policy_that_never_returns_is_judged_by_what_it_did() {
    let mut misses = misses();
    misses.note(&record(1, 1_000, 101, Reason::GuardTakeover));
    misses.close(Nanos(START + 50_000 * MICRO), |miss| assert_eq!(miss.cause, Cause::PolicySlow));
    assert_eq!(misses.count_of(Cause::PolicySlow), 1);
}

#[test]
fn what_is_not_enforced_counts_and_what_is_in_time_does_not() {
    let mut misses = misses();
    misses.note(&record(1, 1_000, 100, Reason::None));
    misses.note(&TickRecord {
        flags: ActionFlags::INFERENCE_LATE,
        outcome: Outcome::Policy.number(),
        ..record(2, 2_000, 101, Reason::None)
    });
    misses.note(&TickRecord { outcome: 0, ..record(3, 3_000, 0, Reason::ActionRingFull) });
    assert_eq!(judged(&mut misses), [(102, Cause::PolicySlow), (103, Cause::ActionRingFull)]);
    let report = misses.report(&[], 0);
    assert_eq!((report.by_cause["policy_slow"], report.by_cause["action_ring_full"]), (1, 1));
    assert_eq!(report.recent.len(), 2);
}

#[test]
fn an_observation_behind_a_slow_one_was_queued_and_one_behind_lost_records_is_not_known() {
    let waited = |misses: &mut Misses, position| {
        misses.note(&record(1, 1_000, 60, Reason::None));
        misses.note(&record(2, 1_070, 2_000, Reason::InferenceLate));
        let mut stale = record(position, 3_080, 0, Reason::Stale);
        stale.ts_publish_ns = START + 1_100 * MICRO;
        misses.note(&stale);
        judged(misses).last().copied()
    };
    assert_eq!(waited(&mut misses(), 3), Some((103, Cause::Queued)));
    let mut misses = misses();
    misses.note(&record(1, 1_000, 60, Reason::None));
    let mut stale = record(9, 3_080, 0, Reason::Stale);
    stale.ts_publish_ns = START + 1_100 * MICRO;
    misses.note(&stale);
    assert_eq!(judged(&mut misses), [(109, Cause::Undetermined)]);
}

/// A dry run is on its core for longer than the time that counts as a poll.
#[test]
fn an_observation_that_waited_for_a_dry_run_did_not_wait_for_its_feed() {
    let behind = |begun: u64, ended: u64| {
        let mut misses = misses();
        misses.note(&record(1, 1_000, 60, Reason::None));
        let mut stale = record(2, 3_080, 0, Reason::Stale);
        stale.ts_publish_ns = START + 2_960 * MICRO;
        if ended > 0 {
            stale.dry_begun_ns = START + begun * MICRO;
            stale.dry_ended_ns = START + ended * MICRO;
        }
        misses.note(&stale);
        judged(&mut misses)
    };
    assert_eq!(behind(2_950, 3_079), [(102, Cause::Queued)]);
    // It came long before the dry run, while the engine polled.
    assert_eq!(behind(3_060, 3_079), [(102, Cause::FeedStalled)]);
    assert_eq!(behind(0, 0), [(102, Cause::FeedStalled)]);
}

#[test]
fn deadlines_are_those_of_the_records_revision() {
    let mut misses = misses();
    misses.expect(2, Deadlines { inference: Nanos::from_micros(300), ..DEADLINES }, Some(ANY_TIME));
    let tick = |revision, position| TickRecord {
        revision,
        ..record(position, 1_000 * position, 350, Reason::InferenceLate)
    };
    // 150 us were taken. The other 200 us are late under the first deadline and on time under the second.
    for position in [1, 2] {
        let begin = 1_000 * position + 100;
        misses.timeline().add(ThreadState::Preempted, at(begin, begin + 150));
    }
    misses.note(&tick(1, 1));
    misses.note(&tick(2, 2));
    assert_eq!(judged(&mut misses), [(101, Cause::PolicySlow), (102, Cause::CoreTaken)]);
}

#[test]
fn only_the_latest_are_kept_and_all_are_counted() {
    let mut misses = misses();
    (1..=50)
        .for_each(|position| misses.note(&record(position, 1_000 * position, 200, Reason::InferenceLate)));
    judged(&mut misses);
    let report = misses.report(&[], 0);
    assert_eq!(report.by_cause["policy_slow"], 50);
    let sequences: Vec<_> = report.recent.iter().map(|miss| miss.sequence).collect();
    assert_eq!(sequences, (135..=150).collect::<Vec<_>>());
}

/// Finds every injected cause on its own timeline. `shift` moves the evidence against the ticks.
fn found(shift: u64) -> Vec<Cause> {
    let mut misses = misses();
    let kinds = [ThreadState::Preempted, ThreadState::MinorFault, ThreadState::MajorFault];
    for position in 1..=90 {
        let begin = 10_000 * position + 50 + shift;
        misses.timeline().add(kinds[position as usize % 3], at(begin, begin + 300));
        misses.note(&record(position, 10_000 * position, 350, Reason::InferenceLate));
    }
    judged(&mut misses).into_iter().map(|(_, cause)| cause).collect()
}

#[test]
fn evidence_that_is_shifted_by_a_tick_is_found_out() {
    let right = |causes: Vec<Cause>| {
        let expected = |index: usize| if index % 3 == 2 { Cause::CoreTaken } else { Cause::PageFault };
        causes.iter().enumerate().filter(|(index, cause)| **cause == expected(*index)).count()
    };
    assert_eq!(right(found(0)), 90);
    assert!(right(found(10_000)) < 60);
}

fn kind() -> impl Strategy<Value = ThreadState> {
    prop::sample::select(vec![
        ThreadState::Preempted,
        ThreadState::Asleep,
        ThreadState::MinorFault,
        ThreadState::MajorFault,
        ThreadState::PlatformGap,
        ThreadState::Busy,
        ThreadState::SwitchesUnknown,
        ThreadState::FaultsUnknown,
        ThreadState::WorkUnknown,
    ])
}

proptest! {
    /// Whatever is known, the parts of the evidence add up to the whole, and no figure exceeds it.
    #[test]
    fn the_parts_are_the_whole(
        mut known in prop::collection::vec((kind(), 0u64..2_000, 0u64..400), 0..40),
        end in 1u64..2_000,
        limit in 0u64..2_000,
        is_stale in any::<bool>(),
        stolen in 0u64..3_000,
    ) {
        known.sort_by_key(|(_, begin, length)| begin + length);
        let span = |(kind, begin, length)| (kind, begin, begin + length);
        let spans: Vec<_> = known.into_iter().map(span).collect();
        let mut timeline = timeline(&spans);
        if stolen > 0 {
            timeline.add_stolen(at(0, 3_000), stolen * MICRO);
        }
        let (window, limit) = (at(0, end), limit * MICRO);
        let kind = if is_stale {
            MissKind::Stale { window, limit }
        } else {
            MissKind::Late { window, call: at(end / 3, end / 2), limit }
        };
        let (_, found) = judge(&timeline, kind, true, None);
        let machine = found.preempted_ns + found.platform_ns + found.fault_ns;
        let parts = found.on_core_ns + found.asleep_ns + machine + found.queued_ns + found.feed_ns
            + found.unknown_ns;
        prop_assert_eq!(parts, found.took_ns);
        prop_assert_eq!(found.took_ns, end * MICRO);
    }

    /// If more time is taken, a miss never becomes the policy's.
    #[test]
    fn more_taken_is_never_the_policys_fault(own in 1u64..100, taken in 1u64..2_000, more in 0u64..2_000) {
        let verdict = |taken: u64| late(&[(ThreadState::Preempted, 0, taken)], taken + own).0;
        prop_assume!(verdict(taken) == Cause::CoreTaken);
        prop_assert_eq!(verdict(taken + more), Cause::CoreTaken);
    }

    /// Less knowledge never turns one cause into another; it can only make it undetermined.
    #[test]
    fn less_knowledge_is_never_another_cause(
        begin in 0u64..300,
        length in 1u64..300,
        unknown in 0u64..300,
        unknown_length in 1u64..300,
        end in 101u64..400,
    ) {
        let known = [(ThreadState::Preempted, begin, begin + length)];
        let (full, _) = late(&known, end);
        let blind = (ThreadState::FaultsUnknown, unknown, unknown + unknown_length);
        let (partial, _) = late(&[known[0], blind], end);
        prop_assert!(partial == full || partial == Cause::Undetermined, "{partial:?} for {full:?}");
    }
}
