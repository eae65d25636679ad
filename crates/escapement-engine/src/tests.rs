//! The engine on heap rings, with a clock and a policy that follow a script. Nothing depends on threads, the
//! machine or chance.

mod keep_warm;
mod oracle;
mod reasons;
mod rings;
mod run_loop;
mod scripts;
mod takeover;
mod updates;
mod verdicts;

use super::{
    Backlog, Bounds, BudgetSpec, Deadlines, Engine, EngineError, KeepWarm, OnFull, OnGap, OnMiss, Parts,
    Policies, Progress, Settings, TickRecord, record_ring,
};
use crate::telemetry::{CounterSnapshot, Counters};
use escapement_policy::{Dimensions, Fault, Policy};
use escapement_ring::clock::{Clock, LeadingClock, ManualClock, Nanos};
use escapement_ring::ring::{Consumer, HeapRegion, Producer, Region, Spec};
use escapement_ring::wire::{
    ActionHeader, AgentState, KIND_ACTION, KIND_OBSERVATION, ObservationFlags, ObservationHeader, Outcome,
    Reason,
};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use zerocopy::IntoBytes;

const INFERENCE: u64 = 100_000;
const END_TO_END: u64 = 150_000;
const MAX_SKEW: u64 = 30_000;
const MAX_AGE: u64 = 1_000_000;
/// What the policy answers, what replaces it, and what a halt record carries. All three differ.
const ANSWER: f32 = 0.5;
const SAFE: f32 = -0.25;
const NEUTRAL: f32 = 0.0;
/// Slots of the rings for observations and actions.
const CAPACITY: u64 = 8;

const NARROW: Dimensions = Dimensions { observation: 3, action: 2 };

/// A manual clock that can also move by itself after it was read.
#[derive(Clone)]
struct ScriptedClock {
    manual: ManualClock,
    after_next_read: Arc<Mutex<u64>>,
    after_every_read: u64,
}

impl ScriptedClock {
    fn new() -> Self {
        Self {
            manual: ManualClock::new(Nanos(1_000_000_000)),
            after_next_read: Arc::default(),
            after_every_read: 0,
        }
    }

    fn pass_after_next_read(&self, nanos: u64) {
        *self.after_next_read.lock().unwrap() = nanos;
    }
}

impl LeadingClock for ScriptedClock {
    type Follower = Self;

    fn follower(&self) -> Self {
        self.clone()
    }
}

impl Clock for ScriptedClock {
    fn now(&self) -> Nanos {
        let now = self.manual.now();
        let once = std::mem::take(&mut *self.after_next_read.lock().unwrap());
        self.manual.advance(Nanos(once + self.after_every_read));
        now
    }
}

/// What the policy does when it is called.
#[derive(Debug, Clone)]
struct Step {
    /// Time that passes while it computes.
    latency: u64,
    /// Time that passes after the engine has noticed its return, before the verdict.
    after_return: u64,
    answer: Result<Vec<f32>, Fault>,
}

impl Step {
    fn new(latency: u64, after_return: u64, answer: Result<Vec<f32>, Fault>) -> Self {
        Self { latency, after_return, answer }
    }

    fn taking(latency: u64, after_return: u64) -> Self {
        Self::new(latency, after_return, Ok(vec![ANSWER; NARROW.action]))
    }
}

/// A policy that follows a script, and answers at once if the script has ended.
struct ScriptedPolicy {
    dimensions: Dimensions,
    clock: ScriptedClock,
    steps: Arc<Mutex<VecDeque<Step>>>,
    calls: Arc<Mutex<u64>>,
}

impl Policy for ScriptedPolicy {
    fn dimensions(&self) -> Dimensions {
        self.dimensions
    }

    fn backend(&self) -> &'static str {
        "scripted"
    }

    fn infer(&mut self, _observation: &[f32], action: &mut [f32]) -> Result<(), Fault> {
        *self.calls.lock().unwrap() += 1;
        let step = self.steps.lock().unwrap().pop_front();
        let step = step.unwrap_or_else(|| Step::new(0, 0, Ok(vec![ANSWER; action.len()])));
        self.clock.manual.advance(Nanos(step.latency));
        self.clock.pass_after_next_read(step.after_return);
        action.copy_from_slice(&step.answer?);
        Ok(())
    }
}

/// A ring's memory, which tests can overwrite against the protocol.
struct Bytes {
    heap: Arc<HeapRegion>,
    region: Region,
}

impl Bytes {
    const PRODUCER_POSITION: usize = 128;
    const CONSUMER_POSITION: usize = 256;
    const SLOTS: usize = 4096;

    fn new(kind: u32, slot_size: usize, dimension: usize) -> Self {
        let (slot_size, dimension) = (slot_size as u32, dimension as u32);
        let spec = Spec { kind, slot_size, dimension, capacity: CAPACITY, generation: 1 };
        let heap = Arc::new(HeapRegion::new(spec.region_bytes()));
        let region = Region::format(heap.clone(), spec).unwrap();
        Self { heap, region }
    }

    /// Overwrites a word, as a hostile or dying process would.
    fn overwrite(&self, offset: usize, value: u64) {
        use escapement_ring::backing::Backing;
        assert!(offset.is_multiple_of(8) && offset + 8 <= self.heap.len());
        // SAFETY: aligned and in bounds by the assertion. No other thread runs in these tests.
        unsafe { self.heap.base().as_ptr().add(offset).cast::<u64>().write_volatile(value) };
    }

    fn state(&self) -> (Option<AgentState>, Option<Reason>) {
        let (state, reason) = self.region.header().state();
        (AgentState::from_number(state), Reason::from_number(reason as u16))
    }
}

/// An observation to publish.
#[derive(Debug, Clone)]
struct Published {
    sequence: u64,
    /// Negative, wrapped around, for a stamp in the future.
    age: u64,
    flags: u32,
    torn: bool,
    payload: Vec<f32>,
}

/// An action as the gateway read it.
#[derive(Debug, Clone, PartialEq)]
struct Sent {
    header: ActionHeader,
    payload: Vec<f32>,
}

impl Sent {
    fn verdict(&self) -> (Outcome, Reason) {
        let outcome = Outcome::from_number(self.header.outcome).unwrap();
        (outcome, Reason::from_number(self.header.reason).unwrap())
    }
}

/// An engine, the far ends of its rings, and the script.
struct Rig {
    dimensions: Dimensions,
    settings: Settings,
    clock: ScriptedClock,
    steps: Arc<Mutex<VecDeque<Step>>>,
    calls: Arc<Mutex<u64>>,
    observations: Bytes,
    actions: Bytes,
    feed: Producer,
    gateway: Consumer,
    records: Consumer,
    counters: Arc<Counters>,
    epoch: u32,
    next_sequence: u64,
    engine: Engine<ScriptedClock>,
}

/// Everything enforced, nothing forgiven, but no halt by a miss.
fn settings(dimensions: Dimensions) -> Settings {
    let Dimensions { observation, action } = dimensions;
    Settings {
        enforce: true,
        deadlines: Deadlines {
            inference: Nanos(INFERENCE),
            end_to_end: Nanos(END_TO_END),
            max_age: Some(Nanos(MAX_AGE)),
        },
        max_skew: Nanos(MAX_SKEW),
        on_miss: OnMiss::SafeDefault,
        miss_budget: BudgetSpec::NONE,
        error_budget: BudgetSpec { misses: 1000, window: 1000 },
        backlog: Backlog::Every,
        on_full: OnFull::Drop,
        on_gap: OnGap::SafeDefault,
        keep_warm: KeepWarm::Off,
        observation_bounds: Bounds::new(vec![-10.0; observation], vec![10.0; observation]).unwrap(),
        action_bounds: Bounds::new(vec![-1.0; action], vec![1.0; action]).unwrap(),
        safe_default: vec![SAFE; action].into(),
        neutral: vec![NEUTRAL; action].into(),
    }
}

impl Rig {
    fn new(change: impl FnOnce(&mut Settings)) -> Self {
        Self::with(NARROW, ScriptedClock::new(), change)
    }

    fn with(dimensions: Dimensions, clock: ScriptedClock, change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = settings(dimensions);
        change(&mut settings);
        let Dimensions { observation, action } = dimensions;
        let observations =
            Bytes::new(KIND_OBSERVATION, ObservationHeader::slot_size(observation), observation);
        let actions = Bytes::new(KIND_ACTION, ActionHeader::slot_size(action), action);
        let feed = Producer::attach(observations.region.clone()).unwrap();
        let gateway = Consumer::attach(actions.region.clone()).unwrap();
        let (steps, calls, counters) = (Arc::default(), Arc::default(), Arc::new(Counters::new()));
        let policy = ScriptedPolicy {
            dimensions,
            clock: clock.clone(),
            steps: Arc::clone(&steps),
            calls: Arc::clone(&calls),
        };
        let (engine, records) =
            start(&observations, &actions, &clock, policy, &settings, &counters, 1).unwrap();
        Self {
            dimensions,
            settings,
            clock,
            steps,
            calls,
            observations,
            actions,
            feed,
            gateway,
            records,
            counters,
            epoch: 1,
            next_sequence: 0,
            engine,
        }
    }

    /// Starts the next daemon on the same rings. The previous one is dropped without further steps.
    fn restart(&mut self) -> Result<(), EngineError> {
        let policy = ScriptedPolicy {
            dimensions: self.dimensions,
            clock: self.clock.clone(),
            steps: Arc::clone(&self.steps),
            calls: Arc::clone(&self.calls),
        };
        let epoch = self.epoch + 1;
        let (engine, records) = start(
            &self.observations,
            &self.actions,
            &self.clock,
            policy,
            &self.settings,
            &self.counters,
            epoch,
        )?;
        (self.engine, self.records, self.epoch) = (engine, records, epoch);
        Ok(())
    }

    /// Returns the next observation in sequence, with nothing wrong.
    fn ordinary(&mut self) -> Published {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        Published {
            sequence,
            age: 0,
            flags: 0,
            torn: false,
            payload: vec![0.25; self.dimensions.observation],
        }
    }

    /// Commits an observation. Returns false if the ring is full.
    fn publish(&mut self, published: &Published) -> bool {
        let header = ObservationHeader {
            sequence: published.sequence,
            ts_event_ns: published.sequence.wrapping_mul(7),
            ts_publish_ns: self.clock.manual.now().0.wrapping_sub(published.age),
            flags: published.flags,
            checksum: 0,
        };
        let mut header = header.sealed(&published.payload);
        if published.torn {
            header.checksum ^= 1;
        }
        let Ok(mut claim) = self.feed.try_claim() else { return false };
        claim.write(0, header.as_bytes());
        claim.write(ObservationHeader::BYTES, published.payload.as_bytes());
        claim.commit();
        true
    }

    fn publish_ordinary(&mut self) {
        let published = self.ordinary();
        assert!(self.publish(&published));
    }

    fn script(&self, step: Step) {
        self.steps.lock().unwrap().push_back(step);
    }

    /// Reads the oldest action that the gateway has not read.
    fn sent(&mut self) -> Option<Sent> {
        let peek = self.gateway.peek().unwrap()?;
        let mut header = ActionHeader::default();
        let mut payload = vec![0.0; self.dimensions.action];
        peek.read(0, header.as_mut_bytes());
        peek.read(ActionHeader::BYTES, payload.as_mut_bytes());
        peek.release();
        assert!(header.is_whole(&payload), "a torn action");
        Some(Sent { header, payload })
    }

    /// Publishes one observation, ticks once, and returns the one action that must follow.
    fn answer(&mut self, published: &Published) -> Sent {
        assert!(self.publish(published));
        self.engine.tick();
        let sent = self.sent().expect("one observation, one action");
        assert_eq!(sent.header.sequence, published.sequence);
        assert_eq!(self.sent(), None, "one observation, one action");
        sent
    }

    fn counted(&self) -> CounterSnapshot {
        self.counters.snapshot()
    }

    fn record(&mut self) -> Option<TickRecord> {
        TickRecord::take(&mut self.records)
    }
}

type Started = Result<(Engine<ScriptedClock>, Consumer), EngineError>;

fn start(
    observations: &Bytes,
    actions: &Bytes,
    clock: &ScriptedClock,
    policy: ScriptedPolicy,
    settings: &Settings,
    counters: &Arc<Counters>,
    epoch: u32,
) -> Started {
    let (records_in, records) = record_ring(64);
    actions.region.header().reset_state(AgentState::Armed.number(), 0);
    let engine = Engine::new(Parts {
        clock: clock.clone(),
        policies: Policies::new(Box::new(policy), None),
        observations: Consumer::attach(observations.region.clone())?,
        observation_header: observations.region.header(),
        actions: Producer::attach(actions.region.clone())?,
        action_header: actions.region.header(),
        records: records_in,
        counters: Arc::clone(counters),
        settings: settings.clone(),
        epoch,
    })?;
    Ok((engine, records))
}
