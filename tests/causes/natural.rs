//! Misses that the machine causes by itself: the example's policy under a deadline that it fits many times
//! over, at the rate of a market. Nothing is injected, so nobody knows the right cause; but the policy's plan
//! fits, so it must never be blamed.
//!
//! ```text
//! cargo test --test causes natural -- --ignored --nocapture
//! ```
//! `ESCAPEMENT_NATURAL_SECONDS` (60), `ESCAPEMENT_NATURAL_RATE` (1000 a second), `ESCAPEMENT_NATURAL_US` (the
//! deadline, 10) and `ESCAPEMENT_NATURAL_MISSES` (1000, after which it ends) change the run.

use super::*;
use escapement_test_support::in_repository;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// Commits observations at this rate until `over` is set.
fn feed_at(rate: u64, feed: &mut TestFeed, over: &AtomicBool) {
    let gap = Duration::from_nanos(1_000_000_000 / rate);
    let begun = Instant::now();
    let mut count = 0u32;
    while !over.load(Ordering::Relaxed) {
        count += 1;
        std::thread::sleep((begun + gap * count).saturating_duration_since(Instant::now()));
        let mut observation = [0.0f32; 32];
        observation.iter_mut().enumerate().for_each(|(index, value)| {
            *value = ((count as usize * 31 + index * 17) % 1_000) as f32 / 1_000.0;
        });
        feed.commit(&observation);
    }
}

#[test]
#[ignore = "minutes of waiting for misses that nobody injects"]
fn natural_misses_are_never_blamed_on_a_plan_that_fits() {
    let path = format!("{:?}", in_repository("config/example.bundle"));
    let deadline = setting("ESCAPEMENT_NATURAL_US", 10).to_string();
    let core = last_core().to_string();
    let agent = Agent::new(&[
        ("policy.backend", "\"native\""),
        ("policy.path", &path),
        ("observation.dimension", "32"),
        ("action.dimension", "3"),
        ("action.safe_default", "[0.0, 0.0, 0.0]"),
        ("action.neutral", "[0.0, 0.0, 0.0]"),
        ("deadline.inference_us", &deadline),
        ("deadline.end_to_end_us", &deadline),
        ("deadline.on_miss", "\"safe_default\""),
        ("action.on_full", "\"drop\""),
        ("engine.core", &core),
        ("engine.idle", "\"spin\""),
        ("engine.idle_sleep_us", "-"),
        ("engine.lock_memory", "true"),
        ("warm_up.round_calls", "2000"),
        ("warm_up.limit_ms", "2000"),
    ]);
    let command = agent.command();
    let mut rig = Rig::of(agent, command);
    let (wanted, rate) =
        (setting("ESCAPEMENT_NATURAL_MISSES", 1_000), setting("ESCAPEMENT_NATURAL_RATE", 1_000));
    let time = Duration::from_secs(setting("ESCAPEMENT_NATURAL_SECONDS", 60));
    let over = AtomicBool::new(false);
    let (feed_begun, mut feed) = (Instant::now(), rig.agent.feed_from(1));
    std::thread::scope(|scope| {
        scope.spawn(|| feed_at(rate, &mut feed, &over));
        loop {
            std::thread::sleep(Duration::from_millis(100));
            rig.drain();
            if feed_begun.elapsed() > time || total(&rig.misses()) >= wanted {
                break;
            }
        }
        over.store(true, Ordering::Relaxed);
    });
    let status = rig.status();
    let (misses, warm_up) = (&status["misses"], rig.warm_up());
    println!(
        "{} of {} observations missed {deadline} us at {rate}/s; the plan's p50 {} ns, p99.9 {} ns at warm-up",
        total(misses),
        status["counters"]["observations"],
        warm_up["p50"],
        warm_up["p999"]
    );
    misses["by_cause"].as_object().expect("a table").iter().for_each(|(cause, count)| {
        println!("| {cause} | {count} |");
    });
    println!("latency_ns: {}\ncannot tell: {}", status["latency_ns"], misses["cannot_tell"]);
    misses["recent"].as_array().expect("a list").iter().for_each(|miss| println!("{miss}"));
    let limit = deadline.parse::<u64>().expect("a number") * 1_000;
    assert!(warm_up["p50"].as_u64() < Some(limit / 2), "this plan does not fit: choose a longer deadline");
    assert_eq!(misses["by_cause"]["policy_slow"], 0);
    assert!(rig.process.try_wait().is_none(), "it was not halted");
}

fn total(misses: &Value) -> u64 {
    misses["by_cause"].as_object().expect("a table").values().filter_map(Value::as_u64).sum()
}
