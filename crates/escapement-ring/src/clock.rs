//! L0. Time is a parameter: everything above takes a [`Clock`], and this is the only file that asks the machine.
//!
//! Every stamp in rings and records lies on the timeline of the kernel's `CLOCK_MONOTONIC`, in nanoseconds, so that
//! stamps of different processes on one machine can be subtracted. Reading the time-stamp counter is about three
//! times cheaper than `clock_gettime`; [`TscClock`] maps it onto that timeline and is kept on it by
//! [`Clock::discipline`], because the kernel slews `CLOCK_MONOTONIC` by NTP and a fixed rate would drift off it by
//! milliseconds an hour.

mod timeline;

use crate::sync::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;
use timeline::{PublishedTimeline, Timeline};

/// An instant on the `CLOCK_MONOTONIC` timeline, or a distance between two, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct Nanos(pub u64);

impl Nanos {
    /// A whole number of microseconds.
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros.saturating_mul(1_000))
    }

    /// A whole number of milliseconds.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis.saturating_mul(1_000_000))
    }

    /// How long after `earlier` this is; zero when it is not after it.
    pub const fn since(self, earlier: Self) -> Self {
        Self(self.0.saturating_sub(earlier.0))
    }

    /// This instant moved later by `distance`.
    pub const fn plus(self, distance: Self) -> Self {
        Self(self.0.saturating_add(distance.0))
    }

    /// The same distance as the standard library's type.
    pub const fn to_duration(self) -> Duration {
        Duration::from_nanos(self.0)
    }
}

/// A source of [`Nanos`] that never goes backwards.
pub trait Clock {
    /// The present instant: not before everything that the program did earlier is done.
    fn now(&self) -> Nanos;

    /// The present instant as the beginning of an interval that [`Clock::now`] will end. It may be read a little before
    /// earlier work is done, never after later work is visible, so that an interval comes out too long rather than
    /// too short; where that is cheaper than [`Clock::now`].
    #[inline]
    fn begin(&self) -> Nanos {
        self.now()
    }

    /// Compares with the kernel's clock and corrects the rate. Called between ticks, never inside one: no interval
    /// that is being measured sees a change of rate.
    fn discipline(&mut self) {}
}

/// A clock that others can follow.
pub trait LeadingClock: Clock {
    /// What reads the same timeline on another thread.
    type Follower: Clock;

    /// A clock for another thread that agrees with this one at every instant, also where it is corrected: two clocks that are
    /// each kept on the kernel's timeline may differ by what that was slewed since either was.
    fn follower(&self) -> Self::Follower;
}

/// The kernel's monotonic clock, through the vDSO.
#[derive(Debug, Clone, Copy, Default)]
pub struct MonotonicClock;

impl LeadingClock for MonotonicClock {
    type Follower = Self;

    fn follower(&self) -> Self {
        *self
    }
}

impl Clock for MonotonicClock {
    fn now(&self) -> Nanos {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        // The monotonic clock starts at boot and is never negative; the casts keep the value.
        Nanos(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
    }
}

impl MonotonicClock {
    /// Sleeps until `due`, or until a signal comes; not at all where `due` is past. How late it wakes is up to the
    /// kernel and to [`MonotonicClock::sleep_exactly`].
    pub fn sleep_until(self, due: Nanos) {
        let time = rustix::time::Timespec {
            tv_sec: (due.0 / 1_000_000_000) as i64,
            tv_nsec: (due.0 % 1_000_000_000) as i64,
        };
        // The only error that can come of a valid clock and time is an interruption, and the caller looks again.
        let _ = rustix::thread::clock_nanosleep_absolute(rustix::thread::ClockId::Monotonic, &time);
    }

    /// Asks the kernel not to stretch the calling thread's sleeps: it groups wake-ups within 50 us by default. Where it
    /// refuses, sleeps are that much less exact and nothing else changes.
    pub fn sleep_exactly(self) {
        let _ = rustix::thread::set_current_timer_slack(core::num::NonZeroU64::new(1));
    }
}

/// How much time a processor has spent on one thread; any thread of the process can read it. The kernel leaves out what
/// the hypervisor took, where that one says so.
#[derive(Debug, Clone, Copy)]
pub struct ThreadClock(libc::clockid_t);

impl ThreadClock {
    /// That of the calling thread; `None` where there is no such clock.
    pub fn of_this_thread() -> Option<Self> {
        let mut id = 0;
        // SAFETY: the calling thread exists, and the pointer is that of a live integer of the right type.
        let result = unsafe { libc::pthread_getcpuclockid(libc::pthread_self(), &raw mut id) };
        (result == 0).then_some(Self(id))
    }

    /// The time so far; `None` once the thread is gone.
    pub fn used(self) -> Option<Nanos> {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the pointer is that of a live timespec; a clock that is gone is an error, not undefined.
        let result = unsafe { libc::clock_gettime(self.0, &raw mut time) };
        (result == 0).then_some(Nanos(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64))
    }
}

/// The wall clock in nanoseconds since the Unix epoch: for stamps that people read and for `ts_event_ns`, never for
/// a deadline.
pub fn wall_clock_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    time.tv_sec.max(0) as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// An instant of [`wall_clock_ns`] as people and other programs read it: RFC 3339, UTC, to the nanosecond.
pub fn rfc3339(wall_ns: u64) -> String {
    let instant = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_nanos(wall_ns);
    humantime::format_rfc3339_nanos(instant).to_string()
}

/// A clock that stands still until it is moved. Clones share the instant.
#[derive(Debug, Clone)]
pub struct ManualClock {
    instant: Arc<AtomicU64>,
}

impl ManualClock {
    /// A clock that reads `start` until it is moved.
    pub fn new(start: Nanos) -> Self {
        Self { instant: Arc::new(AtomicU64::new(start.0)) }
    }

    /// Moves the clock, and every clone of it, later by `distance`.
    pub fn advance(&self, distance: Nanos) {
        self.instant.fetch_add(distance.0, Ordering::Relaxed);
    }
}

impl LeadingClock for ManualClock {
    type Follower = Self;

    fn follower(&self) -> Self {
        self.clone()
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Nanos {
        Nanos(self.instant.load(Ordering::Relaxed))
    }
}

/// The invariant time-stamp counter on the timeline of `CLOCK_MONOTONIC`.
#[cfg(target_arch = "x86_64")]
#[derive(Debug)]
pub struct TscClock {
    timeline: Timeline,
    /// The same for followers.
    published: Arc<PublishedTimeline>,
}

/// A copy is a clock of its own, corrected by itself, with followers of its own.
#[cfg(target_arch = "x86_64")]
impl Clone for TscClock {
    fn clone(&self) -> Self {
        Self::on(self.timeline)
    }
}

/// The counter on the timeline that a [`TscClock`] on another thread is kept on.
#[cfg(target_arch = "x86_64")]
#[derive(Debug, Clone)]
pub struct FollowingTsc {
    published: Arc<PublishedTimeline>,
}

#[cfg(target_arch = "x86_64")]
impl Clock for FollowingTsc {
    #[inline]
    fn now(&self) -> Nanos {
        Nanos(self.published.at(ordered_counter()))
    }
}

#[cfg(target_arch = "x86_64")]
impl TscClock {
    /// How long the first calibration looks at both clocks.
    const CALIBRATION: Duration = Duration::from_millis(20);

    /// A calibrated clock, or `None` where the kernel itself does not trust the counter: it is then not invariant,
    /// or not in step across cores.
    pub fn calibrated() -> Option<Self> {
        let source = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
        if std::fs::read_to_string(source).ok()?.trim() != "tsc" {
            return None;
        }
        let first = Self::paired_reading();
        std::thread::sleep(Self::CALIBRATION);
        let second = Self::paired_reading();
        Some(Self::on(Timeline::new(first, second)))
    }

    fn on(timeline: Timeline) -> Self {
        Self { timeline, published: Arc::new(PublishedTimeline::new(&timeline)) }
    }

    /// Counter and kernel clock at one instant: of a few tries, the one during which the least time passed.
    fn paired_reading() -> (u64, u64) {
        let mut best = (u64::MAX, (0, 0));
        for _ in 0..5 {
            let before = ordered_counter();
            let clock = MonotonicClock.now().0;
            let after = ordered_counter();
            let width = after.wrapping_sub(before);
            if width < best.0 {
                best = (width, (before + width / 2, clock));
            }
        }
        best.1
    }
}

/// The counter, read after every earlier instruction has finished: without the fence the processor may read it
/// while the policy's last operations are still under way, and a late action would look punctual.
#[cfg(target_arch = "x86_64")]
#[inline]
fn ordered_counter() -> u64 {
    // SAFETY: both instructions exist on every x86-64 processor (SSE2, TSC) and touch no memory; Linux leaves rdtsc
    // enabled for user space unless a process asks otherwise for itself.
    unsafe {
        core::arch::x86_64::_mm_lfence();
        core::arch::x86_64::_rdtsc()
    }
}

#[cfg(target_arch = "x86_64")]
impl Clock for TscClock {
    #[inline]
    fn now(&self) -> Nanos {
        Nanos(self.timeline.at(ordered_counter()))
    }

    #[inline]
    fn begin(&self) -> Nanos {
        // SAFETY: as in `ordered_counter`.
        Nanos(self.timeline.at(unsafe { core::arch::x86_64::_rdtsc() }))
    }

    fn discipline(&mut self) {
        let (count, true_ns) = Self::paired_reading();
        self.timeline.correct(count, true_ns);
        self.published.publish(&self.timeline);
    }
}

/// The best clock this machine has, chosen once.
#[derive(Debug, Clone)]
pub enum MachineClock {
    /// The time-stamp counter, where the kernel trusts it.
    #[cfg(target_arch = "x86_64")]
    Tsc(TscClock),
    /// The kernel's clock everywhere else.
    Monotonic(MonotonicClock),
}

impl MachineClock {
    /// Chooses and, for the counter, calibrates; takes 20 ms then.
    pub fn new() -> Self {
        #[cfg(target_arch = "x86_64")]
        if let Some(clock) = TscClock::calibrated() {
            return Self::Tsc(clock);
        }
        Self::Monotonic(MonotonicClock)
    }

    /// `tsc` or `clock_monotonic`, for reports.
    pub fn name(&self) -> &'static str {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Tsc(_) => "tsc",
            Self::Monotonic(_) => "clock_monotonic",
        }
    }
}

impl Default for MachineClock {
    fn default() -> Self {
        Self::new()
    }
}

/// What follows a [`MachineClock`].
#[derive(Debug, Clone)]
pub enum FollowingClock {
    /// The counter, on the timeline of another thread's.
    #[cfg(target_arch = "x86_64")]
    Tsc(FollowingTsc),
    /// The kernel's clock, which is the same for all.
    Monotonic(MonotonicClock),
}

impl Clock for FollowingClock {
    #[inline]
    fn now(&self) -> Nanos {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Tsc(clock) => clock.now(),
            Self::Monotonic(clock) => clock.now(),
        }
    }
}

impl LeadingClock for MachineClock {
    type Follower = FollowingClock;

    fn follower(&self) -> FollowingClock {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Tsc(clock) => FollowingClock::Tsc(FollowingTsc { published: Arc::clone(&clock.published) }),
            Self::Monotonic(clock) => FollowingClock::Monotonic(*clock),
        }
    }
}

impl Clock for MachineClock {
    #[inline]
    fn now(&self) -> Nanos {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Tsc(clock) => clock.now(),
            Self::Monotonic(clock) => clock.now(),
        }
    }

    #[inline]
    fn begin(&self) -> Nanos {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Tsc(clock) => clock.begin(),
            Self::Monotonic(clock) => clock.begin(),
        }
    }

    fn discipline(&mut self) {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Tsc(clock) => clock.discipline(),
            Self::Monotonic(clock) => clock.discipline(),
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn machine_clock_lies_on_the_kernels_timeline() {
        let mut clock = MachineClock::new();
        for _ in 0..3 {
            std::thread::sleep(Duration::from_millis(5));
            clock.discipline();
        }
        // The two reads cannot be made at one instant, so bracket: kernel, ours, kernel. The calibration error of
        // one discipline interval is allowed on top, generously.
        let before = MonotonicClock.now();
        let ours = clock.now();
        let after = MonotonicClock.now();
        let slack = Nanos::from_micros(200);
        assert!(ours.plus(slack) >= before, "{ours:?} is far before {before:?}");
        assert!(after.plus(slack) >= ours, "{ours:?} is far after {after:?}");
    }

    /// An interval may come out too long, never negative: its end is not read before its beginning.
    #[test]
    fn an_interval_ends_after_it_begins() {
        let clock = MachineClock::new();
        for _ in 0..100_000 {
            let begun = clock.begin();
            let ended = clock.now();
            assert!(ended >= begun, "{ended:?} before {begun:?}");
        }
    }

    #[test]
    fn manual_clock_moves_only_when_told() {
        let clock = ManualClock::new(Nanos(5));
        let other = clock.clone();
        assert_eq!(clock.now(), Nanos(5));
        other.advance(Nanos(7));
        assert_eq!(clock.now(), Nanos(12));
    }
}
