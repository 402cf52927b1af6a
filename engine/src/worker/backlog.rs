//! What waits for another attempt: a bounded number of things, each with a time at which it is due, or behind another one of
//! its key.

use super::deadlines::Deadlines;
use super::key_index::{KeyIndex, NONE};
use crate::runtime::clock::Nanos;

/// Where something waits. It keeps its place while it is tried again, until it [ends](Backlog::end).
#[must_use = "a place that is dropped is never free again"]
#[derive(Debug)]
pub(super) struct Place(u32);

/// How a place hangs together with others.
#[derive(Clone, Copy)]
struct Link {
    key: Option<u32>,
    /// Who follows.
    next: u32,
    /// Of the first of a key: who came last.
    last: u32,
}

/// All of it is there from the start; the next one due is found in logarithmic time.
pub(super) struct Backlog<T> {
    /// `None` where nobody waits, or what waited is being tried.
    waiting: Box<[Option<T>]>,
    links: Box<[Link]>,
    free: Vec<u32>,
    /// Of all but those behind another one.
    deadlines: Deadlines,
    /// The first of each key.
    firsts: KeyIndex,
}

impl<T> Backlog<T> {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            waiting: (0..capacity).map(|_| None).collect(),
            links: vec![Link { key: None, next: NONE, last: NONE }; capacity].into(),
            free: (0..capacity as u32).rev().collect(),
            deadlines: Deadlines::new(capacity),
            firsts: KeyIndex::new(capacity),
        }
    }

    /// Things that wait or are being tried.
    pub(super) fn len(&self) -> usize {
        self.waiting.len() - self.free.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.free.is_empty()
    }

    /// Whether anything has a key.
    #[inline]
    pub(super) fn has_keys(&self) -> bool {
        !self.firsts.is_empty()
    }

    pub(super) fn has_key(&self, key: u32) -> bool {
        self.firsts.find(key).is_some()
    }

    /// When the next is due, or [`Nanos::MAX`].
    #[inline]
    pub(super) fn next_due_ns(&self) -> Nanos {
        self.deadlines.first_ns()
    }

    /// Lets something wait, behind everything of its key; a full backlog hands it back. What is behind another one is due
    /// when that has ended.
    pub(super) fn push(&mut self, key: Option<u32>, item: T, due_ns: Nanos) -> Result<(), T> {
        let Some(place) = self.free.pop() else { return Err(item) };
        self.waiting[place as usize] = Some(item);
        self.links[place as usize] = Link { key, next: NONE, last: place };
        match key.and_then(|key| self.firsts.find(key)) {
            Some(first) => {
                let before = std::mem::replace(&mut self.links[first as usize].last, place);
                self.links[before as usize].next = place;
            }
            None => {
                if let Some(key) = key {
                    self.firsts.insert(key, place);
                }
                self.deadlines.insert(place, due_ns);
            }
        }
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

    /// Lets it wait once more, still before what is behind it.
    pub(super) fn put_back(&mut self, place: Place, item: T, due_ns: Nanos) {
        self.waiting[place.0 as usize] = Some(item);
        self.deadlines.insert(place.0, due_ns);
    }

    /// It is over: the place is free, and what was right behind it is due now.
    pub(super) fn end(&mut self, Place(place): Place, now: Nanos) {
        let Link { key, next, last } = self.links[place as usize];
        if let Some(key) = key {
            self.firsts.remove(place);
            if next != NONE {
                self.firsts.insert(key, next);
                self.links[next as usize].last = last;
                self.deadlines.insert(next, now);
            }
        }
        self.free.push(place); // never grows: capacity is the number of places
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_place_is_taken_until_its_thing_has_ended() {
        let mut backlog = Backlog::new(2);
        let pushed = [('a', 10), ('b', 5), ('c', 1)].map(|(item, due)| backlog.push(None, item, due));
        assert_eq!(pushed, [Ok(()), Ok(()), Err('c')]);
        assert!(backlog.take_due(4).is_none());
        let (place, item) = backlog.take_due(5).unwrap();
        assert_eq!((item, backlog.len(), backlog.is_full()), ('b', 2, true));
        backlog.put_back(place, 'b', 20);
        let (place, item) = backlog.take_next().unwrap();
        assert_eq!((item, backlog.next_due_ns()), ('a', 20));
        backlog.end(place, 10);
        assert_eq!((backlog.len(), backlog.push(None, 'd', 30)), (1, Ok(())));
        let order: Vec<char> = std::iter::from_fn(|| backlog.take_next()).map(|(_, item)| item).collect();
        assert_eq!((order.as_slice(), backlog.next_due_ns()), (['b', 'd'].as_slice(), Nanos::MAX));
    }

    #[test]
    fn what_is_due_together_goes_in_the_order_in_which_it_came() {
        let mut backlog = Backlog::new(64);
        for number in 0..64 {
            backlog.push(None, number, 7).unwrap();
        }
        let order: Vec<i32> = std::iter::from_fn(|| backlog.take_due(7)).map(|(_, item)| item).collect();
        assert_eq!(order, (0..64).collect::<Vec<_>>());
    }

    #[derive(Clone, Debug)]
    enum Step {
        Push(Option<u32>, Nanos),
        /// Tries the next one; it ends, or is put back until then.
        Try(Option<Nanos>),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let push = (proptest::option::of(0_u32..3), 0_u64..8).prop_map(|(key, due)| Step::Push(key, due));
        let attempt = proptest::option::of(0_u64..8).prop_map(Step::Try);
        proptest::collection::vec(prop_oneof![push, attempt], 0..150)
    }

    /// Something in the model: when it is due and since when that is known, unless it is behind another one.
    type Modelled = (u32, Option<u32>, Option<(Nanos, usize)>);

    proptest! {
        #[test]
        fn each_key_keeps_its_order_and_holds_up_no_other(steps in steps()) {
            let mut backlog = Backlog::new(12);
            let mut model: Vec<Modelled> = Vec::new();
            for (step, number) in steps.into_iter().zip(0_u32..) {
                let at = number as usize;
                match step {
                    Step::Push(key, due) if model.len() < 12 => {
                        let behind = key.is_some() && model.iter().any(|other| other.1 == key);
                        model.push((number, key, (!behind).then_some((due, at))));
                        prop_assert_eq!(backlog.push(key, number, due), Ok(()));
                    }
                    Step::Push(key, due) => prop_assert_eq!(backlog.push(key, number, due), Err(number)),
                    Step::Try(again) => {
                        let next = (0..model.len()).filter(|at| model[*at].2.is_some()).min_by_key(|at| model[*at].2);
                        let taken = backlog.take_next();
                        prop_assert_eq!(taken.as_ref().map(|taken| taken.1), next.map(|next| model[next].0));
                        let (Some((place, item)), Some(next)) = (taken, next) else { continue };
                        if let Some(due) = again {
                            backlog.put_back(place, item, due);
                            model[next].2 = Some((due, at));
                        } else {
                            backlog.end(place, 3);
                            let (_, key, _) = model.remove(next);
                            let follower = model.iter_mut().find(|other| key.is_some() && other.1 == key);
                            follower.into_iter().for_each(|follower| follower.2 = Some((3, at)));
                        }
                    }
                }
                prop_assert_eq!(backlog.len(), model.len());
                let keys = [0, 1, 2].map(|key| model.iter().any(|other| other.1 == Some(key)));
                prop_assert_eq!([0, 1, 2].map(|key| backlog.has_key(key)), keys);
                prop_assert_eq!(backlog.has_keys(), keys.contains(&true));
            }
        }
    }
}
