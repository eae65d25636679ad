//! New settings for a running engine. The supervisor builds them; the engine takes them as a whole between
//! two ticks and sends them back together with what they replaced, so that the engine's thread neither
//! allocates nor frees.

use super::budget::Budget;
use super::carried_state::CarryRules;
use super::dry_run::DryRun;
use super::input_check::InputCheck;
use super::policies::Policies;
use super::settings::Settings;
use crate::noise::Noise;
use escapement_policy::PolicyError;
use escapement_ring::clock::Nanos;
use std::sync::Arc;

/// One consistent set of settings. After [`Engine::apply`] it holds what was replaced.
///
/// [`Engine::apply`]: super::Engine::apply
pub struct Update {
    pub(super) settings: Arc<Settings>,
    /// The same settings for the responder, because the guard reads them too.
    pub(super) responder_settings: Arc<Settings>,
    pub(super) misses: Budget,
    pub(super) errors: Budget,
    pub(super) revision: u32,
    pub(super) input_check: Option<InputCheck>,
    pub(super) noise: Option<Noise>,
    pub(super) carry: Option<CarryRules>,
    pub(super) change: Option<PolicyChange>,
    /// Keeps the engine warm under these settings.
    pub(super) dry: Box<DryRun>,
    pub(super) outcome: UpdateOutcome,
}

/// What became of an [`Update`].
#[derive(Debug)]
pub enum UpdateOutcome {
    /// The engine has not applied it, and nothing was changed.
    Pending,
    /// The engine uses it.
    Applied,
    /// The new policy cannot serve on the engine's thread, and nothing was changed.
    Refused(PolicyError),
}

/// A new policy that comes with the settings.
pub struct PolicyChange {
    /// The policies that answer from now on.
    pub policies: Policies,
    /// The hash of the policy's bundle.
    pub sha256: [u8; 32],
    /// The median of its calls, as measured; `None` if it was not. A policy whose calls are too long for the
    /// deadline is never run dry.
    pub call: Option<Nanos>,
    /// The number of calls on the engine's thread before the policy answers. Some backends prepare each
    /// thread.
    pub warm_up_calls: u32,
    /// What the engine's thread does before the first call. A backend that runs code from a file gives up
    /// rights here.
    pub on_thread: Option<Box<dyn FnMut() + Send>>,
}

/// What belongs to a policy beside the settings.
#[derive(Default)]
pub struct PolicyExtras {
    /// Compares features with what the policy was trained on.
    pub input_check: Option<InputCheck>,
    /// The source of the policy's noise.
    pub noise: Option<Noise>,
    /// The rules for carried state.
    pub carry: Option<CarryRules>,
}

impl Update {
    /// Creates an update with this revision number.
    pub fn new(
        settings: Settings,
        extras: PolicyExtras,
        mut change: Option<PolicyChange>,
        revision: u32,
    ) -> Self {
        let settings = Arc::new(settings);
        let PolicyExtras { input_check, noise, carry } = extras;
        let mut dry = DryRun::new(&settings);
        dry.set_rules(input_check.as_ref(), carry);
        if let Some(change) = &mut change {
            dry.serve(&mut change.policies, change.call);
        }
        Self {
            misses: Budget::new(settings.miss_budget),
            errors: Budget::new(settings.error_budget),
            responder_settings: Arc::clone(&settings),
            settings,
            revision,
            input_check,
            noise,
            carry,
            change,
            dry: Box::new(dry),
            outcome: UpdateOutcome::Pending,
        }
    }

    /// Returns true if the update brings another policy, or, after it was applied, if it brought one.
    pub fn changes_policy(&self) -> bool {
        self.change.is_some()
    }

    /// Returns what became of the update. The caller asks after the engine has sent it back.
    pub fn outcome(&self) -> &UpdateOutcome {
        &self.outcome
    }
}
