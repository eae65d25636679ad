//! What every engine under comparison does.

use std::error::Error;

pub type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// A network loaded by one engine, its inputs in place. Everything that can be prepared before the first observation
/// is prepared, for every engine alike; a call is what an observation costs.
pub trait Engine {
    fn name(&self) -> String;

    /// Computes the outputs from the inputs that were given when it was loaded.
    fn call(&mut self) -> Result<()>;

    /// All outputs of the last call, one after the other.
    fn output(&self) -> Result<Vec<f32>>;
}
