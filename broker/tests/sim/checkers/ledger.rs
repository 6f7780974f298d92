//! Records: what is acknowledged is there, once, at its offset, forever, and what was read stays.
//!
//! Each partition is a log, and its history as clients see it must be linearizable: an append takes effect between its
//! request and its acknowledgement, a read of records, of an end, of a start or of a time's offset between its request and
//! its answer. So whoever asks first notes what was known before, and the answer must agree with at least that.

use crate::executor::{World, EPOCH_MS};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};

/// A partition, by topic name.
pub type Place = (String, i32);

/// Identifies a record among all of a run. The upper half is its producer.
pub type RecordId = u64;

/// The id of a producer's `number`th record.
pub fn record_id(producer: u32, number: u32) -> RecordId {
    u64::from(producer) << 32 | u64::from(number)
}

/// The value that a record carries: its id, and padding that follows from it.
pub fn value_of(id: RecordId) -> Vec<u8> {
    let mut value = id.to_be_bytes().to_vec();
    let padding = (id.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) % 300;
    value.extend((0..padding).map(|at| (id ^ at) as u8));
    value
}

/// What makes records of a topic go by themselves: the tightest that was ever set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// `retention.ms`.
    pub retention_ms: Option<i64>,
    /// `retention.bytes`.
    pub retention_bytes: Option<i64>,
}

/// What decides when a record may go.
#[derive(Debug, Clone, Copy)]
struct Made {
    /// When it says it was made, else when it was sent.
    timestamp_ms: i64,
    says_when: bool,
    bytes: i64,
}

#[derive(Default)]
struct Log {
    limits: Option<Limits>,
    made: BTreeMap<RecordId, Made>,
    /// What has been read, or acknowledged, at each offset.
    known: BTreeMap<i64, RecordId>,
    acknowledged: BTreeMap<RecordId, i64>,
    acknowledged_somewhere: BTreeSet<RecordId>,
    /// Records before it may be deleted: the largest offset that a deletion was asked for.
    deletable: i64,
    /// Records before it are deleted: the largest offset that a deletion was answered with.
    deleted: i64,
    /// What was sent, and the largest end that was known before that.
    sent: BTreeMap<RecordId, i64>,
    /// The largest first offset that anybody was told.
    start: i64,
    /// The largest end that anybody was told, or that follows from an acknowledgement.
    end: i64,
}

/// The book of all partitions.
pub struct Ledger {
    world: World,
    logs: RefCell<BTreeMap<Place, Log>>,
    /// Producers whose records must be in the order of their numbers.
    ordered: RefCell<BTreeSet<u32>>,
    /// How far brokers' clocks were off at most, to either side, in milliseconds.
    skew_ms: Cell<(i64, i64)>,
}

impl Ledger {
    /// An empty book.
    pub fn new(world: &World) -> Self {
        Ledger {
            world: world.clone(),
            logs: RefCell::default(),
            ordered: RefCell::default(),
            skew_ms: Cell::default(),
        }
    }

    /// Some broker's clock is off by this.
    pub fn clock_is_off(&self, by_ms: i64) {
        let (slowest, fastest) = self.skew_ms.get();
        self.skew_ms.set((slowest.min(by_ms), fastest.max(by_ms)));
    }

    fn now_ms(&self) -> i64 {
        EPOCH_MS + self.world.now().as_millis() as i64
    }

    /// A partition is about to get these limits.
    pub fn limited(&self, place: &Place, limits: Limits) {
        let mut logs = self.logs.borrow_mut();
        let known = logs.entry(place.clone()).or_default().limits.get_or_insert_default();
        let tighter = |known: Option<i64>, new: Option<i64>| known.into_iter().chain(new).min();
        known.retention_ms = tighter(known.retention_ms, limits.retention_ms);
        known.retention_bytes = tighter(known.retention_bytes, limits.retention_bytes);
    }

    /// A record that was sent says that it was made then, and takes at most so many bytes.
    pub fn made(&self, place: &Place, id: RecordId, timestamp_ms: i64, bytes: usize) {
        let says_when = timestamp_ms >= 0;
        let timestamp_ms = match timestamp_ms {
            // Its segment's time counts, which is later than this by a clock that is right.
            ..0 => self.now_ms(),
            _ => timestamp_ms,
        };
        let bytes = bytes as i64;
        let mut logs = self.logs.borrow_mut();
        let log = logs.entry(place.clone()).or_default();
        log.made.insert(
            id,
            Made {
                timestamp_ms,
                says_when,
                bytes,
            },
        );
    }

    /// A partition begins at `start`: what is before it was deleted, or its topic's limits let it go.
    fn start_is_due(&self, place: &Place, start: i64) {
        let logs = self.logs.borrow();
        let Some(log) = logs.get(place) else { return };
        if start <= log.deletable {
            return;
        }
        let Some(limits) = log.limits else {
            self.world.violate(format!(
                "{place:?}: begins at {start}, deletions were asked up to {}",
                log.deletable
            ));
            return;
        };
        let (slowest, fastest) = self.skew_ms.get();
        let now_ms = self.now_ms() + fastest;
        // What is after a record, and what may be: its place is not known.
        let nowhere: i64 = {
            let placed: BTreeSet<RecordId> = log.known.values().copied().collect();
            log.made
                .iter()
                .filter(|(id, _)| !placed.contains(id))
                .map(|(_, made)| made.bytes)
                .sum()
        };
        // Of a segment those of its records count that say when they were made, if any does.
        let gone = log.known.range(log.deletable..start.max(log.deletable));
        let some_say_when = gone.filter_map(|(_, id)| log.made.get(id)).any(|made| made.says_when);
        let mut after: i64 = nowhere;
        for (offset, id) in log.known.iter().rev() {
            let Some(made) = log.made.get(id) else { continue };
            // The segment was made by a clock that may have been the slowest there was.
            let made_ms = made.timestamp_ms + if made.says_when { 0 } else { slowest };
            let too_old = limits
                .retention_ms
                .is_some_and(|limit| made_ms <= now_ms - limit || (!made.says_when && some_say_when));
            let too_many = limits.retention_bytes.is_some_and(|limit| after >= limit);
            if (log.deletable..start).contains(offset) && !too_old && !too_many {
                self.world.violate(format!(
                    "{place:?}: begins at {start}; record {id:#x} at {offset} is gone, made at {} of {now_ms}, with {after} \
                     bytes behind it, by {limits:?}",
                    made.timestamp_ms
                ));
                return;
            }
            after += made.bytes;
        }
    }

    /// Whether records of a partition may go by themselves.
    pub fn is_limited(&self, place: &Place) -> bool {
        self.logs.borrow().get(place).is_some_and(|log| log.limits.is_some())
    }

    /// From now on this producer's records must be in order.
    pub fn expect_order(&self, producer: u32) {
        self.ordered.borrow_mut().insert(producer);
    }

    /// A record is about to be sent.
    pub fn sent(&self, place: &Place, id: RecordId) {
        let mut logs = self.logs.borrow_mut();
        let log = logs.entry(place.clone()).or_default();
        let end = log.end;
        log.sent.entry(id).or_insert(end);
    }

    /// The largest first offset of a partition that anybody knows of: whoever asks from now on must not be told of a
    /// smaller one.
    pub fn start_known(&self, place: &Place) -> i64 {
        self.logs
            .borrow()
            .get(place)
            .map_or(0, |log| log.start.max(log.deleted))
    }

    /// A broker says that a partition begins at `start`; when it was asked, it was known to begin at `known` at least.
    pub fn start_told(&self, place: &Place, known: i64, start: i64) {
        if start < known {
            self.world.violate(format!(
                "{place:?}: begins at {start}, when {known} was known before it was asked for"
            ));
        }
        self.start_is_due(place, start);
        let mut logs = self.logs.borrow_mut();
        let log = logs.entry(place.clone()).or_default();
        log.start = log.start.max(start);
    }

    /// A fetch of these places, each with its offset, was answered without error and without any record. `ends_known` is
    /// what was known before it was asked.
    pub fn nothing_found(&self, topic: &str, wanted: &BTreeMap<i32, (i32, i64)>, ends_known: &BTreeMap<i32, i64>) {
        for (partition, (_, offset)) in wanted {
            if ends_known.get(partition).is_some_and(|end| offset < end) {
                self.world.violate(format!(
                    "{topic}-{partition}: nothing is found at {offset}, when it was known before to end at {}",
                    ends_known[partition]
                ));
            }
        }
    }

    /// A broker was asked for the first offset with a timestamp of at least `timestamp_ms`, and answered this one, or
    /// that there is none. `known` is the end that was known before it was asked.
    pub fn time_found(&self, place: &Place, known: i64, timestamp_ms: i64, found: Option<i64>) {
        let logs = self.logs.borrow();
        let Some(log) = logs.get(place) else { return };
        let made = |id: &RecordId| log.made.get(id).filter(|made| made.says_when);
        if let Some(offset) = found {
            let told = log.known.get(&offset).and_then(made);
            if let Some(made) = told.filter(|made| made.timestamp_ms < timestamp_ms) {
                self.world.violate(format!(
                    "{place:?}: offset {offset} is found for {timestamp_ms}, and its record was made at {}",
                    made.timestamp_ms
                ));
            }
        }
        if log.limits.is_some() {
            return;
        }
        let skipped = log
            .known
            .range(log.deletable..found.unwrap_or(known).min(known).max(log.deletable));
        for (offset, id) in skipped {
            if let Some(made) = made(id).filter(|made| made.timestamp_ms >= timestamp_ms) {
                self.world.violate(format!(
                    "{place:?}: {found:?} is found for {timestamp_ms}, though the record at {offset} was made at {}",
                    made.timestamp_ms
                ));
                return;
            }
        }
    }

    /// The largest end of a partition that anybody knows of: whoever asks from now on must not be told of a smaller one.
    pub fn end_known(&self, place: &Place) -> i64 {
        self.logs.borrow().get(place).map_or(0, |log| log.end)
    }

    /// A broker says that a partition ends at `end`; when it was asked, the end was known to be at `known` at least.
    pub fn end_told(&self, place: &Place, known: i64, end: i64) {
        if end < known {
            self.world.violate(format!(
                "{place:?}: its end is told as {end}, when {known} was known before it was asked for"
            ));
        }
        let mut logs = self.logs.borrow_mut();
        let log = logs.entry(place.clone()).or_default();
        if end > log.sent.len() as i64 {
            self.world.violate(format!(
                "{place:?}: its end is told as {end}, and only {} records were ever sent",
                log.sent.len()
            ));
        }
        log.end = log.end.max(end);
    }

    /// The broker says that these records are stored from `base_offset` on.
    pub fn acknowledged(&self, place: &Place, base_offset: i64, ids: &[RecordId]) {
        for (offset, id) in (base_offset..).zip(ids) {
            self.know(place, offset, *id, "acknowledged");
            let mut logs = self.logs.borrow_mut();
            let log = logs.entry(place.clone()).or_default();
            log.acknowledged.insert(*id, offset);
            log.end = log.end.max(offset + 1);
        }
    }

    /// The broker says that these records are stored, and not where.
    pub fn acknowledged_somewhere(&self, place: &Place, ids: &[RecordId]) {
        let mut logs = self.logs.borrow_mut();
        let log = logs.entry(place.clone()).or_default();
        log.acknowledged_somewhere.extend(ids);
    }

    /// Somebody is about to delete the records before this offset.
    pub fn deletion_asked(&self, place: &Place, before: i64) {
        let mut logs = self.logs.borrow_mut();
        let log = logs.entry(place.clone()).or_default();
        log.deletable = log.deletable.max(before);
    }

    /// The broker says that they are deleted.
    pub fn deletion_answered(&self, place: &Place, low_watermark: i64) {
        let mut logs = self.logs.borrow_mut();
        let log = logs.entry(place.clone()).or_default();
        log.deleted = log.deleted.max(low_watermark);
        if low_watermark > log.deletable {
            self.world.violate(format!(
                "{place:?}: deleted up to {low_watermark}, asked for {}",
                log.deletable
            ));
        }
    }

    /// The largest offset before which records may be gone.
    pub fn deletable(&self, place: &Place) -> i64 {
        self.logs.borrow().get(place).map_or(0, |log| log.deletable)
    }

    /// An offset that is acknowledged, and so may be deleted.
    pub fn end_of_acknowledged(&self, place: &Place) -> i64 {
        let logs = self.logs.borrow();
        let ends = logs.get(place).and_then(|log| log.acknowledged.values().max().copied());
        ends.map_or(0, |last| last + 1)
    }

    /// A consumer got this.
    pub fn read(&self, place: &Place, offset: i64, value: Option<&[u8]>) -> Option<RecordId> {
        let id = value
            .and_then(|value| value.get(..8))
            .and_then(|id| id.try_into().ok())
            .map(RecordId::from_be_bytes);
        let Some(id) = id.filter(|id| value == Some(&value_of(*id))) else {
            self.world
                .violate(format!("{place:?}: offset {offset} holds what nobody sent"));
            return None;
        };
        self.know(place, offset, id, "read");
        Some(id)
    }

    fn know(&self, place: &Place, offset: i64, id: RecordId, how: &str) {
        let mut logs = self.logs.borrow_mut();
        let log = logs.entry(place.clone()).or_default();
        match log.sent.get(&id) {
            None => self.world.violate(format!(
                "{place:?}: record {id:#x}, {how} at {offset}, was never sent there"
            )),
            Some(end) if offset < *end => self.world.violate(format!(
                "{place:?}: record {id:#x}, {how} at {offset}, was sent when the partition ended at {end} at least"
            )),
            Some(_) => {}
        }
        let known = *log.known.entry(offset).or_insert(id);
        if known != id {
            self.world.violate(format!(
                "{place:?}: offset {offset} was {known:#x} and is now {how} as {id:#x}"
            ));
        }
    }

    /// The whole partition as it is after everything: record ids from its first offset on.
    pub fn whole(&self, place: &Place, start: i64, found: &[RecordId]) {
        self.start_is_due(place, start);
        let logs = self.logs.borrow();
        let Some(log) = logs.get(place) else { return };
        if start < log.deleted || (start > log.deletable && log.limits.is_none()) {
            self.world.violate(format!(
                "{place:?}: begins at {start}; deleted up to {}, asked up to {}",
                log.deleted, log.deletable
            ));
        }
        let end = start + found.len() as i64;
        if let Some((offset, id)) = log.known.range(end..).next() {
            self.world.violate(format!(
                "{place:?}: offset {offset} was {id:#x}, and the partition ends at {end}"
            ));
        }
        let mut places: BTreeMap<RecordId, i64> = BTreeMap::new();
        let mut latest: BTreeMap<u32, RecordId> = BTreeMap::new();
        let ordered = self.ordered.borrow();
        for (offset, id) in (start..).zip(found) {
            if let Some(first) = places.insert(*id, offset) {
                self.world.violate(format!(
                    "{place:?}: record {id:#x} is there twice, at {first} and {offset}"
                ));
            }
            let producer = (id >> 32) as u32;
            let before = latest.insert(producer, *id);
            if ordered.contains(&producer) && before.is_some_and(|before| before > *id) {
                self.world
                    .violate(format!("{place:?}: record {id:#x} at {offset} comes after {before:x?}"));
            }
        }
        let lost = |id: &&RecordId| !places.contains_key(id) && start == 0;
        if let Some(id) = log.acknowledged_somewhere.iter().find(lost) {
            self.world
                .violate(format!("{place:?}: record {id:#x} was acknowledged and is not there"));
        }
        for (id, offset) in log.acknowledged.iter().filter(|(_, offset)| **offset >= start) {
            if places.get(id) != Some(offset) {
                self.world.violate(format!(
                    "{place:?}: record {id:#x} was acknowledged at {offset} and is at {:?}",
                    places.get(id)
                ));
            }
        }
    }

    /// Records acknowledged in all.
    pub fn acknowledged_in_all(&self) -> usize {
        self.logs.borrow().values().map(|log| log.acknowledged.len()).sum()
    }
}
