//! Limits the misses in the log: an agent under `on_miss = "safe_default"` may miss thousands of times a
//! second.

use escapement_ring::clock::Nanos;

/// Lines in one period.
const LINES: u32 = 10;
/// The period.
const PERIOD: Nanos = Nanos::from_millis(1_000);

/// Allows a few lines in each second, and counts the lines that it suppressed.
#[derive(Debug, Default)]
pub struct LogRateLimit {
    /// When the current period began.
    begin: Nanos,
    /// Lines allowed in it.
    allowed: u32,
    suppressed: u64,
}

impl LogRateLimit {
    /// Returns `None` if no line may be written now. Otherwise returns how many were suppressed since the
    /// last one.
    pub fn allow(&mut self, now: Nanos) -> Option<u64> {
        if now.since(self.begin) >= PERIOD {
            self.begin = now;
            self.allowed = 0;
        }
        if self.allowed == LINES {
            self.suppressed += 1;
            return None;
        }
        self.allowed += 1;
        Some(std::mem::take(&mut self.suppressed))
    }

    /// Lines suppressed since the last one that was allowed.
    pub fn suppressed(&self) -> u64 {
        self.suppressed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_lines_a_second_are_allowed_and_the_rest_is_counted() {
        let mut limit = LogRateLimit::default();
        let at = |millis: u64| Nanos::from_millis(10_000 + millis);
        let allowed = (0..25u64).filter(|_| limit.allow(at(0)) == Some(0)).count();
        assert_eq!((allowed, limit.suppressed()), (10, 15));
        assert_eq!(limit.allow(at(999)), None);
        assert_eq!(limit.allow(at(1_000)), Some(16));
        assert_eq!(limit.allow(at(1_001)), Some(0));
    }
}
