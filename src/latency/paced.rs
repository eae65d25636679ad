//! One call for each observation that arrives. In between the thread waits as the engine does.

use super::caller::Caller;
use super::keep_warm::{KeepWarmUse, Warmer};
use super::series::{Collector, Series, excess_of_busy_loop};
use super::{LatencyError, Observer};
use escapement_engine::KeepWarm;
use escapement_engine::telemetry::Percentiles;
use escapement_ring::clock::{Clock, Nanos};
use escapement_ring::ring::{Consumer, Header};
use escapement_ring::wire::ObservationHeader;
use zerocopy::IntoBytes;

/// How calls are paced.
pub struct Pacing {
    /// When observations arrive.
    pub source: ArrivalSource,
    /// The same in words.
    pub words: String,
    /// How the thread stays warm in between.
    pub keep_warm: KeepWarm,
}

/// When observations arrive, and what they are.
pub enum ArrivalSource {
    /// At these times after the start; the given observations, in turn.
    Scheduled(Vec<Nanos>),
    /// From a ring that another process fills.
    Fed {
        /// The ring. Its observations have the policy's width.
        ring: Consumer,
        /// Where the ring's consumer shows that it is alive.
        header: Header,
        /// How many to answer.
        calls: u64,
        /// The mean time between two.
        gap: Nanos,
    },
}

/// The interval of the heartbeat that the feed sees.
const BEAT_EVERY: Nanos = Nanos::from_micros(500);
/// How often the clock is compared with the kernel's, as in the engine.
const DISCIPLINE_EVERY: Nanos = Nanos::from_millis(100);
/// How often the observer is called without a late call. That cools the core.
const EXPLAIN_EVERY: Nanos = Nanos::from_millis(1_000);
/// A feed that sends nothing for this long, beyond ten times its gap, has failed.
const PATIENCE: Nanos = Nanos::from_millis(5_000);

impl Pacing {
    /// Observations that arrive at these times after the start.
    pub fn scheduled(times: Vec<Nanos>, words: String, keep_warm: KeepWarm) -> Self {
        Self { source: ArrivalSource::Scheduled(times), words, keep_warm }
    }

    /// Whether another process sends the observations.
    pub fn is_fed(&self) -> bool {
        matches!(self.source, ArrivalSource::Fed { .. })
    }
}

impl ArrivalSource {
    fn calls(&self) -> u64 {
        match self {
            Self::Scheduled(times) => times.len() as u64,
            Self::Fed { calls, .. } => *calls,
        }
    }

    /// Discards what has piled up before the start.
    fn begin(&mut self) -> Result<(), LatencyError> {
        if let Self::Fed { ring, .. } = self {
            ring.skip_to_latest()?;
            if let Some(peek) = ring.peek()? {
                peek.release();
            }
        }
        Ok(())
    }

    /// Looks for an observation, and takes it. Returns when it arrived. `index` counts the observations
    /// before.
    #[inline]
    fn poll(
        &mut self,
        caller: &mut Caller<'_>,
        begun: Nanos,
        now: Nanos,
        index: u64,
    ) -> Result<Option<Nanos>, LatencyError> {
        match self {
            Self::Scheduled(times) => {
                let due = begun.plus(times[index as usize]);
                if now < due {
                    return Ok(None);
                }
                caller.take_next();
                Ok(Some(due))
            }
            Self::Fed { ring, .. } => {
                let Some(peek) = ring.peek()? else { return Ok(None) };
                let mut header = ObservationHeader::default();
                peek.read(0, header.as_mut_bytes());
                peek.read(ObservationHeader::BYTES, caller.observation.as_mut_bytes());
                peek.release();
                Ok(Some(Nanos(header.ts_publish_ns)))
            }
        }
    }

    #[inline]
    fn beat(&self, now: Nanos) {
        if let Self::Fed { header, .. } = self {
            header.beat_consumer(now.0);
        }
    }

    /// Returns about the middle of the gap before the observation `index`: the instant of a hiccup. A core
    /// that was idle until then is as cold as at an observation.
    fn middle_of_gap(&self, begun: Nanos, now: Nanos, index: u64) -> Nanos {
        match self {
            Self::Scheduled(times) => match times.get(index as usize) {
                Some(next) => Nanos(now.0 + begun.plus(*next).0.saturating_sub(now.0) / 2),
                None => now,
            },
            Self::Fed { gap, .. } => now.plus(Nanos(gap.0 / 2)),
        }
    }

    fn patience(&self) -> Option<Nanos> {
        match self {
            Self::Scheduled(_) => None,
            Self::Fed { gap, .. } => Some(PATIENCE.plus(Nanos(gap.0.saturating_mul(10)))),
        }
    }
}

/// Measures one call for each observation that arrives, and what was done to stay warm.
pub(super) fn paced(
    caller: &mut Caller<'_>,
    clock: &mut impl Clock,
    pacing: &mut Pacing,
    deadline: Nanos,
    warm_up: &Percentiles,
    observer: &mut impl Observer,
) -> Result<(Series, KeepWarmUse), LatencyError> {
    let typical = Nanos(warm_up.p50);
    let Pacing { source, keep_warm, .. } = pacing;
    let mut warmer = Warmer::new(*keep_warm, caller, typical, deadline);
    let mut collector = Collector::new(source.calls(), deadline);
    let patience = source.patience();
    observer.explain(warm_up, &[], collector.misses());
    source.begin()?;
    let begun = clock.now();
    let (mut now, mut busy_until, mut answered) = (begun, begun, begun);
    let (mut disciplined, mut explained, mut beaten) = (begun, begun, begun);
    let mut hiccup_at = None;
    while collector.left() > 0 {
        let index = source.calls() - collector.left();
        if let Some(arrived) = source.poll(caller, begun, now, index)? {
            warmer.on_arrival(arrived);
            let call = caller.call(clock)?;
            if !collector.call(call) {
                observer.explain(warm_up, &[call], collector.misses());
            }
            now = clock.now();
            (busy_until, answered) = (now, now);
            hiccup_at = Some(source.middle_of_gap(begun, now, index + 1));
        } else if let Some(ended) = warmer.on_idle(caller, clock, now, busy_until) {
            (now, busy_until) = (ended, ended);
        } else if hiccup_at.is_some_and(|at| now >= at) {
            collector.hiccup(excess_of_busy_loop(clock, typical));
            hiccup_at = None;
            now = clock.now();
        } else if now.since(disciplined) >= DISCIPLINE_EVERY {
            clock.discipline()?;
            if now.since(explained) >= EXPLAIN_EVERY {
                observer.explain(warm_up, &[], collector.misses());
                explained = now;
            }
            if observer.is_over(now) {
                return Err(LatencyError::Interrupted);
            }
            if let Some(patience) = patience.filter(|patience| now.since(answered) > *patience) {
                return Err(LatencyError::NoArrivals(patience));
            }
            disciplined = now;
            now = clock.now();
        } else {
            core::hint::spin_loop();
            now = clock.now();
        }
        if now.since(beaten) >= BEAT_EVERY {
            source.beat(now);
            beaten = now;
        }
    }
    observer.explain(warm_up, &[], collector.misses());
    Ok((collector.finish(), warmer.finish()))
}
