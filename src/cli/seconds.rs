//! Spans of time on the command line.

use std::time::Duration;

/// Parses a span of time in seconds, such as `10` or `0.5`.
pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    let allowed = || "allowed: seconds, 0 or more, such as 10 or 0.5".to_owned();
    let seconds: f64 = text.parse().map_err(|_| allowed())?;
    Duration::try_from_secs_f64(seconds).map_err(|_| allowed())
}
