//! The verdict on one miss. Pure: what is known goes in, the cause and its evidence come out.
//!
//! # The rule
//! A tick that was **late** took longer than its limit. Its time falls into the policy's *own* (on its core, or asleep
//! by its own will), what another thread or the platform *took*, and *faults*.
//!
//! 1. Where its own time is within the limit, the policy would have been on time on an undisturbed machine: the cause is
//!    the larger of the other two.
//! 2. Where its own time alone is beyond the limit, the policy is slow; unless one of the other two is beyond the limit
//!    by itself as well, and larger.
//!
//! An observation that was **stale** waited longer than it may. The engine looked for it all the time that it was on its
//! core with nothing to do; so up to the last such look it was not there, and the wait until then is the feed's. What
//! comes after that look is what was taken, faults, observations before it, and sleep between looks. The cause is
//! the largest of these. (If taking one of them away would have met the limit, taking the largest away would have.)
//!
//! What the **platform** took is known from two sides, neither of which is exact. The guard sees when its own core stood
//! still, which need not be when the engine's did. The hypervisor says how much it took from the engine's core, but only
//! as a sum over some milliseconds. So the sum bounds what the gaps claim. Where a sum by itself is to explain a miss,
//! it must match: not more than the time that is to be explained, and enough to have met the limit without it. A sum
//! that could explain a miss and does not match makes it `undetermined`.
//!
//! Time about which **something is not known** is given to each of the possible parts in turn. Where that does not change
//! the cause, the cause stands; where it does, the miss is `undetermined`.

use super::cause::Cause;
use super::timeline::{Interval, Segment, StealEstimate, ThreadState, Timeline};

/// What is to be explained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MissKind {
    /// The tick's work took this window, longer than `limit`.
    Late {
        /// From the peek or the call to the verdict or the return.
        window: Interval,
        /// How long it might have been.
        limit: u64,
    },
    /// The observation waited for this window, longer than `limit`.
    Stale {
        /// From the feed's stamp to the peek.
        window: Interval,
        /// How long it might have been.
        limit: u64,
    },
    /// There was no room for its action.
    ActionRingFull,
}

impl MissKind {
    /// The time that it is about.
    pub fn window(self) -> Option<Interval> {
        match self {
            Self::Late { window, .. } | Self::Stale { window, .. } => Some(window),
            Self::ActionRingFull => None,
        }
    }
}

/// The figures that a verdict stands on, in nanoseconds. The parts add up to `took_ns`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Evidence {
    /// How long it took.
    pub took_ns: u64,
    /// How long it might have taken.
    pub limit_ns: u64,
    /// On its core, at work of its own.
    pub on_core_ns: u64,
    /// Asleep by its own will; in a stale observation's wait, between two looks.
    pub asleep_ns: u64,
    /// Off its core because another thread had it.
    pub preempted_ns: u64,
    /// How often.
    pub preemptions: u64,
    /// The platform stood still, as seen from another core.
    pub platform_ns: u64,
    /// How often.
    pub platform_gaps: u64,
    /// What the hypervisor says it took from the engine's core in the milliseconds around.
    pub stolen_nearby_ns: u64,
    /// In page faults.
    pub fault_ns: u64,
    /// Page faults that needed no disk.
    pub minor_faults: u64,
    /// Page faults that needed it.
    pub major_faults: u64,
    /// The wait behind other observations.
    pub queued_ns: u64,
    /// The wait for the feed.
    pub feed_ns: u64,
    /// Time about which something that matters is not known.
    pub unknown_ns: u64,
}

/// On its core and without work for this long, the engine has looked at the ring in vain. Shorter than that it may just
/// have come back from a sleep or an interrupt, or be on its way from one tick to the next.
pub(super) const LOOKED: u64 = 20_000;

/// The hypervisor's sum and the tick's own times are taken by different clocks.
const MATCHING: u64 = 50_000;

/// Judges one miss by what is known. `alone`: no other miss stands beside it that the same stolen time could explain.
pub fn judge(timeline: &Timeline, question: MissKind, alone: bool) -> (Cause, Evidence) {
    let (window, limit, waiting) = match question {
        MissKind::ActionRingFull => return (Cause::ActionRingFull, Evidence::default()),
        MissKind::Late { window, limit } => (window, limit, false),
        MissKind::Stale { window, limit } => (window, limit, true),
    };
    let pieces = timeline.cut(window);
    let looked = if waiting { last_look(&pieces) } else { None };
    let mut parts = Parts { waiting, ..Parts::default() };
    for piece in pieces {
        if looked.is_some_and(|looked| piece.stretch.begin < looked) {
            parts.feed += piece.stretch.length();
        } else {
            parts.add(&piece);
        }
    }
    let stolen = timeline.stolen(window);
    if timeline.steal_is_accounted() {
        parts.bound_platform(stolen);
    }
    let soft = parts.soft();
    let left = window.length().saturating_sub(parts.hard());
    let could_explain =
        stolen.most > parts.platform && left.saturating_sub(stolen.most - parts.platform) <= limit;
    let matches = could_explain && alone && stolen.nearby <= soft + parts.platform + MATCHING;
    if matches {
        parts.give_to_platform(stolen.most - parts.platform);
    }
    let open = if could_explain && !matches { stolen.most - parts.platform } else { 0 };
    let causes = parts.possibilities().flat_map(|parts| {
        let mut more_taken = parts;
        more_taken.give_to_platform(open);
        [parts, more_taken]
            .map(|parts| if waiting { parts.cause_of_age() } else { parts.cause_of_lateness(limit) })
    });
    let cause = unanimous(causes);
    (cause, parts.evidence(timeline, window, limit, stolen))
}

/// When the engine last looked in vain: the end of the last stretch on its core without work that was long enough, or
/// after which it went to sleep, which it does only when there is nothing.
fn last_look(pieces: &[Segment]) -> Option<u64> {
    let mut idle: Option<Interval> = None;
    let mut sleeps_next = false;
    for piece in pieces.iter().rev() {
        let looking = !ThreadState::ALL_BUT_FAULTS_UNKNOWN.iter().any(|kind| piece.is(*kind));
        if looking {
            let end = idle.map_or(piece.stretch.end, |idle| idle.end);
            let whole = Interval::new(piece.stretch.begin, end);
            if sleeps_next || whole.length() >= LOOKED {
                return Some(end);
            }
            idle = Some(whole);
        } else {
            idle = None;
            sleeps_next = piece.is(ThreadState::Asleep)
                && !piece.is(ThreadState::Busy)
                && !piece.is(ThreadState::MajorFault);
        }
    }
    None
}

impl ThreadState {
    /// A fault that nobody saw does not keep the engine from looking for longer than it takes.
    const ALL_BUT_FAULTS_UNKNOWN: [Self; 8] = [
        Self::Preempted,
        Self::Asleep,
        Self::MinorFault,
        Self::MajorFault,
        Self::PlatformGap,
        Self::Busy,
        Self::SwitchesUnknown,
        Self::WorkUnknown,
    ];
}

fn unanimous(mut causes: impl Iterator<Item = Cause>) -> Cause {
    let first = causes.next().unwrap_or(Cause::Undetermined);
    if causes.all(|cause| cause == first) { first } else { Cause::Undetermined }
}

/// A window's time by what it was spent on.
#[derive(Debug, Clone, Copy, Default)]
struct Parts {
    on_core: u64,
    asleep: u64,
    preempted: u64,
    platform: u64,
    fault: u64,
    queued: u64,
    feed: u64,
    /// Not known: by whether switches, faults or the engine's work are what is not known.
    unknown: u64,
    may_be_taken: bool,
    may_be_fault: bool,
    may_be_queued: bool,
    waiting: bool,
}

impl Parts {
    /// Adds a piece of a tick's own time or, where `waiting`, of the time before its peek.
    fn add(&mut self, piece: &Segment) {
        let waiting = self.waiting;
        let length = piece.stretch.length();
        let faulting = piece.is(ThreadState::MinorFault) || piece.is(ThreadState::MajorFault);
        let busy = waiting && piece.is(ThreadState::Busy);
        if piece.is(ThreadState::Preempted) {
            self.preempted += length;
        } else if faulting {
            self.fault += length;
        } else {
            // What is left is the engine's own, if everything is known about it.
            let switches = piece.is(ThreadState::SwitchesUnknown);
            let faults = piece.is(ThreadState::FaultsUnknown);
            let work = waiting && piece.is(ThreadState::WorkUnknown) && !busy;
            if switches || faults || work {
                self.unknown += length;
                self.may_be_taken |= switches;
                // A sleep may be the wait for a page.
                self.may_be_fault |= faults;
                self.may_be_queued |= work || busy;
            } else if piece.is(ThreadState::PlatformGap) && !piece.is(ThreadState::Asleep) {
                self.platform += length;
            } else if busy {
                self.queued += length;
            } else if piece.is(ThreadState::Asleep) {
                self.asleep += length;
            } else {
                self.on_core += length;
            }
        }
    }

    /// Time that looks like somebody's own, and may have been the platform's all the same.
    fn soft(&self) -> u64 {
        self.on_core + self.feed + self.queued
    }

    /// Time that is the machine's for certain.
    fn hard(&self) -> u64 {
        if self.waiting { 0 } else { self.preempted + self.platform + self.fault }
    }

    /// Moves time that looks like somebody's own to what the platform took.
    fn give_to_platform(&mut self, nanos: u64) {
        let mut left = nanos;
        for part in [&mut self.feed, &mut self.queued, &mut self.on_core] {
            let given = left.min(*part);
            *part -= given;
            self.platform += given;
            left -= given;
        }
    }

    /// Takes back what gaps claim beyond what the hypervisor took, and adds what it took for certain.
    fn bound_platform(&mut self, stolen: StealEstimate) {
        let bounded = self.platform.clamp(stolen.least, stolen.most.max(stolen.least));
        if bounded >= self.platform {
            self.give_to_platform(bounded - self.platform);
        } else {
            let back = if self.waiting { &mut self.feed } else { &mut self.on_core };
            *back += self.platform - bounded;
            self.platform = bounded;
        }
    }

    /// The parts with the unknown time given to each that it may belong to.
    fn possibilities(self) -> impl Iterator<Item = Self> {
        let unknown = self.unknown;
        let own = if self.waiting {
            Self { feed: self.feed + unknown, ..self }
        } else {
            Self { on_core: self.on_core + unknown, ..self }
        };
        let taken = Self { preempted: self.preempted + unknown, ..self };
        let fault = Self { fault: self.fault + unknown, ..self };
        let queued = Self { queued: self.queued + unknown, ..self };
        let asleep = Self { asleep: self.asleep + unknown, ..self };
        let open = unknown > 0;
        [
            (true, own),
            (open && self.may_be_taken, taken),
            (open && self.may_be_fault, fault),
            (open && self.waiting && self.may_be_queued, queued),
            (open && self.waiting && self.may_be_taken, asleep),
        ]
        .into_iter()
        .filter_map(|(possible, parts)| possible.then_some(parts))
    }

    fn cause_of_lateness(self, limit: u64) -> Cause {
        let own = self.on_core + self.asleep;
        let taken = self.preempted + self.platform;
        let (machine, cause) =
            if self.fault > taken { (self.fault, Cause::PageFault) } else { (taken, Cause::CoreTaken) };
        if machine == 0 && own <= limit {
            // It was not late by these figures: whatever flagged it saw something that they do not show.
            return Cause::Undetermined;
        }
        let would_have_been_late = own > limit;
        if would_have_been_late && !(machine > limit && machine > own) { Cause::PolicySlow } else { cause }
    }

    fn cause_of_age(self) -> Cause {
        let parts = [
            (self.feed, Cause::FeedStalled),
            (self.queued, Cause::Queued),
            (self.fault, Cause::PageFault),
            (self.preempted + self.platform, Cause::CoreTaken),
            (self.asleep, Cause::IdleSleep),
        ];
        // The engine's way from one tick to the next, and nothing else.
        let nothing = (0, Cause::Undetermined);
        parts.into_iter().fold(nothing, |largest, part| if part.0 > largest.0 { part } else { largest }).1
    }

    fn evidence(self, timeline: &Timeline, window: Interval, limit: u64, stolen: StealEstimate) -> Evidence {
        Evidence {
            took_ns: window.length(),
            limit_ns: limit,
            on_core_ns: self.on_core,
            asleep_ns: self.asleep,
            preempted_ns: self.preempted,
            preemptions: timeline.count(ThreadState::Preempted, window),
            platform_ns: self.platform,
            platform_gaps: timeline.count(ThreadState::PlatformGap, window),
            stolen_nearby_ns: stolen.nearby,
            fault_ns: self.fault,
            minor_faults: timeline.count(ThreadState::MinorFault, window),
            major_faults: timeline.count(ThreadState::MajorFault, window),
            queued_ns: self.queued,
            feed_ns: self.feed,
            unknown_ns: self.unknown,
        }
    }
}
