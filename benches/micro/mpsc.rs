//! The queue from ingest agents to a dispatcher, at the engine's depth.

use eventstream::queue::lanes;
use eventstream::queue::mpsc::{self, Consumer, Producer};

use crate::baselines::{array_queue, channel, disruptor_multi, thingbuf};
use crate::case::{Case, Comparison, Made, Scale};
use crate::descriptor::Descriptor;
use crate::transfer::{Load, Receiver, Sender, contestant};

const DEPTH: usize = 64 << 10;
/// A claim: about a full datagram's worth of events of 64 bytes.
const CLAIM: u32 = 32;
/// What the consumer takes before it gives cells back.
const BURST: u32 = 256;
/// Ours with a shared index first, ours in lanes last.
const NAMES: &[&str] = &["our mpsc", "ArrayQueue", "channel", "thingbuf", "disruptor", "our lanes"];
const CRATES: std::ops::Range<usize> = 1..5;
const LANES: usize = 5;

impl Sender for Producer<Descriptor> {
    #[inline]
    fn send(&mut self, producer: u32, first: u32, count: u32) -> u32 {
        let Some(mut claim) = self.claim(count as usize) else { return 0 };
        for sequence in first..first + count {
            claim.write(Descriptor::new(producer, sequence));
        }
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

impl Sender for lanes::Producer<Descriptor> {
    #[inline]
    fn send(&mut self, producer: u32, first: u32, count: u32) -> u32 {
        let Some(claim) = self.claim(count as usize) else { return 0 };
        claim.fill_with(|index| Descriptor::new(producer, first + index as u32));
        count
    }
}

impl Receiver for lanes::Consumer<Descriptor> {
    #[inline]
    fn receive(&mut self, limit: u32, mut see: impl FnMut(&Descriptor)) -> u32 {
        let count = self.take_each(limit as usize, |descriptor| see(&descriptor));
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
        case(["mpsc_1p1c", "lanes_1p1c"], move || contestants::<1>(single)),
        case(["mpsc_1p1c_batch32", "lanes_1p1c_batch32"], move || contestants::<1>(batch)),
        case(["mpsc_2p1c", "lanes_2p1c"], move || contestants::<2>(single)),
        case(["mpsc_2p1c_batch32", "lanes_2p1c_batch32"], move || contestants::<2>(batch)),
        case(["mpsc_4p1c", "lanes_4p1c"], move || contestants::<4>(single)),
        case(["mpsc_4p1c_batch32", "lanes_4p1c_batch32"], move || contestants::<4>(batch)),
    ]
}

/// Both of ours against the crates, and the lanes against the queue with a shared index as well.
fn case(names: [&'static str; 2], make: impl Fn() -> Vec<Made> + 'static) -> Case {
    Case::new(names[0], NAMES, make).with_comparisons(vec![
        Comparison { case: names[0], ours: 0, baselines: CRATES.collect() },
        Comparison { case: names[1], ours: LANES, baselines: CRATES.chain([0]).collect() },
    ])
}

fn contestants<const P: usize>(load: Load) -> Vec<Made> {
    let (producer, consumer) = mpsc::queue(DEPTH);
    let ours: [Producer<Descriptor>; P] = std::array::from_fn(|_| producer.clone());
    let (lane_producers, lanes) = lanes::queue(DEPTH, P);
    let lane_producers: [lanes::Producer<Descriptor>; P] =
        lane_producers.try_into().unwrap_or_else(|_| unreachable!("a lane for each producer"));
    let (array, channel, thing, disruptor) =
        (array_queue::<P>(DEPTH), channel::<P>(DEPTH), thingbuf::<P>(DEPTH), disruptor_multi::<P>(DEPTH));
    vec![
        contestant(ours, consumer, load).into(),
        contestant(array.0, array.1, load).into(),
        contestant(channel.0, channel.1, load).into(),
        contestant(thing.0, thing.1, load).into(),
        contestant(disruptor.0, disruptor.1, load).into(),
        contestant(lane_producers, lanes, load).into(),
    ]
}
