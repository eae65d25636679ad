//! When a thread was off its core or in a page fault, read from the kernel's records.
//!
//! The records are perf's software events, each stamped on `CLOCK_MONOTONIC`: every context switch, with
//! whether the thread was preempted; the beginning of every page fault; and its end, with whether the disk
//! was needed. The kernel writes them into memory that another thread reads, so the watched thread does no
//! work for it. `perf_event_paranoid` = 2, the kernel's default, allows this for the process's own threads
//! without a privilege. Some distributions set 3 or more; then `CAP_PERFMON` is needed.
//!
//! Time that the hypervisor takes shows in the thread's processor time, if the hypervisor accounts for it:
//! time that passed on the core and was not charged to the thread was stolen.

use super::attribution::{Interval, ThreadState, Timeline};
use super::user_counters::UserCounters;
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

/// Whether this machine's hypervisor has ever reported that it took a core. One that has not may be unable to
/// report it, or may never have taken one.
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
    /// When the thread last left its core, and whether it was preempted. `None` while it is on the core.
    off_since: Option<(u64, bool)>,
    /// Beginnings of faults that have not ended.
    open_faults: VecDeque<u64>,
    ends: Vec<(u64, ThreadState)>,
    /// Until when each kind of record is complete.
    switches_until: u64,
    faults_until: u64,
    lost: u64,
    processor: Option<ThreadClock>,
    /// The processor's counters, or why they cannot be had.
    counters: Result<UserCounters, io::Error>,
    /// Wall time and processor time when both were last read.
    charged: Option<(u64, u64)>,
}

/// Bytes of the kernel's buffers: 10,000 switches and 16,000 page faults between two reads. On two cores they
/// stay below the memory that the kernel lets every user lock for this (`perf_event_mlock_kb` for each core).
const SWITCH_BYTES: usize = 64 * 4096;
const FAULT_BYTES: usize = 64 * 4096;
const MAJOR_BYTES: usize = 4 * 4096;
/// Wall time and processor time cannot be read at one instant. A reading that took longer than this is
/// discarded.
const READING: u64 = 20_000;
/// Less stolen time than this is noise; each switch adds [`OF_A_SWITCH`], since the kernel charges it
/// imprecisely.
const LEAST_STOLEN: u64 = 50_000;
const OF_A_SWITCH: u64 = 3_000;
/// The longest record that is asked for. A buffer with less room than this may have lost one.
const LONGEST_RECORD: usize = 64;

const LOST: u32 = 2;
const SAMPLE: u32 = 9;
const LOST_SAMPLES: u32 = 13;
const SWITCH: u32 = 14;
/// Bits of a switch record: the thread leaves its core; it was preempted.
const SWITCH_OUT: u16 = 1 << 13;
const SWITCH_OUT_PREEMPT: u16 = 1 << 14;

/// A record of the kernel, decoded.
enum PerfRecord {
    /// An event, or a switch with its bits.
    Event(u64, u16),
    /// This many records were lost before this instant.
    Lost(u64, u64),
    Other,
}

impl ThreadWatch {
    /// Watches the calling thread from now on. Another thread may read the watch.
    ///
    /// # Errors
    /// Fails if the kernel refuses: perf is restricted, filtered or not built in.
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
            counters: UserCounters::of_this_thread(),
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

    /// The instant from which on the thread is watched.
    pub fn since(&self) -> Nanos {
        Nanos(self.switches_until)
    }

    /// Records that the kernel lost.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Why the processor's counters cannot be read; `None` if they can.
    pub fn why_uncounted(&self) -> Option<&io::Error> {
        self.counters.as_ref().err()
    }

    /// Reads the processor's counters, if there are any. The caller must have drained the records.
    pub fn count(&mut self, timeline: &mut Timeline) {
        if let Ok(counters) = &mut self.counters
            && let Some((sample, counts)) = counters.read()
        {
            timeline.add_counted(sample, counts);
        }
    }

    /// Ends a series of readings.
    pub fn stop_counting(&mut self) {
        if let Ok(counters) = &mut self.counters {
            counters.stop();
        }
    }

    /// Moves the records onto the timeline. It is complete up to the instant of the call afterwards.
    pub fn drain(&mut self, timeline: &mut Timeline) {
        let charged = self.read_charged();
        let now = MonotonicClock.now().0;
        self.drain_switches(timeline, now);
        self.drain_faults(timeline, now);
        if let Some(charged) = charged {
            self.note_stolen(timeline, charged);
        }
    }

    /// Wall time and the thread's processor time, as close to one instant as possible.
    fn read_charged(&self) -> Option<(u64, u64)> {
        let processor = self.processor?;
        let before = MonotonicClock.now();
        let used = processor.used()?;
        let after = MonotonicClock.now();
        (after.since(before).0 <= READING).then_some((before.0 + after.since(before).0 / 2, used.0))
    }

    /// Notes the time on the core since the last reading that was not charged to the thread.
    fn note_stolen(&mut self, timeline: &mut Timeline, charged: (u64, u64)) {
        let Some(last) = self.charged.replace(charged) else { return };
        let sample = Interval::new(last.0, charged.0);
        let used = charged.1.saturating_sub(last.1);
        let mut on_core = 0;
        let mut switches = 0;
        for segment in timeline.cut(sample) {
            if segment.is(ThreadState::SwitchesUnknown) {
                return;
            }
            if segment.is(ThreadState::Preempted) || segment.is(ThreadState::Asleep) {
                switches += 1;
            } else {
                on_core += segment.interval.length();
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
        let may_have_lost = each_record(&mut self.switches, SWITCH_BYTES, |record| match record {
            PerfRecord::Event(at, bits) => {
                if bits & SWITCH_OUT != 0 {
                    *off_since = Some((at, bits & SWITCH_OUT_PREEMPT != 0));
                } else if let Some((begin, preempted)) = off_since.take() {
                    timeline.add(off_core(preempted), Interval::new(begin, at));
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
        } else if let Some((begin, preempted)) = self.off_since {
            // The thread is off its core now: the time until now is noted.
            timeline.add(off_core(preempted), Interval::new(begin, now));
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
        // Ends are drained before beginnings, so that every drained end has a drained beginning.
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
            let may_have_lost = each_record(sampler, bytes, |record| match record {
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
        self.pair_faults(timeline);
        if let Some(unknown) = unknown {
            timeline.add(ThreadState::FaultsUnknown, unknown);
        }
        self.faults_until = self.faults_until.max(now);
    }

    /// Adds each fault whose beginning and end were drained to the timeline.
    fn pair_faults(&mut self, timeline: &mut Timeline) {
        self.ends.sort_unstable_by_key(|(at, _)| *at);
        let mut ends = self.ends.iter().peekable();
        while let Some(begin) = self.open_faults.front().copied() {
            while ends.next_if(|(at, _)| *at < begin).is_some() {}
            let Some((end, kind)) = ends.peek().copied() else { break };
            self.open_faults.pop_front();
            // A fault that did not end with a page has no end record. It was over when the next one began.
            if self.open_faults.front().is_some_and(|next| next < end) {
                continue;
            }
            ends.next();
            timeline.add(*kind, Interval::new(begin, *end));
        }
        // At most one fault can be open, unless records were lost.
        while self.open_faults.len() > 1 {
            self.open_faults.pop_front();
        }
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

/// Passes every record in the buffer to `take`. Returns whether the buffer was so full that records may have
/// been lost without a notice.
fn each_record(sampler: &mut Sampler, bytes: usize, mut take: impl FnMut(PerfRecord)) -> bool {
    let mut read = 0;
    // The kernel may write while this reads. At most one buffer's length is read; the rest waits for the next
    // call.
    while read < bytes {
        let Some(record) = sampler.next_record() else { break };
        read += record.len() + size_of::<u64>();
        // The words of a record. The last one is its time.
        let mut words = [0u64; 8];
        let data = record.to_contiguous();
        let count = (data.len() / 8).min(words.len());
        for (word, eight) in words.iter_mut().zip(data.chunks_exact(8)) {
            *word = u64::from_ne_bytes(eight.try_into().expect("chunks of eight bytes"));
        }
        let at = if count > 0 { words[count - 1] } else { 0 };
        take(match record.ty() {
            SAMPLE => PerfRecord::Event(words[0], 0),
            SWITCH => PerfRecord::Event(at, record.misc()),
            // Event number, count, time.
            LOST => PerfRecord::Lost(words[1], at),
            LOST_SAMPLES => PerfRecord::Lost(words[0], at),
            _ => PerfRecord::Other,
        });
    }
    read + LONGEST_RECORD > bytes
}
