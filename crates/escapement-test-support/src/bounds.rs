//! Times below a millisecond, measured from outside the process under test.

use crate::PATIENCE;
use escapement_ring::clock::{Clock, MonotonicClock, Nanos};

/// Waits until `is_so` returns true. Returns when it last returned false and when it first returned true.
///
/// It is called about every 20 us. A test that spins beside a policy that spins would leave no core to the
/// process that it waits for.
///
/// # Panics
/// Panics with `what` after [`PATIENCE`].
pub fn instantly(what: &str, mut is_so: impl FnMut() -> bool) -> [Nanos; 2] {
    MonotonicClock.sleep_exactly();
    let begun = MonotonicClock.now();
    let mut not_so = begun;
    loop {
        let (looked, so, now) = (MonotonicClock.now(), is_so(), MonotonicClock.now());
        if so {
            return [not_so, now];
        }
        not_so = looked;
        assert!(now.since(begun).to_duration() < PATIENCE, "gave up waiting for {what}");
        MonotonicClock.sleep_until(now.plus(Nanos::from_micros(20)));
    }
}

/// Prints how many of the times are within `bound`. Counts apart those where the test itself looked too late
/// to know.
///
/// It asserts nothing, since a busy machine may take any time.
pub fn report(what: &str, mut past: Vec<[Nanos; 2]>, bound: Nanos) {
    past.sort_by_key(|[_, seen]| *seen);
    let at = |share: f64| past[((past.len() - 1) as f64 * share) as usize][1].0 as f64 / 1e3;
    let within = past.iter().filter(|[_, seen]| *seen <= bound).count();
    let late = past.iter().filter(|[not_yet, _]| *not_yet > bound).count();
    println!(
        "{what}: {within} of {} within {} us, {late} not, {} not looked at in time; \
         p50 {:.0} us, p90 {:.0} us, max {:.0} us",
        past.len(),
        bound.0 / 1_000,
        past.len() - within - late,
        at(0.5),
        at(0.9),
        at(1.0)
    );
}
