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

    #[inline(always)]
    pub(super) fn at(&self, position: u64) -> &C {
        self.view().at(position)
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
