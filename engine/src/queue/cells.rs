//! The cells of a queue, addressed by positions that count without end, and a value on its way out of one.

use std::mem::MaybeUninit;

use crate::memory::Slab;
use crate::sync::UnsafeCell;

/// A power of two of them.
pub(super) struct Cells<C>(Slab<C>);

impl<C> Cells<C> {
    /// # Panics
    /// When `count` is not a power of two: capacities come from validated configuration.
    pub(super) fn new(count: usize, cell: impl FnMut(usize) -> C) -> Self {
        assert!(count.is_power_of_two(), "a queue of {count} cells, which is not a power of two");
        Self(Slab::from_fn(count, cell))
    }

    #[inline(always)]
    pub(super) fn count(&self) -> u64 {
        self.0.len() as u64
    }

    #[inline(always)]
    pub(super) fn at(&self, position: u64) -> &C {
        self.view().at(position)
    }

    /// Those of `count` positions from `position` on, as one run, and a second one when they reach over the end. `count` is at most
    /// the count of cells; what is beyond that is left out.
    #[inline(always)]
    pub(super) fn runs(&self, position: u64, count: usize) -> [&[C]; 2] {
        let (before, after) = self.0.split_at(position as usize & (self.0.len() - 1));
        match after.get(..count) {
            Some(run) => [run, &[]],
            None => [after, &before[..(count - after.len()).min(before.len())]],
        }
    }

    /// All of them. A loop over many positions holds its own view, so that nothing it writes makes it look up again where they are.
    #[inline(always)]
    pub(super) fn view(&self) -> CellsView<'_, C> {
        CellsView(&self.0)
    }
}

/// The cells, borrowed.
pub(super) struct CellsView<'a, C>(&'a [C]);

impl<'a, C> CellsView<'a, C> {
    /// The cell that stands for `position`, and for all positions a multiple of the count away.
    #[inline(always)]
    pub(super) fn at(&self, position: u64) -> &'a C {
        let index = position as usize & (self.0.len() - 1);
        // SAFETY: the length is a power of two (asserted in `Cells::new`, the only source of a view, and nothing changes a box's
        // length), so that the mask leaves an index below it.
        unsafe { self.0.get_unchecked(index) }
    }
}

/// Where a loop over positions has got to. It stands in a local of the loop and is written back when that ends, in whatever way: what was
/// passed stays passed when a panic ends it.
pub(super) struct Cursor<'a> {
    pub(super) at: u64,
    home: &'a mut u64,
}

impl<'a> Cursor<'a> {
    #[inline(always)]
    pub(super) fn new(home: &'a mut u64) -> Self {
        Self { at: *home, home }
    }
}

impl Drop for Cursor<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        *self.home = self.at;
    }
}

/// A value on its way out of a queue, still where its producer wrote it. Its maker has seen to it that there is one for each value,
/// that the value is whole, and that nobody touches the cell before this is gone.
pub struct Taken<'a, T>(&'a UnsafeCell<MaybeUninit<T>>);

impl<'a, T> Taken<'a, T> {
    /// # Safety
    /// The cell holds a value that was published, and it stays this value's alone for `'a`; no other `Taken` was made for it.
    #[inline(always)]
    pub(super) unsafe fn new(cell: &'a UnsafeCell<MaybeUninit<T>>) -> Self {
        Self(cell)
    }

    /// Moves the value out.
    #[inline(always)]
    pub fn take(self) -> T {
        let cell = std::mem::ManuallyDrop::new(self).0;
        cell.with(|value| {
            // SAFETY: nobody writes the cell for `'a`, see `new`.
            let value = unsafe { &*value };
            // SAFETY: it holds a value, whose one `Taken` is gone by this.
            unsafe { value.assume_init_read() }
        })
    }
}

impl<T> std::ops::Deref for Taken<'_, T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        self.0.with(|value| {
            // SAFETY: as in `take`.
            let value = unsafe { &*value };
            // SAFETY: it holds a value, which is not moved out while this is borrowed.
            unsafe { value.assume_init_ref() }
        })
    }
}

impl<T> Drop for Taken<'_, T> {
    fn drop(&mut self) {
        self.0.with_mut(|value| {
            // SAFETY: as in `take`; nobody else looks at the cell.
            let value = unsafe { &mut *value };
            // SAFETY: the one value of this `Taken`, which `take` has not moved out.
            unsafe { value.assume_init_drop() };
        });
    }
}
