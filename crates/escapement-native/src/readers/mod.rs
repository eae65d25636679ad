//! Readers of policy files. Each format has one module.

pub(crate) mod torchscript;
