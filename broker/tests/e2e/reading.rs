//! Reading what has become segments.

use crate::client::{batch_of, fetch_request, records_of, FETCH};
use crate::support::{free_port, Launch, Random, PATIENCE, PAUSE};
use kafscale_codec::error_code::ErrorCode;
use std::time::Instant;

/// Values of this size, one batch each.
const VALUE_BYTES: usize = 200_000;
const VALUES: usize = 60;

#[test]
fn what_comes_next_is_read_ahead_of_a_consumer_and_stays_the_same() {
    let (read, ahead, waited) = backlog_read_with("");
    assert!(ahead > 0, "nothing was read ahead");
    assert!(
        ahead + waited < 2 * read,
        "{read} bytes were read from the store as {ahead} ahead and {waited} that a consumer waited for"
    );
    let (_, ahead, waited) = backlog_read_with("--readahead-segments 0");
    assert_eq!(ahead, 0);
    assert!(waited >= read / 2, "segments were read: {waited} of {read}");
}

/// Stores values, lets them become segments, reads them in sequence with a new broker and compares them. Returns the
/// bytes read, those that were read ahead, and those that the reader had to wait for.
fn backlog_read_with(flags: &str) -> (u64, u64, u64) {
    let directory = tempfile::tempdir().unwrap();
    let mut launch = Launch::new(directory.path())
        .flags("--shards 1 --segment-bytes 3000000 --segment-ms 1000 --segment-small-ms 0 --tail-memory-bytes 1048576")
        .flags(flags);
    launch.metrics_port = free_port();
    let mut values = Vec::new();
    let mut random = Random::new(7);
    let broker = launch.start();
    let mut client = broker.connect();
    client.create_topic("backlog", 1);
    for _ in 0..VALUES {
        let value = random.bytes(VALUE_BYTES);
        let answer = client.produce("backlog", 0, batch_of(&[&value]));
        assert_eq!(answer.error_code, ErrorCode::NONE);
        values.push(value);
    }
    let until = Instant::now() + PATIENCE;
    while broker.counter("kafscale_partition_unrolled_bytes{topic=\"backlog\",partition=\"0\"}") > 0 {
        assert!(Instant::now() < until, "not all became segments");
        std::thread::sleep(PAUSE);
    }
    drop(broker);
    let broker = launch.start();
    let mut client = broker.connect();
    let mut next = 0;
    while next < values.len() {
        let request = fetch_request("backlog", 0, next as i64, 0, 400_000);
        let data = client.call(FETCH, &request).responses.remove(0).partitions.remove(0);
        assert_eq!(data.error_code, ErrorCode::NONE);
        for record in records_of(&data) {
            assert_eq!(record.offset, next as i64);
            assert!(
                record.value.as_deref() == Some(&values[next][..]),
                "value {next} differs"
            );
            next += 1;
        }
    }
    let read = (VALUE_BYTES * VALUES) as u64;
    let ahead = broker.counter("kafscale_cache_read_ahead_bytes_total");
    (read, ahead, broker.counter("kafscale_cache_miss_bytes_total"))
}
