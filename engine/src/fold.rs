//! The folded multiplication that the keyed hashes of topics and ids are made of.

/// The low half of the 128-bit product against its high half, as in wyhash by Wang Yi: every bit of either factor reaches
/// every bit of the result.
#[inline(always)]
pub(crate) fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}
