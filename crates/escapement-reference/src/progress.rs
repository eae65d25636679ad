//! A line of progress on a terminal.

use escapement_ring::clock::Nanos;

/// A line on standard error that is overwritten at each update. Prints nothing if standard error is not a
/// terminal.
pub struct ProgressLine {
    shown: bool,
    wanted: bool,
    next: Nanos,
}

impl ProgressLine {
    const EVERY: Nanos = Nanos::from_millis(250);

    /// A line that is not shown yet.
    pub fn new() -> Self {
        let wanted = std::io::IsTerminal::is_terminal(&std::io::stderr());
        Self { shown: false, wanted, next: Nanos(0) }
    }

    /// Shows the text, at most four times a second. `text` is only called if it is shown.
    pub fn update(&mut self, now: Nanos, text: impl FnOnce() -> String) {
        if self.wanted && now >= self.next {
            self.next = now.plus(Self::EVERY);
            self.shown = true;
            eprint!("\r\x1b[2K{}", text());
        }
    }

    /// Wipes the line, so that the next output starts on an empty one.
    pub fn clear(&mut self) {
        if std::mem::take(&mut self.shown) {
            eprint!("\r\x1b[2K");
        }
    }
}

impl Default for ProgressLine {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for ProgressLine {
    fn drop(&mut self) {
        self.clear();
    }
}
