//! Softmax, layer normalisation and convolution.

use proptest::prelude::*;

use super::super::{Activation, Conv1d, Conv1dShape, Isa, Softmax, layer_norm, softmax};
use super::guarded::Guarded;
use super::{SIZES, assert_close, values, vector_isas};

#[test]
fn softmax_agrees_with_the_reference() {
    for width in SIZES {
        for (scale, offset) in [(1.0, 0.0), (30.0, 0.0), (1.0, -500.0), (0.0, 3.0)] {
            let input: Vec<f32> = values(4, 3 * width).iter().map(|x| x * scale + offset).collect();
            let input = Guarded::new(&input);
            for form in [Softmax::Probability, Softmax::Logarithm] {
                let mut expected = vec![0.0; 3 * width];
                softmax(Isa::Scalar, 3, width, form, &input, &mut expected);
                for isa in vector_isas() {
                    let mut output = Guarded::unwritten(3 * width);
                    softmax(isa, 3, width, form, &input, &mut output);
                    assert_close(&format!("{} {form:?} of {width}", isa.name()), &output, &expected, 2e-6);
                }
            }
        }
    }
}

#[test]
fn softmax_of_a_poisoned_row_is_nan_throughout() {
    for isa in Isa::available() {
        for poison in [f32::NAN, f32::INFINITY] {
            for at in [0, 15, 20] {
                let mut input = values(5, 42);
                input[at] = poison;
                let mut output = vec![0.0; 42];
                softmax(isa, 2, 21, Softmax::Probability, &input, &mut output);
                assert!(output[..21].iter().all(|x| x.is_nan()), "{}: {poison} at {at}", isa.name());
                assert!(output[21..].iter().all(|x| x.is_finite()), "the row after it is not touched");
            }
        }
    }
}

#[test]
fn layer_norm_agrees_with_the_reference() {
    for width in SIZES {
        let (weight, bias) = (Guarded::new(&values(6, width)), Guarded::new(&values(7, width)));
        let input: Vec<f32> = values(8, 3 * width).iter().map(|x| x * 2.0 + 5.0).collect();
        let input = Guarded::new(&input);
        for (weight, bias) in [(Some(&*weight), Some(&*bias)), (Some(&*weight), None), (None, None)] {
            let mut expected = vec![0.0; 3 * width];
            layer_norm(Isa::Scalar, 3, width, weight, bias, 1e-5, &input, &mut expected);
            for isa in vector_isas() {
                let mut output = Guarded::unwritten(3 * width);
                layer_norm(isa, 3, width, weight, bias, 1e-5, &input, &mut output);
                // The mean of values around 5 is rounded once. With few values of little spread, that error
                // is divided by a small deviation.
                assert_close(&format!("{} layer_norm of {width}", isa.name()), &output, &expected, 2e-5);
            }
        }
    }
}

fn check_conv(shape: Conv1dShape, length: usize, activation: Activation) {
    let taps = shape.in_channels / shape.groups * shape.kernel;
    let weights: Vec<f32> =
        values(9, shape.out_channels * taps).iter().map(|w| w / (taps as f32).sqrt()).collect();
    let bias = values(10, shape.out_channels);
    let input = Guarded::new(&values(11, shape.in_channels * length));
    let len = shape.out_channels * shape.output_length(length);
    let mut expected = vec![0.0; len];
    Conv1d::pack(Isa::Scalar, &weights, Some(&bias), shape, activation).run(length, &input, &mut expected);
    for isa in vector_isas() {
        let mut output = Guarded::unwritten(len);
        Conv1d::pack(isa, &weights, Some(&bias), shape, activation).run(length, &input, &mut output);
        assert_close(&format!("{} {shape:?} of {length}", isa.name()), &output, &expected, 3e-6);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn convolution_agrees_with_the_reference(
        inputs in 1usize..9,
        outputs in 1usize..150,
        groups in 1usize..4,
        kernel in 1usize..6,
        stride in 1usize..4,
        padding in 0usize..6,
        dilation in 1usize..4,
        length in 1usize..40,
    ) {
        let shape = Conv1dShape {
            in_channels: inputs * groups,
            out_channels: outputs * groups,
            kernel,
            stride,
            padding,
            dilation,
            groups,
        };
        check_conv(shape, length, Activation::Tanh);
    }
}

#[test]
fn a_convolution_that_does_not_fit_has_no_output() {
    let shape = Conv1dShape {
        in_channels: 1,
        out_channels: 1,
        kernel: 5,
        stride: 1,
        padding: 0,
        dilation: 2,
        groups: 1,
    };
    assert_eq!(shape.output_length(8), 0);
    assert_eq!(shape.output_length(9), 1);
}
