//! New settings between two ticks: a set is applied whole or not at all, and the old one comes back.

use super::super::{PolicyChange, PolicyExtras, Update, UpdateOutcome};
use super::*;
use crate::lease::mailbox;
use escapement_policy::PolicyError;

/// Returns a set that differs from every other one in each of its values.
fn set(revision: u32, change: impl FnOnce(&mut Settings)) -> Settings {
    let mut settings = settings(NARROW);
    let mark = -(revision as f32) / 1024.0;
    settings.safe_default = vec![mark; 2].into();
    settings.neutral = vec![mark; 2].into();
    settings.deadlines.inference = Nanos(INFERENCE + u64::from(revision));
    settings.deadlines.end_to_end = Nanos(INFERENCE + u64::from(revision));
    change(&mut settings);
    settings
}

fn update(revision: u32, change: impl FnOnce(&mut Settings)) -> Update {
    Update::new(set(revision, change), PolicyExtras::default(), None, revision)
}

#[test]
fn a_tick_goes_by_one_set() {
    let mut rig = Rig::new(|_| ());
    for revision in 2..200 {
        let mut offered = update(revision, |_| ());
        assert!(rig.engine.apply(&mut offered));
        let at_the_edge = INFERENCE + u64::from(revision);
        for (latency, outcome) in [(at_the_edge, Outcome::Policy), (at_the_edge + 1, Outcome::SafeDefault)] {
            rig.script(Step::taking(latency, 0));
            let observation = rig.ordinary();
            let sent = rig.answer(&observation);
            assert_eq!((sent.verdict().0, sent.header.generation), (outcome, revision));
            if outcome == Outcome::SafeDefault {
                assert_eq!(sent.payload, [-(revision as f32) / 1024.0; 2]);
            }
        }
        let record = std::iter::from_fn(|| rig.record()).last().unwrap();
        assert_eq!(record.revision, revision);
    }
}

#[test]
fn what_was_missed_is_not_forgiven_unless_the_rule_changes() {
    let misses = |misses| {
        move |settings: &mut Settings| {
            settings.on_miss = OnMiss::Halt;
            settings.miss_budget = BudgetSpec { misses, window: 100 };
        }
    };
    for (second_rule, halts) in [(1, true), (2, false)] {
        let mut rig = Rig::new(misses(1));
        rig.script(Step::taking(2 * INFERENCE, 0));
        let observation = rig.ordinary();
        assert_eq!(rig.answer(&observation).verdict().0, Outcome::SafeDefault);
        assert!(rig.engine.apply(&mut update(2, misses(second_rule))));
        rig.script(Step::taking(2 * INFERENCE, 0));
        let observation = rig.ordinary();
        assert_eq!(rig.answer(&observation).verdict().0 == Outcome::Halt, halts, "{second_rule}");
    }
}

/// Answers with a value of its own, or refuses this thread.
struct Successor(Result<f32, ()>);

impl Policy for Successor {
    fn dimensions(&self) -> Dimensions {
        NARROW
    }

    fn backend(&self) -> &'static str {
        "successor"
    }

    fn enter_thread(&mut self) -> Result<(), PolicyError> {
        let refused = || PolicyError::Backend { backend: "successor", reason: "not here".to_owned() };
        self.0.map(drop).map_err(|()| refused())
    }

    fn infer(&mut self, _observation: &[f32], action: &mut [f32]) -> Result<(), Fault> {
        action.fill(self.0.unwrap_or(f32::NAN));
        Ok(())
    }
}

fn successor(answer: Result<f32, ()>, revision: u32) -> Update {
    let policies = Policies::new(Box::new(Successor(answer)), None);
    let change = PolicyChange { policies, sha256: [7; 32], call: None, warm_up_calls: 3, on_thread: None };
    Update::new(set(revision, |_| ()), PolicyExtras::default(), Some(change), revision)
}

#[test]
fn a_new_policy_answers_the_next_observation_and_the_old_one_comes_back() {
    let mut rig = Rig::new(|_| ());
    let observation = rig.ordinary();
    assert_eq!(rig.answer(&observation).payload, [ANSWER; 2]);
    assert!(rig.engine.apply(&mut successor(Ok(0.75), 2)));
    assert_eq!(rig.actions.region.header().bundle_hash(), [7; 32]);
    let observation = rig.ordinary();
    let sent = rig.answer(&observation);
    assert_eq!((sent.payload, sent.header.generation), (vec![0.75; 2], 2));
}

#[test]
fn a_policy_that_refuses_the_thread_changes_nothing() {
    let mut rig = Rig::new(|_| ());
    let mut refused = successor(Err(()), 2);
    assert!(!rig.engine.apply(&mut refused));
    assert!(
        matches!(refused.outcome(), UpdateOutcome::Refused(error) if error.to_string().contains("not here"))
    );
    let observation = rig.ordinary();
    let sent = rig.answer(&observation);
    assert_eq!((sent.payload, sent.header.generation), (vec![ANSWER; 2], 1));
    assert_eq!(rig.actions.region.header().bundle_hash(), [0; 32]);
}

/// An update that was not applied must not be reported as applied.
#[test]
fn what_is_not_taken_says_so() {
    let mut rig = Rig::new(|_| ());
    let mut offered = update(2, |_| ());
    rig.engine.pipeline.session.responder.grant(Nanos(u64::MAX));
    assert!(!rig.engine.apply(&mut offered));
    assert!(matches!(offered.outcome(), UpdateOutcome::Pending));
    assert!(rig.engine.pipeline.session.responder.take_back());
    assert!(rig.engine.apply(&mut offered));
    assert!(matches!(offered.outcome(), UpdateOutcome::Applied));
}

/// The engine looks into the mailbox between ticks only: while the guard answers, the old set is in use.
#[test]
fn the_loop_takes_what_is_offered_between_ticks() {
    let mut rig = Rig::new(|_| ());
    let (mut sender, receiver) = mailbox();
    rig.engine.take_updates_from(receiver);
    assert!(sender.offer(Box::new(update(2, |_| ()))).is_ok());
    rig.engine.pipeline.session.lost_tick =
        Some(super::super::pipeline::LostTick { inference_ns: 0, returned: Nanos(0) });
    rig.engine.apply_offered_update();
    assert!(sender.collect().is_none());
    rig.engine.pipeline.session.lost_tick = None;
    rig.engine.apply_offered_update();
    assert!(sender.collect().is_some());
    let observation = rig.ordinary();
    assert_eq!(rig.answer(&observation).header.generation, 2);
}
