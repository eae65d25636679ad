//! Audit lines of refused reloads. A user may ask as often as the control socket answers, and each line is
//! synced to disk. So only the first refusals of a second get lines of their own. The rest are folded into
//! one line, which names their count.

use super::rate::RateLimit;
use crate::halt::AuditDetails;
use crate::status::ReloadOutcome;
use escapement_ring::clock::Nanos;

/// Refusals of one second with a line of their own.
const LINES_A_SECOND: u32 = 8;
/// How long folded refusals wait for their line.
const FOLD: Nanos = Nanos::from_millis(1_000);

/// The refusals of a process.
pub(super) struct Refusals {
    lines: RateLimit,
    /// The latest refusal without a line, how many there are, and since when.
    waiting: Option<(AuditDetails, u64, Nanos)>,
    folded: u64,
}

impl Refusals {
    pub(super) fn new() -> Self {
        Self { lines: RateLimit::new(LINES_A_SECOND), waiting: None, folded: 0 }
    }

    /// Returns the refusal's line, unless it is folded.
    pub(super) fn note(&mut self, now: Nanos, outcome: &ReloadOutcome) -> Option<AuditDetails> {
        let (text, user) = (outcome.refused.clone(), outcome.user.clone());
        let line = AuditDetails { text, user, ..AuditDetails::default() };
        if self.waiting.is_none() && self.lines.allows(now) {
            return Some(line);
        }
        let (count, since) = self.waiting.take().map_or((0, now), |(_, count, since)| (count, since));
        self.waiting = Some((line, count + 1, since));
        self.folded += 1;
        None
    }

    /// Returns the line of the folded refusals, once they have waited for a second.
    pub(super) fn due(&mut self, now: Nanos) -> Option<AuditDetails> {
        let (_, _, since) = self.waiting.as_ref()?;
        if now.since(*since) < FOLD { None } else { self.rest() }
    }

    /// Returns the line of the folded refusals.
    pub(super) fn rest(&mut self) -> Option<AuditDetails> {
        let (line, count, _) = self.waiting.take()?;
        let why = line.text.unwrap_or_default();
        let text =
            Some(if count == 1 { why } else { format!("{count} refusals in a second, the last: {why}") });
        Some(AuditDetails { text, ..line })
    }

    /// How many refusals were folded.
    pub(super) fn folded(&self) -> u64 {
        self.folded
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent_files::ReloadTarget;

    #[test]
    fn the_refusals_of_a_flood_are_counted_in_one_line() {
        let mut refusals = Refusals::new();
        let outcome = ReloadOutcome {
            ticket: 1,
            at: String::new(),
            target: ReloadTarget::Previous,
            user: None,
            applied: false,
            revision: 1,
            refused: Some("no".to_owned()),
            waits_for_restart: Vec::new(),
            policy_changed: false,
        };
        let at = |millis: u64| Nanos::from_millis(10_000 + millis);
        let lines = (0..1_000).filter(|n| refusals.note(at(n % 900), &outcome).is_some()).count();
        assert_eq!(lines, LINES_A_SECOND as usize);
        assert!(refusals.due(at(900)).is_none());
        let line = refusals.due(at(2_000)).expect("one line");
        assert_eq!(line.text.as_deref(), Some("992 refusals in a second, the last: no"));
        assert!(refusals.rest().is_none());
        assert_eq!(refusals.folded(), 992);
    }
}
