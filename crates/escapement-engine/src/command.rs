//! Commands from other threads to the engine: one word, which the engine reads between ticks.

use escapement_ring::sync::{AtomicU64, Ordering};

/// A command to the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Answer observations.
    Run,
    /// Answer the observations that are in the ring, then stop.
    Drain,
    /// Stop at once, without answering any more.
    Stop,
    /// Halt at once, because a person asked for it.
    Halt,
}

/// The word that holds the command. Requests only escalate, so a late drain cannot undo a halt.
#[derive(Debug, Default)]
pub struct CommandWord {
    word: AtomicU64,
}

impl CommandWord {
    /// Creates a word that says [`Command::Run`].
    pub fn new() -> Self {
        Self::default()
    }

    /// Requests a command. Ignored if a stronger one was requested before. Relaxed, because the word orders
    /// no other memory.
    pub fn request(&self, command: Command) {
        self.word.fetch_max(Self::rank(command), Ordering::Relaxed);
    }

    /// Returns the strongest command requested so far.
    #[inline]
    pub fn get(&self) -> Command {
        match self.word.load(Ordering::Relaxed) {
            0 => Command::Run,
            1 => Command::Drain,
            2 => Command::Stop,
            _ => Command::Halt,
        }
    }

    fn rank(command: Command) -> u64 {
        match command {
            Command::Run => 0,
            Command::Drain => 1,
            Command::Stop => 2,
            Command::Halt => 3,
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn requests_only_escalate() {
        let word = CommandWord::new();
        assert_eq!(word.get(), Command::Run);
        word.request(Command::Halt);
        word.request(Command::Drain);
        assert_eq!(word.get(), Command::Halt);
    }
}
