//! Noise and carried state through the real daemon.

use crate::{Copy, shipped};
use escapement::bundle::{Bundle, Trust};
use escapement::noise::{Distribution, Noise};
use escapement::policy::{Backend, Policy, Widths};
use escapement::wire::{Outcome, Reason};
use escapement_test_support::{Agent, next_action};
use std::path::Path;

/// Loads the policy of a bundle on this thread, to compute the expected actions.
fn policy_of(path: &Path) -> Box<dyn Policy> {
    let bundle = Bundle::open(path, &Trust::default()).expect("good");
    let mut policy =
        bundle.load(Backend::Native, Widths { observation: None, action: None }).expect("it serves").policy;
    policy.enter_thread().expect("a thread");
    policy
}

fn answer(policy: &mut dyn Policy, observation: &[f32]) -> [f32; 2] {
    let mut action = [0.0; 2];
    policy.infer(observation, &mut action).expect("an answer");
    action
}

fn agent(path: &Path, more: &[(&str, &str)]) -> Agent {
    let path = format!("{path:?}");
    let mut overrides = vec![
        ("policy.backend", "\"native\""),
        ("policy.path", path.as_str()),
        ("observation.dimension", "3"),
        ("observation.high", "100.0"),
    ];
    overrides.extend(more);
    Agent::new(&overrides)
}

const OBSERVATION: [f32; 3] = [0.5, -0.25, 1.0];

#[test]
fn noise_is_determined_by_seed_and_sequence() {
    let stochastic = [("policy.deterministic", "false"), ("policy.seed", "7")];
    let agent = agent(&shipped("small.bundle"), &stochastic);
    let mut policy = policy_of(&shipped("small.bundle"));
    let plain = answer(policy.as_mut(), &OBSERVATION);
    let mut seen = Vec::new();
    // The second start continues the sequence numbers, and draws the noise that the first one would have
    // drawn.
    for start in 0..2 {
        let process = agent.start_armed();
        let mut gateway = agent.gateway();
        let mut feed = agent.feed();
        for _ in 0..3 {
            feed.commit(&OBSERVATION);
            let (header, action) = next_action::<2>(&mut gateway);
            assert_eq!(header.outcome, Outcome::Policy.number());
            Noise::new(7, Distribution::Gaussian).fill(header.sequence, policy.noise_mut());
            assert_eq!(action, answer(policy.as_mut(), &OBSERVATION), "start {start}");
            assert_ne!(action, plain);
            seen.push(action);
        }
        assert_eq!(process.stop().0.code(), Some(0));
    }
    assert_eq!(seen[..3], seen[3..], "the test's feed begins at sequence 1 at every start");
    assert!(seen[0] != seen[1] && seen[1] != seen[2]);
}

#[test]
fn state_is_carried_and_begins_anew_by_the_rules_of_the_manifest() {
    let refused = [1000.0, 0.0, 0.0];
    for (rule, kept, burn_in) in
        [("\"keep\"", true, 0), ("\"reset\"", false, 0), ("{ burn_in = 2 }", false, 2)]
    {
        let copy = Copy::of("recurrent.bundle");
        copy.edit_manifest("on_miss = \"keep\"", &format!("on_miss = {rule}"));
        let agent = agent(&copy.path, &[]);
        let process = agent.start_armed();
        let (mut feed, mut gateway) = (agent.feed(), agent.gateway());
        let mut policy = policy_of(&copy.path);
        for _ in 0..3 {
            feed.commit(&OBSERVATION);
            let (header, action) = next_action::<2>(&mut gateway);
            assert_eq!(header.outcome, Outcome::Policy.number());
            assert_eq!(action, answer(policy.as_mut(), &OBSERVATION), "the warm-up left no state behind");
        }
        // The observation is out of range, so the policy never sees it.
        feed.commit(&refused);
        let (header, _) = next_action::<2>(&mut gateway);
        assert_eq!(header.reason, Reason::ObservationOutOfRange.number());
        if !kept {
            policy.reset();
        }
        for _ in 0..burn_in {
            feed.commit(&OBSERVATION);
            let (header, action) = next_action::<2>(&mut gateway);
            assert_eq!(
                (header.outcome, header.reason),
                (Outcome::SafeDefault.number(), Reason::BurnIn.number())
            );
            assert_eq!(action, [0.25, -0.25]);
            answer(policy.as_mut(), &OBSERVATION);
        }
        for _ in 0..3 {
            feed.commit(&OBSERVATION);
            let (header, action) = next_action::<2>(&mut gateway);
            assert_eq!(header.outcome, Outcome::Policy.number(), "{rule}");
            assert_eq!(action, answer(policy.as_mut(), &OBSERVATION), "{rule}");
        }
        assert_eq!(process.stop().0.code(), Some(0));
    }
}

#[test]
fn a_gap_follows_its_own_rule() {
    // The shipped rule is to reset the state.
    let agent = agent(&shipped("recurrent.bundle"), &[("observation.on_gap", "\"count\"")]);
    let process = agent.start_armed();
    let (mut feed, mut gateway) = (agent.feed(), agent.gateway());
    let mut policy = policy_of(&shipped("recurrent.bundle"));
    for _ in 0..3 {
        feed.commit(&OBSERVATION);
        let (_, action) = next_action::<2>(&mut gateway);
        assert_eq!(action, answer(policy.as_mut(), &OBSERVATION));
    }
    feed.skip_sequence(5);
    feed.commit(&OBSERVATION);
    let (header, action) = next_action::<2>(&mut gateway);
    assert_eq!(header.outcome, Outcome::Policy.number());
    policy.reset();
    assert_eq!(action, answer(policy.as_mut(), &OBSERVATION));
    assert_eq!(process.stop().0.code(), Some(0));
}

/// An episode of a thousand observations, as in the Python tests of recurrent policies.
#[test]
fn a_feed_that_restarts_begins_an_episode() {
    // This is not a gap, so no rule about gaps applies.
    for rule in ["\"keep\"", "{ burn_in = 2 }"] {
        let copy = Copy::of("recurrent.bundle");
        copy.edit_manifest("on_gap = \"reset\"", &format!("on_gap = {rule}"));
        let agent = agent(&copy.path, &[]);
        let process = agent.start_armed();
        let (mut feed, mut gateway) = (agent.feed(), agent.gateway());
        let mut policy = policy_of(&copy.path);
        let mut carried = 0;
        for episode in 0..3 {
            policy.reset();
            feed.restart();
            let first = answer(policy.as_mut(), &OBSERVATION);
            policy.reset();
            for step in 0..1000 {
                let observation = [OBSERVATION[0], (step as f32 * 0.37).sin(), OBSERVATION[2]];
                feed.commit(&observation);
                let (header, action) = next_action::<2>(&mut gateway);
                assert_eq!(
                    header.outcome,
                    Outcome::Policy.number(),
                    "{rule}, episode {episode}, step {step}"
                );
                assert_eq!(action, answer(policy.as_mut(), &observation), "{rule}, {episode}, {step}");
                carried += u32::from(action != first);
            }
        }
        assert!(carried > 2_900, "the state shows in the actions");
        assert_eq!(process.stop().0.code(), Some(0));
    }
}
