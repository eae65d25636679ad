//! Deadlines at their edges: one nanosecond below, equal, and one above, for each layer and each way of
//! enforcing.

use super::*;
use escapement_ring::wire::ActionFlags;

#[derive(Debug, Clone, Copy)]
enum Layer {
    Inference,
    EndToEnd,
}

impl Layer {
    /// Returns a step that takes the layer's deadline plus `offset` nanoseconds, and is in time for the other
    /// layer.
    fn step(self, offset: i64) -> Step {
        match self {
            Self::Inference => Step::taking(INFERENCE.saturating_add_signed(offset), 0),
            Self::EndToEnd => Step::taking(INFERENCE, (END_TO_END - INFERENCE).saturating_add_signed(offset)),
        }
    }

    fn reason_and_flag(self) -> (Reason, u32) {
        match self {
            Self::Inference => (Reason::InferenceLate, ActionFlags::INFERENCE_LATE),
            Self::EndToEnd => (Reason::EndToEndLate, ActionFlags::END_TO_END_LATE),
        }
    }
}

/// Returns what the documents say about a tick that takes the deadline plus `offset`.
fn documented(layer: Layer, offset: i64, on_miss: OnMiss, enforce: bool) -> (Outcome, Reason, u32) {
    let (reason, flag) = layer.reason_and_flag();
    match (offset > 0, enforce, on_miss) {
        (false, _, _) => (Outcome::Policy, Reason::None, 0),
        (true, false, _) => (Outcome::Policy, Reason::None, flag),
        (true, true, OnMiss::Halt) => (Outcome::Halt, reason, flag),
        (true, true, OnMiss::SafeDefault) => (Outcome::SafeDefault, reason, flag),
    }
}

#[test]
fn each_layer_at_its_edge() {
    for layer in [Layer::Inference, Layer::EndToEnd] {
        for offset in [-1, 0, 1] {
            for on_miss in [OnMiss::Halt, OnMiss::SafeDefault] {
                for enforce in [true, false] {
                    let case = format!("{layer:?} {offset:+} {on_miss:?} enforce={enforce}");
                    let mut rig = Rig::new(|settings| {
                        settings.on_miss = on_miss;
                        settings.enforce = enforce;
                    });
                    rig.script(layer.step(offset));
                    let observation = rig.ordinary();
                    let sent = rig.answer(&observation);
                    let (outcome, reason, flags) = documented(layer, offset, on_miss, enforce);
                    assert_eq!(sent.verdict(), (outcome, reason), "{case}");
                    assert_eq!(sent.header.flags, flags, "{case}");
                    let value = match outcome {
                        Outcome::Policy => ANSWER,
                        Outcome::SafeDefault | Outcome::Fallback => SAFE,
                        Outcome::Halt => NEUTRAL,
                    };
                    assert_eq!(sent.payload, [value; 2], "{case}");
                    let expected_state = match outcome {
                        Outcome::Halt => (Some(AgentState::Halted), Some(reason)),
                        _ => (Some(AgentState::Armed), Some(Reason::None)),
                    };
                    assert_eq!(rig.actions.state(), expected_state, "{case}");
                }
            }
        }
    }
}

/// Time between any two looks at the clock counts end to end, not only the policy's time.
#[test]
fn time_outside_the_inference_counts_end_to_end() {
    // Peeked, called, returned, judged, taken back: four intervals. The last one stands for an engine that
    // was stopped after its verdict: the action was on time then, and is late now.
    for (per_read, expected) in [
        (END_TO_END / 4, (Outcome::Policy, Reason::None)),
        (END_TO_END / 4 + 1, (Outcome::SafeDefault, Reason::EndToEndLate)),
        (END_TO_END / 3 + 1, (Outcome::SafeDefault, Reason::EndToEndLate)),
    ] {
        let clock = ScriptedClock { after_every_read: per_read, ..ScriptedClock::new() };
        let mut rig = Rig::with(NARROW, clock, |_| ());
        let observation = rig.ordinary();
        let sent = rig.answer(&observation);
        assert_eq!((sent.verdict(), sent.header.inference_ns), (expected, per_read));
    }
}

#[test]
fn the_stamps_of_an_action_are_those_of_the_script() {
    let mut rig = Rig::new(|_| ());
    let begun = rig.clock.manual.now().0;
    rig.script(Step::taking(40_000, 2_000));
    let observation = Published { age: 700, ..rig.ordinary() };
    let ActionHeader { queue_ns, inference_ns, ts_commit_ns, ts_publish_ns, ts_event_ns, .. } =
        rig.answer(&observation).header;
    assert_eq!((queue_ns, inference_ns, ts_event_ns), (700, 40_000, 7 * observation.sequence));
    assert_eq!((ts_publish_ns, ts_commit_ns), (begun - 700, begun + 42_000));
    let record = rig.record().unwrap();
    assert_eq!((record.ts_peek_ns, record.ts_commit_ns), (begun, begun + 42_000));
    assert_eq!((record.outcome, record.reason), (Outcome::Policy.number(), 0));
    assert_eq!(rig.record(), None);
}

#[test]
fn the_maximum_age_at_its_edge() {
    for (age, enforce, verdict, flags) in [
        (MAX_AGE - 1, true, (Outcome::Policy, Reason::None), 0),
        (MAX_AGE, true, (Outcome::Policy, Reason::None), 0),
        (MAX_AGE + 1, true, (Outcome::SafeDefault, Reason::Stale), ActionFlags::STALE),
        (MAX_AGE + 1, false, (Outcome::Policy, Reason::None), ActionFlags::STALE),
    ] {
        let mut rig = Rig::new(|settings| settings.enforce = enforce);
        let observation = Published { age, ..rig.ordinary() };
        let sent = rig.answer(&observation);
        assert_eq!((sent.verdict(), sent.header.flags), (verdict, flags), "age {age} enforce={enforce}");
        assert_eq!(rig.counted().stale, u64::from(flags != 0));
    }
}

#[test]
fn any_age_is_admitted_where_no_maximum_is_set() {
    let mut rig = Rig::new(|settings| settings.deadlines.max_age = None);
    let observation = Published { age: 900_000_000, ..rig.ordinary() };
    assert_eq!(rig.answer(&observation).verdict(), (Outcome::Policy, Reason::None));
}

#[test]
fn a_stamp_in_the_future_is_no_age() {
    let mut rig = Rig::new(|_| ());
    rig.clock.manual.advance(Nanos(500));
    rig.publish_ordinary();
    // The feed's clock is ahead of this one.
    let ahead = ScriptedClock::new();
    rig.engine.pipeline.clock = ahead;
    rig.engine.tick();
    let sent = rig.sent().unwrap();
    assert_eq!((sent.verdict(), sent.header.queue_ns), ((Outcome::Policy, Reason::None), 0));
}

/// Up to the skew a stamp ahead counts as age zero. Beyond it the observation is refused, enforced or not,
/// also without a maximum age.
#[test]
fn a_stamp_ahead_of_the_clock_is_refused_beyond_the_skew() {
    let refused = (Outcome::SafeDefault, Reason::StampedAhead);
    for (ahead, verdict) in [
        (1, (Outcome::Policy, Reason::None)),
        (MAX_SKEW, (Outcome::Policy, Reason::None)),
        (MAX_SKEW + 1, refused),
        (1_700_000_000_000_000_000, refused),
        (1 << 63, refused),
    ] {
        for (enforce, max_age) in [(true, Some(Nanos(MAX_AGE))), (true, None), (false, None)] {
            let mut rig = Rig::new(|settings| {
                settings.enforce = enforce;
                settings.deadlines.max_age = max_age;
            });
            let observation = Published { age: 0u64.wrapping_sub(ahead), ..rig.ordinary() };
            assert_eq!(rig.answer(&observation).verdict(), verdict, "{ahead} ahead, enforce={enforce}");
            let counted = rig.counted().outcomes.get("stamped_ahead").copied().unwrap_or(0);
            assert_eq!(counted, u64::from(verdict == refused));
        }
    }
}

/// A clock that goes back while the policy computes or after it halts the agent. No latency of zero leaves.
#[test]
fn a_clock_that_goes_back_within_a_tick_halts() {
    for enforce in [true, false] {
        for back in [1, 50_000] {
            let mut rig = Rig::new(|settings| settings.enforce = enforce);
            rig.script(Step::new(0u64.wrapping_sub(back), 0, Ok(vec![ANSWER; 2])));
            let observation = rig.ordinary();
            let sent = rig.answer(&observation);
            assert_eq!(sent.verdict(), (Outcome::Halt, Reason::ClockFault), "{back} ns, enforce={enforce}");
            assert_eq!(rig.actions.state(), (Some(AgentState::Halted), Some(Reason::ClockFault)));
        }
    }
}

/// A tick that is late and also refused for another reason is a miss, and an enforced halt comes first.
#[test]
fn a_late_refusal_is_a_miss() {
    for (on_miss, verdict) in [
        (OnMiss::SafeDefault, (Outcome::SafeDefault, Reason::ActionNonFinite)),
        (OnMiss::Halt, (Outcome::Halt, Reason::InferenceLate)),
    ] {
        let mut rig = Rig::new(|settings| settings.on_miss = on_miss);
        rig.script(Step::new(INFERENCE + 1, 0, Ok(vec![f32::NAN, 0.0])));
        let observation = rig.ordinary();
        assert_eq!(rig.answer(&observation).verdict(), verdict);
    }
    // The same if the policy was never called: the time passes right after the peek.
    let mut rig = Rig::new(|settings| settings.on_miss = OnMiss::Halt);
    rig.clock.pass_after_next_read(END_TO_END + 1);
    let observation = Published { age: MAX_AGE + 1, ..rig.ordinary() };
    assert_eq!(rig.answer(&observation).verdict(), (Outcome::Halt, Reason::EndToEndLate));
    assert_eq!(*rig.calls.lock().unwrap(), 0);
}

#[test]
fn a_miss_budget_forgives_as_many_as_it_says() {
    let mut rig = Rig::new(|settings| {
        settings.on_miss = OnMiss::Halt;
        settings.miss_budget = BudgetSpec { misses: 2, window: 5 };
    });
    // Two late ticks, then three on time: the window has moved past the first miss when the third and fourth
    // come.
    for (late, expected) in [
        (true, Outcome::SafeDefault),
        (true, Outcome::SafeDefault),
        (false, Outcome::Policy),
        (false, Outcome::Policy),
        (false, Outcome::Policy),
        (true, Outcome::SafeDefault),
        (true, Outcome::SafeDefault),
        (true, Outcome::Halt),
    ] {
        rig.script(Step::taking(if late { INFERENCE + 1 } else { INFERENCE }, 0));
        let observation = rig.ordinary();
        assert_eq!(rig.answer(&observation).verdict().0, expected);
    }
}

#[test]
fn misses_that_are_not_enforced_spend_no_budget_and_are_counted() {
    let mut rig = Rig::new(|settings| {
        settings.on_miss = OnMiss::Halt;
        settings.enforce = false;
    });
    for _ in 0..20 {
        rig.script(Step::taking(END_TO_END + 1, 0));
        let observation = rig.ordinary();
        assert_eq!(rig.answer(&observation).verdict(), (Outcome::Policy, Reason::None));
    }
    let counted = rig.counted();
    assert_eq!((counted.inference_late, counted.end_to_end_late), (20, 20));
}

#[test]
fn an_error_budget_halts_once_it_is_exceeded() {
    let mut rig = Rig::new(|settings| settings.error_budget = BudgetSpec { misses: 2, window: 10 });
    for expected in [
        (Outcome::SafeDefault, Reason::PolicyError),
        (Outcome::SafeDefault, Reason::PolicyError),
        (Outcome::Halt, Reason::ErrorBudget),
    ] {
        rig.script(Step::new(0, 0, Err(Fault::Raised)));
        let observation = rig.ordinary();
        assert_eq!(rig.answer(&observation).verdict(), expected);
    }
    assert_eq!(rig.engine.tick(), Progress::Halted(Reason::ErrorBudget));
}
