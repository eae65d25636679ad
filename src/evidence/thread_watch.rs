//! When a thread was off its core and in page faults, as the kernel's own records say.
//!
//! The records are perf's software events: a context switch with whether the thread was preempted, the beginning of each
//! page fault, and its end with whether the disk was needed, each stamped on `CLOCK_MONOTONIC`. The kernel writes them
//! into memory that another thread reads: the thread that is watched does nothing for it. `perf_event_paranoid` of 2,
//! the kernel's default, allows this for one's own threads without a privilege; some distributions set 3 or more, which
//! takes `CAP_PERFMON`.
//!
//! What the hypervisor takes shows in the thread's processor time: where that one accounts for it, time that passed on
//! the core and was not charged to the thread was stolen.

use super::attribution::{Interval, ThreadState, Timeline};
use escapement_ring::clock::{Clock, MonotonicClock, Nanos, ThreadClock};
use perf_event::events::Software;
use perf_event::{Builder, Clock as PerfClock, SampleFlag, Sampler};
use std::collections::VecDeque;
use std::io;

/// Why a thread cannot be watched.
#[derive(Debug, thiserror::Error)]
#[error("the kernel keeps no record of {what}: {source}")]
pub struct WatchError {
    what: &'static str,
    source: io::Error,
}

/// Whether this machine's hypervisor has ever said that it took a core. One that has not may be unable to, or generous.
pub fn steal_is_accounted() -> bool {
    const STEAL: usize = 8;
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let total = text.lines().next().and_then(|line| line.split_whitespace().nth(STEAL)?.parse::<u64>().ok());
    total.is_some_and(|ticks| ticks > 0)
}

/// Reads what the kernel records about one thread.
pub struct ThreadWatch {
    switches: Sampler,
    fault_begins: Sampler,
    minor_ends: Sampler,
    major_ends: Sampler,
    /// Off the core since then, and whether it was preempted.
    off_since: Option<(u64, bool)>,
    /// Beginnings of faults whose end has not come.
    open_faults: VecDeque<u64>,
    ends: Vec<(u64, ThreadState)>,
    /// Up to when each kind of record is known to be complete.
    switches_until: u64,
    faults_until: u64,
    lost: u64,
    processor: Option<ThreadClock>,
    /// Wall time and processor time when both were last read.
    charged: Option<(u64, u64)>,
}

/// Bytes of the kernel's buffers: 10,000 switches and 16,000 page faults between two looks. On two cores they stay below
/// what the kernel lets any user lock for this (`perf_event_mlock_kb`, of each core).
const SWITCH_BYTES: usize = 64 * 4096;
const FAULT_BYTES: usize = 64 * 4096;
const MAJOR_BYTES: usize = 4 * 4096;
/// The clocks of wall and processor cannot be read at one instant; a reading that took longer than this is none.
const READING: u64 = 20_000;
/// Less stolen time than this, and for each switch that the kernel charges as it likes, is noise.
const LEAST_STOLEN: u64 = 50_000;
const OF_A_SWITCH: u64 = 3_000;
/// No record of ours is longer: a buffer with less room than this may have lost one.
const LONGEST_RECORD: usize = 64;

const LOST: u32 = 2;
const SAMPLE: u32 = 9;
const LOST_SAMPLES: u32 = 13;
const SWITCH: u32 = 14;
/// Bits of a switch record: the thread leaves its core; it could have gone on.
const SWITCH_OUT: u16 = 1 << 13;
const SWITCH_OUT_PREEMPT: u16 = 1 << 14;

/// What one record of the kernel says.
enum PerfRecord {
    /// An event, or a switch with its bits.
    Event(u64, u16),
    /// This many records were lost before this instant.
    Lost(u64, u64),
    Other,
}

impl ThreadWatch {
    /// Watches the calling thread from now on; the watch may be read on another one.
    ///
    /// # Errors
    /// When the kernel refuses: perf is restricted, filtered or not built in.
    pub fn of_this_thread() -> Result<Self, WatchError> {
        let now = MonotonicClock.now().0;
        let mut watch = Self {
            switches: open(Software::DUMMY, SWITCH_BYTES, "context switches")?,
            fault_begins: open(Software::PAGE_FAULTS, FAULT_BYTES, "page faults")?,
            minor_ends: open(Software::PAGE_FAULTS_MIN, FAULT_BYTES, "minor page faults")?,
            major_ends: open(Software::PAGE_FAULTS_MAJ, MAJOR_BYTES, "major page faults")?,
            off_since: None,
            open_faults: VecDeque::with_capacity(FAULT_BYTES / 16),
            ends: Vec::with_capacity(FAULT_BYTES / 16),
            switches_until: now,
            faults_until: now,
            lost: 0,
            processor: ThreadClock::of_this_thread(),
            charged: None,
        };
        let samplers =
            [&mut watch.switches, &mut watch.fault_begins, &mut watch.minor_ends, &mut watch.major_ends];
        for sampler in samplers {
            sampler.enable().map_err(|source| WatchError { what: "this thread", source })?;
        }
        watch.switches_until = MonotonicClock.now().0;
        watch.faults_until = watch.switches_until;
        Ok(watch)
    }

    /// From when on the thread is watched.
    pub fn since(&self) -> Nanos {
        Nanos(self.switches_until)
    }

    /// Records that the kernel could not keep.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Moves what was recorded onto the timeline: it is complete up to the instant at which this was called.
    pub fn drain(&mut self, timeline: &mut Timeline) {
        let charged = self.read_charged();
        let now = MonotonicClock.now().0;
        self.drain_switches(timeline, now);
        self.drain_faults(timeline, now);
        if let Some(charged) = charged {
            self.note_stolen(timeline, charged);
        }
    }

    /// Wall time and the thread's processor time at one instant, as nearly as can be had.
    fn read_charged(&self) -> Option<(u64, u64)> {
        let processor = self.processor?;
        let before = MonotonicClock.now();
        let used = processor.used()?;
        let after = MonotonicClock.now();
        (after.since(before).0 <= READING).then_some((before.0 + after.since(before).0 / 2, used.0))
    }

    /// What passed on the core since the last reading and was not charged to the thread.
    fn note_stolen(&mut self, timeline: &mut Timeline, charged: (u64, u64)) {
        let Some(last) = self.charged.replace(charged) else { return };
        let sample = Interval::new(last.0, charged.0);
        let used = charged.1.saturating_sub(last.1);
        let mut on_core = 0;
        let mut switches = 0;
        for piece in timeline.cut(sample) {
            if piece.is(ThreadState::SwitchesUnknown) {
                return;
            }
            if piece.is(ThreadState::Preempted) || piece.is(ThreadState::Asleep) {
                switches += 1;
            } else {
                on_core += piece.stretch.length();
            }
        }
        let stolen = on_core.saturating_sub(used);
        if stolen >= LEAST_STOLEN + OF_A_SWITCH * switches {
            timeline.add_stolen(sample, stolen);
        }
    }

    fn drain_switches(&mut self, timeline: &mut Timeline, now: u64) {
        let mut until = self.switches_until;
        let (off_since, lost) = (&mut self.off_since, &mut self.lost);
        let may_have_lost = each(&mut self.switches, SWITCH_BYTES, |said| match said {
            PerfRecord::Event(at, bits) => {
                if bits & SWITCH_OUT != 0 {
                    *off_since = Some((at, bits & SWITCH_OUT_PREEMPT != 0));
                } else if let Some((began, preempted)) = off_since.take() {
                    timeline.add(off_core(preempted), Interval::new(began, at));
                }
                until = until.max(at);
            }
            PerfRecord::Lost(count, at) => {
                *lost += count;
                timeline.add(ThreadState::SwitchesUnknown, Interval::new(until, at));
                *off_since = None;
                until = until.max(at);
            }
            PerfRecord::Other => {}
        });
        if may_have_lost {
            timeline.add(ThreadState::SwitchesUnknown, Interval::new(until, now));
            self.off_since = None;
        } else if let Some((began, preempted)) = self.off_since {
            // Off the core right now: as much of it as there has been.
            timeline.add(off_core(preempted), Interval::new(began, now));
        }
        self.switches_until = self.switches_until.max(now);
    }

    fn drain_faults(&mut self, timeline: &mut Timeline, now: u64) {
        let from = self.faults_until;
        let mut unknown: Option<Interval> = None;
        let mut forget = |begin: u64, end: u64| {
            let whole = unknown.map_or(Interval::new(begin, end), |known| {
                Interval::new(known.begin.min(begin), known.end.max(end))
            });
            unknown = Some(whole);
        };
        // Ends before beginnings: every end that was drained then has its beginning among those that are drained.
        let ends = &mut self.ends;
        ends.clear();
        let (lost, open_faults) = (&mut self.lost, &mut self.open_faults);
        let sources = [
            (&mut self.minor_ends, FAULT_BYTES, Some(ThreadState::MinorFault)),
            (&mut self.major_ends, MAJOR_BYTES, Some(ThreadState::MajorFault)),
            (&mut self.fault_begins, FAULT_BYTES, None),
        ];
        for (sampler, bytes, end) in sources {
            let mut until = from;
            let may_have_lost = each(sampler, bytes, |said| match said {
                PerfRecord::Event(at, _) => {
                    match end {
                        Some(kind) => ends.push((at, kind)),
                        None => open_faults.push_back(at),
                    }
                    until = until.max(at);
                }
                PerfRecord::Lost(count, at) => {
                    *lost += count;
                    forget(until, at);
                    until = until.max(at);
                }
                PerfRecord::Other => {}
            });
            if may_have_lost {
                forget(until, now);
            }
        }
        ends.sort_unstable_by_key(|(at, _)| *at);
        let mut ends = ends.iter().peekable();
        while let Some(began) = self.open_faults.front().copied() {
            while ends.next_if(|(at, _)| *at < began).is_some() {}
            let Some((ended, kind)) = ends.peek().copied() else { break };
            self.open_faults.pop_front();
            // A fault that ended in something else than a page has no end of its own; it was over when the next began.
            if self.open_faults.front().is_some_and(|next| next < ended) {
                continue;
            }
            ends.next();
            timeline.add(*kind, Interval::new(began, *ended));
        }
        // What is left is one fault that has not ended, unless records were lost.
        while self.open_faults.len() > 1 {
            self.open_faults.pop_front();
        }
        if let Some(unknown) = unknown {
            timeline.add(ThreadState::FaultsUnknown, unknown);
        }
        self.faults_until = self.faults_until.max(now);
    }
}

fn off_core(preempted: bool) -> ThreadState {
    if preempted { ThreadState::Preempted } else { ThreadState::Asleep }
}

fn open(event: Software, bytes: usize, what: &'static str) -> Result<Sampler, WatchError> {
    let mut builder = Builder::new(event);
    builder
        .observe_self()
        .any_cpu()
        .sample(SampleFlag::TIME)
        .sample_id_all(true)
        .clockid(PerfClock::MONOTONIC)
        .wakeup_watermark(bytes);
    if event == Software::DUMMY {
        builder.context_switch(true);
    } else {
        builder.sample_period(1);
    }
    let sampler = builder.build().and_then(|counter| counter.sampled(bytes));
    sampler.map_err(|source| WatchError { what, source })
}

/// Shows every record in the buffer; says whether it was so full that some may have been lost without a word.
fn each(sampler: &mut Sampler, bytes: usize, mut show: impl FnMut(PerfRecord)) -> bool {
    let mut read = 0;
    // The kernel may go on writing while this reads; what it writes beyond one buffer's length is left for next time.
    while read < bytes {
        let Some(record) = sampler.next_record() else { break };
        read += record.len() + size_of::<u64>();
        // Words of a record, the instant being the last one in each of ours.
        let mut words = [0u64; 8];
        let data = record.to_contiguous();
        let count = (data.len() / 8).min(words.len());
        for (word, eight) in words.iter_mut().zip(data.chunks_exact(8)) {
            *word = u64::from_ne_bytes(eight.try_into().expect("chunks of eight bytes"));
        }
        let at = if count > 0 { words[count - 1] } else { 0 };
        show(match record.ty() {
            SAMPLE => PerfRecord::Event(words[0], 0),
            SWITCH => PerfRecord::Event(at, record.misc()),
            // The event's number, how many, when.
            LOST => PerfRecord::Lost(words[1], at),
            LOST_SAMPLES => PerfRecord::Lost(words[0], at),
            _ => PerfRecord::Other,
        });
    }
    read + LONGEST_RECORD > bytes
}
