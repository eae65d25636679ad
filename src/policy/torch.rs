//! The libtorch backend: any TorchScript file, through `tch`. The general path, and the oracle of the native one.
//!
//! A call of a small policy costs about 7 µs, nearly all of it libtorch's dispatch and its own allocations
//! (`benches/torch_call.rs`). Ours are absent: the input tensor is made once, and the observation is written straight
//! into its storage.
//!
//! A `.pt` file is code, and libtorch runs it: load only what has been verified. What is promised here is that no
//! module, however odd, makes this file read or write outside its buffers, or answer from an observation that is not
//! the one it was given.

use std::path::Path;
use std::sync::Once;

use tch::{CModule, Device, Kind, TchError, Tensor};

use super::{Dimensions, Fault, Policy, PolicyError};

const BACKEND: &str = "torch";

/// A TorchScript module whose `forward` takes one observation `[1, observation]` of float32 and returns one action,
/// `[action]` or `[1, action]`, of float32, float64 or int64.
#[derive(Debug)]
pub struct Torch {
    module: CModule,
    // What the module gets to see: another tensor over the memory of `storage`. TorchScript may reshape its arguments
    // in place and tie them to other memory, so that the tensor which is written to must not be the one it is given.
    input: Tensor,
    storage: Tensor,
    dimensions: Dimensions,
    last_fault: Option<String>,
}

/// Why an output is not an action.
enum Refusal {
    /// The policy raised, with this text.
    Raised(String),
    /// It returned something else than a tensor; or one of a dtype, device or layout that cannot be taken.
    Kind(String),
    /// It returned a tensor of this shape, named as far as it is understood.
    Shape(String),
}

impl Torch {
    /// Reads a file and loads it for observations of the given width. The action's width is what a call with zeros
    /// returns; where `action` is given, it has to be that.
    ///
    /// # Errors
    /// [`PolicyError::Unreadable`], [`PolicyError::Malformed`] for a file that is not TorchScript,
    /// [`PolicyError::Shape`] for other widths than asked for, [`PolicyError::Unsupported`] for a module that takes
    /// carried state, returns something other than a tensor, or raises on zeros.
    pub fn load(path: &Path, observation: usize, action: Option<usize>) -> Result<Self, PolicyError> {
        let archive = std::fs::read(path)
            .map_err(|source| PolicyError::Unreadable { path: path.to_path_buf(), source })?;
        Self::from_archive(&archive, path, observation, action)
    }

    /// Like [`Torch::load`], for an archive that has been read already, so that the bytes which were verified are the
    /// ones that run. `origin` is named in errors.
    ///
    /// # Errors
    /// As for [`Torch::load`].
    pub fn from_archive(
        archive: &[u8],
        origin: &Path,
        observation: usize,
        action: Option<usize>,
    ) -> Result<Self, PolicyError> {
        prepare_process();
        let path = || origin.to_path_buf();
        let module = CModule::load_data_on_device(&mut &*archive, Device::Cpu).map_err(|error| {
            PolicyError::Malformed {
                path: path(),
                reason: format!("libtorch cannot load it: {}", cause(&text_of(&error))),
            }
        })?;

        let storage =
            Tensor::f_zeros([1, observation as i64], (Kind::Float, Device::Cpu)).map_err(no_backend)?;
        let input = storage.f_alias().map_err(no_backend)?;

        let probe = tch::no_grad(|| forward(&module, &input));
        let found = probe.and_then(|output| width_of(&output)).map_err(|refusal| match refusal {
            Refusal::Raised(text) => refused_at_load(path(), observation, &text),
            Refusal::Kind(text) => PolicyError::Unsupported { path: path(), reason: text },
            Refusal::Shape(text) => PolicyError::Shape {
                path: path(),
                reason: format!("expected an action [n] or [1, n], found {text}"),
            },
        })?;
        if let Some(expected) = action
            && expected != found
        {
            return Err(PolicyError::Shape {
                path: path(),
                reason: format!("expected an action of {expected} elements, found {found}"),
            });
        }
        let dimensions = Dimensions { observation, action: found };
        Ok(Self { module, input, storage, dimensions, last_fault: None })
    }

    /// Writes the observation into the memory behind the input tensor.
    fn set_observation(&mut self, observation: &[f32]) -> Result<(), Refusal> {
        assert_eq!(
            observation.len(),
            self.dimensions.observation,
            "the caller keeps the observation's width"
        );
        let target = self.storage.data_ptr();
        // SAFETY: `storage` is a contiguous float32 tensor of `dimensions.observation` elements on the CPU, made in
        // `from_archive` and never handed out. Through its alias a module can make the shared memory grow, never
        // shrink, and the pointer is asked for anew each time. `&mut self` keeps other calls out; a task that the module
        // forked and did not wait for may read a mixture of two observations here, though never freed memory.
        unsafe { std::ptr::copy_nonoverlapping(observation.as_ptr(), target.cast(), observation.len()) };

        let mut shape = [0i64; 2];
        let intact = self.input.data_ptr() == target
            && self.input.is_contiguous()
            && shape_of(&self.input, &mut shape) == Some(&[1, observation.len() as i64]);
        if !intact {
            self.input = self.storage.f_alias().map_err(|error| Refusal::Raised(text_of(&error)))?;
        }
        Ok(())
    }

    /// Runs the module on what `set_observation` wrote, and copies its answer out.
    fn call(&self, action: &mut [f32]) -> Result<(), Refusal> {
        let output = forward(&self.module, &self.input)?;
        let width = width_of(&output)?;
        if width != action.len() {
            return Err(Refusal::Shape(format!("{width} elements, not {}", action.len())));
        }
        let copied = match output.f_kind() {
            Ok(Kind::Float) => output.f_copy_data(action, width),
            _ => output.f_to_kind(Kind::Float).and_then(|converted| converted.f_copy_data(action, width)),
        };
        copied.map_err(|error| Refusal::Kind(text_of(&error)))
    }
}

impl Policy for Torch {
    fn dimensions(&self) -> Dimensions {
        self.dimensions
    }

    fn backend(&self) -> &'static str {
        BACKEND
    }

    fn enter_thread(&mut self) -> Result<(), PolicyError> {
        // Operators are split over threads by OpenMP, whose count is the calling thread's own.
        tch::set_num_threads(1);
        // Gradients are recorded or not per thread, too. The guard is leaked on purpose: it puts the old mode back
        // when it is dropped, and this policy may be dropped by another thread, or before its successor serves here.
        std::mem::forget(tch::no_grad_guard());
        Ok(())
    }

    fn infer(&mut self, observation: &[f32], action: &mut [f32]) -> Result<(), Fault> {
        self.set_observation(observation).and_then(|()| self.call(action)).map_err(|refusal| {
            let (fault, text) = match refusal {
                Refusal::Raised(text) => (Fault::Raised, text),
                Refusal::Kind(text) | Refusal::Shape(text) => (Fault::NotAnAction, text),
            };
            self.last_fault = Some(text);
            fault
        })
    }

    fn last_fault(&self) -> Option<&str> {
        self.last_fault.as_deref()
    }
}

/// Settings that hold for the whole process, made before libtorch runs anything.
fn prepare_process() {
    static PREPARED: Once = Once::new();
    PREPARED.call_once(|| {
        // libtorch takes this once and raises the second time.
        tch::set_num_interop_threads(1);
        tch::set_num_threads(1);
        // The profiling executor recompiles on the second call of each thread, and whenever it sees a new shape.
        tch::jit::set_profiling_mode(false);
    });
}

fn forward(module: &CModule, input: &Tensor) -> Result<Tensor, Refusal> {
    module.forward_ts(&[input]).map_err(|error| {
        let text = text_of(&error);
        // The bindings throw these very words, in place of libtorch, so that nothing longer begins with them.
        if text.starts_with("forward did not return a tensor") {
            Refusal::Kind("forward returns something other than one tensor".to_owned())
        } else {
            Refusal::Raised(text)
        }
    })
}

/// The width of an output, if it has the form of an action.
fn width_of(output: &Tensor) -> Result<usize, Refusal> {
    if !output.defined() {
        return Err(Refusal::Kind("forward returns an undefined tensor".to_owned()));
    }
    let device = output.device();
    if device != Device::Cpu {
        return Err(Refusal::Kind(format!("forward returns a tensor on {device:?}, expected Cpu")));
    }
    match output.f_kind() {
        Ok(Kind::Float | Kind::Double | Kind::Int64) => {}
        Ok(kind) => {
            return Err(Refusal::Kind(format!("forward returns {kind:?}, expected Float, Double or Int64")));
        }
        Err(error) => return Err(Refusal::Kind(text_of(&error))),
    }
    let mut shape = [0i64; 2];
    match shape_of(output, &mut shape) {
        Some([width] | [1, width]) if *width > 0 => Ok(*width as usize),
        Some(other) => Err(Refusal::Shape(format!("{other:?}"))),
        None => Err(Refusal::Shape(format!("{} dimensions", output.dim()))),
    }
}

/// The shape of a tensor of at most two dimensions that has one (a nested tensor has none). Unlike [`Tensor::size`]
/// this neither allocates nor panics.
fn shape_of<'a>(tensor: &Tensor, shape: &'a mut [i64; 2]) -> Option<&'a [i64]> {
    let dimensions = tensor.dim();
    let shape = shape.get_mut(..dimensions)?;
    // SAFETY: the pointer is that of a live tensor; the call writes one i64 for each of its dimensions, which is the
    // length of `shape`. An error is left in a string of this thread, which is ours to free; null is allowed there.
    let raised = unsafe {
        torch_sys::at_shape(tensor.as_ptr().cast_mut(), shape.as_mut_ptr());
        let error = torch_sys::get_and_reset_last_err();
        libc::free(error.cast());
        !error.is_null()
    };
    (!raised).then_some(shape)
}

fn no_backend(error: TchError) -> PolicyError {
    PolicyError::Backend { backend: BACKEND, reason: cause(&text_of(&error)).to_owned() }
}

/// Sorts what a module raised on zeros. libtorch has one error type, so that its words are all there is to go by.
fn refused_at_load(path: std::path::PathBuf, observation: usize, text: &str) -> PolicyError {
    let cause = cause(text);
    if text.contains("missing value for argument") {
        let reason = "forward takes more than the observation; policies with carried state are not supported"
            .to_owned();
        PolicyError::Unsupported { path, reason }
    } else if cause.contains("shape") || cause.contains("size") {
        PolicyError::Shape { path, reason: format!("an observation of {observation} does not fit: {cause}") }
    } else {
        PolicyError::Unsupported { path, reason: format!("forward raised on {observation} zeros: {cause}") }
    }
}

/// What libtorch said, without the words the bindings put in front.
fn text_of(error: &TchError) -> String {
    match error {
        TchError::Torch(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The one line of a libtorch message that says what is wrong. TorchScript puts its stack trace before it, C++ behind.
fn cause(text: &str) -> &str {
    let is_trace = |line: &&str| line.starts_with("Exception raised from") || line.starts_with("frame #");
    let said = text.lines().take_while(|line| !is_trace(line)).map(str::trim).filter(|line| !line.is_empty());
    said.last().unwrap_or("no reason given")
}
