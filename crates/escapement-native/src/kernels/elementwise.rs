//! Functions of one or two vectors, applied to each value.

use super::activation::{Activation, Pointwise};
use super::isa::Isa;
use super::lanes::{Kernel, Lanes};

/// Writes `activation(input[i])` to `output[i]`.
///
/// # Panics
/// Panics if the lengths differ.
pub fn activate(isa: Isa, activation: Activation, input: &[f32], output: &mut [f32]) {
    assert_eq!(input.len(), output.len(), "activate: the lengths differ");
    // SAFETY: both slices have that length, and nothing else can write to them during the call.
    unsafe { activate_raw(isa, activation, input.as_ptr(), output.as_mut_ptr(), output.len()) }
}

/// Replaces every value by its `activation`.
pub fn activate_in_place(isa: Isa, activation: Activation, values: &mut [f32]) {
    let pointer = values.as_mut_ptr();
    // SAFETY: the slice has that length; each value is read before it is written.
    unsafe { activate_raw(isa, activation, pointer, pointer, values.len()) }
}

/// # Safety
/// `input` is valid for reading and `output` for writing `len` values; they are the same or do not overlap.
unsafe fn activate_raw(isa: Isa, activation: Activation, input: *const f32, output: *mut f32, len: usize) {
    match activation {
        // Rare in policies. The argument reduction of large values does not justify a vector form.
        Activation::Sin | Activation::Cos => Map { activation, input, output, len }.scalar(),
        _ => isa.run(Map { activation, input, output, len }),
    }
}

/// A unary function over a range. The code that makes one must keep the pointers valid as [`activate_raw`]
/// requires.
struct Map {
    activation: Activation,
    input: *const f32,
    output: *mut f32,
    len: usize,
}

impl Kernel for Map {
    type Output = ();

    fn scalar(self) {
        for i in 0..self.len {
            // SAFETY: `i < len`, for which both pointers are valid.
            unsafe { *self.output.add(i) = self.activation.reference(f64::from(*self.input.add(i))) as f32 };
        }
    }

    #[inline(always)]
    fn vector<L: Lanes>(self, l: L) {
        with_pointwise!(self.activation, |f| self.by_vector(l, f), ());
    }
}

impl Map {
    #[inline(always)]
    fn by_vector<L: Lanes, F: Pointwise>(self, l: L, f: F) {
        // SAFETY: the pointers are valid for `len` values, as `activate_raw` requires.
        unsafe { map(l, f, self.input, self.output, self.len) }
    }
}

/// # Safety
/// As [`activate_raw`].
#[inline(always)]
pub(super) unsafe fn map<L: Lanes, F: Pointwise>(
    l: L,
    f: F,
    input: *const f32,
    output: *mut f32,
    len: usize,
) {
    let mut i = 0;
    // Four vectors at a time, so that their latencies overlap.
    while i + 4 * L::LANES <= len {
        // SAFETY: four whole vectors from `i` lie within `len`.
        unsafe {
            let source = input.add(i);
            let values = [
                f.apply(l, l.load(source)),
                f.apply(l, l.load(source.add(L::LANES))),
                f.apply(l, l.load(source.add(2 * L::LANES))),
                f.apply(l, l.load(source.add(3 * L::LANES))),
            ];
            for (k, value) in values.into_iter().enumerate() {
                l.store(output.add(i + k * L::LANES), value);
            }
        }
        i += 4 * L::LANES;
    }
    while i + L::LANES <= len {
        // SAFETY: a whole vector from `i` lies within `len`.
        unsafe { l.store(output.add(i), f.apply(l, l.load(input.add(i)))) };
        i += L::LANES;
    }
    if i < len {
        // SAFETY: exactly the values from `i` to `len` are touched, fewer than a vector.
        unsafe { l.store_first(output.add(i), len - i, f.apply(l, l.load_first(input.add(i), len - i))) };
    }
}

/// A function of two values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binary {
    /// `a + b`
    Add,
    /// `a - b`
    Sub,
    /// `a * b`
    Mul,
    /// `a / b`
    Div,
    /// The smaller value; NaN if either is, as in `torch.minimum`.
    Min,
    /// The larger value; NaN if either is, as in `torch.maximum`.
    Max,
}

impl Binary {
    /// The reference: the definition. Single precision is enough, because each of these is correctly rounded
    /// on every machine.
    #[must_use]
    pub fn reference(self, a: f32, b: f32) -> f32 {
        match self {
            Binary::Add => a + b,
            Binary::Sub => a - b,
            Binary::Mul => a * b,
            Binary::Div => a / b,
            Binary::Min if a.is_nan() || a < b => a,
            Binary::Max if a.is_nan() || a > b => a,
            Binary::Min | Binary::Max => b,
        }
    }
}

/// Writes `op(a[i], b[i])` to `out[i]`.
///
/// # Panics
/// Panics if the lengths differ.
pub fn binary(isa: Isa, op: Binary, a: &[f32], b: &[f32], out: &mut [f32]) {
    assert!(a.len() == out.len() && b.len() == out.len(), "binary: the lengths differ");
    isa.run(Zip { op, a: Operand::Slice(a), b: Operand::Slice(b), out });
}

/// Writes `op(a[i], b)` to `out[i]`.
///
/// # Panics
/// Panics if the lengths differ.
pub fn binary_scalar(isa: Isa, op: Binary, a: &[f32], b: f32, out: &mut [f32]) {
    assert_eq!(a.len(), out.len(), "binary_scalar: the lengths differ");
    isa.run(Zip { op, a: Operand::Slice(a), b: Operand::Value(b), out });
}

/// Writes `op(a, b[i])` to `out[i]`.
///
/// # Panics
/// Panics if the lengths differ.
pub fn scalar_binary(isa: Isa, op: Binary, a: f32, b: &[f32], out: &mut [f32]) {
    assert_eq!(b.len(), out.len(), "scalar_binary: the lengths differ");
    isa.run(Zip { op, a: Operand::Value(a), b: Operand::Slice(b), out });
}

/// One side of a binary function. A slice is as long as the output.
#[derive(Clone, Copy)]
enum Operand<'a> {
    Slice(&'a [f32]),
    Value(f32),
}

impl Operand<'_> {
    #[inline(always)]
    fn at(self, i: usize) -> f32 {
        match self {
            Operand::Slice(values) => values[i],
            Operand::Value(value) => value,
        }
    }

    /// The `count` values from `i` on: a whole vector, or fewer values at the end.
    #[inline(always)]
    fn vector<L: Lanes>(self, l: L, i: usize, count: usize) -> L::Vector {
        match self {
            Operand::Value(value) => l.splat(value),
            Operand::Slice(values) => {
                let values = &values[i..i + count];
                if count == L::LANES {
                    // SAFETY: the slice just taken holds a whole vector.
                    unsafe { l.load(values.as_ptr()) }
                } else {
                    // SAFETY: the slice just taken holds `count` values, fewer than a vector.
                    unsafe { l.load_first(values.as_ptr(), count) }
                }
            }
        }
    }
}

struct Zip<'a> {
    op: Binary,
    a: Operand<'a>,
    b: Operand<'a>,
    out: &'a mut [f32],
}

impl Kernel for Zip<'_> {
    type Output = ();

    fn scalar(self) {
        for (i, out) in self.out.iter_mut().enumerate() {
            *out = self.op.reference(self.a.at(i), self.b.at(i));
        }
    }

    #[inline(always)]
    fn vector<L: Lanes>(self, l: L) {
        match self.op {
            Binary::Add => zip(l, Add, self),
            Binary::Sub => zip(l, Sub, self),
            Binary::Mul => zip(l, Mul, self),
            Binary::Div => zip(l, Div, self),
            Binary::Min => zip(l, Min, self),
            Binary::Max => zip(l, Max, self),
        }
    }
}

/// A binary function as a type, so that the loop is compiled once for each function.
trait Combine: Copy {
    fn apply<L: Lanes>(self, l: L, a: L::Vector, b: L::Vector) -> L::Vector;
}

macro_rules! combine {
    ($($name:ident => |$l:ident, $a:ident, $b:ident| $body:expr;)*) => {
        $(
            #[derive(Clone, Copy)]
            struct $name;
            impl Combine for $name {
                #[inline(always)]
                fn apply<L: Lanes>(self, $l: L, $a: L::Vector, $b: L::Vector) -> L::Vector {
                    $body
                }
            }
        )*
    };
}

combine! {
    Add => |l, a, b| l.add(a, b);
    Sub => |l, a, b| l.sub(a, b);
    Mul => |l, a, b| l.mul(a, b);
    Div => |l, a, b| l.div(a, b);
    // The instruction returns its second operand when either is NaN. What remains is a NaN in the first
    // operand.
    Min => |l, a, b| l.select(l.is_nan(a), a, l.min(a, b));
    Max => |l, a, b| l.select(l.is_nan(a), a, l.max(a, b));
}

#[inline(always)]
fn zip<L: Lanes, C: Combine>(l: L, combine: C, of: Zip<'_>) {
    let len = of.out.len();
    let mut i = 0;
    while i < len {
        let count = L::LANES.min(len - i);
        let value = combine.apply(l, of.a.vector(l, i, count), of.b.vector(l, i, count));
        let target = of.out[i..i + count].as_mut_ptr();
        if count == L::LANES {
            // SAFETY: the slice just taken holds a whole vector.
            unsafe { l.store(target, value) };
        } else {
            // SAFETY: the slice just taken holds `count` values, fewer than a vector.
            unsafe { l.store_first(target, count, value) };
        }
        i += count;
    }
}
