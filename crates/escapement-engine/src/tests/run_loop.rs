//! The duty cycle on a thread of its own, and the warm-up.

use super::super::{Command, CommandWord, IdleStrategy, PacedSpec, RunEnd, WarmUpSpec, run};
use super::*;
use escapement_ring::clock::MonotonicClock;
use std::time::Duration;

const BACKOFF: IdleStrategy = IdleStrategy::Backoff { sleep: Duration::from_micros(50) };

/// Runs the engine on another thread while `meanwhile` runs here.
fn run_beside(
    rig: &mut Rig,
    strategy: IdleStrategy,
    meanwhile: impl FnOnce(&mut Producer, &mut Consumer, &CommandWord),
) -> RunEnd {
    let commands = CommandWord::new();
    let Rig { engine, feed, gateway, .. } = rig;
    std::thread::scope(|scope| {
        let looping = scope.spawn(|| run(engine, strategy, &commands));
        meanwhile(feed, gateway, &commands);
        looping.join().unwrap()
    })
}

fn publish(feed: &mut Producer, sequence: u64) {
    loop {
        if let Ok(mut claim) = feed.try_claim() {
            let header = ObservationHeader { sequence, ..ObservationHeader::default() };
            claim.write(0, header.as_bytes());
            claim.write(ObservationHeader::BYTES, [0.0f32; 3].as_bytes());
            return claim.commit();
        }
        std::thread::yield_now();
    }
}

fn forever(settings: &mut Settings) {
    settings.deadlines.max_age = None;
}

#[test]
fn a_drain_answers_what_is_there_and_stops() {
    for strategy in [IdleStrategy::Spin, IdleStrategy::Pause, BACKOFF] {
        let mut rig = Rig::new(forever);
        let mut read = 0;
        let end = run_beside(&mut rig, strategy, |feed, gateway, commands| {
            for sequence in 0..200 {
                publish(feed, sequence);
                while let Some(action) = gateway.peek().unwrap() {
                    action.release();
                    read += 1;
                }
                if sequence % 64 == 0 {
                    // Long enough for the backoff to sleep.
                    std::thread::sleep(Duration::from_millis(2));
                }
            }
            commands.request(Command::Drain);
        });
        assert_eq!(end, RunEnd::Drained, "{strategy:?}");
        assert_eq!(rig.actions.state().0, Some(AgentState::Draining));
        read += std::iter::from_fn(|| rig.sent()).count() as u64;
        // If this thread was slow to read, observations were dropped and counted.
        let counted = rig.counted();
        assert_eq!((counted.observations, counted.actions), (200, read));
        assert_eq!((counted.skipped, rig.feed.released().unwrap()), (200 - read, 200));
    }
}

#[test]
fn a_stop_leaves_the_rest_in_the_ring() {
    let mut rig = Rig::new(forever);
    rig.publish_ordinary();
    let commands = CommandWord::new();
    commands.request(Command::Stop);
    assert_eq!(run(&mut rig.engine, BACKOFF, &commands), RunEnd::Stopped);
    assert_eq!((rig.counted().observations, rig.feed.released().unwrap()), (0, 0));
}

/// A clock that goes back between ticks ends the loop with a halt.
#[test]
fn a_clock_that_goes_back_halts_the_loop() {
    let mut rig = Rig::new(forever);
    let clock = rig.clock.manual.clone();
    let end = run_beside(&mut rig, BACKOFF, |_, _, _| {
        std::thread::sleep(Duration::from_millis(2));
        clock.set(Nanos(clock.now().0 - 5_000));
    });
    assert_eq!(end, RunEnd::Halted(Reason::ClockFault));
    assert_eq!(rig.actions.state(), (Some(AgentState::Halted), Some(Reason::ClockFault)));
}

#[test]
fn a_halt_ends_an_idle_loop_and_a_late_drain_does_not_undo_it() {
    let mut rig = Rig::new(forever);
    let end = run_beside(&mut rig, BACKOFF, |_, _, commands| {
        std::thread::sleep(Duration::from_millis(2));
        commands.request(Command::Halt);
        commands.request(Command::Drain);
    });
    assert_eq!(end, RunEnd::Halted(Reason::Operator));
    assert_eq!(rig.actions.state(), (Some(AgentState::Halted), Some(Reason::Operator)));
}

#[test]
fn the_loop_ends_with_the_engine_s_own_halt_and_with_a_violation() {
    let commands = CommandWord::new();
    let mut rig = Rig::new(|settings| settings.on_miss = OnMiss::Halt);
    rig.script(Step::taking(INFERENCE + 1, 0));
    rig.publish_ordinary();
    assert_eq!(run(&mut rig.engine, BACKOFF, &commands), RunEnd::Halted(Reason::InferenceLate));
    let mut rig = Rig::new(|_| ());
    rig.observations.overwrite(Bytes::PRODUCER_POSITION, CAPACITY + 1);
    let end = run(&mut rig.engine, BACKOFF, &commands);
    assert!(matches!(end, RunEnd::Violated(violation) if violation.side == "producer"), "{end:?}");
}

#[test]
fn both_neighbours_see_the_heartbeat_move() {
    let mut rig = Rig::new(forever);
    let (observation_header, action_header) = (rig.observations.region.header(), rig.actions.region.header());
    let clock = rig.clock.clone();
    run_beside(&mut rig, BACKOFF, |_, _, commands| {
        let beats = || (observation_header.consumer_heartbeat_ns(), action_header.producer_heartbeat_ns());
        let deadline = MonotonicClock.now().plus(Nanos::from_millis(10_000));
        let until = |reached: &dyn Fn() -> bool| {
            while !reached() {
                assert!(MonotonicClock.now() < deadline, "no heartbeat: {:?}", beats());
                std::thread::yield_now();
            }
        };
        until(&|| beats().0 > 0 && beats().1 > 0);
        let first = beats();
        // A beat is due only after an interval has passed.
        clock.manual.advance(Nanos::from_millis(1));
        until(&|| beats().0 > first.0 && beats().1 > first.1);
        commands.request(Command::Stop);
    });
}

fn spec(limit: u64) -> WarmUpSpec {
    WarmUpSpec { round: 50, limit: Nanos(limit), quantile: 0.99, paced: PacedSpec { calls: 0, rate: 1_000 } }
}

/// The same with 40 calls at 1,000 a second.
fn paced(limit: u64) -> WarmUpSpec {
    WarmUpSpec { paced: PacedSpec { calls: 40, rate: 1_000 }, ..spec(limit) }
}

#[test]
fn a_warm_up_ends_when_two_rounds_agree() {
    let mut rig = Rig::new(|_| ());
    // The second round is slower than the first, and the third is like the second. A round that got faster
    // agrees too, because the question is whether the tail still grows.
    for latency in [vec![9_000; 50], vec![20_000; 50], vec![20_000; 50]].concat() {
        rig.script(Step::taking(latency, 0));
    }
    let mut rounds = 0;
    let found = rig.engine.warm_up(spec(u64::MAX / 2), |_| rounds += 1).unwrap();
    assert_eq!((found.calls, rounds, found.stable, found.faults), (150, 3, true, 0));
    // The histogram keeps three significant digits.
    assert_eq!((found.tail.0 / 100, found.latency_ns.count), (200, 50));
    // The warm-up has no effect outside.
    assert_eq!((rig.sent(), rig.counted().observations), (None, 0));
}

#[test]
fn a_warm_up_that_stays_unstable_ends_at_its_limit() {
    let mut rig = Rig::new(|_| ());
    for call in 0..10_000 {
        rig.script(Step::new(1_000 * (call / 50 + 1) * (call / 50 + 1), 0, Err(Fault::Raised)));
    }
    // Rounds take 50 µs, 200 µs, 450 µs, ...; the third one is cut off at half a millisecond.
    let found = rig.engine.warm_up(spec(500_000), |_| ()).unwrap();
    assert!(!found.stable);
    assert_eq!((found.calls, found.faults), (128, 28));
}

#[test]
fn a_warm_up_observes_the_limits_of_the_features() {
    struct Checking;
    impl Policy for Checking {
        fn dimensions(&self) -> Dimensions {
            NARROW
        }
        fn backend(&self) -> &'static str {
            "checking"
        }
        fn infer(&mut self, observation: &[f32], action: &mut [f32]) -> Result<(), Fault> {
            action.fill(0.0);
            let within = observation.iter().all(|value| value.is_finite())
                && (3.0..=4.0).contains(&observation[0])
                && (2.0..=3.0).contains(&observation[2]);
            if within { Ok(()) } else { Err(Fault::Raised) }
        }
    }
    let mut rig = Rig::new(|settings| {
        let low = vec![3.0, f32::MIN, 2.0];
        settings.observation_bounds = Bounds::new(low, vec![4.0, f32::MAX, 3.0]).unwrap();
    });
    rig.engine.pipeline.policies.policy = Box::new(Checking);
    let found = rig.engine.warm_up(spec(u64::MAX / 2), |_| ()).unwrap();
    assert_eq!((found.faults, found.stable), (0, true));
}

/// A rig whose clock moves by 100 ns at each reading, so that waiting ends.
fn ticking(change: impl FnOnce(&mut Settings)) -> Rig {
    let mut clock = ScriptedClock::new();
    clock.after_every_read = 100;
    Rig::with(NARROW, clock, change)
}

#[test]
fn the_tail_at_the_expected_rate_decides() {
    let mut rig = ticking(|_| ());
    // Two rounds that agree, and then calls that are slow because of the pauses before them.
    let latencies = [vec![9_000; 100], vec![70_000; 40]].concat();
    latencies.into_iter().for_each(|latency| rig.script(Step::taking(latency, 0)));
    let begun = rig.clock.manual.now();
    let mut told = 0;
    let found = rig.engine.warm_up(paced(u64::MAX / 2), |_| told += 1).unwrap();
    let calls = found.paced.expect("paced calls");
    assert_eq!((found.calls, found.stable, calls.latency_ns.count, calls.rate), (100, true, 40, 1_000));
    assert_eq!((found.tail.0 / 1_000, calls.tail.0 / 1_000), (9, 70));
    assert_eq!(found.deciding_tail(), calls.tail);
    // A millisecond before each of the 40 calls, in which the heartbeat goes on.
    assert!(rig.clock.manual.now().since(begun) >= Nanos::from_millis(40) && told > 80, "{told}");
    assert_eq!((rig.sent(), rig.counted().observations), (None, 0));

    let back_to_back = rig.engine.warm_up(spec(u64::MAX / 2), |_| ()).unwrap();
    assert_eq!((back_to_back.paced, back_to_back.deciding_tail()), (None, back_to_back.tail));
}

#[test]
fn paced_calls_end_at_the_limit_and_one_is_made_at_least() {
    for (rate, calls) in [(1_000, 5), (1, 1)] {
        let mut rig = ticking(|_| ());
        let spec = WarmUpSpec { paced: PacedSpec { calls: 40, rate }, ..spec(5_200_000) };
        let found = rig.engine.warm_up(spec, |_| ()).unwrap();
        assert_eq!(found.paced.expect("paced calls").latency_ns.count, calls);
    }
}

#[test]
fn the_engine_stays_warm_between_paced_calls_as_it_will_later() {
    let calls = |keep_warm| {
        let mut rig = ticking(|settings| settings.keep_warm = keep_warm);
        rig.engine.pipeline.policies.policy = Box::new(escapement_policy::Null::new(NARROW));
        rig.engine.dry.serve(&mut rig.engine.pipeline.policies, None);
        rig.engine.dry.plan(&rig.engine.pipeline.settings);
        rig.engine.warm_up(paced(u64::MAX / 2), |_| ()).unwrap();
        rig.engine.keep_warm_meter().snapshot().runs
    };
    assert_eq!(calls(KeepWarm::Off), 0);
    // 40 ms, in which it pauses for 100 us before each.
    assert!(calls(KeepWarm::Every(Nanos::from_micros(100))) > 250);
}

#[test]
fn a_policy_that_is_to_replace_another_one_is_judged_at_the_expected_rate_too() {
    let mut rig = ticking(|_| ());
    let latencies = [vec![9_000; 50], vec![70_000; 40]].concat();
    latencies.into_iter().for_each(|latency| rig.script(Step::taking(latency, 0)));
    let clock = rig.clock.clone();
    let bounds = rig.settings.observation_bounds.clone();
    let mut measure = |spec| {
        let policies = &mut rig.engine.pipeline.policies;
        policies.measure(&clock, spec, &bounds, KeepWarm::Auto, Nanos(INFERENCE)).unwrap()
    };
    let found = measure(paced(u64::MAX / 2));
    assert_eq!((found.tail.0 / 1_000, found.latency_ns.count, found.latency_ns.p99 / 1_000), (70, 50, 9));
    // The script has ended: the policy answers at once.
    assert!(measure(spec(u64::MAX / 2)).tail < Nanos(9_000));
}
