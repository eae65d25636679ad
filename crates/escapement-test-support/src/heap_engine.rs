//! An engine on heap rings, together with the feed, the gateway and the reader of its records.

use escapement_engine::telemetry::Counters;
use escapement_engine::{
    Backlog, Bounds, BudgetSpec, Deadlines, Engine, KeepWarm, OnFull, OnGap, OnMiss, Parts, Policies,
    Progress, Settings, TickRecord, record_ring,
};
use escapement_policy::{Dimensions, Policy};
use escapement_ring::clock::{Clock, MachineClock, Nanos};
use escapement_ring::ring::{Consumer, HeapRegion, Producer, Region, Spec};
use escapement_ring::wire::{ActionHeader, KIND_ACTION, KIND_OBSERVATION, ObservationHeader};
use std::sync::Arc;
use zerocopy::IntoBytes;

/// The dimensions for which the project quotes its figures.
pub const DIMENSIONS: Dimensions = Dimensions { observation: 32, action: 3 };
/// Slots of each ring, and the number of ticks that one refill allows.
pub const CAPACITY: u64 = 1024;

/// An engine and the other ends of its three rings.
pub struct HeapEngine {
    /// The engine.
    pub engine: Engine<MachineClock>,
    clock: MachineClock,
    feed: Producer,
    gateway: Consumer,
    records: Consumer,
    sequence: u64,
    dry_run_every: u64,
}

fn ring(kind: u32, slot_size: usize, dimension: usize) -> (Region, Producer, Consumer) {
    let (slot_size, dimension) = (slot_size as u32, dimension as u32);
    let spec = Spec { kind, slot_size, dimension, capacity: CAPACITY, generation: 1 };
    HeapRegion::both_ends(spec).expect("the geometry is allowed")
}

/// Settings under which no tick is late, so that every measured tick commits the policy's action.
fn settings() -> Settings {
    Settings {
        enforce: true,
        deadlines: Deadlines {
            inference: Nanos::from_millis(60_000),
            end_to_end: Nanos::from_millis(60_000),
            max_age: Some(Nanos::from_millis(60_000)),
        },
        max_skew: Nanos::from_millis(1),
        on_miss: OnMiss::SafeDefault,
        miss_budget: BudgetSpec { misses: 10, window: 1000 },
        error_budget: BudgetSpec { misses: 10, window: 1000 },
        backlog: Backlog::Every,
        on_full: OnFull::Halt,
        on_gap: OnGap::SafeDefault,
        keep_warm: KeepWarm::Off,
        observation_bounds: Bounds::new(
            vec![-10.0; DIMENSIONS.observation],
            vec![10.0; DIMENSIONS.observation],
        )
        .expect("low is below high"),
        action_bounds: Bounds::new(vec![-1.0; DIMENSIONS.action], vec![1.0; DIMENSIONS.action])
            .expect("low is below high"),
        safe_default: vec![0.0; DIMENSIONS.action].into(),
        neutral: vec![0.0; DIMENSIONS.action].into(),
    }
}

impl HeapEngine {
    /// Returns an engine that has enforced deadlines of a minute.
    pub fn new(policy: Box<dyn Policy>) -> Self {
        Self::with(policy, |_| ())
    }

    /// Returns an engine whose settings `change` has changed.
    pub fn with(policy: Box<dyn Policy>, change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = settings();
        change(&mut settings);
        let clock = MachineClock::new();
        let observation_slot = ObservationHeader::slot_size(DIMENSIONS.observation);
        let (observation_region, feed, observations) =
            ring(KIND_OBSERVATION, observation_slot, DIMENSIONS.observation);
        let action_slot = ActionHeader::slot_size(DIMENSIONS.action);
        let (action_region, actions, gateway) = ring(KIND_ACTION, action_slot, DIMENSIONS.action);
        // A tick that the guard answers writes two records.
        let (records_in, records) = record_ring(2 * CAPACITY);
        let parts = Parts {
            clock: clock.clone(),
            policies: Policies::new(policy, None),
            observations,
            observation_header: observation_region.header(),
            actions,
            action_header: action_region.header(),
            records: records_in,
            counters: Arc::new(Counters::new()),
            settings,
            epoch: 1,
        };
        let engine = Engine::new(parts).expect("new rings are a pair");
        Self { engine, clock, feed, gateway, records, sequence: 0, dry_run_every: u64::MAX }
    }

    /// Makes [`HeapEngine::answer_all`] run dry after so many ticks each.
    #[must_use]
    pub fn running_dry_every(mut self, ticks: u64) -> Self {
        self.dry_run_every = ticks;
        self
    }

    /// Fills the observation ring.
    pub fn fill(&mut self, checked: Checked) {
        while let Ok(mut claim) = self.feed.try_claim() {
            let payload = [0.25f32; DIMENSIONS.observation];
            let mut header = ObservationHeader {
                sequence: self.sequence,
                ts_publish_ns: self.clock.now().0,
                ..ObservationHeader::default()
            };
            if let Checked::Yes = checked {
                header = header.sealed(&payload);
            }
            claim.write(0, header.as_bytes());
            claim.write(ObservationHeader::BYTES, payload.as_bytes());
            claim.commit();
            self.sequence += 1;
        }
    }

    /// Ticks until the observation ring is empty. Returns the number of ticks, or `u64::MAX` if the engine
    /// has halted.
    #[inline]
    pub fn answer_all(&mut self) -> u64 {
        let mut ticks = 0;
        loop {
            match self.engine.tick() {
                Progress::Done(_) => {
                    ticks += 1;
                    if ticks % self.dry_run_every == 0 {
                        self.engine.run_dry();
                    }
                }
                Progress::Idle => return ticks,
                // The guard is answering this tick.
                Progress::Waiting => {}
                Progress::Halted(_) | Progress::Violated(_) => return u64::MAX,
            }
        }
    }

    /// Empties the action and record rings, and passes each record to `each`.
    pub fn drain(&mut self, mut each: impl FnMut(&TickRecord)) {
        while let Ok(Some(action)) = self.gateway.peek() {
            action.release();
        }
        while let Some(record) = TickRecord::take(&mut self.records) {
            each(&record);
        }
    }
}

/// Whether the feed computes checksums.
#[derive(Debug, Clone, Copy)]
pub enum Checked {
    /// Every frame carries one.
    Yes,
    /// No frame carries one.
    No,
}
