//! Limits for what a peer or a user could otherwise repeat without end: log lines, audit lines and requests.

use escapement_ring::clock::Nanos;

/// The period over which everything here is limited.
const PERIOD: Nanos = Nanos::from_millis(1_000);

/// One log line a second; the others are counted, and named by the next line.
#[derive(Debug, Default)]
pub(super) struct LogLimit {
    written: Option<Nanos>,
    repeated: u64,
}

impl LogLimit {
    /// Calls `write` with the number of events since the last line, or only counts this one.
    pub(super) fn note(&mut self, now: Nanos, write: impl FnOnce(u64)) {
        if self.written.is_none_or(|written| now.since(written) >= PERIOD) {
            write(std::mem::take(&mut self.repeated));
            self.written = Some(now);
        } else {
            self.repeated += 1;
        }
    }

    /// Writes the events that no line has named, once a second has passed.
    pub(super) fn repeat(&mut self, now: Nanos, write: impl FnOnce(u64)) {
        if self.repeated > 0 && self.written.is_none_or(|written| now.since(written) >= PERIOD) {
            write(std::mem::take(&mut self.repeated));
            self.written = Some(now);
        }
    }
}

/// At most so many events in each second.
#[derive(Debug)]
pub(super) struct RateLimit {
    most: u32,
    begun: Nanos,
    count: u32,
}

impl RateLimit {
    pub(super) fn new(most: u32) -> Self {
        Self { most, begun: Nanos(0), count: 0 }
    }

    /// Counts an event. Returns whether it is within the limit.
    pub(super) fn allows(&mut self, now: Nanos) -> bool {
        if now.since(self.begun) >= PERIOD {
            self.begun = now;
            self.count = 0;
        }
        self.count = self.count.saturating_add(1);
        self.count <= self.most
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_has_so_many_events_and_no_more() {
        let mut limit = RateLimit::new(2);
        let at = |millis: u64| Nanos::from_millis(5_000 + millis);
        assert_eq!([0, 1, 2, 999].map(|now| limit.allows(at(now))), [true, true, false, false]);
        assert!(limit.allows(at(1_000)));
    }

    #[test]
    fn a_line_names_how_often_its_event_was_repeated() {
        let (mut limit, mut lines) = (LogLimit::default(), Vec::new());
        for now in [0, 1, 2, 1_500, 1_600] {
            limit.note(Nanos::from_millis(now), |repeated| lines.push(repeated));
        }
        limit.repeat(Nanos::from_millis(1_700), |_| panic!("too early"));
        limit.repeat(Nanos::from_millis(2_500), |repeated| lines.push(repeated));
        limit.repeat(Nanos::from_millis(9_000), |_| panic!("nothing is left"));
        assert_eq!(lines, [0, 2, 1]);
    }
}
