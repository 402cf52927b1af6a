//! Faults a sanitizer must report, or its silence about the stress tests would prove nothing.
//!
//! `race`: a value is handed over by a flag that orders nothing, as a queue would whose publication is `Relaxed`.
//! `use_after_free`: heap memory is read after it was freed.

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicBool, Ordering};

struct Handover {
    value: UnsafeCell<u64>,
    ready: AtomicBool,
}

// SAFETY: none, and that is the point: `ready` does not order the accesses to `value`.
unsafe impl Sync for Handover {}

fn race() {
    static SHARED: Handover = Handover { value: UnsafeCell::new(0), ready: AtomicBool::new(false) };
    let writer = std::thread::spawn(|| {
        // SAFETY: wrong on purpose, see `Handover`.
        unsafe { *SHARED.value.get() = 1 };
        SHARED.ready.store(true, Ordering::Relaxed);
    });
    while !SHARED.ready.load(Ordering::Relaxed) {
        std::thread::yield_now();
    }
    // SAFETY: wrong on purpose, see `Handover`.
    println!("read {}", unsafe { *SHARED.value.get() });
    writer.join().expect("no panic");
}

fn use_after_free() {
    let frame = Box::new([7u8; 64]);
    let place: *const [u8; 64] = &*frame;
    drop(std::hint::black_box(frame));
    // SAFETY: wrong on purpose, it is gone.
    println!("read {}", unsafe { (*std::hint::black_box(place))[3] });
}

fn main() {
    match std::env::args().nth(1).as_deref() {
        Some("race") => race(),
        Some("use_after_free") => use_after_free(),
        _ => {
            eprintln!("seeded_fault race | use_after_free");
            std::process::exit(2);
        }
    }
}
