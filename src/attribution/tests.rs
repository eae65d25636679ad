//! The verdicts at their edges.
