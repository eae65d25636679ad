//! The ledger: accounts for every observation, from the actions alone.
//!
//! An action names the position of the observation that it answers. Positions only grow. If the position is
//! one above the last, it is the next observation; if it is `n + 1` above, `n` observations were skipped; if
//! it is equal, the action is a duplicate; if it is below, the action is out of order. Together with the
//! observation ring's own positions, every observation is accounted for, and the account must balance.

use serde::{Deserialize, Serialize};
use std::ops::AddAssign;

/// Counts one ring's actions. It takes positions as numbers and reads no ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ledger {
    /// The first position that this ledger accounts for, once known.
    base: Option<u64>,
    /// The highest position that was answered.
    last: Option<u64>,
    actions: u64,
    skipped: u64,
    duplicates: u64,
    out_of_order: u64,
    torn: u64,
}

/// The account, as every report shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Account {
    /// Observations committed since the account was opened.
    pub observations: u64,
    /// Observations answered, each counted once.
    pub actions: u64,
    /// Observations that ended without an action.
    pub skipped: u64,
    /// Actions for an observation that the previous action had answered.
    pub duplicates: u64,
    /// Actions for an earlier observation than the previous action's.
    pub out_of_order: u64,
    /// Action frames whose checksum does not match, or whose outcome or reason is unknown.
    pub torn: u64,
    /// Observations still in the ring: neither answered nor skipped yet.
    pub waiting: u64,
    /// Actions for observations that were never committed.
    pub invented: u64,
}

impl Ledger {
    /// A ledger of everything since the ring was made.
    pub fn from_the_start() -> Self {
        Self { base: Some(0), ..Self::from_the_first_action() }
    }

    /// A ledger that begins with the first action noted. A predecessor accounted for the ones before, and
    /// what was skipped then is unknown.
    pub fn from_the_first_action() -> Self {
        Self { base: None, last: None, actions: 0, skipped: 0, duplicates: 0, out_of_order: 0, torn: 0 }
    }

    /// Notes an intact action that answers the observation at `position`.
    pub fn note(&mut self, position: u64) {
        let due = match self.last {
            Some(last) => last + 1,
            None => *self.base.get_or_insert(position),
        };
        if position >= due {
            self.actions += 1;
            self.skipped += position - due;
            self.last = Some(position);
        } else if self.last == Some(position) {
            self.duplicates += 1;
        } else {
            self.out_of_order += 1;
        }
    }

    /// Notes a torn action frame. Its position is not used.
    pub fn note_torn(&mut self) {
        self.torn += 1;
    }

    /// Observations answered so far.
    pub fn actions(&self) -> u64 {
        self.actions
    }

    /// The account up to the last action, for readers without access to the observation ring.
    pub fn settled(&self) -> Account {
        let answered_to = self.last.map_or_else(|| self.base.unwrap_or(0), |last| last + 1);
        self.account(answered_to, answered_to)
    }

    /// Balances the account against the observation ring, in which `committed` observations were committed
    /// and `released` released. Observations that were released after the last answered one were skipped.
    pub fn account(&self, committed: u64, released: u64) -> Account {
        // A ledger without actions begins at the agent's position.
        let base = self.base.unwrap_or(released).min(committed);
        let answered_to = self.last.map_or(base, |last| last + 1);
        // An agent that died between commit and release has answered one more observation than it released.
        let settled_to = answered_to.max(released.min(committed));
        Account {
            observations: committed - base,
            actions: self.actions,
            skipped: self.skipped + (settled_to - answered_to),
            duplicates: self.duplicates,
            out_of_order: self.out_of_order,
            torn: self.torn,
            waiting: committed.saturating_sub(settled_to),
            invented: answered_to.saturating_sub(committed),
        }
    }
}

impl Account {
    /// Returns whether every observation has exactly one outcome or is still waiting.
    pub fn holds(&self) -> bool {
        self.observations == self.actions + self.skipped + self.waiting
            && self.duplicates == 0
            && self.out_of_order == 0
            && self.torn == 0
            && self.invented == 0
    }
}

/// Adds the account of a ring that replaced the first one.
impl AddAssign for Account {
    fn add_assign(&mut self, other: Self) {
        self.observations += other.observations;
        self.actions += other.actions;
        self.skipped += other.skipped;
        self.duplicates += other.duplicates;
        self.out_of_order += other.out_of_order;
        self.torn += other.torn;
        self.waiting += other.waiting;
        self.invented += other.invented;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ledger(base: Ledger, positions: &[u64]) -> Ledger {
        let mut ledger = base;
        for position in positions {
            ledger.note(*position);
        }
        ledger
    }

    #[test]
    fn jumps_are_skips_and_the_tail_is_settled_by_the_ring() {
        let account = ledger(Ledger::from_the_start(), &[2, 3, 7]).account(12, 10);
        let expected =
            Account { observations: 12, actions: 3, skipped: 2 + 3 + 2, waiting: 2, ..Account::default() };
        assert_eq!(account, expected);
        assert!(account.holds());
    }

    #[test]
    fn a_late_ledger_begins_with_its_first_action() {
        let account = ledger(Ledger::from_the_first_action(), &[100, 101, 103]).account(104, 104);
        assert_eq!((account.observations, account.actions, account.skipped), (4, 3, 1));
        assert!(account.holds());
        let nothing = Ledger::from_the_first_action().account(9, 7);
        assert_eq!((nothing.observations, nothing.waiting), (2, 2));
        assert!(nothing.holds());
    }

    #[test]
    fn an_agent_that_died_between_commit_and_release_is_in_order() {
        let account = ledger(Ledger::from_the_start(), &[0, 1, 2]).account(3, 2);
        assert_eq!((account.observations, account.actions, account.skipped, account.waiting), (3, 3, 0, 0));
        assert!(account.holds());
    }

    #[test]
    fn each_fault_is_named_and_fails_the_account() {
        let twice = ledger(Ledger::from_the_start(), &[0, 1, 1, 2]).account(3, 3);
        assert_eq!((twice.duplicates, twice.out_of_order), (1, 0));
        let back = ledger(Ledger::from_the_start(), &[0, 2, 1]).account(3, 3);
        assert_eq!((back.duplicates, back.out_of_order), (0, 1));
        let invented = ledger(Ledger::from_the_start(), &[0, 1, 5]).account(3, 3);
        assert_eq!(invented.invented, 3);
        let mut torn = ledger(Ledger::from_the_start(), &[0, 1, 2]);
        torn.note_torn();
        for account in [twice, back, invented, torn.account(3, 3)] {
            assert!(!account.holds(), "{account:?}");
        }
    }

    #[test]
    fn an_account_whose_figures_do_not_add_up_does_not_hold() {
        let good = Account { observations: 5, actions: 3, skipped: 1, waiting: 1, ..Account::default() };
        assert!(good.holds());
        assert!(!Account { actions: 4, ..good }.holds());
        assert!(!Account { skipped: 0, ..good }.holds());
        assert!(!Account { observations: 6, ..good }.holds());
    }

    proptest! {
        /// Any correct run balances, wherever the ledger begins and wherever the agent stands.
        #[test]
        fn an_honest_run_holds(
            answered in prop::collection::vec(any::<bool>(), 1..200),
            waiting in 0u64..10,
            from_the_start in any::<bool>(),
        ) {
            let released = answered.len() as u64;
            let positions: Vec<u64> = (0..released).filter(|at| answered[*at as usize]).collect();
            let base = match from_the_start {
                true => Ledger::from_the_start(),
                false => Ledger::from_the_first_action(),
            };
            let account = ledger(base, &positions).account(released + waiting, released);
            prop_assert!(account.holds(), "{account:?}");
            prop_assert_eq!(account.actions, positions.len() as u64);
            prop_assert_eq!(account.waiting, waiting);
            if from_the_start {
                prop_assert_eq!(account.skipped, released - positions.len() as u64);
            }
        }

        /// One planted fault, anywhere in an honest run, is found and counted as what it is.
        #[test]
        fn a_planted_fault_is_found(
            length in 2u64..200,
            at in any::<prop::sample::Index>(),
            back in any::<prop::sample::Index>(),
        ) {
            let mut positions: Vec<u64> = (0..length).collect();
            let at = 1 + at.index(positions.len() - 1);
            let repeated = back.index(at) as u64;
            positions.insert(at, repeated);
            let account = ledger(Ledger::from_the_start(), &positions).account(length, length);
            prop_assert!(!account.holds());
            let expected = if repeated + 1 == at as u64 { (1, 0) } else { (0, 1) };
            prop_assert_eq!((account.duplicates, account.out_of_order), expected);
        }
    }
}
