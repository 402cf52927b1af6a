//! Delays double up to a limit, are drawn from their upper half, and end in time.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use crate::reconnect::{Attempts, random};

#[test]
fn they_double_up_to_the_limit_and_begin_anew_after_success() {
    let (now, mut attempts) = (Instant::now(), Attempts::new(None));
    for _ in 0..2 {
        for full in [50, 100, 200, 400, 800, 1600, 3200, 5000, 5000].map(Duration::from_millis) {
            let delay = attempts.next_delay(now, random()).unwrap();
            assert!(full / 2 <= delay && delay <= full, "{delay:?} of {full:?}");
        }
        attempts.succeeded();
    }
    assert_eq!(Attempts::new(None).next_delay(now, 0), Some(Duration::from_millis(25)));
    assert_eq!(Attempts::new(None).next_delay(now, u64::MAX), Some(Duration::from_millis(50)));
}

#[test]
fn they_differ_between_clients() {
    let drawn: HashSet<u64> = (0..100).map(|_| random() >> 32).collect();
    assert!(drawn.len() > 90, "{}", drawn.len());
}

#[test]
fn they_end_when_it_has_been_tried_for_long_enough() {
    let begun = Instant::now();
    let after = |milliseconds| begun + Duration::from_millis(milliseconds);
    let mut attempts = Attempts::new(Some(Duration::from_secs(10)));
    attempts.begin(begun);
    attempts.begin(after(5000));
    assert_eq!(attempts.next_delay(after(9990), u64::MAX), Some(Duration::from_millis(10)));
    assert_eq!(attempts.next_delay(after(10_000), u64::MAX), None);
    attempts.succeeded();
    assert!(attempts.next_delay(after(11_000), u64::MAX).is_some());
}
