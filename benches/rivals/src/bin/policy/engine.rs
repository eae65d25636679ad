//! What every engine under comparison does.

use std::error::Error;

use crate::network::{Files, Network};

pub type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// A network loaded by one engine, its inputs in place. Everything that can be prepared before the first observation
/// is prepared, for every engine alike; a call is what an observation costs.
pub trait Engine {
    fn name(&self) -> String;

    /// Computes the outputs from the inputs that were given when it was loaded. An engine that carries a state of its
    /// own starts from where the last call ended.
    fn call(&mut self) -> Result<()>;

    /// Brings the engine to where [`Engine::output`] must be [`Engine::expected`]. Called once, before any call.
    fn settle(&mut self, _network: &Network) -> Result<()> {
        self.call()
    }

    /// What PyTorch computed for it.
    fn expected(&self, _network: &Network, files: &Files) -> Vec<f32> {
        files.floats("output")
    }

    /// How far a value of magnitude 1 may be off.
    fn tolerance(&self) -> f32 {
        1e-5
    }

    /// All outputs of the last call, one after the other.
    fn output(&mut self) -> Result<Vec<f32>>;
}
