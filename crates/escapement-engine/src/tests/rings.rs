//! Full, damaged and hostile rings, backlogs, halts, and daemons that die between two steps.

use super::*;

#[test]
fn nothing_to_answer_is_idle() {
    let mut rig = Rig::new(|_| ());
    assert_eq!(rig.engine.tick(), Progress::Idle);
    assert_eq!((rig.sent(), rig.record()), (None, None));
    assert_eq!(rig.counted().observations, 0);
}

#[test]
fn a_full_action_ring_drops_the_observation_and_counts_it() {
    let mut rig = Rig::new(|settings| settings.on_full = OnFull::Drop);
    for _ in 0..CAPACITY {
        rig.publish_ordinary();
        assert!(matches!(rig.engine.tick(), Progress::Done(_)));
        rig.record().unwrap();
    }
    rig.publish_ordinary();
    assert!(matches!(rig.engine.tick(), Progress::Done(_)));
    let record = rig.record().unwrap();
    assert_eq!((record.position, record.sequence), (CAPACITY, CAPACITY));
    assert_eq!((record.outcome, record.reason), (0, Reason::ActionRingFull.number()));
    assert_eq!(rig.actions.state().0, Some(AgentState::Armed));
    // The gateway reads again: the next observation is answered, and the dropped one does not count as a gap
    // of the feed.
    for expected in 0..CAPACITY {
        assert_eq!(rig.sent().unwrap().header.position, expected);
    }
    let observation = rig.ordinary();
    let sent = rig.answer(&observation);
    assert_eq!((sent.verdict().1, sent.header.position), (Reason::None, CAPACITY + 1));
    let counted = rig.counted();
    assert_eq!((counted.observations, counted.actions, counted.skipped), (10, 9, 1));
}

#[test]
fn a_full_action_ring_halts_where_that_is_asked_for() {
    let mut rig = Rig::new(|settings| settings.on_full = OnFull::Halt);
    for _ in 0..CAPACITY {
        rig.publish_ordinary();
        rig.engine.tick();
    }
    rig.publish_ordinary();
    assert_eq!(rig.engine.tick(), Progress::Halted(Reason::ActionRingFull));
    assert_eq!(rig.actions.state(), (Some(AgentState::Halted), Some(Reason::ActionRingFull)));
    let counted = rig.counted();
    assert_eq!((counted.observations, counted.actions, counted.skipped), (9, 8, 1));
}

#[test]
fn the_halt_record_is_the_last() {
    let mut rig = Rig::new(|settings| settings.on_miss = OnMiss::Halt);
    rig.publish_ordinary();
    rig.publish_ordinary();
    rig.publish_ordinary();
    rig.script(Step::taking(0, 0));
    rig.script(Step::taking(INFERENCE + 1, 0));
    assert!(matches!(rig.engine.tick(), Progress::Done(_)));
    for _ in 0..3 {
        assert_eq!(rig.engine.tick(), Progress::Halted(Reason::InferenceLate));
    }
    assert_eq!(rig.sent().unwrap().verdict().0, Outcome::Policy);
    let last = rig.sent().unwrap();
    assert_eq!(last.verdict(), (Outcome::Halt, Reason::InferenceLate));
    assert_eq!(last.payload, [NEUTRAL; 2]);
    assert_eq!(rig.sent(), None);
    // The third observation stays in the ring, and the policy was not called for it.
    assert_eq!((*rig.calls.lock().unwrap(), rig.feed.released().unwrap()), (2, 2));
}

/// The state word is stored before the halt record: a gateway thread that sees the record must find the word
/// halted.
#[test]
fn a_gateway_that_sees_the_halt_record_sees_the_state() {
    let mut rig = Rig::new(|settings| {
        settings.on_miss = OnMiss::Halt;
        settings.deadlines.max_age = None;
    });
    let header = rig.actions.region.header();
    std::thread::scope(|scope| {
        let gateway = &mut rig.gateway;
        let watcher = scope.spawn(move || {
            loop {
                if gateway.peek().unwrap().is_some() {
                    return header.state().0;
                }
                std::hint::spin_loop();
            }
        });
        let mut claim = rig.feed.try_claim().unwrap();
        claim.write(0, ObservationHeader::default().as_bytes());
        claim.commit();
        rig.steps.lock().unwrap().push_back(Step::taking(INFERENCE + 1, 0));
        rig.engine.tick();
        assert_eq!(watcher.join().unwrap(), AgentState::Halted.number());
    });
}

#[test]
fn a_person_halts_without_an_observation_and_the_first_reason_stands() {
    let mut rig = Rig::new(|_| ());
    rig.publish_ordinary();
    rig.engine.halt(Reason::Operator);
    rig.engine.halt(Reason::Panic);
    assert_eq!(rig.engine.tick(), Progress::Halted(Reason::Operator));
    assert_eq!(rig.actions.state(), (Some(AgentState::Halted), Some(Reason::Operator)));
    assert_eq!(rig.sent(), None);
}

#[test]
fn the_newest_is_answered_and_the_older_ones_are_counted() {
    let mut rig = Rig::new(|settings| settings.backlog = Backlog::Latest);
    for _ in 0..5 {
        rig.publish_ordinary();
    }
    assert!(matches!(rig.engine.tick(), Progress::Done(_)));
    assert_eq!(rig.engine.tick(), Progress::Idle);
    let sent = rig.sent().unwrap();
    assert_eq!((sent.header.sequence, sent.header.position), (4, 4));
    assert_eq!(sent.verdict(), (Outcome::Policy, Reason::None));
    assert_eq!(rig.sent(), None);
    assert_eq!(rig.record().unwrap().skipped_before, 4);
    let counted = rig.counted();
    assert_eq!((counted.observations, counted.actions, counted.skipped), (5, 1, 4));
    // Skipping on purpose is no gap. A hole among the skipped ones is a gap. A number that was repeated is
    // not missing.
    for (moved, sequence_moved, expected) in
        [(3, 3, Reason::None), (3, 4, Reason::SequenceGap), (3, 2, Reason::SequenceReordered)]
    {
        let last = rig.next_sequence - 1;
        for _ in 1..moved {
            rig.publish_ordinary();
        }
        let observation = Published { sequence: last + sequence_moved, ..rig.ordinary() };
        assert_eq!(rig.answer(&observation).verdict().1, expected);
        rig.next_sequence = last + sequence_moved + 1;
    }
}

#[test]
fn hostile_feed_positions_are_violations() {
    for backlog in [Backlog::Every, Backlog::Latest] {
        for position in [CAPACITY + 4, 1, u64::MAX, 1 << 63] {
            let mut rig = Rig::new(|settings| settings.backlog = backlog);
            for _ in 0..3 {
                let observation = rig.ordinary();
                rig.answer(&observation);
            }
            rig.observations.overwrite(Bytes::PRODUCER_POSITION, position);
            match rig.engine.tick() {
                Progress::Violated(violation) => {
                    assert_eq!((violation.side, violation.found, violation.own), ("producer", position, 3));
                }
                other => panic!("{position}: {other:?}"),
            }
            assert_eq!(rig.actions.state(), (Some(AgentState::Halted), Some(Reason::ProtocolViolation)));
            assert_eq!(rig.engine.tick(), Progress::Halted(Reason::ProtocolViolation));
            assert_eq!(rig.sent(), None);
        }
    }
}

#[test]
fn hostile_gateway_positions_are_violations() {
    // Ahead of what was committed, and before what was already released.
    for position in [4 + CAPACITY + 1, 2, u64::MAX] {
        let mut rig = Rig::new(|settings| settings.on_full = OnFull::Halt);
        for _ in 0..4 {
            let observation = rig.ordinary();
            rig.answer(&observation);
        }
        for _ in 0..CAPACITY {
            rig.publish_ordinary();
            rig.engine.tick();
        }
        // The engine has seen four released, and the ring is full again.
        assert_eq!(rig.actions.state().0, Some(AgentState::Armed));
        rig.actions.overwrite(Bytes::CONSUMER_POSITION, position);
        rig.publish_ordinary();
        let progress = rig.engine.tick();
        assert!(matches!(progress, Progress::Violated(_)), "{position}: {progress:?}");
        assert_eq!(rig.actions.state(), (Some(AgentState::Halted), Some(Reason::ProtocolViolation)));
        assert_eq!(rig.counted().actions, 4 + CAPACITY);
    }
}

/// A daemon dies after the commit and before the release. Its successor does not answer again.
#[test]
fn an_answered_observation_is_not_answered_twice() {
    let mut rig = Rig::new(|_| ());
    for _ in 0..3 {
        rig.publish_ordinary();
        rig.engine.tick();
    }
    rig.publish_ordinary();
    // The memory after a crash in which position 2 was never released.
    rig.observations.overwrite(Bytes::CONSUMER_POSITION, 2);
    rig.restart().unwrap();
    assert_eq!(rig.feed.released().unwrap(), 3, "released by the successor");
    assert!(matches!(rig.engine.tick(), Progress::Done(_)));
    assert_eq!(rig.engine.tick(), Progress::Idle);
    let sent: Vec<_> = std::iter::from_fn(|| rig.sent()).collect();
    let positions: Vec<_> = sent.iter().map(|sent| sent.header.position).collect();
    assert_eq!(positions, [0, 1, 2, 3]);
    let epochs: Vec<_> = sent.iter().map(|sent| sent.header.epoch).collect();
    assert_eq!(epochs, [1, 1, 1, 2]);
    assert!(sent.iter().all(|sent| sent.verdict() == (Outcome::Policy, Reason::None)));
}

/// A daemon that dies between two ticks loses nothing, and its successor continues the feed's numbering.
#[test]
fn a_successor_goes_on_and_sees_gaps_across_the_restart() {
    for (sequence, expected) in [(2, Reason::None), (4, Reason::SequenceGap), (1, Reason::SequenceDuplicate)]
    {
        let mut rig = Rig::new(|_| ());
        for _ in 0..2 {
            let observation = rig.ordinary();
            rig.answer(&observation);
        }
        rig.restart().unwrap();
        let observation = Published { sequence, ..rig.ordinary() };
        assert_eq!(rig.answer(&observation).verdict().1, expected);
    }
}

#[test]
fn a_torn_frame_s_number_is_not_carried_over_a_restart() {
    let mut rig = Rig::new(|_| ());
    let torn = Published { sequence: 1 << 40, torn: true, ..rig.ordinary() };
    assert_eq!(rig.answer(&torn).verdict().1, Reason::ObservationTorn);
    rig.restart().unwrap();
    let observation = rig.ordinary();
    assert_eq!(rig.answer(&observation).verdict(), (Outcome::Policy, Reason::None));
}

#[test]
fn rings_that_are_not_a_pair_are_refused() {
    // The action ring answers an observation that this observation ring never held.
    let mut rig = Rig::new(|_| ());
    for _ in 0..3 {
        let observation = rig.ordinary();
        rig.answer(&observation);
    }
    rig.observations.overwrite(Bytes::CONSUMER_POSITION, 0);
    match rig.restart() {
        Err(EngineError::NotAPair { answered: 2, released: 0 }) => {}
        other => panic!("{other:?}"),
    }
    // The action ring answers the next observation, which was never committed.
    rig.observations.overwrite(Bytes::CONSUMER_POSITION, 2);
    rig.observations.overwrite(Bytes::PRODUCER_POSITION, 2);
    match rig.restart() {
        Err(EngineError::NotAPair { answered: 2, released: 2 }) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_damaged_last_action_is_refused() {
    let mut rig = Rig::new(|_| ());
    let observation = rig.ordinary();
    rig.answer(&observation);
    // The gateway's process overwrites the position that recovery relies on.
    rig.actions.overwrite(Bytes::SLOTS + 8, 77);
    assert!(matches!(rig.restart(), Err(EngineError::LastActionDamaged)));
}

#[test]
fn impossible_positions_at_the_start_are_violations() {
    for (feed, engine) in [(3, 4), (CAPACITY + 1, 0), (u64::MAX, 5)] {
        let mut rig = Rig::new(|_| ());
        rig.observations.overwrite(Bytes::PRODUCER_POSITION, feed);
        rig.observations.overwrite(Bytes::CONSUMER_POSITION, engine);
        assert!(matches!(rig.restart(), Err(EngineError::Violation(_))), "{feed} {engine}");
    }
}

/// A supervisor that takes no records loses records, which are counted, and nothing else.
#[test]
fn a_full_record_ring_loses_records_not_actions() {
    let mut rig = Rig::new(|_| ());
    for _ in 0..100 {
        let observation = rig.ordinary();
        assert_eq!(rig.answer(&observation).verdict().0, Outcome::Policy);
    }
    assert_eq!(rig.counted().records_lost, 100 - 64);
    assert_eq!(std::iter::from_fn(|| rig.record()).count(), 64);
}
