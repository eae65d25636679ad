//! The counts and latencies of a tap, and its report.

use escapement_engine::telemetry::{Histogram, Percentiles};
use escapement_ring::gateway::{Account, Received};
use escapement_ring::wire::{Outcome, Reason};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Counts and latencies of the actions taken so far.
#[derive(Default)]
pub struct Tally {
    /// Counts by outcome and reason. Both are small numbers, so a count is found by index.
    verdicts: [[u64; Reason::ALL.len()]; Outcome::ALL.len()],
    sent: u64,
    withheld: BTreeMap<&'static str, u64>,
    queue: Histogram,
    inference: Histogram,
    tick_to_action: Histogram,
}

/// The report of `tap`. It is also part of the report of `demo`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct TapReport {
    /// The account of every observation.
    pub ledger: Account,
    /// Actions by reason (`policy` for the policy's own).
    pub outcomes: BTreeMap<String, u64>,
    /// Actions by outcome, then by reason.
    pub verdicts: BTreeMap<String, BTreeMap<String, u64>>,
    /// Latencies, in nanoseconds.
    pub latency_ns: Latencies,
    /// Actions that a gateway would have sent.
    pub sent: u64,
    /// Actions that it would have withheld, by the name of the reason
    /// ([`Withheld`](escapement_ring::gateway::Withheld)).
    pub withheld: BTreeMap<String, u64>,
}

/// The three latencies of every report.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Latencies {
    /// From the observation's commit to its peek.
    pub queue: Percentiles,
    /// From the policy's call to its return, if it was called.
    pub inference: Percentiles,
    /// From the observation's commit to the action's commit.
    pub tick_to_action: Percentiles,
}

impl Tally {
    pub fn note(&mut self, received: &Received<'_>) {
        match received.check() {
            Ok(()) => self.sent += 1,
            Err(why) => *self.withheld.entry(why.name()).or_default() += 1,
        }
        let Some((outcome, reason)) = received.verdict else { return };
        // Outcome numbers begin at 1, reason numbers at 0, both without gaps. A test checks that.
        self.verdicts[usize::from(outcome.number()) - 1][usize::from(reason.number())] += 1;
        let header = &received.header;
        // A stamp ahead of the agent's clock has no latency. Zero would be a wrong one.
        if reason != Reason::StampedAhead {
            self.queue.record(header.queue_ns);
            self.tick_to_action.record(header.ts_commit_ns.saturating_sub(header.ts_publish_ns));
        }
        if header.inference_ns > 0 {
            self.inference.record(header.inference_ns);
        }
    }

    pub fn actions(&self) -> u64 {
        self.verdicts.iter().flatten().sum()
    }

    pub fn median_tick_to_action_ns(&self) -> u64 {
        self.tick_to_action.quantile_ns(0.5)
    }

    pub fn report(&self, ledger: Account) -> TapReport {
        let mut report = TapReport {
            ledger,
            latency_ns: Latencies {
                queue: self.queue.percentiles(),
                inference: self.inference.percentiles(),
                tick_to_action: self.tick_to_action.percentiles(),
            },
            sent: self.sent,
            withheld: self.withheld.iter().map(|(why, count)| ((*why).to_owned(), *count)).collect(),
            ..TapReport::default()
        };
        for (outcome, reasons) in Outcome::ALL.iter().zip(&self.verdicts) {
            for (reason, count) in Reason::ALL.iter().zip(reasons).filter(|(_, count)| **count > 0) {
                let reason = reason.name().to_owned();
                *report.outcomes.entry(reason.clone()).or_default() += count;
                report.verdicts.entry(outcome.name().to_owned()).or_default().insert(reason, *count);
            }
        }
        report
    }
}

impl TapReport {
    /// The report as text: two tables and the ledger's line.
    pub fn table(&self) -> String {
        use std::fmt::Write as _;
        let mut text = String::new();
        let actions = self.ledger.actions.max(1) as f64;
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{:<14}{:<26}{:>12}{:>10}", "outcome", "reason", "count", "share");
        for (outcome, reasons) in &self.verdicts {
            for (reason, count) in reasons {
                let share = 100.0 * *count as f64 / actions;
                let _ = writeln!(text, "{outcome:<14}{reason:<26}{count:>12}{share:>8.2} %");
            }
        }
        let _ = writeln!(
            text,
            "\n{:<16}{:>10}{:>12}{:>12}{:>12}{:>12}",
            "latency, us", "count", "p50", "p99", "p99.9", "max"
        );
        let latencies = &self.latency_ns;
        for (name, figures) in [
            ("queue", &latencies.queue),
            ("inference", &latencies.inference),
            ("tick_to_action", &latencies.tick_to_action),
        ] {
            let _ = write!(text, "{name:<16}{:>10}", figures.count);
            for latency_ns in [figures.p50, figures.p99, figures.p999, figures.max] {
                let _ = write!(text, "{:>12.1}", latency_ns as f64 / 1_000.0);
            }
            text.push('\n');
        }
        let _ = write!(text, "\nsent {}", self.sent);
        for (why, count) in &self.withheld {
            let _ = write!(text, ", withheld as {why} {count}");
        }
        text.push('\n');
        text.push_str(&ledger_line(&self.ledger));
        text
    }
}

/// The account on one line, with its verdict.
fn ledger_line(ledger: &Account) -> String {
    let mut text = format!(
        "ledger: {} observations, {} actions, {} skipped, {} duplicates, {} out of order, {} torn",
        ledger.observations,
        ledger.actions,
        ledger.skipped,
        ledger.duplicates,
        ledger.out_of_order,
        ledger.torn
    );
    if ledger.waiting > 0 {
        text += &format!(", {} still waiting", ledger.waiting);
    }
    if ledger.invented > 0 {
        text += &format!(", {} answers to nothing", ledger.invented);
    }
    text + if ledger.holds() { ": it holds" } else { ": IT DOES NOT HOLD" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use escapement_ring::clock::Nanos;
    use escapement_ring::gateway::{Condition, Present};
    use escapement_ring::wire::ActionHeader;

    fn received(verdict: Option<(Outcome, Reason)>, condition: Condition) -> Received<'static> {
        let header = ActionHeader {
            ts_publish_ns: 100,
            ts_commit_ns: 350,
            queue_ns: 50,
            inference_ns: if verdict == Some((Outcome::Policy, Reason::None)) { 120 } else { 0 },
            ..ActionHeader::default()
        };
        let (now, max_action_age) = (Nanos(400), Nanos(100));
        let present = Present { condition, generation: 1, epoch: 0, now, max_action_age };
        Received { generation: 1, ring_position: 0, header, payload: &[], verdict, present }
    }

    #[test]
    fn every_outcome_and_reason_has_its_place() {
        for (index, outcome) in Outcome::ALL.iter().enumerate() {
            assert_eq!(usize::from(outcome.number()), index + 1);
        }
        for (index, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(usize::from(reason.number()), index);
        }
    }

    #[test]
    fn a_tally_counts_what_it_is_shown() {
        let mut tally = Tally::default();
        let silent = Condition::Silent { age: Default::default() };
        tally.note(&received(Some((Outcome::Policy, Reason::None)), Condition::Armed));
        tally.note(&received(Some((Outcome::SafeDefault, Reason::InferenceLate)), Condition::Armed));
        tally.note(&received(Some((Outcome::Halt, Reason::InferenceLate)), Condition::Armed));
        tally.note(&received(Some((Outcome::Policy, Reason::None)), silent));
        tally.note(&received(None, Condition::Armed));
        let late = received(Some((Outcome::Policy, Reason::None)), Condition::Armed);
        tally.note(&Received { present: Present { now: Nanos(451), ..late.present }, ..late });
        tally.note(&Received { present: Present { epoch: 2, ..late.present }, ..late });
        let report = tally.report(Account { actions: 6, observations: 6, torn: 1, ..Account::default() });
        assert_eq!((report.outcomes["policy"], report.outcomes["inference_late"]), (4, 2));
        assert_eq!(report.verdicts["halt"]["inference_late"], 1);
        assert_eq!((report.sent, tally.actions()), (2, 6));
        assert!(report.table().contains("sent 2, withheld as halt 1, withheld as past_epoch 1, "));
        let withheld: Vec<_> = report.withheld.iter().map(|(why, count)| (why.as_str(), *count)).collect();
        assert_eq!(withheld, [("halt", 1), ("past_epoch", 1), ("silent", 1), ("too_old", 1), ("torn", 1)]);
        let latency = report.latency_ns;
        assert_eq!((latency.inference.count, latency.inference.max), (4, 120));
        assert_eq!(
            (latency.tick_to_action.count, latency.tick_to_action.max, latency.queue.max),
            (6, 250, 50)
        );
    }

    #[test]
    fn the_json_has_the_names_of_every_report() {
        let json = serde_json::to_value(Tally::default().report(Account::default())).unwrap();
        for name in ["observations", "actions", "skipped", "duplicates", "out_of_order", "torn"] {
            assert!(json["ledger"][name].is_u64(), "{name}");
        }
        for latency in ["queue", "inference", "tick_to_action"] {
            for figure in ["count", "min", "p50", "p90", "p99", "p999", "max"] {
                assert!(json["latency_ns"][latency][figure].is_u64(), "{latency}.{figure}");
            }
        }
    }

    #[test]
    fn the_verdict_stands_in_the_table() {
        let good = Tally::default().report(Account::default());
        assert!(good.table().ends_with("it holds"));
        let bad = TapReport { ledger: Account { torn: 1, ..Account::default() }, ..good };
        assert!(bad.table().ends_with("IT DOES NOT HOLD"));
    }
}
