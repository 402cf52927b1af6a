//! The ledger: every datagram and every event in exactly one counter, and the equations that say so.
//!
//! No term is derived from the others. `accepted` is counted by ingest, outcomes by workers, `in flight` from queue
//! occupancy and held events; the equations between them are checks, not definitions. They hold exactly once nothing
//! moves any more: live, a difference is an upper bound on what was between two readings.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Counter, CounterBlock, DeadLetterReason, LostReason, MalformedReason};
use crate::frame::Class;

/// Counts by reason; reasons that never occurred are left out.
pub type ByReason = BTreeMap<&'static str, u64>;

/// What the XDP program and the kernel did with the datagrams of a queue.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct KernelDrops {
    pub rx_dropped: u64,
    pub rx_ring_full: u64,
    pub redirect_failed: u64,
    /// Explains losses among the others; never added.
    pub fill_ring_empty: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Datagrams {
    pub program_runs: u64,
    pub steered: u64,
    pub passed: u64,
    pub passed_reasons: BTreeMap<String, u64>,
    pub refused: u64,
    pub filtered: u64,
    pub consumed: u64,
    pub socket_received: u64,
    pub socket_dropped: u64,
    /// Explains part of `socket_dropped`; never added.
    pub socket_refused: u64,
    pub truncated: u64,
    pub kernel: KernelDrops,
    pub parsed: u64,
    pub malformed: ByReason,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TcpFrames {
    pub found: u64,
    pub accepted: u64,
    pub control: u64,
    pub malformed: ByReason,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Processed {
    pub realtime: u64,
    pub transactional: u64,
    pub batch: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Events {
    pub accepted: u64,
    pub replayed: u64,
    pub processed: Processed,
    pub duplicate: u64,
    pub dead_lettered: ByReason,
    pub lost: ByReason,
    pub in_flight: u64,
}

/// The dead letter queue's own table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DeadLetters {
    pub held_at_start: u64,
    pub received: u64,
    pub replayed: u64,
    pub purged: u64,
    pub evicted: u64,
    pub held: u64,
}

/// The subscriptions' own table: events, once for each subscription that they were for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Subscriptions {
    pub matched: u64,
    pub redelivered: u64,
    pub delivered: u64,
    pub dropped: ByReason,
    pub waiting: u64,
    /// Live events that somebody may have wanted and for which the sender had no room: in none of the others.
    pub overflowed: u64,
    /// Records that nobody of a group has done: beside their own outcome, they are in the dead letter queue.
    pub dead_lettered: u64,
}

/// Acknowledgements that clients over TCP asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Acks {
    pub asked: u64,
    pub sent: u64,
    pub undeliverable: u64,
    /// The event has not ended, or the client has not read.
    pub outstanding: u64,
}

/// Hand-overs between stages: they locate a leak that the totals only show.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stages {
    pub waiting_at_ingest: u64,
    pub ingest_queue: u64,
    pub dispatcher_taken: u64,
    pub dispatched: Processed,
    pub dispatcher_dead_lettered: u64,
    pub dispatcher_lost: u64,
    pub worker_queues: Processed,
    pub taken: Processed,
    /// Also what is held back behind a retry, or is in a window.
    pub waiting_for_retry: u64,
    pub dead_letter_queues: u64,
}

/// All tables of one run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Ledger {
    pub balanced: bool,
    /// The equations that do not hold, with both sides.
    pub imbalances: Vec<String>,
    pub datagrams: Datagrams,
    pub tcp_frames: TcpFrames,
    pub events: Events,
    pub dlq: DeadLetters,
    pub acks: Acks,
    pub subscriptions: Subscriptions,
    pub stages: Stages,
}

/// Reads one counter over all agents.
pub struct Totals<'a>(pub &'a [std::sync::Arc<CounterBlock>]);

impl Totals<'_> {
    pub fn sum(&self, counter: Counter) -> u64 {
        self.0.iter().map(|block| block.get(counter)).sum()
    }

    fn by_class(&self, counter: impl Fn(Class) -> Counter) -> Processed {
        Processed {
            realtime: self.sum(counter(Class::Realtime)),
            transactional: self.sum(counter(Class::Transactional)),
            batch: self.sum(counter(Class::Batch)),
        }
    }

    fn malformed(&self, counter: impl Fn(MalformedReason) -> Counter) -> ByReason {
        reasons(MalformedReason::ALL, |reason| (reason.name(), self.sum(counter(reason))))
    }

    fn dead_letters(&self) -> DeadLetters {
        DeadLetters {
            held_at_start: 0,
            replayed: self.sum(Counter::DEAD_LETTERS_REPLAYED),
            purged: self.sum(Counter::DEAD_LETTERS_PURGED),
            evicted: self.sum(Counter::DEAD_LETTERS_EVICTED),
            received: self.sum(Counter::DEAD_LETTERS_RECEIVED),
            held: 0,
        }
    }

    fn outcomes(&self) -> Events {
        let dead = |reason: DeadLetterReason| (reason.name(), self.sum(Counter::dead_lettered(reason)));
        let lost = |reason: LostReason| (reason.name(), self.sum(Counter::lost(reason)));
        Events {
            processed: self.by_class(Counter::processed),
            duplicate: self.sum(Counter::DUPLICATE),
            dead_lettered: reasons(DeadLetterReason::ALL, dead),
            lost: reasons(LostReason::ALL, lost),
            ..Events::default()
        }
    }

    fn stages(&self) -> Stages {
        Stages {
            taken: self.by_class(Counter::taken),
            dispatched: self.by_class(Counter::dispatched),
            dispatcher_dead_lettered: self.sum(Counter::DISPATCHER_DEAD_LETTERED),
            dispatcher_lost: self.sum(Counter::DISPATCHER_LOST),
            dispatcher_taken: self.sum(Counter::DISPATCHER_TAKEN),
            ..Stages::default()
        }
    }

    fn acks(&self) -> Acks {
        Acks {
            sent: self.sum(Counter::ACKS_SENT),
            undeliverable: self.sum(Counter::ACKS_UNDELIVERABLE),
            asked: self.sum(Counter::ACKS_ASKED),
            outstanding: 0,
        }
    }

    fn subscriptions(&self) -> Subscriptions {
        let dropped = [("slow", Counter::SUBSCRIPTION_DROPPED_SLOW), ("gone", Counter::SUBSCRIPTION_DROPPED_GONE)];
        Subscriptions {
            delivered: self.sum(Counter::SUBSCRIPTION_DELIVERED),
            dropped: reasons(&dropped, |(name, counter)| (name, self.sum(counter))),
            redelivered: self.sum(Counter::SUBSCRIPTION_REDELIVERED),
            matched: self.sum(Counter::SUBSCRIPTION_MATCHED),
            waiting: 0,
            overflowed: self.sum(Counter::SUBSCRIPTION_OVERFLOWED),
            dead_lettered: self.sum(Counter::SUBSCRIPTION_DEAD_LETTERED),
        }
    }

    fn tcp_frames(&self) -> TcpFrames {
        TcpFrames {
            accepted: self.sum(Counter::TCP_FRAMES_ACCEPTED),
            control: self.sum(Counter::TCP_FRAMES_CONTROL),
            malformed: self.malformed(Counter::tcp_malformed),
            found: self.sum(Counter::TCP_FRAMES_FOUND),
        }
    }

    fn datagrams(&self) -> Datagrams {
        Datagrams {
            parsed: self.sum(Counter::DATAGRAMS_PARSED),
            malformed: self.malformed(Counter::datagram_malformed),
            consumed: self.sum(Counter::DATAGRAMS_CONSUMED),
            socket_received: self.sum(Counter::DATAGRAMS_SOCKET_RECEIVED),
            // Before what it is a part of.
            socket_refused: self.sum(Counter::DATAGRAMS_SOCKET_REFUSED),
            socket_dropped: self.sum(Counter::DATAGRAMS_SOCKET_DROPPED),
            truncated: self.sum(Counter::DATAGRAMS_TRUNCATED),
            kernel: KernelDrops {
                rx_dropped: self.sum(Counter::KERNEL_RX_DROPPED),
                rx_ring_full: self.sum(Counter::KERNEL_RX_RING_FULL),
                redirect_failed: self.sum(Counter::KERNEL_REDIRECT_FAILED),
                fill_ring_empty: self.sum(Counter::KERNEL_FILL_RING_EMPTY),
            },
            ..Datagrams::default()
        }
    }
}

fn reasons<R: Copy>(all: &[R], count: impl Fn(R) -> (&'static str, u64)) -> ByReason {
    all.iter().map(|reason| count(*reason)).filter(|(_, count)| *count > 0).collect()
}

impl Processed {
    pub fn total(&self) -> u64 {
        self.realtime + self.transactional + self.batch
    }
}

impl Ledger {
    /// Fills in what the agents counted. Outcomes are read before what they are outcomes of, so that a live reading shows
    /// too few rather than too many. Kernel and occupancy figures are the caller's to add before [`settle`](Self::settle).
    pub fn read(totals: &Totals<'_>) -> Self {
        let dlq = totals.dead_letters();
        let acks = totals.acks();
        let subscriptions = totals.subscriptions();
        let mut events = totals.outcomes();
        let stages = totals.stages();
        events.accepted = totals.sum(Counter::EVENTS_ACCEPTED);
        events.replayed = totals.sum(Counter::EVENTS_REPLAYED);
        let tcp_frames = totals.tcp_frames();
        let datagrams = totals.datagrams();
        Self { datagrams, tcp_frames, events, dlq, acks, subscriptions, stages, ..Self::default() }
    }

    /// Decides `balanced`, with `in_flight` from the occupancies, and lists what does not hold.
    pub fn settle(&mut self) {
        let stages = &self.stages;
        self.events.in_flight =
            stages.waiting_at_ingest + stages.ingest_queue + stages.worker_queues.total() + stages.waiting_for_retry;
        self.imbalances = self
            .equations()
            .into_iter()
            .filter(|(_, left, right)| left != right)
            .map(|(name, left, right)| format!("{name}: {left} is not {right}"))
            .collect();
        if self.events.in_flight > 0 {
            self.imbalances.push(format!("{} events are still in flight", self.events.in_flight));
        }
        if self.acks.outstanding > 0 {
            self.imbalances.push(format!("{} acknowledgements are still outstanding", self.acks.outstanding));
        }
        self.balanced = self.imbalances.is_empty();
    }

    /// Name, left side and right side of each equation.
    fn equations(&self) -> Vec<(&'static str, u64, u64)> {
        let sum = |reasons: &ByReason| reasons.values().sum::<u64>();
        let (d, t, e, s) = (&self.datagrams, &self.tcp_frames, &self.events, &self.stages);
        let dead = sum(&e.dead_lettered);
        let kernel = d.kernel.rx_dropped + d.kernel.rx_ring_full + d.kernel.redirect_failed;
        let outcomes = e.processed.total() + e.duplicate + dead + sum(&e.lost);
        let at_dispatcher = s.dispatcher_dead_lettered + s.dispatcher_lost;
        let dispatched = s.dispatched.total() + at_dispatcher;
        let on_rings = s.taken.total() + s.worker_queues.total();
        vec![
            ("program runs = steered + passed + refused + filtered", d.program_runs, {
                d.steered + d.passed + d.refused + d.filtered
            }),
            ("steered = consumed + rx dropped + rx ring full + redirect failed", d.steered, d.consumed + kernel),
            ("consumed + received = parsed + malformed", d.consumed + d.socket_received, d.parsed + sum(&d.malformed)),
            ("tcp frames = accepted + control + malformed", t.found, t.accepted + t.control + sum(&t.malformed)),
            (
                "accepted + replayed = processed + duplicate + dead-lettered + lost + in flight",
                e.accepted + e.replayed,
                outcomes + e.in_flight,
            ),
            (
                "accepted = waiting at ingest + ingest queue + taken by dispatchers",
                e.accepted + e.replayed,
                s.waiting_at_ingest + s.ingest_queue + s.dispatcher_taken,
            ),
            ("taken by dispatchers = dispatched + dead-lettered + lost there", s.dispatcher_taken, dispatched),
            ("dispatched = worker queues + taken by workers", s.dispatched.total(), on_rings),
            (
                "taken by workers = outcomes there + waiting for retry or in windows",
                s.taken.total(),
                (outcomes + s.waiting_for_retry).saturating_sub(at_dispatcher),
            ),
            (
                "dead-lettered + dead-lettered by groups = received + on the way",
                dead + self.subscriptions.dead_lettered,
                self.dlq.received + s.dead_letter_queues,
            ),
            (
                "held at start + received = replayed + purged + evicted + held",
                self.dlq.held_at_start + self.dlq.received,
                self.dlq.replayed + self.dlq.purged + self.dlq.evicted + self.dlq.held,
            ),
            (
                "matched + redelivered = delivered + dropped + waiting",
                self.subscriptions.matched + self.subscriptions.redelivered,
                self.subscriptions.delivered + sum(&self.subscriptions.dropped) + self.subscriptions.waiting,
            ),
            ("acks asked = sent + undeliverable + outstanding", self.acks.asked, {
                self.acks.sent + self.acks.undeliverable + self.acks.outstanding
            }),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn balanced() -> Ledger {
        let datagrams = Datagrams {
            program_runs: 10,
            steered: 8,
            passed: 2,
            consumed: 7,
            parsed: 6,
            malformed: BTreeMap::from([("topic_nul", 1)]),
            kernel: KernelDrops { rx_dropped: 1, ..KernelDrops::default() },
            ..Datagrams::default()
        };
        let events = Events {
            accepted: 9,
            processed: Processed { realtime: 4, transactional: 2, batch: 1 },
            duplicate: 1,
            dead_lettered: BTreeMap::from([("link_full", 1)]),
            ..Events::default()
        };
        let stages = Stages {
            dispatcher_taken: 9,
            dispatched: Processed { realtime: 4, transactional: 3, batch: 1 },
            dispatcher_dead_lettered: 1,
            taken: Processed { realtime: 4, transactional: 3, batch: 1 },
            ..Stages::default()
        };
        let dlq = DeadLetters { received: 1, held: 1, ..DeadLetters::default() };
        let acks = Acks { asked: 5, sent: 4, undeliverable: 1, outstanding: 0 };
        let mut ledger = Ledger { datagrams, events, stages, dlq, acks, ..Ledger::default() };
        ledger.settle();
        ledger
    }

    #[test]
    fn a_run_that_adds_up_is_balanced() {
        assert_eq!(balanced().imbalances, Vec::<String>::new());
        assert!(balanced().balanced);
    }

    #[test]
    fn one_event_too_few_or_too_many_anywhere_shows() {
        let tampers: &[fn(&mut Ledger)] = &[
            |l| l.datagrams.program_runs += 1,
            |l| l.datagrams.steered += 1,
            |l| l.datagrams.consumed -= 1,
            |l| l.datagrams.parsed += 1,
            |l| l.tcp_frames.found += 1,
            |l| l.events.accepted += 1,
            |l| l.events.processed.batch -= 1,
            |l| l.events.duplicate += 1,
            |l| l.stages.dispatcher_taken += 1,
            |l| l.stages.dispatched.realtime += 1,
            |l| l.stages.taken.transactional += 1,
            |l| l.stages.worker_queues.realtime += 1,
            |l| l.dlq.received -= 1,
            |l| l.dlq.held += 1,
            |l| l.subscriptions.dead_lettered += 1,
            |l| l.subscriptions.redelivered += 1,
            |l| l.acks.asked += 1,
            |l| (l.acks.asked, l.acks.outstanding) = (6, 1),
        ];
        for (index, tamper) in tampers.iter().enumerate() {
            let mut ledger = balanced();
            tamper(&mut ledger);
            ledger.settle();
            assert!(!ledger.balanced, "tamper {index}");
        }
    }
}
