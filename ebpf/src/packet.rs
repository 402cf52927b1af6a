//! Bounds-checked reading of a packet.
//!
//! [`Packet`] is the only way the decision reads bytes. In userspace it is a slice; in the XDP program it is the pair of
//! packet pointers, where the same comparison with the end is what the verifier demands before each load. Returning a
//! small array by value keeps both implementations free of references into packet memory.

/// A packet from its first Ethernet byte on.
pub trait Packet {
    /// Bytes of the frame, including any padding behind the IP packet.
    fn byte_count(&self) -> usize;

    /// The `N` bytes at `position`, or `None` if the packet ends before them.
    fn bytes<const N: usize>(&self, position: usize) -> Option<[u8; N]>;

    #[inline(always)]
    fn u16_be(&self, position: usize) -> Option<u16> {
        self.bytes(position).map(u16::from_be_bytes)
    }
}

impl Packet for [u8] {
    fn byte_count(&self) -> usize {
        self.len()
    }

    fn bytes<const N: usize>(&self, position: usize) -> Option<[u8; N]> {
        self.get(position..)?.first_chunk().copied()
    }
}
