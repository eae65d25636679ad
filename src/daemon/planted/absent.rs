//! No faults: what ships. Each function is described in `environment.rs`.

use crate::agent_files::StateDirectory;
use crate::halt::HaltKeeper;
use crate::policy::Policy;
use escapement_engine::TickRecord;

#[inline]
pub fn panic_if_planted(_thread: &str) {}

#[inline]
pub fn halt_keeper(state: StateDirectory) -> HaltKeeper {
    HaltKeeper::new(state)
}

#[inline]
pub fn load_slowly_if_planted() {}

#[inline]
pub fn reload_slowly_if_planted() {}

#[inline]
pub fn has_no_guard() -> bool {
    false
}

#[inline]
pub fn misbehaving_if_planted(policy: Box<dyn Policy>) -> Box<dyn Policy> {
    policy
}

#[inline]
pub fn moved_in_time_if_planted(record: &TickRecord) -> TickRecord {
    *record
}
