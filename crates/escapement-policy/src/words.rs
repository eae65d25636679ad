//! The words of an enum, in one place: configuration files, command lines and reports all use this one list.

/// An enum whose values are written as words. [`words!`](crate::words) implements it.
pub trait Words: Copy + PartialEq + 'static {
    /// Every value, in the order in which messages list the words.
    const ALL: &'static [Self];

    /// Returns the word for this value.
    fn name(self) -> &'static str;

    /// Returns the value that `word` stands for; `None` if there is no such word.
    fn from_word(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|value| value.name() == word)
    }
}

/// Gives an enum its words: `ALL`, `name` and [`Words`]. A variant without a word does not compile.
///
/// ```
/// use escapement_policy::words::Words;
///
/// #[derive(Debug, Clone, Copy, PartialEq)]
/// enum Side {
///     Buy,
///     Sell,
/// }
/// escapement_policy::words!(Side { Buy = "buy", Sell = "sell" });
///
/// assert_eq!(Side::Buy.name(), "buy");
/// assert_eq!(Side::from_word("sell"), Some(Side::Sell));
/// assert_eq!(Side::ALL.len(), 2);
/// ```
#[macro_export]
macro_rules! words {
    ($Enum:ident { $($Variant:ident = $word:literal),+ $(,)? }) => {
        impl $Enum {
            /// Every value, in the order in which messages list the words.
            pub const ALL: &'static [Self] = &[$(Self::$Variant),+];

            /// Returns the word for this value in configuration files, on command lines and in reports.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$Variant => $word),+
                }
            }
        }

        impl $crate::words::Words for $Enum {
            const ALL: &'static [Self] = Self::ALL;

            fn name(self) -> &'static str {
                Self::name(self)
            }
        }
    };
}
