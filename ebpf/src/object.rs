//! The compiled XDP programs, committed beside their source so that running the engine needs no BPF toolchain.

/// ELF readers take the object's address for aligned and read its headers in place.
#[repr(C, align(64))]
struct Aligned<T: ?Sized>(T);

static STEER: &Aligned<[u8]> = &Aligned(*include_bytes!("../object/steer.bpf.o"));
static BLAST: &Aligned<[u8]> = &Aligned(*include_bytes!("../object/blast.bpf.o"));

/// The steering program: see [`crate::maps`] for its maps.
pub static STEER_OBJECT: &[u8] = &STEER.0;
/// The load-stamping program: see [`crate::blast`] for its maps.
pub static BLAST_OBJECT: &[u8] = &BLAST.0;
