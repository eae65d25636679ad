//! The misses of one agent: taken from the tick records, judged once the evidence about their time is complete, counted
//! by cause.

use super::cause::Cause;
use super::timeline::{Kind, Stretch, Timeline};
use super::verdict::{Evidence, LOOKED, Question, judge};
use escapement_engine::{Deadlines, TickRecord};
use escapement_ring::clock::Nanos;
use escapement_ring::wire::{ActionFlags, Reason};
use std::collections::{BTreeMap, VecDeque};

/// A miss and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Miss {
    /// The observation's sequence.
    pub sequence: u64,
    /// When it had its outcome, on `CLOCK_MONOTONIC`.
    pub at_ns: u64,
    /// What it was.
    #[serde(serialize_with = "by_name")]
    pub reason: Reason,
    /// Why it was.
    pub cause: Cause,
    /// The figures that say so.
    pub evidence: Evidence,
}

fn by_name<S: serde::Serializer>(reason: &Reason, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(reason.name())
}

/// The misses of one agent, in numbers and the latest ones in full.
#[derive(Debug)]
pub struct Misses {
    timeline: Timeline,
    /// Deadlines by the revision of the settings, the newest last.
    deadlines: VecDeque<(u32, Deadlines)>,
    /// Position and end of the last tick.
    last: Option<(u64, u64)>,
    /// Ticks that the guard answered while the policy computed: what took it so long shows when it returns.
    taken_over: Option<TickRecord>,
    waiting: VecDeque<Waiting>,
    counts: [u64; Cause::ALL.len()],
    recent: VecDeque<Miss>,
}

/// A miss whose evidence may not be complete yet.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    record: TickRecord,
    reason: Reason,
    /// When its work was done.
    returned: u64,
}

/// The JSON form.
#[derive(Debug, Clone, serde::Serialize)]
pub struct MissReport {
    /// How many for each cause.
    pub by_cause: BTreeMap<&'static str, u64>,
    /// The latest ones, oldest first.
    pub recent: Vec<Miss>,
    /// What cannot be told apart on this machine.
    pub cannot_tell: Vec<String>,
    /// Records about the engine's thread that the kernel could not keep.
    pub evidence_lost: u64,
}

/// Misses that are shown in full.
const RECENT: usize = 16;
/// Generations of settings whose deadlines are remembered: a record is judged within milliseconds.
const GENERATIONS: usize = 8;
/// Misses that may wait for their evidence: as many as there are records between two looks of the supervisor.
const WAITING: usize = 1 << 14;
/// A policy that has not returned this long after the guard answered for it is judged by what it has done so far.
const PATIENCE: Nanos = Nanos::from_millis(1_000);

impl Misses {
    /// Begins at `since` with the deadlines of the first revision of settings.
    pub fn new(since: Nanos, deadlines: Deadlines) -> Self {
        Self {
            timeline: Timeline::new(since.0),
            deadlines: VecDeque::from([(0, deadlines)]),
            last: None,
            taken_over: None,
            waiting: VecDeque::with_capacity(WAITING),
            counts: [0; Cause::ALL.len()],
            recent: VecDeque::with_capacity(RECENT),
        }
    }

    /// From this revision of the settings on, these are the deadlines.
    pub fn expect(&mut self, revision: u32, deadlines: Deadlines) {
        if self.deadlines.len() == GENERATIONS {
            self.deadlines.pop_front();
        }
        self.deadlines.push_back((revision, deadlines));
    }

    /// The engine's thread is watched from this instant on.
    pub fn begin(&mut self, since: Nanos) {
        self.timeline.forget_before(since.0);
    }

    /// The engine's thread cannot be watched.
    pub fn begin_blind(&mut self) {
        self.timeline.forget_before(u64::MAX);
    }

    /// Where evidence about the engine's thread goes.
    pub fn timeline(&mut self) -> &mut Timeline {
        &mut self.timeline
    }

    /// Takes in the next record. It is judged when [`Misses::judge`] is called after the evidence about it was added.
    pub fn note(&mut self, record: &TickRecord) {
        let returned_at_last = record.outcome == 0 && reason_of(record) == Some(Reason::GuardTakeover);
        self.note_work(record);
        if returned_at_last {
            if let Some(taken_over) = self.taken_over.take() {
                self.ask_about_takeover(&taken_over, record.ts_commit_ns);
            }
            return;
        }
        if let Some(earlier) = self.taken_over.take() {
            // Its second record was lost.
            self.ask_about_takeover(&earlier, earlier.ts_commit_ns);
        }
        match reason_of(record) {
            Some(Reason::GuardTakeover) => self.taken_over = Some(*record),
            Some(reason) => self.ask(record, reason, record.ts_commit_ns),
            None => {}
        }
    }

    /// Judges every miss whose evidence is there, which is what lies before `now`; shows each to `told`.
    pub fn judge(&mut self, now: Nanos, mut told: impl FnMut(&Miss)) {
        if let Some(record) = self.taken_over
            && now.since(Nanos(record.ts_commit_ns)) > PATIENCE
        {
            self.taken_over = None;
            self.ask_about_takeover(&record, now.0);
        }
        let mut before = None;
        while let Some(waiting) = self.waiting.pop_front() {
            let question = self.question(&waiting);
            let after = self.waiting.front().and_then(|next| self.question(next).window());
            let alone = question.window().is_none_or(|window| {
                let shares = |other: Stretch| self.timeline.share_a_sample(window, other);
                ![before, after].into_iter().flatten().any(shares)
            });
            before = question.window().or(before);
            let (cause, evidence) = judge(&self.timeline, question, alone);
            let miss = waiting.judged(cause, evidence);
            self.count(miss);
            told(&miss);
        }
    }

    /// Judges what is left at the agent's end, a policy that still computes among it.
    pub fn close(&mut self, now: Nanos, told: impl FnMut(&Miss)) {
        if let Some(record) = self.taken_over.take() {
            self.ask_about_takeover(&record, now.0);
        }
        self.judge(now, told);
    }

    /// Misses so far.
    pub fn count_of(&self, cause: Cause) -> u64 {
        self.counts[cause as usize]
    }

    /// The figures, with what cannot be told apart on this machine.
    pub fn report(&self, cannot_tell: &[String], evidence_lost: u64) -> MissReport {
        MissReport {
            by_cause: Cause::ALL.iter().map(|cause| (cause.name(), self.count_of(*cause))).collect(),
            recent: self.recent.iter().copied().collect(),
            cannot_tell: cannot_tell.to_vec(),
            evidence_lost,
        }
    }

    fn count(&mut self, miss: Miss) {
        self.counts[miss.cause as usize] += 1;
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(miss);
    }

    /// When the engine was at work on this observation. One tick after the other is one stretch of work.
    fn note_work(&mut self, record: &TickRecord) {
        let end = record.ts_commit_ns.max(record.ts_done_ns);
        if let Some((position, last_end)) = self.last {
            let follows = record.position == position + 1 + record.skipped_before;
            if !follows && record.position != position {
                // Records were lost: whatever the engine did in between, it is not known.
                self.timeline.add(Kind::WorkUnknown, Stretch::new(last_end, record.ts_peek_ns));
            }
        }
        self.last = Some((record.position, end));
        self.timeline.extend(Kind::Busy, Stretch::new(record.ts_peek_ns, end), LOOKED);
    }

    fn ask_about_takeover(&mut self, record: &TickRecord, returned: u64) {
        self.ask(record, Reason::GuardTakeover, returned);
    }

    /// `returned` is when the tick's work was done: it is what the deadline is compared with.
    fn ask(&mut self, record: &TickRecord, reason: Reason, returned: u64) {
        let waiting = Waiting { record: *record, reason, returned };
        if self.waiting.len() < WAITING {
            self.waiting.push_back(waiting);
        } else {
            // More misses than there are records between two looks: nobody looks any more.
            self.count(waiting.judged(Cause::Undetermined, Evidence::default()));
        }
    }

    fn question(&self, waiting: &Waiting) -> Question {
        let Waiting { record, reason, returned } = waiting;
        let deadlines = self.deadlines_of(record.revision);
        match reason {
            Reason::ActionRingFull => Question::ActionRingFull,
            Reason::Stale => Question::Stale {
                window: Stretch::new(record.ts_publish_ns, record.ts_peek_ns),
                limit: deadlines.max_age.map_or(u64::MAX, |age| age.0),
            },
            _ => lateness(record, deadlines, *returned),
        }
    }

    fn deadlines_of(&self, revision: u32) -> Deadlines {
        let older = self.deadlines.iter().rev().find(|(from, _)| *from <= revision);
        let (_, deadlines) = older.unwrap_or(&self.deadlines[0]);
        *deadlines
    }
}

impl Waiting {
    fn judged(&self, cause: Cause, evidence: Evidence) -> Miss {
        let (sequence, at_ns) = (self.record.sequence, self.record.ts_commit_ns);
        Miss { sequence, at_ns, reason: self.reason, cause, evidence }
    }
}

/// Which of the two deadlines fell first, and the window that it is about.
fn lateness(record: &TickRecord, deadlines: Deadlines, returned: u64) -> Question {
    let (peeked, called) = (record.ts_peek_ns, record.ts_called_ns);
    let inference_first = called != 0
        && called.saturating_add(deadlines.inference.0) <= peeked.saturating_add(deadlines.end_to_end.0);
    // Without the instant of the call: as the record says what was late.
    let inference_only = called == 0
        && record.inference_ns > 0
        && record.flags & (ActionFlags::INFERENCE_LATE | ActionFlags::END_TO_END_LATE)
            == ActionFlags::INFERENCE_LATE;
    if inference_first {
        let returned = if record.outcome != 0 && record.reason != Reason::GuardTakeover.number() {
            called + record.inference_ns
        } else {
            returned
        };
        Question::Late { window: Stretch::new(called, returned), limit: deadlines.inference.0 }
    } else if inference_only {
        let window = Stretch::new(returned.saturating_sub(record.inference_ns), returned);
        Question::Late { window, limit: deadlines.inference.0 }
    } else {
        Question::Late { window: Stretch::new(peeked, returned), limit: deadlines.end_to_end.0 }
    }
}

/// What kind of miss a record is; `None` where it is none. What was not enforced counts as well.
fn reason_of(record: &TickRecord) -> Option<Reason> {
    let reason = Reason::from_number(record.reason)?;
    let has = |flag| record.flags & flag != 0;
    match reason {
        Reason::InferenceLate
        | Reason::EndToEndLate
        | Reason::GuardTakeover
        | Reason::Stale
        | Reason::ActionRingFull => Some(reason),
        _ if has(ActionFlags::INFERENCE_LATE) => Some(Reason::InferenceLate),
        _ if has(ActionFlags::END_TO_END_LATE) => Some(Reason::EndToEndLate),
        _ if has(ActionFlags::STALE) => Some(Reason::Stale),
        _ => None,
    }
}
