//! A responder on rings in ordinary memory that nobody else sees: for runs that keep code warm and answer
//! nothing.

use super::budget::Budget;
use super::record::record_ring;
use super::responder::Responder;
use super::settings::Settings;
use super::verdict::InFlight;
use crate::lease::{LeaseClaimant, LeaseHolder, lease};
use crate::telemetry::Counters;
use escapement_ring::ring::{Consumer, Header, HeapRegion, Producer, Region, Spec};
use escapement_ring::wire::{ActionHeader, KIND_ACTION};
use std::sync::Arc;

/// Slots of each private ring. One would do: each run drains them.
const CAPACITY: u64 = 8;

/// Both sides of the lease on a responder of its own, and the far ends of its rings.
pub(super) struct PrivateResponder {
    pub(super) holder: LeaseHolder<Responder>,
    pub(super) claimant: LeaseClaimant<Responder>,
    pub(super) action_header: Header,
    pub(super) counters: Arc<Counters>,
    pub(super) answers: Answers,
}

/// The far ends of a private responder's rings.
pub(super) struct Answers {
    gateway: Consumer,
    records: Consumer,
}

impl PrivateResponder {
    /// Makes the rings and the responder. Allocates.
    pub(super) fn new(settings: &Arc<Settings>) -> Self {
        let width = settings.action_bounds.dimension();
        let (region, actions, gateway) = private_ring(KIND_ACTION, ActionHeader::slot_size(width), width);
        let (records_in, records) = record_ring(CAPACITY);
        let action_header = region.header();
        let counters = Arc::new(Counters::new());
        let (holder, claimant) = lease(Responder {
            actions,
            action_header: action_header.clone(),
            records: records_in,
            counters: Arc::clone(&counters),
            misses: Budget::new(settings.miss_budget),
            errors: Budget::new(settings.error_budget),
            settings: Arc::clone(settings),
            revision: 0,
            epoch: 0,
            tick: InFlight::default(),
            fallback: vec![0.0; width].into(),
            halted: None,
        });
        Self { holder, claimant, action_header, counters, answers: Answers { gateway, records } }
    }
}

impl Answers {
    /// Takes everything out of both rings.
    #[inline]
    pub(super) fn discard(&mut self) {
        for ring in [&mut self.gateway, &mut self.records] {
            while let Ok(Some(peek)) = ring.peek() {
                peek.release();
            }
        }
    }
}

/// A ring in ordinary memory, and both of its ends.
pub(super) fn private_ring(kind: u32, slot_size: usize, dimension: usize) -> (Region, Producer, Consumer) {
    let (slot_size, dimension) = (slot_size as u32, dimension as u32);
    let spec = Spec { kind, slot_size, dimension, capacity: CAPACITY, generation: 1 };
    HeapRegion::both_ends(spec).expect("the ring allows this capacity")
}
