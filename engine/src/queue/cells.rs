//! The cells of a queue, addressed by positions that count without end.

/// A power of two of them.
pub(super) struct Cells<C>(Box<[C]>);

impl<C> Cells<C> {
    /// # Panics
    /// When `count` is not a power of two: capacities come from validated configuration.
    pub(super) fn new(count: usize, cell: impl FnMut(usize) -> C) -> Self {
        assert!(count.is_power_of_two(), "a queue of {count} cells, which is not a power of two");
        Self((0..count).map(cell).collect())
    }

    #[inline(always)]
    pub(super) fn count(&self) -> u64 {
        self.0.len() as u64
    }

    /// The cell that stands for `position`, and for all positions a multiple of the count away.
    #[inline(always)]
    pub(super) fn at(&self, position: u64) -> &C {
        let index = position as usize & (self.0.len() - 1);
        // SAFETY: the length is a power of two (asserted in `new`, and nothing changes a box's length), so that the mask leaves
        // an index below it.
        unsafe { self.0.get_unchecked(index) }
    }
}
