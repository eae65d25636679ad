//! A packed kernel does not allocate.

use std::hint::black_box;

use escapement::policy::native::kernels::{
    Activation, Binary, Conv1d, Conv1dShape, Dense, Gru, Isa, Lstm, Precision, Softmax, activate, binary,
    layer_norm, softmax,
};
use escapement_test_support::quiet::allocator_calls;

fn allocations(mut call: impl FnMut()) -> u64 {
    let before = allocator_calls();
    for _ in 0..1000 {
        call();
    }
    allocator_calls() - before
}

#[test]
fn no_kernel_allocates_once_packed() {
    assert_ne!(allocations(|| drop(black_box(Vec::<f32>::with_capacity(4)))), 0, "the allocator counts");
    let (inputs, hidden, steps) = (17, 33, 3);
    let weights = vec![0.01f32; 4 * hidden * hidden];
    let input = vec![0.5f32; steps * hidden];
    let (mut h, mut c) = (vec![0f32; hidden], vec![0f32; hidden]);
    let mut output = vec![0f32; steps * hidden];
    for isa in Isa::available_for(Precision::Bf16) {
        for precision in [Precision::F32, Precision::Bf16] {
            let dense = Dense::pack(
                isa,
                precision,
                &weights[..inputs * hidden],
                None,
                inputs,
                hidden,
                Activation::Gelu,
            );
            assert_eq!(allocations(|| dense.run_rows(steps, &input[..steps * inputs], &mut output)), 0);
            let (ih, hh) = (&weights[..4 * hidden * inputs], &weights[..4 * hidden * hidden]);
            let lstm = Lstm::pack(isa, precision, ih, hh, None, None, inputs, hidden);
            let mut scratch = vec![0f32; lstm.scratch_len(steps)];
            assert_eq!(allocations(|| lstm.step(&input[..inputs], &mut h, &mut c, &mut scratch)), 0);
            let window =
                || lstm.window(steps, &input[..steps * inputs], &mut h, &mut c, &mut output, &mut scratch);
            assert_eq!(allocations(window), 0);
            let (ih, hh) = (&weights[..3 * hidden * inputs], &weights[..3 * hidden * hidden]);
            let gru = Gru::pack(isa, precision, ih, hh, None, None, inputs, hidden);
            assert_eq!(allocations(|| gru.step(&input[..inputs], &mut h, &mut scratch)), 0);
            let window = || gru.window(steps, &input[..steps * inputs], &mut h, &mut output, &mut scratch);
            assert_eq!(allocations(window), 0);
        }
        let shape = Conv1dShape {
            in_channels: 3,
            out_channels: 9,
            kernel: 3,
            stride: 1,
            padding: 1,
            dilation: 1,
            groups: 1,
        };
        let conv = Conv1d::pack(isa, &weights[..81], None, shape, Activation::Relu);
        assert_eq!(allocations(|| conv.run(11, &input[..33], &mut output)), 0);
        assert_eq!(allocations(|| activate(isa, Activation::Mish, &input, &mut output)), 0);
        assert_eq!(allocations(|| binary(isa, Binary::Max, &input, &input, &mut output)), 0);
        assert_eq!(allocations(|| softmax(isa, steps, hidden, Softmax::Logarithm, &input, &mut output)), 0);
        assert_eq!(allocations(|| layer_norm(isa, steps, hidden, None, None, 1e-5, &input, &mut output)), 0);
    }
}
