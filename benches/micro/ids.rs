//! The ids that a thread claims: a producer's sequence, and now and then one that has been claimed before.

use eventstream::dedup::EventId;

/// Ids claimed at once, a worker's burst.
pub const BATCH: usize = 256;
/// One in so many is a duplicate.
const DUPLICATES: u64 = 10;
/// Duplicates are drawn from the younger half of what is remembered: none comes so late that the answer depends on how
/// far apart the threads are, or on what a round adds.
const DRAWN_FROM: u64 = 2;

/// What all threads of a case have in common.
#[derive(Clone, Copy)]
pub struct Plan {
    pub threads: u64,
    /// Ids remembered, over all threads.
    pub remembered: u64,
    pub window_ns: u64,
}

impl Plan {
    pub fn remembered_each(self) -> u64 {
        self.remembered / self.threads
    }

    /// When a thread claims its `sequence`-th id: each claims what it is to remember in just one window.
    fn time_ns(self, sequence: u64) -> u64 {
        // Not zero, as no clock of an engine is.
        let spread = u128::from(sequence) * u128::from(self.window_ns) / u128::from(self.remembered_each());
        1_000_000_000 + spread as u64
    }
}

pub struct Batch {
    pub ids: Vec<EventId>,
    pub now_ns: u64,
}

/// One thread's ids. The same for every contestant.
pub struct Stream {
    plan: Plan,
    thread: u64,
    next: u64,
    random: u64,
}

impl Stream {
    pub fn new(plan: Plan, thread: u64) -> Self {
        Self { plan, thread, next: 0, random: 0x9e37_79b9_7f4a_7c15 ^ (thread + 1) }
    }

    /// How many of the thread's own ids have been claimed.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// New ids only, to fill a table with.
    pub fn fresh(&mut self) -> Batch {
        let now_ns = self.plan.time_ns(self.next);
        let first = self.next;
        self.next += BATCH as u64;
        Batch { ids: (first..self.next).map(|sequence| id(self.thread, sequence)).collect(), now_ns }
    }

    /// Ids of which one in ten repeats one of any thread that was claimed before all threads had come to `common`. Says
    /// how many are new.
    pub fn mixed(&mut self, count: usize, common: u64) -> (Vec<Batch>, u64) {
        let before = self.next;
        let drawn_from = self.plan.remembered_each() / DRAWN_FROM;
        let mut batches = Vec::with_capacity(count / BATCH);
        for _ in 0..count / BATCH {
            let now_ns = self.plan.time_ns(self.next);
            let mut ids = Vec::with_capacity(BATCH);
            for _ in 0..BATCH {
                let draw = self.draw();
                if draw.is_multiple_of(DUPLICATES) {
                    let thread = self.draw() % self.plan.threads;
                    ids.push(id(thread, common - 1 - self.draw() % drawn_from));
                } else {
                    ids.push(id(self.thread, self.next));
                    self.next += 1;
                }
            }
            batches.push(Batch { ids, now_ns });
        }
        (batches, self.next - before)
    }

    /// xorshift*, high half.
    fn draw(&mut self) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32
    }
}

fn id(thread: u64, sequence: u64) -> EventId {
    EventId::from_parts(thread + 1, sequence)
}
