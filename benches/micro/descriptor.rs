//! What goes through the queues: the layout of the engine's descriptor of an event, without its duties.
//!
//! A real [`Event`] stands for a reference on a frame, is made by a pool alone and must be released. Both would be
//! measured along with the queues, and no baseline could be given one to drop.

use std::mem::{align_of, size_of};

use eventstream::memory::Event;

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Descriptor {
    position: u32,
    length: u32,
    topic: u32,
    connection: u32,
    arrival_delta_ns: u32,
    topic_length: u16,
    head: u8,
    pool: u8,
}

// In debug builds, which nobody measures, an event carries what finds it when it is lost.
const _: () = assert!(size_of::<Descriptor>() == size_of::<Event>() || cfg!(debug_assertions));
const _: () = assert!(align_of::<Descriptor>() == align_of::<Event>() || cfg!(debug_assertions));

impl Descriptor {
    #[inline(always)]
    pub fn new(producer: u32, sequence: u32) -> Self {
        Self {
            position: sequence,
            length: 64,
            topic: mixed(sequence),
            connection: producer,
            arrival_delta_ns: 1,
            topic_length: 11,
            head: 3,
            pool: 0,
        }
    }
}

#[inline(always)]
fn mixed(sequence: u32) -> u32 {
    sequence.wrapping_mul(0x9e37_79b1)
}

/// Sees to it that each of `P` producers' descriptors come once, whole and in order.
pub struct Order<const P: usize> {
    expected: [u32; P],
    wrong: u32,
}

impl<const P: usize> Order<P> {
    pub fn new() -> Self {
        Self { expected: [0; P], wrong: 0 }
    }

    #[inline(always)]
    pub fn see(&mut self, descriptor: &Descriptor) {
        // With one producer the index is a constant, and the expected sequence can stay in a register.
        let producer = if P == 1 { 0 } else { descriptor.connection as usize % P };
        let expected = self.expected[producer];
        self.wrong |= (descriptor.position ^ expected) | (descriptor.topic ^ mixed(expected));
        self.expected[producer] = expected.wrapping_add(1);
    }

    pub fn check(&self, each: u32) {
        assert_eq!(self.wrong, 0, "descriptors were lost, repeated, torn or overtaken");
        assert_eq!(self.expected, [each; P], "descriptors are missing");
    }
}
