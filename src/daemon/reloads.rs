//! The queue of reloads: each is requested, made ready on a thread of its own, offered to the engine as one
//! set, and recorded.
//!
//! ```text
//! request ──▶ queue ──▶ made ready ──▶ offered ──▶ taken between two ticks ──▶ the old set returns
//!                           │ refused      │ refused by the engine's thread
//!                           └──────────────┴──▶ nothing changes, and the reason is kept
//! ```
//! One reload is under way at a time, so revisions follow the order of the requests.

use super::event::Event;
use super::load::Deployment;
use super::prepare::{PrepareError, PreparedReload, ReadConfig, Running, prepare};
use super::rate::RateLimit;
use super::tail::MeasuredPolicy;
use crate::agent_files::ReloadTarget;
use crate::evidence::PolicyTimes;
use crate::halt::User;
use crate::os::keep_off;
use crate::status::{ReloadOutcome, ReloadStatus};
use crossbeam::channel::Sender;
use escapement_engine::lease;
use escapement_engine::{Update, UpdateOutcome};
use escapement_ring::clock::{Nanos, rfc3339, wall_clock_ns};
use std::collections::VecDeque;
use std::sync::Arc;

/// The reloads of a process.
pub(super) struct Reloads {
    running: Arc<Deployment>,
    previous: Option<Arc<Deployment>>,
    /// What the running policy takes, as it was measured before it was armed.
    measured: Option<MeasuredPolicy>,
    read: ReadConfig,
    events: Sender<Event>,
    mailbox: lease::Sender<Update>,
    revision: u32,
    tickets: u64,
    queue: VecDeque<ReloadRequest>,
    requests: RateLimit,
    under_way: Option<ReloadStage>,
    applied: u64,
    refused: u64,
    recent: VecDeque<ReloadOutcome>,
    /// The ticket of the last one that finished.
    finished: u64,
    /// Whether the thread of a refused reload is still inside a policy that does not return.
    left_a_thread: bool,
}

/// A reload that a user requested.
#[derive(Debug, Clone)]
struct ReloadRequest {
    ticket: u64,
    target: ReloadTarget,
    user: Option<User>,
}

/// How far the reload under way is.
enum ReloadStage {
    /// A thread makes it ready.
    Preparing(ReloadRequest),
    /// It waits for the engine, which takes it between two ticks.
    Offered {
        request: ReloadRequest,
        deployment: Box<Deployment>,
        waiting: Vec<&'static str>,
        measured: Option<MeasuredPolicy>,
    },
}

/// Reloads that may wait in the queue.
const MAX_WAITING: usize = 64;
/// Requests in one second. A program that waits for each outcome does not reach this.
const MAX_A_SECOND: u32 = 200;
/// Outcomes that the status page shows: as many as may finish between two requests of a client that waits for
/// one.
const RECENT: usize = MAX_WAITING;

impl Reloads {
    pub(super) fn new(
        running: Deployment,
        read: ReadConfig,
        events: Sender<Event>,
        mailbox: lease::Sender<Update>,
    ) -> Self {
        Self {
            running: Arc::new(running),
            previous: None,
            measured: None,
            read,
            events,
            mailbox,
            revision: 1,
            tickets: 0,
            queue: VecDeque::new(),
            requests: RateLimit::new(MAX_A_SECOND),
            under_way: None,
            applied: 0,
            refused: 0,
            recent: VecDeque::new(),
            finished: 0,
            left_a_thread: false,
        }
    }

    /// Sets what the policy takes, measured while it was warmed up.
    pub(super) fn note_measured(&mut self, measured: MeasuredPolicy) {
        self.measured = Some(measured);
    }

    /// What the calls of the running policy take; `None` before they were measured.
    pub(super) fn policy_times(&self) -> Option<PolicyTimes> {
        let work = self.running.provenance.fixed_work();
        self.measured.map(|measured| PolicyTimes::new(&measured.latency_ns, work))
    }

    /// The deployment that runs now.
    pub(super) fn running(&self) -> &Deployment {
        &self.running
    }

    /// The revision of the settings in force.
    pub(super) fn revision(&self) -> u32 {
        self.revision
    }

    /// What the status page says about reloads.
    pub(super) fn status(&self) -> ReloadStatus {
        ReloadStatus {
            revision: self.revision,
            applied: self.applied,
            refused: self.refused,
            under_way: self.under_way.is_some(),
            finished: self.finished,
            recent: self.recent.clone(),
        }
    }

    /// Whether a thread is inside a policy that it loads for a reload, or that does not return.
    pub(super) fn have_a_thread(&self) -> bool {
        self.left_a_thread || matches!(self.under_way, Some(ReloadStage::Preparing(_)))
    }

    /// Queues a reload. Returns its ticket.
    ///
    /// # Errors
    /// Fails if too many wait already, or too many came in the last second.
    pub(super) fn request(
        &mut self,
        target: ReloadTarget,
        user: Option<User>,
        now: Nanos,
    ) -> Result<u64, String> {
        if !self.requests.allows(now) {
            return Err(format!("more than {MAX_A_SECOND} reloads in a second; nothing was changed"));
        }
        if self.queue.len() >= MAX_WAITING {
            return Err(format!("{MAX_WAITING} reloads wait already; nothing was changed"));
        }
        self.tickets += 1;
        self.queue.push_back(ReloadRequest { ticket: self.tickets, target, user });
        Ok(self.tickets)
    }

    /// Starts the next reload, if none is under way and one waits. Returns its outcome if it was refused at
    /// once.
    pub(super) fn start_next(&mut self) -> Option<ReloadOutcome> {
        if self.under_way.is_some() {
            return None;
        }
        let request = self.queue.pop_front()?;
        let kept = match request.target {
            ReloadTarget::Configured => None,
            ReloadTarget::Previous => match &self.previous {
                Some(previous) => Some(Arc::clone(previous)),
                None => {
                    return Some(
                        self.refuse(&request, "nothing ran before: there was no reload yet".to_owned()),
                    );
                }
            },
        };
        let (running, read, events) =
            (Arc::clone(&self.running), Arc::clone(&self.read), self.events.clone());
        let measured = self.measured;
        let work = move || {
            // This thread must not use the engine's core.
            running.config.engine.core.into_iter().for_each(keep_off);
            let current = Running { deployment: &running, measured };
            let prepared = prepare(&current, kept.as_deref(), &read);
            // Sending fails only if the process is ending.
            drop(events.send(Event::ReloadPrepared(Box::new(prepared))));
        };
        match std::thread::Builder::new().name("reload".to_owned()).spawn(work) {
            Ok(_) => {
                self.under_way = Some(ReloadStage::Preparing(request));
                None
            }
            Err(error) => {
                Some(self.refuse(&request, format!("start the thread that makes it ready: {error}")))
            }
        }
    }

    /// Offers a prepared reload to the engine. Returns its outcome if it was refused.
    pub(super) fn on_prepared(
        &mut self,
        prepared: Result<PreparedReload, PrepareError>,
    ) -> Option<ReloadOutcome> {
        let Some(ReloadStage::Preparing(request)) = self.under_way.take() else { return None };
        let PreparedReload { deployment, extras, change, waiting, measured } = match prepared {
            Ok(prepared) => prepared,
            Err(refused) => {
                self.left_a_thread |= refused.leaves_a_thread;
                return Some(self.refuse(&request, refused.why));
            }
        };
        let update = Update::new(deployment.config.settings.clone(), extras, change, self.revision + 1);
        match self.mailbox.offer(Box::new(update)) {
            Ok(()) => {
                self.under_way = Some(ReloadStage::Offered {
                    request,
                    deployment: Box::new(deployment),
                    waiting,
                    measured,
                });
                None
            }
            // Does not happen: one reload is under way at a time, and its box is collected before the next.
            Err(_) => Some(self.refuse(&request, "the engine has not taken the last one".to_owned())),
        }
    }

    /// Returns the outcome of the offered reload, once the engine has taken or refused it. The replaced set
    /// is freed here.
    pub(super) fn collect(&mut self) -> Option<ReloadOutcome> {
        let update = self.mailbox.collect()?;
        let Some(ReloadStage::Offered { request, deployment, waiting, measured }) = self.under_way.take()
        else {
            return None;
        };
        match update.outcome() {
            UpdateOutcome::Applied => {}
            UpdateOutcome::Refused(error) => return Some(self.refuse(&request, error.to_string())),
            UpdateOutcome::Pending => {
                return Some(self.refuse(&request, "the engine could not take it".to_owned()));
            }
        }
        let policy_changed = update.changes_policy();
        self.revision += 1;
        self.applied += 1;
        self.measured = measured;
        self.previous = Some(std::mem::replace(&mut self.running, Arc::from(deployment)));
        let outcome = ReloadOutcome {
            applied: true,
            waits_for_restart: waiting.into_iter().map(str::to_owned).collect(),
            policy_changed,
            ..self.outcome(&request, None)
        };
        Some(self.remember(outcome))
    }

    fn refuse(&mut self, request: &ReloadRequest, why: String) -> ReloadOutcome {
        self.refused += 1;
        let outcome = self.outcome(request, Some(why));
        self.remember(outcome)
    }

    fn outcome(&self, request: &ReloadRequest, refused: Option<String>) -> ReloadOutcome {
        ReloadOutcome {
            ticket: request.ticket,
            at: rfc3339(wall_clock_ns()),
            target: request.target,
            user: request.user.clone(),
            applied: false,
            revision: self.revision,
            refused,
            waits_for_restart: Vec::new(),
            policy_changed: false,
        }
    }

    fn remember(&mut self, outcome: ReloadOutcome) -> ReloadOutcome {
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.finished = outcome.ticket;
        self.recent.push_back(outcome.clone());
        outcome
    }
}
