//! What large batches took of the process's memory comes back.

use crate::client::{batch_of, produce_request, PRODUCE};
use crate::support::{Launch, PATIENCE, PAUSE};
use kafscale_codec::error_code::ErrorCode;
use kafscale_codec::messages::ProduceResponse;
use std::time::Instant;

const CONNECTIONS: usize = 8;
const ROUNDS: usize = 12;

/// Batches of one connection on their way.
const IN_FLIGHT: usize = 8;

/// What the broker may keep: it holds 16 MiB of recent records and no cache.
const KEPT_MAX: u64 = 90 << 20;

#[test]
fn memory_of_large_batches_is_given_back() {
    let directory = tempfile::tempdir().unwrap();
    let flags = "--shards 2 --tail-memory-bytes 16777216 --cache-bytes 0 --auto-create-partitions 8";
    let broker = Launch::new(directory.path()).flags(flags).start();
    let mut clients: Vec<_> = (0..CONNECTIONS).map(|_| broker.connect()).collect();
    clients[0].create_topic("large", CONNECTIONS as i32);
    let mut most = 0;
    for round in 0..ROUNDS {
        // Sizes differ, so that holes do not fit what comes next.
        let value = vec![round as u8; 300_000 + 50_000 * round];
        let batch = batch_of(&[&value]);
        let mut ids = Vec::new();
        for _ in 0..IN_FLIGHT {
            for (client, partition) in clients.iter_mut().zip(0..) {
                let request = produce_request("large", partition, batch.clone());
                ids.push((partition as usize, client.send(PRODUCE, &request).unwrap()));
            }
        }
        most = most.max(broker.resident_bytes());
        for (at, id) in ids {
            let answer: ProduceResponse = clients[at].receive(PRODUCE, id).unwrap();
            assert_eq!(answer.responses[0].partition_responses[0].error_code, ErrorCode::NONE);
        }
        most = most.max(broker.resident_bytes());
    }
    let until = Instant::now() + PATIENCE;
    while broker.resident_bytes() > KEPT_MAX {
        assert!(
            Instant::now() < until,
            "{} of {most} bytes are still resident",
            broker.resident_bytes()
        );
        std::thread::sleep(PAUSE);
    }
    println!("{most} bytes at most, {} in the end", broker.resident_bytes());
}
