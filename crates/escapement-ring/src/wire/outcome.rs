//! The numbers of outcomes, reasons and agent states. They stand in shared memory and are never reused.

/// Declares an enum whose numbers cross a process boundary, with its conversions and its name in reports.
macro_rules! wire_numbers {
    (
        $(#[$meta:meta])*
        $name:ident: $repr:ty {
            $($(#[$variant_meta:meta])* $variant:ident = $number:literal, $text:literal;)*
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr($repr)]
        pub enum $name {
            $($(#[$variant_meta])* $variant = $number,)*
        }

        impl $name {
            /// Every variant, in the order of its number.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The number on the wire.
            #[inline]
            pub const fn number(self) -> $repr {
                self as $repr
            }

            /// The variant of a number read from the wire; `None` for one that this version does not know.
            #[inline]
            pub const fn from_number(number: $repr) -> Option<Self> {
                match number {
                    $($number => Some(Self::$variant),)*
                    _ => None,
                }
            }

            /// The name in reports, logs and JSON.
            #[inline]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                }
            }
        }
    };
}

wire_numbers! {
    /// The kind of action that answered an observation.
    Outcome: u16 {
        /// The policy's own action.
        Policy = 1, "policy";
        /// The configured safe default.
        SafeDefault = 2, "safe_default";
        /// The neutral action; the last record of an epoch.
        Halt = 3, "halt";
        /// The fallback policy's action, in place of a policy's action that was late, invalid or missing.
        Fallback = 4, "fallback";
    }
}

wire_numbers! {
    /// Why it was not the policy's action, or why the agent halted.
    Reason: u16 {
        /// It was the policy's action.
        None = 0, "policy";
        /// The policy took longer than `inference_us`.
        InferenceLate = 1, "inference_late";
        /// Peek to commit took longer than `end_to_end_us`.
        EndToEndLate = 2, "end_to_end_late";
        /// The guard answered at the deadline, while the policy still computed.
        GuardTakeover = 3, "guard_takeover";
        /// The observation was older than `max_age_us` when it was peeked.
        Stale = 4, "stale";
        /// The observation held a NaN or an infinity.
        ObservationNonFinite = 5, "observation_non_finite";
        /// A feature lay outside its configured limits.
        ObservationOutOfRange = 6, "observation_out_of_range";
        /// Sequence numbers are missing before this observation.
        SequenceGap = 7, "sequence_gap";
        /// The policy's action held a NaN or an infinity.
        ActionNonFinite = 8, "action_non_finite";
        /// The policy's action lay outside its bounds.
        ActionOutOfBounds = 9, "action_out_of_bounds";
        /// The policy raised an error, or returned something that is not an action.
        PolicyError = 10, "policy_error";
        /// A person or a supervising program asked for it.
        Operator = 11, "operator";
        /// The same sequence number as the observation before.
        SequenceDuplicate = 12, "sequence_duplicate";
        /// A lower sequence number than the observation before.
        SequenceReordered = 13, "sequence_reordered";
        /// The frame's checksum does not match its bytes.
        ObservationTorn = 14, "observation_torn";
        /// The action ring was full: the gateway does not drain it.
        ActionRingFull = 15, "action_ring_full";
        /// Errors of the policy exceeded their budget.
        ErrorBudget = 16, "error_budget";
        /// The other side of a ring broke its protocol.
        ProtocolViolation = 17, "protocol_violation";
        /// The policy's measured tail on this core does not fit the deadline, so the agent was never armed.
        WarmUpTooSlow = 18, "warm_up_too_slow";
        /// The process panicked.
        Panic = 19, "panic";
        /// A mapped file was truncated.
        BusError = 20, "bus_error";
        /// The policy did not return.
        PolicyHung = 21, "policy_hung";
        /// The policy's carried state was reset, and this observation only warmed it up.
        BurnIn = 22, "burn_in";
        /// The observation's `ts_publish_ns` lay further ahead of the agent's clock than `max_skew_us`.
        StampedAhead = 23, "stamped_ahead";
        /// The agent's clock went back, or left the kernel's timeline.
        ClockFault = 24, "clock_fault";
    }
}

wire_numbers! {
    /// The state word in the action ring's header. A gateway sends only while it reads `armed`.
    AgentState: u32 {
        /// The region exists; nothing is loaded yet.
        Starting = 1, "starting";
        /// The policy is loaded and runs on made-up observations.
        Warming = 2, "warming";
        /// Observations are answered.
        Armed = 3, "armed";
        /// Halted by a rule or a person. It stays halted until a person re-arms it.
        Halted = 4, "halted";
        /// Finishing what is in the observation ring, then stopping.
        Draining = 5, "draining";
        /// The process ended in order.
        Stopped = 6, "stopped";
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_round_trip_and_names_are_distinct() {
        let mut names = std::collections::BTreeSet::new();
        for reason in Reason::ALL {
            assert_eq!(Reason::from_number(reason.number()), Some(*reason));
            assert!(names.insert(reason.name()), "{} twice", reason.name());
        }
        assert_eq!(Reason::from_number(u16::MAX), None);
        assert_eq!(Outcome::from_number(0), None);
        assert_eq!(AgentState::from_number(0), None);
    }
}
