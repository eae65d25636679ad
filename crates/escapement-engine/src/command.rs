//! What other threads ask of the engine: one word, looked at between ticks.

use escapement_ring::sync::{AtomicU64, Ordering};

/// What the engine is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Answer observations.
    Run,
    /// Answer what is in the ring, then stop.
    Drain,
    /// Stop at once, answering nothing more.
    Stop,
    /// Halt at once: a person said so.
    Halt,
}

/// The word. Requests only escalate, so that a late drain cannot undo a halt.
#[derive(Debug, Default)]
pub struct CommandWord {
    word: AtomicU64,
}

impl CommandWord {
    /// A word that says [`Command::Run`].
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks for something; ignored when something stronger has been asked for already. Relaxed: the word orders
    /// nothing but itself.
    pub fn request(&self, command: Command) {
        self.word.fetch_max(Self::rank(command), Ordering::Relaxed);
    }

    /// What is asked for now.
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
