//! Bytes of a connection between two reads: an unfinished frame, or whole frames that wait for credit.
//!
//! - **Thread**: the ingest agent's. **In**: the tail of a read. **Out**: the front of the next one.
//! - **Overload**: all carries together lie in one region, made at the start. The reader asks [`CarryPool::can_hold`]
//!   before it takes bytes from the kernel, and leaves them there if the answer is no.
//! - **Invariant**: a carry without bytes has no memory. Nothing is allocated or freed after the start, however many
//!   connections carry something at once.

mod buddy;

use std::collections::TryReserveError;

use self::buddy::{Buddy, Run, order_of};

/// What the region is given out in: ten thousand connections that each sent part of a small frame stay below 3 MiB.
const BLOCK_BYTES: usize = 256;

/// One connection's part.
#[derive(Debug, Default)]
pub(super) struct Carry {
    run: Option<Run>,
    /// Where in the run the bytes begin that are not consumed yet,
    start: usize,
    /// and where they end.
    end: usize,
}

impl Carry {
    pub(super) fn len(&self) -> usize {
        self.end - self.start
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes it has memory for.
    fn capacity(&self) -> usize {
        self.run.as_ref().map_or(0, |run| run.blocks() * BLOCK_BYTES)
    }

    /// Where its memory begins in the region.
    fn position(&self) -> usize {
        self.run.as_ref().map_or(0, |run| run.first() * BLOCK_BYTES)
    }
}

/// The region that all carries of an agent lie in.
#[derive(Debug)]
pub(super) struct CarryPool {
    memory: Box<[u8]>,
    blocks: Buddy,
}

impl CarryPool {
    pub(super) fn new(bytes: usize) -> Result<Self, TryReserveError> {
        let blocks = bytes / BLOCK_BYTES;
        let mut memory = Vec::new();
        memory.try_reserve_exact(blocks * BLOCK_BYTES)?;
        // No zeros: those could be had without touching a page, and each first touch would then be the data path's.
        memory.resize(blocks * BLOCK_BYTES, !0);
        Ok(Self { memory: memory.into(), blocks: Buddy::new(blocks) })
    }

    /// Whether `carry` could grow to `bytes`.
    pub(super) fn can_hold(&self, carry: &Carry, bytes: usize) -> bool {
        carry.capacity() >= bytes || self.blocks.has(order_of(bytes.div_ceil(BLOCK_BYTES)))
    }

    pub(super) fn bytes(&self, carry: &Carry) -> &[u8] {
        &self.memory[carry.position()..][carry.start..carry.end]
    }

    /// Puts `bytes` behind those of `carry`.
    ///
    /// # Panics
    /// When there is no room: the caller has asked [`can_hold`](Self::can_hold) for as much, and bytes of a stream must not
    /// be lost.
    pub(super) fn append(&mut self, carry: &mut Carry, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let length = carry.len() + bytes.len();
        if length > carry.capacity() {
            let run = self.blocks.take(order_of(length.div_ceil(BLOCK_BYTES))).expect("room that was asked for");
            self.shift(carry, run.first() * BLOCK_BYTES);
            if let Some(outgrown) = carry.run.replace(run) {
                self.blocks.give_back(outgrown);
            }
        } else if carry.end + bytes.len() > carry.capacity() {
            self.shift(carry, carry.position());
        }
        let end = carry.position() + carry.end;
        self.memory[end..end + bytes.len()].copy_from_slice(bytes);
        carry.end += bytes.len();
    }

    /// Moves the bytes to the start of the memory at `position`.
    fn shift(&mut self, carry: &mut Carry, position: usize) {
        let from = carry.position();
        self.memory.copy_within(from + carry.start..from + carry.end, position);
        (carry.start, carry.end) = (0, carry.len());
    }

    /// Takes `count` bytes off the front; the last one gives the memory back.
    pub(super) fn consume(&mut self, carry: &mut Carry, count: usize) {
        carry.start += count.min(carry.len());
        if carry.is_empty()
            && let Some(run) = std::mem::take(carry).run
        {
            self.blocks.give_back(run);
        }
    }

    pub(super) fn clear(&mut self, carry: &mut Carry) {
        self.consume(carry, carry.len());
    }

    /// Bytes given out.
    #[cfg(test)]
    pub(super) fn used_bytes(&self) -> usize {
        self.memory.len() - self.blocks.free() * BLOCK_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_out_as_they_went_in() {
        let mut pool = CarryPool::new(1 << 20).unwrap();
        let (mut carry, mut other) = (Carry::default(), Carry::default());
        let bytes: Vec<u8> = (0..3000_u32).map(|number| number as u8).collect();
        for chunk in bytes.chunks(7) {
            pool.append(&mut carry, chunk);
            pool.append(&mut other, &[9; 3]);
        }
        assert_eq!(pool.bytes(&carry), bytes);
        pool.consume(&mut carry, 1000);
        pool.append(&mut carry, &bytes[..1900]);
        assert_eq!(pool.bytes(&carry), [&bytes[1000..], &bytes[..1900]].concat());
        assert_eq!(pool.bytes(&other), [9; 3].repeat(bytes.len().div_ceil(7)));
        pool.consume(&mut carry, usize::MAX);
        pool.clear(&mut other);
        assert_eq!((carry.len(), carry.capacity(), pool.used_bytes()), (0, 0, 0));
    }

    #[test]
    fn the_limit_is_for_all_together() {
        let mut pool = CarryPool::new(2048 + 255).unwrap();
        let mut carries: [Carry; 3] = Default::default();
        assert!(!pool.can_hold(&carries[0], 2049));
        pool.append(&mut carries[0], &[1; 1000]);
        pool.append(&mut carries[1], &[2; 1000]);
        assert!(!pool.can_hold(&carries[2], 1));
        assert!(pool.can_hold(&carries[1], 1024), "it has that room already");
        pool.clear(&mut carries[0]);
        assert!(pool.can_hold(&carries[2], 1));
        pool.append(&mut carries[2], &[3; 1]);
        assert_eq!(pool.used_bytes(), 1024 + 256);
        carries.iter_mut().for_each(|carry| pool.clear(carry));
        assert!(pool.can_hold(&carries[0], 2048), "what came back in parts is one again");
    }

    #[test]
    fn ten_thousand_parts_of_small_frames_and_room_for_whole_slots_beside_them() {
        let mut pool = CarryPool::new(16 << 20).unwrap();
        let mut small: Vec<Carry> = (0..10_000).map(|_| Carry::default()).collect();
        for _ in 0..3 {
            small.iter_mut().for_each(|carry| pool.append(carry, &[5; 70]));
        }
        assert!(pool.used_bytes() < 3 << 20);
        let mut large: Vec<Carry> = (0..200).map(|_| Carry::default()).collect();
        large.iter_mut().for_each(|carry| pool.append(carry, &[6; 64 << 10]));
        // Most of the small ones end: the others are as close together as they were.
        small.iter_mut().enumerate().filter(|(number, _)| number % 100 > 0).for_each(|(_, carry)| pool.clear(carry));
        large.iter_mut().for_each(|carry| pool.clear(carry));
        assert_eq!(pool.used_bytes(), 100 * BLOCK_BYTES);
        assert!(pool.can_hold(&large[0], 8 << 20));
    }

    #[test]
    fn without_memory_nothing_is_held() {
        let pool = CarryPool::new(BLOCK_BYTES - 1).unwrap();
        assert!(pool.can_hold(&Carry::default(), 0) && !pool.can_hold(&Carry::default(), 1));
    }
}
