//! A small seeded generator, so that a synthetic run can be repeated from its seed.

use escapement_policy::random::SplitMix64;

/// xoshiro256++ of Blackman and Vigna (2019), "Scrambled linear pseudorandom number generators". Its state is
/// filled by SplitMix64, as they advise, so that every seed, also 0, gives a good one.
#[derive(Debug, Clone)]
pub struct Random {
    state: [u64; 4],
}

impl Random {
    /// The generator of this seed.
    pub fn new(seed: u64) -> Self {
        let mut words = SplitMix64::new(seed);
        Self { state: std::array::from_fn(|_| words.next_word()) }
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        let [s0, s1, s2, s3] = self.state;
        let result = s0.wrapping_add(s3).rotate_left(23).wrapping_add(s0);
        let (s2, s3) = (s2 ^ s0, s3 ^ s1);
        self.state = [s0 ^ s3, s1 ^ s2, s2 ^ (s1 << 17), s3.rotate_left(45)];
        result
    }

    /// Uniform in [0, 1).
    pub fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Returns true with this probability.
    pub fn chance(&mut self, probability: f64) -> bool {
        self.uniform() < probability
    }

    /// Exponential with this mean.
    pub fn exponential(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.uniform()).ln()
    }

    /// Roughly standard normal: the scaled sum of four uniforms. Its absolute value never exceeds 3.5.
    pub fn bell(&mut self) -> f64 {
        let sum: f64 = (0..4).map(|_| self.uniform()).sum();
        (sum - 2.0) * 3_f64.sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_words_are_those_of_the_published_generators() {
        // splitmix64 of seed 0 is known to begin with these four words.
        let mut random = Random::new(0);
        let words =
            [0xe220_a839_7b1d_cdaf, 0x6e78_9e6a_a1b9_65f4, 0x06c4_5d18_8009_454f, 0xf88b_b8a8_724c_81ec];
        assert_eq!(random.state, words);

        // Of the state 1, 2, 3, 4, the reference implementation of xoshiro256++ gives these.
        random.state = [1, 2, 3, 4];
        let drawn: [u64; 4] = std::array::from_fn(|_| random.bits());
        assert_eq!(drawn, [41_943_041, 58_720_359, 3_588_806_011_781_223, 3_591_011_842_654_386]);
    }

    #[test]
    fn the_distributions_have_the_moments_they_claim() {
        let mut random = Random::new(7);
        let draws = 100_000;
        let mean = |values: &[f64]| values.iter().sum::<f64>() / draws as f64;
        let bell: Vec<f64> = (0..draws).map(|_| random.bell()).collect();
        let squares: Vec<f64> = bell.iter().map(|value| value * value).collect();
        let exponential: Vec<f64> = (0..draws).map(|_| random.exponential(3.0)).collect();
        assert!(mean(&bell).abs() < 0.02 && (mean(&squares) - 1.0).abs() < 0.02);
        assert!((mean(&exponential) - 3.0).abs() < 0.06);
    }
}
