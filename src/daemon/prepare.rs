//! A reload is made ready beside the running policy, on a thread of its own: read, planned, verified, loaded
//! and measured.

use super::error::DaemonError;
use super::load::{Deployment, Loaded, Sources, on_a_thread};
use super::planted::reload_slowly_if_planted;
use super::reload_plan::plan_reload;
use super::tail::{MeasuredPolicy, check_tail};
use crate::config::AgentConfig;
use crate::os::forbid_files;
use crate::policy::WeightChoice;
use escapement_engine::{PolicyChange, PolicyExtras};
use escapement_ring::clock::{MachineClock, Nanos};
use std::sync::Arc;

/// Reads the daemon's configuration file again. The error says what is wrong with the file.
pub(super) type ReadConfig = Arc<dyn Fn() -> Result<AgentConfig, String> + Send + Sync>;

/// A reload that can be offered to the engine.
pub(super) struct PreparedReload {
    pub(super) deployment: Deployment,
    pub(super) extras: PolicyExtras,
    /// The new policy; `None` if the running one stays.
    pub(super) change: Option<PolicyChange>,
    /// Keys that were changed and wait for a restart.
    pub(super) waiting: Vec<&'static str>,
    /// What the policy takes: measured here for a new policy, the last known figures otherwise.
    pub(super) measured: Option<MeasuredPolicy>,
}

/// Why a reload could not be made ready.
pub(super) struct PrepareError {
    pub(super) why: String,
    /// Whether a thread is still inside the policy that was loaded.
    pub(super) leaves_a_thread: bool,
}

/// What runs while a reload is made ready.
pub(super) struct Running<'a> {
    pub(super) deployment: &'a Deployment,
    /// What the running policy takes, as it was last measured.
    pub(super) measured: Option<MeasuredPolicy>,
}

/// Calls of a new policy on the engine's thread before it answers. libtorch prepares each thread that it runs
/// on.
const TORCH_WARM_UP_CALLS: u32 = 8;

/// Makes a reload ready: reads, checks, verifies, loads and proves. `kept` is the deployment to return to;
/// without it the configuration file is read.
///
/// A policy that does not fit the deadline is refused, as at the start: it would halt the agent at its first
/// slow call.
pub(super) fn prepare(
    running: &Running<'_>,
    kept: Option<&Deployment>,
    read: &ReadConfig,
) -> Result<PreparedReload, PrepareError> {
    let Running { deployment: current, measured } = running;
    // A deployment that ran before draws from the seed that it had.
    let drawn_seed = kept.unwrap_or(current).provenance.drawn_seed();
    let ran_with = kept.and_then(|previous| previous.provenance.weights()).cloned();
    reload_slowly_if_planted();
    let (requested, kept) = match kept {
        Some(previous) => (previous.config.clone(), Some(previous.sources.clone())),
        None => (read_in_time(current, read)?, None),
    };
    let plan = plan_reload(&current.config, requested).map_err(|error| error.to_string())?;
    let sources = match kept {
        Some(sources) => sources,
        None => Sources::read(&plan.config)?,
    };
    let (config, waiting) = (plan.config, plan.waiting);
    if sources.run_alike(&config, &current.sources, &current.config) {
        Ok(with_the_running_policy(config, sources, current, *measured, drawn_seed, waiting)?)
    } else {
        Ok(with_a_new_policy(config, sources, drawn_seed, ran_with.as_ref(), waiting)?)
    }
}

/// Reads the configuration file, within the running configuration's time limit: the path may lead to a pipe,
/// or to a file system that does not answer.
fn read_in_time(current: &Deployment, read: &ReadConfig) -> Result<AgentConfig, PrepareError> {
    let read = Arc::clone(read);
    let read = move || Ok(read());
    Ok(on_a_thread(current.config.policy.load_timeout, "config-read", read)??)
}

fn with_the_running_policy(
    config: AgentConfig,
    sources: Sources,
    current: &Deployment,
    measured: Option<MeasuredPolicy>,
    drawn_seed: Option<u64>,
    waiting: Vec<&'static str>,
) -> Result<PreparedReload, DaemonError> {
    check_tail(&config.settings, measured.map(|measured| measured.tail))?;
    let mut extras = sources.extras(&config, drawn_seed)?;
    // The features are the same, so their counts go on.
    if let (Some(guard), Some(counts)) = (&mut extras.input_check, current.provenance.counts()) {
        guard.share_counts(counts);
    }
    let provenance = match &sources.policy {
        Some(candidate) => current.provenance.clone().verified_by(candidate),
        None => current.provenance.clone(),
    };
    let provenance = provenance.with_extras(&config, &extras, drawn_seed);
    let deployment = Deployment { config, sources, provenance };
    Ok(PreparedReload { deployment, extras, change: None, waiting, measured })
}

fn with_a_new_policy(
    config: AgentConfig,
    sources: Sources,
    drawn_seed: Option<u64>,
    ran_with: Option<&WeightChoice>,
    waiting: Vec<&'static str>,
) -> Result<PreparedReload, DaemonError> {
    let sha256 = sources.sha256();
    let Loaded { mut policies, extras, sources, provenance, served_by_torch } =
        sources.load(&config, drawn_seed, ran_with)?;
    let sandbox = provenance.sandbox();
    if served_by_torch {
        // This thread needs no more files. Loading has shown that it can be confined, or that it need not be.
        let _ = forbid_files();
    }
    let bounds = &config.settings.observation_bounds;
    let (keep_warm, shortest) = (config.settings.keep_warm, config.settings.deadlines.shortest());
    let measured = policies.measure(&MachineClock::new(), config.warm_up, bounds, keep_warm, shortest)?;
    check_tail(&config.settings, Some(measured.tail))?;
    let call = Some(Nanos(measured.latency_ns.p50));
    let measured = Some(MeasuredPolicy { tail: measured.tail, latency_ns: measured.latency_ns });
    let change = PolicyChange {
        policies,
        sha256,
        call,
        warm_up_calls: if served_by_torch { TORCH_WARM_UP_CALLS } else { 0 },
        on_thread: served_by_torch
            .then(|| -> Box<dyn FnMut() + Send> { Box::new(move || sandbox.confine()) }),
    };
    let deployment = Deployment { config, sources, provenance };
    Ok(PreparedReload { deployment, extras, change: Some(change), waiting, measured })
}

impl From<DaemonError> for PrepareError {
    fn from(error: DaemonError) -> Self {
        Self { why: error.to_string(), leaves_a_thread: error.leaves_a_thread() }
    }
}

impl From<String> for PrepareError {
    fn from(why: String) -> Self {
        Self { why, leaves_a_thread: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// A thread that a reload abandons must not meet the destructors of an orderly end.
    #[test]
    fn only_a_load_that_hangs_leaves_a_thread() {
        let hung = PrepareError::from(DaemonError::LoadHung { limit: Duration::from_secs(1) });
        assert!(hung.leaves_a_thread && hung.why.contains("it hangs"));
        assert!(!PrepareError::from(DaemonError::NoCarriedState).leaves_a_thread);
    }
}
