//! Bounded multi-producer single-consumer queue: a ring of its own, a lane, for each producer.
//!
//! - **Threads**: each producer on its own, one consumer.
//! - **In**: a producer claims `n` cells of its lane and fills them in place; they become visible together when the claim is
//!   full. **Out**: the consumer takes from one lane until it is empty or has had its turn, then from the next.
//! - **Overload**: a claim that does not fit whole into the producer's lane is refused; nothing waits, and a full lane is
//!   nothing to the other producers.
//! - **Invariant**: values of one producer come in order. Between producers there is none, even when one of them has waited
//!   for the other.
//!
//! No producer writes a line that another producer writes, and none needs an atomic operation that reads and writes. A queue that
//! all producers share (Vyukov's, with batch claims) takes a compare-and-swap a claim, which waits for the stores before it: it is
//! the slower one wherever values come singly or from several threads, and no faster with claims of a datagram's worth. The price
//! is memory for a full lane each, a number of producers fixed at the start, and a consumer that looks at every lane.
//!
//! A producer descheduled between claim and publication shows nothing of the claim and holds back its own lane only: the consumer
//! goes on with the others, and takes the claim whole when the producer comes back. Nothing is lost.

pub use super::cells::Taken;
use super::spsc::{self, Peek};

/// Values taken from one lane while others may be waiting: a worker's burst.
const TURN: usize = 256;

/// Creates a lane of `capacity` values, a power of two, for each of `producers`.
///
/// # Panics
/// When `capacity` is not a power of two or there is no producer: both come from validated configuration.
pub fn queue<T: Send>(capacity: usize, producers: usize) -> (Vec<Producer<T>>, Consumer<T>) {
    assert!(producers > 0, "a queue without producers");
    let (producers, lanes) = (0..producers)
        .map(|_| {
            let (producer, lane) = spsc::ring(capacity);
            (Producer(producer), lane)
        })
        .unzip();
    (producers, Consumer { lanes, at: 0, turn: TURN })
}

/// Reads the depth of one lane or of all from a third thread; for gauges and the ledger.
pub struct Depth<T>(Vec<spsc::Depth<T>>);

impl<T> Depth<T> {
    /// Published and not yet released.
    pub fn len(&self) -> u64 {
        self.0.iter().map(spsc::Depth::len).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn capacity(&self) -> u64 {
        self.0.iter().map(spsc::Depth::capacity).sum()
    }
}

/// A writing end.
pub struct Producer<T>(spsc::Producer<T>);

impl<T: Send> Producer<T> {
    /// Claims `count` consecutive cells, or none when they do not all fit.
    #[inline]
    pub fn claim(&mut self, count: usize) -> Option<Claim<'_, T>> {
        (self.0.room(count) == count).then(|| Claim { lane: &mut self.0, left: count })
    }

    /// Of this producer's lane.
    pub fn depth(&self) -> Depth<T> {
        Depth(vec![self.0.depth()])
    }
}

/// Cells claimed and to be filled in order. What was filled is visible once this is gone.
pub struct Claim<'a, T: Send> {
    lane: &'a mut spsc::Producer<T>,
    left: usize,
}

impl<T: Send> Claim<'_, T> {
    /// Writes the next cell.
    ///
    /// # Panics
    /// When the claim is full.
    #[inline]
    pub fn write(&mut self, value: T) {
        assert!(self.left > 0, "wrote past the claim");
        self.left -= 1;
        // There is room, as `claim` has found, and nobody but this claim uses it up.
        self.lane.push_below(u64::MAX, || value, |_| {});
    }

    /// Fills the claim: `make` is told the index of each cell in it.
    #[inline]
    pub fn fill_with(mut self, make: impl FnMut(usize) -> T) {
        self.left -= self.lane.push_each(self.left, make);
    }
}

impl<T: Send> Drop for Claim<'_, T> {
    fn drop(&mut self) {
        self.lane.publish();
        debug_assert!(self.left == 0 || std::thread::panicking(), "claim dropped before it was full");
    }
}

/// The reading end.
pub struct Consumer<T> {
    lanes: Vec<spsc::Consumer<T>>,
    /// Whose turn it is, and how much of it is left.
    at: usize,
    turn: usize,
}

impl<T: Send> Consumer<T> {
    /// Moves the next value out.
    #[inline]
    pub fn take(&mut self) -> Option<T> {
        let mut value = None;
        self.take_each(1, |taken| value = Some(taken.take()));
        value
    }

    /// Hands out up to `limit` values, as many as are published in all lanes, and returns how many those were.
    #[inline]
    pub fn take_each(&mut self, limit: usize, each: impl FnMut(Taken<'_, T>)) -> usize {
        self.take_runs(limit, TURN, |_| {}, each)
    }

    /// The same in runs of at most `length` values of one lane. Each value is shown once before it is handed out, and where there
    /// are as many behind each other, at least a run ahead.
    #[inline]
    pub fn take_runs(
        &mut self,
        limit: usize,
        length: usize,
        mut show: impl FnMut(Peek<'_, T>),
        mut each: impl FnMut(Taken<'_, T>),
    ) -> usize {
        let (mut taken, mut empty, mut shown) = (0, 0, 0);
        while taken < limit && empty < self.lanes.len() {
            let lane = &mut self.lanes[self.at];
            let visible = lane.available(self.turn.min(limit - taken).min(2 * length));
            let count = visible.min(length);
            show(lane.peek(shown..visible));
            lane.take_in_place(count, &mut each);
            taken += count;
            self.turn -= count;
            // Of a turn that ends here nothing is left.
            shown = visible - count;
            empty = if count == 0 { empty + 1 } else { 0 };
            if count == 0 || self.turn == 0 {
                self.at = if self.at + 1 < self.lanes.len() { self.at + 1 } else { 0 };
                self.turn = TURN;
            }
        }
        taken
    }

    /// Gives the cells of everything taken so far back to the producers.
    #[inline]
    pub fn release(&mut self) {
        self.lanes.iter_mut().for_each(spsc::Consumer::release);
    }

    /// Of all lanes.
    pub fn depth(&self) -> Depth<T> {
        Depth(self.lanes.iter().map(spsc::Consumer::depth).collect())
    }
}

#[cfg(all(test, not(loom_model)))]
mod tests {
    use super::*;

    fn fill(producer: &mut Producer<u64>, values: std::ops::Range<u64>) -> bool {
        let Some(claim) = producer.claim((values.end - values.start) as usize) else { return false };
        claim.fill_with(|index| values.start + index as u64);
        true
    }

    fn take(consumer: &mut Consumer<u64>, limit: usize) -> Vec<u64> {
        let mut values = Vec::new();
        let count = consumer.take_each(limit, |value| values.push(value.take()));
        assert_eq!(count, values.len());
        values
    }

    #[test]
    fn a_full_lane_is_nothing_to_the_others() {
        let (mut producers, mut consumer) = queue(4, 2);
        assert!(fill(&mut producers[0], 0..3));
        assert!(!fill(&mut producers[0], 3..5), "fits whole or not at all");
        assert!(fill(&mut producers[0], 3..4));
        assert!(fill(&mut producers[1], 100..104));
        assert_eq!((producers[1].depth().len(), consumer.depth().len(), consumer.depth().capacity()), (4, 8, 8));
        assert_eq!(consumer.take(), Some(0));
        assert_eq!(take(&mut consumer, 10), [1, 2, 3, 100, 101, 102, 103]);
        assert!(!fill(&mut producers[0], 4..5), "not released yet");
        consumer.release();
        assert!(fill(&mut producers[0], 4..8));
        assert_eq!(consumer.depth().len(), 4);
    }

    #[test]
    fn a_claim_in_progress_holds_back_its_own_lane_only() {
        let (mut producers, mut consumer) = queue(8, 2);
        let [slow, quick] = &mut producers[..] else { unreachable!() };
        let mut claim = slow.claim(2).unwrap();
        claim.write(1);
        assert!(fill(quick, 3..4));
        assert_eq!(take(&mut consumer, 8), [3]);
        claim.write(2);
        drop(claim);
        assert_eq!(take(&mut consumer, 8), [1, 2]);
    }

    #[test]
    fn a_busy_lane_has_its_turn_and_no_more() {
        let (mut producers, mut consumer) = queue(4 * TURN, 3);
        assert!(fill(&mut producers[0], 0..2 * TURN as u64));
        assert!(fill(&mut producers[2], 5000..5001));
        for value in 0..TURN as u64 {
            assert_eq!(consumer.take(), Some(value));
        }
        assert_eq!(consumer.take(), Some(5000));
        assert_eq!(consumer.take(), Some(TURN as u64));
    }

    #[test]
    fn values_are_shown_a_run_before_they_are_handed_out() {
        let (mut producers, mut consumer) = queue(8, 2);
        assert!(fill(&mut producers[0], 0..8));
        assert!(fill(&mut producers[1], 10..12));
        let seen = std::cell::RefCell::new(Vec::new());
        let show = |run: Peek<'_, u64>| seen.borrow_mut().extend(run.map(|value| ("shown", *value)));
        assert_eq!(consumer.take_runs(9, 3, show, |value| seen.borrow_mut().push(("taken", value.take()))), 9);
        let steps: [(&str, &[u64]); 7] = [
            ("shown", &[0, 1, 2, 3, 4, 5]),
            ("taken", &[0, 1, 2]),
            ("shown", &[6, 7]),
            ("taken", &[3, 4, 5]),
            ("taken", &[6, 7]),
            ("shown", &[10]), // as far as the limit
            ("taken", &[10]),
        ];
        let expected: Vec<_> =
            steps.iter().flat_map(|(what, values)| values.iter().map(move |value| (*what, *value))).collect();
        assert_eq!(seen.into_inner(), expected);
    }

    #[test]
    fn a_reader_that_panics_loses_only_what_it_was_given() {
        let (mut producers, mut consumer) = queue(4, 1);
        assert!(fill(&mut producers[0], 0..2));
        let panicking = std::panic::AssertUnwindSafe(|| consumer.take_each(4, |_| panic!("on purpose")));
        assert!(std::panic::catch_unwind(panicking).is_err());
        assert_eq!((consumer.take(), consumer.take()), (Some(1), None));
    }

    #[test]
    fn a_writer_that_panics_leaves_what_it_has_written() {
        let (mut producers, mut consumer) = queue::<u64>(4, 1);
        let panicking = std::panic::AssertUnwindSafe(|| {
            producers[0]
                .claim(3)
                .unwrap()
                .fill_with(|index| if index < 2 { index as u64 } else { panic!("on purpose") });
        });
        assert!(std::panic::catch_unwind(panicking).is_err());
        assert_eq!(take(&mut consumer, 8), [0, 1]);
        assert!(fill(&mut producers[0], 2..4));
        assert_eq!(take(&mut consumer, 8), [2, 3]);
    }

    #[test]
    fn dropping_the_queue_drops_each_value_once() {
        let item = std::sync::Arc::new(());
        let (mut producers, mut consumer) = queue(4, 2);
        producers.iter_mut().for_each(|producer| producer.claim(2).unwrap().fill_with(|_| item.clone()));
        drop(consumer.take());
        assert_eq!(consumer.take_each(1, |looked_at| assert!(std::sync::Arc::ptr_eq(&looked_at, &item))), 1);
        assert_eq!(std::sync::Arc::strong_count(&item), 3, "what is only looked at is dropped too");
        drop((producers, consumer));
        assert_eq!(std::sync::Arc::strong_count(&item), 1);
    }
}
