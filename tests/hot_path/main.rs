//! What the hot path must not do: allocate, call the system, take a page fault or wait.
//!
//! These tests are a program of their own, because they replace the global allocator. Beside each proof is a
//! test that does the forbidden thing on purpose and must see it counted.

mod kernels;
mod native_calls;
mod ticks;

#[global_allocator]
static ALLOCATOR: escapement_test_support::quiet::Counting = escapement_test_support::quiet::Counting;
