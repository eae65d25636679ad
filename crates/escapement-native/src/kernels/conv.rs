//! One-dimensional convolution of a single sample, as `nn.Conv1d` defines it (with zero padding).
//!
//! Vectors lie across output channels, because a policy's window is often shorter than its number of
//! channels. Positions whose taps all fall inside the input are computed four at a time. At the edges, taps
//! that fall outside are left out.

use std::ops::Range;

use super::activation::Activation;
use super::elementwise::activate_in_place;
use super::isa::{Isa, Precision};
use super::lanes::{Kernel, Lanes};
use super::panel::load_panel;
use super::storage::{Aligned, pack_panel};

/// A packed layer.
#[derive(Debug, Clone)]
pub struct Conv1d {
    isa: Isa,
    shape: Shape,
    activation: Activation,
    /// For each group, blocks of 4, 2 and 1 vectors of output channels, each
    /// `[input channel][tap][channels]`. For [`Isa::Scalar`], the weights as given.
    weights: Aligned,
    /// The biases of each block's channels, with zeros past the last.
    bias: Aligned,
    /// The number of blocks of each width in a group.
    blocks: [usize; 3],
}

/// The parameters of a convolution, under PyTorch's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "PyTorch's own names")]
pub struct Shape {
    pub in_channels: usize,
    pub out_channels: usize,
    pub kernel: usize,
    pub stride: usize,
    pub padding: usize,
    pub dilation: usize,
    pub groups: usize,
}

/// Widths of blocks in vectors.
const WIDTHS: [usize; 3] = [4, 2, 1];
/// Values in the widest block of the widest vector.
const TILE: usize = 64;

impl Shape {
    /// The number of output positions for `length` input positions. Zero if the kernel does not fit.
    #[must_use]
    pub fn output_length(&self, length: usize) -> usize {
        (length + 2 * self.padding).checked_sub(self.reach()).map_or(0, |rest| rest / self.stride + 1)
    }

    /// Positions from the first tap to the last, both included.
    fn reach(&self) -> usize {
        self.dilation * (self.kernel - 1) + 1
    }

    /// The range of an output position's taps that fall inside the input.
    fn taps(&self, position: usize, length: usize) -> Range<usize> {
        let start = position * self.stride;
        let first = self.padding.saturating_sub(start).div_ceil(self.dilation);
        let end = (length + self.padding).saturating_sub(start).div_ceil(self.dilation);
        first.min(self.kernel)..end.min(self.kernel)
    }

    fn check(&self) {
        let counts =
            [self.in_channels, self.out_channels, self.kernel, self.stride, self.dilation, self.groups];
        assert!(
            counts.iter().all(|&count| count > 0),
            "conv1d: every count except the padding must be positive"
        );
        assert!(
            self.in_channels.is_multiple_of(self.groups) && self.out_channels.is_multiple_of(self.groups),
            "conv1d: the groups must divide the channels"
        );
    }
}

impl Conv1d {
    /// Packs a layer from the layout of `nn.Conv1d`: `weights` is
    /// `[out_channels][in_channels / groups][kernel]`.
    ///
    /// # Panics
    /// Panics if a count is zero, if the groups do not divide the channels, or if a length does not match the
    /// shape.
    #[must_use]
    pub fn pack(
        isa: Isa,
        weights: &[f32],
        bias: Option<&[f32]>,
        shape: Shape,
        activation: Activation,
    ) -> Conv1d {
        shape.check();
        let taps = shape.in_channels / shape.groups * shape.kernel;
        let channels = shape.out_channels / shape.groups;
        assert_eq!(
            weights.len(),
            shape.out_channels * taps,
            "conv1d: weights must be out x in/groups x kernel"
        );
        assert!(
            bias.is_none_or(|bias| bias.len() == shape.out_channels),
            "conv1d: there must be one bias per channel"
        );
        let lanes = isa.lanes();
        let mut vectors = channels.div_ceil(lanes);
        let blocks = WIDTHS.map(|width| {
            let count = vectors / width;
            vectors %= width;
            count
        });
        let (mut words, mut biases) = (Vec::new(), Vec::new());
        if isa == Isa::Scalar {
            words.extend_from_slice(weights);
            biases.extend(bias.map_or_else(|| vec![0.0; shape.out_channels], <[f32]>::to_vec));
        } else {
            for group in 0..shape.groups {
                let mut first = 0;
                let widths =
                    blocks.iter().zip(WIDTHS).flat_map(|(&count, width)| std::iter::repeat_n(width, count));
                for width in widths.map(|vectors| vectors * lanes) {
                    let channel =
                        |lane: usize| (first + lane < channels).then_some(group * channels + first + lane);
                    let weight =
                        |lane, tap| channel(lane).map_or(0.0, |channel| weights[channel * taps + tap]);
                    pack_panel(&mut words, Precision::F32, width, taps, weight);
                    biases.extend((0..width).map(|lane| match (bias, channel(lane)) {
                        (Some(bias), Some(channel)) => bias[channel],
                        _ => 0.0,
                    }));
                    first += width;
                }
            }
        }
        Conv1d { isa, shape, activation, weights: Aligned::new(&words), bias: Aligned::new(&biases), blocks }
    }

    /// Convolves `input`, `[in_channels][length]`, into `output`, `[out_channels][output_length(length)]`.
    ///
    /// # Panics
    /// Panics if a slice's length does not match the shape and `length`.
    pub fn run(&self, length: usize, input: &[f32], output: &mut [f32]) {
        let positions = self.shape.output_length(length);
        assert_eq!(
            input.len(),
            self.shape.in_channels * length,
            "conv1d: the input must be channels x length"
        );
        assert_eq!(
            output.len(),
            self.shape.out_channels * positions,
            "conv1d: the output must be channels x positions"
        );
        self.isa.run(Run { conv: self, length, input, output: &mut *output });
        if self.isa != Isa::Scalar {
            activate_in_place(self.isa, self.activation, output);
        }
    }

    /// The layer's parameters.
    #[must_use]
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Multiply-adds for an input of that length, including those with padding.
    #[must_use]
    pub fn multiply_adds(&self, length: usize) -> usize {
        let taps = self.shape.in_channels / self.shape.groups * self.shape.kernel;
        self.shape.output_length(length) * self.shape.out_channels * taps
    }

    /// Bytes of packed weights and bias, including their padding.
    #[must_use]
    pub fn weight_bytes(&self) -> usize {
        4 * (self.weights.len() + self.bias.len())
    }

    /// The instruction set that the layer was packed for.
    #[must_use]
    pub fn isa(&self) -> Isa {
        self.isa
    }
}

/// One call, with its lengths checked.
struct Run<'a> {
    conv: &'a Conv1d,
    length: usize,
    input: &'a [f32],
    output: &'a mut [f32],
}

impl Kernel for Run<'_> {
    type Output = ();

    fn scalar(self) {
        let (conv, shape) = (self.conv, self.conv.shape);
        let (inputs, channels) = (shape.in_channels / shape.groups, shape.out_channels / shape.groups);
        let weights = conv.weights.as_slice();
        let positions = shape.output_length(self.length);
        for (i, out) in self.output.iter_mut().enumerate() {
            let (channel, position) = (i / positions, i % positions);
            let mut sum = f64::from(conv.bias.as_slice()[channel]);
            for input in 0..inputs {
                for tap in 0..shape.kernel {
                    let at = (position * shape.stride + tap * shape.dilation).wrapping_sub(shape.padding);
                    if at < self.length {
                        let x = self.input[(channel / channels * inputs + input) * self.length + at];
                        sum += f64::from(x)
                            * f64::from(weights[(channel * inputs + input) * shape.kernel + tap]);
                    }
                }
            }
            *out = conv.activation.reference(sum) as f32;
        }
    }

    #[inline(always)]
    fn vector<L: Lanes>(mut self, l: L) {
        let shape = self.conv.shape;
        let positions = shape.output_length(self.length);
        let mut block =
            Block { weights: self.conv.weights.as_ptr(), bias: self.conv.bias.as_ptr(), group: 0, first: 0 };
        for group in 0..shape.groups {
            (block.group, block.first) = (group, 0);
            // SAFETY: packing stored these blocks in this order.
            unsafe {
                for _ in 0..self.conv.blocks[0] {
                    self.block::<L, 4>(l, &mut block, positions);
                }
                for _ in 0..self.conv.blocks[1] {
                    self.block::<L, 2>(l, &mut block, positions);
                }
                for _ in 0..self.conv.blocks[2] {
                    self.block::<L, 1>(l, &mut block, positions);
                }
            }
        }
    }
}

/// Where the next block of output channels begins.
struct Block {
    weights: *const f32,
    bias: *const f32,
    group: usize,
    /// The first channel within the group.
    first: usize,
}

impl Run<'_> {
    /// A block of `K` vectors of output channels, at all positions.
    ///
    /// # Safety
    /// `block` is where [`Conv1d::pack`] put a block of that width.
    #[inline(always)]
    unsafe fn block<L: Lanes, const K: usize>(&mut self, l: L, block: &mut Block, positions: usize) {
        let shape = self.conv.shape;
        let mut position = 0;
        // SAFETY: the block is whole. Four positions are taken together only if they exist and all of their
        // taps fall inside.
        unsafe {
            while position < positions {
                let taps = shape.taps(position, self.length);
                let last = position + 3;
                let inside = |position| shape.taps(position, self.length) == (0..shape.kernel);
                if last < positions && inside(position) && inside(last) {
                    self.positions::<L, K, 4>(l, block, position, taps, positions);
                    position += 4;
                } else {
                    self.positions::<L, K, 1>(l, block, position, taps, positions);
                    position += 1;
                }
            }
            let taps = shape.in_channels / shape.groups * shape.kernel;
            block.weights = block.weights.add(taps * K * L::LANES);
            block.bias = block.bias.add(K * L::LANES);
        }
        block.first += K * L::LANES;
    }

    /// Computes `P` positions from `position` on. They share the range of taps that fall inside the input.
    ///
    /// # Safety
    /// As [`Run::block`]. The positions must exist, and for each of them the taps must fall inside.
    #[inline(always)]
    unsafe fn positions<L: Lanes, const K: usize, const P: usize>(
        &mut self,
        l: L,
        block: &Block,
        position: usize,
        taps: Range<usize>,
        positions: usize,
    ) {
        let shape = self.conv.shape;
        let inputs = shape.in_channels / shape.groups;
        let mut tile = [[0f32; TILE]; P];
        // SAFETY: the group's channels exist in the input, and a tap in range lies inside it at
        // `position * stride + tap * dilation - padding`. The block holds a step of `K` vectors for each of
        // its channels and taps. A tile holds `K` vectors, because `TILE` is the widest.
        unsafe {
            let mut sums = [load_panel::<L, K>(l, block.bias); P];
            for channel in 0..inputs {
                let row = self.input.as_ptr().add((block.group * inputs + channel) * self.length);
                for tap in taps.clone() {
                    let weights = load_panel::<L, K>(
                        l,
                        block.weights.add((channel * shape.kernel + tap) * K * L::LANES),
                    );
                    for (p, sums) in sums.iter_mut().enumerate() {
                        let at = (position + p) * shape.stride + tap * shape.dilation - shape.padding;
                        let x = l.splat(*row.add(at));
                        for (sum, weight) in sums.iter_mut().zip(weights) {
                            *sum = l.mul_add(x, weight, *sum);
                        }
                    }
                }
            }
            for (tile, sums) in tile.iter_mut().zip(sums) {
                for (k, sum) in sums.into_iter().enumerate() {
                    l.store(tile.as_mut_ptr().add(k * L::LANES), sum);
                }
            }
        }
        // The output has its positions side by side, so the vectors across channels are transposed here.
        let channels = shape.out_channels / shape.groups;
        let count = (K * L::LANES).min(channels - block.first);
        for channel in 0..count {
            let row = (block.group * channels + block.first + channel) * positions + position;
            for (p, tile) in tile.iter().enumerate() {
                self.output[row + p] = tile[channel];
            }
        }
    }
}
