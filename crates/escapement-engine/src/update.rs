//! New settings on their way into a running engine: made by the supervisor, taken whole between two ticks, and sent
//! back with what they replaced, so that the engine's thread neither allocates nor frees.

use super::budget::Budget;
use super::carried_state::{CarriedState, CarryRules};
use super::input_check::InputCheck;
use super::policies::Policies;
use super::settings::Settings;
use super::tick::Engine;
use crate::lease::Receiver;
use crate::noise::Noise;
use escapement_policy::PolicyError;
use escapement_ring::clock::{Clock, Nanos};
use std::sync::Arc;

/// One consistent set. After [`Engine::apply`] it holds what was replaced.
pub struct Update {
    settings: Arc<Settings>,
    /// One for the engine and one for the responder: the guard reads the settings, too.
    responder_settings: Arc<Settings>,
    misses: Budget,
    errors: Budget,
    revision: u32,
    input_check: Option<InputCheck>,
    noise: Option<Noise>,
    carry: Option<CarryRules>,
    change: Option<PolicyChange>,
    outcome: UpdateOutcome,
}

/// What became of an [`Update`].
#[derive(Debug)]
pub enum UpdateOutcome {
    /// It has not come to it: nothing was changed.
    Pending,
    /// The engine goes by it.
    Applied,
    /// The new policy refuses the engine's thread: nothing was changed.
    Refused(PolicyError),
}

/// A new policy that comes with the settings.
pub struct PolicyChange {
    /// What answers from now on.
    pub policies: Policies,
    /// Of its bundle.
    pub sha256: [u8; 32],
    /// Calls on the engine's thread before it answers: for backends that prepare something per thread.
    pub warm_up_calls: u32,
    /// What the engine's thread does before the first call: giving up rights, for backends that run code from a file.
    pub on_thread: Option<Box<dyn FnMut() + Send>>,
}

/// What goes beside the settings.
#[derive(Default)]
pub struct PolicyExtras {
    /// Holds features to what the policy was trained on.
    pub input_check: Option<InputCheck>,
    /// Where the policy's noise is drawn from.
    pub noise: Option<Noise>,
    /// What becomes of carried state.
    pub carry: Option<CarryRules>,
}

impl Update {
    /// A set of this revision.
    pub fn new(
        settings: Settings,
        extras: PolicyExtras,
        change: Option<PolicyChange>,
        revision: u32,
    ) -> Self {
        let settings = Arc::new(settings);
        let PolicyExtras { input_check, noise, carry } = extras;
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
            outcome: UpdateOutcome::Pending,
        }
    }

    /// Whether it brings another policy; after it was taken over, whether it brought one.
    pub fn changes_policy(&self) -> bool {
        self.change.is_some()
    }

    /// What became of it, after it came back.
    pub fn outcome(&self) -> &UpdateOutcome {
        &self.outcome
    }
}

impl<C: Clock> Engine<C> {
    /// Takes new settings from this mailbox, between two ticks of [`super::run`].
    pub fn take_updates_from(&mut self, updates: Receiver<Update>) {
        self.updates = Some(updates);
    }

    /// Takes over what lies in the mailbox, if anything does and no tick is open.
    #[inline]
    pub(super) fn apply_offered_update(&mut self) {
        if self.updates.as_ref().is_some_and(Receiver::is_offered) && self.is_between_ticks() {
            self.take_update();
        }
    }

    #[cold]
    fn take_update(&mut self) {
        // Taken out for the while, since the engine itself is what the box is emptied into.
        let Some(mut updates) = self.updates.take() else { return };
        updates.receive(|update| self.apply(update));
        self.updates = Some(updates);
    }

    /// Takes a set of settings over, as a whole; false where the guard is still answering, or the policy refuses this
    /// thread. Between ticks only.
    ///
    /// # Panics
    /// When the vectors in the settings do not have the policy's widths; `config` checks that, and rings of another
    /// geometry need a restart.
    pub fn apply(&mut self, update: &mut Update) -> bool {
        let dimensions = self.policies.policy.dimensions();
        update.settings.assert_widths(dimensions);
        if self.responder.with(|_| ()).is_none() {
            return false;
        }
        if let Some(change) = &mut update.change {
            assert_eq!(change.policies.policy.dimensions(), dimensions);
            if let Some(prepare) = &mut change.on_thread {
                prepare();
            }
            // The right to answer is lent meanwhile: a policy that hangs here is noticed like one that hangs in a tick.
            self.responder.grant(Nanos(u64::MAX));
            let entered = change.policies.enter_thread(change.warm_up_calls);
            let back = self.responder.take_back();
            debug_assert!(back, "nobody takes what has no deadline");
            if let Err(refused) = entered {
                update.outcome = UpdateOutcome::Refused(refused);
                return false;
            }
            self.responder.with(|responder| responder.action_header.set_bundle_hash(&change.sha256));
            std::mem::swap(&mut self.policies, &mut change.policies);
        }
        std::mem::swap(&mut self.settings, &mut update.settings);
        std::mem::swap(&mut self.input_check, &mut update.input_check);
        std::mem::swap(&mut self.noise, &mut update.noise);
        self.revision = update.revision;
        self.carried = match (self.carried, update.carry) {
            // A burn-in that is under way goes on, unless the state is that of another policy.
            (Some(carried), Some(rules)) if update.change.is_none() => Some(carried.with_rules(rules)),
            (_, rules) => rules.map(CarriedState::new),
        };
        self.responder.set_shortest_deadline(self.settings.deadlines.shortest());
        self.responder.with(|responder| {
            std::mem::swap(&mut responder.settings, &mut update.responder_settings);
            responder.revision = update.revision;
            // What was missed under the old rule is not forgiven by a reload that does not change the rule.
            if responder.misses.spec() != update.misses.spec() {
                std::mem::swap(&mut responder.misses, &mut update.misses);
            }
            if responder.errors.spec() != update.errors.spec() {
                std::mem::swap(&mut responder.errors, &mut update.errors);
            }
        });
        update.outcome = UpdateOutcome::Applied;
        true
    }
}
