//! New settings on their way into a running engine: made by the supervisor, taken whole between two ticks, and sent
//! back with what they replaced, so that the engine's thread neither allocates nor frees.

use super::budget::Budget;
use super::carry::{Carried, CarryRules};
use super::input_guard::InputGuard;
use super::serving::Serving;
use super::settings::Settings;
use super::tick::Engine;
use crate::lease::Receiver;
use crate::noise::Noise;
use escapement_policy::PolicyError;
use escapement_ring::clock::{Clock, Nanos};
use std::sync::Arc;

/// One consistent set. After [`Engine::adopt`] it holds what was replaced.
pub struct Update {
    settings: Arc<Settings>,
    /// One for the engine and one for the desk: the guard reads the settings, too.
    for_the_desk: Arc<Settings>,
    misses: Budget,
    errors: Budget,
    generation: u32,
    input_guard: Option<InputGuard>,
    noise: Option<Noise>,
    carry: Option<CarryRules>,
    change: Option<PolicyChange>,
    fate: Fate,
}

/// What became of an [`Update`].
#[derive(Debug)]
pub enum Fate {
    /// It has not come to it: nothing was changed.
    NotTaken,
    /// The engine goes by it.
    Taken,
    /// The new policy refuses the engine's thread: nothing was changed.
    Refused(PolicyError),
}

/// A new policy that comes with the settings.
pub struct PolicyChange {
    /// What answers from now on.
    pub serving: Serving,
    /// Of its bundle.
    pub sha256: [u8; 32],
    /// Calls on the engine's thread before it answers: for backends that prepare something per thread.
    pub warm_up_calls: u32,
    /// What the engine's thread does before the first call: giving up rights, for backends that run code from a file.
    pub on_thread: Option<Box<dyn FnMut() + Send>>,
}

/// What goes beside the settings.
#[derive(Default)]
pub struct Company {
    /// Holds features to what the policy was trained on.
    pub input_guard: Option<InputGuard>,
    /// Where the policy's noise is drawn from.
    pub noise: Option<Noise>,
    /// What becomes of carried state.
    pub carry: Option<CarryRules>,
}

impl Update {
    /// A set of this generation.
    pub fn new(settings: Settings, company: Company, change: Option<PolicyChange>, generation: u32) -> Self {
        let settings = Arc::new(settings);
        let Company { input_guard, noise, carry } = company;
        Self {
            misses: Budget::new(settings.miss_budget),
            errors: Budget::new(settings.error_budget),
            for_the_desk: Arc::clone(&settings),
            settings,
            generation,
            input_guard,
            noise,
            carry,
            change,
            fate: Fate::NotTaken,
        }
    }

    /// Whether it brings another policy; after it was taken over, whether it brought one.
    pub fn changes_the_policy(&self) -> bool {
        self.change.is_some()
    }

    /// What became of it, after it came back.
    pub fn fate(&self) -> &Fate {
        &self.fate
    }
}

impl<C: Clock> Engine<C> {
    /// Takes new settings from this mailbox, between two ticks of [`super::run`].
    pub fn listen(&mut self, updates: Receiver<Update>) {
        self.updates = Some(updates);
    }

    /// Takes over what lies in the mailbox, if anything does and no tick is open.
    #[inline]
    pub(super) fn look_for_updates(&mut self) {
        if self.updates.as_ref().is_some_and(Receiver::is_offered) && self.is_between_ticks() {
            self.take_update();
        }
    }

    #[cold]
    fn take_update(&mut self) {
        // Taken out for the while, since the engine itself is what the box is emptied into.
        let Some(mut updates) = self.updates.take() else { return };
        updates.receive(|update| self.adopt(update));
        self.updates = Some(updates);
    }

    /// Takes a set of settings over, as a whole; false where the guard is still answering, or the policy refuses this
    /// thread. Between ticks only.
    ///
    /// # Panics
    /// When the vectors in the settings do not have the policy's widths; `config` checks that, and rings of another
    /// geometry need a restart.
    pub fn adopt(&mut self, update: &mut Update) -> bool {
        let dimensions = self.serving.policy.dimensions();
        update.settings.assert_widths(dimensions);
        if self.desk.with(|_| ()).is_none() {
            return false;
        }
        if let Some(change) = &mut update.change {
            assert_eq!(change.serving.policy.dimensions(), dimensions);
            if let Some(prepare) = &mut change.on_thread {
                prepare();
            }
            // The right to answer is lent meanwhile: a policy that hangs here is noticed like one that hangs in a tick.
            self.desk.lend(Nanos(u64::MAX));
            let entered = change.serving.enter_thread(change.warm_up_calls);
            let back = self.desk.reclaim();
            debug_assert!(back, "nobody takes what has no deadline");
            if let Err(refused) = entered {
                update.fate = Fate::Refused(refused);
                return false;
            }
            self.desk.with(|desk| desk.action_header.set_bundle_hash(&change.sha256));
            std::mem::swap(&mut self.serving, &mut change.serving);
        }
        std::mem::swap(&mut self.settings, &mut update.settings);
        std::mem::swap(&mut self.input_guard, &mut update.input_guard);
        std::mem::swap(&mut self.noise, &mut update.noise);
        self.generation = update.generation;
        self.carried = match (self.carried, update.carry) {
            // A burn-in that is under way goes on, unless the state is that of another policy.
            (Some(carried), Some(rules)) if update.change.is_none() => Some(carried.ruled_by(rules)),
            (_, rules) => rules.map(Carried::new),
        };
        self.desk.expect_deadlines_of(self.settings.deadlines.shortest());
        self.desk.with(|desk| {
            std::mem::swap(&mut desk.settings, &mut update.for_the_desk);
            desk.generation = update.generation;
            // What was missed under the old rule is not forgiven by a reload that does not change the rule.
            if desk.misses.spec() != update.misses.spec() {
                std::mem::swap(&mut desk.misses, &mut update.misses);
            }
            if desk.errors.spec() != update.errors.spec() {
                std::mem::swap(&mut desk.errors, &mut update.errors);
            }
        });
        update.fate = Fate::Taken;
        true
    }
}
