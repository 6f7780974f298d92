//! A small blocking client: any request in any version, raw bytes where a test wants to say something wrong.

use crate::support::PATIENCE;
use bytes::Bytes;
use kafscale_codec::error_code::ErrorCode;
use kafscale_codec::messages::*;
use kafscale_codec::record_batch::{self, BatchBuilder, Record};
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// The versions that name topics by name and have everything else.
pub const PRODUCE: i16 = 12;
/// As above.
pub const FETCH: i16 = 12;

/// One connection.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    next_id: i32,
}

impl Client {
    /// Connects; every later step fails rather than to wait for ever.
    pub fn connect(address: SocketAddr) -> io::Result<Client> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Client { stream, next_id: 1 })
    }

    /// The connection itself.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Sends bytes as they are.
    pub fn send_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends one request; returns its correlation id.
    pub fn send<M: Request>(&mut self, version: i16, request: &M) -> io::Result<i32> {
        let id = self.next_id;
        self.next_id += 1;
        self.send_raw(&encoded(version, id, request))?;
        Ok(id)
    }

    /// The next frame; none if the broker has closed the connection.
    pub fn read_frame(&mut self) -> io::Result<Option<Bytes>> {
        let mut size = [0; 4];
        match self.stream.read_exact(&mut size) {
            Ok(()) => {}
            Err(error) if closed(&error) => return Ok(None),
            Err(error) => return Err(error),
        }
        let size = usize::try_from(i32::from_be_bytes(size)).map_err(io::Error::other)?;
        let mut frame = vec![0; size];
        self.stream.read_exact(&mut frame)?;
        Ok(Some(frame.into()))
    }

    /// The next response, which must be to the request `id`.
    pub fn receive<M: Message>(&mut self, version: i16, id: i32) -> io::Result<M> {
        let frame = self.read_frame()?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let (found, response) = decode_response(frame, version).map_err(io::Error::other)?;
        if found != id {
            return Err(io::Error::other(format!("the answer to {id} came as {found}")));
        }
        Ok(response)
    }

    /// Asks and waits for the answer.
    pub fn ask<M: Request>(&mut self, version: i16, request: &M) -> io::Result<M::Response> {
        let id = self.send(version, request)?;
        self.receive(version, id)
    }

    /// Asks and waits for the answer, which must come.
    pub fn call<M: Request>(&mut self, version: i16, request: &M) -> M::Response {
        self.ask(version, request).unwrap()
    }

    /// Whether the broker closes the connection without another byte.
    pub fn is_closed_by_broker(&mut self) -> bool {
        matches!(self.read_frame(), Ok(None))
    }

    /// Creates a topic, or finds it there.
    pub fn create_topic(&mut self, name: &str, partitions: i32) {
        let error = self.create_topic_with(name, partitions, &[]);
        assert!(
            [ErrorCode::NONE, ErrorCode::TOPIC_ALREADY_EXISTS].contains(&error),
            "topic {name:?}: {error:?}"
        );
    }

    /// Creates a topic with these configs. Its leaders may take a moment before they serve; clients try again then, and
    /// so does this.
    pub fn create_topic_with(&mut self, name: &str, partitions: i32, configs: &[(&str, &str)]) -> ErrorCode {
        let error = self.ask_for_topic(name, partitions, configs);
        let until = Instant::now() + PATIENCE;
        if error == ErrorCode::NONE {
            for partition in 0..partitions.max(1) {
                while self.end_offset(name, partition).unwrap() == Err(ErrorCode::NOT_LEADER_OR_FOLLOWER) {
                    assert!(Instant::now() < until, "{name}/{partition} has no leader");
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
        }
        error
    }

    /// Asks for a topic once.
    pub fn ask_for_topic(&mut self, name: &str, partitions: i32, configs: &[(&str, &str)]) -> ErrorCode {
        let topic = CreatableTopic {
            name: name.to_string(),
            num_partitions: partitions,
            replication_factor: 1,
            configs: configs
                .iter()
                .map(|(name, value)| CreatableTopicConfig {
                    name: name.to_string(),
                    value: Some(value.to_string()),
                })
                .collect(),
            ..CreatableTopic::default()
        };
        let request = CreateTopicsRequest {
            topics: vec![topic],
            ..CreateTopicsRequest::default()
        };
        self.call(7, &request).topics[0].error_code
    }

    /// Sends one batch and waits for the answer.
    pub fn produce(&mut self, topic: &str, partition: i32, batch: Bytes) -> PartitionProduceResponse {
        let mut response = self.call(PRODUCE, &produce_request(topic, partition, batch));
        response.responses.remove(0).partition_responses.remove(0)
    }

    /// Stores one record; returns its offset.
    pub fn produce_value(&mut self, topic: &str, partition: i32, value: &[u8]) -> i64 {
        let answer = self.produce(topic, partition, batch_of(&[value]));
        assert_eq!(answer.error_code, ErrorCode::NONE);
        answer.base_offset
    }

    /// Offset after the last durable record.
    pub fn end_offset(&mut self, topic: &str, partition: i32) -> io::Result<Result<i64, ErrorCode>> {
        let request = ListOffsetsRequest {
            topics: vec![ListOffsetsTopic {
                name: topic.to_string(),
                partitions: vec![ListOffsetsPartition {
                    partition_index: partition,
                    timestamp: -1,
                    ..ListOffsetsPartition::default()
                }],
            }],
            ..ListOffsetsRequest::default()
        };
        let answer = self.ask(6, &request)?.topics.remove(0).partitions.remove(0);
        Ok(match answer.error_code {
            ErrorCode::NONE => Ok(answer.offset),
            error => Err(error),
        })
    }

    /// One look at one partition.
    pub fn fetch(&mut self, topic: &str, partition: i32, offset: i64, wait_ms: i32) -> io::Result<PartitionData> {
        let request = fetch_request(topic, partition, offset, wait_ms, 1 << 20);
        let mut response = self.ask(FETCH, &request)?;
        if response.responses.is_empty() {
            return Err(io::Error::other(format!("fetch: {:?}", response.error_code)));
        }
        Ok(response.responses.remove(0).partitions.remove(0))
    }

    /// Every record from `offset` to the end that the partition has now.
    pub fn read_from(&mut self, topic: &str, partition: i32, offset: i64) -> Vec<Record> {
        let until = Instant::now() + PATIENCE;
        let end = self.end_offset(topic, partition).unwrap().unwrap();
        let mut found = Vec::new();
        let mut next = offset;
        while next < end {
            assert!(Instant::now() < until, "{topic}/{partition}: stuck at {next} of {end}");
            let data = self.fetch(topic, partition, next, 0).unwrap();
            assert_eq!(data.error_code, ErrorCode::NONE, "{topic}/{partition} at {next}");
            for record in records_of(&data) {
                if record.offset >= next {
                    next = record.offset + 1;
                    found.push(record);
                }
            }
        }
        found
    }

    /// What Metadata says of a topic.
    pub fn metadata(&mut self, topic: &str, create: bool) -> MetadataResponseTopic {
        let request = MetadataRequest {
            topics: Some(vec![MetadataRequestTopic {
                name: Some(topic.to_string()),
                ..MetadataRequestTopic::default()
            }]),
            allow_auto_topic_creation: create,
            ..MetadataRequest::default()
        };
        self.call(9, &request).topics.remove(0)
    }
}

/// A request's bytes, size included.
pub fn encoded<M: Request>(version: i16, id: i32, request: &M) -> Vec<u8> {
    encode_request(version, id, Some("e2e"), request).unwrap().concat()
}

/// A produce of one batch that wants to be durable, with a minute to get there.
pub fn produce_request(topic: &str, partition: i32, batch: Bytes) -> ProduceRequest {
    produce_batches(topic, BTreeMap::from([(partition, batch)]))
}

/// A produce of one batch for each of some partitions.
pub fn produce_batches(topic: &str, batches: BTreeMap<i32, Bytes>) -> ProduceRequest {
    let partition_data = batches
        .into_iter()
        .map(|(index, records)| PartitionProduceData {
            index,
            records: Some(records),
        })
        .collect();
    ProduceRequest {
        transactional_id: None,
        acks: -1,
        timeout_ms: 60_000,
        topic_data: vec![TopicProduceData {
            name: topic.to_string(),
            partition_data,
            ..TopicProduceData::default()
        }],
    }
}

/// A fetch of one partition.
pub fn fetch_request(topic: &str, partition: i32, offset: i64, wait_ms: i32, bytes_max: i32) -> FetchRequest {
    FetchRequest {
        max_wait_ms: wait_ms,
        min_bytes: 1,
        max_bytes: bytes_max,
        topics: vec![FetchTopic {
            topic: topic.to_string(),
            partitions: vec![FetchPartition {
                partition,
                fetch_offset: offset,
                partition_max_bytes: bytes_max,
                ..FetchPartition::default()
            }],
            ..FetchTopic::default()
        }],
        ..FetchRequest::default()
    }
}

/// The records of an answer, each batch checked as a consumer would.
pub fn records_of(data: &PartitionData) -> Vec<Record> {
    let bytes = data.records.iter().flat_map(|records| &records.0).flatten().copied();
    let bytes: Vec<u8> = bytes.collect();
    record_batch::iter_batches(&bytes)
        .flat_map(|batch| {
            let (header, batch) = batch.unwrap();
            record_batch::validate_stored(batch).unwrap();
            match header.record_count {
                0 => Vec::new(),
                _ => record_batch::records(batch).unwrap(),
            }
        })
        .collect()
}

/// A batch of these values, with the time of now.
pub fn batch_of(values: &[&[u8]]) -> Bytes {
    let mut batch = BatchBuilder::new();
    values
        .iter()
        .for_each(|value| batch.push(now_ms(), None, Some(value), &[]));
    batch.build().unwrap()
}

/// Milliseconds since the Unix epoch.
pub fn now_ms() -> i64 {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    since.as_millis() as i64
}

/// A peer that is gone shows as the end of the stream, or as a reset if it left something unread.
fn closed(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
    )
}
