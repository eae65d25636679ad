//! The native backend from outside: which archives it lowers, which it refuses, and whether it agrees with
//! PyTorch.

mod hostile;
mod lowering;
mod parity;
