//! Atomics of which one operation, chosen at run time, is weaker than its source says: the test of the models.
//!
//! A place is a call in the source, as `file:line:column`, found by `#[track_caller]`: the structures themselves do not
//! know that they are tested. `cargo xtask mutate-orderings` drives this by two variables of the environment:
//!
//! - `ORDERINGS_LIST=FILE`: each place that asks for more than `Relaxed` is written there once it is reached.
//! - `ORDERINGS_WEAKEN=PLACE=ORDERING`: that place gets this ordering instead. A fence made `Relaxed` is none.

use std::collections::HashSet;
use std::io::Write;
use std::panic::Location;
use std::sync::{Mutex, OnceLock};

use super::Ordering;
use super::atomic;

/// The ordering for a call at `place`. A failed exchange has a place of its own, if it asks for anything.
fn ordering_at(place: &Location<'_>, operation: &str, written: Ordering) -> Ordering {
    if written == Ordering::Relaxed {
        return written;
    }
    static LIST: OnceLock<Option<String>> = OnceLock::new();
    static WEAKEN: OnceLock<Option<(String, Ordering)>> = OnceLock::new();
    let name = || format!("{}:{}:{}:{operation}", place.file(), place.line(), place.column());
    if let Some(file) = LIST.get_or_init(|| std::env::var("ORDERINGS_LIST").ok()) {
        list(file, format!("{} {written:?}", name()));
    }
    match WEAKEN.get_or_init(weakened) {
        Some((chosen, weaker)) if *chosen == name() => *weaker,
        _ => written,
    }
}

fn weakened() -> Option<(String, Ordering)> {
    let text = std::env::var("ORDERINGS_WEAKEN").ok()?;
    let (place, ordering) = text.split_once('=').expect("ORDERINGS_WEAKEN is PLACE=ORDERING");
    let ordering = match ordering {
        "Relaxed" => Ordering::Relaxed,
        "Acquire" => Ordering::Acquire,
        "Release" => Ordering::Release,
        "AcqRel" => Ordering::AcqRel,
        other => panic!("ORDERINGS_WEAKEN knows no ordering {other}"),
    };
    Some((place.to_owned(), ordering))
}

fn list(file: &str, line: String) {
    static LISTED: Mutex<Option<HashSet<String>>> = Mutex::new(None);
    let mut listed = LISTED.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if listed.get_or_insert_default().insert(line.clone()) {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(file);
        file.and_then(|mut file| writeln!(file, "{line}")).expect("ORDERINGS_LIST can be written");
    }
}

#[track_caller]
pub(crate) fn fence(ordering: Ordering) {
    match ordering_at(Location::caller(), "fence", ordering) {
        Ordering::Relaxed => {}
        ordering => atomic::fence(ordering),
    }
}

macro_rules! atomics {
    ($($name:ident $value:ty),*) => {$(
        #[derive(Debug, Default)]
        pub(crate) struct $name(atomic::$name);

        #[allow(dead_code)] // each has the operations of all
        impl $name {
            pub(crate) fn new(value: $value) -> Self {
                Self(atomic::$name::new(value))
            }

            #[track_caller]
            pub(crate) fn load(&self, ordering: Ordering) -> $value {
                self.0.load(ordering_at(Location::caller(), "load", ordering))
            }

            #[track_caller]
            pub(crate) fn store(&self, value: $value, ordering: Ordering) {
                self.0.store(value, ordering_at(Location::caller(), "store", ordering));
            }

            #[track_caller]
            pub(crate) fn swap(&self, value: $value, ordering: Ordering) -> $value {
                self.0.swap(value, ordering_at(Location::caller(), "swap", ordering))
            }

            #[track_caller]
            pub(crate) fn compare_exchange(
                &self,
                current: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                let success = ordering_at(Location::caller(), "exchange", success);
                let failure = ordering_at(Location::caller(), "failed_exchange", failure);
                self.0.compare_exchange(current, new, success, failure)
            }

            #[track_caller]
            pub(crate) fn compare_exchange_weak(
                &self,
                current: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                self.compare_exchange(current, new, success, failure)
            }
        }
    )*};
}

atomics!(AtomicBool bool, AtomicU8 u8, AtomicU32 u32, AtomicU64 u64);

impl AtomicU32 {
    #[track_caller]
    pub(crate) fn fetch_add(&self, value: u32, ordering: Ordering) -> u32 {
        self.0.fetch_add(value, ordering_at(Location::caller(), "fetch_add", ordering))
    }

    #[track_caller]
    pub(crate) fn fetch_sub(&self, value: u32, ordering: Ordering) -> u32 {
        self.0.fetch_sub(value, ordering_at(Location::caller(), "fetch_sub", ordering))
    }
}
