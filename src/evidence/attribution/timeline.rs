//! What is known about the engine's thread: when it was off its core, in a page fault or busy with a tick,
//! and when the platform stood still. Everything has a bound. Time that was forgotten, or never seen, is
//! marked as unknown.

use escapement_ring::clock::Nanos;
use std::collections::VecDeque;

/// A shorter gap than this is the kernel's timer tick or an interrupt. The engine's core has those as well.
pub const NOTABLE_GAP: Nanos = Nanos::from_micros(30);

/// An interval of time, from `begin` up to `end`, in nanoseconds on `CLOCK_MONOTONIC`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Interval {
    /// Its first instant.
    pub begin: u64,
    /// The instant after it.
    pub end: u64,
}

impl Interval {
    /// The interval between two instants. It is empty if they are in the wrong order.
    pub const fn new(begin: u64, end: u64) -> Self {
        Self { begin, end: if end < begin { begin } else { end } }
    }

    /// Its length.
    pub const fn length(self) -> u64 {
        self.end - self.begin
    }

    /// The length of the part that lies outside another interval.
    pub(super) fn length_outside(self, other: Self) -> u64 {
        let within = Self::new(self.begin.max(other.begin), self.end.min(other.end));
        self.length() - within.length()
    }
}

/// What is known about the thread in an interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ThreadState {
    /// Off its core although it could have run: the scheduler gave the core to another thread.
    Preempted,
    /// Off its core voluntarily: asleep, or waiting.
    Asleep,
    /// In a page fault that needed no disk.
    MinorFault,
    /// In a page fault that needed the disk.
    MajorFault,
    /// The platform stood still, as seen from another core.
    PlatformGap,
    /// The engine worked on an observation.
    Busy,
    /// Switches are not known.
    SwitchesUnknown,
    /// Page faults are not known.
    FaultsUnknown,
    /// The engine's work is not known.
    WorkUnknown,
}

impl ThreadState {
    pub(super) const COUNT: usize = 9;

    const ALL: [Self; Self::COUNT] = [
        Self::Preempted,
        Self::Asleep,
        Self::MinorFault,
        Self::MajorFault,
        Self::PlatformGap,
        Self::Busy,
        Self::SwitchesUnknown,
        Self::FaultsUnknown,
        Self::WorkUnknown,
    ];

    /// What is unknown where intervals of this kind were forgotten.
    const fn forgotten(self) -> Option<Self> {
        match self {
            Self::Preempted | Self::Asleep | Self::SwitchesUnknown => Some(Self::SwitchesUnknown),
            Self::MinorFault | Self::MajorFault | Self::FaultsUnknown => Some(Self::FaultsUnknown),
            Self::Busy | Self::WorkUnknown => Some(Self::WorkUnknown),
            // A gap is evidence; the absence of a gap proves nothing.
            Self::PlatformGap => None,
        }
    }
}

/// Intervals of one kind that are kept: at 10,000 a second, those of the last 1.6 s.
const KEPT: usize = 1 << 14;

/// Intervals of one kind, oldest first. None overlaps the next.
#[derive(Debug, Default)]
struct Track {
    intervals: VecDeque<Interval>,
    /// Everything before this was forgotten.
    since: u64,
}

impl Track {
    fn push(&mut self, interval: Interval) {
        // An interval that was added before it ended is added again at its end. It stays one interval.
        if let Some(last) = self.intervals.back_mut()
            && interval.begin < last.end
        {
            last.end = last.end.max(interval.end);
            return;
        }
        if interval.length() == 0 {
            return;
        }
        if self.intervals.len() == KEPT
            && let Some(oldest) = self.intervals.pop_front()
        {
            self.since = oldest.end;
        }
        self.intervals.push_back(interval);
    }

    fn within(&self, window: Interval) -> impl Iterator<Item = Interval> + '_ {
        let first = self.intervals.partition_point(|interval| interval.end <= window.begin);
        self.intervals.range(first..).take_while(move |interval| interval.begin < window.end).map(
            move |interval| Interval::new(interval.begin.max(window.begin), interval.end.min(window.end)),
        )
    }
}

/// Everything that is known about one thread.
#[derive(Debug)]
pub struct Timeline {
    tracks: [Track; ThreadState::COUNT],
    /// Time that the hypervisor took from the thread's core, somewhere within an interval.
    stolen: VecDeque<(Interval, u64)>,
    /// What the processor's counters say about the thread. Two samples overlap by one reading at most.
    counted: VecDeque<(Interval, UserCounts)>,
    steal_is_accounted: bool,
}

/// How much the hypervisor took around a window, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StealEstimate {
    /// The least that lies within the window.
    pub least: u64,
    /// The most that lies within the window.
    pub most: u64,
    /// The total in the samples that touch the window.
    pub nearby: u64,
}

/// What the thread executed in user mode, by the processor's counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UserCounts {
    /// Cycles of the core.
    pub cycles: u64,
    /// Instructions that were retired.
    pub instructions: u64,
}

/// What the counters say about the samples that lie wholly within a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Counted {
    /// The time that the thread was on its core in these samples.
    pub(super) on_core_ns: u64,
    pub(super) cycles: u64,
    pub(super) instructions: u64,
}

/// Samples of stolen time, and of counters, that are kept.
const SAMPLES_KEPT: usize = 1 << 10;

impl Timeline {
    /// A timeline that is complete from `since` on, and unknown before.
    pub fn new(since: u64) -> Self {
        let mut tracks = <[Track; ThreadState::COUNT]>::default();
        for track in &mut tracks {
            // A busy machine soon reaches the bound, so the memory is reserved now.
            track.intervals.reserve_exact(KEPT);
            track.since = since;
        }
        Self {
            tracks,
            stolen: VecDeque::with_capacity(SAMPLES_KEPT),
            counted: VecDeque::with_capacity(SAMPLES_KEPT),
            steal_is_accounted: false,
        }
    }

    /// Declares that this machine's hypervisor reports when it takes a core. Time that is not passed to
    /// [`Timeline::add_stolen`] was not taken by it then.
    pub fn rely_on_steal(&mut self) {
        self.steal_is_accounted = true;
    }

    pub(super) fn steal_is_accounted(&self) -> bool {
        self.steal_is_accounted
    }

    /// Notes that the hypervisor took `nanos` from the thread's core, somewhere within `sample`.
    pub fn add_stolen(&mut self, sample: Interval, nanos: u64) {
        self.steal_is_accounted = true;
        if self.stolen.len() == SAMPLES_KEPT {
            self.stolen.pop_front();
        }
        self.stolen.push_back((sample, nanos));
    }

    /// Notes what the thread executed in user mode within `sample`.
    pub fn add_counted(&mut self, sample: Interval, counts: UserCounts) {
        if self.counted.len() == SAMPLES_KEPT {
            self.counted.pop_front();
        }
        self.counted.push_back((sample, counts));
    }

    /// What the counters say about the samples that lie wholly within a window. A sample at its edge would
    /// count other work as well.
    pub(super) fn counted(&self, window: Interval) -> Counted {
        let within = self
            .counted
            .iter()
            .filter(|(sample, _)| sample.begin >= window.begin && sample.end <= window.end);
        within.fold(Counted::default(), |sum, (sample, counts)| {
            let on_core = self.cut(*sample).into_iter().filter(|segment| {
                !segment.is(ThreadState::Preempted)
                    && !segment.is(ThreadState::Asleep)
                    && !segment.is(ThreadState::SwitchesUnknown)
            });
            Counted {
                on_core_ns: sum.on_core_ns + on_core.map(|segment| segment.interval.length()).sum::<u64>(),
                cycles: sum.cycles + counts.cycles,
                instructions: sum.instructions + counts.instructions,
            }
        })
    }

    /// How much the hypervisor took within and around a window.
    pub fn stolen(&self, window: Interval) -> StealEstimate {
        let first = self.stolen.partition_point(|(sample, _)| sample.end <= window.begin);
        let touching = self.stolen.range(first..).take_while(|(sample, _)| sample.begin < window.end);
        touching.fold(StealEstimate::default(), |sum, (sample, nanos)| {
            let within = Interval::new(sample.begin.max(window.begin), sample.end.min(window.end)).length();
            let outside = sample.length() - within;
            StealEstimate {
                least: sum.least + nanos.saturating_sub(outside),
                most: sum.most + within.min(*nanos),
                nearby: sum.nearby + nanos,
            }
        })
    }

    /// Whether two windows touch the same sample of stolen time.
    pub(super) fn share_a_sample(&self, one: Interval, other: Interval) -> bool {
        self.stolen.iter().rev().take_while(|(sample, _)| sample.end > one.begin.min(other.begin)).any(
            |(sample, _)| {
                let touches = |window: Interval| sample.begin < window.end && sample.end > window.begin;
                touches(one) && touches(other)
            },
        )
    }

    /// Adds a gap that the guard's thread has seen, except for the parts that its own timeline explains: a
    /// guard that was preempted or asleep has seen no gap of the platform.
    pub fn add_gap(&mut self, gap: Interval, guard: &Timeline) {
        for segment in guard.cut(gap) {
            let explained = [ThreadState::Preempted, ThreadState::Asleep, ThreadState::SwitchesUnknown]
                .map(|kind| segment.is(kind));
            if !explained.contains(&true) && segment.interval.length() >= NOTABLE_GAP.0 {
                self.add(ThreadState::PlatformGap, segment.interval);
            }
        }
    }

    /// Declares that nothing is known about switches and faults before this instant.
    pub fn forget_before(&mut self, since: u64) {
        for kind in
            [ThreadState::Preempted, ThreadState::Asleep, ThreadState::MinorFault, ThreadState::MajorFault]
        {
            self.tracks[kind as usize].since = since;
        }
    }

    /// Adds an interval. Intervals of one kind must come in the order of their ends.
    pub fn add(&mut self, kind: ThreadState, interval: Interval) {
        self.tracks[kind as usize].push(interval);
    }

    /// Extends the latest interval of a kind if the pause since its end is shorter than `pause`. Otherwise
    /// adds a new one.
    pub(super) fn extend(&mut self, kind: ThreadState, interval: Interval, pause: u64) {
        let track = &mut self.tracks[kind as usize];
        match track.intervals.back_mut() {
            Some(last) if interval.begin < last.end.saturating_add(pause) => {
                last.end = last.end.max(interval.end)
            }
            _ => track.push(interval),
        }
    }

    /// Cuts a window into segments, in order, so that nothing changes within a segment. Together they are the
    /// window.
    pub fn cut(&self, window: Interval) -> Vec<Segment> {
        let mut edges: Vec<(u64, ThreadState, i32)> = Vec::new();
        let mut put = |kind, interval: Interval| {
            edges.push((interval.begin, kind, 1));
            edges.push((interval.end, kind, -1));
        };
        for kind in ThreadState::ALL {
            let track = &self.tracks[kind as usize];
            if let (true, Some(unknown)) = (track.since > window.begin, kind.forgotten()) {
                put(unknown, Interval::new(window.begin, track.since.min(window.end)));
            }
            track.within(window).for_each(|interval| put(kind, interval));
        }
        edges.sort_unstable_by_key(|(at, ..)| *at);
        let mut segments = Vec::with_capacity(edges.len() + 1);
        let mut depth = [0i32; ThreadState::COUNT];
        let mut from = window.begin;
        for (at, kind, step) in edges {
            if at > from {
                segments
                    .push(Segment { interval: Interval::new(from, at), holds: depth.map(|depth| depth > 0) });
                from = at;
            }
            depth[kind as usize] += step;
        }
        if window.end > from {
            segments.push(Segment {
                interval: Interval::new(from, window.end),
                holds: depth.map(|depth| depth > 0),
            });
        }
        segments
    }

    /// How many intervals of this kind touch the window.
    pub fn count(&self, kind: ThreadState, window: Interval) -> u64 {
        self.tracks[kind as usize].within(window).count() as u64
    }
}

/// A part of a window within which nothing changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Its time.
    pub interval: Interval,
    holds: [bool; ThreadState::COUNT],
}

impl Segment {
    /// Whether this holds in the segment.
    pub fn is(&self, kind: ThreadState) -> bool {
        self.holds[kind as usize]
    }
}
