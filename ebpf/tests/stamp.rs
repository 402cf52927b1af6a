//! Stamps: which packets get one, and what is taken for one.

use eventstream_steer::stamp::{STAMP_BYTES, STAMP_INTERVAL, is_due, stamp, stamped_time};

fn bytes(time_ns: u64) -> [u8; STAMP_BYTES] {
    stamp(time_ns).as_flattened().try_into().unwrap()
}

#[test]
fn the_first_of_each_run_of_packets_is_due() {
    let due: Vec<u64> = (1..=3 * STAMP_INTERVAL).filter(|steered| is_due(*steered)).collect();
    assert_eq!(due, [1, 1 + STAMP_INTERVAL, 1 + 2 * STAMP_INTERVAL]);
}

#[test]
fn a_stamp_says_its_time() {
    for time in [0, 1, 0x0123_4567_89ab_cdef, u64::MAX] {
        assert_eq!(stamped_time(&bytes(time)), Some(time));
    }
}

#[test]
fn what_differs_from_the_magic_in_one_bit_is_no_stamp() {
    assert_eq!(stamped_time(&[0; STAMP_BYTES]), None);
    for bit in 0..64 {
        let mut changed = bytes(7);
        changed[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(stamped_time(&changed), None, "bit {bit}");
    }
}
