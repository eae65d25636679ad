//! The rules of the documents, restated as plainly as possible and independent of the engine. Times are added
//! up, the window of a budget is a list that is counted, and the rings are vectors.

use super::*;
use escapement_ring::wire::ActionFlags;

/// A mistake planted in the restatement. The suite must then disagree with the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Planted {
    Nothing,
    InferenceLateAtItsDeadline,
    EndToEndLateAtItsDeadline,
    StaleAtTheMaximumAge,
    EnforceIsIgnored,
    MissBudgetOneTooGenerous,
    ErrorBudgetOneTooStrict,
    MissesAreForgottenOnRefusal,
    GapsGoUnnoticed,
    StampsAheadAreFresh,
    SkippedCountAsAGap,
    TornFramesAreBelieved,
    HaltGoesOn,
    AnsweredTwiceAfterACrash,
    FullRingWaits,
}

impl Planted {
    pub(super) const ALL: [Self; 14] = [
        Self::InferenceLateAtItsDeadline,
        Self::EndToEndLateAtItsDeadline,
        Self::StaleAtTheMaximumAge,
        Self::EnforceIsIgnored,
        Self::MissBudgetOneTooGenerous,
        Self::ErrorBudgetOneTooStrict,
        Self::MissesAreForgottenOnRefusal,
        Self::GapsGoUnnoticed,
        Self::StampsAheadAreFresh,
        Self::SkippedCountAsAGap,
        Self::TornFramesAreBelieved,
        Self::HaltGoesOn,
        Self::AnsweredTwiceAfterACrash,
        Self::FullRingWaits,
    ];
}

/// The action that the gateway must find.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Expected {
    pub position: u64,
    pub sequence: u64,
    pub outcome: Outcome,
    pub reason: Reason,
    pub flags: u32,
    pub inference_ns: u64,
    pub ts_commit_ns: u64,
    pub epoch: u32,
    pub value: f32,
}

/// An observation that waits in the ring.
#[derive(Debug, Clone)]
pub(super) struct Waiting {
    pub published: Published,
    pub ts_publish_ns: u64,
}

/// What happens during one tick.
#[derive(Debug, Clone)]
pub(super) struct TickTiming {
    /// Time that passes right after the peek.
    pub after_peek: u64,
    pub step: Step,
}

pub(super) struct Oracle {
    pub settings: Settings,
    pub planted: Planted,
    pub now: u64,
    pub waiting: VecDeque<Waiting>,
    /// Committed and not yet read by the gateway.
    pub unread: VecDeque<Expected>,
    pub halted: bool,
    pub observations: u64,
    pub actions: u64,
    pub skipped: u64,
    /// Set if the last outcome was an action. A crash may have left its observation unreleased.
    pub answered_last: Option<(Waiting, Expected)>,
    position: u64,
    epoch: u32,
    followed: Option<(u64, u64)>,
    /// Positions of the breaks that a restart has excused.
    excused: Vec<u64>,
    last_answer: Option<Expected>,
    misses: Vec<bool>,
    errors: Vec<bool>,
}

impl Oracle {
    pub(super) fn new(settings: &Settings, planted: Planted, now: u64) -> Self {
        Self {
            settings: settings.clone(),
            planted,
            now,
            waiting: VecDeque::new(),
            unread: VecDeque::new(),
            halted: false,
            observations: 0,
            actions: 0,
            skipped: 0,
            answered_last: None,
            position: 0,
            epoch: 1,
            followed: None,
            excused: Vec::new(),
            last_answer: None,
            misses: Vec::new(),
            errors: Vec::new(),
        }
    }

    /// Starts a new daemon. Budgets begin unspent, and the numbering continues from the last action, unless
    /// that answered a torn frame.
    pub(super) fn restart(&mut self, release_was_lost: bool) {
        self.halted = false;
        self.epoch += 1;
        self.misses.clear();
        self.errors.clear();
        self.excused.clear();
        let last = self.last_answer.filter(|last| last.reason != Reason::ObservationTorn);
        self.followed = last.map(|last| (last.sequence, last.position));
        let answered = self.answered_last.take();
        if self.planted == Planted::AnsweredTwiceAfterACrash && release_was_lost {
            let (waiting, _) = answered.expect("only an answered observation can be left unreleased");
            self.waiting.push_front(waiting);
            self.position -= 1;
        }
    }

    pub(super) fn tick(&mut self, timing: &TickTiming) {
        if self.halted && self.planted != Planted::HaltGoesOn {
            return;
        }
        if self.settings.backlog == Backlog::Latest {
            while self.waiting.len() > 1 {
                self.waiting.pop_front();
                self.pass_over();
            }
        }
        if self.unread.len() as u64 == CAPACITY && self.planted == Planted::FullRingWaits {
            return;
        }
        let Some(waiting) = self.waiting.pop_front() else { return };
        let peeked = self.now;
        self.now += timing.after_peek;
        if self.unread.len() as u64 == CAPACITY {
            self.pass_over();
            self.answered_last = None;
            self.halted = self.settings.on_full == OnFull::Halt;
            return;
        }
        let expected = self.judge(&waiting, peeked, timing);
        self.unread.push_back(expected);
        self.last_answer = Some(expected);
        self.answered_last = Some((waiting, expected));
        self.observations += 1;
        self.actions += 1;
        self.position += 1;
    }

    fn pass_over(&mut self) {
        self.observations += 1;
        self.skipped += 1;
        self.position += 1;
    }

    fn judge(&mut self, waiting: &Waiting, peeked: u64, timing: &TickTiming) -> Expected {
        let enforce = self.settings.enforce || self.planted == Planted::EnforceIsIgnored;
        let (mut flags, mut inference_ns) = (0, 0);
        let mut refused = self.refuse(waiting, peeked, &mut flags, enforce);
        let mut failed = false;
        if refused.is_none() {
            inference_ns = timing.step.latency;
            self.now += timing.step.latency + timing.step.after_return;
            refused = match &timing.step.answer {
                Err(_) => Some(Reason::PolicyError),
                Ok(action) if action.iter().any(|value| !value.is_finite()) => Some(Reason::ActionNonFinite),
                Ok(action) if action.iter().any(|value| value.abs() > 1.0) => Some(Reason::ActionOutOfBounds),
                Ok(_) => None,
            };
            failed = refused.is_some();
        }
        let edge = |planted| u64::from(self.planted == planted);
        if inference_ns + edge(Planted::InferenceLateAtItsDeadline) > INFERENCE {
            flags |= ActionFlags::INFERENCE_LATE;
        }
        if self.now - peeked + edge(Planted::EndToEndLateAtItsDeadline) > END_TO_END {
            flags |= ActionFlags::END_TO_END_LATE;
        }
        let late = match flags & (ActionFlags::INFERENCE_LATE | ActionFlags::END_TO_END_LATE) {
            0 => None,
            ActionFlags::END_TO_END_LATE => Some(Reason::EndToEndLate),
            _ => Some(Reason::InferenceLate),
        };
        let missed = late.filter(|_| enforce);
        let forgotten = self.planted == Planted::MissesAreForgottenOnRefusal && refused.is_some();
        self.misses.push(missed.is_some() && !forgotten);
        self.errors.push(failed);
        let generous = u32::from(self.planted == Planted::MissBudgetOneTooGenerous);
        let strict = usize::from(self.planted == Planted::ErrorBudgetOneTooStrict);
        let BudgetSpec { misses, window } = self.settings.miss_budget;
        let too_many_misses = latest(&self.misses, window) > (misses + generous) as usize;
        let BudgetSpec { misses, window } = self.settings.error_budget;
        let too_many_errors = latest(&self.errors, window) + strict > misses as usize;

        let halt = match missed {
            Some(reason) if too_many_misses && self.settings.on_miss == OnMiss::Halt => Some(reason),
            _ if failed && too_many_errors => Some(Reason::ErrorBudget),
            _ => None,
        };
        self.halted = halt.is_some();
        let (outcome, reason, value) = match (halt, refused.or(missed)) {
            (Some(reason), _) => (Outcome::Halt, reason, NEUTRAL),
            (None, Some(reason)) => (Outcome::SafeDefault, reason, SAFE),
            (None, None) => (Outcome::Policy, Reason::None, ANSWER),
        };
        Expected {
            position: self.position,
            sequence: waiting.published.sequence,
            outcome,
            reason,
            flags,
            inference_ns,
            ts_commit_ns: self.now,
            epoch: self.epoch,
            value,
        }
    }

    fn refuse(&mut self, waiting: &Waiting, peeked: u64, flags: &mut u32, enforce: bool) -> Option<Reason> {
        let published = &waiting.published;
        if published.torn && self.planted != Planted::TornFramesAreBelieved {
            return Some(Reason::ObservationTorn);
        }
        let sequence = published.sequence;
        let broken = match self.followed {
            _ if self.planted == Planted::GapsGoUnnoticed => None,
            None => None,
            Some((last, last_position)) => {
                let skipped = self.position - last_position - 1;
                let skipped = if self.planted == Planted::SkippedCountAsAGap { 0 } else { skipped };
                match sequence {
                    _ if sequence == last + 1 + skipped => None,
                    _ if sequence == last => Some(Reason::SequenceDuplicate),
                    _ if sequence > last + 1 + skipped => Some(Reason::SequenceGap),
                    _ => Some(Reason::SequenceReordered),
                }
            }
        };
        self.followed = Some((sequence, self.position));
        let recent = self.excused.iter().filter(|at| self.position - **at < 1024).count();
        let may_excuse = recent < 8;
        let broken = match broken {
            Some(_) if published.flags & ObservationFlags::RESTART != 0 && may_excuse => {
                self.excused.push(self.position);
                None
            }
            other => other,
        };
        if broken.is_some() {
            *flags |= ActionFlags::GAP;
        }
        let ahead = waiting.ts_publish_ns.saturating_sub(peeked);
        if ahead > MAX_SKEW && self.planted != Planted::StampsAheadAreFresh {
            return Some(Reason::StampedAhead);
        }
        let age = peeked.saturating_sub(waiting.ts_publish_ns)
            + u64::from(self.planted == Planted::StaleAtTheMaximumAge);
        let stale = self.settings.deadlines.max_age.is_some() && age > MAX_AGE;
        if stale {
            *flags |= ActionFlags::STALE;
        }
        if published.payload.iter().any(|value| !value.is_finite()) {
            Some(Reason::ObservationNonFinite)
        } else if published.payload.iter().any(|value| value.abs() > 10.0) {
            Some(Reason::ObservationOutOfRange)
        } else if broken.is_some() && self.settings.on_gap == OnGap::SafeDefault {
            broken
        } else {
            (stale && enforce).then_some(Reason::Stale)
        }
    }
}

fn latest(history: &[bool], window: u32) -> usize {
    history.iter().rev().take(window as usize).filter(|failed| **failed).count()
}
