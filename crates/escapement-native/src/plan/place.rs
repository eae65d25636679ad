//! Assigns every buffer of a compiled plan its place in an arena.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::Plan;
use super::arena::{Allocator, Arena, Arenas};
use super::compile::Compiler;
use super::step::Span;
use crate::ir::tensor::{DType, Data};
use crate::refusal::Refusal;

/// Work of placing or freeing one buffer.
const PLACING_STEPS: usize = 32;

impl Compiler<'_> {
    /// Assigns every buffer its place. A permanent buffer keeps it; others have it from the step that writes
    /// them to the last step that reads them.
    pub(super) fn finish(
        mut self,
        mut inputs: Vec<Span>,
        mut outputs: Vec<(Span, DType)>,
    ) -> Result<Plan, Refusal> {
        let mut last = vec![0; self.buffers.len()];
        let mut first = vec![usize::MAX; self.buffers.len()];
        for (at, step) in self.steps.iter_mut().enumerate() {
            step.visit(&mut |span| {
                last[span.buffer] = at;
                first[span.buffer] = first[span.buffer].min(at);
            });
        }
        let mut allocators: [Allocator; 4] = Default::default();
        let mut start = vec![0; self.buffers.len()];
        for (at, buffer) in self.buffers.iter().enumerate().filter(|(_, buffer)| buffer.permanent) {
            start[at] = allocators[buffer.dtype as usize].allocate(buffer.dtype, buffer.len);
        }
        let mut by_first: Vec<usize> = (0..self.buffers.len())
            .filter(|&at| !self.buffers[at].permanent && first[at] != usize::MAX)
            .collect();
        by_first.sort_unstable_by_key(|&at| first[at]);
        // The live buffers, the first to end on top.
        let mut live: BinaryHeap<Reverse<(usize, usize)>> = BinaryHeap::new();
        for at in by_first {
            while let Some(&Reverse((end, over))) = live.peek()
                && end < first[at]
            {
                live.pop();
                let buffer = &self.buffers[over];
                let allocator = &mut allocators[buffer.dtype as usize];
                self.graph.meter.work(allocator.free_spans() + PLACING_STEPS)?;
                allocator.release(buffer.dtype, start[over], buffer.len);
            }
            let buffer = &self.buffers[at];
            let allocator = &mut allocators[buffer.dtype as usize];
            self.graph.meter.work(allocator.free_spans() + PLACING_STEPS)?;
            start[at] = allocator.allocate(buffer.dtype, buffer.len);
            live.push(Reverse((last[at], at)));
        }
        for step in &mut self.steps {
            step.visit(&mut |span| span.start += start[span.buffer]);
        }
        for span in inputs.iter_mut().chain(outputs.iter_mut().map(|(span, _)| span)) {
            span.start += start[span.buffer];
        }
        let mut arenas = Arenas {
            f32: Arena::new(allocators[DType::F32 as usize].len()),
            f64: Arena::new(allocators[DType::F64 as usize].len()),
            i64: Arena::new(allocators[DType::I64 as usize].len()),
            bool: Arena::new(allocators[DType::Bool as usize].len()),
        };
        for (at, buffer) in self.buffers.iter().enumerate() {
            let range = start[at]..start[at] + buffer.len;
            match &buffer.content {
                Some(Data::F32(values)) => arenas.f32.slice_mut()[range].copy_from_slice(values),
                Some(Data::F64(values)) => arenas.f64.slice_mut()[range].copy_from_slice(values),
                Some(Data::I64(values)) => arenas.i64.slice_mut()[range].copy_from_slice(values),
                Some(Data::Bool(values)) => arenas.bool.slice_mut()[range].copy_from_slice(values),
                None => {}
            }
        }
        let Self { target, steps, descriptions, .. } = self;
        Ok(Plan { target, arenas, steps, descriptions, inputs, outputs })
    }
}
