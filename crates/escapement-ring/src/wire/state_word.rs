//! The state word of an action ring's header, decoded.

use super::outcome::{AgentState, Reason};

/// What the state word says: the agent's state, and why it is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateWord {
    /// The state; `None` for a number that this version does not know.
    pub state: Option<AgentState>,
    /// The reason; `None` for a number that this version does not know.
    pub reason: Option<Reason>,
}

impl StateWord {
    /// Decodes the numbers that a ring's header holds.
    pub fn from_numbers((state, reason): (u32, u32)) -> Self {
        Self {
            state: AgentState::from_number(state),
            reason: u16::try_from(reason).ok().and_then(Reason::from_number),
        }
    }

    /// Whether the state is `armed`.
    pub fn is_armed(self) -> bool {
        self.state == Some(AgentState::Armed)
    }

    /// Whether the state is `halted`.
    pub fn is_halted(self) -> bool {
        self.state == Some(AgentState::Halted)
    }

    /// The state's name; `unknown` for a number that this version does not know.
    pub fn state_name(self) -> &'static str {
        self.state.map_or("unknown", AgentState::name)
    }

    /// The reason's name; `unknown` for a number that this version does not know.
    pub fn reason_name(self) -> &'static str {
        self.reason.map_or("unknown", Reason::name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_numbers_are_decoded_and_others_are_unknown() {
        for state in AgentState::ALL {
            for reason in Reason::ALL {
                let word = StateWord::from_numbers((state.number(), reason.number().into()));
                assert_eq!(word, StateWord { state: Some(*state), reason: Some(*reason) });
                assert_eq!((word.state_name(), word.reason_name()), (state.name(), reason.name()));
            }
        }
        for number in [u32::from(u16::MAX), u32::from(u16::MAX) + 1, u32::MAX] {
            let word = StateWord::from_numbers((number, number));
            assert_eq!(word, StateWord { state: None, reason: None });
            assert_eq!((word.state_name(), word.reason_name()), ("unknown", "unknown"));
            assert!(!word.is_halted() && !word.is_armed());
        }
    }
}
