//! What is known about the engine's thread: when it was off its core, in a page fault, busy with a tick, and when the
//! platform itself stood still. Everything has a bound; what was forgotten, or never seen, is known as unknown.

use escapement_ring::clock::Nanos;
use std::collections::VecDeque;

/// A gap shorter than this is the kernel's timer tick or an interrupt, and the engine's core has those as well.
pub const NOTABLE_GAP: Nanos = Nanos::from_micros(30);

/// A stretch of time, `begin` up to `end`, in nanoseconds on `CLOCK_MONOTONIC`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Interval {
    /// Its first instant.
    pub begin: u64,
    /// The instant after it.
    pub end: u64,
}

impl Interval {
    /// From one instant up to another; empty where they are the wrong way round.
    pub const fn new(begin: u64, end: u64) -> Self {
        Self { begin, end: if end < begin { begin } else { end } }
    }

    /// Its length.
    pub const fn length(self) -> u64 {
        self.end - self.begin
    }
}

/// What a stretch says about the thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ThreadState {
    /// Off its core although it could have run: the scheduler gave the core to another thread.
    Preempted,
    /// Off its core of its own will: asleep, or waiting.
    Asleep,
    /// In a page fault that needed no disk.
    MinorFault,
    /// In a page fault that needed the disk.
    MajorFault,
    /// The platform stood still, as seen from another core.
    PlatformGap,
    /// The engine was at work on an observation.
    Busy,
    /// Switches are not known.
    SwitchesUnknown,
    /// Page faults are not known.
    FaultsUnknown,
    /// What the engine was at work on is not known.
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

    /// What is unknown where stretches of this kind were forgotten.
    const fn forgotten(self) -> Option<Self> {
        match self {
            Self::Preempted | Self::Asleep | Self::SwitchesUnknown => Some(Self::SwitchesUnknown),
            Self::MinorFault | Self::MajorFault | Self::FaultsUnknown => Some(Self::FaultsUnknown),
            Self::Busy | Self::WorkUnknown => Some(Self::WorkUnknown),
            // A gap is evidence where there is one; that there is none proves nothing anyway.
            Self::PlatformGap => None,
        }
    }
}

/// Stretches of one kind that are kept: at 10,000 of them a second, the last 1.6 s.
const KEPT: usize = 1 << 14;

/// Stretches of one kind, oldest first, none overlapping the next.
#[derive(Debug, Default)]
struct Track {
    stretches: VecDeque<Interval>,
    /// Everything before this was forgotten.
    since: u64,
}

impl Track {
    fn push(&mut self, stretch: Interval) {
        // What was added while it still went on is added again once it has ended: it stays one stretch.
        if let Some(last) = self.stretches.back_mut()
            && stretch.begin < last.end
        {
            last.end = last.end.max(stretch.end);
            return;
        }
        if stretch.length() == 0 {
            return;
        }
        if self.stretches.len() == KEPT
            && let Some(oldest) = self.stretches.pop_front()
        {
            self.since = oldest.end;
        }
        self.stretches.push_back(stretch);
    }

    fn within(&self, window: Interval) -> impl Iterator<Item = Interval> + '_ {
        let first = self.stretches.partition_point(|stretch| stretch.end <= window.begin);
        self.stretches
            .range(first..)
            .take_while(move |stretch| stretch.begin < window.end)
            .map(move |stretch| Interval::new(stretch.begin.max(window.begin), stretch.end.min(window.end)))
    }
}

/// All that is known about one thread.
#[derive(Debug)]
pub struct Timeline {
    tracks: [Track; ThreadState::COUNT],
    /// Time that the hypervisor says it took from the thread's core, somewhere within a stretch.
    stolen: VecDeque<(Interval, u64)>,
    steal_is_accounted: bool,
}

/// What the hypervisor says it took, in nanoseconds, around a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StealEstimate {
    /// At least this much of it lies within the window.
    pub least: u64,
    /// At most this much.
    pub most: u64,
    /// This much there was in all, in the samples that touch the window.
    pub nearby: u64,
}

/// Samples of stolen time that are kept.
const SAMPLES_KEPT: usize = 1 << 10;

impl Timeline {
    /// Knows everything from `since` on, and nothing before.
    pub fn new(since: u64) -> Self {
        let mut tracks = <[Track; ThreadState::COUNT]>::default();
        for track in &mut tracks {
            // The bound is reached before long on a busy machine; better now than while something waits.
            track.stretches.reserve_exact(KEPT);
            track.since = since;
        }
        Self { tracks, stolen: VecDeque::with_capacity(SAMPLES_KEPT), steal_is_accounted: false }
    }

    /// This machine's hypervisor says when it takes a core: what is not in [`Timeline::add_stolen`] was not taken by it.
    pub fn rely_on_steal(&mut self) {
        self.steal_is_accounted = true;
    }

    pub(super) fn steal_is_accounted(&self) -> bool {
        self.steal_is_accounted
    }

    /// Somewhere within `sample`, the hypervisor took `nanos` from the thread's core.
    pub fn add_stolen(&mut self, sample: Interval, nanos: u64) {
        self.steal_is_accounted = true;
        if self.stolen.len() == SAMPLES_KEPT {
            self.stolen.pop_front();
        }
        self.stolen.push_back((sample, nanos));
    }

    /// What was taken within and around a window.
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

    /// Whether two windows touch a sample of stolen time in common.
    pub(super) fn share_a_sample(&self, one: Interval, other: Interval) -> bool {
        self.stolen.iter().rev().take_while(|(sample, _)| sample.end > one.begin.min(other.begin)).any(
            |(sample, _)| {
                let touches = |window: Interval| sample.begin < window.end && sample.end > window.begin;
                touches(one) && touches(other)
            },
        )
    }

    /// Adds the gaps that the guard's thread has seen, except for what its own timeline explains: a guard that another
    /// thread took the core from, or that was asleep, has seen no gap of the platform's.
    pub fn add_gap(&mut self, gap: Interval, guard: &Timeline) {
        for piece in guard.cut(gap) {
            let explained = [ThreadState::Preempted, ThreadState::Asleep, ThreadState::SwitchesUnknown]
                .map(|kind| piece.is(kind));
            if !explained.contains(&true) && piece.stretch.length() >= NOTABLE_GAP.0 {
                self.add(ThreadState::PlatformGap, piece.stretch);
            }
        }
    }

    /// Nothing is known about switches and faults before this instant.
    pub fn forget_before(&mut self, since: u64) {
        for kind in
            [ThreadState::Preempted, ThreadState::Asleep, ThreadState::MinorFault, ThreadState::MajorFault]
        {
            self.tracks[kind as usize].since = since;
        }
    }

    /// Adds a stretch. Those of one kind come in the order of their ends.
    pub fn add(&mut self, kind: ThreadState, stretch: Interval) {
        self.tracks[kind as usize].push(stretch);
    }

    /// Adds time to the latest stretch of a kind where the pause since is shorter than `pause`, else begins a new one.
    pub(super) fn extend(&mut self, kind: ThreadState, stretch: Interval, pause: u64) {
        let track = &mut self.tracks[kind as usize];
        match track.stretches.back_mut() {
            Some(last) if stretch.begin < last.end.saturating_add(pause) => {
                last.end = last.end.max(stretch.end)
            }
            _ => track.push(stretch),
        }
    }

    /// Cuts a window into pieces in each of which the same holds all the time, in their order; together they are the
    /// window.
    pub fn cut(&self, window: Interval) -> Vec<Segment> {
        let mut edges: Vec<(u64, ThreadState, i32)> = Vec::new();
        let mut put = |kind, stretch: Interval| {
            edges.push((stretch.begin, kind, 1));
            edges.push((stretch.end, kind, -1));
        };
        for kind in ThreadState::ALL {
            let track = &self.tracks[kind as usize];
            if let (true, Some(unknown)) = (track.since > window.begin, kind.forgotten()) {
                put(unknown, Interval::new(window.begin, track.since.min(window.end)));
            }
            track.within(window).for_each(|stretch| put(kind, stretch));
        }
        edges.sort_unstable_by_key(|(at, ..)| *at);
        let mut pieces = Vec::with_capacity(edges.len() + 1);
        let mut depth = [0i32; ThreadState::COUNT];
        let mut from = window.begin;
        for (at, kind, step) in edges {
            if at > from {
                pieces
                    .push(Segment { stretch: Interval::new(from, at), holds: depth.map(|depth| depth > 0) });
                from = at;
            }
            depth[kind as usize] += step;
        }
        if window.end > from {
            pieces.push(Segment {
                stretch: Interval::new(from, window.end),
                holds: depth.map(|depth| depth > 0),
            });
        }
        pieces
    }

    /// How many stretches of this kind touch the window.
    pub fn count(&self, kind: ThreadState, window: Interval) -> u64 {
        self.tracks[kind as usize].within(window).count() as u64
    }
}

/// A part of a window in which the same holds all the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// When.
    pub stretch: Interval,
    holds: [bool; ThreadState::COUNT],
}

impl Segment {
    /// Whether this holds in it.
    pub fn is(&self, kind: ThreadState) -> bool {
        self.holds[kind as usize]
    }
}
