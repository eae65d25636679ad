//! The embedded agent, on a clock that is moved by hand.

use super::*;
use crate::bundle::StateRule;
use crate::policy::{Dimensions, Fault};
use escapement_ring::clock::ManualClock;

/// Takes as many nanoseconds as its first feature says, and answers with the second.
struct Scripted(ManualClock);

impl Policy for Scripted {
    fn dimensions(&self) -> Dimensions {
        Dimensions { observation: 2, action: 1 }
    }

    fn backend(&self) -> &'static str {
        "scripted"
    }

    fn infer(&mut self, observation: &[f32], action: &mut [f32]) -> Result<(), Fault> {
        self.0.advance(Nanos(observation[0] as u64));
        action[0] = observation[1];
        if observation[1] > 1e6 { Err(Fault::Raised) } else { Ok(()) }
    }
}

fn agent(enforce: bool, end_to_end: u64) -> Agent<ManualClock> {
    let clock = ManualClock::new(Nanos(0));
    let options = Options {
        deadlines: Deadlines { inference: Nanos(100), end_to_end: Nanos(end_to_end), max_age: None },
        enforce,
        safe_default: Some(vec![-7.0]),
        ..Options::default()
    };
    Agent::new(Box::new(Scripted(clock.clone())), None, vec![vec![1.0, 1.0]], options, clock)
        .expect("the policy serves")
}

#[test]
fn deadlines_are_held_at_their_boundary() {
    for (taken, violates) in [(99.0, false), (100.0, false), (101.0, true)] {
        let mut agent = agent(true, 1000);
        match agent.predict(&[taken, 3.0], true) {
            Ok((action, info)) => {
                assert!(!violates);
                assert_eq!(
                    (action, info.inference_ns, info.reason),
                    (&[3.0][..], taken as u64, Reason::None)
                );
            }
            Err(violation) => {
                assert!(violates);
                assert_eq!(
                    (violation.layer, violation.taken, violation.limit),
                    (Layer::Inference, Nanos(101), Nanos(100))
                );
            }
        }
        let mut agent = self::agent(true, 100);
        agent.deadlines.inference = Nanos(1000);
        assert_eq!(agent.predict(&[taken, 3.0], true).is_err(), violates, "end to end");
    }
}

#[test]
fn without_enforcement_lateness_is_told() {
    let mut agent = agent(false, 1000);
    let (action, info) = agent.predict(&[500.0, 3.0], true).expect("nothing is enforced");
    assert_eq!((action, info.late, info.outcome), (&[3.0][..], Some(Layer::Inference), Outcome::Policy));
}

#[test]
fn other_errors_become_the_safe_default() {
    for (observation, reason) in [
        (&[1.0, f32::NAN][..], Reason::ObservationNonFinite),
        (&[1.0][..], Reason::PolicyError),
        (&[1.0, 2e6][..], Reason::PolicyError),
    ] {
        let mut agent = agent(true, 1000);
        let (action, info) = agent.predict(observation, true).expect("no deadline was missed");
        assert_eq!((action, info.outcome, info.reason), (&[-7.0][..], Outcome::SafeDefault, reason));
    }
    // An error that is also late is a violation, because a safe default would be late too.
    assert!(agent(true, 1000).predict(&[500.0, 2e6], true).is_err());
}

#[test]
fn a_bundle_is_loaded_and_answers_with_and_without_noise() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/small.bundle");
    let options = Options { backend: Backend::Native, enforce: false, seed: 4, ..Options::default() };
    let mut agent = Agent::load(&path, options.clone()).expect("the bundle is good");
    let mut answer = |deterministic| {
        agent.predict(&[0.5, -0.25, 1.0], deterministic).expect("nothing is enforced").0.to_vec()
    };
    let plain = answer(true);
    let noisy = answer(false);
    assert_ne!(plain, noisy);
    assert_ne!(noisy, answer(false));
    assert_eq!(plain, answer(true));
    let wrong = Options { safe_default: Some(vec![2.0, 0.0]), ..options };
    assert!(matches!(Agent::load(&path, wrong), Err(AgentError::SafeDefault(_))));
}

/// A clock that also moves by a nanosecond at each look, so that a busy loop ends.
struct Ticking(ManualClock);

impl Clock for Ticking {
    fn now(&self) -> Nanos {
        self.0.advance(Nanos(1));
        self.0.now()
    }
}

#[test]
fn compliance_is_measured_against_the_inference_deadline() {
    let measure = |examples| {
        let clock = ManualClock::new(Nanos(0));
        let limit = Nanos(100);
        let options = Options {
            deadlines: Deadlines { inference: limit, end_to_end: limit, max_age: None },
            expected_rate: NonZeroU64::new(1_000_000).expect("not zero"),
            ..Options::default()
        };
        let policy = Box::new(Scripted(clock.clone()));
        let mut agent =
            Agent::new(policy, None, examples, options, Ticking(clock)).expect("the policy serves");
        agent.validate_slo_compliance(500)
    };
    // A look at the clock adds one nanosecond to the first feature: 100 and 101.
    let half = measure(vec![vec![99.0, 1.0], vec![100.0, 1.0]]).expect("nothing is enforced");
    assert_eq!((half.paced.calls(), half.within_deadline(), half.holds()), (500, 0.5, false));
    assert_eq!((half.back_to_back.calls(), half.back_to_back.within_deadline()), (500, 0.5));
    let all = measure(vec![vec![99.0, 1.0]]).expect("nothing is enforced");
    assert_eq!((all.within_deadline(), all.holds()), (1.0, true));
    assert!(measure(vec![vec![1.0, 2e6]]).is_err(), "the time of a fault is not measured");
}

fn recurrent(on_miss: StateRule) -> Agent {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/recurrent.bundle");
    let options = Options { backend: Backend::Native, enforce: false, ..Options::default() };
    let candidate = Candidate::read(&path, &options.trust).expect("the bundle is good");
    let policy = candidate.load(options.backend, Widths { observation: None, action: None });
    let mut manifest = candidate.manifest().expect("a bundle has one").clone();
    manifest.recurrent = manifest.recurrent.map(|rules| crate::bundle::Recurrent { on_miss, ..rules });
    let examples = vec![vec![0.0; 3]];
    let policy = policy.expect("the policy serves").policy;
    Agent::new(policy, Some(&manifest), examples, options, MachineClock::new()).expect("the policy serves")
}

#[test]
fn state_is_carried_by_the_rules_of_the_manifest() {
    const SEEN: [f32; 3] = [0.5, -0.25, 1.0];
    let ask = |agent: &mut Agent| {
        let (action, info) = agent.predict(&SEEN, true).expect("nothing is enforced");
        (action.to_vec(), info.reason)
    };
    let mut unbroken = recurrent(StateRule::Keep);
    let steps: Vec<_> = (0..4).map(|_| ask(&mut unbroken).0).collect();
    assert!(steps.windows(2).all(|pair| pair[0] != pair[1]), "the state changes the action: {steps:?}");
    for (rule, expected) in [
        (StateRule::Keep, [(&steps[2], Reason::None), (&steps[3], Reason::None)]),
        (StateRule::Reset, [(&steps[0], Reason::None), (&steps[1], Reason::None)]),
        (StateRule::BurnIn(1), [(&vec![0.0; 2], Reason::BurnIn), (&steps[1], Reason::None)]),
    ] {
        let mut agent = recurrent(rule);
        ask(&mut agent);
        ask(&mut agent);
        let miss = agent.predict(&[f32::NAN; 3], true).expect("nothing is enforced").1;
        assert_eq!(miss.reason, Reason::ObservationNonFinite);
        for (action, reason) in expected {
            assert_eq!(ask(&mut agent), (action.clone(), reason), "{rule:?}");
        }
        // An episode begins without a burn-in, also after a miss.
        let _ = agent.predict(&[f32::NAN; 3], true);
        agent.reset();
        assert_eq!(ask(&mut agent), (steps[0].clone(), Reason::None), "{rule:?}");
    }
}

#[test]
fn actions_out_of_the_manifests_bounds_become_the_safe_default() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/small.bundle");
    let manifest = Candidate::read(&path, &Trust::default()).expect("the bundle is good");
    let clock = ManualClock::new(Nanos(0));
    let mut manifest = manifest.manifest().expect("a bundle has one").clone();
    (manifest.action.low, manifest.action.high) = (vec![-1.0], vec![1.0]);
    (manifest.safe_default, manifest.noise) = (Some(vec![0.5]), None);
    let policy = Box::new(Scripted(clock.clone()));
    let mut agent = Agent::new(policy, Some(&manifest), vec![vec![0.0; 2]], Options::default(), clock)
        .expect("the policy serves");
    for (answer, reason) in
        [(1.0, Reason::None), (1.01, Reason::ActionOutOfBounds), (-2.0, Reason::ActionOutOfBounds)]
    {
        let (action, info) = agent.predict(&[1.0, answer], true).expect("in time");
        assert_eq!((action[0], info.reason), (if reason == Reason::None { answer } else { 0.5 }, reason));
    }
}
