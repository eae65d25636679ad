//! L1. The noise of a stochastic policy. A seed and a sequence number determine it, so a run can be repeated
//! exactly, even if observations were skipped or the engine was restarted in between.
//!
//! Uniform words come from Philox4x32-10, a counter-based generator (Salmon, Moraes, Dror, Shaw: "Parallel
//! random numbers: as easy as 1, 2, 3", SC 2011). Ten rounds of multiplication turn a counter and a key into
//! four words, and nothing is carried from one draw to the next. The counter is the sequence and the number
//! of the block; the key is the seed. Gaussian values come from Box and Muller's method (1958), Gumbel values
//! are −ln(−ln u).

/// A distribution from which noise is drawn, independently for every element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Distribution {
    /// The standard normal distribution.
    Gaussian,
    /// The standard Gumbel distribution.
    Gumbel,
}

/// A source of noise. Its only state is its seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Noise {
    seed: u64,
    distribution: Distribution,
}

/// The number of values in one block of the generator.
const BLOCK: usize = 4;
const MULTIPLIERS: [u32; 2] = [0xd251_1f53, 0xcd9e_8d57];
const WEYL: [u32; 2] = [0x9e37_79b9, 0xbb67_ae85];
const ROUNDS: usize = 10;

impl Noise {
    /// Creates a source for a seed.
    pub const fn new(seed: u64, distribution: Distribution) -> Self {
        Self { seed, distribution }
    }

    /// Returns the seed.
    pub const fn seed(&self) -> u64 {
        self.seed
    }

    /// Fills `noise` with the values that the seed and `sequence` determine. Does not allocate, and does not
    /// branch on the values.
    pub fn fill(&self, sequence: u64, noise: &mut [f32]) {
        let key = [self.seed as u32, (self.seed >> 32) as u32];
        for (block, values) in noise.chunks_mut(BLOCK).enumerate() {
            let counter = [sequence as u32, (sequence >> 32) as u32, block as u32, 0];
            let words = philox(counter, key);
            let drawn = match self.distribution {
                Distribution::Gaussian => gaussian(words),
                Distribution::Gumbel => words.map(gumbel),
            };
            values.copy_from_slice(&drawn[..values.len()]);
        }
    }
}

/// One block of Philox4x32-10.
fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..ROUNDS {
        let products = [
            u64::from(MULTIPLIERS[0]) * u64::from(counter[0]),
            u64::from(MULTIPLIERS[1]) * u64::from(counter[2]),
        ];
        let high = products.map(|product| (product >> 32) as u32);
        let low = products.map(|product| product as u32);
        counter = [high[1] ^ counter[1] ^ key[0], low[1], high[0] ^ counter[3] ^ key[1], low[0]];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    counter
}

/// Returns the middle of one of 2³² equal parts of the interval from 0 to 1, so that neither end is ever
/// drawn.
fn uniform(word: u32) -> f64 {
    (f64::from(word) + 0.5) * (1.0 / 4_294_967_296.0)
}

fn gaussian(words: [u32; 4]) -> [f32; 4] {
    let pair = |radius: u32, angle: u32| {
        let radius = (-2.0 * uniform(radius).ln()).sqrt();
        let (sine, cosine) = (std::f64::consts::TAU * uniform(angle)).sin_cos();
        [(radius * cosine) as f32, (radius * sine) as f32]
    };
    let [first, second] = pair(words[0], words[1]);
    let [third, fourth] = pair(words[2], words[3]);
    [first, second, third, fourth]
}

fn gumbel(word: u32) -> f32 {
    (-(-uniform(word).ln()).ln()) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers that the authors published with their code.
    #[test]
    fn philox_gives_the_known_answers() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(
            philox([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    const DRAWS: usize = 400_000;

    fn draw(distribution: Distribution) -> Vec<f64> {
        let source = Noise::new(20_260_101, distribution);
        let mut values = vec![0.0f32; 4];
        let mut drawn = Vec::with_capacity(DRAWS);
        for sequence in 0..DRAWS as u64 / 4 {
            source.fill(sequence, &mut values);
            drawn.extend(values.iter().copied().map(f64::from));
        }
        drawn
    }

    /// Mean, variance, skewness, and kurtosis.
    fn moments(values: &[f64]) -> [f64; 4] {
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        let central = |power: i32| values.iter().map(|value| (value - mean).powi(power)).sum::<f64>() / count;
        let variance = central(2);
        [mean, variance, central(3) / variance.powf(1.5), central(4) / variance.powi(2)]
    }

    #[test]
    fn the_distributions_have_their_moments() {
        // Five standard errors of each estimate, from the exact moments of the distributions.
        let near = |found: f64, expected: f64, within: f64| {
            assert!((found - expected).abs() < within, "{found} is not {expected} within {within}");
        };
        let [mean, variance, skewness, kurtosis] = moments(&draw(Distribution::Gaussian));
        near(mean, 0.0, 0.008);
        near(variance, 1.0, 0.012);
        near(skewness, 0.0, 0.02);
        near(kurtosis, 3.0, 0.04);
        let [mean, variance, skewness, _] = moments(&draw(Distribution::Gumbel));
        near(mean, 0.577_216, 0.011);
        near(variance, std::f64::consts::PI.powi(2) / 6.0, 0.03);
        near(skewness, 1.139_547, 0.06);
    }

    #[test]
    fn neighbours_are_not_correlated() {
        let drawn = draw(Distribution::Gaussian);
        for lag in [1, 2, 3, 4, 8] {
            let pairs = drawn.iter().zip(&drawn[lag..]);
            let correlation = pairs.map(|(a, b)| a * b).sum::<f64>() / (drawn.len() - lag) as f64;
            assert!(correlation.abs() < 5.0 / (DRAWS as f64).sqrt(), "lag {lag}: {correlation}");
        }
    }

    #[test]
    fn seed_and_sequence_determine_everything() {
        let fill = |seed, sequence| {
            let mut values = [0.0f32; 7];
            Noise::new(seed, Distribution::Gaussian).fill(sequence, &mut values);
            values
        };
        assert_eq!(fill(1, 5), fill(1, 5));
        assert_ne!(fill(1, 5), fill(2, 5));
        assert_ne!(fill(1, 5), fill(1, 6));
        assert_ne!(fill(1, 5), fill(1 << 32 | 1, 5));
        assert_ne!(fill(1, 5), fill(1, 1 << 32 | 5));
        let values = fill(3, 9);
        let distinct: std::collections::BTreeSet<_> = values.iter().map(|value| value.to_bits()).collect();
        assert_eq!(distinct.len(), values.len());
    }

    #[test]
    fn the_ends_of_the_uniform_words_are_finite() {
        for word in [0, 1, u32::MAX - 1, u32::MAX] {
            assert!(gumbel(word).is_finite(), "{word}");
            assert!(gaussian([word; 4]).iter().all(|value| value.is_finite()), "{word}");
        }
    }
}
