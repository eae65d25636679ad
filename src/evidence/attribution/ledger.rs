//! The misses of one agent: taken from the tick records, judged once the evidence about their time is
//! complete, and counted by cause.

use super::cause::Cause;
use super::own_time::{PolicyTimes, UsualTimes};
use super::timeline::{Interval, ThreadState, Timeline};
use super::verdict::{Evidence, MissKind, POLLED, judge};
use escapement_engine::{Deadlines, TickRecord};
use escapement_ring::clock::Nanos;
use escapement_ring::wire::{ActionFlags, Reason};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::{BTreeMap, VecDeque};

/// A miss and its cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Miss {
    /// The observation's sequence number.
    pub sequence: u64,
    /// When the tick had its outcome, on `CLOCK_MONOTONIC`.
    pub at_ns: u64,
    /// The kind of miss.
    #[serde(serialize_with = "by_name", deserialize_with = "from_name")]
    pub reason: Reason,
    /// Its cause.
    pub cause: Cause,
    /// The figures behind the cause.
    pub evidence: Evidence,
}

fn by_name<S: Serializer>(reason: &Reason, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(reason.name())
}

fn from_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Reason, D::Error> {
    let name = String::deserialize(deserializer)?;
    let known = Reason::ALL.iter().copied().find(|reason| reason.name() == name);
    known.ok_or_else(|| serde::de::Error::custom(format!("unknown reason {name:?}")))
}

/// The misses of one agent: counts, and the latest ones in full.
#[derive(Debug)]
pub struct Misses {
    timeline: Timeline,
    /// What is expected of ticks, by the revision of the settings, the newest last.
    expected: VecDeque<Expected>,
    /// What the engine's own work around the policy's call usually takes.
    around_ns: u64,
    /// Position and end of the last tick.
    last: Option<(u64, u64)>,
    /// A tick that the guard answered while the policy computed. Its cause is judged when the policy has
    /// returned.
    taken_over: Option<TickRecord>,
    waiting: VecDeque<PendingMiss>,
    counts: [u64; Cause::ALL.len()],
    recent: VecDeque<Miss>,
}

/// What is expected of ticks from a revision of the settings on.
#[derive(Debug, Clone, Copy)]
struct Expected {
    revision: u32,
    deadlines: Deadlines,
    /// What the policy takes; `None` until it was measured.
    policy: Option<PolicyTimes>,
}

/// A miss whose evidence may not be complete yet.
#[derive(Debug, Clone, Copy)]
struct PendingMiss {
    record: TickRecord,
    reason: Reason,
    /// When the tick's work was done.
    returned: u64,
}

/// The misses as the status page shows them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissReport {
    /// The count of each cause.
    pub by_cause: BTreeMap<String, u64>,
    /// The latest ones, oldest first.
    pub recent: Vec<Miss>,
    /// The causes that this machine cannot tell apart.
    pub cannot_tell: Vec<String>,
    /// Records about the engine's thread that the kernel lost.
    pub evidence_lost: u64,
}

/// Misses that are shown in full.
const RECENT: usize = 16;
/// Revisions whose deadlines are remembered. A record is judged within milliseconds.
const REVISIONS: usize = 8;
/// What the work around a call is assumed to take before the first tick.
const AROUND: u64 = 2_000;
/// The estimate moves by this share of itself at each tick. So it follows the median, and a stall moves it
/// little.
const AROUND_STEP: u64 = 16;
/// Misses that may wait for their evidence: as many as there are records between two reads of the supervisor.
const WAITING: usize = 1 << 14;
/// How long after the guard's answer a policy may take to return. Then it is judged by what it has done so
/// far.
const PATIENCE: Nanos = Nanos::from_millis(1_000);

impl Misses {
    /// Starts at `since` with the deadlines of the first revision.
    pub fn new(since: Nanos, deadlines: Deadlines) -> Self {
        Self {
            timeline: Timeline::new(since.0),
            expected: VecDeque::from([Expected { revision: 0, deadlines, policy: None }]),
            around_ns: AROUND,
            last: None,
            taken_over: None,
            waiting: VecDeque::with_capacity(WAITING),
            counts: [0; Cause::ALL.len()],
            recent: VecDeque::with_capacity(RECENT),
        }
    }

    /// Sets what the policy takes that was warmed up at the start.
    pub fn measured(&mut self, policy: PolicyTimes) {
        self.expected[0].policy = Some(policy);
    }

    /// Sets what is expected from this revision of the settings on: the deadlines, and what the policy takes.
    pub fn expect(&mut self, revision: u32, deadlines: Deadlines, policy: Option<PolicyTimes>) {
        if self.expected.len() == REVISIONS {
            self.expected.pop_front();
        }
        self.expected.push_back(Expected { revision, deadlines, policy });
    }

    /// Whether a tick was answered by the guard, and its policy has not returned yet.
    pub fn wait_for_a_call(&self) -> bool {
        self.taken_over.is_some()
    }

    /// Call when the engine's thread is watched from `since` on.
    pub fn begin(&mut self, since: Nanos) {
        self.timeline.forget_before(since.0);
    }

    /// Call when the engine's thread cannot be watched.
    pub fn begin_blind(&mut self) {
        self.timeline.forget_before(u64::MAX);
    }

    /// The timeline that takes the evidence about the engine's thread.
    pub fn timeline(&mut self) -> &mut Timeline {
        &mut self.timeline
    }

    /// Takes in the next record. The next call of [`Misses::judge`] judges it; the evidence about it must
    /// have been added by then.
    pub fn note(&mut self, record: &TickRecord) {
        let returned_at_last = record.outcome == 0 && reason_of(record) == Some(Reason::GuardTakeover);
        self.note_work(record);
        if returned_at_last {
            if let Some(taken_over) = self.taken_over.take() {
                self.queue_takeover(&taken_over, record.ts_commit_ns);
            }
            return;
        }
        if let Some(earlier) = self.taken_over.take() {
            // The record of its return was lost.
            self.queue_takeover(&earlier, earlier.ts_commit_ns);
        }
        match reason_of(record) {
            Some(Reason::GuardTakeover) => self.taken_over = Some(*record),
            Some(reason) => self.queue(record, reason, record.ts_commit_ns),
            None => {}
        }
    }

    /// Judges every miss that lies before `now`, and passes each to `report`.
    pub fn judge(&mut self, now: Nanos, mut report: impl FnMut(&Miss)) {
        if let Some(record) = self.taken_over
            && now.since(Nanos(record.ts_commit_ns)) > PATIENCE
        {
            self.taken_over = None;
            self.queue_takeover(&record, now.0);
        }
        let mut before = None;
        while let Some(waiting) = self.waiting.pop_front() {
            let kind = self.kind_of(&waiting);
            let after = self.waiting.front().and_then(|next| self.kind_of(next).window());
            let alone = kind.window().is_none_or(|window| {
                let shares = |other: Interval| self.timeline.share_a_sample(window, other);
                ![before, after].into_iter().flatten().any(shares)
            });
            before = kind.window().or(before);
            let usual = self.expected_of(waiting.record.revision).policy;
            let usual = usual.map(|policy| UsualTimes { policy, around_ns: self.around_ns });
            let (cause, evidence) = judge(&self.timeline, kind, alone, usual.as_ref());
            let miss = waiting.judged(cause, evidence);
            self.count(miss);
            report(&miss);
        }
    }

    /// Judges the remaining misses at the agent's end, that of a policy that still computes included.
    pub fn close(&mut self, now: Nanos, report: impl FnMut(&Miss)) {
        if let Some(record) = self.taken_over.take() {
            self.queue_takeover(&record, now.0);
        }
        self.judge(now, report);
    }

    /// The misses of this cause so far.
    pub fn count_of(&self, cause: Cause) -> u64 {
        self.counts[cause as usize]
    }

    /// The report, with the causes that cannot be told apart on this machine.
    pub fn report(&self, cannot_tell: &[String], evidence_lost: u64) -> MissReport {
        MissReport {
            by_cause: Cause::ALL
                .iter()
                .map(|cause| (cause.name().to_owned(), self.count_of(*cause)))
                .collect(),
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

    /// When the engine was at work on this observation. One tick after the other is one interval of work.
    fn note_work(&mut self, record: &TickRecord) {
        let end = record.ts_commit_ns.max(record.ts_done_ns);
        if record.ts_called_ns != 0 && record.outcome != 0 && record.ts_done_ns == 0 {
            let around = record.ts_commit_ns.saturating_sub(record.ts_peek_ns + record.inference_ns);
            let step = (self.around_ns / AROUND_STEP).max(1);
            self.around_ns = if around > self.around_ns {
                self.around_ns + step
            } else {
                self.around_ns.saturating_sub(step)
            };
        }
        if let Some((position, last_end)) = self.last {
            let follows = record.position == position + 1 + record.skipped_before;
            if !follows && record.position != position {
                // Records were lost, so the engine's work in between is not known.
                self.timeline.add(ThreadState::WorkUnknown, Interval::new(last_end, record.ts_peek_ns));
            }
        }
        self.last = Some((record.position, end));
        if record.dry_ended_ns != 0 {
            // A dry run is not a poll, however long it was on its core.
            let dry = Interval::new(record.dry_begun_ns, record.dry_ended_ns);
            self.timeline.extend(ThreadState::Busy, dry, 0);
        }
        self.timeline.extend(ThreadState::Busy, Interval::new(record.ts_peek_ns, end), POLLED);
    }

    fn queue_takeover(&mut self, record: &TickRecord, returned: u64) {
        // A policy that returned in time did not get its tick back before the guard took it over.
        self.queue(record, Reason::GuardTakeover, returned.max(record.ts_commit_ns));
    }

    /// Queues a miss. `returned` is when the tick's work was done; the deadline is compared with it.
    fn queue(&mut self, record: &TickRecord, reason: Reason, returned: u64) {
        let waiting = PendingMiss { record: *record, reason, returned };
        if self.waiting.len() < WAITING {
            self.waiting.push_back(waiting);
        } else {
            // More misses than there are records between two reads: judging has stopped.
            self.count(waiting.judged(Cause::Undetermined, Evidence::default()));
        }
    }

    fn kind_of(&self, waiting: &PendingMiss) -> MissKind {
        let PendingMiss { record, reason, returned } = waiting;
        let deadlines = self.expected_of(record.revision).deadlines;
        match reason {
            Reason::ActionRingFull => MissKind::ActionRingFull,
            Reason::Stale => MissKind::Stale {
                window: Interval::new(record.ts_publish_ns, record.ts_peek_ns),
                limit: deadlines.max_age.map_or(u64::MAX, |age| age.0),
            },
            _ => lateness(record, deadlines, *returned),
        }
    }

    fn expected_of(&self, revision: u32) -> &Expected {
        let older = self.expected.iter().rev().find(|expected| expected.revision <= revision);
        older.unwrap_or(&self.expected[0])
    }
}

impl PendingMiss {
    fn judged(&self, cause: Cause, evidence: Evidence) -> Miss {
        let (sequence, at_ns) = (self.record.sequence, self.record.ts_commit_ns);
        Miss { sequence, at_ns, reason: self.reason, cause, evidence }
    }
}

/// The deadline that came first, and the window that it limits.
fn lateness(record: &TickRecord, deadlines: Deadlines, returned: u64) -> MissKind {
    let (peeked, called) = (record.ts_peek_ns, record.ts_called_ns);
    let inference_first = called != 0
        && called.saturating_add(deadlines.inference.0) <= peeked.saturating_add(deadlines.end_to_end.0);
    // Without the instant of the call, the record's flags say what was late.
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
        let window = Interval::new(called, returned);
        MissKind::Late { window, call: window, limit: deadlines.inference.0 }
    } else if inference_only {
        let window = Interval::new(returned.saturating_sub(record.inference_ns), returned);
        MissKind::Late { window, call: window, limit: deadlines.inference.0 }
    } else {
        let window = Interval::new(peeked, returned);
        let call = if called == 0 {
            // Without the instant of the call: up to the verdict.
            Interval::new(returned.saturating_sub(record.inference_ns).max(peeked), returned)
        } else if record.outcome != 0 && record.reason != Reason::GuardTakeover.number() {
            Interval::new(called, called + record.inference_ns)
        } else {
            Interval::new(called, returned)
        };
        MissKind::Late { window, call, limit: deadlines.end_to_end.0 }
    }
}

/// The kind of miss that a record shows; `None` if it shows none. Misses that were not enforced count as
/// well.
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
