//! A consumer that reads while brokers are killed under it, and the reader that looks at everything.

use super::ledger::{add, Identity, Ledger, Place};
use super::producer::may_pass;
use super::Shared;
use crate::client::{records_of, Client};
use crate::support::{Random, PATIENCE, PAUSE};
use kafscale_codec::error_code::ErrorCode;
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Instant;

/// After a restart up to this many records are read once more: they must be the same.
const READ_AGAIN_MAX: u64 = 500;

/// Reads every partition of one topic, again and again from where it was, until told to stop.
pub fn run(shared: &Arc<Shared>, topic: &'static str, partitions: i32) {
    let mut random = Random::new(shared.seed ^ 0xc0);
    let mut positions = vec![0i64; partitions as usize];
    let mut high_watermarks = vec![0i64; partitions as usize];
    while !shared.consumers_stop() && !shared.gave_up() {
        for position in &mut positions {
            *position = (*position - random.below(READ_AGAIN_MAX) as i64).max(0);
        }
        if connection(shared, topic, &mut positions, &mut high_watermarks).is_err() {
            std::thread::sleep(PAUSE);
        }
    }
}

fn connection(
    shared: &Arc<Shared>,
    topic: &'static str,
    positions: &mut [i64],
    high_watermarks: &mut [i64],
) -> io::Result<()> {
    let mut client = Client::connect(shared.address)?;
    while !shared.consumers_stop() && !shared.gave_up() {
        for (partition, position) in positions.iter_mut().enumerate() {
            let place: Place = (topic, partition as i32);
            let data = client.fetch(topic, place.1, *position, 10)?;
            match data.error_code {
                ErrorCode::NONE => {}
                error if may_pass(error) => return Err(io::Error::other("try again")),
                error => {
                    shared.ledger.fault(format!("{place:?} fetch at {position}: {error:?}"));
                    return Err(io::Error::other("no data"));
                }
            }
            let highest = &mut high_watermarks[partition];
            if data.high_watermark < *highest {
                let back = format!(
                    "{place:?}: the high watermark went from {highest} to {}",
                    data.high_watermark
                );
                shared.ledger.fault(back);
            }
            *highest = data.high_watermark.max(*highest);
            for record in records_of(&data) {
                if record.offset >= data.high_watermark {
                    let beyond = format!("{place:?}: {} lies beyond {}", record.offset, data.high_watermark);
                    shared.ledger.fault(beyond);
                }
                take(&shared.ledger, place, position, &record);
            }
        }
    }
    Ok(())
}

/// Takes a record if it is the next one; those before it come along in their batch.
fn take(
    ledger: &Ledger,
    place: Place,
    position: &mut i64,
    record: &kafscale_codec::record_batch::Record,
) -> Option<Identity> {
    if record.offset < *position {
        return None;
    }
    if record.offset > *position {
        ledger.fault(format!("{place:?}: after {position} comes {}", record.offset));
    }
    *position = record.offset + 1;
    add(&ledger.counts.records_consumed, 1);
    ledger.seen(place, record)
}

/// Reads a partition from `from` to its end: nothing acknowledged is missing, offsets have no gap, and each producer's
/// records come in its order. Returns where it ends, and how many records of each producer there are.
pub fn read_to_end(ledger: &Ledger, client: &mut Client, place: Place, from: i64) -> (i64, HashMap<u32, u64>) {
    let acked = ledger.next_acked(place);
    let mut until = Instant::now() + PATIENCE;
    let end = client.end_offset(place.0, place.1).unwrap().unwrap();
    if end < acked {
        ledger.fault(format!("{place:?}: ends at {end}, acknowledged up to {acked}"));
    }
    let mut position = from;
    let mut last: HashMap<u32, u64> = HashMap::new();
    let mut counts: HashMap<u32, u64> = HashMap::new();
    while position < end {
        assert!(
            Instant::now() < until,
            "{place:?}: reading stands at {position} of {end}"
        );
        let data = client.fetch(place.0, place.1, position, 0).unwrap();
        assert_eq!(data.error_code, ErrorCode::NONE, "{place:?} at {position}");
        for record in records_of(&data) {
            until = Instant::now() + PATIENCE;
            let Some((producer, number)) = take(ledger, place, &mut position, &record) else {
                continue;
            };
            *counts.entry(producer).or_default() += 1;
            let before = last.insert(producer, number);
            if before.is_some_and(|before| before >= number) {
                ledger.fault(format!(
                    "{place:?} at {}: producer {producer} has {number} after {before:?}",
                    record.offset
                ));
            }
        }
    }
    (end, counts)
}
