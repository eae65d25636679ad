//! L0. A small seeded generator for synthetic observations, test values and seeds. Not for secrets, and not
//! for a policy's noise: that comes from a counter-based generator in the engine.

/// SplitMix64 of Steele, Lea and Flood (2014), "Fast splittable pseudorandom number generators". Every seed,
/// also 0, gives a good stream.
///
/// ```
/// let mut random = escapement_policy::random::SplitMix64::new(0);
/// assert_eq!(random.next_word(), 0xe220_a839_7b1d_cdaf);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SplitMix64 {
    state: u64,
}

impl SplitMix64 {
    /// The distance between two states: 2⁶⁴ divided by the golden ratio, made odd.
    pub const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

    /// Creates the generator of this seed.
    pub const fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// Returns the next 64 bits.
    #[inline]
    pub const fn next_word(&mut self) -> u64 {
        self.state = self.state.wrapping_add(Self::GAMMA);
        mix(self.state)
    }

    /// Returns a number below `limit`. It is not exactly uniform, which matters only for limits near 2⁶⁴.
    ///
    /// # Panics
    /// Panics if `limit` is zero.
    #[inline]
    pub const fn below(&mut self, limit: u64) -> u64 {
        self.next_word() % limit
    }
}

/// Mixes the bits of a word, one to one: two words that differ in one bit have nothing visible in common
/// afterwards.
#[inline]
pub const fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first words of the authors' own code for seed 0.
    #[test]
    fn gives_the_known_answers() {
        let mut random = SplitMix64::new(0);
        let words: [u64; 4] = std::array::from_fn(|_| random.next_word());
        let known =
            [0xe220_a839_7b1d_cdaf, 0x6e78_9e6a_a1b9_65f4, 0x06c4_5d18_8009_454f, 0xf88b_b8a8_724c_81ec];
        assert_eq!(words, known);
    }
}
