//! Time for the data path: nanoseconds of CLOCK_MONOTONIC, read from the time-stamp counter.
//!
//! A `clock_gettime` costs some 20 ns through the vDSO and far more where the vDSO cannot serve it; reading
//! the counter costs about 8 ns and never enters the kernel. The counter is calibrated once at start and
//! anchored to CLOCK_MONOTONIC, so values compare with the kernel's `bpf_ktime_get_ns`. Where the processor does
//! not promise an invariant counter (CPUID 8000_0007h EDX bit 8), the clock says so and asks the kernel.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Nanoseconds of CLOCK_MONOTONIC.
pub type Nanos = u64;

/// How long the counter is compared with the kernel's clock at start. 20 ms with a reading error under 100 ns
/// bounds the rate error to about 5 ppm, below what the quartz itself promises.
const CALIBRATION: Duration = Duration::from_millis(20);

/// Half of it is how wrong a comparison of clocks can be. A system call is well below, an interrupt above.
const COMPARISON_MAX_NS: Nanos = 2_000;

/// A clock that can be cloned to every agent. Tests step a [`Clock::manual`] one by hand.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    Counter { anchor_ticks: u64, anchor_ns: u64, ns_per_tick_q32: u64 },
    Kernel,
    Manual(Arc<AtomicU64>),
}

impl Clock {
    /// Calibrates the time-stamp counter; takes 20 ms. Falls back to the kernel's clock where the counter
    /// is not invariant.
    pub fn calibrated() -> Self {
        if !counter_is_invariant() {
            return Self(Source::Kernel);
        }
        let (start_ticks, start_ns) = paired_reading();
        std::thread::sleep(CALIBRATION);
        let (end_ticks, end_ns) = paired_reading();
        let ticks = end_ticks.saturating_sub(start_ticks);
        if ticks == 0 {
            return Self(Source::Kernel);
        }
        let ns_per_tick_q32 = ((u128::from(end_ns - start_ns) << 32) / u128::from(ticks)) as u64;
        Self(Source::Counter { anchor_ticks: end_ticks, anchor_ns: end_ns, ns_per_tick_q32 })
    }

    /// A clock that moves only when the test stores to `time`.
    pub fn manual(time: Arc<AtomicU64>) -> Self {
        Self(Source::Manual(time))
    }

    #[inline]
    pub fn now(&self) -> Nanos {
        match &self.0 {
            Source::Counter { anchor_ticks, anchor_ns, ns_per_tick_q32 } => {
                // Another core's counter may be a few ticks behind the anchor: saturate instead of wrapping.
                let ticks = read_counter().saturating_sub(*anchor_ticks);
                anchor_ns + ((u128::from(ticks) * u128::from(*ns_per_tick_q32)) >> 32) as u64
            }
            Source::Kernel => kernel_now(),
            Source::Manual(time) => time.load(Ordering::Relaxed),
        }
    }

    /// What to add to this clock for CLOCK_MONOTONIC as the kernel tells it: the counter's calibration is good to some ppm,
    /// and what is compared with the kernel's own times must not drift away from them. `None` when the thread was
    /// interrupted between the readings: what was known before is better. Two readings of the counter and a call.
    pub fn to_kernel(&self) -> Option<i64> {
        self.to(kernel_now)
    }

    /// What to add to this clock for nanoseconds since the UNIX epoch; as [`to_kernel`](Self::to_kernel).
    pub fn to_unix(&self) -> Option<i64> {
        self.to(unix_now)
    }

    fn to(&self, other: impl Fn() -> u64) -> Option<i64> {
        if let Source::Manual(_) = self.0 {
            return Some(0); // tests know one time
        }
        let before = self.now();
        let there = other();
        let took = self.now().saturating_sub(before);
        (took <= COMPARISON_MAX_NS).then(|| there.wrapping_sub(before + took / 2) as i64)
    }

    /// What the clock reads, for the report.
    pub fn source(&self) -> &'static str {
        match self.0 {
            Source::Counter { .. } => "tsc",
            Source::Kernel => "clock_gettime",
            Source::Manual(_) => "manual",
        }
    }
}

/// CLOCK_MONOTONIC as the kernel tells it.
pub fn kernel_now() -> Nanos {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Nanoseconds since the UNIX epoch, for what leaves the process.
pub fn unix_now() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    let time_ns = time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64;
    #[cfg(feature = "fault-injection")]
    let time_ns = crate::fault::set_wrong(time_ns);
    time_ns
}

/// Counter and kernel clock read as close together as five tries allow: an interrupt between the two would
/// tilt the whole calibration.
fn paired_reading() -> (u64, u64) {
    let mut best = (u64::MAX, 0, 0);
    for _ in 0..5 {
        let before = read_counter();
        let ns = kernel_now();
        let after = read_counter();
        if after - before < best.0 {
            best = (after - before, before + (after - before) / 2, ns);
        }
    }
    (best.1, best.2)
}

#[cfg(target_arch = "x86_64")]
#[inline]
fn read_counter() -> u64 {
    // SAFETY: RDTSC exists on every x86-64 processor; only CR4.TSD could forbid it, which Linux sets for no
    // process that did not ask for it with PR_SET_TSC, and this one does not.
    unsafe { core::arch::x86_64::_rdtsc() }
}

#[cfg(target_arch = "x86_64")]
fn counter_is_invariant() -> bool {
    use core::arch::x86_64::__cpuid;
    __cpuid(0x8000_0000).eax >= 0x8000_0007 && __cpuid(0x8000_0007).edx & (1 << 8) != 0
}

#[cfg(not(target_arch = "x86_64"))]
fn read_counter() -> u64 {
    kernel_now()
}

#[cfg(not(target_arch = "x86_64"))]
fn counter_is_invariant() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counter_follows_the_kernels_clock() {
        let clock = Clock::calibrated();
        for _ in 0..3 {
            let before = kernel_now();
            let ours = clock.now();
            let after = kernel_now();
            // Generous: the claim is "same clock", not a bound on calibration error.
            assert!(ours + 1_000_000 > before && ours < after + 1_000_000, "{before} {ours} {after}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn the_way_to_another_clock_is_found() {
        let clock = Clock::calibrated();
        let found = |to: fn(&Clock) -> Option<i64>| (0..1000).find_map(|_| to(&clock)).expect("once undisturbed");
        let (to_kernel, to_unix) = (found(Clock::to_kernel), found(Clock::to_unix));
        assert!(to_kernel.abs() < 1_000_000, "{to_kernel}");
        let (before, now, after) = (unix_now(), clock.now().wrapping_add_signed(to_unix), unix_now());
        assert!(now + 1_000_000 > before && now < after + 1_000_000, "{before} {now} {after}");
        assert_eq!(Clock::manual(Arc::default()).to_unix(), Some(0));
    }

    #[test]
    fn manual_clock_moves_by_hand() {
        let time = Arc::new(AtomicU64::new(7));
        let clock = Clock::manual(time.clone());
        assert_eq!(clock.now(), 7);
        time.store(9, Ordering::Relaxed);
        assert_eq!(clock.now(), 9);
    }
}
