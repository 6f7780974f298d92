//! ListOffsets, Fetch, DeleteRecords and OffsetForLeaderEpoch.

use super::*;

/// Times before, at, between and after those of the records, and every marker.
const LOOKUPS: &[i64] = &[
    TIME - 1,
    TIME,
    TIME + 1,
    TIME + 5,
    TIME + 19,
    TIME + 20,
    0,
    1,
    i64::MAX,
    -1,
    -2,
    -3,
    -4,
    -5,
    -6,
    -7,
    -77,
    i64::MIN,
];

pub fn list_offsets(judge: &mut Judge) {
    judge.topic("list", 2, &[]);
    judge.topic("list-empty", 1, &[]);
    let disordered = [TIME + 4, TIME, TIME + 9, TIME + 2];
    for batch in [batches::plain(5), batches::timed(&disordered), batches::plain(20)] {
        produce_to(judge, "prepare", 12, "list", -1, &[(0, Some(batch))]);
    }
    for topic in ["list", "list-empty", MISSING, "a/b", ""] {
        for timestamp in LOOKUPS {
            judge.ask_all(&format!("{topic} at {timestamp}"), |_, _| {
                list_request(topic, &[(0, *timestamp)])
            });
        }
    }
    for partition in INTEGERS {
        judge.ask_all("partition", |_, _| list_request("list", &[(partition, -1)]));
    }
    judge.ask_all("a partition twice", |_, _| list_request("list", &[(0, -1), (0, -2)]));
    judge.ask_all("twice and others", |_, _| {
        list_request("list", &[(0, -1), (1, -1), (0, -1)])
    });
    judge.ask_all("a topic twice", |_, _| {
        let mut request = list_request("list", &[(0, -1)]);
        request.topics.extend(list_request("list", &[(0, -2), (1, -2)]).topics);
        request
    });
    judge.ask_all("no topics", |_, _| ListOffsetsRequest::default());
    judge.ask_all("no partitions", |_, _| list_request("list", &[]));
    for replica_id in INTEGERS {
        judge.ask_all("replica", |_, _| ListOffsetsRequest {
            replica_id,
            ..list_request("list", &[(0, -1)])
        });
    }
    for isolation_level in [0, 1, 2, -1] {
        judge.ask_all("isolation", |_, _| ListOffsetsRequest {
            isolation_level,
            ..list_request("list", &[(0, -1)])
        });
    }
    for epoch in [-1, 1_000_000, i32::MAX] {
        judge.ask_all("leader epoch", |_, _| {
            let mut request = list_request("list", &[(0, -1)]);
            request.topics[0].partitions[0].current_leader_epoch = epoch;
            request
        });
    }
}

pub fn list_offsets_after_deletion(judge: &mut Judge) {
    judge.topic("trimmed", 1, &[]);
    let gzip: Vec<i64> = (0..20).map(|at| TIME + 100 + at).collect();
    produce_to(judge, "prepare", 12, "trimmed", -1, &[(0, Some(batches::plain(20)))]);
    let gzip = batches::compressed(&gzip, kafscale_codec::compression::Compression::Gzip);
    produce_to(judge, "prepare", 12, "trimmed", -1, &[(0, Some(gzip))]);
    let version = judge.newest::<ListOffsetsRequest>();
    for start in [0, 5, 19, 20, 25, 40] {
        judge.ask("prepare", 2, |_| delete_request("trimmed", &[(0, start)]));
        for at in [-1, 0, 3, 5, 6, 19, 20, 99, 100, 103, 105, 119, 120] {
            judge.ask(&format!("from {start} at +{at}"), version, |_| {
                list_request("trimmed", &[(0, TIME + at)])
            });
        }
        for marker in [-1, -2, -3, -4] {
            judge.ask(&format!("from {start}"), version, |_| {
                list_request("trimmed", &[(0, marker)])
            });
        }
        for offset in [0, start - 1, start, start + 1] {
            judge.ask(&format!("from {start}"), 12, |_| {
                fetch_request("trimmed", TopicId::ZERO, &[(0, offset)])
            });
        }
    }
}

fn delete_request(topic: &str, wanted: &[(i32, i64)]) -> DeleteRecordsRequest {
    let partition = |(partition_index, offset): &(i32, i64)| DeleteRecordsPartition {
        partition_index: *partition_index,
        offset: *offset,
    };
    DeleteRecordsRequest {
        topics: vec![DeleteRecordsTopic {
            name: topic.to_string(),
            partitions: wanted.iter().map(partition).collect(),
        }],
        timeout_ms: 10_000,
    }
}

fn fetch_in(
    judge: &mut Judge,
    label: &str,
    version: i16,
    topic: &str,
    wanted: &[(i32, i64)],
    change: impl Fn(&mut FetchRequest),
) {
    judge.ask(label, version, |names| {
        let mut request = match version {
            13.. => fetch_request("", names.topic(topic), wanted),
            _ => fetch_request(topic, TopicId::ZERO, wanted),
        };
        change(&mut request);
        request
    });
}

pub fn fetch(judge: &mut Judge) {
    judge.topic("fetch", 2, &[]);
    for batch in [batches::plain(3), batches::plain(1), batches::plain(10)] {
        produce_to(judge, "prepare", 12, "fetch", -1, &[(0, Some(batch))]);
    }
    for version in judge.versions::<FetchRequest>() {
        let same = |_: &mut FetchRequest| {};
        for offset in [0, 1, 3, 4, 13, 14, 15, -1, i64::MIN, i64::MAX] {
            fetch_in(
                judge,
                &format!("offset {offset}"),
                version,
                "fetch",
                &[(0, offset)],
                same,
            );
        }
        for partition in INTEGERS {
            fetch_in(judge, "partition", version, "fetch", &[(partition, 0)], same);
        }
        fetch_in(judge, "unknown topic", version, MISSING, &[(0, 0)], same);
        fetch_in(judge, "a partition twice", version, "fetch", &[(0, 0), (0, 3)], same);
        fetch_in(judge, "no partitions", version, "fetch", &[], same);
        fetch_in(judge, "no topics", version, "fetch", &[], |request| {
            request.topics.clear()
        });
        for bytes in [0, 1, 100, -1, i32::MAX] {
            let label = format!("{bytes} bytes");
            fetch_in(judge, &label, version, "fetch", &[(0, 0), (1, 0)], |request| {
                request.max_bytes = bytes
            });
            fetch_in(judge, &label, version, "fetch", &[(0, 0)], |request| {
                request.topics[0].partitions[0].partition_max_bytes = bytes;
            });
        }
        for (min, max) in [(0, 1000), (-1, 1000), (i32::MAX, 1000), (i32::MAX, 1), (1001, 1000)] {
            fetch_in(
                judge,
                &format!("min {min} max {max}"),
                version,
                "fetch",
                &[(0, 0)],
                |request| {
                    (request.min_bytes, request.max_bytes) = (min, max);
                },
            );
        }
        for wait in [-1, 0, 20] {
            fetch_in(
                judge,
                &format!("wait {wait}"),
                version,
                "fetch",
                &[(0, 14)],
                |request| request.max_wait_ms = wait,
            );
        }
        for level in [0, 1, 2, -1] {
            fetch_in(judge, "isolation", version, "fetch", &[(0, 0)], |request| {
                request.isolation_level = level
            });
        }
        for replica in [0, 1, -2, 77] {
            fetch_in(judge, "replica", version, "fetch", &[(0, 0)], |request| {
                request.replica_id = replica
            });
        }
        for epoch in [0, 1_000_000, -2] {
            fetch_in(judge, "leader epoch", version, "fetch", &[(0, 0)], |request| {
                request.topics[0].partitions[0].current_leader_epoch = epoch.max(1_000_000);
            });
            fetch_in(judge, "last fetched epoch", version, "fetch", &[(0, 3)], |request| {
                request.topics[0].partitions[0].last_fetched_epoch = epoch.max(1_000_000);
            });
        }
        for (id, epoch) in [
            (0, 0),
            (0, -1),
            (0, 1),
            (77, 0),
            (77, 1),
            (77, -1),
            (-1, 0),
            (0, i32::MAX),
        ] {
            fetch_in(
                judge,
                &format!("session {id} {epoch}"),
                version,
                "fetch",
                &[(0, 0)],
                |request| {
                    (request.session_id, request.session_epoch) = (id, epoch);
                },
            );
        }
    }
}

pub fn delete_records(judge: &mut Judge) {
    judge.topic("shorten", 2, &[]);
    judge.topic("shorten-compact", 1, &[("cleanup.policy", "compact")]);
    for version in judge.versions::<DeleteRecordsRequest>() {
        produce_to(judge, "prepare", 12, "shorten", -1, &[(0, Some(batches::plain(10)))]);
        for offset in [0, 3, 2, -2, i64::MIN, i64::MAX, 1000, -1] {
            judge.ask(&format!("to {offset}"), version, |_| {
                delete_request("shorten", &[(0, offset)])
            });
        }
        for (topic, partition) in [
            (MISSING, 0),
            ("shorten", 7),
            ("shorten", -1),
            ("a/b", 0),
            ("shorten-compact", 0),
        ] {
            judge.ask(&format!("{topic} {partition}"), version, |_| {
                delete_request(topic, &[(partition, 0)])
            });
        }
        judge.ask("a partition twice", version, |_| {
            delete_request("shorten", &[(1, 0), (1, 0)])
        });
        judge.ask("no topics", version, |_| DeleteRecordsRequest::default());
    }
    records_are_alike(judge, "shorten", 2);
}

pub fn offset_for_leader_epoch(judge: &mut Judge) {
    for (topic, partition, current, epoch) in [
        ("fetch", 0, -1, -1),
        ("fetch", 0, -1, 1_000_000),
        ("fetch", 0, 1_000_000, 0),
        ("fetch", 7, -1, 0),
        ("fetch", -1, -1, 0),
        (MISSING, 0, -1, 0),
        ("fetch", 0, -1, i32::MIN),
    ] {
        judge.ask_all(
            &format!("{topic} {partition} current {current} epoch {epoch}"),
            |_, _| OffsetForLeaderEpochRequest {
                replica_id: -1,
                topics: vec![OffsetForLeaderTopic {
                    topic: topic.into(),
                    partitions: vec![OffsetForLeaderPartition {
                        partition,
                        current_leader_epoch: current,
                        leader_epoch: epoch,
                    }],
                }],
            },
        );
    }
}
