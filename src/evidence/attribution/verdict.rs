//! The verdict on one miss. It is a pure function from what is known to the cause and its evidence.
//!
//! # The rule
//! A tick that was **late** took longer than its limit. Its time falls into the policy's *own* (on its core,
//! or voluntarily asleep), time that another thread or the platform *took*, and *faults*.
//!
//! 1. If its own time is within the limit, the policy would have been on time on an undisturbed machine.
//!    The cause is the larger of the other two.
//! 2. If its own time alone exceeds the limit, the cause lies in it; unless one of the other two exceeds the
//!    limit by itself as well, and is larger. `own_time` decides between the policy and a core that stood
//!    still or ran cold, by what the policy was measured to take.
//!
//! A policy of fixed work makes no call that could sleep. If it was asleep, something stopped its thread, and
//! that time was *taken*.
//!
//! An observation that was **stale** waited longer than it may. The engine polled for it all the time that it
//! was on its core with nothing to do. So up to the last such poll the observation was not there, and the
//! wait until then is the feed's. The time after that poll is time that was taken, faults, observations or a
//! dry run before it, and sleep between polls. The cause is the largest of these. (If removing one of them
//! would have met the limit, removing the largest would have.)
//!
//! The time that the **platform** took is known from two sources, and neither is exact. The guard sees when
//! its own core stood still, which need not be when the engine's did. The hypervisor says how much it took
//! from the engine's core, but only as a sum over some milliseconds. So the sum bounds the time that the gaps
//! claim. A sum that is to explain a miss by itself must match: it is not more than the time to be explained,
//! and the limit would have been met without it. If a sum could explain a miss and does not match, the miss
//! is `undetermined`.
//!
//! Time about which **something is not known** is given to each of the possible parts in turn. If that does
//! not change the cause, the cause stands. If it does, the miss is `undetermined`.

use super::cause::Cause;
use super::own_time::{FixedWork, OwnTime, UsualTimes};
use super::timeline::{Counted, Interval, Segment, StealEstimate, ThreadState, Timeline};

/// A miss that is to be explained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MissKind {
    /// The tick's work took longer than `limit`.
    Late {
        /// From the peek or the call to the verdict or the return.
        window: Interval,
        /// From the call to the return; empty if the policy was not called.
        call: Interval,
        /// How long it may be.
        limit: u64,
    },
    /// The observation waited longer than `limit`.
    Stale {
        /// From the feed's stamp to the peek.
        window: Interval,
        /// How long it may be.
        limit: u64,
    },
    /// There was no room for the action.
    ActionRingFull,
}

impl MissKind {
    /// The time to be explained.
    pub fn window(self) -> Option<Interval> {
        match self {
            Self::Late { window, .. } | Self::Stale { window, .. } => Some(window),
            Self::ActionRingFull => None,
        }
    }
}

/// The figures behind a verdict, in nanoseconds. The parts add up to `took_ns`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Evidence {
    /// How long it took.
    pub took_ns: u64,
    /// How long it may take.
    pub limit_ns: u64,
    /// On its core, at its own work.
    pub on_core_ns: u64,
    /// Voluntarily asleep; for a stale observation, between two polls.
    pub asleep_ns: u64,
    /// Off its core because another thread had it.
    pub preempted_ns: u64,
    /// How often.
    pub preemptions: u64,
    /// The platform stood still, as seen from another core.
    pub platform_ns: u64,
    /// How often.
    pub platform_gaps: u64,
    /// Time that the hypervisor took from the engine's core in the milliseconds around.
    pub stolen_nearby_ns: u64,
    /// In page faults.
    pub fault_ns: u64,
    /// Page faults that needed no disk.
    pub minor_faults: u64,
    /// Page faults that needed the disk.
    pub major_faults: u64,
    /// Waiting behind other observations, or for the end of a dry run.
    pub queued_ns: u64,
    /// Waiting for the feed.
    pub feed_ns: u64,
    /// Time about which something that matters is not known.
    pub unknown_ns: u64,
    /// The median of the policy's calls, as measured before it answered observations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_p50_ns: Option<u64>,
    /// Their 99.9th percentile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_p999_ns: Option<u64>,
}

/// An engine that was on its core without work for this long has polled the ring in vain. If the time is
/// shorter, it may just have returned from a sleep or an interrupt, or be on its way from one tick to the
/// next.
pub(super) const POLLED: u64 = 20_000;

/// Tolerance of a match: the hypervisor's sum and the tick's times come from different clocks.
const MATCHING: u64 = 50_000;

/// Judges one miss by what is known. `alone` says that the same stolen time could explain no other miss.
/// `usual` is what the tick usually takes; `None` if that was not measured.
pub fn judge(
    timeline: &Timeline,
    kind: MissKind,
    alone: bool,
    usual: Option<&UsualTimes>,
) -> (Cause, Evidence) {
    let (window, call, limit, waiting) = match kind {
        MissKind::ActionRingFull => return (Cause::ActionRingFull, Evidence::default()),
        MissKind::Late { window, call, limit } => (window, call, limit, false),
        MissKind::Stale { window, limit } => (window, window, limit, true),
    };
    // Where the limit is the call's, there is nothing around it.
    let usual = usual
        .map(|usual| UsualTimes { around_ns: if call == window { 0 } else { usual.around_ns }, ..*usual });
    let usual = usual.as_ref();
    let lateness = Lateness { limit, is_called: call.length() > 0, usual, counted: timeline.counted(call) };
    let segments = timeline.cut(window);
    let polled = if waiting { last_poll(&segments) } else { None };
    let mut parts = Parts { waiting, ..Parts::default() };
    for segment in segments {
        if polled.is_some_and(|polled| segment.interval.begin < polled) {
            parts.feed += segment.interval.length();
        } else {
            parts.add(&segment, call);
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
            .map(|parts| if waiting { parts.cause_of_age() } else { parts.cause_of_lateness(&lateness) })
    });
    let cause = unanimous(causes);
    let evidence = parts.evidence(timeline, window, limit, stolen);
    let measured = usual.map(|usual| usual.policy).filter(|_| !waiting);
    let evidence = Evidence {
        policy_p50_ns: measured.map(|policy| policy.p50_ns),
        policy_p999_ns: measured.map(|policy| policy.p999_ns),
        ..evidence
    };
    (cause, evidence)
}

/// When the engine last polled in vain. That is the end of the last interval on its core without work that
/// was long enough, or after which it went to sleep; it does that only if the ring is empty.
fn last_poll(segments: &[Segment]) -> Option<u64> {
    let mut idle: Option<Interval> = None;
    let mut sleeps_next = false;
    for segment in segments.iter().rev() {
        let polling = !ThreadState::ALL_BUT_FAULTS_UNKNOWN.iter().any(|kind| segment.is(*kind));
        if polling {
            let end = idle.map_or(segment.interval.end, |idle| idle.end);
            let whole = Interval::new(segment.interval.begin, end);
            if sleeps_next || whole.length() >= POLLED {
                return Some(end);
            }
            idle = Some(whole);
        } else {
            idle = None;
            sleeps_next = segment.is(ThreadState::Asleep)
                && !segment.is(ThreadState::Busy)
                && !segment.is(ThreadState::MajorFault);
        }
    }
    None
}

impl ThreadState {
    /// An unseen fault does not keep the engine from polling for longer than the fault takes.
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

/// What a late tick is compared with.
struct Lateness<'a> {
    limit: u64,
    is_called: bool,
    usual: Option<&'a UsualTimes>,
    /// What the processor's counters say about the call.
    counted: Counted,
}

/// A window's time by what it was spent on.
#[derive(Debug, Clone, Copy, Default)]
struct Parts {
    on_core: u64,
    /// The part of `on_core` that lies around the policy's call.
    around_call: u64,
    asleep: u64,
    /// The part of `asleep` that lies around the policy's call.
    asleep_around_call: u64,
    preempted: u64,
    platform: u64,
    fault: u64,
    queued: u64,
    feed: u64,
    /// Time about which something is not known. The flags say what: switches, faults or the engine's work.
    unknown: u64,
    unknown_around_call: u64,
    may_be_taken: bool,
    may_be_fault: bool,
    may_be_queued: bool,
    waiting: bool,
}

impl Parts {
    /// Adds a segment of a tick's own time or, if `waiting`, of the time before its peek.
    fn add(&mut self, segment: &Segment, call: Interval) {
        let waiting = self.waiting;
        let length = segment.interval.length();
        let faulting = segment.is(ThreadState::MinorFault) || segment.is(ThreadState::MajorFault);
        let busy = waiting && segment.is(ThreadState::Busy);
        if segment.is(ThreadState::Preempted) {
            self.preempted += length;
        } else if faulting {
            self.fault += length;
        } else {
            // The rest is the engine's own time, if everything is known about it.
            let switches = segment.is(ThreadState::SwitchesUnknown);
            let faults = segment.is(ThreadState::FaultsUnknown);
            let work = waiting && segment.is(ThreadState::WorkUnknown) && !busy;
            if switches || faults || work {
                self.unknown += length;
                self.unknown_around_call += segment.interval.length_outside(call);
                self.may_be_taken |= switches;
                // A sleep may be a wait for a page.
                self.may_be_fault |= faults;
                self.may_be_queued |= work || busy;
            } else if segment.is(ThreadState::PlatformGap) && !segment.is(ThreadState::Asleep) {
                self.platform += length;
            } else if busy {
                self.queued += length;
            } else if segment.is(ThreadState::Asleep) {
                self.asleep += length;
                self.asleep_around_call += segment.interval.length_outside(call);
            } else {
                self.on_core += length;
                self.around_call += segment.interval.length_outside(call);
            }
        }
    }

    /// Time that appears to have another owner, and may have been the platform's all the same.
    fn soft(&self) -> u64 {
        self.on_core + self.feed + self.queued
    }

    /// Time that the machine took for certain.
    fn hard(&self) -> u64 {
        if self.waiting { 0 } else { self.preempted + self.platform + self.fault }
    }

    /// Moves time from its apparent owners to the platform.
    fn give_to_platform(&mut self, nanos: u64) {
        let mut left = nanos;
        for part in [&mut self.feed, &mut self.queued, &mut self.on_core] {
            let given = left.min(*part);
            *part -= given;
            self.platform += given;
            left -= given;
        }
    }

    /// Removes gap time beyond the most that the hypervisor took, and adds what it took for certain.
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
            let around_call = self.around_call + self.unknown_around_call;
            Self { on_core: self.on_core + unknown, around_call, ..self }
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

    fn cause_of_lateness(self, lateness: &Lateness<'_>) -> Cause {
        let Lateness { limit, is_called, usual, counted } = *lateness;
        // Fixed work does not sleep: its thread was stopped. What is around the call may be a fallback that
        // does sleep.
        let is_fixed = |of: fn(&FixedWork) -> bool| usual.is_some_and(|usual| of(&usual.policy.work));
        let own_sleep = |slept: u64, is_fixed: bool| if is_fixed { 0 } else { slept };
        let asleep_in_call = own_sleep(self.asleep - self.asleep_around_call, is_fixed(|work| work.in_call));
        let asleep_around_call = own_sleep(self.asleep_around_call, is_fixed(|work| work.around_call));
        let asleep = asleep_in_call + asleep_around_call;
        let own = self.on_core + asleep;
        let taken = self.preempted + self.platform + (self.asleep - asleep);
        let (machine, cause) =
            if self.fault > taken { (self.fault, Cause::PageFault) } else { (taken, Cause::CoreTaken) };
        if machine == 0 && own <= limit {
            // The tick was not late by these figures. Its record saw something that they do not show.
            return Cause::Undetermined;
        }
        if own <= limit || (machine > limit && machine > own) {
            return cause;
        }
        // What the hypervisor took may have come from either place.
        let around_call = self.around_call.min(self.on_core);
        let in_call = self.on_core - around_call;
        let own = OwnTime { is_called, in_call, around_call, asleep_in_call, asleep_around_call };
        usual.map_or(Cause::Undetermined, |usual| usual.cause_of(own, limit, &counted))
    }

    fn cause_of_age(self) -> Cause {
        let parts = [
            (self.feed, Cause::FeedStalled),
            (self.queued, Cause::Queued),
            (self.fault, Cause::PageFault),
            (self.preempted + self.platform, Cause::CoreTaken),
            (self.asleep, Cause::IdleSleep),
        ];
        // Without any part, the wait was only the engine's way from one tick to the next.
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
            policy_p50_ns: None,
            policy_p999_ns: None,
        }
    }
}
