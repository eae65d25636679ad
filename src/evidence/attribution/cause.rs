//! The causes of a miss. Their names stand in logs and in JSON, and other programs read both: they are never
//! renamed.

/// Why a tick missed. A miss has one cause; the evidence shows everything else that happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// The observation waited while the engine was busy with those before it.
    Queued,
    /// The feed committed the observation long after its stamp. The engine was polling for it in the
    /// meantime.
    FeedStalled,
    /// The engine was asleep between two polls, as its idle strategy says.
    IdleSleep,
    /// The policy's own time, on its core or voluntarily asleep, was longer than the deadline, and what it
    /// takes by measurement explains that.
    PolicySlow,
    /// The core stood still or ran cold while the tick had it: an interrupt, an exit to a hypervisor that
    /// does not account for it, cold memory.
    CoreStalled,
    /// The core was taken away by another thread or by the platform.
    CoreTaken,
    /// A page fault: the kernel's work, and the wait for the disk if there was one.
    PageFault,
    /// The gateway did not drain the action ring.
    ActionRingFull,
    /// The evidence does not decide between two of the others.
    Undetermined,
}

impl Cause {
    /// Every cause, in the order of the reports.
    pub const ALL: [Self; 9] = [
        Self::Queued,
        Self::FeedStalled,
        Self::IdleSleep,
        Self::PolicySlow,
        Self::CoreStalled,
        Self::CoreTaken,
        Self::PageFault,
        Self::ActionRingFull,
        Self::Undetermined,
    ];

    /// The name in logs and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::FeedStalled => "feed_stalled",
            Self::IdleSleep => "idle_sleep",
            Self::PolicySlow => "policy_slow",
            Self::CoreStalled => "core_stalled",
            Self::CoreTaken => "core_taken",
            Self::PageFault => "page_fault",
            Self::ActionRingFull => "action_ring_full",
            Self::Undetermined => "undetermined",
        }
    }
}

impl serde::Serialize for Cause {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> serde::Deserialize<'de> for Cause {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        let known = Self::ALL.into_iter().find(|cause| cause.name() == name);
        known.ok_or_else(|| serde::de::Error::custom(format!("unknown cause {name:?}")))
    }
}
