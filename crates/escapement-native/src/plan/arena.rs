//! The buffers of a plan: one flat arena per element type, and the allocation of places in it.

use super::step::Span;
use crate::ir::tensor::DType;

/// Buffers start at multiples of this many bytes, which is a cache line and the widest vector.
pub(super) const ALIGNMENT: usize = 64;

/// All values of one element type.
#[derive(Debug, Default)]
pub(super) struct Arena<T> {
    values: Vec<T>,
    /// The first element that lies on a cache line. The vector never grows, so its elements never move.
    base: usize,
}

impl<T: Copy + Default> Arena<T> {
    /// Elements per cache line: the unit of allocation.
    pub(super) const UNIT: usize = ALIGNMENT / size_of::<T>();

    pub(super) fn new(len: usize) -> Self {
        if len == 0 {
            return Self { values: Vec::new(), base: 0 };
        }
        let values = vec![T::default(); len + Self::UNIT];
        let misaligned = values.as_ptr().addr() % ALIGNMENT;
        // An allocation is at least aligned to its element, so the distance is a whole number of elements.
        let base = if misaligned == 0 { 0 } else { (ALIGNMENT - misaligned) / size_of::<T>() };
        Self { values, base }
    }

    pub(super) fn slice(&self) -> &[T] {
        &self.values[self.base..]
    }

    pub(super) fn slice_mut(&mut self) -> &mut [T] {
        &mut self.values[self.base..]
    }
}

/// One arena per element type.
#[derive(Debug, Default)]
pub(super) struct Arenas {
    pub(super) f32: Arena<f32>,
    pub(super) f64: Arena<f64>,
    pub(super) i64: Arena<i64>,
    pub(super) bool: Arena<bool>,
}

impl Arenas {
    pub(super) fn bytes(&self) -> usize {
        size_of_val(self.f32.slice())
            + size_of_val(self.f64.slice())
            + size_of_val(self.i64.slice())
            + size_of_val(self.bool.slice())
    }
}

/// An element type that has an arena.
pub(super) trait Element: Copy + Default + PartialEq {
    fn arena(arenas: &Arenas) -> &Arena<Self>;
    fn arena_mut(arenas: &mut Arenas) -> &mut Arena<Self>;
}

macro_rules! element {
    ($type:ty, $field:ident) => {
        impl Element for $type {
            fn arena(arenas: &Arenas) -> &Arena<Self> {
                &arenas.$field
            }

            fn arena_mut(arenas: &mut Arenas) -> &mut Arena<Self> {
                &mut arenas.$field
            }
        }
    };
}

element!(f32, f32);
element!(f64, f64);
element!(i64, i64);
element!(bool, bool);

/// An arena without one span, which is lent out for writing.
pub(super) struct Rest<'a, T> {
    before: &'a [T],
    after: &'a [T],
    /// Where `after` starts in the arena.
    resume: usize,
}

impl<'a, T> Rest<'a, T> {
    /// The elements of `span`. It must not overlap the span that is lent out.
    pub(super) fn get(&self, span: Span) -> &'a [T] {
        if span.start >= self.resume {
            &self.after[span.start - self.resume..][..span.len]
        } else {
            &self.before[span.range()]
        }
    }
}

/// Lends `output` for writing and the rest of the arena for reading.
pub(super) fn carve<T: Copy + Default>(arena: &mut Arena<T>, output: Span) -> (Rest<'_, T>, &mut [T]) {
    let (before, rest) = arena.slice_mut().split_at_mut(output.start);
    let (output, after) = rest.split_at_mut(output.len);
    let resume = before.len() + output.len();
    (Rest { before, after, resume }, output)
}

/// Allocates spans of an arena and takes them back. The arena grows as needed. First fit; free neighbours are
/// merged.
#[derive(Debug, Default)]
pub(super) struct Allocator {
    /// Free spans before `end`, sorted by start.
    free: Vec<(usize, usize)>,
    end: usize,
}

impl Allocator {
    fn rounded(dtype: DType, len: usize) -> usize {
        let unit = match dtype {
            DType::F32 => Arena::<f32>::UNIT,
            DType::F64 => Arena::<f64>::UNIT,
            DType::I64 => Arena::<i64>::UNIT,
            DType::Bool => Arena::<bool>::UNIT,
        };
        len.max(1).next_multiple_of(unit)
    }

    pub(super) fn allocate(&mut self, dtype: DType, len: usize) -> usize {
        let len = Self::rounded(dtype, len);
        if let Some(at) = self.free.iter().position(|&(_, size)| size >= len) {
            let (start, size) = self.free[at];
            if size == len {
                self.free.remove(at);
            } else {
                self.free[at] = (start + len, size - len);
            }
            return start;
        }
        let start = self.end;
        self.end += len;
        start
    }

    pub(super) fn release(&mut self, dtype: DType, start: usize, len: usize) {
        let len = Self::rounded(dtype, len);
        let at = self.free.partition_point(|&(other, _)| other < start);
        self.free.insert(at, (start, len));
        if at + 1 < self.free.len() && start + len == self.free[at + 1].0 {
            self.free[at].1 += self.free[at + 1].1;
            self.free.remove(at + 1);
        }
        if at > 0 && self.free[at - 1].0 + self.free[at - 1].1 == start {
            self.free[at - 1].1 += self.free[at].1;
            self.free.remove(at);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.end
    }

    /// The number of free spans. A search looks at each.
    pub(super) fn free_spans(&self) -> usize {
        self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::{Allocator, Arena, Span, carve};
    use crate::ir::tensor::DType;

    #[test]
    fn released_neighbours_merge_and_are_reused() {
        let mut allocator = Allocator::default();
        let spans: Vec<usize> = (0..3).map(|_| allocator.allocate(DType::F32, 10)).collect();
        assert_eq!(spans, [0, 16, 32]);
        allocator.release(DType::F32, 0, 10);
        allocator.release(DType::F32, 32, 10);
        allocator.release(DType::F32, 16, 10);
        assert_eq!(allocator.allocate(DType::F32, 48), 0);
        assert_eq!(allocator.len(), 48);
    }

    #[test]
    fn arenas_start_on_a_cache_line() {
        for len in [1, 17, 1000] {
            let arena = Arena::<f32>::new(len);
            assert_eq!(arena.slice().as_ptr().addr() % 64, 0);
            assert!(arena.slice().len() >= len);
        }
    }

    #[test]
    fn carving_lends_both_sides() {
        let mut arena = Arena::<i64>::new(24);
        for (at, value) in arena.slice_mut().iter_mut().enumerate() {
            *value = at as i64;
        }
        let span = |start, len| Span { buffer: 0, start, len };
        let (rest, output) = carve(&mut arena, span(8, 8));
        output.fill(-1);
        assert_eq!(rest.get(span(2, 3)), [2, 3, 4]);
        assert_eq!(rest.get(span(16, 2)), [16, 17]);
    }
}
