//! What both XDP programs share: the packet as the kernel hands it over.
#![no_std]
#![feature(asm_experimental_arch)]

use core::arch::asm;

use aya_ebpf::programs::XdpContext;
use eventstream_steer::Packet;

/// Positions are cut to this many bits before they are added to a packet pointer: the verifier follows packet offsets
/// up to 16 bits only, and no position in a packet of one page exceeds it.
const POSITION_MASK: usize = 0x3fff;

/// A packet between the kernel's two pointers.
pub struct XdpPacket {
    data: usize,
    data_end: usize,
}

impl XdpPacket {
    #[inline(always)]
    pub fn new(context: &XdpContext) -> Self {
        Self { data: context.data(), data_end: context.data_end() }
    }

    /// The address of a `T` at `position`, if the packet holds it.
    #[inline(always)]
    pub fn pointer<T>(&self, position: usize) -> Option<*mut T> {
        const { assert!(align_of::<T>() == 1, "packets align nothing") };
        let start = self.data + (position & POSITION_MASK);
        if opaque(start + size_of::<T>()) > self.data_end {
            return None;
        }
        Some(start as *mut T)
    }
}

/// The metadata before the packet as a `T`, if so much was asked for.
#[inline(always)]
pub fn metadata<T>(context: &XdpContext) -> Option<*mut T> {
    const { assert!(align_of::<T>() == 1, "packets align nothing") };
    let start = context.metadata();
    if opaque(start + size_of::<T>()) > context.metadata_end() {
        return None;
    }
    Some(start as *mut T)
}

/// The same address, of which the compiler knows nothing: it would move the constant to the other side of a comparison
/// (`end - 8`), and the verifier allows no arithmetic on the end of a packet.
#[inline(always)]
fn opaque(mut address: usize) -> usize {
    // SAFETY: a register moved to itself. (With no instruction at all the line table would name one place twice, which
    // the kernel refuses.)
    unsafe { asm!("{0} = {0}", inout(reg) address, options(pure, nomem, nostack, preserves_flags)) };
    address
}

impl Packet for XdpPacket {
    #[inline(always)]
    fn byte_count(&self) -> usize {
        self.data_end - self.data
    }

    #[inline(always)]
    fn bytes<const N: usize>(&self, position: usize) -> Option<[u8; N]> {
        let pointer = self.pointer::<[u8; N]>(position)?;
        // SAFETY: `pointer` compared the range with the packet's end, and the verifier checks that it did.
        Some(unsafe { *pointer })
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    // Never linked in: the verifier would refuse the loop.
    loop {}
}
