//! How many lines the log gets: an agent under `on_miss = "safe_default"` may miss thousands of times a second.

use escapement_ring::clock::Nanos;

/// Lines in one period.
const LINES: u32 = 10;
/// The period.
const PERIOD: Nanos = Nanos::from_millis(1_000);

/// Lets a few lines through in each second, and says how many it kept back before.
#[derive(Debug, Default)]
pub struct LogRateLimit {
    begun: Nanos,
    said: u32,
    suppressed: u64,
}

impl LogRateLimit {
    /// Whether a line may be written now; with it, how many were suppressed since the last one.
    pub fn ask(&mut self, now: Nanos) -> Option<u64> {
        if now.since(self.begun) >= PERIOD {
            self.begun = now;
            self.said = 0;
        }
        if self.said == LINES {
            self.suppressed += 1;
            return None;
        }
        self.said += 1;
        Some(std::mem::take(&mut self.suppressed))
    }

    /// Lines kept back that no later line has told of.
    pub fn suppressed(&self) -> u64 {
        self.suppressed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_lines_a_second_and_the_rest_is_told() {
        let mut allowance = LogRateLimit::default();
        let at = |millis: u64| Nanos::from_millis(10_000 + millis);
        let said = (0..25u64).filter(|_| allowance.ask(at(0)) == Some(0)).count();
        assert_eq!((said, allowance.suppressed()), (10, 15));
        assert_eq!(allowance.ask(at(999)), None);
        assert_eq!(allowance.ask(at(1_000)), Some(16));
        assert_eq!(allowance.ask(at(1_001)), Some(0));
    }
}
