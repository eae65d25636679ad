//! The interface of every engine in the comparison.

use std::error::Error;

use crate::network::{Files, Network};

pub type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// A network loaded by one engine, with its inputs in place. Everything that can be prepared before the first
/// observation is prepared, for every engine. A call is the cost of one observation.
pub trait Engine {
    fn name(&self) -> String;

    /// Computes the outputs from the inputs that were given at loading. An engine with its own state starts
    /// from the end of the last call.
    fn call(&mut self) -> Result<()>;

    /// Brings the engine to the point where [`Engine::output`] must equal [`Engine::expected`]. Called once,
    /// before any call.
    fn settle(&mut self, _network: &Network) -> Result<()> {
        self.call()
    }

    /// Returns PyTorch's output.
    fn expected(&self, _network: &Network, files: &Files) -> Vec<f32> {
        files.floats("output")
    }

    /// Returns the tolerance for a value of magnitude 1.
    fn tolerance(&self) -> f32 {
        1e-5
    }

    /// Returns all outputs of the last call, one after the other.
    fn output(&mut self) -> Result<Vec<f32>>;
}
