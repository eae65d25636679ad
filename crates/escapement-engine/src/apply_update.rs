//! How a running engine takes new settings.

use super::carried_state::CarriedState;
use super::tick::Engine;
use super::update::{Update, UpdateOutcome};
use crate::lease::Receiver;
use escapement_ring::clock::{Clock, Nanos};

impl<C: Clock> Engine<C> {
    /// Takes new settings from this mailbox from now on, between two ticks of [`super::run()`].
    pub fn take_updates_from(&mut self, updates: Receiver<Update>) {
        self.updates = Some(updates);
    }

    /// Applies the update in the mailbox, if there is one and no tick is open.
    #[inline]
    pub(super) fn apply_offered_update(&mut self) {
        if self.updates.as_ref().is_some_and(Receiver::is_offered) && self.is_between_ticks() {
            self.receive_update();
        }
    }

    #[cold]
    fn receive_update(&mut self) {
        // Taken out of `self` first, because `apply` borrows the whole engine.
        let Some(mut updates) = self.updates.take() else { return };
        updates.receive(|update| self.apply(update));
        self.updates = Some(updates);
    }

    /// Applies an update as a whole. Returns false, and changes nothing, if the guard is still answering a
    /// tick or if the new policy cannot serve on this thread. The caller must be between ticks.
    ///
    /// # Panics
    /// Panics if the vectors in the settings do not have the policy's widths. The configuration must have
    /// checked that; rings of another geometry need a restart.
    pub fn apply(&mut self, update: &mut Update) -> bool {
        let pipeline = &mut self.pipeline;
        let dimensions = pipeline.policies.policy.dimensions();
        update.settings.assert_widths(dimensions);
        if pipeline.session.responder.with(|_| ()).is_none() {
            return false;
        }
        if let Some(change) = &mut update.change {
            assert_eq!(change.policies.policy.dimensions(), dimensions);
            if let Some(prepare) = &mut change.on_thread {
                prepare();
            }
            // A lease is granted meanwhile, so that the guard notices a policy that hangs here as it does in
            // a tick.
            pipeline.session.responder.grant(Nanos(u64::MAX));
            let entered = change.policies.enter_thread(change.warm_up_calls);
            let back = pipeline.session.responder.take_back();
            debug_assert!(back, "a lease without a deadline is never claimed");
            if let Err(refused) = entered {
                update.outcome = UpdateOutcome::Refused(refused);
                return false;
            }
            pipeline
                .session
                .responder
                .with(|responder| responder.action_header.set_bundle_hash(&change.sha256));
            std::mem::swap(&mut pipeline.policies, &mut change.policies);
            // The new policies' buffer holds no observation yet.
            pipeline.session.policy_answered = false;
        }
        std::mem::swap(&mut pipeline.settings, &mut update.settings);
        std::mem::swap(&mut pipeline.session.input_check, &mut update.input_check);
        std::mem::swap(&mut pipeline.noise, &mut update.noise);
        pipeline.revision = update.revision;
        pipeline.session.carried = match (pipeline.session.carried, update.carry) {
            // A burn-in that is under way goes on, unless the state belongs to another policy.
            (Some(carried), Some(rules)) if update.change.is_none() => Some(carried.with_rules(rules)),
            (_, rules) => rules.map(CarriedState::new),
        };
        pipeline.session.responder.set_shortest_deadline(pipeline.settings.deadlines.shortest());
        pipeline.session.responder.with(|responder| {
            std::mem::swap(&mut responder.settings, &mut update.responder_settings);
            responder.revision = update.revision;
            // A reload that does not change a budget does not reset what was spent of it.
            if responder.misses.spec() != update.misses.spec() {
                std::mem::swap(&mut responder.misses, &mut update.misses);
            }
            if responder.errors.spec() != update.errors.spec() {
                std::mem::swap(&mut responder.errors, &mut update.errors);
            }
        });
        update.dry.succeed(&mut self.dry, update.change.is_some());
        update.dry.plan(&pipeline.settings);
        std::mem::swap(&mut self.dry, &mut update.dry);
        update.outcome = UpdateOutcome::Applied;
        true
    }
}
