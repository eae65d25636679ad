//! The libtorch backend: any TorchScript file, through `tch`. It is the general path, and the reference for
//! the native one.
//!
//! A call of a small policy costs about 7 µs, nearly all of it libtorch's dispatch and its own allocations
//! (`benches/torch_call.rs`). This backend adds no allocation: it makes the input tensor once, and writes the
//! observation directly into its storage.
//!
//! A `.pt` file is code, and libtorch runs it: load only verified files. This file promises that no module
//! can make it read or write outside its buffers, or answer from another observation than the given one.

use std::path::Path;
use std::sync::Once;

use tch::{CModule, Device, IValue, Kind, TchError, Tensor};

use super::{Dimensions, Fault, Policy, PolicyError, Signature};
use escapement_policy::escape::escaped;
use escapement_policy::file;

const BACKEND: &str = "torch";

/// A TorchScript module whose `forward` takes one observation `[1, observation]` of float32, and noise and
/// carried states after it where the [`Signature`] says so. It returns one action, `[action]` or `[1,
/// action]`, of float32, float64 or int64; with states, a tuple of the action and the next states.
#[derive(Debug)]
pub struct Torch {
    module: CModule,
    /// The observation, the noise if there is any, the states.
    inputs: Vec<Input>,
    noise: Box<[f32]>,
    states: Vec<Box<[f32]>>,
    dimensions: Dimensions,
    last_fault: Option<String>,
    /// True if equal calls had equal answers when it was loaded.
    repeats_itself: bool,
}

/// One argument of `forward`.
#[derive(Debug)]
struct Input {
    // The tensor that the module sees: an alias over the memory of `storage`. TorchScript may reshape its
    // arguments in place and bind them to other memory, so the module must not receive the tensor that is
    // written to.
    seen: Tensor,
    storage: Tensor,
    shape: Vec<i64>,
}

/// Why an output is not an action.
enum Refusal {
    /// The policy raised an error with this text.
    Raised(String),
    /// It returned another kind of value, or a tensor with a dtype, device or layout that is not supported.
    Kind(String),
    /// It returned a tensor of this shape.
    Shape(String),
}

/// Calls with each of two observations that show whether a module repeats itself.
const REPETITIONS: usize = 3;

/// The most dimensions that an argument or a result has.
const MAX_RANK: usize = 4;

impl Input {
    fn new(shape: &[usize]) -> Result<Self, TchError> {
        let shape: Vec<i64> = shape.iter().map(|length| *length as i64).collect();
        let storage = Tensor::f_zeros(&shape[..], (Kind::Float, Device::Cpu))?;
        Ok(Self { seen: storage.f_alias()?, storage, shape })
    }

    /// Writes `values` into the memory behind the tensor that the module sees.
    fn set(&mut self, values: &[f32]) -> Result<(), Refusal> {
        let elements: i64 = self.shape.iter().product();
        assert_eq!(values.len() as i64, elements, "the caller keeps the argument's width");
        let target = self.storage.data_ptr();
        // SAFETY: `storage` is a contiguous float32 tensor of `elements` elements on the CPU, made in `new`
        // and never handed out. Through its alias a module can make the shared memory grow, never shrink, and
        // the pointer is asked for anew each time. `&mut self` keeps other calls out; a task that the module
        // forked and did not wait for may read a mixture of two observations here, though never freed memory.
        unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), target.cast(), values.len()) };

        let mut shape = [0i64; MAX_RANK];
        let intact = self.seen.data_ptr() == target
            && self.seen.is_contiguous()
            && shape_of(&self.seen, &mut shape) == Some(&self.shape[..]);
        if !intact {
            self.seen = self.storage.f_alias().map_err(|error| Refusal::Raised(text_of(&error)))?;
        }
        Ok(())
    }
}

impl Torch {
    /// Reads a file and loads it for observations of the given width. The action's width is what a call with
    /// zeros returns. If `action` is given, it must be that width.
    ///
    /// # Errors
    /// [`PolicyError::Unreadable`], [`PolicyError::Malformed`] for a file that is not TorchScript,
    /// [`PolicyError::Shape`] for other widths than asked for, [`PolicyError::Unsupported`] for a module that
    /// takes more than an observation, returns something other than a tensor, or raises on zeros.
    pub fn load(path: &Path, observation: usize, action: Option<usize>) -> Result<Self, PolicyError> {
        let archive = file::read(path, super::backend::MAX_FILE_BYTES).map_err(|refused| {
            PolicyError::Unreadable { path: path.to_path_buf(), source: refused.into() }
        })?;
        Self::from_archive(&archive, path, observation, action, &Signature::default())
    }

    /// Like [`Torch::load`], for an archive that is already read, so that the verified bytes are the bytes
    /// that run, and for a `forward` of any [`Signature`]. Errors name `origin`.
    ///
    /// # Errors
    /// As for [`Torch::load`].
    pub fn from_archive(
        archive: &[u8],
        origin: &Path,
        observation: usize,
        action: Option<usize>,
        signature: &Signature,
    ) -> Result<Self, PolicyError> {
        prepare_process();
        let path = || origin.to_path_buf();
        let module = CModule::load_data_on_device(&mut &*archive, Device::Cpu).map_err(|error| {
            PolicyError::Malformed {
                path: path(),
                reason: format!("libtorch cannot load it: {}", cause(&text_of(&error))),
            }
        })?;

        let noise = (signature.noise > 0).then(|| vec![1, signature.noise]);
        let shapes =
            std::iter::once(vec![1, observation]).chain(noise).chain(signature.states.iter().cloned());
        let inputs: Vec<Input> =
            shapes.map(|shape| Input::new(&shape)).collect::<Result<_, _>>().map_err(no_backend)?;
        let states: Vec<Box<[f32]>> = signature
            .states
            .iter()
            .map(|shape| vec![0.0; shape.iter().product()].into_boxed_slice())
            .collect();
        let mut policy = Self {
            module,
            inputs,
            noise: vec![0.0; signature.noise].into(),
            states,
            dimensions: Dimensions { observation, action: 0 },
            last_fault: None,
            repeats_itself: false,
        };
        let probe = tch::no_grad(|| policy.forward());
        let found = probe.and_then(|(action, _)| width_of(&action)).map_err(|refusal| match refusal {
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
        policy.dimensions.action = found;
        policy.repeats_itself = tch::no_grad(|| policy.find_out_whether_it_repeats_itself());
        Ok(policy)
    }

    /// Calls the module with two observations in turn, and returns whether each has the same answer every
    /// time. A module that keeps memory in its buffers, or draws random numbers, does not.
    fn find_out_whether_it_repeats_itself(&mut self) -> bool {
        let width = self.dimensions.observation;
        let observation = |scale: f32| -> Vec<f32> {
            (0..width).map(|index| scale * (1.0 + index as f32) / width as f32).collect()
        };
        let observations = [observation(0.5), observation(-1.0)];
        let mut answers: [Vec<Vec<u32>>; 2] = Default::default();
        for (turn, observation) in (0..2 * REPETITIONS).map(|turn| (turn % 2, &observations[turn % 2])) {
            self.reset();
            let mut action = vec![0.0; self.dimensions.action];
            let called = self.set_inputs(observation).and_then(|()| self.call(&mut action));
            if called.is_err() {
                // It does not say whether there is a memory, and the engine never runs it dry on such an
                // observation.
                continue;
            }
            let states = self.states.iter().flatten();
            answers[turn].push(action.iter().chain(states).map(|value| value.to_bits()).collect());
        }
        self.reset();
        answers.iter().all(|of_one| of_one.windows(2).all(|pair| pair[0] == pair[1]))
    }

    /// Writes every argument into the memory behind the tensors that the module sees.
    fn set_inputs(&mut self, observation: &[f32]) -> Result<(), Refusal> {
        let (first, rest) = self.inputs.split_first_mut().expect("there is an observation");
        first.set(observation)?;
        let noise = (!self.noise.is_empty()).then_some(&self.noise);
        let values = noise.into_iter().chain(&self.states);
        rest.iter_mut().zip(values).try_for_each(|(input, values)| input.set(values))
    }

    /// Runs the module on the inputs that `set_inputs` wrote. Returns the action and the next states,
    /// unchecked.
    fn forward(&self) -> Result<(Tensor, Vec<Tensor>), Refusal> {
        if self.states.is_empty() {
            let action = match &self.inputs[..] {
                [observation] => self.module.forward_ts(&[&observation.seen]),
                [observation, noise] => self.module.forward_ts(&[&observation.seen, &noise.seen]),
                _ => unreachable!("without states there are at most two arguments"),
            };
            return Ok((action.map_err(|error| raised(&error))?, Vec::new()));
        }
        let arguments: Vec<IValue> =
            self.inputs.iter().map(|input| IValue::Tensor(input.seen.shallow_clone())).collect();
        let returned = self.module.forward_is(&arguments).map_err(|error| raised(&error))?;
        let wrong = || {
            let states = self.states.len();
            Refusal::Kind(format!("forward does not return a tuple of an action and {states} states"))
        };
        let IValue::Tuple(returned) = returned else { return Err(wrong()) };
        if returned.len() != 1 + self.states.len() {
            return Err(wrong());
        }
        let tensors = returned.into_iter().map(|value| match value {
            IValue::Tensor(tensor) => Ok(tensor),
            _ => Err(wrong()),
        });
        let mut tensors = tensors.collect::<Result<Vec<_>, _>>()?;
        let next = tensors.split_off(1);
        Ok((tensors.pop().ok_or_else(wrong)?, next))
    }

    /// Runs the module and copies its answer out. States change only if the whole answer is valid.
    fn call(&mut self, action: &mut [f32]) -> Result<(), Refusal> {
        let (output, next) = self.forward()?;
        let width = width_of(&output)?;
        if width != action.len() {
            return Err(Refusal::Shape(format!("{width} elements, not {}", action.len())));
        }
        copy_out(&output, action)?;
        let first_state = self.inputs.len() - self.states.len();
        for (tensor, input) in next.iter().zip(&self.inputs[first_state..]) {
            check_kind(tensor)?;
            let mut shape = [0i64; MAX_RANK];
            if shape_of(tensor, &mut shape) != Some(&input.shape[..]) {
                return Err(Refusal::Shape(format!("a state that is not {:?}", input.shape)));
            }
        }
        for (tensor, state) in next.iter().zip(&mut self.states) {
            copy_out(tensor, state)?;
        }
        Ok(())
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
        // Gradients are recorded or not per thread, too. The guard is leaked on purpose: it puts the old mode
        // back when it is dropped, and this policy may be dropped by another thread, or before its successor
        // serves here.
        std::mem::forget(tch::no_grad_guard());
        Ok(())
    }

    fn infer(&mut self, observation: &[f32], action: &mut [f32]) -> Result<(), Fault> {
        self.set_inputs(observation).and_then(|()| self.call(action)).map_err(|refusal| {
            let (fault, text) = match refusal {
                Refusal::Raised(text) => (Fault::Raised, text),
                Refusal::Kind(text) | Refusal::Shape(text) => (Fault::NotAnAction, text),
            };
            self.last_fault = Some(escaped(&text));
            fault
        })
    }

    fn reset(&mut self) {
        self.states.iter_mut().for_each(|state| state.fill(0.0));
    }

    fn noise_mut(&mut self) -> &mut [f32] {
        &mut self.noise
    }

    fn state_mut(&mut self, index: usize) -> Option<&mut [f32]> {
        self.states.get_mut(index).map(|state| &mut state[..])
    }

    fn can_run_dry(&self) -> bool {
        self.repeats_itself
    }

    fn last_fault(&self) -> Option<&str> {
        self.last_fault.as_deref()
    }
}

/// Settings that hold for the whole process, made before libtorch runs anything.
fn prepare_process() {
    static PREPARED: Once = Once::new();
    PREPARED.call_once(|| {
        // libtorch accepts this call once, and raises an error the second time.
        tch::set_num_interop_threads(1);
        tch::set_num_threads(1);
        // The profiling executor recompiles on the second call of each thread, and whenever it sees a new
        // shape.
        tch::jit::set_profiling_mode(false);
    });
}

fn raised(error: &TchError) -> Refusal {
    let text = text_of(error);
    // The bindings, not libtorch, raise exactly this text, so no longer text begins with it.
    if text.starts_with("forward did not return a tensor") {
        Refusal::Kind("forward returns something other than one tensor".to_owned())
    } else {
        Refusal::Raised(text)
    }
}

/// Copies a tensor whose width the caller has checked.
fn copy_out(tensor: &Tensor, values: &mut [f32]) -> Result<(), Refusal> {
    let width = values.len();
    let copied = match tensor.f_kind() {
        Ok(Kind::Float) => tensor.f_copy_data(values, width),
        _ => tensor.f_to_kind(Kind::Float).and_then(|converted| converted.f_copy_data(values, width)),
    };
    copied.map_err(|error| Refusal::Kind(text_of(&error)))
}

/// Checks that a result can be copied out.
fn check_kind(output: &Tensor) -> Result<(), Refusal> {
    if !output.defined() {
        return Err(Refusal::Kind("forward returns an undefined tensor".to_owned()));
    }
    let device = output.device();
    if device != Device::Cpu {
        return Err(Refusal::Kind(format!("forward returns a tensor on {device:?}, expected Cpu")));
    }
    match output.f_kind() {
        Ok(Kind::Float | Kind::Double | Kind::Int64) => Ok(()),
        Ok(kind) => Err(Refusal::Kind(format!("forward returns {kind:?}, expected Float, Double or Int64"))),
        Err(error) => Err(Refusal::Kind(text_of(&error))),
    }
}

/// The width of an output, if it has the form of an action.
fn width_of(output: &Tensor) -> Result<usize, Refusal> {
    check_kind(output)?;
    let mut shape = [0i64; MAX_RANK];
    match shape_of(output, &mut shape) {
        Some([width] | [1, width]) if *width > 0 => Ok(*width as usize),
        Some(other) => Err(Refusal::Shape(format!("{other:?}"))),
        None => Err(Refusal::Shape(format!("{} dimensions", output.dim()))),
    }
}

/// The shape of a tensor of at most [`MAX_RANK`] dimensions that has one (a nested tensor has none). Unlike
/// [`Tensor::size`] this neither allocates nor panics.
fn shape_of<'a>(tensor: &Tensor, shape: &'a mut [i64; MAX_RANK]) -> Option<&'a [i64]> {
    let dimensions = tensor.dim();
    let shape = shape.get_mut(..dimensions)?;
    // SAFETY: the pointer is that of a live tensor; the call writes one i64 for each of its dimensions, which
    // is the length of `shape`. An error is left in a string of this thread, which is ours to free; null is
    // allowed there.
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

/// Classifies an error that a module raised on zeros. libtorch has one error type, so only the text tells
/// them apart.
fn refused_at_load(path: std::path::PathBuf, observation: usize, text: &str) -> PolicyError {
    let cause = cause(text);
    if text.contains("missing value for argument") {
        let reason = "forward takes more than it is given; noise and carried state need a bundle's manifest"
            .to_owned();
        PolicyError::Unsupported { path, reason }
    } else if cause.contains("shape") || cause.contains("size") {
        PolicyError::Shape { path, reason: format!("an observation of {observation} does not fit: {cause}") }
    } else {
        PolicyError::Unsupported { path, reason: format!("forward raised on {observation} zeros: {cause}") }
    }
}

/// Returns libtorch's own text, without the prefix of the bindings.
fn text_of(error: &TchError) -> String {
    match error {
        TchError::Torch(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The one line of a libtorch message that says what is wrong. TorchScript puts its stack trace before it,
/// C++ behind.
fn cause(text: &str) -> &str {
    let is_trace = |line: &&str| line.starts_with("Exception raised from") || line.starts_with("frame #");
    let said = text.lines().take_while(|line| !is_trace(line)).map(str::trim).filter(|line| !line.is_empty());
    said.last().unwrap_or("no reason given")
}
