//! Counts the memory and the work that a file causes while it is read and lowered.
//!
//! Every step is charged before it is taken: each allocation before it is made, each loop before it runs.
//! Both budgets grow with the archive's size ([`Limits::memory_for`], [`Limits::work_for`]), so that a small
//! file cannot cause a large effect. One meter is shared by all stages.
//!
//! Memory is counted as held until a stage ends ([`Meter::release`]), also where it is freed earlier. So the
//! count is never below what is in use.

use std::cell::Cell;
use std::rc::Rc;

use crate::limits::Limits;
use crate::refusal::{Refusal, RefusalKind};

/// Bytes that one step of work can copy or clear. Memory is charged as work too, at this rate.
const BYTES_PER_STEP: u64 = 16;
/// What an allocation takes beside its content: the allocator's own data, and the counts of an `Rc`.
const OVERHEAD: u64 = 32;

/// The memory and work that a file has caused so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// The most bytes of memory that were counted as held at one time.
    pub memory: u64,
    /// Steps of work.
    pub work: u64,
}

/// A handle on the budgets of one file.
#[derive(Debug, Clone)]
pub(crate) struct Meter(Rc<Budgets>);

#[derive(Debug)]
struct Budgets {
    memory_limit: u64,
    work_limit: u64,
    length: u64,
    /// Bytes that are counted as held.
    held: Cell<u64>,
    /// Bytes among them that no release frees.
    kept: Cell<u64>,
    peak: Cell<u64>,
    work: Cell<u64>,
}

/// The memory that was held when a stage began.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mark {
    held: u64,
    kept: u64,
}

impl Meter {
    /// A meter with the budgets of an archive of `length` bytes.
    pub(crate) fn new(length: usize, limits: &Limits) -> Self {
        let length = length as u64;
        Self(Rc::new(Budgets {
            memory_limit: limits.memory_for(length),
            work_limit: limits.work_for(length),
            length,
            held: Cell::new(0),
            kept: Cell::new(0),
            peak: Cell::new(0),
            work: Cell::new(0),
        }))
    }

    /// Charges `steps` of work. Fails if they exceed the budget.
    pub(crate) fn work(&self, steps: usize) -> Result<(), Refusal> {
        let budgets = &*self.0;
        let work = budgets.work.get().saturating_add(steps as u64);
        if work > budgets.work_limit {
            return Err(Refusal::new(
                RefusalKind::TooMuchWork,
                format!(
                    "reading it takes too much work: more than {} steps for a file of {} bytes",
                    budgets.work_limit, budgets.length
                ),
            ));
        }
        budgets.work.set(work);
        Ok(())
    }

    /// Charges `bytes` of memory. The caller allocates them afterwards. Fails if they exceed the budget.
    pub(crate) fn bytes(&self, bytes: usize) -> Result<(), Refusal> {
        let budgets = &*self.0;
        let bytes = (bytes as u64).saturating_add(OVERHEAD);
        let held = budgets.held.get().saturating_add(bytes);
        if held > budgets.memory_limit {
            return Err(Refusal::new(
                RefusalKind::TooMuchMemory,
                format!(
                    "reading it takes too much memory: more than {} bytes for a file of {} bytes",
                    budgets.memory_limit, budgets.length
                ),
            ));
        }
        self.work(usize::try_from(bytes / BYTES_PER_STEP).unwrap_or(usize::MAX))?;
        budgets.held.set(held);
        budgets.peak.set(budgets.peak.get().max(held));
        Ok(())
    }

    /// Charges the memory of `count` values of type `T`.
    pub(crate) fn room<T>(&self, count: usize) -> Result<(), Refusal> {
        self.bytes(count.saturating_mul(size_of::<T>()))
    }

    /// As [`Meter::bytes`], for memory that outlives the stage.
    pub(crate) fn kept_bytes(&self, bytes: usize) -> Result<(), Refusal> {
        self.bytes(bytes)?;
        self.0.kept.set(self.0.kept.get() + bytes as u64 + OVERHEAD);
        Ok(())
    }

    /// Begins a stage.
    pub(crate) fn mark(&self) -> Mark {
        Mark { held: self.0.held.get(), kept: self.0.kept.get() }
    }

    /// Ends a stage: what it held is free again, except what it keeps. The caller must have dropped it.
    pub(crate) fn release(&self, mark: Mark) {
        self.0.held.set(mark.held + (self.0.kept.get() - mark.kept));
    }

    /// What was charged so far.
    pub(crate) fn cost(&self) -> Cost {
        Cost { memory: self.0.peak.get(), work: self.0.work.get() }
    }
}

#[cfg(test)]
mod tests {
    use super::{Meter, OVERHEAD};
    use crate::limits::Limits;
    use crate::refusal::RefusalKind;

    fn meter() -> Meter {
        let limits = Limits {
            memory_base: 1_000,
            memory_per_byte: 10,
            work_base: 500,
            work_per_byte: 2,
            ..Limits::default()
        };
        Meter::new(50, &limits)
    }

    #[test]
    fn each_budget_ends_at_its_limit_and_says_which_one() {
        let most = 1_500 - OVERHEAD as usize;
        assert!(meter().bytes(most).is_ok());
        assert_eq!(meter().bytes(most + 1).map_err(|it| it.kind), Err(RefusalKind::TooMuchMemory));
        assert!(meter().work(600).is_ok());
        assert_eq!(meter().work(601).map_err(|it| it.kind), Err(RefusalKind::TooMuchWork));
        assert!(meter().bytes(usize::MAX).is_err() && meter().work(usize::MAX).is_err());
    }

    #[test]
    fn a_stage_gives_back_what_it_does_not_keep_and_never_its_work() {
        let meter = meter();
        for _ in 0..4 {
            let mark = meter.mark();
            assert!(meter.bytes(1_000).is_ok());
            meter.release(mark);
        }
        let mark = meter.mark();
        assert!(meter.kept_bytes(1_000).is_ok());
        meter.release(mark);
        assert!(meter.bytes(1_000).is_err(), "the kept bytes count on");
        assert!(meter.cost().work >= 5 * 1_000 / 16);
        assert!(meter.cost().memory >= 1_000);
    }
}
