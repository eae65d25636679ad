//! Faults that environment variables choose. Only tests set those variables.

use crate::agent_files::StateDirectory;
use crate::halt::HaltKeeper;
use crate::policy::{Dimensions, Fault, Policy, PolicyError};
use escapement_engine::TickRecord;
use escapement_ring::clock::{Clock, MonotonicClock, Nanos};

/// Returns the variable's value, if a test has set it.
fn planted(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Returns the number in the variable, if a test has set it to one.
fn planted_number(name: &str) -> Option<u64> {
    planted(name)?.parse().ok()
}

/// Panics if `ESCAPEMENT_TEST_PANIC` names this thread.
pub fn panic_if_planted(thread: &str) {
    if planted("ESCAPEMENT_TEST_PANIC").is_some_and(|planted| planted == thread) {
        panic!("planted in the {thread} thread");
    }
}

/// Returns the keeper of the agent's halts. If `ESCAPEMENT_TEST_IGNORE_LATCH` is set, it does not read the
/// latch, and the suites that show that a halt stays a halt must fail on it.
pub fn halt_keeper(state: StateDirectory) -> HaltKeeper {
    match planted("ESCAPEMENT_TEST_IGNORE_LATCH") {
        Some(_) => HaltKeeper::that_ignores_the_latch(state),
        None => HaltKeeper::new(state),
    }
}

/// Sleeps for the milliseconds in `ESCAPEMENT_TEST_SLOW_LOAD`, as part of loading.
pub fn load_slowly_if_planted() {
    if let Some(millis) = planted_number("ESCAPEMENT_TEST_SLOW_LOAD") {
        std::thread::sleep(std::time::Duration::from_millis(millis));
    }
}

/// Sleeps for the milliseconds in `ESCAPEMENT_TEST_SLOW_RELOAD`, as part of preparing a reload.
pub fn reload_slowly_if_planted() {
    if let Some(millis) = planted_number("ESCAPEMENT_TEST_SLOW_RELOAD") {
        std::thread::sleep(std::time::Duration::from_millis(millis));
    }
}

/// Returns whether `ESCAPEMENT_TEST_NO_GUARD` is set. Such an agent runs without the guard that it should
/// have.
pub fn has_no_guard() -> bool {
    planted("ESCAPEMENT_TEST_NO_GUARD").is_some()
}

/// Returns the policy, or one around it that misbehaves as a policy in libtorch may.
///
/// - `ESCAPEMENT_TEST_HANG`: it never returns from an observation whose first feature is this number.
/// - `ESCAPEMENT_TEST_SLEEP`: it sleeps for as many microseconds as the first feature says.
/// - `ESCAPEMENT_TEST_LABOUR`: it does useless work, see [`labour`].
/// - `ESCAPEMENT_TEST_STALL`: the core stands still in its call for as many microseconds as the second
///   feature says. The policy does what it always does; no record of the kernel shows the stall.
pub fn misbehaving_if_planted(policy: Box<dyn Policy>) -> Box<dyn Policy> {
    let hangs_at = planted("ESCAPEMENT_TEST_HANG").and_then(|feature| feature.parse().ok());
    let sleeps = planted("ESCAPEMENT_TEST_SLEEP").is_some();
    let labours = planted("ESCAPEMENT_TEST_LABOUR").is_some();
    let stalls = planted("ESCAPEMENT_TEST_STALL").is_some();
    if hangs_at.is_some() || sleeps || labours || stalls {
        Box::new(Misbehaving { policy, hangs_at, sleeps, labours, stalls })
    } else {
        policy
    }
}

/// Returns the record, later by the nanoseconds in `ESCAPEMENT_TEST_SKEW_NS`. The evidence about that time
/// then belongs to another tick, and the suite that shows that causes are found must fail.
pub fn moved_in_time_if_planted(record: &TickRecord) -> TickRecord {
    let nanos = planted_number("ESCAPEMENT_TEST_SKEW_NS").unwrap_or(0);
    TickRecord {
        ts_publish_ns: record.ts_publish_ns + nanos,
        ts_peek_ns: record.ts_peek_ns + nanos,
        ts_called_ns: if record.ts_called_ns == 0 { 0 } else { record.ts_called_ns + nanos },
        ts_commit_ns: record.ts_commit_ns + nanos,
        ..*record
    }
}

/// Spins for as many microseconds as the second feature says, and touches as many megabytes of new memory as
/// the third.
fn labour(observation: &[f32]) {
    spin_for_feature(observation, 1);
    let bytes = feature(observation, 2) as usize * (1 << 20);
    if bytes > 0
        && let Ok(mut memory) = memmap2::MmapMut::map_anon(bytes)
    {
        memory.iter_mut().step_by(4096).for_each(|byte| *std::hint::black_box(byte) = 1);
    }
}

fn feature(observation: &[f32], index: usize) -> f32 {
    observation.get(index).copied().unwrap_or_default().max(0.0)
}

fn spin_for_feature(observation: &[f32], index: usize) {
    let due = MonotonicClock.now().plus(Nanos::from_micros(feature(observation, index) as u64));
    while MonotonicClock.now() < due {
        std::hint::spin_loop();
    }
}

struct Misbehaving {
    policy: Box<dyn Policy>,
    hangs_at: Option<f32>,
    sleeps: bool,
    labours: bool,
    stalls: bool,
}

impl Policy for Misbehaving {
    fn dimensions(&self) -> Dimensions {
        self.policy.dimensions()
    }

    fn backend(&self) -> &'static str {
        self.policy.backend()
    }

    fn has_fixed_work(&self) -> bool {
        // A stall is the core's.
        self.hangs_at.is_none() && !self.sleeps && !self.labours && self.policy.has_fixed_work()
    }

    fn enter_thread(&mut self) -> Result<(), PolicyError> {
        self.policy.enter_thread()
    }

    fn infer(&mut self, observation: &[f32], action: &mut [f32]) -> Result<(), Fault> {
        let first = observation.first().copied();
        while first.is_some() && first == self.hangs_at {
            std::hint::spin_loop();
        }
        if let Some(micros) = first.filter(|first| self.sleeps && *first >= 1.0) {
            std::thread::sleep(std::time::Duration::from_micros(micros as u64));
        }
        if self.labours {
            labour(observation);
        }
        if self.stalls {
            spin_for_feature(observation, 1);
        }
        self.policy.infer(observation, action)
    }

    fn reset(&mut self) {
        self.policy.reset();
    }

    fn noise_mut(&mut self) -> &mut [f32] {
        self.policy.noise_mut()
    }

    fn state_mut(&mut self, index: usize) -> Option<&mut [f32]> {
        self.policy.state_mut(index)
    }

    fn last_fault(&self) -> Option<&str> {
        self.policy.last_fault()
    }
}
