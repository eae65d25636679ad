//! Compares the scalar reference with values from PyTorch 2.13, computed in double precision from weights
//! that a formula gives.

use super::super::{Activation, Conv1d, Conv1dShape, Gru, Isa, Lstm, Precision};
use super::assert_close;

/// The `len` values that the formula gives for two constants. Parameter `k` of a module, in the order of
/// `named_parameters`, has the constants `5 + 2 k` and `3 k + 1`.
fn sequence(len: usize, factor: usize, offset: usize) -> Vec<f32> {
    (0..len).map(|i| (((i * factor + offset) % 17) as f32 - 8.0) / 16.0).collect()
}

fn parameter(k: usize, len: usize) -> Vec<f32> {
    sequence(len, 5 + 2 * k, 3 * k + 1)
}

#[test]
fn lstm_is_that_of_pytorch() {
    let expected = [
        -0.223_678_52,
        0.007_586_957,
        -0.118_634_12,
        0.038_045_96,
        -0.173_589_73,
        -0.015_301_31,
        -0.213_965_13,
        -0.049_760_22,
    ];
    for isa in Isa::available() {
        let (ih, hh) = (parameter(0, 24), parameter(1, 16));
        let (bias_ih, bias_hh) = (parameter(2, 8), parameter(3, 8));
        let lstm = Lstm::pack(isa, Precision::F32, &ih, &hh, Some(&bias_ih), Some(&bias_hh), 3, 2);
        let (mut h, mut c, mut output) = (sequence(2, 3, 5), sequence(2, 11, 4), [0.0; 8]);
        let mut scratch = vec![0.0; lstm.scratch_len(4)];
        lstm.window(4, &sequence(12, 7, 2), &mut h, &mut c, &mut output, &mut scratch);
        assert_close(isa.name(), &output, &expected, 1e-6);
        assert_close(isa.name(), &c, &[-0.415_533_41, -0.151_239_14], 1e-6);
    }
}

#[test]
fn gru_is_that_of_pytorch() {
    let expected = [
        -0.237_028_92,
        -0.266_389_23,
        -0.111_638_4,
        -0.115_887_36,
        -0.178_294_7,
        -0.232_428_15,
        -0.209_573_97,
        -0.308_637_87,
    ];
    for isa in Isa::available() {
        let (ih, hh) = (parameter(0, 18), parameter(1, 12));
        let (bias_ih, bias_hh) = (parameter(2, 6), parameter(3, 6));
        let gru = Gru::pack(isa, Precision::F32, &ih, &hh, Some(&bias_ih), Some(&bias_hh), 3, 2);
        let (mut h, mut output) = (sequence(2, 3, 5), [0.0; 8]);
        let mut scratch = vec![0.0; gru.scratch_len(4)];
        gru.window(4, &sequence(12, 7, 2), &mut h, &mut output, &mut scratch);
        assert_close(isa.name(), &output, &expected, 1e-6);
        assert_close(isa.name(), &h, &expected[6..], 1e-6);
    }
}

#[test]
fn convolution_is_that_of_pytorch() {
    // These values are exact in binary.
    let expected = [
        10.0, -108.0, -88.0, -79.0, 122.0, -130.0, 64.0, 78.0, -276.0, -84.0, -56.0, -88.0, 70.0, -18.0,
        -54.0, -8.0, 110.0, 22.0, 58.0, 128.0, -122.0, -6.0, 0.0, -8.0,
    ]
    .map(|x: f32| x / 256.0);
    let shape = Conv1dShape {
        in_channels: 4,
        out_channels: 6,
        kernel: 3,
        stride: 2,
        padding: 2,
        dilation: 2,
        groups: 2,
    };
    for isa in Isa::available() {
        let conv = Conv1d::pack(isa, &parameter(0, 36), Some(&parameter(1, 6)), shape, Activation::Identity);
        let mut output = [0.0; 24];
        conv.run(7, &sequence(28, 7, 2), &mut output);
        assert_eq!(output, expected, "{}", isa.name());
    }
}

#[test]
fn activations_are_those_of_pytorch() {
    let arguments = [-3.5, -0.75, 0.5, 2.25];
    let table = [
        (Activation::Elu { alpha: 0.5 }, [-0.484_901_308_288_840_76, -0.263_816_723_629_492_66, 0.5, 2.25]),
        (
            Activation::Selu,
            [
                -1.705_009_340_957_283,
                -0.927_632_015_835_051_2,
                0.525_350_493_677_740_2,
                2.364_077_221_549_831,
            ],
        ),
        (Activation::Celu { alpha: 2.0 }, [-1.652_452_113_099_109_9, -0.625_421_442_418_055_5, 0.5, 2.25]),
        (Activation::HardSigmoid, [0.0, 0.375, 0.583_333_333_333_333_4, 0.875]),
        (Activation::HardSwish, [-0.0, -0.28125, 0.291_666_666_666_666_7, 1.96875]),
        (
            Activation::Softplus { beta: 2.0, threshold: 4.0 },
            [0.000_455_733_226_887_122_37, 0.100_706_638_991_376_2, 0.656_630_843_759_111_4, 2.25],
        ),
        (
            Activation::Softsign,
            [
                -0.777_777_777_777_777_8,
                -0.428_571_428_571_428_55,
                0.333_333_333_333_333_3,
                0.692_307_692_307_692_3,
            ],
        ),
        (
            Activation::Silu,
            [
                -0.102_592_807_629_747_12,
                -0.240_615_975_618_455_27,
                0.311_229_665_600_927_3,
                2.035_463_703_977_004,
            ],
        ),
        (
            Activation::Mish,
            [
                -0.104_095_754_486_371_22,
                -0.276_494_714_505_465_14,
                0.375_245_211_304_895_1,
                2.209_456_757_662_625_4,
            ],
        ),
        (
            Activation::Gelu,
            [
                -0.000_814_201_776_624_390_3,
                -0.169_970_514_282_651_11,
                0.345_731_230_637_006_56,
                2.222_494_936_526_149_3,
            ],
        ),
        (
            Activation::GeluTanh,
            [
                -0.000_616_197_655_373_740_3,
                -0.170_039_444_834_379_66,
                0.345_714_009_825_143_94,
                2.222_798_670_102_711,
            ],
        ),
        (Activation::Relu6, [0.0, 0.0, 0.5, 2.25]),
        (Activation::HardTanh { low: -1.5, high: 1.0 }, [-1.5, -0.75, 0.5, 1.0]),
        (
            Activation::Sigmoid,
            [
                0.029_312_230_751_356_32,
                0.320_821_300_824_607,
                0.622_459_331_201_854_6,
                0.904_650_535_100_890_6,
            ],
        ),
    ];
    for (activation, expected) in table {
        for (x, expected) in arguments.into_iter().zip(expected) {
            let result = activation.reference(x);
            assert!(
                (result - expected).abs() <= 1e-14,
                "{activation:?} of {x}: {result}, PyTorch {expected}"
            );
        }
    }
}
