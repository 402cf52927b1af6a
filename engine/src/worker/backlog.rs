//! What waits for another attempt: a bounded number of things, each with a time at which it is due.

use super::deadlines::Deadlines;
use crate::runtime::clock::Nanos;

/// Where something waits. It keeps its place while it is tried again, until it [ends](Backlog::end).
#[must_use = "a place that is dropped is never free again"]
#[derive(Debug)]
pub(super) struct Place(u32);

/// All of it is there from the start; the next one due is found in logarithmic time.
pub(super) struct Backlog<T> {
    /// `None` where nobody waits, or what waited is being tried.
    waiting: Box<[Option<T>]>,
    free: Vec<u32>,
    deadlines: Deadlines,
}

impl<T> Backlog<T> {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            waiting: (0..capacity).map(|_| None).collect(),
            free: (0..capacity as u32).rev().collect(),
            deadlines: Deadlines::new(capacity),
        }
    }

    /// Things that wait or are being tried.
    pub(super) fn len(&self) -> usize {
        self.waiting.len() - self.free.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.free.is_empty()
    }

    /// When the next is due, or [`Nanos::MAX`].
    #[inline]
    pub(super) fn next_due_ns(&self) -> Nanos {
        self.deadlines.first_ns()
    }

    /// Lets something wait; a full backlog hands it back.
    pub(super) fn push(&mut self, item: T, due_ns: Nanos) -> Result<(), T> {
        let Some(place) = self.free.pop() else { return Err(item) };
        self.put_back(Place(place), item, due_ns);
        Ok(())
    }

    /// Takes the next that is due by `now`, to be tried.
    pub(super) fn take_due(&mut self, now: Nanos) -> Option<(Place, T)> {
        if now < self.next_due_ns() { None } else { self.take_next() }
    }

    /// Takes the next one whenever it is due.
    pub(super) fn take_next(&mut self) -> Option<(Place, T)> {
        let place = self.deadlines.pop()?;
        Some((Place(place), self.waiting[place as usize].take()?))
    }

    /// Lets it wait once more.
    pub(super) fn put_back(&mut self, place: Place, item: T, due_ns: Nanos) {
        self.waiting[place.0 as usize] = Some(item);
        self.deadlines.insert(place.0, due_ns);
    }

    /// It is over: the place is free.
    pub(super) fn end(&mut self, place: Place) {
        self.free.push(place.0); // never grows: capacity is the number of places
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_taken_until_its_thing_has_ended() {
        let mut backlog = Backlog::new(2);
        assert_eq!((backlog.push('a', 10), backlog.push('b', 5), backlog.push('c', 1)), (Ok(()), Ok(()), Err('c')));
        assert!(backlog.take_due(4).is_none());
        let (place, item) = backlog.take_due(5).unwrap();
        assert_eq!((item, backlog.len(), backlog.is_full()), ('b', 2, true));
        backlog.put_back(place, 'b', 20);
        let (place, item) = backlog.take_next().unwrap();
        assert_eq!((item, backlog.next_due_ns()), ('a', 20));
        backlog.end(place);
        assert_eq!((backlog.len(), backlog.push('d', 30)), (1, Ok(())));
        let order: Vec<char> = std::iter::from_fn(|| backlog.take_next()).map(|(_, item)| item).collect();
        assert_eq!((order.as_slice(), backlog.next_due_ns()), (['b', 'd'].as_slice(), Nanos::MAX));
    }

    #[test]
    fn what_is_due_together_goes_in_the_order_in_which_it_came() {
        let mut backlog = Backlog::new(64);
        for number in 0..64 {
            backlog.push(number, 7).unwrap();
        }
        let order: Vec<i32> = std::iter::from_fn(|| backlog.take_due(7)).map(|(_, item)| item).collect();
        assert_eq!(order, (0..64).collect::<Vec<_>>());
    }
}
