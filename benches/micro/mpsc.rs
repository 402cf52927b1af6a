//! The queue from ingest agents to a dispatcher, at the engine's depth.

use eventstream::queue::mpsc::{self, Consumer, Producer};

use crate::baselines::{array_queue, channel, disruptor_multi, thingbuf};
use crate::case::{Case, Made, Scale};
use crate::descriptor::Descriptor;
use crate::transfer::{Load, Receiver, Sender, contestant};
use crate::vyukov;

const DEPTH: usize = 64 << 10;
/// A claim: about a full datagram's worth of events of 64 bytes.
const CLAIM: u32 = 32;
/// What the consumer takes before it gives cells back.
const BURST: u32 = 256;
/// Ours, the crates, and what ours was chosen over.
const NAMES: &[&str] = &["ours", "ArrayQueue", "channel", "thingbuf", "disruptor", "Vyukov's"];

impl Sender for Producer<Descriptor> {
    #[inline]
    fn send(&mut self, producer: u32, first: u32, count: u32) -> u32 {
        let Some(claim) = self.claim(count as usize) else { return 0 };
        claim.fill_with(|index| Descriptor::new(producer, first + index as u32));
        count
    }
}

impl Receiver for Consumer<Descriptor> {
    #[inline]
    fn receive(&mut self, limit: u32, mut see: impl FnMut(&Descriptor)) -> u32 {
        let count = self.take_each(limit as usize, |descriptor| see(&descriptor));
        if count > 0 {
            self.release();
        }
        count as u32
    }
}

impl Sender for vyukov::Producer<Descriptor> {
    #[inline]
    fn send(&mut self, producer: u32, first: u32, count: u32) -> u32 {
        let sent = self.send(u64::from(count), |index| Descriptor::new(producer, first + index as u32));
        if sent { count } else { 0 }
    }
}

impl Receiver for vyukov::Consumer<Descriptor> {
    #[inline]
    fn receive(&mut self, limit: u32, see: impl FnMut(&Descriptor)) -> u32 {
        let count = self.take_each(u64::from(limit), see);
        if count > 0 {
            self.release();
        }
        count as u32
    }
}

pub fn cases(scale: Scale) -> Vec<Case> {
    let total = |full| scale.pick(full, full / 4, 40_000);
    let single = Load { total: total(1_000_000), send: 1, receive: 1 };
    let batch = Load { total: total(1_000_000), send: CLAIM, receive: BURST };
    vec![
        Case::new("mpsc_1p1c", NAMES, move || contestants::<1>(single)),
        Case::new("mpsc_1p1c_batch32", NAMES, move || contestants::<1>(batch)),
        Case::new("mpsc_2p1c", NAMES, move || contestants::<2>(single)),
        Case::new("mpsc_2p1c_batch32", NAMES, move || contestants::<2>(batch)),
        Case::new("mpsc_4p1c", NAMES, move || contestants::<4>(single)),
        Case::new("mpsc_4p1c_batch32", NAMES, move || contestants::<4>(batch)),
    ]
}

fn contestants<const P: usize>(load: Load) -> Vec<Made> {
    let (producers, consumer) = mpsc::queue(DEPTH, P);
    let producers: [Producer<Descriptor>; P] =
        producers.try_into().unwrap_or_else(|_| unreachable!("a lane for each producer"));
    let (shared, shared_consumer) = vyukov::queue(DEPTH);
    let shared: [vyukov::Producer<Descriptor>; P] = std::array::from_fn(|_| shared.clone());
    let (array, channel, thing, disruptor) =
        (array_queue::<P>(DEPTH), channel::<P>(DEPTH), thingbuf::<P>(DEPTH), disruptor_multi::<P>(DEPTH));
    vec![
        contestant(producers, consumer, load).into(),
        contestant(array.0, array.1, load).into(),
        contestant(channel.0, channel.1, load).into(),
        contestant(thing.0, thing.1, load).into(),
        contestant(disruptor.0, disruptor.1, load).into(),
        contestant(shared, shared_consumer, load).into(),
    ]
}
