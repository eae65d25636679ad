//! Misses that the machine causes by itself: the example's policy under a deadline that it fits many times
//! over, at the rate of a market. Nothing is injected, so nobody knows the right cause; but the policy's plan
//! fits, so it must never be blamed.
//!
//! ```text
//! ESCAPEMENT_LONG=1 cargo test --release --test causes natural -- --nocapture
//! ```
//! It runs for 3 s, or for 300 s in a long run, and ends after 1,000 misses. `ESCAPEMENT_NATURAL_SECONDS`,
//! `ESCAPEMENT_NATURAL_MISSES`, `ESCAPEMENT_NATURAL_RATE` (a second) and `ESCAPEMENT_NATURAL_US` (the
//! deadline) change that.

use super::*;
use escapement_test_support::in_repository;

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
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

/// The example's agent under this deadline, in microseconds.
fn example_under(deadline: u64) -> Rig {
    let path = format!("{:?}", in_repository("config/example.bundle"));
    let (deadline, core) = (deadline.to_string(), last_core().to_string());
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
    Rig::of(agent, command)
}

/// Several times what the plan takes at the median, and 10 us at least.
fn deadline_that_fits() -> u64 {
    let p50 = example_under(1_000_000).warm_up()["p50"].as_u64().expect("a number");
    (p50 * 4 / 1_000).max(10)
}

#[test]
fn natural_misses_are_never_blamed_on_a_plan_that_fits() {
    let deadline = setting("ESCAPEMENT_NATURAL_US").unwrap_or_else(deadline_that_fits);
    let rate = setting("ESCAPEMENT_NATURAL_RATE").unwrap_or(1_000);
    let wanted = setting("ESCAPEMENT_NATURAL_MISSES").unwrap_or(1_000);
    let seconds = setting("ESCAPEMENT_NATURAL_SECONDS").unwrap_or(if long_runs() { 300 } else { 3 });
    let mut rig = example_under(deadline);
    let over = AtomicBool::new(false);
    let (begun, mut feed) = (Instant::now(), rig.agent.feed_from(1));
    std::thread::scope(|scope| {
        scope.spawn(|| feed_at(rate, &mut feed, &over));
        while begun.elapsed() < Duration::from_secs(seconds) && total(&rig.misses()) < wanted {
            std::thread::sleep(Duration::from_millis(100));
            rig.drain();
        }
        over.store(true, Ordering::Relaxed);
    });
    let (status, warm_up) = (rig.status(), rig.warm_up());
    let misses = &status["misses"];
    println!(
        "{} of {} observations missed {deadline} us at {rate}/s in {:.0} s; \
         the plan's p50 {} ns, p99.9 {} ns at warm-up",
        total(misses),
        status["counters"]["observations"],
        begun.elapsed().as_secs_f64(),
        warm_up["p50"],
        warm_up["p999"]
    );
    let causes = misses["by_cause"].as_object().expect("a table");
    causes.iter().for_each(|(cause, count)| println!("| {cause} | {count} |"));
    println!("inference: {}\ncannot tell: {}", status["latency_ns"]["inference"], misses["cannot_tell"]);
    misses["recent"].as_array().expect("a list").iter().for_each(|miss| println!("{miss}"));
    let fits = warm_up["p50"].as_u64() <= Some(deadline * 1_000 / 2);
    assert!(fits, "the plan does not fit: set a longer deadline");
    // Without observations nothing was tried.
    let answered = status["counters"]["observations"].as_u64().expect("a number");
    assert!(answered >= 100, "{answered} observations in {seconds} s");
    assert_eq!(misses["by_cause"]["policy_slow"], 0);
    assert!(rig.process.try_wait().is_none(), "the agent has ended");
}

fn total(misses: &Value) -> u64 {
    misses["by_cause"].as_object().expect("a table").values().filter_map(Value::as_u64).sum()
}
