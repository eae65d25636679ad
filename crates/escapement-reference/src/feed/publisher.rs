//! The publishing loop: take the next observation, wait until it is due, publish it, and record the lag.

use super::fault::{Drawn, Fault, Injector};
use super::schedule::Schedule;
use super::source::{Source, Timed};
use crate::ReferenceError;
use crate::progress::ProgressLine;
use crate::stop::StopSignals;
use escapement_engine::telemetry::{Histogram, Percentiles};
use escapement_ring::clock::{Clock, MonotonicClock, Nanos};
use escapement_ring::directory::{AgentDirectory, RingFile};
use escapement_ring::feed::Feed;
use escapement_ring::ring::{ClaimError, Region};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a feed does when the ring is full. It never delays the schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum OnFull {
    /// Wait for room: every observation is published, as late as that may be
    Wait,
    /// Drop the observation: the agent sees a gap in the sequence numbers
    Drop,
}

/// What is published, and how.
pub struct Plan {
    /// Where observations come from.
    pub source: Source,
    /// When each is due.
    pub schedule: Schedule,
    /// What spoils them.
    pub injector: Injector,
    /// What happens when the ring is full.
    pub on_full: OnFull,
    /// Observations after which the feed ends.
    pub count: Option<u64>,
    /// The time after which no observation is due any more.
    pub span: Option<Nanos>,
    /// Whether to wait by burning a core instead of sleeping.
    pub spin: bool,
}

/// The report of a feed.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct FeedReport {
    /// Observations committed, including duplicates made on purpose.
    pub published: u64,
    /// Observations that found the ring full and were dropped.
    pub dropped: u64,
    /// Observations that found the ring full and had to wait.
    pub waited: u64,
    /// Observations that the agent left in a ring that it replaced.
    pub abandoned: u64,
    /// How often the agent has replaced its rings.
    pub rings_replaced: u64,
    /// Faults made on purpose, by kind.
    pub faults: BTreeMap<String, u64>,
    /// The lag: how long after its due time each observation was committed.
    pub lag_ns: Percentiles,
    /// From the first observation's due time to the end.
    pub elapsed_ns: u64,
}

/// The longest sleep. Heartbeats and signals are handled between sleeps.
const LONGEST_SLEEP: Nanos = Nanos::from_millis(20);
/// The interval of this feed's heartbeat.
const BEAT_EVERY: Nanos = Nanos::from_micros(500);
/// How long to wait before looking at a full ring again.
const FULL_SLEEP: Nanos = Nanos::from_micros(100);
/// After this long without the agent's heartbeat, the feed checks whether the agent has new rings.
const SILENT_AFTER: Nanos = Nanos::from_millis(50);

/// A running feed.
pub struct Publisher<'a> {
    directory: &'a AgentDirectory,
    stop: &'a mut StopSignals,
    feed: Feed,
    region: Region,
    clock: MonotonicClock,
    next_beat: Nanos,
    next_agent_look: Nanos,
    progress: ProgressLine,
    lag: Histogram,
    report: FeedReport,
}

/// The result of one attempt to publish.
enum Attempt {
    Published(Nanos),
    Dropped,
    /// A stop signal came, or time ran out, while waiting for a free slot.
    GivenUp,
}

impl<'a> Publisher<'a> {
    /// Attaches to the observation ring `region`.
    ///
    /// # Errors
    /// Fails if the ring's positions are impossible.
    pub fn new(
        directory: &'a AgentDirectory,
        stop: &'a mut StopSignals,
        region: Region,
    ) -> Result<Self, ReferenceError> {
        Ok(Self {
            directory,
            stop,
            feed: Feed::attach(region.clone(), MonotonicClock)?,
            region,
            clock: MonotonicClock,
            next_beat: Nanos(0),
            next_agent_look: Nanos(0),
            progress: ProgressLine::new(),
            lag: Histogram::new(),
            report: FeedReport::default(),
        })
    }

    /// Publishes until the plan is done or a signal comes.
    ///
    /// # Errors
    /// Fails if the source cannot be read, the agent breaks the ring's protocol, or its new rings take
    /// another dimension.
    pub fn run(mut self, mut plan: Plan) -> Result<FeedReport, ReferenceError> {
        self.clock.sleep_exactly();
        let mut payload = vec![0.0; self.feed.dimension()];
        let start = self.clock.now();
        let end = plan.span.map(|span| start.plus(span));
        let mut index = 0;
        while plan.count.is_none_or(|count| index < count) {
            let Some(timed) = plan.source.next_into(&mut payload)? else { break };
            let due = start.plus(plan.schedule.due(index, timed.since_first));
            if end.is_some_and(|end| due >= end || self.clock.now() >= end)
                || !self.wait_until(due, plan.spin)?
            {
                break;
            }
            let drawn = plan.injector.draw();
            plan.injector.spoil(drawn, &mut payload);
            match self.publish(&mut plan, drawn, timed, &payload, end)? {
                Attempt::Published(at) => self.lag.record(at.since(due).0),
                Attempt::Dropped => {}
                Attempt::GivenUp => break,
            }
            index += 1;
        }
        self.progress.clear();
        let faults = plan.injector.counts().iter().map(|(name, count)| ((*name).to_owned(), *count));
        self.report.faults = faults.collect();
        self.report.lag_ns = self.lag.percentiles();
        self.report.elapsed_ns = self.clock.now().since(start).0;
        Ok(self.report)
    }

    /// Waits until `due`. Returns false if a stop signal came. Calls `attend` first, so that it is called
    /// even if the feed never waits.
    fn wait_until(&mut self, due: Nanos, spin: bool) -> Result<bool, ReferenceError> {
        loop {
            let now = self.clock.now();
            if !self.attend(now)? {
                return Ok(false);
            }
            if now >= due {
                return Ok(true);
            }
            if spin {
                std::hint::spin_loop();
            } else {
                self.clock.sleep_until(due.min(now.plus(LONGEST_SLEEP)));
            }
        }
    }

    /// Publishes the heartbeat, checks signals, and checks whether the agent is alive. Returns false if a
    /// stop signal came.
    fn attend(&mut self, now: Nanos) -> Result<bool, ReferenceError> {
        if now >= self.next_beat {
            self.next_beat = now.plus(BEAT_EVERY);
            self.feed.beat(now);
        }
        if now >= self.next_agent_look {
            self.next_agent_look = now.plus(SILENT_AFTER);
            if now.since(self.feed.agent_heartbeat()) > SILENT_AFTER {
                self.follow_replaced_ring()?;
            }
            let (report, lag) = (&self.report, &self.lag);
            self.progress.update(now, || {
                let lag = lag.percentiles();
                format!(
                    "feed: {} published, {} dropped, {} waited; lag p50 {} us, max {} us",
                    report.published,
                    report.dropped,
                    report.waited,
                    lag.p50 / 1_000,
                    lag.max / 1_000
                )
            });
        }
        Ok(!self.stop.requested(now))
    }

    /// Moves to the agent's new ring, if it has one. An agent that starts with another geometry replaces its
    /// rings. The feed keeps its sequence numbers.
    fn follow_replaced_ring(&mut self) -> Result<(), ReferenceError> {
        let Ok(region) = self.directory.attach(RingFile::Observations) else { return Ok(()) };
        if region.spec().generation == self.region.spec().generation {
            return Ok(());
        }
        let (old, new) = (self.feed.dimension(), region.spec().dimension);
        if old != new as usize {
            let message = format!("the agent has new rings: they take {new} features, this feed has {old}");
            return Err(ReferenceError::Usage(message));
        }
        let (committed, released) = self.region.positions();
        self.report.abandoned += committed.saturating_sub(released);
        self.report.rings_replaced += 1;
        let mut feed = Feed::attach(region.clone(), MonotonicClock)?;
        feed.set_next_sequence(self.feed.next_sequence());
        (self.feed, self.region) = (feed, region);
        Ok(())
    }

    fn publish(
        &mut self,
        plan: &mut Plan,
        drawn: Drawn,
        timed: Timed,
        payload: &[f32],
        end: Option<Nanos>,
    ) -> Result<Attempt, ReferenceError> {
        if drawn.has(Fault::Gap) {
            self.feed.skip_sequence();
        }
        let mut waited = false;
        let mut committed = None;
        loop {
            let injector = &mut plan.injector;
            let published = self.feed.publish_altered(timed.ts_event_ns, payload, |header| {
                let header = injector.alter(drawn, header, payload);
                committed = Some(header);
                header
            });
            match published {
                Ok(_) => break,
                Err(ClaimError::Violation(violation)) => return Err(violation.into()),
                Err(ClaimError::Full { .. }) if plan.on_full == OnFull::Drop => {
                    self.feed.skip_sequence();
                    self.report.dropped += 1;
                    return Ok(Attempt::Dropped);
                }
                Err(ClaimError::Full { .. }) => {
                    if !std::mem::replace(&mut waited, true) {
                        self.report.waited += 1;
                    }
                    let now = self.clock.now();
                    if !self.attend(now)? || end.is_some_and(|end| now >= end) {
                        return Ok(Attempt::GivenUp);
                    }
                    if plan.spin {
                        std::hint::spin_loop();
                    } else {
                        self.clock.sleep_until(now.plus(FULL_SLEEP));
                    }
                }
            }
        }
        self.report.published += 1;
        let at = self.clock.now();
        if let (true, Some(header)) = (drawn.has(Fault::Duplicate), committed) {
            // The copy is a normal frame except for its number. If the ring is full, there is no copy.
            let repeated = self.feed.publish_altered(timed.ts_event_ns, payload, |fresh| {
                escapement_ring::wire::ObservationHeader { sequence: header.sequence, ..fresh }
                    .sealed(payload)
            });
            match repeated {
                Ok(_) => self.report.published += 1,
                Err(ClaimError::Full { .. }) => plan.injector.retract(Fault::Duplicate),
                Err(ClaimError::Violation(violation)) => return Err(violation.into()),
            }
        }
        Ok(Attempt::Published(at))
    }
}
