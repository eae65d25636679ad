//! The rules for values: types and ranges, and how a value is read.

use escapement_policy::words::Words;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;
use toml::Spanned;
use toml::de::DeValue;

/// A parsed value with its place in the text.
pub(super) type Node<'t> = Spanned<DeValue<'t>>;

/// A place in the text, in bytes.
pub(super) type Place = Range<usize>;

/// What a key may hold, as error messages show it.
#[derive(Debug, Clone, PartialEq)]
pub enum Allowed {
    /// `true` or `false`.
    Flag,
    /// A whole number; both ends belong to the range.
    Whole {
        /// The smallest.
        min: u64,
        /// The largest.
        max: u64,
    },
    /// A whole number, or this word; both ends belong to the range.
    WholeOr {
        /// The smallest.
        min: u64,
        /// The largest.
        max: u64,
        /// The word.
        word: &'static str,
    },
    /// A power of two; both ends belong to the range.
    PowerOfTwo {
        /// The smallest.
        min: u64,
        /// The largest.
        max: u64,
    },
    /// A number, whole or not; both ends belong to the range.
    Number {
        /// The smallest.
        min: f64,
        /// The largest.
        max: f64,
    },
    /// One of these words.
    Choice(Vec<&'static str>),
    /// Text of this form.
    Text(&'static str),
    /// An array of texts of this form, up to a number.
    Texts {
        /// The form, in words.
        form: &'static str,
        /// The most texts.
        most: usize,
    },
    /// One number for every element, or an array with a number for each.
    Limits(&'static str),
    /// An array with a number for each element.
    Elements,
}

impl fmt::Display for Allowed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => write!(out, "true or false"),
            Self::Whole { min, max } => write!(out, "a whole number from {min} to {max}"),
            Self::WholeOr { min, max, word } => {
                write!(out, "a whole number from {min} to {max}, or \"{word}\"")
            }
            Self::PowerOfTwo { min, max } => write!(out, "a power of two from {min} to {max}"),
            Self::Number { min, max } => write!(out, "a number from {min} to {max}"),
            Self::Choice(words) => {
                for (index, word) in words.iter().enumerate() {
                    write!(out, "{}\"{word}\"", if index > 0 { ", " } else { "" })?;
                }
                Ok(())
            }
            Self::Text(form) => write!(out, "{form}"),
            Self::Texts { form, most } => write!(out, "an array of at most {most} {form}"),
            Self::Limits(which) => {
                write!(out, "{which}, one for all elements or an array with one for each")
            }
            Self::Elements => write!(out, "an array with a finite number for each element"),
        }
    }
}

/// Why a value breaks the rule of its key.
pub(super) struct Wrong {
    pub(super) what: String,
    /// The element of an array that is wrong, and its place; `None` for the whole value.
    pub(super) element: Option<(usize, Place)>,
}

impl From<String> for Wrong {
    fn from(what: String) -> Self {
        Self { what, element: None }
    }
}

/// The type and range of a key.
pub(super) trait Rule {
    /// The type of a value that follows the rule.
    type Value;

    fn allowed(&self) -> Allowed;

    fn read(&self, node: &Node<'_>) -> Result<Self::Value, Wrong>;
}

fn wrong_type(node: &Node<'_>) -> Wrong {
    Wrong::from(format!("wrong type ({})", node.get_ref().type_str()))
}

const OUT_OF_RANGE: &str = "out of range";

/// `true` or `false`.
pub(super) struct Flag;

impl Rule for Flag {
    type Value = bool;

    fn allowed(&self) -> Allowed {
        Allowed::Flag
    }

    fn read(&self, node: &Node<'_>) -> Result<bool, Wrong> {
        node.get_ref().as_bool().ok_or_else(|| wrong_type(node))
    }
}

/// A whole number of a range, its ends included.
pub(super) struct Whole(pub(super) u64, pub(super) u64);

impl Rule for Whole {
    type Value = u64;

    fn allowed(&self) -> Allowed {
        Allowed::Whole { min: self.0, max: self.1 }
    }

    fn read(&self, node: &Node<'_>) -> Result<u64, Wrong> {
        let written = node.get_ref().as_integer().ok_or_else(|| wrong_type(node))?;
        u64::from_str_radix(written.as_str(), written.radix())
            .ok()
            .filter(|value| (self.0..=self.1).contains(value))
            .ok_or_else(|| Wrong::from(OUT_OF_RANGE.to_owned()))
    }
}

/// A whole number of a range, its ends included, or a word in its place (`None`).
pub(super) struct WholeOr(pub(super) Whole, pub(super) &'static str);

impl Rule for WholeOr {
    type Value = Option<u64>;

    fn allowed(&self) -> Allowed {
        let Whole(min, max) = self.0;
        Allowed::WholeOr { min, max, word: self.1 }
    }

    fn read(&self, node: &Node<'_>) -> Result<Option<u64>, Wrong> {
        match node.get_ref().as_str() {
            Some(text) if text == self.1 => Ok(None),
            Some(_) => Err(Wrong::from("unknown value".to_owned())),
            None => self.0.read(node).map(Some),
        }
    }
}

/// A power of two of a range, its ends included.
pub(super) struct PowerOfTwo(pub(super) u64, pub(super) u64);

impl Rule for PowerOfTwo {
    type Value = u64;

    fn allowed(&self) -> Allowed {
        Allowed::PowerOfTwo { min: self.0, max: self.1 }
    }

    fn read(&self, node: &Node<'_>) -> Result<u64, Wrong> {
        let value = Whole(self.0, self.1).read(node)?;
        if value.is_power_of_two() { Ok(value) } else { Err("not a power of two".to_owned().into()) }
    }
}

/// A number of a range, its ends included.
pub(super) struct Number(pub(super) f64, pub(super) f64);

impl Rule for Number {
    type Value = f64;

    fn allowed(&self) -> Allowed {
        Allowed::Number { min: self.0, max: self.1 }
    }

    fn read(&self, node: &Node<'_>) -> Result<f64, Wrong> {
        let value = number(node)?;
        if (self.0..=self.1).contains(&value) { Ok(value) } else { Err(OUT_OF_RANGE.to_owned().into()) }
    }
}

/// One of the words of an enum.
pub(super) struct Choice<T>(PhantomData<T>);

/// Returns the rule for the words of `T`.
pub(super) const fn one_of<T: Words>() -> Choice<T> {
    Choice(PhantomData)
}

impl<T: Words> Rule for Choice<T> {
    type Value = T;

    fn allowed(&self) -> Allowed {
        Allowed::Choice(T::ALL.iter().map(|value| value.name()).collect())
    }

    fn read(&self, node: &Node<'_>) -> Result<T, Wrong> {
        let written = node.get_ref().as_str().ok_or_else(|| wrong_type(node))?;
        T::from_word(written).ok_or_else(|| "not one of the words known here".to_owned().into())
    }
}

/// Text that passes a check.
pub(super) struct Text {
    /// The form, in words.
    pub(super) form: &'static str,
    /// Whether a text has it.
    pub(super) fits: fn(&str) -> bool,
}

impl Rule for Text {
    type Value = String;

    fn allowed(&self) -> Allowed {
        Allowed::Text(self.form)
    }

    fn read(&self, node: &Node<'_>) -> Result<String, Wrong> {
        let written = node.get_ref().as_str().ok_or_else(|| wrong_type(node))?;
        if (self.fits)(written) {
            Ok(written.to_owned())
        } else {
            Err("not of the form allowed".to_owned().into())
        }
    }
}

/// An array of texts that pass a check.
pub(super) struct Texts {
    /// The form, in words.
    pub(super) form: &'static str,
    /// Whether a text has it.
    pub(super) fits: fn(&str) -> bool,
    /// The most texts.
    pub(super) most: usize,
}

impl Rule for Texts {
    type Value = Vec<String>;

    fn allowed(&self) -> Allowed {
        Allowed::Texts { form: self.form, most: self.most }
    }

    fn read(&self, node: &Node<'_>) -> Result<Vec<String>, Wrong> {
        let array = node.get_ref().as_array().ok_or_else(|| wrong_type(node))?;
        if array.len() > self.most {
            return Err(format!("length {}", array.len()).into());
        }
        let text = Text { form: self.form, fits: self.fits };
        let read = |(index, element): (usize, &Node<'_>)| {
            text.read(element).map_err(|wrong| Wrong { element: Some((index, element.span())), ..wrong })
        };
        array.iter().enumerate().map(read).collect()
    }
}

/// Numbers for the elements of a vector. The length is checked against the dimension later, when both are
/// known.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Numbers {
    /// The same for every element.
    Every(f32),
    /// One for each, with its place.
    Each(Vec<(f32, Place)>),
}

/// One limit for all elements, or one for each.
pub(super) struct Limits {
    /// The numbers allowed, in words.
    pub(super) which: &'static str,
    /// Whether a number, rounded to `f32`, is one of them.
    pub(super) fits: fn(f32) -> bool,
}

impl Rule for Limits {
    type Value = Numbers;

    fn allowed(&self) -> Allowed {
        Allowed::Limits(self.which)
    }

    fn read(&self, node: &Node<'_>) -> Result<Numbers, Wrong> {
        match node.get_ref() {
            DeValue::Array(_) => each(node, self.fits).map(Numbers::Each),
            _ => single(node, self.fits).map(Numbers::Every),
        }
    }
}

/// One finite number for each element.
pub(super) struct Elements;

impl Rule for Elements {
    type Value = Vec<(f32, Place)>;

    fn allowed(&self) -> Allowed {
        Allowed::Elements
    }

    fn read(&self, node: &Node<'_>) -> Result<Self::Value, Wrong> {
        each(node, f32::is_finite)
    }
}

fn each(node: &Node<'_>, fits: fn(f32) -> bool) -> Result<Vec<(f32, Place)>, Wrong> {
    let array = node.get_ref().as_array().ok_or_else(|| wrong_type(node))?;
    let read = |(index, element): (usize, &Node<'_>)| match single(element, fits) {
        Ok(value) => Ok((value, element.span())),
        Err(wrong) => Err(Wrong { element: Some((index, element.span())), ..wrong }),
    };
    array.iter().enumerate().map(read).collect()
}

fn single(node: &Node<'_>, fits: fn(f32) -> bool) -> Result<f32, Wrong> {
    let written = number(node)?;
    let value = written as f32;
    if value.is_infinite() && written.is_finite() {
        return Err("too large for a 32-bit float".to_owned().into());
    }
    // The engine flushes denormals, so it would treat such a number as zero.
    if value.abs() < f32::MIN_POSITIVE && written != 0.0 {
        return Err("too close to zero for a normal 32-bit float".to_owned().into());
    }
    if fits(value) { Ok(value) } else { Err(OUT_OF_RANGE.to_owned().into()) }
}

/// A whole or floating number that is not NaN. Whole numbers beyond 2^53 are rounded to a float.
fn number(node: &Node<'_>) -> Result<f64, Wrong> {
    let value = match node.get_ref() {
        DeValue::Float(written) => written.as_str().parse().ok(),
        DeValue::Integer(written) => {
            i128::from_str_radix(written.as_str(), written.radix()).ok().map(|value| value as f64)
        }
        _ => return Err(wrong_type(node)),
    };
    match value {
        Some(value) if !f64::is_nan(value) => Ok(value),
        Some(_) => Err("not a number".to_owned().into()),
        None => Err(OUT_OF_RANGE.to_owned().into()),
    }
}
