//! Every reason that needs no second thread, in each place where it can arise.

use super::*;
use escapement_ring::wire::ActionFlags;

const WIDTHS: [usize; 3] = [1, 3, 32];
const NOT_FINITE: [f32; 3] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY];

/// Returns the next float above a positive `value`.
fn just_above(value: f32) -> f32 {
    value.next_up()
}

#[test]
fn a_bad_feature_at_any_position_never_reaches_the_policy() {
    for width in WIDTHS {
        let bad = NOT_FINITE.map(|value| (value, Reason::ObservationNonFinite));
        let out = [just_above(10.0), -just_above(10.0), f32::MAX]
            .map(|value| (value, Reason::ObservationOutOfRange));
        let dimensions = Dimensions { observation: width, action: 2 };
        let mut rig = Rig::with(dimensions, ScriptedClock::new(), |_| ());
        for position in 0..width {
            for (value, reason) in bad.into_iter().chain(out) {
                let mut observation = rig.ordinary();
                observation.payload[position] = value;
                let sent = rig.answer(&observation);
                assert_eq!(
                    sent.verdict(),
                    (Outcome::SafeDefault, reason),
                    "{value} at {position} of {width}"
                );
                assert_eq!((sent.payload, sent.header.inference_ns), (vec![SAFE; 2], 0));
            }
        }
        assert_eq!(*rig.calls.lock().unwrap(), 0);
        // The limits themselves are allowed.
        for limit in [-10.0, 10.0, -0.0, f32::MIN_POSITIVE / 2.0] {
            let observation = Published { payload: vec![limit; width], ..rig.ordinary() };
            assert_eq!(rig.answer(&observation).verdict(), (Outcome::Policy, Reason::None));
        }
    }
}

#[test]
fn a_bad_action_at_any_position_never_leaves() {
    for width in WIDTHS {
        let bad = NOT_FINITE.map(|value| (value, Reason::ActionNonFinite));
        let out = [just_above(1.0), -just_above(1.0)].map(|value| (value, Reason::ActionOutOfBounds));
        let dimensions = Dimensions { observation: 3, action: width };
        for enforce in [true, false] {
            let mut rig = Rig::with(dimensions, ScriptedClock::new(), |settings| settings.enforce = enforce);
            for position in 0..width {
                for (value, reason) in bad.into_iter().chain(out) {
                    let mut action = vec![ANSWER; width];
                    action[position] = value;
                    rig.script(Step::new(5, 0, Ok(action)));
                    let observation = rig.ordinary();
                    let sent = rig.answer(&observation);
                    assert_eq!(
                        sent.verdict(),
                        (Outcome::SafeDefault, reason),
                        "{value} at {position} of {width}"
                    );
                    assert_eq!((sent.payload, sent.header.inference_ns), (vec![SAFE; width], 5));
                }
            }
            for limit in [-1.0, 1.0] {
                rig.script(Step::new(0, 0, Ok(vec![limit; width])));
                let observation = rig.ordinary();
                let sent = rig.answer(&observation);
                assert_eq!(
                    (sent.verdict(), sent.payload),
                    ((Outcome::Policy, Reason::None), vec![limit; width])
                );
            }
        }
    }
}

#[test]
fn a_policy_that_faults_gives_the_safe_default() {
    for fault in [Fault::Raised, Fault::NotAnAction] {
        let mut rig = Rig::new(|settings| settings.enforce = false);
        rig.script(Step::new(0, 0, Err(fault)));
        let observation = rig.ordinary();
        let sent = rig.answer(&observation);
        assert_eq!(sent.verdict(), (Outcome::SafeDefault, Reason::PolicyError));
        assert_eq!(sent.payload, [SAFE; 2]);
    }
}

/// Returns the reason, and whether a gap was flagged, for each number of a stream.
fn follow(on_gap: OnGap, stream: &[(u64, u32)]) -> Vec<(Reason, bool)> {
    let mut rig = Rig::new(|settings| settings.on_gap = on_gap);
    let mut verdicts = Vec::new();
    for (sequence, flags) in stream {
        let observation = Published { sequence: *sequence, flags: *flags, ..rig.ordinary() };
        let sent = rig.answer(&observation);
        verdicts.push((sent.verdict().1, sent.header.flags & ActionFlags::GAP != 0));
    }
    let breaks = verdicts.iter().filter(|(_, flagged)| *flagged).count();
    assert_eq!(rig.counted().sequence_gaps, breaks as u64);
    verdicts
}

/// A feed that sets the restart flag on every frame switches the sequence checks off for eight breaks only.
#[test]
fn restarts_excuse_only_some_breaks() {
    let restart = ObservationFlags::RESTART;
    let stream: Vec<(u64, u32)> = (0..20).map(|number| (10 + 5 * number, restart)).collect();
    let found = follow(OnGap::SafeDefault, &stream);
    // The first observation is no break at all.
    assert!(found[..9].iter().all(|verdict| *verdict == (Reason::None, false)), "{found:?}");
    assert!(found[9..].iter().all(|verdict| *verdict == (Reason::SequenceGap, true)), "{found:?}");
    // The neighbour: flags on a sequence without breaks use nothing up.
    let mut stream: Vec<(u64, u32)> = (0..50).map(|number| (10 + number, restart)).collect();
    stream.push((500, restart));
    assert!(follow(OnGap::SafeDefault, &stream).iter().all(|verdict| *verdict == (Reason::None, false)));
    // And what was excused long ago counts no more.
    let long = |index: u64| if index % 200 == 199 { (1_000 * index, restart) } else { (0, 0) };
    let mut last = 0;
    let stream: Vec<(u64, u32)> = (0..4_000)
        .map(|index| {
            let (sequence, flags) = long(index);
            last = if flags == 0 { last + 1 } else { sequence };
            (last, flags)
        })
        .collect();
    assert!(follow(OnGap::SafeDefault, &stream).iter().all(|verdict| *verdict == (Reason::None, false)));
}

#[test]
fn breaks_in_the_sequence_are_told_apart() {
    let none = (Reason::None, false);
    let stream = [(5, 0), (6, 0), (8, 0), (9, 0), (9, 0), (10, 0), (7, 0), (8, 0)];
    let expected = [
        none,
        none,
        (Reason::SequenceGap, true),
        none,
        (Reason::SequenceDuplicate, true),
        none,
        (Reason::SequenceReordered, true),
        none,
    ];
    assert_eq!(follow(OnGap::SafeDefault, &stream), expected);
    // If breaks are only counted, the policy answers the same observations.
    let counted: Vec<_> = expected.iter().map(|(_, flagged)| (Reason::None, *flagged)).collect();
    assert_eq!(follow(OnGap::Count, &stream), counted);
}

#[test]
fn a_feed_that_says_it_restarted_may_begin_anywhere() {
    let restart = ObservationFlags::RESTART;
    let verdicts = follow(OnGap::SafeDefault, &[(900, 0), (1, restart), (2, 0), (u64::MAX, restart), (0, 0)]);
    assert_eq!(verdicts, [(Reason::None, false); 5]);
}

#[test]
fn a_torn_observation_is_not_believed_in_anything() {
    let mut rig = Rig::new(|_| ());
    rig.publish_ordinary();
    rig.engine.tick();
    rig.sent().unwrap();
    // Torn, stale and not finite: torn comes first, because nothing else in the frame is reliable.
    let torn = Published { torn: true, age: MAX_AGE + 1, payload: vec![f32::NAN; 3], ..rig.ordinary() };
    let sent = rig.answer(&torn);
    assert_eq!(sent.verdict(), (Outcome::SafeDefault, Reason::ObservationTorn));
    assert_eq!(sent.header.flags, 0);
    // Its sequence number is ignored.
    let observation = rig.ordinary();
    assert_eq!(rig.answer(&observation).verdict(), (Outcome::Policy, Reason::None));
}

/// The checksum covers every bit of a frame.
#[test]
fn a_flipped_bit_anywhere_in_a_checked_frame_is_found() {
    let frame_bits = 8 * (ObservationHeader::BYTES + 4 * NARROW.observation);
    for bit in 0..frame_bits {
        let mut rig = Rig::new(|_| ());
        rig.publish_ordinary();
        let offset = Bytes::SLOTS + bit / 64 * 8;
        let mut word = [0; 8];
        let mut reader = Consumer::attach(rig.observations.region.clone()).unwrap();
        let peek = reader.peek().unwrap().unwrap();
        let mut frame = vec![0; frame_bits / 8 + 4];
        peek.read(0, &mut frame);
        word.copy_from_slice(&frame[bit / 64 * 8..][..8]);
        rig.observations.overwrite(offset, u64::from_le_bytes(word) ^ (1 << (bit % 64)));
        rig.engine.tick();
        let reason = rig.sent().unwrap().verdict().1;
        // Flipping the flag "checked" turns the frame into one without a checksum.
        let unchecked = bit == 8 * 24;
        assert_eq!(reason == Reason::ObservationTorn, !unchecked, "bit {bit}");
    }
}

#[test]
fn a_frame_without_a_checksum_is_taken_as_it_is() {
    let mut rig = Rig::new(|_| ());
    let header = ObservationHeader {
        sequence: 3,
        ts_publish_ns: rig.clock.manual.now().0,
        checksum: 12345,
        ..ObservationHeader::default()
    };
    let mut claim = rig.feed.try_claim().unwrap();
    claim.write(0, header.as_bytes());
    claim.write(ObservationHeader::BYTES, [0.0f32; 3].as_bytes());
    claim.commit();
    rig.engine.tick();
    assert_eq!(rig.sent().unwrap().verdict(), (Outcome::Policy, Reason::None));
}

/// If there are several reasons, the first check to fail is reported.
#[test]
fn reasons_have_an_order() {
    let mut rig = Rig::new(|_| ());
    rig.publish_ordinary();
    rig.engine.tick();
    rig.sent().unwrap();
    let everything =
        Published { sequence: 9, age: MAX_AGE + 1, payload: vec![99.0, f32::NAN, 0.0], ..rig.ordinary() };
    let sent = rig.answer(&everything);
    assert_eq!(sent.verdict().1, Reason::ObservationNonFinite);
    assert_eq!(sent.header.flags, ActionFlags::GAP | ActionFlags::STALE);
    let gap_and_stale = Published { sequence: 20, age: MAX_AGE + 1, ..rig.ordinary() };
    assert_eq!(rig.answer(&gap_and_stale).verdict().1, Reason::SequenceGap);
}
