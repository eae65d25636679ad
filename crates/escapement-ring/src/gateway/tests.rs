//! The gateway against an action ring that a test writes.

use super::*;
use crate::clock::{ManualClock, Nanos};
use crate::ring::{HeapRegion, Producer};
use crate::wire::AgentState;
use std::cell::Cell;

const TIMEOUT: Nanos = Nanos::from_millis(100);
const MAX_AGE: Nanos = Nanos::from_millis(150);
const LIMITS: Limits = Limits { heartbeat_timeout: TIMEOUT, max_action_age: MAX_AGE };

struct Agent {
    actions: Region,
    observations: Region,
    producer: Producer,
    clock: ManualClock,
}

impl Agent {
    fn new() -> Self {
        let actions = HeapRegion::ring(RingFile::Actions.spec(2, 8, 1)).unwrap();
        let observations = HeapRegion::ring(RingFile::Observations.spec(4, 8, 1)).unwrap();
        let producer = Producer::attach(actions.clone()).unwrap();
        let clock = ManualClock::new(Nanos::from_millis(5_000));
        let agent = Self { actions, observations, producer, clock };
        agent.actions.header().reset_state(AgentState::Armed.number(), 0);
        agent.beat();
        agent
    }

    fn beat(&self) {
        self.actions.header().beat_producer(self.clock.now().0);
    }

    fn gateway(&self) -> Gateway<ManualClock> {
        Gateway::over(self.actions.clone(), self.observations.clone(), self.clock.clone(), LIMITS).unwrap()
    }

    fn answer(&mut self, position: u64) {
        self.write(ActionHeader { position, ..self.good() }, 0);
    }

    /// An action of the present epoch that is committed now.
    fn good(&self) -> ActionHeader {
        ActionHeader {
            outcome: Outcome::Policy.number(),
            epoch: self.actions.header().epoch() as u32,
            ts_commit_ns: self.clock.now().0,
            ..ActionHeader::default()
        }
    }

    fn write(&mut self, header: ActionHeader, damage: u32) {
        let payload = [0.5, -0.5];
        let mut header = header.sealed(&payload);
        header.checksum ^= damage;
        let mut claim = self.producer.try_claim().unwrap();
        claim.write(0, header.as_bytes());
        claim.write(ActionHeader::BYTES, payload.as_bytes());
        claim.commit();
    }
}

/// What is looked at of a frame: its position, its condition, and whether it may be sent.
fn take(gateway: &mut Gateway<ManualClock>) -> Option<(u64, &'static str, bool)> {
    gateway
        .take(|received| {
            Ok::<_, ProtocolViolation>((
                received.header.position,
                received.present.condition.name(),
                received.may_be_sent(),
            ))
        })
        .unwrap()
}

#[test]
fn state_and_heartbeat_are_read_before_each_send() {
    let mut agent = Agent::new();
    let mut gateway = agent.gateway();
    let header = agent.actions.header();
    for position in 0..5 {
        agent.answer(position);
    }
    assert_eq!(take(&mut gateway), Some((0, "armed", true)));
    agent.clock.advance(TIMEOUT);
    assert_eq!(take(&mut gateway), Some((1, "armed", true)));
    agent.clock.advance(Nanos(1));
    assert_eq!(take(&mut gateway), Some((2, "silent", false)));
    agent.beat();
    header.reset_state(AgentState::Draining.number(), 0);
    assert_eq!(take(&mut gateway), Some((3, "draining", false)));
    header.reset_state(AgentState::Halted.number(), Reason::InferenceLate.number().into());
    assert_eq!(take(&mut gateway), Some((4, "halted", false)));
    assert!(gateway.condition().has_ended());
    assert_eq!(take(&mut gateway), None);
}

#[test]
fn the_record_of_a_halt_is_not_sent() {
    let mut agent = Agent::new();
    let mut gateway = agent.gateway();
    agent.write(ActionHeader { outcome: Outcome::Halt.number(), ..ActionHeader::default() }, 0);
    assert_eq!(take(&mut gateway), Some((0, "armed", false)));
}

#[test]
fn a_torn_frame_and_unknown_numbers_are_counted_and_never_sent() {
    let mut agent = Agent::new();
    let mut gateway = agent.gateway();
    let good = agent.good();
    agent.write(good, 1);
    agent.write(ActionHeader { outcome: 77, ..good }, 0);
    agent.write(ActionHeader { reason: 7_777, ..good }, 0);
    for _ in 0..3 {
        assert_eq!(take(&mut gateway), Some((0, "armed", false)));
    }
    let account = gateway.account();
    assert_eq!((account.torn, account.actions), (3, 0));
    assert!(!account.holds());
}

#[test]
fn what_was_not_received_well_is_not_released() {
    let mut agent = Agent::new();
    agent.answer(0);
    agent.answer(1);
    let mut gateway = agent.gateway();
    let tries = Cell::new(0);
    let failing = |_: &Received<'_>| {
        tries.set(tries.get() + 1);
        Err::<(), Box<dyn std::error::Error>>("the log is full".into())
    };
    assert!(gateway.take(failing).is_err());
    assert!(gateway.take(failing).is_err());
    assert_eq!((tries.get(), agent.producer.released().unwrap()), (2, 0));
    // A successor finds it, too, and counts from the start, since nothing was ever released.
    let mut successor = agent.gateway();
    assert_eq!(take(&mut successor), Some((0, "armed", true)));
    assert_eq!(take(&mut successor), Some((1, "armed", true)));
}

#[test]
fn a_late_gateway_accounts_for_what_it_sees() {
    let mut agent = Agent::new();
    let mut feed = Producer::attach(agent.observations.clone()).unwrap();
    let mut engine = Consumer::attach(agent.observations.clone()).unwrap();
    let mut gateway = agent.gateway();
    for position in 0..6 {
        feed.try_claim().unwrap().commit();
        engine.peek().unwrap().unwrap().release();
        if position != 4 {
            agent.answer(position);
        }
    }
    for _ in 0..2 {
        take(&mut gateway);
    }
    drop(gateway);
    let mut late = agent.gateway();
    while take(&mut late).is_some() {}
    let account = late.account();
    assert_eq!((account.observations, account.actions, account.skipped), (4, 3, 1));
    assert!(account.holds());
}

#[test]
fn rings_of_two_generations_are_no_pair() {
    let agent = Agent::new();
    let other = HeapRegion::ring(RingFile::Observations.spec(4, 8, 2)).unwrap();
    let result = Gateway::over(agent.actions.clone(), other, agent.clock.clone(), LIMITS);
    assert!(matches!(result, Err(AttachError::NotAPair { observations: 2, actions: 1 })));
}

#[test]
fn keeping_warm_takes_nothing_and_accounts_for_nothing() {
    let mut agent = Agent::new();
    let mut gateway = agent.gateway();
    for position in 0..20 {
        agent.answer(position);
        let before = gateway.account();
        for _ in 0..3 {
            gateway.keep_warm();
        }
        assert_eq!(gateway.account(), before);
        assert_eq!(take(&mut gateway), Some((position, "armed", true)));
        assert_eq!(take(&mut gateway), None);
    }
    assert_eq!((gateway.account().actions, gateway.account().torn), (20, 0));
}

/// Why the next action is not sent.
fn why(gateway: &mut Gateway<ManualClock>) -> Result<(), Withheld> {
    gateway.take(|received| Ok::<_, ProtocolViolation>(received.check())).unwrap().expect("an action")
}

#[test]
fn an_action_is_sent_up_to_its_age_limit_and_not_after() {
    let mut agent = Agent::new();
    let mut gateway = agent.gateway();
    agent.answer(0);
    agent.answer(1);
    agent.clock.advance(MAX_AGE);
    agent.beat();
    assert_eq!(why(&mut gateway), Ok(()));
    agent.clock.advance(Nanos(1));
    let age = MAX_AGE.plus(Nanos(1));
    assert_eq!(why(&mut gateway), Err(Withheld::TooOld { age }));
    // The neighbour: an action that is committed now.
    agent.answer(2);
    assert_eq!(why(&mut gateway), Ok(()));
}

/// A gateway that was stopped for three seconds beside a living agent sends nothing of that time.
#[test]
fn a_stopped_gateway_sends_nothing_of_the_past() {
    let mut agent = Agent::new();
    let mut gateway = agent.gateway();
    for position in 0..6 {
        agent.answer(position);
        agent.clock.advance(Nanos::from_millis(500));
    }
    agent.beat();
    for _ in 0..6 {
        assert!(matches!(why(&mut gateway), Err(Withheld::TooOld { .. })));
    }
}

#[test]
fn an_action_of_an_earlier_epoch_is_not_sent() {
    let mut agent = Agent::new();
    let mut gateway = agent.gateway();
    let header = agent.actions.header();
    agent.answer(0);
    let epoch = header.begin_epoch(header.state(), AgentState::Armed.number()).unwrap();
    agent.answer(1);
    assert_eq!(why(&mut gateway), Err(Withheld::PastEpoch { frame: 0, current: epoch }));
    assert_eq!(why(&mut gateway), Ok(()));
}

#[test]
fn a_commit_ahead_of_the_clock_has_no_age() {
    let mut agent = Agent::new();
    let mut gateway = agent.gateway();
    let now = agent.clock.now();
    let limit = now.plus(MAX_COMMIT_SKEW);
    agent.write(ActionHeader { ts_commit_ns: limit.0, ..agent.good() }, 0);
    agent.write(ActionHeader { ts_commit_ns: limit.0 + 1, ..agent.good() }, 0);
    agent.write(ActionHeader { ts_commit_ns: u64::MAX, ..agent.good() }, 0);
    assert_eq!(why(&mut gateway), Ok(()));
    let ahead = MAX_COMMIT_SKEW.plus(Nanos(1));
    assert_eq!(why(&mut gateway), Err(Withheld::StampedAhead { ahead }));
    assert!(matches!(why(&mut gateway), Err(Withheld::StampedAhead { .. })));
}

/// The mapped ring was laid out again in place: what lies in it is not what the gateway attached to.
#[test]
fn a_ring_of_another_generation_is_not_sent_from() {
    let action = Agent::new();
    let mut gateway = action.gateway();
    let header = action.good();
    let present = Present::read(&gateway.header, &LIMITS, || action.clock.now());
    let verdict = Some((Outcome::Policy, Reason::None));
    let received = Received { generation: 1, ring_position: 0, header, payload: &[], verdict, present };
    assert_eq!((received.check(), present.generation), (Ok(()), 1));
    let again = Received { present: Present { generation: 2, ..present }, ..received };
    assert_eq!(again.check(), Err(Withheld::OtherGeneration { current: 2 }));
    assert_eq!(take(&mut gateway), None);
}
