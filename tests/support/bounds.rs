//! Bounds of fractions of a millisecond, looked at from outside.

use super::PATIENCE;
use escapement::clock::{Clock, MonotonicClock, Nanos};

/// When something was last seen not to be so, and first seen to be so. It is looked at every 20 us or so: it is about fractions of a
/// millisecond, and a spinning test beside a spinning policy would leave no core to what it waits for.
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
        assert!(now.since(begun).to_duration() < PATIENCE, "waited in vain for {what}");
        MonotonicClock.sleep_until(now.plus(Nanos::from_micros(20)));
    }
}

/// Tells how a bound was held. It asserts nothing, since a busy machine may take any time; and where it was the test that was kept
/// from looking, it says so.
pub fn report(what: &str, mut past: Vec<[Nanos; 2]>, bound: Nanos) {
    past.sort_by_key(|[_, seen]| *seen);
    let at = |share: f64| past[((past.len() - 1) as f64 * share) as usize][1].0 as f64 / 1e3;
    let within = past.iter().filter(|[_, seen]| *seen <= bound).count();
    let late = past.iter().filter(|[not_yet, _]| *not_yet > bound).count();
    println!(
        "{what}: {within} of {} within {} us, {late} not, {} not looked at in time; p50 {:.0} us, p90 {:.0} us, max {:.0} us",
        past.len(),
        bound.0 / 1_000,
        past.len() - within - late,
        at(0.5),
        at(0.9),
        at(1.0)
    );
}
