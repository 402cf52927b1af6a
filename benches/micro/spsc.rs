//! The ring from a dispatcher to a worker, at the engine's depth.

use eventstream::queue::spsc::{self, Consumer, Producer};

use crate::baselines::{array_queue, channel, disruptor_single, thingbuf};
use crate::case::{Case, Scale};
use crate::descriptor::Descriptor;
use crate::transfer::{Load, Receiver, Sender, contestant};

const DEPTH: usize = 16 << 10;
/// A worker's burst.
const BATCH: u32 = 256;
const NAMES: &[&str] = &["ours", "rtrb", "ArrayQueue", "channel", "thingbuf", "disruptor"];

impl Sender for Producer<Descriptor> {
    #[inline]
    fn send(&mut self, producer: u32, first: u32, count: u32) -> u32 {
        let sent = self.push_each(count as usize, |index| Descriptor::new(producer, first + index as u32));
        self.publish();
        sent as u32
    }
}

impl Receiver for Consumer<Descriptor> {
    #[inline]
    fn receive(&mut self, limit: u32, mut see: impl FnMut(&Descriptor)) -> u32 {
        let count = self.available(limit as usize);
        self.take_each(count, |descriptor| see(&descriptor));
        self.release();
        count as u32
    }
}

/// Ours and rtrb one by one.
struct Single<T>(T);

impl Sender for Single<Producer<Descriptor>> {
    #[inline]
    fn send(&mut self, producer: u32, first: u32, _: u32) -> u32 {
        let sent = self.0.push(Descriptor::new(producer, first)).is_ok();
        self.0.publish();
        u32::from(sent)
    }
}

impl Receiver for Single<Consumer<Descriptor>> {
    #[inline]
    fn receive(&mut self, _: u32, mut see: impl FnMut(&Descriptor)) -> u32 {
        let Some(descriptor) = self.0.take() else { return 0 };
        see(&descriptor);
        self.0.release();
        1
    }
}

impl Sender for Single<rtrb::Producer<Descriptor>> {
    #[inline]
    fn send(&mut self, producer: u32, first: u32, _: u32) -> u32 {
        u32::from(self.0.push(Descriptor::new(producer, first)).is_ok())
    }
}

impl Receiver for Single<rtrb::Consumer<Descriptor>> {
    #[inline]
    fn receive(&mut self, _: u32, mut see: impl FnMut(&Descriptor)) -> u32 {
        match self.0.pop() {
            Ok(descriptor) => {
                see(&descriptor);
                1
            }
            Err(_) => 0,
        }
    }
}

/// rtrb in chunks, written and read where they lie.
struct Chunks<T>(T);

impl Sender for Chunks<rtrb::Producer<Descriptor>> {
    #[inline]
    fn send(&mut self, producer: u32, first: u32, count: u32) -> u32 {
        let descriptors = (first..first + count).map(|sequence| Descriptor::new(producer, sequence));
        let room = match self.0.write_chunk_uninit(count as usize) {
            Ok(chunk) => return chunk.fill_from_iter(descriptors) as u32,
            Err(rtrb::chunks::ChunkError::TooFewSlots(room)) => room,
        };
        self.0.write_chunk_uninit(room).map_or(0, |chunk| chunk.fill_from_iter(descriptors) as u32)
    }
}

impl Receiver for Chunks<rtrb::Consumer<Descriptor>> {
    #[inline]
    fn receive(&mut self, limit: u32, mut see: impl FnMut(&Descriptor)) -> u32 {
        let count = match self.0.read_chunk(limit as usize) {
            Ok(_) => limit as usize,
            Err(rtrb::chunks::ChunkError::TooFewSlots(count)) => count,
        };
        let Ok(chunk) = self.0.read_chunk(count) else { return 0 };
        let (front, back) = chunk.as_slices();
        front.iter().chain(back).for_each(&mut see);
        chunk.commit_all();
        count as u32
    }
}

pub fn cases(scale: Scale) -> Vec<Case> {
    let total = |full| scale.pick(full, full / 4, 40_000);
    let single = Load { total: total(1_000_000), send: 1, receive: 1 };
    let batch = Load { total: total(2_000_000), send: BATCH, receive: BATCH };
    let singles = move || {
        let (producer, consumer) = spsc::ring(DEPTH);
        let (rtrb_producer, rtrb_consumer) = rtrb::RingBuffer::new(DEPTH);
        let ours = contestant([Single(producer)], Single(consumer), single);
        let rtrb = contestant([Single(rtrb_producer)], Single(rtrb_consumer), single);
        [vec![ours.into(), rtrb.into()], others(single)].into_iter().flatten().collect()
    };
    let batches = move || {
        let (producer, consumer) = spsc::ring(DEPTH);
        let (rtrb_producer, rtrb_consumer) = rtrb::RingBuffer::new(DEPTH);
        let ours = contestant([producer], consumer, batch);
        let rtrb = contestant([Chunks(rtrb_producer)], Chunks(rtrb_consumer), batch);
        [vec![ours.into(), rtrb.into()], others(batch)].into_iter().flatten().collect()
    };
    vec![Case::new("spsc_1p1c", NAMES, singles), Case::new("spsc_1p1c_batch256", NAMES, batches)]
}

fn others(load: Load) -> Vec<crate::case::Made> {
    let (array, channel, thing, disruptor) =
        (array_queue::<1>(DEPTH), channel::<1>(DEPTH), thingbuf::<1>(DEPTH), disruptor_single(DEPTH));
    vec![
        contestant(array.0, array.1, load).into(),
        contestant(channel.0, channel.1, load).into(),
        contestant(thing.0, thing.1, load).into(),
        contestant(disruptor.0, disruptor.1, load).into(),
    ]
}
