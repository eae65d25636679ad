//! A fully connected layer with its bias and activation in one pass: `activation(W x + b)`.
//!
//! Outputs are cut into panels of 8, 4, 2 and 1 vectors, widest first. A few outputs may be left over: the
//! head of a policy often has one to four. They would waste most of a vector, so they are computed as dot
//! products.

use super::activation::{Activation, Pointwise, pointwise as p};
use super::elementwise::activate_in_place;
use super::isa::{Isa, Precision};
use super::lanes::{Kernel, Lanes};
use super::panel::{Block, dot, multiply_rows};
use super::storage::{Aligned, Half, Single, Stored, pack_panel, pack_rows};

/// A packed layer.
#[derive(Debug, Clone)]
pub struct Dense {
    isa: Isa,
    precision: Precision,
    activation: Activation,
    inputs: usize,
    outputs: usize,
    /// Panels in the order of their outputs, then the rows. For [`Isa::Scalar`] row-major, as given.
    weights: Aligned,
    /// One value per output, with zeros up to a whole vector.
    bias: Aligned,
    /// Panels of 8, 4, 2 and 1 vectors.
    panels: [usize; 4],
    /// Outputs after the last panel.
    rows: usize,
}

/// Widths of panels in vectors.
const WIDTHS: [usize; 4] = [8, 4, 2, 1];
/// Dot products that share one pass over the input.
const ROWS: usize = 4;

impl Dense {
    /// Packs a layer from the layout of `nn.Linear`: `weights` row by row, `[outputs][inputs]`.
    ///
    /// # Panics
    /// Panics if a dimension is zero, or if a length does not match the dimensions.
    #[must_use]
    pub fn pack(
        isa: Isa,
        precision: Precision,
        weights: &[f32],
        bias: Option<&[f32]>,
        inputs: usize,
        outputs: usize,
        activation: Activation,
    ) -> Dense {
        assert!(inputs > 0 && outputs > 0, "dense: a layer must have inputs and outputs");
        assert_eq!(weights.len(), inputs * outputs, "dense: weights must be outputs x inputs");
        assert!(bias.is_none_or(|bias| bias.len() == outputs), "dense: there must be one bias per output");
        let lanes = isa.lanes();
        let mut vectors = outputs / lanes;
        let mut rows = outputs % lanes;
        // A started vector costs as much as a whole one. Dot products cost by the row.
        if rows * 2 > lanes {
            vectors += 1;
            rows = 0;
        }
        let mut words = Vec::new();
        let mut panels = [0; 4];
        if isa == Isa::Scalar {
            words.extend(weights.iter().map(|&weight| precision.round(weight)));
        } else {
            let mut first = 0;
            for (count, width) in panels.iter_mut().zip(WIDTHS) {
                *count = vectors / width;
                vectors %= width;
                for _ in 0..*count {
                    let weight = |output: usize, input| match first + output {
                        output if output < outputs => weights[output * inputs + input],
                        _ => 0.0,
                    };
                    pack_panel(&mut words, precision, width * lanes, inputs, weight);
                    first += width * lanes;
                }
            }
            for start in (outputs - rows..outputs).step_by(ROWS) {
                let together = ROWS.min(outputs - start);
                let weight = |row, input| weights[(start + row) * inputs + input];
                pack_rows(&mut words, precision, lanes, together, inputs, weight);
            }
        }
        let mut padded = bias.map_or_else(|| vec![0.0; outputs], <[f32]>::to_vec);
        padded.resize((outputs + ROWS).next_multiple_of(lanes.max(ROWS)), 0.0);
        Dense {
            isa,
            precision,
            activation,
            inputs,
            outputs,
            weights: Aligned::new(&words),
            bias: Aligned::new(&padded),
            panels,
            rows,
        }
    }

    /// Computes one row.
    ///
    /// # Panics
    /// Panics if `input` or `output` is not as long as the layer has inputs or outputs.
    pub fn run(&self, input: &[f32], output: &mut [f32]) {
        self.run_rows(1, input, output);
    }

    /// Computes `rows` rows that follow one another in `input` and `output`. The order of the sums differs
    /// from [`Dense::run`], so results may differ in the last bits.
    ///
    /// # Panics
    /// Panics if a length is not `rows` times the layer's inputs or outputs.
    pub fn run_rows(&self, rows: usize, input: &[f32], output: &mut [f32]) {
        assert_eq!(
            input.len(),
            rows * self.inputs,
            "dense: the input must be rows of {} inputs",
            self.inputs
        );
        assert_eq!(
            output.len(),
            rows * self.outputs,
            "dense: the output must be rows of {} outputs",
            self.outputs
        );
        match self.precision {
            Precision::F32 => self.run_stored::<Single>(rows, input, output),
            Precision::Bf16 => self.run_stored::<Half>(rows, input, output),
        }
    }

    #[inline]
    fn run_stored<S: Stored>(&self, rows: usize, input: &[f32], output: &mut [f32]) {
        match self.activation {
            Activation::Identity => self.run_fused::<S, _>(p::Identity {}, rows, input, output),
            Activation::Relu => self.run_fused::<S, _>(p::Relu {}, rows, input, output),
            Activation::Tanh => self.run_fused::<S, _>(p::Tanh {}, rows, input, output),
            Activation::Sigmoid => self.run_fused::<S, _>(p::Sigmoid {}, rows, input, output),
            Activation::Silu => self.run_fused::<S, _>(p::Silu {}, rows, input, output),
            // The rarer functions run over the output while it is still in the nearest cache. A kernel for
            // each would cost more in code than this costs in time.
            other => {
                self.run_fused::<S, _>(p::Identity {}, rows, input, output);
                if self.isa != Isa::Scalar {
                    activate_in_place(self.isa, other, output);
                }
            }
        }
    }

    #[inline]
    fn run_fused<S: Stored, F: Pointwise>(&self, f: F, rows: usize, input: &[f32], output: &mut [f32]) {
        S::run(self.isa, Run { dense: self, f, rows, input, output, stored: std::marker::PhantomData::<S> });
    }

    /// Multiply-adds of one row.
    #[must_use]
    pub fn multiply_adds(&self) -> usize {
        self.inputs * self.outputs
    }

    /// Bytes of packed weights and bias, including their padding. One row loads all of them.
    #[must_use]
    pub fn weight_bytes(&self) -> usize {
        4 * (self.weights.len() + self.bias.len())
    }

    /// The instruction set that the layer was packed for.
    #[must_use]
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// How the weights are stored.
    #[must_use]
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The function applied to every output.
    #[must_use]
    pub fn activation(&self) -> Activation {
        self.activation
    }

    /// Values in a row of input.
    #[must_use]
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Values in a row of output.
    #[must_use]
    pub fn outputs(&self) -> usize {
        self.outputs
    }
}

/// One call, with its lengths checked.
struct Run<'a, S, F> {
    dense: &'a Dense,
    f: F,
    rows: usize,
    input: &'a [f32],
    output: &'a mut [f32],
    stored: std::marker::PhantomData<S>,
}

impl<S: Stored, F: Pointwise> Kernel for Run<'_, S, F> {
    type Output = ();

    fn scalar(self) {
        let dense = self.dense;
        let weights = dense.weights.as_slice();
        for (input, output) in self.input.chunks(dense.inputs).zip(self.output.chunks_mut(dense.outputs)) {
            for (o, output) in output.iter_mut().enumerate() {
                let row = &weights[o * dense.inputs..(o + 1) * dense.inputs];
                let products = row.iter().zip(input).map(|(&w, &x)| f64::from(w) * f64::from(x));
                let sum = f64::from(dense.bias.as_slice()[o]) + products.sum::<f64>();
                *output = dense.activation.reference(sum) as f32;
            }
        }
    }

    #[inline(always)]
    fn vector<L: Lanes>(self, l: L) {
        let dense = self.dense;
        let mut at = Cursor {
            weights: dense.weights.as_ptr(),
            bias: dense.bias.as_ptr(),
            output: self.output.as_mut_ptr(),
            left: dense.outputs,
        };
        let input = self.input.as_ptr();
        // SAFETY: packing stored as many panels and rows as this walks over, in this order. `run_rows`
        // checked the lengths of input and output.
        unsafe {
            for _ in 0..dense.panels[0] {
                self.panel::<L, 8>(l, input, &mut at);
            }
            for _ in 0..dense.panels[1] {
                self.panel::<L, 4>(l, input, &mut at);
            }
            for _ in 0..dense.panels[2] {
                self.panel::<L, 2>(l, input, &mut at);
            }
            for _ in 0..dense.panels[3] {
                self.panel::<L, 1>(l, input, &mut at);
            }
            let mut rows = dense.rows;
            while rows > 0 {
                match rows {
                    1 => self.rows::<L, 1>(l, input, &mut at),
                    2 => self.rows::<L, 2>(l, input, &mut at),
                    3 => self.rows::<L, 3>(l, input, &mut at),
                    _ => self.rows::<L, ROWS>(l, input, &mut at),
                }
                rows = rows.saturating_sub(ROWS);
            }
        }
    }
}

/// Where the next panel begins.
struct Cursor {
    weights: *const f32,
    bias: *const f32,
    output: *mut f32,
    left: usize,
}

impl<S: Stored, F: Pointwise> Run<'_, S, F> {
    /// One panel of `K` vectors for all rows of input.
    ///
    /// # Safety
    /// `at` is where [`Dense::pack`] put a panel of that width.
    #[inline(always)]
    unsafe fn panel<L: Lanes, const K: usize>(&self, l: L, input: *const f32, at: &mut Cursor) {
        let (inputs, outputs) = (self.dense.inputs, self.dense.outputs);
        let valid = at.left.min(K * L::LANES);
        // SAFETY: the panel's weights and bias are stored in full. Each row has `inputs` inputs, and `valid`
        // outputs from the panel's first one on.
        unsafe {
            let block = Block { weights: at.weights, bias: at.bias, inputs, valid };
            multiply_rows::<L, S, F, K>(l, self.f, &block, self.rows, input, at.output, outputs);
            at.weights = at.weights.add(S::steps(inputs) * K * L::LANES);
            at.bias = at.bias.add(valid);
            at.output = at.output.add(valid);
        }
        at.left -= valid;
    }

    /// Up to four dot products for all rows of input.
    ///
    /// # Safety
    /// `at` is where [`Dense::pack`] put that many rows.
    #[inline(always)]
    unsafe fn rows<L: Lanes, const R: usize>(&self, l: L, input: *const f32, at: &mut Cursor) {
        let (inputs, outputs) = (self.dense.inputs, self.dense.outputs);
        // SAFETY: the weights and biases of the rows are stored in full. Each row of input has `inputs`
        // values, and each row of output has `R` values from here on.
        unsafe {
            let bias = l.load_first(at.bias, R);
            for row in 0..self.rows {
                let sums = dot::<L, S, R>(l, at.weights, input.add(row * inputs), inputs);
                l.store_first(at.output.add(row * outputs), R, self.f.apply(l, l.add(sums, bias)));
            }
            at.weights = at.weights.add(inputs.div_ceil(S::STEP * L::LANES) * R * L::LANES);
            at.bias = at.bias.add(R);
            at.output = at.output.add(R);
        }
        at.left -= R;
    }
}
