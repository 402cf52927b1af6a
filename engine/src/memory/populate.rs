//! Pages behind memory that has been allocated and not yet written.
//!
//! - **Thread**: whoever builds the engine, at start. The kernel gives a page when it is first touched: without this the data
//!   path would be the first, with a fault for every page, and a machine with too little memory would say so under load only.

use rustix::mm::{Advice, madvise};
use rustix::param::page_size;

/// Has the kernel give the pages now (MADV_POPULATE_WRITE, Linux 5.14; before that they come when they are touched).
pub fn populate<T>(memory: &mut [T]) {
    let page_bytes = page_size();
    let bytes = memory.as_mut_ptr_range();
    let start = bytes.start.cast::<u8>().map_addr(|address| address & !(page_bytes - 1));
    let length = bytes.end.addr().next_multiple_of(page_bytes) - start.addr();
    if size_of_val(memory) < page_bytes {
        return;
    }
    // SAFETY: this advice changes no byte of the pages that the memory lies on, it only has them given; of the first and the last
    // page another part may be somebody else's, for whom nothing changes either.
    let advised = unsafe { madvise(start.cast(), length, Advice::LinuxPopulateWrite) };
    if let Err(error) = advised {
        tracing::debug!(%error, length, "pages come when they are touched");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pages of this process that are in memory.
    fn resident() -> i64 {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        statm.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    #[test]
    fn memory_is_there_before_it_is_written() {
        let bytes = 64 << 20;
        let mut memory = vec![0_u8; bytes];
        let before = resident();
        populate(&mut memory);
        let came = (resident() - before) * page_size() as i64;
        assert!(came >= bytes as i64 / 2, "{came}: other tests give memory back meanwhile, but not so much");
        assert!(memory.iter().all(|byte| *byte == 0));
    }

    #[test]
    fn what_lies_within_a_page_is_left_alone() {
        populate::<u64>(&mut []);
        populate(&mut [0_u8; 16]);
    }
}
