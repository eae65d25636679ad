//! Bounds on the work that a file can cause the reader to do. A file that exceeds one is refused with a
//! message that states the bound.

/// The bounds. [`Limits::default`] admits networks of up to about 64 million weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the archive itself.
    pub archive_bytes: u64,
    /// Bytes of all members together after decompression.
    pub total_bytes: u64,
    /// Bytes of one member after decompression.
    pub entry_bytes: u64,
    /// Members of the archive.
    pub entries: usize,
    /// Bytes of a member's name.
    pub name_bytes: usize,
    /// Values in one pickle.
    pub pickle_values: usize,
    /// Nesting depth of a pickle, of an expression, and of a block of source.
    pub depth: usize,
    /// Bytes of all source files together.
    pub source_bytes: usize,
    /// Elements of one tensor, and of all values of a plan together.
    pub elements: usize,
    /// Statements and expressions evaluated while a `forward` is lowered.
    pub evaluations: usize,
    /// Operations of the lowered graph.
    pub operations: usize,
    /// Multiply-adds of the lowered graph, including those that are folded away.
    pub multiply_adds: usize,
    /// Bytes of memory that reading and lowering may hold, whatever the size of the archive.
    pub memory_base: u64,
    /// Bytes of memory more, for each byte of the archive.
    pub memory_per_byte: u64,
    /// Bytes of memory, at most.
    pub memory_most: u64,
    /// Steps of work that reading and lowering may take, whatever the size of the archive. A step is about as
    /// long as a comparison, a copy of 16 bytes or a multiply-add: on a slow machine, about 10 ns.
    pub work_base: u64,
    /// Steps of work more, for each byte of the archive.
    pub work_per_byte: u64,
    /// Steps of work, at most.
    pub work_most: u64,
}

impl Limits {
    /// Bytes of memory that an archive of `length` bytes may take while it is read and lowered.
    #[must_use]
    pub fn memory_for(&self, length: u64) -> u64 {
        self.memory_base.saturating_add(self.memory_per_byte.saturating_mul(length)).min(self.memory_most)
    }

    /// Steps of work that an archive of `length` bytes may take while it is read and lowered.
    #[must_use]
    pub fn work_for(&self, length: u64) -> u64 {
        self.work_base.saturating_add(self.work_per_byte.saturating_mul(length)).min(self.work_most)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            archive_bytes: 512 << 20,
            total_bytes: 512 << 20,
            entry_bytes: 256 << 20,
            entries: 16_384,
            name_bytes: 512,
            pickle_values: 1 << 20,
            depth: 96,
            source_bytes: 8 << 20,
            elements: 32 << 20,
            evaluations: 1 << 20,
            operations: 1 << 14,
            multiply_adds: 1 << 31,
            memory_base: 128 << 20,
            memory_per_byte: 64,
            memory_most: 4 << 30,
            work_base: 1 << 27,
            work_per_byte: 1_000,
            work_most: 1 << 36,
        }
    }
}
