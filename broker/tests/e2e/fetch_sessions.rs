//! Fetch sessions (KIP-227) over the wire.

use crate::client::{batch_of, records_of, Client, FETCH};
use crate::support::{broker, free_port, Broker, Launch, PATIENCE, PAUSE};
use kafscale_codec::error_code::ErrorCode;
use kafscale_codec::messages::*;
use kafscale_codec::types::TopicId;
use std::time::Instant;

/// The first version with ids of topics in place of their names.
const FETCH_BY_ID: i16 = 13;

/// A consumer with a session, which knows its partitions' positions.
struct Reader {
    client: Client,
    session: (i32, i32),
    topic: String,
}

impl Reader {
    fn new(broker: &Broker, topic: &str) -> Reader {
        Reader {
            client: broker.connect(),
            session: (0, 0),
            topic: topic.to_string(),
        }
    }

    fn request(&self, changed: &[(i32, i64)], forgotten: &[i32]) -> FetchRequest {
        let partition = |(partition, fetch_offset): &(i32, i64)| FetchPartition {
            partition: *partition,
            fetch_offset: *fetch_offset,
            partition_max_bytes: 1 << 20,
            ..FetchPartition::default()
        };
        let topic = FetchTopic {
            topic: self.topic.clone(),
            partitions: changed.iter().map(partition).collect(),
            ..FetchTopic::default()
        };
        let forgotten = ForgottenTopic {
            topic: self.topic.clone(),
            partitions: forgotten.to_vec(),
            ..ForgottenTopic::default()
        };
        FetchRequest {
            max_wait_ms: 20,
            min_bytes: 1,
            max_bytes: 1 << 20,
            session_id: self.session.0,
            session_epoch: self.session.1,
            topics: [topic]
                .into_iter()
                .filter(|topic| !topic.partitions.is_empty())
                .collect(),
            forgotten_topics_data: [forgotten]
                .into_iter()
                .filter(|topic| !topic.partitions.is_empty())
                .collect(),
            ..FetchRequest::default()
        }
    }

    /// Each partition of the answer: index, error, records, offset after the last.
    fn send(&mut self, request: &FetchRequest) -> Vec<(i32, ErrorCode, usize, i64)> {
        let response = self.client.call(FETCH, request);
        assert_eq!(response.error_code, ErrorCode::NONE);
        self.session = (response.session_id, request.session_epoch + 1);
        let partitions = response.responses.iter().flat_map(|topic| {
            assert_eq!(topic.topic, self.topic);
            &topic.partitions
        });
        let told = |data: &PartitionData| {
            let records = records_of(data).len();
            (data.partition_index, data.error_code, records, data.high_watermark)
        };
        partitions.map(told).collect()
    }

    fn fetch(&mut self, changed: &[(i32, i64)], forgotten: &[i32]) -> Vec<(i32, ErrorCode, usize, i64)> {
        self.send(&self.request(changed, forgotten))
    }
}

const NONE: ErrorCode = ErrorCode::NONE;
const UNKNOWN: ErrorCode = ErrorCode::UNKNOWN_TOPIC_OR_PARTITION;

#[test]
fn a_session_is_told_of_what_has_changed_and_of_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let mut launch = Launch::new(directory.path()).flags("--shards 2");
    launch.metrics_port = free_port();
    let broker = launch.start();
    let mut writer = broker.connect();
    writer.create_topic("t", 4);
    let mut reader = Reader::new(&broker, "t");
    let all = reader.fetch(&[(0, 0), (1, 0), (2, 0), (3, 0)], &[]);
    assert_eq!(
        all,
        [(0, NONE, 0, 0), (1, NONE, 0, 0), (2, NONE, 0, 0), (3, NONE, 0, 0)]
    );
    assert_eq!(broker.counter("kafscale_fetch_session_partitions"), 4);
    assert_eq!(reader.fetch(&[], &[]), []);
    writer.produce_value("t", 2, b"one");
    assert_eq!(reader.fetch(&[], &[]), [(2, NONE, 1, 1)]);
    // A client that does not move on gets it again.
    assert_eq!(reader.fetch(&[], &[]), [(2, NONE, 1, 1)]);
    assert_eq!(reader.fetch(&[(2, 1)], &[]), []);
    writer.produce_value("t", 0, b"two");
    writer.produce_value("t", 2, b"three");
    assert_eq!(reader.fetch(&[], &[2]), [(0, NONE, 1, 1)]);
    assert_eq!(reader.fetch(&[(0, 1)], &[]), []);
    assert_eq!(reader.fetch(&[(2, 0)], &[]), [(2, NONE, 2, 2)]);
    // Ends that move without records for the client are told, once.
    let delete = DeleteRecordsRequest {
        topics: vec![DeleteRecordsTopic {
            name: "t".to_string(),
            partitions: vec![DeleteRecordsPartition {
                partition_index: 2,
                offset: 1,
            }],
        }],
        timeout_ms: 30_000,
    };
    assert_eq!(writer.call(2, &delete).topics[0].partitions[0].error_code, NONE);
    assert_eq!(reader.fetch(&[(2, 2)], &[]), [(2, NONE, 0, 2)]);
    assert_eq!(reader.fetch(&[], &[]), []);
    // What is wrong is told each time.
    assert_eq!(reader.fetch(&[(9, 0)], &[]), [(9, UNKNOWN, 0, -1)]);
    assert_eq!(reader.fetch(&[], &[]), [(9, UNKNOWN, 0, -1)]);
    assert_eq!(reader.fetch(&[], &[9]), []);
    // A topic that comes later is found.
    let mut early = Reader::new(&broker, "later");
    assert_eq!(early.fetch(&[(0, 0)], &[]), [(0, UNKNOWN, 0, -1)]);
    writer.create_topic("later", 1);
    assert_eq!(early.fetch(&[], &[]), [(0, NONE, 0, 0)]);
    let delete = DeleteTopicsRequest {
        topic_names: vec!["later".to_string()],
        timeout_ms: 30_000,
        ..DeleteTopicsRequest::default()
    };
    assert_eq!(writer.call(5, &delete).responses[0].error_code, NONE);
    assert_eq!(early.fetch(&[], &[]), [(0, UNKNOWN, 0, -1)]);
    drop((reader, early));
    let until = Instant::now() + PATIENCE;
    while broker.counter("kafscale_fetch_sessions") > 0 {
        assert!(Instant::now() < until, "sessions outlive their connections");
        std::thread::sleep(PAUSE);
    }
}

#[test]
fn a_session_that_is_not_there_is_refused_and_a_new_one_begins() {
    let (_directory, broker) = broker("");
    broker.connect().create_topic("t", 1);
    let mut reader = Reader::new(&broker, "t");
    reader.fetch(&[(0, 0)], &[]);
    let next = reader.request(&[], &[]);
    let refused = |client: &mut Client, version, request: &FetchRequest| {
        let response = client.call(version, request);
        assert!(response.responses.is_empty());
        response.error_code
    };
    let elsewhere = refused(&mut broker.connect(), FETCH, &next);
    assert_eq!(elsewhere, ErrorCode::FETCH_SESSION_ID_NOT_FOUND);
    let skipped = FetchRequest {
        session_epoch: 7,
        ..next.clone()
    };
    let skipped = refused(&mut reader.client, FETCH, &skipped);
    assert_eq!(skipped, ErrorCode::INVALID_FETCH_SESSION_EPOCH);
    let by_id = refused(&mut reader.client, FETCH_BY_ID, &next);
    assert_eq!(by_id, ErrorCode::FETCH_SESSION_TOPIC_ID_ERROR);
    assert_eq!(reader.send(&next), []);
    let last = FetchRequest {
        session_epoch: -1,
        ..reader.request(&[(0, 0)], &[])
    };
    let (id, epoch) = reader.session;
    assert_eq!(reader.send(&last), [(0, NONE, 0, 0)]);
    assert_eq!(reader.session.0, 0);
    reader.session = (id, epoch);
    let after = reader.request(&[], &[]);
    let over = refused(&mut reader.client, FETCH, &after);
    assert_eq!(over, ErrorCode::FETCH_SESSION_ID_NOT_FOUND);
    reader.session = (id, 0);
    assert_eq!(reader.fetch(&[(0, 0)], &[]), [(0, NONE, 0, 0)]);
    assert!(reader.session.0 != 0 && reader.session.0 != id);
}

#[test]
fn a_session_names_topics_by_id() {
    let (_directory, broker) = broker("");
    let mut client = broker.connect();
    client.create_topic("t", 1);
    let metadata = MetadataRequest {
        topics: Some(vec![MetadataRequestTopic {
            name: Some("t".to_string()),
            ..MetadataRequestTopic::default()
        }]),
        ..MetadataRequest::default()
    };
    let known = client.call(10, &metadata).topics[0].topic_id;
    let unknown = TopicId([7; 16]);
    let topic = |topic_id| FetchTopic {
        topic_id,
        partitions: vec![FetchPartition {
            partition_max_bytes: 1 << 20,
            ..FetchPartition::default()
        }],
        ..FetchTopic::default()
    };
    let begin = FetchRequest {
        session_epoch: 0,
        max_bytes: 1 << 20,
        topics: vec![topic(known), topic(unknown)],
        ..FetchRequest::default()
    };
    let told = |response: &FetchResponse| {
        let each = response.responses.iter();
        each.map(|topic| (topic.topic_id, topic.partitions[0].error_code))
            .collect::<Vec<_>>()
    };
    let first = client.call(FETCH_BY_ID, &begin);
    assert_eq!(told(&first), [(known, NONE), (unknown, ErrorCode::UNKNOWN_TOPIC_ID)]);
    let mut next = FetchRequest {
        session_id: first.session_id,
        session_epoch: 1,
        max_bytes: 1 << 20,
        ..FetchRequest::default()
    };
    assert_eq!(
        told(&client.call(FETCH_BY_ID, &next)),
        [(unknown, ErrorCode::UNKNOWN_TOPIC_ID)]
    );
    next.session_epoch = 2;
    next.forgotten_topics_data = vec![ForgottenTopic {
        topic_id: unknown,
        partitions: vec![0],
        ..ForgottenTopic::default()
    }];
    assert_eq!(told(&client.call(FETCH_BY_ID, &next)), []);
}

#[test]
fn every_partition_of_a_session_has_its_turn_however_much_the_others_have() {
    const PARTITIONS: i32 = 6;
    let (_directory, broker) = broker("");
    let mut writer = broker.connect();
    writer.create_topic("t", PARTITIONS);
    for partition in 0..PARTITIONS {
        for _ in 0..20 {
            let answer = writer.produce("t", partition, batch_of(&[&[1; 1000]]));
            assert_eq!(answer.error_code, NONE);
        }
    }
    let mut reader = Reader::new(&broker, "t");
    let mut positions = vec![0; PARTITIONS as usize];
    let mut changed: Vec<(i32, i64)> = (0..PARTITIONS).map(|partition| (partition, 0)).collect();
    for _ in 0..PARTITIONS {
        // Room for the batches of one partition and a little more.
        let mut request = reader.request(&changed, &[]);
        request.max_bytes = 3_000;
        changed.clear();
        for (partition, error, records, _) in reader.send(&request) {
            assert_eq!(error, NONE);
            positions[partition as usize] += records as i64;
            changed.push((partition, positions[partition as usize]));
        }
    }
    assert!(positions.iter().all(|position| *position > 0), "{positions:?}");
}
