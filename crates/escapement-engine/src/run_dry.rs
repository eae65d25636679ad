//! An idle engine runs dry: see [`dry_run`](super::dry_run).

use super::dry_run::RARE_PATHS_EVERY;
use super::keep_warm::DrySpan;
use super::tick::Engine;
use crate::telemetry::KeepWarmMeter;
use escapement_ring::clock::{Clock, Nanos};
use escapement_ring::wire::Reason;
use std::sync::Arc;

impl<C: Clock> Engine<C> {
    /// Returns the figures of the dry runs, for readers on other threads.
    pub fn keep_warm_meter(&self) -> Arc<KeepWarmMeter> {
        Arc::clone(&self.dry.meter)
    }

    /// Takes the observation in the policy's buffer as the one that dry runs answer from now on.
    pub(super) fn sample_observation(&mut self) {
        self.dry.sample.copy_from_slice(&self.pipeline.policies.observation);
    }

    /// Notes that an observation got its outcome at `now`. If a dry run ended just before, part of the
    /// observation's wait may be due to it.
    #[inline]
    pub(super) fn note_answer(&mut self, now: Nanos) {
        self.dry.busy_until = now;
        let DrySpan { begun, ended } = std::mem::take(&mut self.pipeline.session.dry_before);
        if ended > Nanos(0) {
            let published =
                self.pipeline.session.responder.with(|responder| responder.tick.observation.ts_publish_ns);
            let delay = published.map_or(0, |published| ended.0.saturating_sub(published.max(begun.0)));
            self.dry.meter.count_delay(delay);
        }
    }

    /// Runs dry if the engine has been idle for long enough by `now`, and returns when that ended.
    #[inline]
    pub(super) fn keep_warm(&mut self, now: Nanos) -> Option<Nanos> {
        let is_due = self.dry.is_due(now) && self.is_between_ticks();
        let span = is_due.then(|| self.run_dry());
        // An observation that is found next may have waited for its end.
        self.pipeline.session.dry_before = span.unwrap_or_default();
        span.map(|span| span.ended)
    }

    /// Runs dry once. The caller must be between ticks.
    #[inline(never)]
    pub fn run_dry(&mut self) -> DrySpan {
        let begun = self.pipeline.clock.now();
        let takes_rare_paths = self.dry.runs % RARE_PATHS_EVERY == RARE_PATHS_EVERY - 1;
        if self.pipeline.session.policy_answered {
            // The policy's buffer still holds the observation that it has answered.
            self.sample_observation();
            self.pipeline.session.policy_answered = false;
        }
        self.dry.publish(begun, takes_rare_paths);
        self.dry.states.save(self.pipeline.policies.both());
        // A lease is granted meanwhile, so that the guard notices a policy that hangs here as it does in a
        // tick. It cannot be claimed, because nothing is due.
        self.pipeline.session.responder.grant(Nanos(u64::MAX));
        self.swap_sessions();
        self.tick();
        if takes_rare_paths {
            self.halt(Reason::Operator);
        }
        self.swap_sessions();
        let back = self.pipeline.session.responder.take_back();
        debug_assert!(back, "a lease without a deadline is never claimed");
        self.dry.states.restore(self.pipeline.policies.both());
        self.dry.drain();
        self.dry.runs += 1;
        let ended = self.pipeline.clock.now();
        if !takes_rare_paths {
            self.dry.add_length(ended.since(begun));
        }
        self.dry.busy_until = ended;
        self.dry.ran_at = ended;
        self.dry.meter.count_run(ended.since(begun), self.dry.length.get());
        self.dry.plan(&self.pipeline.settings);
        DrySpan { begun, ended }
    }

    #[inline]
    fn swap_sessions(&mut self) {
        std::mem::swap(&mut self.pipeline.session, &mut self.dry.session);
        std::mem::swap(&mut self.observations, &mut self.dry.observations);
    }
}
