//! Reloads: asked for, made ready on a thread of their own, offered to the engine as one set, and accounted for.
//!
//! ```text
//! asked ──▶ queue ──▶ made ready: file, plan, policy ──▶ offered ──▶ taken between two ticks ──▶ the old set comes back
//!                         │ refused                                    │ refused by the thread
//!                         └──────────▶ nothing changes, and why is kept ◀──┘
//! ```
//! One is under way at a time, so that generations follow each other in the order in which they were asked for.

use super::DaemonError;
use super::candidate::{self, Beside, Reloaded, Sources};
use super::planted::reload_slowly_if_planted;
use super::provenance::Provenance;
use super::reload::plan;
use super::supervisor::Event;
use crate::agent_files::ReloadTarget;
use crate::config::AgentConfig;
use crate::halt::User;
use crate::os::keep_off;
use crossbeam::channel::Sender;
use escapement_engine::lease;
use escapement_engine::{PolicyChange, PolicyExtras, Update, UpdateOutcome};
use escapement_ring::clock::{Nanos, rfc3339, wall_clock_ns};
use serde::Serialize;
use std::collections::VecDeque;
use std::sync::Arc;

/// Reads the configuration that the daemon was started with, as it is now; or says what is wrong with it.
pub(super) type ReadConfig = Arc<dyn Fn() -> Result<AgentConfig, String> + Send + Sync>;

/// What runs, complete: settings, the bytes of the policies, and what is known about them.
#[derive(Clone)]
pub(super) struct Standing {
    pub(super) config: AgentConfig,
    pub(super) sources: Sources,
    pub(super) provenance: Provenance,
}

/// What was made ready, to be offered.
pub(super) struct Prepared {
    standing: Standing,
    company: PolicyExtras,
    change: Option<PolicyChange>,
    waiting: Vec<&'static str>,
    tail: Option<Nanos>,
}

/// Why nothing was made ready.
pub(super) struct NotPrepared {
    why: String,
    /// Whether a thread is still in the policy that was to be loaded.
    leaves_a_thread: bool,
}

/// All reloads of a process.
pub(super) struct Reloads {
    running: Arc<Standing>,
    previous: Option<Arc<Standing>>,
    /// The tail of the running policy's latencies, as it was measured before it was armed.
    tail: Option<Nanos>,
    read: ReadConfig,
    events: Sender<Event>,
    mailbox: lease::Sender<Update>,
    generation: u32,
    tickets: u64,
    queue: VecDeque<Asked>,
    under_way: Option<UnderWay>,
    applied: u64,
    refused: u64,
    recent: VecDeque<Outcome>,
    /// The ticket of the last one.
    finished: u64,
    /// Whether a thread of a reload that was refused is still in a policy that does not return.
    left_a_thread: bool,
}

/// A reload that somebody asked for.
#[derive(Debug, Clone)]
struct Asked {
    ticket: u64,
    target: ReloadTarget,
    user: Option<User>,
}

/// The reload under way.
enum UnderWay {
    /// A thread makes it ready.
    Preparing(Asked),
    /// The engine takes it between two ticks.
    Offered { asked: Asked, standing: Box<Standing>, waiting: Vec<&'static str>, tail: Option<Nanos> },
}

/// How a reload ended.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Outcome {
    /// Whoever asked knows it by this number.
    ticket: u64,
    at: String,
    target: ReloadTarget,
    user: Option<User>,
    pub(super) applied: bool,
    /// The settings in force afterwards.
    pub(super) generation: u32,
    /// Why nothing was changed.
    pub(super) refused: Option<String>,
    /// Keys that were changed in the file and wait for a restart.
    pub(super) waits_for_restart: Vec<&'static str>,
    /// Whether another policy answers now.
    pub(super) policy_changed: bool,
}

/// What status says about reloads.
#[derive(Serialize)]
pub(super) struct ReloadFigures<'a> {
    generation: u32,
    applied: u64,
    refused: u64,
    under_way: bool,
    /// The ticket of the last one that came to its end: they do so in their order.
    finished: u64,
    recent: &'a VecDeque<Outcome>,
}

/// Reloads that may wait for their turn.
const MOST_WAITING: usize = 64;
/// Outcomes that status shows: as many as may come to their end between two questions of whoever waits for one.
const RECENT: usize = MOST_WAITING;

impl Reloads {
    pub(super) fn new(
        running: Standing,
        read: ReadConfig,
        events: Sender<Event>,
        mailbox: lease::Sender<Update>,
    ) -> Self {
        Self {
            running: Arc::new(running),
            previous: None,
            tail: None,
            read,
            events,
            mailbox,
            generation: 1,
            tickets: 0,
            queue: VecDeque::new(),
            under_way: None,
            applied: 0,
            refused: 0,
            recent: VecDeque::new(),
            finished: 0,
            left_a_thread: false,
        }
    }

    /// The policy is warm: this is its tail.
    pub(super) fn note_tail(&mut self, tail: Nanos) {
        self.tail = Some(tail);
    }

    /// What runs now.
    pub(super) fn running(&self) -> &Standing {
        &self.running
    }

    pub(super) fn figures(&self) -> ReloadFigures<'_> {
        ReloadFigures {
            generation: self.generation,
            applied: self.applied,
            refused: self.refused,
            under_way: self.under_way.is_some(),
            finished: self.finished,
            recent: &self.recent,
        }
    }

    /// Whether a thread is in a policy that it loads for a reload, or that it does not come back from.
    pub(super) fn have_a_thread(&self) -> bool {
        self.left_a_thread || matches!(self.under_way, Some(UnderWay::Preparing(_)))
    }

    /// Takes a wish in; gives the number by which its outcome is known.
    ///
    /// # Errors
    /// When too many wait already.
    pub(super) fn ask(&mut self, target: ReloadTarget, user: Option<User>) -> Result<u64, String> {
        if self.queue.len() >= MOST_WAITING {
            return Err(format!("{MOST_WAITING} reloads wait already; nothing was changed"));
        }
        self.tickets += 1;
        self.queue.push_back(Asked { ticket: self.tickets, target, user });
        Ok(self.tickets)
    }

    /// Starts the next reload, if none is under way and one waits.
    pub(super) fn start_next(&mut self) -> Option<Outcome> {
        if self.under_way.is_some() {
            return None;
        }
        let asked = self.queue.pop_front()?;
        let kept = match asked.target {
            ReloadTarget::Configured => None,
            ReloadTarget::Previous => match &self.previous {
                Some(previous) => Some(Arc::clone(previous)),
                None => {
                    return Some(
                        self.refuse(&asked, "nothing ran before: there was no reload yet".to_owned()),
                    );
                }
            },
        };
        let (running, read, events) =
            (Arc::clone(&self.running), Arc::clone(&self.read), self.events.clone());
        let tail = self.tail;
        let work = move || {
            // The engine's core is left alone.
            running.config.engine.core.into_iter().for_each(keep_off);
            let prepared = prepare(&running, kept.as_deref(), &read, tail);
            // Nobody listens any more where the process is ending.
            drop(events.send(Event::Prepared(Box::new(prepared))));
        };
        match std::thread::Builder::new().name("reload".to_owned()).spawn(work) {
            Ok(_) => {
                self.under_way = Some(UnderWay::Preparing(asked));
                None
            }
            Err(error) => Some(self.refuse(&asked, format!("start the thread that makes it ready: {error}"))),
        }
    }

    /// The thread is done: offers what it made ready.
    pub(super) fn on_prepared(&mut self, prepared: Result<Prepared, NotPrepared>) -> Option<Outcome> {
        let Some(UnderWay::Preparing(asked)) = self.under_way.take() else { return None };
        let Prepared { standing, company, change, waiting, tail } = match prepared {
            Ok(prepared) => prepared,
            Err(refused) => {
                self.left_a_thread |= refused.leaves_a_thread;
                return Some(self.refuse(&asked, refused.why));
            }
        };
        let update = Update::new(standing.config.settings.clone(), company, change, self.generation + 1);
        match self.mailbox.offer(Box::new(update)) {
            Ok(()) => {
                self.under_way =
                    Some(UnderWay::Offered { asked, standing: Box::new(standing), waiting, tail });
                None
            }
            // One is under way at a time, and its box is collected before the next.
            Err(_) => Some(self.refuse(&asked, "the engine has not taken the last one".to_owned())),
        }
    }

    /// Looks whether the engine has taken what was offered. What it replaced is freed here.
    pub(super) fn look(&mut self) -> Option<Outcome> {
        let update = self.mailbox.collect()?;
        let Some(UnderWay::Offered { asked, standing, waiting, tail }) = self.under_way.take() else {
            return None;
        };
        match update.outcome() {
            UpdateOutcome::Applied => {}
            UpdateOutcome::Refused(error) => return Some(self.refuse(&asked, error.to_string())),
            UpdateOutcome::Pending => {
                return Some(self.refuse(&asked, "the engine could not take it".to_owned()));
            }
        }
        let policy_changed = update.changes_policy();
        self.generation += 1;
        self.applied += 1;
        self.tail = tail;
        self.previous = Some(std::mem::replace(&mut self.running, Arc::from(standing)));
        let outcome = Outcome {
            applied: true,
            waits_for_restart: waiting,
            policy_changed,
            ..self.outcome(&asked, None)
        };
        Some(self.remember(outcome))
    }

    fn refuse(&mut self, asked: &Asked, why: String) -> Outcome {
        self.refused += 1;
        let outcome = self.outcome(asked, Some(why));
        self.remember(outcome)
    }

    fn outcome(&self, asked: &Asked, refused: Option<String>) -> Outcome {
        Outcome {
            ticket: asked.ticket,
            at: rfc3339(wall_clock_ns()),
            target: asked.target,
            user: asked.user.clone(),
            applied: false,
            generation: self.generation,
            refused,
            waits_for_restart: Vec::new(),
            policy_changed: false,
        }
    }

    fn remember(&mut self, outcome: Outcome) -> Outcome {
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.finished = outcome.ticket;
        self.recent.push_back(outcome.clone());
        outcome
    }
}

impl Outcome {
    /// Who asked for it.
    pub(super) fn user(&self) -> Option<User> {
        self.user.clone()
    }
}

impl From<DaemonError> for NotPrepared {
    fn from(error: DaemonError) -> Self {
        Self { why: error.to_string(), leaves_a_thread: error.leaves_a_thread() }
    }
}

impl From<String> for NotPrepared {
    fn from(why: String) -> Self {
        Self { why, leaves_a_thread: false }
    }
}

/// Everything that takes time: reading, checking, verifying, loading, proving.
fn prepare(
    running: &Standing,
    kept: Option<&Standing>,
    read: &ReadConfig,
    tail: Option<Nanos>,
) -> Result<Prepared, NotPrepared> {
    // Where what ran before runs again, it draws from the seed that it had.
    let drawn_seed = kept.unwrap_or(running).provenance.drawn_seed();
    reload_slowly_if_planted();
    let (asked, kept) = match kept {
        Some(previous) => (previous.config.clone(), Some(previous.sources.clone())),
        None => (read()?, None),
    };
    let plan = plan(&running.config, asked).map_err(|error| error.to_string())?;
    let sources = match kept {
        Some(sources) => sources,
        None => Sources::read(&plan.config)?,
    };
    let Standing { config, sources: running_sources, provenance } = running;
    let beside = Beside { config, sources: running_sources, provenance, tail, drawn_seed };
    let Reloaded { company, sources, provenance, change, tail } =
        candidate::reload(&plan.config, sources, beside)?;
    Ok(Prepared {
        standing: Standing { config: plan.config, sources, provenance },
        company,
        change,
        waiting: plan.waiting,
        tail,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// What a reload leaves running must not meet the destructors of an orderly end.
    #[test]
    fn only_a_load_that_hangs_leaves_a_thread() {
        let hung = NotPrepared::from(DaemonError::LoadHung { limit: Duration::from_secs(1) });
        assert!(hung.leaves_a_thread && hung.why.contains("it hangs"));
        assert!(!NotPrepared::from(DaemonError::NoCarriedState).leaves_a_thread);
    }
}
