//! Which offsets of a queue are dead letters that are still held: one bit each.

use std::collections::VecDeque;

#[derive(Clone, Debug, Default)]
pub(super) struct LiveSet {
    /// Offset of the first bit; a multiple of 64.
    first: u64,
    words: VecDeque<u64>,
    count: u64,
}

impl LiveSet {
    pub fn count(&self) -> u64 {
        self.count
    }

    fn place(&self, offset: u64) -> Option<(usize, u64)> {
        let word = usize::try_from(offset.checked_sub(self.first)? / 64).ok()?;
        (word < self.words.len()).then_some((word, 1 << (offset % 64)))
    }

    /// Offsets only grow.
    pub fn add(&mut self, offset: u64) {
        if self.words.is_empty() {
            self.first = offset / 64 * 64;
        }
        let Some(word) = offset.checked_sub(self.first).map(|distance| (distance / 64) as usize) else { return };
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        self.count += u64::from(self.words[word] & 1 << (offset % 64) == 0);
        self.words[word] |= 1 << (offset % 64);
    }

    pub fn contains(&self, offset: u64) -> bool {
        self.place(offset).is_some_and(|(word, bit)| self.words[word] & bit != 0)
    }

    /// True when it was there.
    pub fn remove(&mut self, offset: u64) -> bool {
        let Some((word, bit)) = self.place(offset).filter(|(word, bit)| self.words[*word] & bit != 0) else {
            return false;
        };
        self.words[word] &= !bit;
        self.count -= 1;
        true
    }

    /// Forgets everything before `offset`; returns how many those were.
    pub fn remove_before(&mut self, offset: u64) -> u64 {
        let before = self.count;
        while self.first + 64 <= offset
            && let Some(word) = self.words.pop_front()
        {
            self.count -= u64::from(word.count_ones());
            self.first += 64;
        }
        if let Some(word) = self.words.front_mut().filter(|_| offset > self.first) {
            let gone = *word & ((1 << (offset - self.first)) - 1);
            *word &= !gone;
            self.count -= u64::from(gone.count_ones());
        }
        before - self.count
    }

    /// Forgets everything from `offset` on; returns how many those were.
    pub fn remove_from(&mut self, offset: u64) -> u64 {
        let end = self.first + self.words.len() as u64 * 64;
        (offset.max(self.first)..end).filter(|offset| self.remove(*offset)).count() as u64
    }

    pub fn has_before(&self, offset: u64) -> bool {
        let whole = (offset.saturating_sub(self.first) / 64) as usize;
        let part = (1u64 << (offset % 64)) - 1;
        self.words.iter().take(whole).any(|word| *word != 0)
            || (offset > self.first && self.words.get(whole).is_some_and(|word| word & part != 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn it_is_a_set(start in 0..200u64, steps in prop::collection::vec((0..4u8, 0..300u64), 0..200)) {
            let (mut set, mut model, mut next) = (LiveSet::default(), BTreeSet::new(), start);
            for (step, number) in steps {
                let offset = start + number;
                match step {
                    0 | 1 => {
                        next += number % 3 * 40 + 1;
                        set.add(next);
                        model.insert(next);
                    }
                    2 => prop_assert_eq!(set.remove(offset), model.remove(&offset)),
                    _ if number % 4 == 0 => {
                        let kept = model.split_off(&offset);
                        prop_assert_eq!(set.remove_before(offset), model.len() as u64);
                        model = kept;
                    }
                    _ if number % 4 == 1 => prop_assert_eq!(set.remove_from(offset), model.split_off(&offset).len() as u64),
                    _ => {}
                }
                prop_assert_eq!(set.count(), model.len() as u64);
                prop_assert_eq!(set.contains(offset), model.contains(&offset));
                prop_assert_eq!(set.has_before(offset), model.range(..offset).next().is_some());
            }
        }
    }
}
