//! Everything the control side reads of the running agents, gathered while they are built.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::control::Inputs;
use crate::dedup::DedupTable;
use crate::frame::Class;
use crate::ingest::DrainStatus;
use crate::memory::{FramePool, Placement, Policy, PoolGauges};
use crate::metrics::{
    Counter, CounterBlock, DeadLetterReason, DedupLevels, FrameLevels, Latencies, Ledger, LostReason, MemoryReport,
    PoolLevels, Processed, Spans, Totals,
};
use crate::runtime::clock::Nanos;
use crate::storage::DeadLetterGauges;

/// Slots that are named one by one when they have not come back: what was lost once is mostly lost often.
const SLOTS_NAMED: usize = 16;

/// Which stage a queue belongs to in the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Edge {
    Ingest,
    Worker(Class),
    DeadLetter,
}

/// A queue's depth as the control side sees it.
pub(super) struct DepthProbe {
    pub edge: Edge,
    pub name: String,
    pub capacity: u64,
    pub read: Box<dyn Fn() -> u64 + Send + Sync>,
    /// Set while who reads it waits for the event log.
    pub waits: Option<Arc<AtomicBool>>,
}

impl DepthProbe {
    /// How full it is, in percent. One that stands because the log takes nothing is not full of load: publishers over TCP wait,
    /// and what else finds no room is seen as loss.
    fn load_percent(&self) -> Option<u32> {
        let waits = self.waits.as_ref().is_some_and(|waits| waits.load(Ordering::Relaxed));
        (!waits).then(|| percent((self.read)(), self.capacity))
    }
}

fn percent(part: u64, whole: u64) -> u32 {
    (part * 100 / whole.max(1)).min(100) as u32
}

/// How far things are at one look of the control thread.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress {
    pub now: Nanos,
    pub accepted: u64,
    pub found_no_room: u64,
    pub shed: u64,
    /// Of each data thread.
    pub busy_ns: Vec<Nanos>,
}

/// More than this nobody needs to know.
const DEMAND_PERCENT_MAX: u64 = 10_000;

impl Progress {
    /// How much of its time the busiest thread would have needed since `before`, had nothing been shed: the time that it needed,
    /// times what was accepted for each event that was not shed.
    fn demand_percent(&self, before: &Self) -> u32 {
        let elapsed = self.now.saturating_sub(before.now).max(1);
        let busy = self.busy_ns.iter().zip(&before.busy_ns).map(|(now, before)| now.saturating_sub(*before)).max();
        let accepted = self.accepted - before.accepted;
        let kept = accepted.saturating_sub(self.shed.saturating_sub(before.shed)).max(1);
        let needed = u128::from(busy.unwrap_or(0)) * u128::from(accepted.max(kept)) / u128::from(kept);
        (needed * 100 / u128::from(elapsed)).min(u128::from(DEMAND_PERCENT_MAX)) as u32
    }
}

/// The published sides of all agents.
#[derive(Default)]
pub(super) struct Observers {
    pub blocks: Vec<Arc<CounterBlock>>,
    pub depths: Vec<DepthProbe>,
    pub pools: Vec<(String, Arc<PoolGauges>)>,
    pub memory: Vec<MemoryReport>,
    pub pending: Vec<Arc<AtomicU64>>,
    pub held: Vec<Arc<AtomicU64>>,
    pub acks: Vec<Arc<AtomicU64>>,
    /// Frames that wait for subscribers' sockets.
    pub waiting: Vec<Arc<AtomicU64>>,
    pub lags: Vec<Arc<AtomicU64>>,
    pub spans: Spans,
    pub drains: Vec<(String, DrainStatus)>,
    pub dead_letters: Option<Arc<DeadLetterGauges>>,
    /// Per dispatcher: links whose workers stand still.
    pub stalled_links: Vec<Arc<AtomicU64>>,
    pub dedup: Option<Arc<DedupTable>>,
}

fn sum(gauges: &[Arc<AtomicU64>]) -> u64 {
    // Acquire: paired with the agents' Release stores.
    gauges.iter().map(|gauge| gauge.load(Ordering::Acquire)).sum()
}

impl Observers {
    pub fn pool(&mut self, owner: impl Into<String>, pool: &FramePool) {
        let owner = owner.into();
        pool.name(&owner);
        self.pools.push((owner, pool.gauges()));
    }

    /// See [`PoolGauges::judge_later`].
    pub fn judge_slots_later(&self) {
        self.pools.iter().for_each(|(_, gauges)| gauges.judge_later());
    }

    /// Names the slots that have not come back, of which debug builds keep account. Returns how many of them are lost: none if
    /// not all has ended, as they may well belong to the rest.
    pub fn name_lost_slots(&self, all_ended: bool) -> usize {
        let lost: Vec<_> = self.pools.iter().flat_map(|(_, gauges)| gauges.lost()).collect();
        for slot in lost.iter().take(SLOTS_NAMED) {
            if all_ended {
                tracing::error!(%slot, "a frame slot is lost: this is a defect");
            } else {
                tracing::warn!(%slot, "a frame slot has not come back");
            }
        }
        if lost.len() > SLOTS_NAMED {
            tracing::warn!(slots = lost.len() - SLOTS_NAMED, "more have not come back");
        }
        if all_ended { lost.len() } else { 0 }
    }

    /// Notes where memory that was set aside really lies.
    pub fn memory(&mut self, owner: &str, bytes: u64, huge_pages: bool, placement: Placement) {
        if !placement.is_as_wanted() {
            tracing::warn!(%owner, %placement, "memory of a frame pool is not on its NUMA node");
        }
        let policy = match placement.policy {
            Policy::Bound => "bound".to_owned(),
            Policy::Preferred => "preferred".to_owned(),
            Policy::Anywhere(reason) => reason,
        };
        let (owner, node, pages) = (owner.to_owned(), placement.node, placement.pages);
        self.memory.push(MemoryReport { owner, bytes, huge_pages, node, policy, pages });
    }

    fn depth_of(&self, edge: Edge) -> u64 {
        self.depths.iter().filter(|probe| probe.edge == edge).map(|probe| (probe.read)()).sum()
    }

    /// The ledger without the XDP program's counters; outcomes are read before what leads to them.
    pub fn ledger(&self) -> Ledger {
        let mut ledger = Ledger::read(&Totals(&self.blocks));
        let stages = &mut ledger.stages;
        stages.waiting_for_retry = sum(&self.held);
        stages.worker_queues = Processed {
            realtime: self.depth_of(Edge::Worker(Class::Realtime)),
            transactional: self.depth_of(Edge::Worker(Class::Transactional)),
            batch: self.depth_of(Edge::Worker(Class::Batch)),
        };
        stages.ingest_queue = self.depth_of(Edge::Ingest);
        stages.waiting_at_ingest = sum(&self.pending);
        stages.dead_letter_queues = self.depth_of(Edge::DeadLetter);
        ledger.acks.outstanding = sum(&self.acks);
        ledger.subscriptions.waiting = sum(&self.waiting);
        if let Some(held) = &self.dead_letters {
            ledger.dlq.held_at_start = held.held_at_start.load(Ordering::Acquire);
            ledger.dlq.held = held.held_failed.load(Ordering::Acquire) + held.held_shed.load(Ordering::Acquire);
        }
        ledger
    }

    pub fn stalled_links(&self) -> u64 {
        sum(&self.stalled_links)
    }

    pub fn dedup(&self) -> Option<DedupLevels> {
        let table = self.dedup.as_ref()?;
        let stats = table.stats();
        Some(DedupLevels {
            window_ns: table.window_ns(),
            effective_window_ns: stats.effective_window_ns,
            capacity: stats.capacity,
            occupied: stats.occupied,
            evicted_early: stats.evicted_early,
            unremembered: stats.unremembered,
        })
    }

    pub fn depths(&self) -> BTreeMap<String, u64> {
        self.depths.iter().map(|probe| (probe.name.clone(), (probe.read)())).collect()
    }

    /// Every plain counter that has moved, by name.
    pub fn counters(&self) -> BTreeMap<String, u64> {
        let totals = Totals(&self.blocks);
        Counter::all()
            .filter(|(_, _, reason)| reason.is_none())
            .map(|(counter, name, _)| (name.to_owned(), totals.sum(counter)))
            .filter(|(_, count)| *count > 0)
            .collect()
    }

    pub fn sum(&self, counter: Counter) -> u64 {
        Totals(&self.blocks).sum(counter)
    }

    pub fn latencies(&self) -> Latencies {
        Latencies::read(&self.spans)
    }

    pub fn frames(&self) -> FrameLevels {
        let mut levels = FrameLevels { copied_out: self.sum(Counter::COPIED_OUT), ..FrameLevels::default() };
        for (owner, gauges) in &self.pools {
            let read = |gauge: &AtomicU64| gauge.load(Ordering::Relaxed);
            let pool = PoolLevels {
                owner: owner.clone(),
                slots: read(&gauges.slots),
                free: read(&gauges.free),
                kernel: read(&gauges.kernel),
                in_flight: read(&gauges.in_flight),
            };
            levels.slots += pool.slots;
            levels.free += pool.free;
            levels.kernel += pool.kernel;
            levels.in_flight += pool.in_flight;
            levels.pools.push(pool);
        }
        levels
    }

    /// How far things are: the controller looks at what has changed since.
    pub fn progress(&self, now: Nanos, busy_ns: Vec<Nanos>) -> Progress {
        let reasons = LostReason::ALL.iter().copied().filter(|reason| *reason != LostReason::ShedOverBudget);
        let lost = reasons.map(|reason| self.sum(Counter::lost(reason))).sum::<u64>();
        let full = self.sum(Counter::dead_lettered(DeadLetterReason::LinkFull));
        let accepted = self.sum(Counter::EVENTS_ACCEPTED);
        Progress { now, accepted, found_no_room: lost + full, shed: self.shed(), busy_ns }
    }

    /// Events that a state has shed, whether the dead letter queue has them or not.
    pub fn shed(&self) -> u64 {
        let dead = [DeadLetterReason::ShedDropping, DeadLetterReason::ShedEmergency].map(Counter::dead_lettered);
        dead.into_iter().chain([Counter::lost(LostReason::ShedOverBudget)]).map(|counter| self.sum(counter)).sum()
    }

    /// What the controller decides by, given how far things were at the last look.
    pub fn inputs(&self, before: &Progress, now: &Progress) -> Inputs {
        let queue = self.depths.iter().filter_map(DepthProbe::load_percent).max();
        let pool = self
            .pools
            .iter()
            .map(|(_, gauges)| percent(gauges.in_flight.load(Ordering::Relaxed), gauges.slots.load(Ordering::Relaxed)));
        let lag = self.lags.iter().map(|lag| lag.load(Ordering::Relaxed)).max().unwrap_or(0);
        let accepted = now.accepted - before.accepted;
        let lost = now.found_no_room.saturating_sub(before.found_no_room);
        Inputs {
            queue_depth_percent: queue.unwrap_or(0),
            pool_used_percent: pool.max().unwrap_or(0),
            worker_latency_ms: (lag / 1_000_000).min(u64::from(u32::MAX)) as u32,
            loss_per_million: (lost * 1_000_000 / accepted.max(1)).min(1_000_000) as u32,
            demand_percent: now.demand_percent(before),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{PoolSpec, Region};

    #[test]
    fn a_queue_that_stands_for_the_log_is_not_load() {
        let mut observers = Observers::default();
        let mut probe = |full: u64, waits: Option<bool>| {
            let waits = waits.map(|waits| Arc::new(AtomicBool::new(waits)));
            let edge = Edge::Worker(Class::Batch);
            let read = Box::new(move || full);
            observers.depths.push(DepthProbe { edge, name: String::new(), capacity: 200, read, waits: waits.clone() });
            waits
        };
        let logged = [probe(100, None), probe(60, Some(false)), probe(200, Some(true))].into_iter().flatten().last();
        let seen =
            |observers: &Observers| observers.inputs(&Progress::default(), &Progress::default()).queue_depth_percent;
        assert_eq!(seen(&observers), 50);
        logged.unwrap().store(false, Ordering::Relaxed);
        assert_eq!(seen(&observers), 100);
    }

    #[cfg(debug_assertions)]
    #[test]
    fn a_slot_that_is_out_is_lost_once_all_has_ended() {
        let mut pool = FramePool::new(0, Region::map(64).unwrap(), &PoolSpec { slot_bytes: 64, reliable: false });
        let mut observers = Observers::default();
        observers.pool("udp-0", &pool);
        observers.judge_slots_later();
        let kept = pool.acquire().unwrap();
        drop(pool);
        assert_eq!((observers.name_lost_slots(false), observers.name_lost_slots(true)), (0, 1));
        let named = observers.pools[0].1.lost()[0].to_string();
        assert!(named.starts_with("pool udp-0, slot 0, acquired at"), "{named}");
        drop(kept);
    }
}
