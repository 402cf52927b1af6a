//! Which of a fixed number of things is due next.
//!
//! A binary heap whose entries name their things by number, so that the things themselves stay where they are, and which knows
//! where each thing's entry is. All of it is there from the start.

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
    /// By number, the place in the heap; of those that are not there it says nothing.
    places: Box<[u32]>,
    next_sequence: u64,
}

impl Deadlines {
    pub(super) fn new(capacity: usize) -> Self {
        Self { heap: Vec::with_capacity(capacity), places: vec![0; capacity].into(), next_sequence: 0 }
    }

    /// The earliest, or [`Nanos::MAX`].
    #[inline]
    pub(super) fn first_ns(&self) -> Nanos {
        self.heap.first().map_or(Nanos::MAX, |entry| entry.due_ns)
    }

    /// Whose it is.
    pub(super) fn first(&self) -> Option<u32> {
        self.heap.first().map(|entry| entry.number)
    }

    pub(super) fn insert(&mut self, number: u32, due_ns: Nanos) {
        debug_assert!(self.heap.len() < self.heap.capacity(), "more deadlines than things");
        self.heap.push(Entry { due_ns, sequence: self.next_sequence, number });
        self.next_sequence += 1;
        let last = self.heap.len() - 1;
        self.note(last);
        self.rise(last);
    }

    /// Takes out the one that is due next, whenever that is.
    pub(super) fn pop(&mut self) -> Option<u32> {
        let first = self.first()?;
        self.remove(first);
        Some(first)
    }

    /// Takes out one that is there.
    pub(super) fn remove(&mut self, number: u32) {
        let at = self.places[number as usize] as usize;
        let last = self.heap.len() - 1;
        debug_assert!(self.heap[at].number == number, "{number} has no deadline");
        self.heap.swap(at, last);
        self.heap.pop();
        if at < last {
            // What was last may belong further up or further down.
            self.note(at);
            self.rise(at);
            self.sink(at);
        }
    }

    fn note(&mut self, at: usize) {
        self.places[self.heap[at].number as usize] = at as u32;
    }

    fn swap(&mut self, one: usize, other: usize) {
        self.heap.swap(one, other);
        self.note(one);
        self.note(other);
    }

    fn rise(&mut self, mut at: usize) {
        while at > 0 {
            let parent = (at - 1) / 2;
            if self.heap[parent] < self.heap[at] {
                break;
            }
            self.swap(parent, at);
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
            self.swap(at, least);
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
        /// Of those that are there, counted in the order of their numbers.
        Remove(usize),
    }

    fn steps() -> impl proptest::strategy::Strategy<Value = Vec<Step>> {
        use proptest::prelude::*;
        // Few different times, so that many are equal.
        let step = prop_oneof![
            3 => (0_u64..8).prop_map(Step::Insert),
            1 => Just(Step::Pop),
            1 => any::<usize>().prop_map(Step::Remove),
        ];
        proptest::collection::vec(step, 0..200)
    }

    proptest::proptest! {
        #[test]
        fn the_order_is_that_of_a_sorted_list(steps in steps()) {
            let mut deadlines = Deadlines::new(steps.len());
            // Numbers grow with each insertion: of equal ones the first to come is the least.
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
                    Step::Remove(_) if model.is_empty() => {}
                    Step::Remove(which) => {
                        model.sort_by_key(|(_, number)| *number);
                        let (_, number) = model.remove(which % model.len());
                        deadlines.remove(number);
                    }
                }
                model.sort();
                proptest::prop_assert_eq!(deadlines.first(), model.first().map(|first| first.1));
                proptest::prop_assert_eq!(deadlines.first_ns(), model.first().map_or(Nanos::MAX, |first| first.0));
            }
        }
    }
}
