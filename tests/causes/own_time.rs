//! Policies that are slow, and cores that stand still under a policy that cannot be slow.

use super::*;
use escapement_test_support::torchscript::{archive, perceptron, weights};

/// Keys of a native policy from this archive of four features and three actions. It stays on disk as long as
/// the returned file.
fn native(bytes: &[u8]) -> (tempfile::NamedTempFile, Vec<(&'static str, String)>) {
    let file = tempfile::Builder::new().suffix(".pt").tempfile().expect("a file in the temporary directory");
    std::fs::write(file.path(), bytes).expect("it can be written");
    let keys = vec![
        ("policy.backend", "\"native\"".to_owned()),
        ("policy.path", format!("{:?}", file.path())),
        ("action.dimension", "3".to_owned()),
        ("action.low", "-1e9".to_owned()),
        ("action.high", "1e9".to_owned()),
        ("action.safe_default", "[0.0, 0.0, 0.0]".to_owned()),
        ("action.neutral", "[0.0, 0.0, 0.0]".to_owned()),
    ];
    (file, keys)
}

/// Stalls of a core whose policy is a small plan, under these deadlines.
fn stalls(deadlines: &[(&str, &str)]) {
    let (_file, keys) = native(&perceptron());
    let keys: Vec<_> = keys.iter().map(|(key, value)| (*key, value.as_str())).collect();
    let mut rig = Rig::with_policy(&[&keys, deadlines].concat(), &[("ESCAPEMENT_TEST_STALL", "1")]);
    let mut stall = 2_200.0;
    let inject = |rig: &mut Rig| {
        // From a little above the deadline to several times as long.
        stall = if stall > 8_000.0 { 2_200.0 } else { stall * 1.1 };
        one(rig, [0.0, stall, 0.0])
    };
    Tally::of(&mut rig, "core_stalled", false, inject).must_hold();
    let misses = rig.misses();
    let shown = &misses["recent"].as_array().expect("a list").last().expect("there were misses")["evidence"];
    assert!(
        shown["policy_p50_ns"].as_u64() > Some(0) && shown["policy_p999_ns"].as_u64() > Some(0),
        "{shown}"
    );
    assert_eq!(misses["by_cause"]["policy_slow"], 0, "{misses}");
    // The counters matter only to policies whose work may vary.
    assert!(!misses["cannot_tell"].to_string().contains("counters"), "{misses}");
}

#[test]
fn a_core_that_stands_still_under_a_plan() {
    stalls(&[]);
}

#[test]
fn a_core_that_stands_still_under_the_deadline_of_the_whole_tick() {
    stalls(&[("deadline.end_to_end_us", "2000")]);
}

/// A plan whose usual time does not fit the deadline is slow, however it is measured.
#[test]
fn a_plan_that_is_too_big_for_its_deadline() {
    let width = 2_048;
    let body = "_0 = torch.tanh(torch.linear(x, CONSTANTS.c0, CONSTANTS.c1))\n\
                _1 = torch.tanh(torch.linear(_0, CONSTANTS.c2, CONSTANTS.c1))\n\
                return torch.linear(_1, CONSTANTS.c3, CONSTANTS.c4)";
    let constants =
        [&[width, 4][..], &[width], &[width, width], &[3, width], &[3]].map(|shape| weights(shape, 1));
    let (_file, keys) = native(&archive(body, &constants));
    let keys: Vec<_> = keys.iter().map(|(key, value)| (*key, value.as_str())).collect();
    let with_limit = |micros: u64| {
        let deadline = micros.to_string();
        Rig::with_policy(&[&keys[..], &[("deadline.inference_us", &deadline)]].concat(), &[])
    };
    let p50_of = |rig: &Rig| rig.warm_up()["p50"].as_u64().expect("a number");
    let mut rig = with_limit(1_000_000);
    let mut limit = Duration::MAX;
    // Half of what this machine needs. A neighbour that uses the memory makes that several times as much, so
    // the agent under that limit must have measured more than the limit itself.
    for _ in 0..20 {
        let p50 = p50_of(&rig);
        if Duration::from_nanos(p50) > limit {
            break;
        }
        limit = Duration::from_micros((p50 / 2_000).max(1));
        assert_eq!(rig.process.stop().0.code(), Some(0));
        rig = with_limit(limit.as_micros() as u64);
    }
    assert!(Duration::from_nanos(p50_of(&rig)) > limit, "the machine's speed doubled twenty times in turn");
    rig.limit = limit;
    Tally::of(&mut rig, "policy_slow", false, |rig| one(rig, [0.1, 0.2, 0.3])).must_hold();
}

/// A policy whose work varies. Its warm-up has seen what it takes for such observations: nothing for most,
/// and up to 4 ms.
#[test]
fn a_policy_that_works_too_long() {
    let seen =
        [("observation.low", "[0.0, -6000.0, 0.0, 0.0]"), ("observation.high", "[0.5, 4000.0, 0.5, 0.5]")];
    let mut rig = Rig::new(&seen, &[]);
    Tally::of(&mut rig, "policy_slow", false, |rig| one(rig, [0.0, 3_900.0, 0.0])).must_hold();
    assert_eq!(rig.process.stop().0.code(), Some(0));
}

/// Its warm-up has seen nothing like it: only the processor's counters can show that it is the policy's work.
#[test]
fn a_policy_that_works_longer_than_it_was_ever_measured() {
    let mut rig = Rig::new(&[], &[]);
    let is_uncounted = rig.misses()["cannot_tell"].to_string().contains("counters cannot be read here");
    let expected = if is_uncounted { "undetermined" } else { "policy_slow" };
    Tally::of(&mut rig, expected, false, |rig| one(rig, [0.0, 40_000.0, 0.0])).must_hold();
}

#[test]
fn a_policy_that_sleeps() {
    let mut rig = Rig::new(&[], &[]);
    Tally::of(&mut rig, "policy_slow", false, |rig| one(rig, [8_000.0, 0.0, 0.0])).must_hold();
}
