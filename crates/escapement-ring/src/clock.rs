//! Time is a parameter: all other code takes a [`Clock`]. Only this file asks the machine for the time.
//!
//! Every stamp in rings and records lies on the timeline of the kernel's `CLOCK_MONOTONIC`, in nanoseconds.
//! So stamps of different processes on one machine can be subtracted. Reading the time-stamp counter is about
//! three times cheaper than `clock_gettime`. [`TscClock`] maps the counter onto that timeline, and
//! [`Clock::discipline`] keeps it there: the kernel slews `CLOCK_MONOTONIC` by NTP, and a fixed rate would
//! drift by milliseconds an hour.

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
    #[inline]
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros.saturating_mul(1_000))
    }

    /// A whole number of milliseconds.
    #[inline]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis.saturating_mul(1_000_000))
    }

    /// The time from `earlier` to this instant; zero if `earlier` is later.
    #[inline]
    pub const fn since(self, earlier: Self) -> Self {
        Self(self.0.saturating_sub(earlier.0))
    }

    /// This instant plus `distance`, saturating.
    #[inline]
    pub const fn plus(self, distance: Self) -> Self {
        Self(self.0.saturating_add(distance.0))
    }

    /// The same distance as a standard `Duration`.
    #[inline]
    pub const fn to_duration(self) -> Duration {
        Duration::from_nanos(self.0)
    }
}

/// A source of [`Nanos`] that never goes backwards.
pub trait Clock {
    /// The present instant. Everything that the program did earlier is done by then.
    fn now(&self) -> Nanos;

    /// The present instant, as the start of an interval that a later [`Clock::now`] ends. May be cheaper than
    /// [`Clock::now`]: it may be read a little before earlier work is done, but never after later work is
    /// visible. So an interval can come out too long, never too short.
    #[inline]
    fn begin(&self) -> Nanos {
        self.now()
    }

    /// Compares with the kernel's clock and corrects the rate. Must be called between ticks, never inside
    /// one, so that no interval sees a change of rate.
    ///
    /// # Errors
    /// Fails if this clock went back, or runs so far ahead of the kernel's that it could return only by going
    /// back.
    fn discipline(&mut self) -> Result<(), ClockFault> {
        Ok(())
    }
}

/// Why a clock cannot be trusted any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ClockFault {
    /// The counter is lower than at the last correction. Readings stand still until it is there again.
    #[error("the time-stamp counter went back")]
    WentBack,
    /// The clock reads far more than the kernel's.
    #[error("the time-stamp counter is {ns} ns ahead of CLOCK_MONOTONIC")]
    Ahead {
        /// By how much, in nanoseconds.
        ns: u64,
    },
}

/// A clock that other threads can follow.
pub trait LeadingClock: Clock {
    /// The clock that reads the same timeline on another thread.
    type Follower: Clock;

    /// Returns a clock for another thread that agrees with this one at every instant, also across
    /// corrections. Two clocks that are disciplined independently can differ by what the kernel slewed since
    /// the last correction of either.
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
    #[inline]
    fn now(&self) -> Nanos {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        // The monotonic clock starts at boot and is never negative; the casts keep the value.
        Nanos(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
    }
}

impl MonotonicClock {
    /// Sleeps until `due` or until a signal comes. Returns at once if `due` is past. The kernel may wake the
    /// thread late; [`MonotonicClock::sleep_exactly`] makes that shorter.
    pub fn sleep_until(self, due: Nanos) {
        let time = rustix::time::Timespec {
            tv_sec: (due.0 / 1_000_000_000) as i64,
            tv_nsec: (due.0 % 1_000_000_000) as i64,
        };
        // With a valid clock and time the only possible error is an interruption. The caller looks again.
        let _ = rustix::thread::clock_nanosleep_absolute(rustix::thread::ClockId::Monotonic, &time);
    }

    /// Asks the kernel not to delay the calling thread's wake-ups. By default it groups wake-ups within 50
    /// us. If the kernel refuses, sleeps are less exact, and nothing else changes.
    pub fn sleep_exactly(self) {
        let _ = rustix::thread::set_current_timer_slack(core::num::NonZeroU64::new(1));
    }
}

/// The processor time that one thread has used. Any thread of the process can read it. It leaves out time
/// that the hypervisor took, if the hypervisor reports it.
#[derive(Debug, Clone, Copy)]
pub struct ThreadClock(libc::clockid_t);

impl ThreadClock {
    /// The calling thread's clock; `None` if the system has none.
    pub fn of_this_thread() -> Option<Self> {
        let mut id = 0;
        // SAFETY: the calling thread exists, and the pointer is that of a live integer of the right type.
        let result = unsafe { libc::pthread_getcpuclockid(libc::pthread_self(), &raw mut id) };
        (result == 0).then_some(Self(id))
    }

    /// The time used so far; `None` once the thread has ended.
    pub fn used(self) -> Option<Nanos> {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the pointer is that of a live timespec; a clock that is gone is an error, not undefined.
        let result = unsafe { libc::clock_gettime(self.0, &raw mut time) };
        (result == 0).then_some(Nanos(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64))
    }
}

/// The wall clock, in nanoseconds since the Unix epoch. For stamps that people read and for `ts_event_ns`;
/// never for a deadline.
pub fn wall_clock_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    time.tv_sec.max(0) as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Formats an instant of [`wall_clock_ns`] as RFC 3339, in UTC, to the nanosecond.
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

    /// Moves the clock, and every clone of it, to this instant: also back, as no real clock may.
    pub fn set(&self, instant: Nanos) {
        self.instant.store(instant.0, Ordering::Relaxed);
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

/// A clone is an independent clock: it is corrected by itself and has its own followers.
#[cfg(target_arch = "x86_64")]
impl Clone for TscClock {
    fn clone(&self) -> Self {
        Self::on(self.timeline)
    }
}

/// The counter on the timeline of a [`TscClock`] that another thread disciplines.
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
    /// How long the first calibration takes.
    const CALIBRATION: Duration = Duration::from_millis(20);

    /// Returns a calibrated clock, or `None` if the kernel does not use the counter as its clock source. The
    /// counter is then not invariant, or not synchronised across cores.
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

    /// Reads the counter and the kernel's clock at one instant. Of five tries it returns the shortest one.
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

/// Reads the counter after every earlier instruction has finished. Without the fence the processor could read
/// it while the policy's last operations still run, and a late action would look punctual.
#[cfg(target_arch = "x86_64")]
#[inline]
fn ordered_counter() -> u64 {
    // SAFETY: both instructions exist on every x86-64 processor (SSE2, TSC) and touch no memory; Linux leaves
    // rdtsc enabled for user space unless a process asks otherwise for itself.
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

    fn discipline(&mut self) -> Result<(), ClockFault> {
        let (mut count, mut true_ns) = Self::paired_reading();
        if self.timeline.check(count, true_ns).is_err() {
            // The thread may have been stopped between the two readings of a pair, so a fault must show
            // twice.
            (count, true_ns) = Self::paired_reading();
            self.timeline.check(count, true_ns)?;
        }
        self.timeline.correct(count, true_ns);
        self.published.publish(&self.timeline);
        Ok(())
    }
}

/// The best clock of this machine, chosen once.
#[derive(Debug, Clone)]
pub enum MachineClock {
    /// The time-stamp counter, where the kernel trusts it.
    #[cfg(target_arch = "x86_64")]
    Tsc(TscClock),
    /// The kernel's clock otherwise.
    Monotonic(MonotonicClock),
}

impl MachineClock {
    /// Chooses the clock. Takes 20 ms if it calibrates the counter.
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

/// The follower of a [`MachineClock`].
#[derive(Debug, Clone)]
pub enum FollowingClock {
    /// The counter, on another thread's timeline.
    #[cfg(target_arch = "x86_64")]
    Tsc(FollowingTsc),
    /// The kernel's clock, which is the same for all threads.
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

    fn discipline(&mut self) -> Result<(), ClockFault> {
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
            clock.discipline().unwrap();
        }
        // The two clocks cannot be read at one instant, so bracket: kernel, ours, kernel. The slack allows
        // for the calibration error of one interval.
        let before = MonotonicClock.now();
        let ours = clock.now();
        let after = MonotonicClock.now();
        let slack = Nanos::from_micros(200);
        assert!(ours.plus(slack) >= before, "{ours:?} is far before {before:?}");
        assert!(after.plus(slack) >= ours, "{ours:?} is far after {after:?}");
    }

    /// An interval may come out too long, but never negative.
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
