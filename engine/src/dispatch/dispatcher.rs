//! The dispatcher: takes events in claim order, decides class and worker, and moves them on.
//!
//! - **Thread**: its runner's. **In**: one MPSC queue. **Out**: one ring per worker, the dead letter link.
//! - **Overload**: it never waits. What a worker would pin beyond its share of a pool is copied to a bounded spill pool of
//!   its class. When that is full too the event is dead-lettered with `link_full`, as is what finds its worker's ring full.
//!   A source that can wait is told when a class has its share of the source's slots or credits, and takes in no more of
//!   that class. What was on its way stays in its frame; how much that can be the source bounds. Only a worker that has
//!   stalled is waited for by nobody.
//! - **Invariant**: every event taken is dispatched, dead-lettered or lost, and counted as exactly one of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::link::{Link, Standing};
use super::shedding::Shedding;
use super::spill::SpillPool;
use super::topic_table::{TopicTable, TopicTableCell};
use super::transition::Transition;
use super::waits::Waits;
use super::{UNNAMED_TOPICS, topic_word};
use crate::acks::{AckSender, Told};
use crate::control::StateCell;
use crate::dedup::{EventId, GapTable};
use crate::fault::{self, Stage};
use crate::frame::{Class, PRIORITY_MASK, Priority};
use crate::memory::{Event, EventSlot, Frames, Releaser};
use crate::metrics::{Counter, Counters, DeadLetterReason, Spans};
use crate::queue::mpsc::{self, Taken};
use crate::queue::spsc::Peek;
use crate::queue::{ClassSet, Feedback, Progress};
use crate::runtime::agent::{Agent, Cycle};
use crate::runtime::clock::{Clock, Nanos};
use crate::storage::{DeadLetterSender, Sent};

/// Events a duty cycle takes: at least what a source brings in one of its own (64 datagrams of 23 events), so that on a
/// shared core the queue in front does not grow from cycle to cycle.
const BURST: usize = 2048;

/// What a dispatcher is made of.
pub struct DispatcherSpec {
    pub name: String,
    pub queue: mpsc::Consumer<Event>,
    /// Grouped by class, in the order of the workers.
    pub links: Vec<Link>,
    /// One for each class.
    pub spill: [SpillPool; 3],
    pub frames: Frames,
    pub topics: Arc<TopicTableCell>,
    pub state: StateCell,
    pub dead_letters: DeadLetterSender,
    pub acks: AckSender,
    /// Classes that ask for deduplication of topics without entry; an entry says so itself.
    pub dedup: [bool; 3],
    pub gaps: Option<GapTable>,
    pub accounts: Vec<SourceAccount>,
    pub clock: Clock,
}

/// A source that can be made to wait.
pub struct SourceAccount {
    /// The pool whose slots the classes share.
    pub pool: u8,
    /// Another one that its events may lie in, in slots of their own.
    pub large: Option<u8>,
    /// Credits with which a class counts as full.
    pub class_credits: u64,
    pub feedback: Arc<Feedback>,
}

/// Where events of a topic without entry go, by their priority.
#[derive(Clone, Copy)]
struct Unnamed {
    class: Class,
    /// [`topic_word::DEDUP`] if the class asks for it, and which windows it has.
    flags: u32,
}

/// The agent.
pub struct Dispatcher {
    name: String,
    queue: mpsc::Consumer<Event>,
    router: Router,
    stalled_links: Arc<AtomicU64>,
}

/// All of it but the queue in front, which hands events to it one by one.
struct Router {
    links: Vec<Link>,
    spill: [SpillPool; 3],
    frames: Frames,
    topics: Arc<TopicTableCell>,
    dead_letters: DeadLetterSender,
    acks: AckSender,
    gaps: Option<GapTable>,
    accounts: Vec<SourceAccount>,
    state: StateCell,
    /// By the three bits of the wire.
    unnamed: [Unnamed; 8],
    table: Arc<TopicTable>,
    table_version: u64,
    transition: Option<Transition>,
    barriers: Option<Box<[u64]>>,
    /// First link and number of links of each class.
    workers: [(usize, usize); 3],
    /// By class and pool, how many slots one worker may pin. The workers of a class share what the class may pin, for good:
    /// what one of them holds that stands still must not be taken from the others.
    pin_limits: [Box<[u32]>; 3],
    /// Per pool: events that hold no credit any more.
    settled: Box<[u64]>,
    counters: Counters,
    releaser: Releaser,
    /// Where the event at hand lies.
    slot: EventSlot,
    waits: Waits,
}

impl Dispatcher {
    pub fn new(spec: DispatcherSpec) -> Self {
        let DispatcherSpec {
            name,
            queue,
            links,
            spill,
            frames,
            topics,
            state,
            dead_letters,
            acks,
            dedup,
            gaps,
            accounts,
            clock,
        } = spec;
        let workers = Class::ALL.map(|class| {
            let first = links.iter().position(|link| link.class() == class).unwrap_or(0);
            (first, links.iter().filter(|link| link.class() == class).count())
        });
        let unnamed = std::array::from_fn(|wire| {
            let class = Priority::from_wire(wire as u8).class();
            let dedup = if dedup[class as usize] { topic_word::DEDUP } else { 0 };
            let window = if class == Class::Batch { topics.unnamed_window() } else { 0 };
            Unnamed { class, flags: dedup | window }
        });
        let pin_limits = Class::ALL.map(|class| {
            let parts = (Class::ALL.len() + 1) * workers[class as usize].1.max(1);
            (0..frames.pool_count()).map(|pool| (frames.slots(pool as u8) / parts).max(1) as u32).collect()
        });
        let (table_version, table) = topics.load();
        let router = Router {
            unnamed,
            table,
            table_version,
            transition: None,
            barriers: Some(vec![0; links.len()].into()),
            workers,
            pin_limits,
            settled: vec![0; frames.pool_count()].into(),
            counters: Counters::default(),
            releaser: Releaser::new(frames.clone()),
            slot: EventSlot::NONE,
            links,
            spill,
            frames,
            topics,
            dead_letters,
            acks,
            gaps,
            accounts,
            state,
            waits: Waits::new(clock),
        };
        Self { name, queue, router, stalled_links: Arc::default() }
    }

    pub fn counters(&self) -> &Counters {
        &self.router.counters
    }

    /// How long events had waited when they were visible to the workers.
    pub fn spans(&self) -> Spans {
        self.router.waits.spans()
    }

    /// How many links' workers stand still.
    pub fn stalled_links_gauge(&self) -> Arc<AtomicU64> {
        self.stalled_links.clone()
    }

    pub fn spill_pools(&self) -> impl Iterator<Item = &crate::memory::FramePool> {
        self.router.spill.iter().map(SpillPool::pool)
    }
}

impl Router {
    /// Class, topic word and link index of an event under one table.
    #[inline(always)]
    fn route(&self, table: &TopicTable, event: &Event) -> (Class, u32, usize) {
        let hash = event.topic();
        let (class, word) = match table.find(hash, || self.frames.view(event).topic_bytes()) {
            Some(found) => (found.class, found.word),
            None => {
                let Unnamed { class, flags } = self.unnamed[usize::from(event.shape().head() & PRIORITY_MASK)];
                (class, (hash & (UNNAMED_TOPICS - 1)) | flags)
            }
        };
        let (first, count) = self.workers[class as usize];
        // Multiply-shift instead of a division: the high bits of the hash choose the worker.
        let link = first + ((u64::from(hash) * count as u64) >> 32) as usize;
        (class, word, link)
    }

    /// The route while a table change is under way: an event whose route differs follows the old one until everything
    /// queued there under the old table has ended.
    #[cold]
    fn route_in_transition(&mut self, event: &Event) -> (Class, u32, usize) {
        let new = self.route(&self.table, event);
        let Some(transition) = &self.transition else { return new };
        let old = self.route(&transition.previous, event);
        let follows_old = old.2 != new.2 && !transition.has_ended(old.2, &self.links[old.2]);
        if let Some(transition) = &mut self.transition {
            transition.follows_old = follows_old;
        }
        if follows_old { old } else { new }
    }

    /// Takes a newer table, unless an earlier change is still under way.
    #[cold]
    fn change_table(&mut self) {
        let Some(mut barriers) = self.barriers.take() else { return };
        for (barrier, link) in barriers.iter_mut().zip(&self.links) {
            *barrier = link.sequence();
        }
        let (version, table) = self.topics.load();
        self.table_version = version;
        let previous = std::mem::replace(&mut self.table, table);
        self.transition = Some(Transition { previous, barriers, follows_old: false });
    }

    #[cold]
    fn end_transition(&mut self) {
        let done = |transition: &Transition| {
            self.links.iter().enumerate().all(|(index, link)| transition.has_ended(index, link))
        };
        if self.transition.as_ref().is_some_and(done)
            && let Some(transition) = self.transition.take()
        {
            // The control plane holds the last reference of the old table: nothing is freed here.
            self.barriers = Some(transition.barriers);
        }
    }

    fn refresh(&mut self, now: Nanos) {
        for link in &mut self.links {
            link.refresh(now, |pool, count| self.settled[usize::from(pool)] += count);
        }
    }

    fn publish(&mut self) {
        for link in &mut self.links {
            self.counters.add(Counter::dispatched(link.class()), link.publish());
        }
        self.dead_letters.publish();
        self.acks.publish();
        self.releaser.flush();
        for account in &self.accounts {
            account.feedback.tell(self.progress(account));
        }
    }

    fn progress(&self, account: &SourceAccount) -> Progress {
        let pools = || std::iter::once(account.pool).chain(account.large);
        let settled = pools().map(|pool| self.settled[usize::from(pool)]).sum();
        let mut progress = Progress { dispatched: settled, settled, full: ClassSet::default() };
        for class in Class::ALL {
            let (first, count) = self.workers[class as usize];
            let links = &self.links[first..first + count];
            let held: u64 = links.iter().map(|link| pools().map(|pool| link.held(pool)).sum::<u64>()).sum();
            let limit = self.pin_limits[class as usize][usize::from(account.pool)];
            let pins_its_share = |link: &Link| link.pins(account.pool) >= limit && !link.is_stalled();
            if held >= account.class_credits || links.iter().any(pins_its_share) {
                progress.full.insert(class);
            }
            progress.dispatched += held;
        }
        progress
    }

    /// Makes the event's slot the one at hand.
    #[inline(always)]
    fn look_at(&mut self, event: &Event) {
        if !self.slot.has(event) {
            self.slot = self.frames.slot(event);
            if !self.waits.has_begun() {
                self.waits.begin(self.frames.arrival_ns(event));
            }
        }
    }

    /// Sends one event where it belongs. It is looked at where it lies in the queue, and copied once, to its ring.
    #[inline(always)]
    fn dispatch(&mut self, event: Taken<'_, Event>, now: Nanos) {
        self.look_at(&event);
        let (class, word, at) = self.route(&self.table, &event);
        let Self { links, slot, .. } = self;
        let link = &mut links[at];
        let standing = Standing::of(slot, &event);
        let mut event = Some(event);
        let taken = || event.take().expect("asked for once").take();
        let pushed = !link.pins_anew(slot) && link.push(standing, taken, word);
        if !pushed && let Some(event) = event {
            self.forward(event.take(), class, word, at, now);
        }
    }

    /// The same for a dispatcher that does more than route: it watches for gaps, sheds, or changes its table.
    #[inline(never)]
    fn dispatch_watched(&mut self, event: Taken<'_, Event>, shedding: Option<Shedding>, now: Nanos) {
        if let Some(gaps) = &mut self.gaps
            && let Some(id) = self.frames.view(&event).id()
        {
            gaps.observe(EventId(id));
        }
        self.look_at(&event);
        let (class, word, link) = match self.transition {
            Some(_) => self.route_in_transition(&event),
            None => self.route(&self.table, &event),
        };
        match shedding {
            // A sender that can be made to wait waits, before anything of what it sends is shed.
            Some(shedding) if !self.slot.is_reliable() && shedding.hits(&event) => {
                self.dead_letter(event.take(), class, shedding.reason, now);
            }
            _ => self.forward(event.take(), class, word, link, now),
        }
    }

    /// The long way, for an event for which the link may lack room or that pins another slot; it lies in the slot at hand.
    #[inline(never)]
    fn forward(&mut self, event: Event, class: Class, word: u32, link: usize, now: Nanos) {
        // A copy takes the room that its original may take.
        let standing = Standing::of(&self.slot, &event);
        let Some(event) = self.admit(event, class, link, now) else { return };
        let pushed = self.links[link].push(standing, || event, word);
        debug_assert!(pushed, "the link has room, or the event would not have been admitted");
        if let Some(transition) = &mut self.transition {
            transition.queued(link, &self.links[link]);
        }
    }

    /// Finds out whether the link may take an event for which it needs room, or to pin another slot. Gives back the event to be
    /// pushed next, or none if it has ended here.
    #[inline]
    fn admit(&mut self, event: Event, class: Class, link: usize, now: Nanos) -> Option<Event> {
        let (slot, standing) = (self.slot, Standing::of(&self.slot, &event));
        if !self.links[link].has_room(standing) {
            self.refresh(now);
            if !self.links[link].has_room(standing) {
                self.dead_letter(event, class, DeadLetterReason::LinkFull, now);
                return None;
            }
        }
        if !self.links[link].pins_anew(&slot) {
            return Some(event);
        }
        let limit = self.pin_limits[class as usize][usize::from(slot.pool())];
        // What the others may pin, and a little: a critical event is rare, and nothing else pins the frames that no class has.
        let limit = if standing == Standing::Critical { limit + limit / 4 } else { limit };
        if self.links[link].pins(slot.pool()) < limit {
            self.links[link].begin_run(&slot);
            return Some(event);
        }
        let event = self.copy_out(event, class, link, now)?;
        let slot = self.frames.slot(&event);
        if self.links[link].pins_anew(&slot) {
            self.links[link].begin_run(&slot);
        }
        Some(event)
    }

    /// The worker has its share of the pool: hands on a copy, so that the frame goes home. Gives the event back when it
    /// stays where it is.
    #[cold]
    fn copy_out(&mut self, event: Event, class: Class, link: usize, now: Nanos) -> Option<Event> {
        let link = &self.links[link];
        let waits = self.slot.is_reliable() && !link.is_stalled();
        if waits && !link.has_room(Standing::Lossy) {
            // A copy holds no credit: on the part of the ring that credits are given for it would take another's place.
            return Some(event);
        }
        let Some(copy) = self.spill[class as usize].copy(&event, &self.frames) else {
            if waits {
                return Some(event);
            }
            self.dead_letter(event, class, DeadLetterReason::LinkFull, now);
            return None;
        };
        self.counters.add(Counter::COPIED_OUT, 1);
        self.settled[usize::from(event.pool())] += 1;
        self.releaser.release(event);
        Some(copy)
    }

    #[cold]
    fn dead_letter(&mut self, event: Event, class: Class, reason: DeadLetterReason, now: Nanos) {
        self.settled[usize::from(event.pool())] += 1;
        let asked = self.acks.asked(&event, &self.frames);
        let Self { dead_letters, counters, releaser, .. } = self;
        // It claims no ids.
        let (counter, told) = match dead_letters.send(event, (class, reason, None), now, counters, releaser) {
            Sent::Later => (Counter::DISPATCHER_DEAD_LETTERED, None),
            Sent::Kept(_) => (Counter::DISPATCHER_DEAD_LETTERED, Some(Told::dead_lettered(reason))),
            Sent::Lost(lost, _) => (Counter::DISPATCHER_LOST, Some(Told::lost(lost))),
        };
        self.counters.add(counter, 1);
        if let (Some(asked), Some(told)) = (asked, told) {
            self.acks.tell(asked, told);
        }
    }
}

impl Agent for Dispatcher {
    fn name(&self) -> &str {
        &self.name
    }

    /// The first look a thread takes at a swapped pointer allocates its place among the readers.
    fn start(&mut self) {
        drop(self.router.topics.load());
    }

    fn duty_cycle(&mut self, cycle: &Cycle) -> usize {
        let router = &mut self.router;
        router.refresh(cycle.now);
        if router.transition.is_some() {
            router.end_transition();
        } else if router.topics.newer_than(router.table_version) {
            router.change_table();
        }
        let shedding = Shedding::of(router.state.get());
        router.slot = EventSlot::NONE; // so that the burst begins with a look at its first event
        let large = router.table.is_large().then(|| router.table.clone());
        let watches = shedding.is_some() || router.gaps.is_some() || router.transition.is_some();
        let dispatch = |event: Taken<'_, Event>| {
            if fault::drops(Stage::Dispatcher) {
                return router.releaser.release(event.take());
            }
            if fault::doubles(Stage::Dispatcher) {
                router.counters.add(Counter::DISPATCHED_REALTIME, 1);
            }
            if watches {
                router.dispatch_watched(event, shedding, cycle.now);
            } else {
                router.dispatch(event, cycle.now);
            }
        };
        let fetch = |run: Peek<'_, Event>| {
            if let Some(table) = &large {
                table.fetch(run.map(Event::topic));
            }
        };
        // A run is a lane's turn otherwise.
        let length = if large.is_some() { TopicTable::FETCHED_AHEAD } else { BURST };
        let count = self.queue.take_runs(BURST, length, fetch, dispatch);
        if count > 0 {
            router.counters.add(Counter::DISPATCHER_TAKEN, count as u64);
            self.queue.release();
        }
        router.publish();
        router.waits.publish();
        count
    }

    fn housekeeping(&mut self, _now: Nanos) {
        let router = &mut self.router;
        router.spill.iter_mut().for_each(SpillPool::housekeeping);
        let stalled = router.links.iter().filter(|link| link.is_stalled()).count();
        // Release: as with the counters, whoever sees it sees what came before.
        self.stalled_links.store(stalled as u64, Ordering::Release);
        if let Some(gaps) = &router.gaps {
            let totals = gaps.totals();
            router.counters.set(Counter::GAP_MISSING, totals.missing);
            router.counters.set(Counter::GAP_LATE, totals.late);
            router.counters.set(Counter::GAP_REPEATED, totals.repeated);
        }
        router.counters.flush();
    }
}
