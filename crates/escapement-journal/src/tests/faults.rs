//! Disks that are full or broken: what was synced stays, and what was lost is counted exactly.

use super::storage::Fault;
use super::*;

/// Writes ticks in groups on a disk with faults, and checks the account: every tick is read once, or counted
/// once in a gap record.
fn account(faults: &[Fault], groups: u64, group: u64) -> (Read, Losses) {
    let storage = MemoryStorage::with_faults(faults);
    let (mut writer, _) = open(storage.clone(), 16 << 10);
    let (mut next, mut errors) = (0, 0);
    for index in 0..groups {
        // A quarter of a second apart, so that a writer that has failed tries again.
        let now = instants(index * 250_000_000);
        for sequence in next..next + group {
            let (body, observation, action) = tick(sequence);
            writer.tick(&body, &observation, &action, now);
        }
        next += group;
        errors += u32::from(writer.commit(now).is_err());
    }
    let end = instants(groups * 250_000_000);
    errors += u32::from(writer.close(end).is_err());
    let found = read(&storage);
    let told: u64 = found.gaps.iter().map(|gap| gap.ticks_not_written + gap.ticks_queue_full).sum();
    assert_eq!(told, writer.lost().ticks(), "every loss is told once: {faults:?}");
    assert_eq!(found.ticks.len() as u64 + told, next, "{faults:?}");
    assert!(found.ticks.windows(2).all(|pair| pair[0] < pair[1]), "in order, none twice");
    assert!(!found.findings.iter().any(Finding::is_damage), "{:?}", found.findings);
    assert_eq!(errors > 0, writer.lost() != Losses::default(), "a loss is an error: {faults:?}");
    (found, writer.lost())
}

#[test]
fn a_healthy_disk_loses_nothing() {
    assert_eq!(account(&[], 40, 10).1, Losses::default());
}

#[test]
fn short_and_interrupted_writes_lose_nothing() {
    let faults: Vec<_> = (0..30)
        .map(|at| if at % 2 == 0 { Fault::ShortWrite { at } } else { Fault::Interrupted { at } })
        .collect();
    assert_eq!(account(&faults, 40, 10).1, Losses::default());
}

#[test]
fn a_full_disk_is_a_gap_with_an_exact_count() {
    let (found, lost) = account(&[Fault::NoSpace { at: 2, times: 5 }], 60, 10);
    assert!(lost.ticks_not_written >= 40, "{lost:?}");
    assert_eq!(found.gaps.len(), 1);
    let at_once = account(&[Fault::NoSpace { at: 0, times: 1 }], 20, 10);
    assert_eq!(at_once.1.ticks_not_written, 10);
}

#[test]
fn an_error_of_a_write_costs_what_was_not_synced() {
    for at in 0..12 {
        let (_, lost) = account(&[Fault::Write { at }], 40, 10);
        // Fewer than a group where a segment ended within it, and was synced.
        assert!((1..=20).contains(&lost.ticks_not_written), "{at}: {lost:?}");
    }
}

#[test]
fn an_error_of_a_sync_costs_what_was_not_synced() {
    for at in 0..12 {
        let (found, lost) = account(&[Fault::Sync { at }], 40, 10);
        // A sync after the cut of a finished segment has nothing to lose.
        assert!(lost.ticks_not_written <= 20, "{at}: {lost:?}");
        if lost.ticks_not_written > 0 {
            let superseded = found.findings.iter().any(|it| matches!(it, Finding::Superseded { .. }));
            assert!(superseded, "{at}: its records are on the disk, and do not count: {:?}", found.findings);
        }
    }
}

#[test]
fn a_gap_record_that_is_lost_is_told_again() {
    // The first write fails, then the one of the gap record that tells it.
    let (found, lost) = account(&[Fault::Write { at: 3 }, Fault::Write { at: 4 }], 40, 10);
    assert!(lost.ticks_not_written >= 20, "{lost:?}");
    assert_eq!(found.gaps.len(), 1);
    account(&[Fault::Sync { at: 3 }, Fault::Sync { at: 4 }, Fault::Sync { at: 5 }], 40, 10);
}

#[test]
fn an_event_is_counted_apart() {
    let storage = MemoryStorage::with_faults(&[Fault::Sync { at: 0 }]);
    let (mut writer, _) = open(storage.clone(), 16 << 10);
    write(&mut writer, 0..3);
    writer.event(&EventBody { kind: EventKind::Start.number(), ..EventBody::default() }, instants(3));
    assert!(matches!(writer.commit(instants(4)), Err(WriterError::Sync { segment: 1, .. })));
    writer.commit(instants(1_000_000_000)).expect("no second fault");
    let found = read(&storage);
    let [gap] = found.gaps[..] else { panic!("one gap: {found:?}") };
    assert_eq!((gap.ticks_not_written, gap.events_not_written), (3, 1));
    assert_eq!((found.ticks, found.events), (vec![], vec![]));
}

proptest! {
    /// The account holds for any mixture of faults. The last groups are free of them, so that all is told.
    #[test]
    fn the_account_holds_under_any_faults(
        faults in prop::collection::vec(
            prop_oneof![
                (0u32..8, 1u32..6).prop_map(|(at, times)| Fault::NoSpace { at, times }),
                (0u32..40).prop_map(|at| Fault::Write { at }),
                (0u32..40).prop_map(|at| Fault::ShortWrite { at }),
                (0u32..40).prop_map(|at| Fault::Sync { at }),
            ],
            0..8,
        ),
    ) {
        account(&faults, 160, 10);
    }
}

#[test]
fn a_writer_that_writes_nothing_syncs_nothing() {
    let storage = MemoryStorage::default();
    let (mut writer, _) = open(storage.clone(), 16 << 10);
    write(&mut writer, 0..3);
    writer.commit(instants(1)).expect("no fault");
    let before = storage.operations();
    for at in 2..50 {
        writer.commit(instants(at)).expect("no fault");
    }
    assert_eq!(storage.operations(), before);
}
