//! Which runs of equal blocks are free: a buddy allocator that knows places, and touches none of the memory.
//!
//! - **Thread**: its owner's. Nothing is allocated after [`Buddy::new`].
//! - **In, out**: runs of 2^order blocks, each at a multiple of its length.
//! - **Overload**: `None` when no run as long is free; [`Buddy::has`] tells beforehand, by one look.
//! - **Invariant**: a node of the tree says how long the longest free run beneath it is. Two free halves are one run.
//!
//! Of the runs that would do, one from the most crowded part is taken: small ones gather, and long ones stay whole.

/// A run of blocks. Move-only: whoever has it has the blocks.
#[must_use = "a run that is dropped is lost"]
#[derive(Debug)]
pub(super) struct Run {
    first: u32,
    order: u8,
}

impl Run {
    /// The first block.
    pub(super) fn first(&self) -> usize {
        self.first as usize
    }

    /// How many blocks.
    pub(super) fn blocks(&self) -> usize {
        1 << self.order
    }
}

/// Order of the shortest run that has so many blocks.
pub(super) fn order_of(blocks: usize) -> u8 {
    blocks.max(1).next_power_of_two().trailing_zeros() as u8
}

#[derive(Debug)]
pub(super) struct Buddy {
    /// A binary tree, the root at 1 and the blocks at its leaves: the order of the longest free run beneath, plus one; zero
    /// when there is none. What is beneath a run in use is as it was when it was taken.
    longest: Box<[u8]>,
    /// Of the root: the tree has 2^order leaves.
    order: u8,
}

impl Buddy {
    /// All of `blocks` are free.
    pub(super) fn new(blocks: usize) -> Self {
        let order = order_of(blocks);
        let leaves = 1 << order;
        let mut longest = vec![0; 2 * leaves].into_boxed_slice();
        longest[leaves..leaves + blocks].fill(1);
        let mut tree = Self { longest, order };
        for node in (1..leaves).rev() {
            tree.longest[node] = tree.join(node, order - node.ilog2() as u8);
        }
        tree
    }

    /// What a node of `order` has to say by what its halves do.
    fn join(&self, node: usize, order: u8) -> u8 {
        let (left, right) = (self.longest[2 * node], self.longest[2 * node + 1]);
        if left == order && right == order { order + 1 } else { left.max(right) }
    }

    /// Whether a run of 2^order blocks is free.
    pub(super) fn has(&self, order: u8) -> bool {
        self.longest[1] > order
    }

    pub(super) fn take(&mut self, order: u8) -> Option<Run> {
        if !self.has(order) {
            return None;
        }
        let mut node = 1;
        for _ in order..self.order {
            let (left, right) = (self.longest[2 * node], self.longest[2 * node + 1]);
            let is_left = left > order && (right <= order || left <= right);
            node = 2 * node + usize::from(!is_left);
        }
        self.longest[node] = 0;
        self.tell_above(node, order);
        let first = (node << order) - (1 << self.order);
        Some(Run { first: first as u32, order })
    }

    pub(super) fn give_back(&mut self, run: Run) {
        let Run { first, order } = run;
        let node = ((1 << self.order) + first as usize) >> order;
        self.longest[node] = order + 1;
        self.tell_above(node, order);
    }

    /// A node of `order` has changed.
    fn tell_above(&mut self, mut node: usize, mut order: u8) {
        while node > 1 {
            (node, order) = (node / 2, order + 1);
            let joined = self.join(node, order);
            if std::mem::replace(&mut self.longest[node], joined) == joined {
                return;
            }
        }
    }

    /// Free blocks, counted one by one.
    #[cfg(test)]
    pub(super) fn free(&self) -> usize {
        fn beneath(tree: &Buddy, node: usize, order: u8) -> usize {
            match tree.longest[node] {
                0 => 0,
                longest if longest == order + 1 => 1 << order,
                _ => beneath(tree, 2 * node, order - 1) + beneath(tree, 2 * node + 1, order - 1),
            }
        }
        beneath(self, 1, self.order)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_never_overlap_and_all_of_it_comes_back() {
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = move |below: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as usize % below
        };
        for blocks in [0, 1, 2, 3, 23, 64, 100, 257] {
            let mut buddy = Buddy::new(blocks);
            let mut used = vec![false; blocks];
            let mut runs: Vec<Run> = Vec::new();
            for _ in 0..5000 {
                if runs.is_empty() || random(5) < 3 {
                    let order = random(7) as u8;
                    let (has, taken) = (buddy.has(order), buddy.take(order));
                    assert_eq!(has, taken.is_some());
                    // Room for one more is there whenever a whole aligned stretch is unused.
                    let stretch = |used: &[bool]| used.len() == 1 << order && !used.contains(&true);
                    assert_eq!(has, used.chunks(1 << order).any(stretch), "{blocks} blocks, order {order}");
                    let Some(run) = taken else { continue };
                    let range = run.first()..run.first() + run.blocks();
                    assert!(run.first() % run.blocks() == 0 && !used[range.clone()].contains(&true));
                    used[range].fill(true);
                    runs.push(run);
                } else {
                    let run = runs.swap_remove(random(runs.len()));
                    used[run.first()..run.first() + run.blocks()].fill(false);
                    buddy.give_back(run);
                }
                assert_eq!(buddy.free(), used.iter().filter(|used| !**used).count());
            }
            runs.into_iter().for_each(|run| buddy.give_back(run));
            assert_eq!(buddy.longest, Buddy::new(blocks).longest);
        }
    }

    #[test]
    fn small_runs_gather_and_leave_long_ones_whole() {
        let mut buddy = Buddy::new(64);
        let small: Vec<Run> = (0..16).map(|_| buddy.take(0).unwrap()).collect();
        assert!(buddy.has(5), "sixteen blocks of one quarter");
        let mut kept = Vec::new();
        for (number, run) in small.into_iter().enumerate() {
            if number % 4 == 0 { kept.push(run) } else { buddy.give_back(run) }
        }
        kept.extend((0..12).map(|_| buddy.take(0).unwrap()));
        assert!(buddy.has(5), "the gaps were filled first");
        assert_eq!(buddy.free(), 48);
    }
}
