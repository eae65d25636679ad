//! Reads the TorchScript archive (`torch.jit.save`) as data. Nothing in it is executed.
//!
//! ```text
//! bytes ─▶ archive ─▶ pickle ─▶ module
//!              └────▶ source
//! ```

pub(crate) mod archive;
pub(crate) mod module;
pub(crate) mod pickle;
pub(crate) mod source;
