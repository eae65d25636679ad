//! The message that every ring carries: 256 bytes, all of them written and all of them read.

/// Words of a message.
pub const WORDS: usize = 32;

/// One message.
pub type Message = [u64; WORDS];

/// The message of a number.
#[inline(always)]
pub fn message(number: u64) -> Message {
    std::array::from_fn(|index| number + index as u64)
}

/// Returns the sum of a message's words. To compute it, all words must be read.
#[inline(always)]
pub fn digest(message: &Message) -> u64 {
    message.iter().sum()
}

/// Returns the number of the message with this digest.
///
/// # Panics
/// Panics if there is no such message: a rival that loses or tears messages is not compared.
#[inline(always)]
pub fn number_of(digest: u64) -> u64 {
    const INDICES: u64 = (WORDS * (WORDS - 1) / 2) as u64;
    let number = (digest - INDICES) / WORDS as u64;
    assert_eq!(number * WORDS as u64 + INDICES, digest, "a damaged message");
    number
}
