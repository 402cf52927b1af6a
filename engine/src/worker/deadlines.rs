//! Which of a fixed number of things is due next.
//!
//! A binary heap whose entries name their things by number, so that the things themselves stay where they are. All of it is
//! there from the start.

use crate::runtime::clock::Nanos;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    due_ns: Nanos,
    /// Of two that are due at one time the one that came first goes first.
    sequence: u64,
    number: u32,
}

/// The deadlines of things numbered below a capacity; each has one at most.
pub(super) struct Deadlines {
    /// No entry is smaller than its parent, which is at half its place.
    heap: Vec<Entry>,
    next_sequence: u64,
}

impl Deadlines {
    pub(super) fn new(capacity: usize) -> Self {
        Self { heap: Vec::with_capacity(capacity), next_sequence: 0 }
    }

    /// The earliest, or [`Nanos::MAX`].
    #[inline]
    pub(super) fn first_ns(&self) -> Nanos {
        self.heap.first().map_or(Nanos::MAX, |entry| entry.due_ns)
    }

    pub(super) fn insert(&mut self, number: u32, due_ns: Nanos) {
        debug_assert!(self.heap.len() < self.heap.capacity(), "more deadlines than things");
        self.heap.push(Entry { due_ns, sequence: self.next_sequence, number });
        self.next_sequence += 1;
        self.rise(self.heap.len() - 1);
    }

    /// Takes out the one that is due next, whenever that is.
    pub(super) fn pop(&mut self) -> Option<u32> {
        let last = self.heap.len().checked_sub(1)?;
        self.heap.swap(0, last);
        let first = self.heap.pop()?;
        self.sink(0);
        Some(first.number)
    }

    fn rise(&mut self, mut at: usize) {
        while at > 0 {
            let parent = (at - 1) / 2;
            if self.heap[parent] < self.heap[at] {
                break;
            }
            self.heap.swap(parent, at);
            at = parent;
        }
    }

    fn sink(&mut self, mut at: usize) {
        loop {
            let children = 2 * at + 1..(2 * at + 3).min(self.heap.len());
            let Some(least) = children.min_by_key(|child| self.heap[*child]) else { break };
            if self.heap[at] < self.heap[least] {
                break;
            }
            self.heap.swap(at, least);
            at = least;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Insert(Nanos),
        Pop,
    }

    fn steps() -> impl proptest::strategy::Strategy<Value = Vec<Step>> {
        use proptest::prelude::*;
        // Few different times, so that many are equal.
        let step = prop_oneof![2 => (0_u64..8).prop_map(Step::Insert), 1 => Just(Step::Pop)];
        proptest::collection::vec(step, 0..200)
    }

    proptest::proptest! {
        #[test]
        fn the_order_is_that_of_a_sorted_list(steps in steps()) {
            let mut deadlines = Deadlines::new(steps.len());
            // In the order of insertion; a stable sort keeps equal ones so.
            let mut model: Vec<(Nanos, u32)> = Vec::new();
            for (number, step) in (0..).zip(steps) {
                match step {
                    Step::Insert(due) => {
                        deadlines.insert(number, due);
                        model.push((due, number));
                    }
                    Step::Pop => {
                        let expected = (!model.is_empty()).then(|| model.remove(0).1);
                        proptest::prop_assert_eq!(deadlines.pop(), expected);
                    }
                }
                model.sort_by_key(|(due, _)| *due);
                proptest::prop_assert_eq!(deadlines.first_ns(), model.first().map_or(Nanos::MAX, |first| first.0));
            }
        }
    }
}
