//! What was acknowledged and what was seen, by offset: one truth that every answer must agree with for ever.

use crate::support::Random;
use kafscale_codec::record_batch::Record;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

/// A partition of one of the topics.
pub type Place = (&'static str, i32);

/// Which record it is: the producer's number, and the record's number within that producer and partition.
pub type Identity = (u32, u64);

/// Counts over all rounds.
#[derive(Debug, Default)]
pub struct Counts {
    pub records_acked: AtomicU64,
    pub batches_acked: AtomicU64,
    pub batches_retried: AtomicU64,
    pub duplicates_refused: AtomicU64,
    pub records_consumed: AtomicU64,
    pub error_answers: AtomicU64,
}

/// The truth so far, and what contradicted it.
#[derive(Debug, Default)]
pub struct Ledger {
    logs: Mutex<HashMap<Place, Log>>,
    faults: Mutex<Vec<String>>,
    pub counts: Counts,
}

#[derive(Debug, Default)]
struct Log {
    by_offset: BTreeMap<i64, Identity>,
    offset_of: HashMap<Identity, i64>,
    next_acked: i64,
}

impl Log {
    /// Notes what stands at an offset. It must be what stood there before, and stand nowhere else.
    fn note(&mut self, offset: i64, identity: Identity) -> Result<(), String> {
        let before = *self.by_offset.entry(offset).or_insert(identity);
        if before != identity {
            return Err(format!("offset {offset} was {before:?} and is {identity:?} now"));
        }
        let elsewhere = *self.offset_of.entry(identity).or_insert(offset);
        if elsewhere != offset {
            return Err(format!("record {identity:?} is at {elsewhere} and at {offset}"));
        }
        Ok(())
    }
}

impl Ledger {
    /// The broker acknowledged these records of a producer, from `base_offset` on.
    pub fn acknowledged(&self, place: Place, base_offset: i64, producer: u32, numbers: std::ops::Range<u64>) {
        add(&self.counts.batches_acked, 1);
        add(&self.counts.records_acked, numbers.end - numbers.start);
        let mut logs = lock(&self.logs);
        let log = logs.entry(place).or_default();
        for (offset, number) in (base_offset..).zip(numbers) {
            if let Err(fault) = log.note(offset, (producer, number)) {
                self.fault(format!("{place:?} acknowledged: {fault}"));
            }
            log.next_acked = log.next_acked.max(offset + 1);
        }
    }

    /// A consumer read this record.
    pub fn seen(&self, place: Place, record: &Record) -> Option<Identity> {
        match identify(place, record) {
            Ok(identity) => {
                let noted = lock(&self.logs).entry(place).or_default().note(record.offset, identity);
                if let Err(fault) = noted {
                    self.fault(format!("{place:?} read: {fault}"));
                }
                Some(identity)
            }
            Err(fault) => {
                self.fault(format!("{place:?} at {}: {fault}", record.offset));
                None
            }
        }
    }

    /// Offset after the last one that was acknowledged.
    pub fn next_acked(&self, place: Place) -> i64 {
        lock(&self.logs).get(&place).map_or(0, |log| log.next_acked)
    }

    /// Something that must not be.
    pub fn fault(&self, what: String) {
        let mut faults = lock(&self.faults);
        if faults.len() < 20 {
            eprintln!("FAULT: {what}");
            faults.push(what);
        }
    }

    /// Everything that must not be and was.
    pub fn faults(&self) -> Vec<String> {
        lock(&self.faults).clone()
    }
}

/// Counts up.
pub fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

/// A count.
pub fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap()
}

/// The value of a record: who wrote it, where to, its number and time, and bytes that follow from these.
pub fn value(place: Place, identity: Identity, timestamp: i64) -> Vec<u8> {
    let (producer, number) = identity;
    let mut value = Vec::new();
    value.extend(producer.to_be_bytes());
    value.extend(number.to_be_bytes());
    value.extend(timestamp.to_be_bytes());
    value.extend(place.1.to_be_bytes());
    value.extend(place.0.as_bytes());
    let mut random = Random::new(number << 20 ^ u64::from(producer) << 8 ^ place.1 as u64);
    let length = match random.below(200) {
        0 => 20_000,
        _ => random.below(300) as usize,
    };
    value.extend(random.bytes(length));
    value
}

/// Reads a record back, and checks that every byte of it is what its producer sent to this place.
fn identify(place: Place, record: &Record) -> Result<Identity, String> {
    let bytes = record.value.as_deref().ok_or("it has no value")?;
    let producer = bytes.first_chunk().map(|bytes| u32::from_be_bytes(*bytes));
    let number = bytes
        .get(4..)
        .and_then(|rest| rest.first_chunk())
        .map(|bytes| u64::from_be_bytes(*bytes));
    let (Some(producer), Some(number)) = (producer, number) else {
        return Err("its value is too short".to_string());
    };
    let identity = (producer, number);
    if bytes != value(place, identity, record.timestamp) {
        return Err(format!("{identity:?} is changed, or was sent elsewhere"));
    }
    Ok(identity)
}
