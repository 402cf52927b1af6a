//! Bytes of a connection between two reads: an unfinished frame, or whole frames that wait for credit.
//!
//! - **Thread**: the ingest agent's. **In**: the tail of a read. **Out**: the front of the next one.
//! - **Overload**: all carries together hold no more than a fixed number of bytes. The reader asks
//!   [`CarryPool::can_hold`] before it takes bytes from the kernel and leaves them there if the answer is no.
//! - **Invariant**: a carry without bytes has no buffer. Buffers come in powers of two and are kept for reuse, so
//!   that a steady stream, whose reads nearly all end inside a frame, allocates nothing.

/// Smallest buffer: ten thousand connections that each sent part of a small frame stay below 3 MiB.
const SMALLEST_BYTES: usize = 256;
/// The largest class, 32 MiB, is above any slot.
const CLASSES: usize = 18;
/// Unused buffers kept of each class; more than the connections served in one duty cycle need at once.
const KEPT_PER_CLASS: usize = 64;

/// Classes up to a slot's size are filled beforehand, each with so many bytes: eight buffers as large as a slot, for as many
/// connections that are short of credit at once, and many small ones; 2.5 MiB in all. More at once than that take new ones.
const PREFILL_BYTES: usize = 512 << 10;
const PREFILL_LARGEST_BYTES: usize = 64 << 10;

/// One connection's part.
#[derive(Debug, Default)]
pub(super) struct Carry {
    buffer: Vec<u8>,
    /// Where the bytes begin that are not consumed yet.
    start: usize,
}

impl Carry {
    pub(super) fn bytes(&self) -> &[u8] {
        self.buffer.get(self.start..).unwrap_or_default()
    }

    pub(super) fn len(&self) -> usize {
        self.buffer.len() - self.start
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// All buffers of an agent.
#[derive(Debug)]
pub(super) struct CarryPool {
    limit_bytes: usize,
    /// Of all buffers there are, used or kept.
    total_bytes: usize,
    kept_bytes: usize,
    kept: [Vec<Vec<u8>>; CLASSES],
}

/// The class whose buffers hold `bytes`.
fn class_of(bytes: usize) -> usize {
    let blocks = bytes.div_ceil(SMALLEST_BYTES).max(1).next_power_of_two();
    (blocks.trailing_zeros() as usize).min(CLASSES - 1)
}

fn class_bytes(class: usize) -> usize {
    SMALLEST_BYTES << class
}

impl CarryPool {
    pub(super) fn new(limit_bytes: usize) -> Self {
        let kept = std::array::from_fn(|_| Vec::with_capacity(KEPT_PER_CLASS));
        Self { limit_bytes, total_bytes: 0, kept_bytes: 0, kept }
    }

    /// Makes some buffers of each size beforehand, with at most half of the limit: the first reads find theirs.
    pub(super) fn prefill(&mut self) {
        for class in 0..class_of(PREFILL_LARGEST_BYTES) + 1 {
            for _ in 0..(PREFILL_BYTES / class_bytes(class)).min(KEPT_PER_CLASS) {
                if self.total_bytes + class_bytes(class) > self.limit_bytes / 2 {
                    return;
                }
                self.total_bytes += class_bytes(class);
                self.give_back(Vec::with_capacity(class_bytes(class)));
            }
        }
    }

    /// Whether `carry` could grow to `bytes` within the limit.
    pub(super) fn can_hold(&self, carry: &Carry, bytes: usize) -> bool {
        let class = class_of(bytes);
        let used = self.total_bytes - self.kept_bytes;
        carry.buffer.capacity() >= bytes
            || !self.kept[class].is_empty()
            || used + class_bytes(class) <= self.limit_bytes
    }

    /// Puts `bytes` behind those of `carry`. Whether they fit was asked before: nothing is ever dropped here, so what
    /// was not asked for would exceed the limit instead.
    pub(super) fn append(&mut self, carry: &mut Carry, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let length = carry.len() + bytes.len();
        if length > carry.buffer.capacity() {
            let mut larger = self.obtain(length);
            larger.extend_from_slice(carry.bytes());
            self.give_back(std::mem::replace(&mut carry.buffer, larger));
            carry.start = 0;
        } else if carry.buffer.len() + bytes.len() > carry.buffer.capacity() {
            carry.buffer.drain(..carry.start);
            carry.start = 0;
        }
        carry.buffer.extend_from_slice(bytes);
    }

    /// Takes `count` bytes off the front; the last one gives the buffer back.
    pub(super) fn consume(&mut self, carry: &mut Carry, count: usize) {
        carry.start = (carry.start + count).min(carry.buffer.len());
        if carry.is_empty() {
            carry.start = 0;
            self.give_back(std::mem::take(&mut carry.buffer));
        }
    }

    pub(super) fn clear(&mut self, carry: &mut Carry) {
        self.consume(carry, usize::MAX - carry.start);
    }

    /// Bytes of buffers that hold something.
    #[cfg(test)]
    pub(super) fn used_bytes(&self) -> usize {
        self.total_bytes - self.kept_bytes
    }

    fn obtain(&mut self, bytes: usize) -> Vec<u8> {
        let class = class_of(bytes);
        if let Some(buffer) = self.kept[class].pop() {
            self.kept_bytes -= class_bytes(class);
            return buffer;
        }
        for other in (0..CLASSES).rev() {
            while self.total_bytes + class_bytes(class) > self.limit_bytes && self.kept[other].pop().is_some() {
                self.kept_bytes -= class_bytes(other);
                self.total_bytes -= class_bytes(other);
            }
        }
        self.total_bytes += class_bytes(class);
        Vec::with_capacity(class_bytes(class))
    }

    fn give_back(&mut self, mut buffer: Vec<u8>) {
        if buffer.capacity() == 0 {
            return;
        }
        let class = class_of(buffer.capacity());
        if self.kept[class].len() < KEPT_PER_CLASS {
            buffer.clear();
            self.kept_bytes += class_bytes(class);
            self.kept[class].push(buffer);
        } else {
            self.total_bytes -= class_bytes(class);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_out_as_they_went_in() {
        let mut pool = CarryPool::new(1 << 20);
        let mut carry = Carry::default();
        let bytes: Vec<u8> = (0..3000_u32).map(|number| number as u8).collect();
        bytes.chunks(7).for_each(|chunk| pool.append(&mut carry, chunk));
        assert_eq!(carry.bytes(), bytes);
        pool.consume(&mut carry, 1000);
        pool.append(&mut carry, &bytes[..1900]);
        assert_eq!(carry.bytes(), [&bytes[1000..], &bytes[..1900]].concat());
        pool.clear(&mut carry);
        assert_eq!((carry.len(), carry.buffer.capacity(), pool.used_bytes()), (0, 0, 0));
    }

    #[test]
    fn the_limit_is_for_all_together() {
        let mut pool = CarryPool::new(2048);
        let mut carries: [Carry; 3] = Default::default();
        assert!(!pool.can_hold(&carries[0], 2049));
        pool.append(&mut carries[0], &[1; 1000]);
        pool.append(&mut carries[1], &[2; 1024]);
        assert!(!pool.can_hold(&carries[2], 1));
        assert!(pool.can_hold(&carries[1], 1024), "it has that room already");
        pool.clear(&mut carries[0]);
        assert!(pool.can_hold(&carries[2], 1), "a kept buffer of another size gives way");
        pool.append(&mut carries[2], &[3; 1]);
        assert_eq!(pool.total_bytes, 1024 + 256);
    }

    #[test]
    fn prefilled_buffers_leave_half_of_the_limit() {
        let mut pool = CarryPool::new(16 << 20);
        pool.prefill();
        assert_eq!(pool.used_bytes(), 0);
        assert!(pool.kept[class_of(64 << 10)].len() == 8 && pool.total_bytes < 3 << 20, "{}", pool.total_bytes);
        let mut pool = CarryPool::new(2000);
        pool.prefill();
        assert_eq!(pool.total_bytes, 768);
        let mut carry = Carry::default();
        assert!(pool.can_hold(&carry, 1500 - 476));
        pool.append(&mut carry, &[1; 1024]);
        assert!(pool.total_bytes <= 2000);
    }

    #[test]
    fn a_kept_buffer_is_used_again() {
        let mut pool = CarryPool::new(1 << 20);
        let mut carry = Carry::default();
        for _ in 0..100 {
            pool.append(&mut carry, &[0; 300]);
            pool.clear(&mut carry);
        }
        assert_eq!((pool.total_bytes, pool.kept_bytes), (512, 512));
    }
}
