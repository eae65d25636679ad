//! Dense and recurrent layers.

use proptest::prelude::*;

use super::super::{Activation, Dense, Gru, Isa, Lstm, Precision};
use super::guarded::Guarded;
use super::{PRECISIONS, SIZES, assert_close, first_difference, values, vector_isas_for};
use escapement_policy::denormals::FlushDenormals;

/// The difference allowed between sums of a few hundred products of these sizes, in any order.
const TOLERANCE: f32 = 3e-6;

/// The error allowed for one instruction set. Inputs split in two for bfloat16 keep 16 bits, an error of
/// 2⁻¹⁷.
fn tolerance(isa: Isa, precision: Precision) -> f32 {
    match (isa.name(), precision) {
        ("avx512_bf16", Precision::Bf16) => 1e-5,
        _ => TOLERANCE,
    }
}

const ACTIVATIONS: [Activation; 6] = [
    Activation::Identity,
    Activation::Relu,
    Activation::Tanh,
    Activation::Sigmoid,
    Activation::Silu,
    Activation::Gelu,
];

fn scaled(seed: u64, len: usize, fan_in: usize) -> Vec<f32> {
    values(seed, len).iter().map(|w| w / (fan_in as f32).sqrt()).collect()
}

fn check_dense(rows: usize, inputs: usize, outputs: usize, precision: Precision, activation: Activation) {
    let weights = scaled(1, inputs * outputs, inputs);
    let bias = values(2, outputs);
    let bias = (!inputs.is_multiple_of(5)).then_some(&bias[..]);
    let input = Guarded::new(&values(3, rows * inputs));
    let mut expected = vec![0.0; rows * outputs];
    Dense::pack(Isa::Scalar, precision, &weights, bias, inputs, outputs, activation).run_rows(
        rows,
        &input,
        &mut expected,
    );
    for isa in vector_isas_for(precision) {
        let dense = Dense::pack(isa, precision, &weights, bias, inputs, outputs, activation);
        let mut output = Guarded::unwritten(rows * outputs);
        dense.run_rows(rows, &input, &mut output);
        let what = format!("{} {} {inputs}->{outputs} x{rows} {activation:?}", isa.name(), precision.name());
        assert_close(&what, &output, &expected, tolerance(isa, precision));
        assert!(dense.weight_bytes() >= inputs * outputs * if precision == Precision::F32 { 4 } else { 2 });
        assert_eq!(dense.multiply_adds(), inputs * outputs);
    }
}

#[test]
fn dense_agrees_with_the_reference_at_every_size() {
    let _flush = FlushDenormals::enter();
    for (i, inputs) in SIZES.into_iter().enumerate() {
        for (o, outputs) in SIZES.into_iter().chain([4, 12, 256]).enumerate() {
            for precision in PRECISIONS {
                let activation = ACTIVATIONS[(i + o) % ACTIVATIONS.len()];
                for rows in [1, 6] {
                    check_dense(rows, inputs, outputs, precision, activation);
                }
            }
        }
    }
}

#[test]
fn the_comparison_notices_one_lost_weight() {
    let (inputs, outputs) = (65, 33);
    let weights = scaled(1, inputs * outputs, inputs);
    let input = values(3, inputs);
    let lost = [0, 64, 16 * 65 + 30, inputs * outputs - 1];
    for (lost, precision) in lost.into_iter().flat_map(|lost| PRECISIONS.map(|precision| (lost, precision))) {
        let mut damaged = weights.clone();
        damaged[lost] = 0.0;
        for isa in vector_isas_for(precision) {
            let run = |isa, weights: &[f32]| {
                let mut output = vec![0.0; outputs];
                Dense::pack(isa, precision, weights, None, inputs, outputs, Activation::Tanh)
                    .run(&input, &mut output);
                output
            };
            let difference =
                first_difference(&run(isa, &damaged), &run(Isa::Scalar, &weights), tolerance(isa, precision));
            assert_eq!(difference.map(|(i, ..)| i), Some(lost / inputs), "weight {lost}");
        }
    }
}

#[test]
fn nan_reaches_every_output() {
    for (isa, precision) in
        PRECISIONS.into_iter().flat_map(|it| Isa::available_for(it).into_iter().map(move |isa| (isa, it)))
    {
        for activation in ACTIVATIONS.into_iter().chain([Activation::Relu6, Activation::HardSwish]) {
            let (inputs, outputs) = (20, 37);
            let weights = values(4, inputs * outputs);
            let dense = Dense::pack(isa, precision, &weights, None, inputs, outputs, activation);
            for at in [0, 3, 19] {
                let mut input = values(5, inputs);
                input[at] = f32::NAN;
                let mut output = vec![0.0; outputs];
                dense.run(&input, &mut output);
                assert!(output.iter().all(|x| x.is_nan()), "{} {activation:?}, input {at}", isa.name());
            }
        }
    }
}

#[test]
#[should_panic(expected = "rows of 4 inputs")]
fn a_wrong_length_is_refused() {
    let dense = Dense::pack(Isa::detect(), Precision::F32, &[0.0; 8], None, 4, 2, Activation::Identity);
    dense.run(&[0.0; 3], &mut [0.0; 2]);
}

/// A recurrent layer's weights and a window of input.
struct Recurrent {
    inputs: usize,
    hidden: usize,
    steps: usize,
    ih: Vec<f32>,
    hh: Vec<f32>,
    bias_ih: Vec<f32>,
    bias_hh: Vec<f32>,
    input: Guarded,
}

impl Recurrent {
    fn new(gates: usize, inputs: usize, hidden: usize, steps: usize) -> Self {
        Self {
            inputs,
            hidden,
            steps,
            ih: scaled(1, gates * hidden * inputs, inputs),
            hh: scaled(2, gates * hidden * hidden, hidden),
            bias_ih: values(3, gates * hidden),
            bias_hh: values(4, gates * hidden),
            input: Guarded::new(&values(5, steps * inputs)),
        }
    }

    fn biases(&self) -> (Option<&[f32]>, Option<&[f32]>) {
        // Every third size has no bias.
        let with = self.hidden % 3 != 2;
        (with.then_some(&self.bias_ih[..]), with.then_some(&self.bias_hh[..]))
    }

    fn lstm(&self, isa: Isa, precision: Precision) -> Lstm {
        let (ih, hh) = self.biases();
        Lstm::pack(isa, precision, &self.ih, &self.hh, ih, hh, self.inputs, self.hidden)
    }

    fn gru(&self, isa: Isa, precision: Precision) -> Gru {
        let (ih, hh) = self.biases();
        Gru::pack(isa, precision, &self.ih, &self.hh, ih, hh, self.inputs, self.hidden)
    }

    /// Returns all hidden states of a window and the state after it. `direction` is the previous content of
    /// the scratch memory.
    fn lstm_window(&self, isa: Isa, precision: Precision, direction: f32) -> Vec<Guarded> {
        let layer = self.lstm(isa, precision);
        let (mut h, mut c) = (Guarded::new(&values(6, self.hidden)), Guarded::new(&values(7, self.hidden)));
        let mut output = Guarded::unwritten(self.steps * self.hidden);
        let mut scratch = Guarded::new(&vec![direction; layer.scratch_len(self.steps)]);
        layer.window(self.steps, &self.input, &mut h, &mut c, &mut output, &mut scratch);
        vec![output, h, c]
    }

    fn lstm_steps(&self, isa: Isa, precision: Precision) -> Vec<Guarded> {
        let layer = self.lstm(isa, precision);
        let (mut h, mut c) = (Guarded::new(&values(6, self.hidden)), Guarded::new(&values(7, self.hidden)));
        let mut scratch = Guarded::unwritten(layer.scratch_len(1));
        let mut output = Vec::new();
        for input in self.input.chunks(self.inputs) {
            layer.step(&Guarded::new(input), &mut h, &mut c, &mut scratch);
            output.extend_from_slice(&h);
        }
        vec![Guarded::new(&output), h, c]
    }

    fn gru_window(&self, isa: Isa, precision: Precision, direction: f32) -> Vec<Guarded> {
        let layer = self.gru(isa, precision);
        let mut h = Guarded::new(&values(6, self.hidden));
        let mut output = Guarded::unwritten(self.steps * self.hidden);
        let mut scratch = Guarded::new(&vec![direction; layer.scratch_len(self.steps)]);
        layer.window(self.steps, &self.input, &mut h, &mut output, &mut scratch);
        vec![output, h]
    }

    fn gru_steps(&self, isa: Isa, precision: Precision) -> Vec<Guarded> {
        let layer = self.gru(isa, precision);
        let mut h = Guarded::new(&values(6, self.hidden));
        let mut scratch = Guarded::unwritten(layer.scratch_len(1));
        let mut output = Vec::new();
        for input in self.input.chunks(self.inputs) {
            layer.step(&Guarded::new(input), &mut h, &mut scratch);
            output.extend_from_slice(&h);
        }
        vec![Guarded::new(&output), h]
    }
}

#[track_caller]
fn assert_all_close(what: &str, results: &[Guarded], expected: &[Guarded], tolerance: f32) {
    for (result, expected) in results.iter().zip(expected) {
        assert_close(what, result, expected, 2.0 * tolerance);
    }
}

fn check_recurrent(inputs: usize, hidden: usize, steps: usize) {
    let (lstm, gru) = (Recurrent::new(4, inputs, hidden, steps), Recurrent::new(3, inputs, hidden, steps));
    for precision in PRECISIONS {
        let expected =
            (lstm.lstm_window(Isa::Scalar, precision, 0.0), gru.gru_window(Isa::Scalar, precision, 0.0));
        for isa in vector_isas_for(precision) {
            let what = format!("{} {} {inputs}->{hidden} x{steps}", isa.name(), precision.name());
            let within = tolerance(isa, precision);
            let forward = (lstm.lstm_window(isa, precision, 0.0), gru.gru_window(isa, precision, 0.0));
            assert_all_close(&format!("lstm window {what}"), &forward.0, &expected.0, within);
            assert_all_close(
                &format!("lstm steps {what}"),
                &lstm.lstm_steps(isa, precision),
                &expected.0,
                within,
            );
            assert_all_close(&format!("gru window {what}"), &forward.1, &expected.1, within);
            assert_all_close(
                &format!("gru steps {what}"),
                &gru.gru_steps(isa, precision),
                &expected.1,
                within,
            );
            // The order of the blocks must not change any bit.
            let odd = f32::from_bits(1);
            let backward = (lstm.lstm_window(isa, precision, odd), gru.gru_window(isa, precision, odd));
            for (a, b) in [(forward.0, backward.0), (forward.1, backward.1)] {
                assert!(a.iter().zip(&b).all(|(a, b)| a[..] == b[..]), "{what}: the direction shows");
            }
        }
    }
}

#[test]
fn recurrent_layers_agree_with_the_reference_at_every_size() {
    let _flush = FlushDenormals::enter();
    for (i, hidden) in SIZES.into_iter().enumerate() {
        check_recurrent(SIZES[(i * 5 + 3) % SIZES.len()], hidden, 1 + i % 7);
    }
    // This layer is cut into narrow blocks, because wide ones would not fit the nearest cache.
    check_recurrent(32, 64, 20);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(60) })]

    #[test]
    fn dense_agrees_with_the_reference(
        rows in 1usize..10,
        inputs in 1usize..200,
        outputs in 1usize..300,
        half in any::<bool>(),
        activation in 0..ACTIVATIONS.len(),
    ) {
        let precision = if half { Precision::Bf16 } else { Precision::F32 };
        check_dense(rows, inputs, outputs, precision, ACTIVATIONS[activation]);
    }

    #[test]
    fn recurrent_layers_agree_with_the_reference(
        inputs in 1usize..60,
        hidden in 1usize..100,
        steps in 1usize..12,
    ) {
        check_recurrent(inputs, hidden, steps);
    }
}
