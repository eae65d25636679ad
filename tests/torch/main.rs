//! The libtorch backend: against PyTorch, in the real program, and with modules that mean harm.
#![cfg(feature = "torch")]

mod end_to_end;
mod hostile;
mod policy;
