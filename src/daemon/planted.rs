//! Faults that a test plants in the running program by environment variables. Only in builds with debug
//! assertions.

use crate::policy::{Dimensions, Fault, Policy, PolicyError};
use escapement_ring::clock::{Clock, MonotonicClock, Nanos};

/// The value of a planted fault.
fn planted(name: &str) -> Option<String> {
    if cfg!(debug_assertions) { std::env::var(name).ok() } else { None }
}

/// Panics in the thread that `ESCAPEMENT_TEST_PANIC` names.
pub(super) fn panic_if_planted(thread: &str) {
    if planted("ESCAPEMENT_TEST_PANIC").is_some_and(|planted| planted == thread) {
        panic!("planted in the {thread} thread");
    }
}

/// Whether `ESCAPEMENT_TEST_IGNORE_LATCH` makes this daemon ignore its latch. The suites that show that a
/// halt stays a halt must find that defect.
pub(super) fn ignores_the_latch() -> bool {
    planted("ESCAPEMENT_TEST_IGNORE_LATCH").is_some()
}

/// Delays loading by the milliseconds in `ESCAPEMENT_TEST_SLOW_LOAD`.
pub(super) fn load_slowly_if_planted() {
    if let Some(millis) = planted("ESCAPEMENT_TEST_SLOW_LOAD").and_then(|millis| millis.parse().ok()) {
        std::thread::sleep(std::time::Duration::from_millis(millis));
    }
}

/// Delays the preparation of a reload by the milliseconds in `ESCAPEMENT_TEST_SLOW_RELOAD`.
pub(super) fn reload_slowly_if_planted() {
    if let Some(millis) = planted("ESCAPEMENT_TEST_SLOW_RELOAD").and_then(|millis| millis.parse().ok()) {
        std::thread::sleep(std::time::Duration::from_millis(millis));
    }
}

/// Whether `ESCAPEMENT_TEST_NO_GUARD` takes the deadline guard from the agent.
pub(super) fn has_no_guard() -> bool {
    planted("ESCAPEMENT_TEST_NO_GUARD").is_some()
}

/// Returns the policy as it is, or one that misbehaves as a policy in libtorch may.
///
/// | variable | the policy |
/// |---|---|
/// | `ESCAPEMENT_TEST_HANG` | never returns from an observation whose first feature is this number |
/// | `ESCAPEMENT_TEST_SLEEP` | sleeps for the microseconds in the first feature |
/// | `ESCAPEMENT_TEST_LABOUR` | does useless work, as the second and third features say |
pub(super) fn misbehaving_if_planted(policy: Box<dyn Policy>) -> Box<dyn Policy> {
    let hangs_at = planted("ESCAPEMENT_TEST_HANG").and_then(|feature| feature.parse().ok());
    let sleeps = planted("ESCAPEMENT_TEST_SLEEP").is_some();
    let labours = planted("ESCAPEMENT_TEST_LABOUR").is_some();
    if hangs_at.is_some() || sleeps || labours {
        Box::new(Misbehaving { policy, hangs_at, sleeps, labours })
    } else {
        policy
    }
}

/// The nanoseconds by which `ESCAPEMENT_TEST_SKEW_NS` shifts every tick's record against the evidence. The
/// suite that shows that causes are found must find that defect.
pub(super) fn skew_ns() -> u64 {
    planted("ESCAPEMENT_TEST_SKEW_NS").and_then(|nanos| nanos.parse().ok()).unwrap_or(0)
}

/// Spins for the microseconds in the second feature, and touches as many megabytes of new memory as the third
/// says.
fn labour(observation: &[f32]) {
    let feature = |index: usize| observation.get(index).copied().unwrap_or_default().max(0.0);
    let due = MonotonicClock.now().plus(Nanos::from_micros(feature(1) as u64));
    while MonotonicClock.now() < due {
        std::hint::spin_loop();
    }
    let bytes = feature(2) as usize * (1 << 20);
    if bytes > 0
        && let Ok(mut memory) = memmap2::MmapMut::map_anon(bytes)
    {
        memory.iter_mut().step_by(4096).for_each(|byte| *std::hint::black_box(byte) = 1);
    }
}

struct Misbehaving {
    policy: Box<dyn Policy>,
    hangs_at: Option<f32>,
    sleeps: bool,
    labours: bool,
}

impl Policy for Misbehaving {
    fn dimensions(&self) -> Dimensions {
        self.policy.dimensions()
    }

    fn backend(&self) -> &'static str {
        self.policy.backend()
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
