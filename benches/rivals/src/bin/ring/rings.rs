//! One pair of adapters for every ring: what it takes to send and to receive one message, in the way its own
//! documents recommend for single messages.

use super::message::{Message, digest, message};
use super::variants::Variant;
use crossbeam::queue::ArrayQueue;
use disruptor::Producer as _;
use escapement::ring::{Consumer, HeapRegion, Producer, Region, Spec};
use ringbuf::traits::{Consumer as _, Producer as _, Split as _};
use std::sync::Arc;

/// Slots of every ring.
pub const CAPACITY: usize = 1024;

/// The side that sends.
pub trait Sender {
    /// Writes the message of `number` if there is room.
    fn try_send(&mut self, number: u64) -> bool;
}

/// The side that receives.
pub trait Receiver {
    /// Reads the next message, if there is one, and says its digest.
    fn try_receive(&mut self) -> Option<u64>;
}

/// The geometry of ours.
pub fn spec() -> Spec {
    let slot_size = size_of::<Message>() as u32;
    Spec { kind: 1, slot_size, dimension: slot_size / 4, capacity: CAPACITY as u64, generation: 1 }
}

fn bytes_of(message: &Message) -> &[u8; size_of::<Message>()] {
    // SAFETY: an array of u64 has no padding, and bytes have no alignment.
    unsafe { &*std::ptr::from_ref(message).cast() }
}

fn bytes_of_mut(message: &mut Message) -> &mut [u8; size_of::<Message>()] {
    // SAFETY: as above; every bit pattern is a u64.
    unsafe { &mut *std::ptr::from_mut(message).cast() }
}

impl Sender for Producer {
    #[inline]
    fn try_send(&mut self, number: u64) -> bool {
        match self.try_claim() {
            Ok(mut claim) => {
                claim.write(0, bytes_of(&message(number)));
                claim.commit();
                true
            }
            Err(_) => false,
        }
    }
}

/// A consumer and the buffer that it copies into, kept between messages as the engine keeps its own.
pub struct Copying {
    consumer: Consumer,
    copied: Message,
}

impl From<Consumer> for Copying {
    fn from(consumer: Consumer) -> Self {
        Self { consumer, copied: [0; _] }
    }
}

impl Receiver for Copying {
    #[inline]
    fn try_receive(&mut self) -> Option<u64> {
        let peek = self.consumer.peek().expect("an honest producer")?;
        peek.read(0, bytes_of_mut(&mut self.copied));
        peek.release();
        Some(digest(&self.copied))
    }
}

/// Both ends of one in `region`.
pub fn ends(region: &Region) -> (Producer, Copying) {
    let attached = (Producer::attach(region.clone()), Consumer::attach(region.clone()));
    (attached.0.expect("a fresh ring"), attached.1.expect("a fresh ring").into())
}

/// Ours.
pub fn escapement(variant: Variant) -> (Producer, Copying) {
    ends(&variant.tune(HeapRegion::ring(spec()).expect("an allowed geometry")))
}

impl Sender for rtrb::Producer<Message> {
    #[inline]
    fn try_send(&mut self, number: u64) -> bool {
        self.push(message(number)).is_ok()
    }
}

impl Receiver for rtrb::Consumer<Message> {
    #[inline]
    fn try_receive(&mut self) -> Option<u64> {
        self.pop().ok().map(|message| digest(&message))
    }
}

/// rtrb, a message at a time by value.
pub fn rtrb() -> (rtrb::Producer<Message>, rtrb::Consumer<Message>) {
    rtrb::RingBuffer::new(CAPACITY)
}

/// rtrb through chunks of one slot, written and read in place.
pub struct InPlace<T>(T);

impl Sender for InPlace<rtrb::Producer<Message>> {
    #[inline]
    fn try_send(&mut self, number: u64) -> bool {
        let Ok(mut chunk) = self.0.write_chunk_uninit(1) else { return false };
        chunk.as_mut_slices().0[0].write(message(number));
        // SAFETY: the one slot of the chunk was written above.
        unsafe { chunk.commit_all() };
        true
    }
}

impl Receiver for InPlace<rtrb::Consumer<Message>> {
    #[inline]
    fn try_receive(&mut self) -> Option<u64> {
        let chunk = self.0.read_chunk(1).ok()?;
        let found = digest(&chunk.as_slices().0[0]);
        chunk.commit_all();
        Some(found)
    }
}

/// rtrb, written and read in place.
pub fn rtrb_in_place() -> (InPlace<rtrb::Producer<Message>>, InPlace<rtrb::Consumer<Message>>) {
    let (producer, consumer) = rtrb::RingBuffer::new(CAPACITY);
    (InPlace(producer), InPlace(consumer))
}

impl Sender for ringbuf::HeapProd<Message> {
    #[inline]
    fn try_send(&mut self, number: u64) -> bool {
        self.try_push(message(number)).is_ok()
    }
}

impl Receiver for ringbuf::HeapCons<Message> {
    #[inline]
    fn try_receive(&mut self) -> Option<u64> {
        self.try_pop().map(|message| digest(&message))
    }
}

/// ringbuf.
pub fn ringbuf() -> (ringbuf::HeapProd<Message>, ringbuf::HeapCons<Message>) {
    ringbuf::HeapRb::new(CAPACITY).split()
}

impl Sender for Arc<ArrayQueue<Message>> {
    #[inline]
    fn try_send(&mut self, number: u64) -> bool {
        self.push(message(number)).is_ok()
    }
}

impl Receiver for Arc<ArrayQueue<Message>> {
    #[inline]
    fn try_receive(&mut self) -> Option<u64> {
        self.pop().map(|message| digest(&message))
    }
}

/// crossbeam's bounded queue.
pub fn array_queue() -> (Arc<ArrayQueue<Message>>, Arc<ArrayQueue<Message>>) {
    let queue = Arc::new(ArrayQueue::new(CAPACITY));
    (Arc::clone(&queue), queue)
}

impl Sender for crossbeam::channel::Sender<Message> {
    #[inline]
    fn try_send(&mut self, number: u64) -> bool {
        crossbeam::channel::Sender::try_send(self, message(number)).is_ok()
    }
}

impl Receiver for crossbeam::channel::Receiver<Message> {
    #[inline]
    fn try_receive(&mut self) -> Option<u64> {
        self.try_recv().ok().map(|message| digest(&message))
    }
}

/// crossbeam's bounded channel.
pub fn channel() -> (crossbeam::channel::Sender<Message>, crossbeam::channel::Receiver<Message>) {
    crossbeam::channel::bounded(CAPACITY)
}

type DisruptorProducer = disruptor::SingleProducer<Message, disruptor::SingleConsumerBarrier>;
type DisruptorPoller = disruptor::EventPoller<Message, disruptor::SingleProducerBarrier>;

impl Sender for DisruptorProducer {
    #[inline]
    fn try_send(&mut self, number: u64) -> bool {
        self.try_publish(|slot| *slot = message(number)).is_ok()
    }
}

/// A poller, one event at a time as with the others.
pub struct OneByOne(DisruptorPoller);

impl Receiver for OneByOne {
    #[inline]
    fn try_receive(&mut self) -> Option<u64> {
        let mut events = self.0.take(1).ok()?;
        (&mut events).next().map(digest)
    }
}

/// disruptor, with a poller on the bench's own thread.
pub fn disruptor() -> (DisruptorProducer, OneByOne) {
    let builder = disruptor::build_single_producer(CAPACITY, || [0; _], disruptor::BusySpin);
    let (poller, builder) = builder.new_event_poller();
    (builder.build(), OneByOne(poller))
}
