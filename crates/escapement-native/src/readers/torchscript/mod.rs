//! The TorchScript archive (`torch.jit.save`), read as data. Nothing in it is executed.
//!
//! ```text
//! bytes ─▶ archive ─▶ pickle ─▶ module
//!              └────▶ source
//! ```

pub(crate) mod archive;
pub(crate) mod module;
pub(crate) mod pickle;
pub(crate) mod source;
