//! A blocking connection: one request in the protocol's form out, one response in.

use bytes::Bytes;
use kafscale_codec::error_code::ErrorCode;
use kafscale_codec::messages::*;
use kafscale_codec::wire::{DecodeError, EncodeError};
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Versions that name topics by name; every broker since Kafka 2.1 has them, but for flexible Metadata (2.4).
pub const PRODUCE: i16 = 7;
/// As above.
pub const FETCH: i16 = 11;
const METADATA: i16 = 9;
const CREATE_TOPICS: i16 = 4;
const LIST_OFFSETS: i16 = 4;
const INIT_PRODUCER_ID: i16 = 1;

/// Any answer must come within this.
const PATIENCE: Duration = Duration::from_secs(60);

/// Attempts at what a new topic may refuse for a moment.
const ATTEMPTS_MAX: usize = 200;

/// Why the load cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The connection failed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The broker answered what cannot be read.
    #[error("answer: {0}")]
    Decode(#[from] DecodeError),
    /// A request cannot be said.
    #[error("request: {0}")]
    Encode(#[from] EncodeError),
    /// The broker refused.
    #[error("{0}: {1:?}")]
    Refused(String, ErrorCode),
    /// A file of results is not as it should be, or cannot be said.
    #[error("JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// What was asked for makes no sense.
    #[error("{0}")]
    Options(String),
    /// The broker does not do what the load needs.
    #[error("{0}")]
    Unexpected(String),
}

/// One connection.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    next_id: i32,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// If nobody listens there.
    pub fn open(address: SocketAddr) -> Result<Self, BenchError> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Connection { stream, next_id: 1 })
    }

    /// The same connection, for a thread that only reads.
    ///
    /// # Errors
    /// If the system has no descriptor left.
    pub fn reader(&self) -> Result<Connection, BenchError> {
        Ok(Connection {
            stream: self.stream.try_clone()?,
            next_id: 0,
        })
    }

    /// Sends a request; returns its correlation id.
    ///
    /// # Errors
    /// If the connection has failed.
    pub fn send<M: Request>(&mut self, version: i16, request: &M) -> Result<i32, BenchError> {
        let id = self.next_id;
        self.next_id = self.next_id.wrapping_add(1);
        for buffer in encode_request(version, id, Some("kafscale-bench"), request)? {
            self.stream.write_all(&buffer)?;
        }
        Ok(id)
    }

    /// The next response: correlation id and message.
    ///
    /// # Errors
    /// If the connection has failed, or the answer cannot be read.
    pub fn receive<M: Message>(&mut self, version: i16) -> Result<(i32, M), BenchError> {
        let mut size = [0; 4];
        self.stream.read_exact(&mut size)?;
        let size = usize::try_from(i32::from_be_bytes(size))
            .map_err(|_| BenchError::Unexpected("an answer of negative size".to_string()))?;
        let mut frame = vec![0; size];
        self.stream.read_exact(&mut frame)?;
        Ok(decode_response(Bytes::from(frame), version)?)
    }

    /// Asks and waits for the answer.
    ///
    /// # Errors
    /// As [`Connection::send`] and [`Connection::receive`].
    pub fn ask<M: Request>(&mut self, version: i16, request: &M) -> Result<M::Response, BenchError> {
        self.send(version, request)?;
        Ok(self.receive(version)?.1)
    }
}

/// Creates the topic if it is not there, and finds the leader of each partition.
///
/// # Errors
/// If the broker refuses, or no leader shows.
pub fn prepare_topic(
    bootstrap: SocketAddr,
    topic: &str,
    partitions: i32,
) -> Result<Vec<(i32, SocketAddr)>, BenchError> {
    let mut connection = Connection::open(bootstrap)?;
    let request = CreateTopicsRequest {
        topics: vec![CreatableTopic {
            name: topic.to_string(),
            num_partitions: partitions,
            replication_factor: 1,
            ..CreatableTopic::default()
        }],
        timeout_ms: 30_000,
        ..CreateTopicsRequest::default()
    };
    let created = connection.ask(CREATE_TOPICS, &request)?;
    match created.topics.first().map(|topic| topic.error_code) {
        Some(ErrorCode::NONE | ErrorCode::TOPIC_ALREADY_EXISTS) => {}
        error => {
            let what = format!("create topic {topic}");
            return Err(BenchError::Refused(
                what,
                error.unwrap_or(ErrorCode::UNKNOWN_SERVER_ERROR),
            ));
        }
    }
    for _ in 0..ATTEMPTS_MAX {
        if let Some(leaders) = leaders(&mut connection, topic)? {
            if offsets(topic, &leaders, LogEnd::Next).is_ok() {
                return Ok(leaders);
            }
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Err(BenchError::Unexpected(format!("topic {topic} has no leaders")))
}

fn leaders(connection: &mut Connection, topic: &str) -> Result<Option<Vec<(i32, SocketAddr)>>, BenchError> {
    let request = MetadataRequest {
        topics: Some(vec![MetadataRequestTopic {
            name: Some(topic.to_string()),
            ..MetadataRequestTopic::default()
        }]),
        // Whoever wants to create it says so, with a number of partitions.
        allow_auto_topic_creation: false,
        ..MetadataRequest::default()
    };
    let response = connection.ask(METADATA, &request)?;
    let mut found = Vec::new();
    for partition in response.topics.iter().flat_map(|topic| &topic.partitions) {
        let Some(leader) = response
            .brokers
            .iter()
            .find(|broker| broker.node_id == partition.leader_id)
        else {
            return Ok(None);
        };
        let port = u16::try_from(leader.port)
            .map_err(|_| BenchError::Unexpected(format!("port {} of a broker", leader.port)))?;
        let mut addresses = std::net::ToSocketAddrs::to_socket_addrs(&(leader.host.as_str(), port))?;
        let address = addresses.find(SocketAddr::is_ipv4);
        let address = address.ok_or_else(|| BenchError::Unexpected(format!("no address for {}", leader.host)))?;
        found.push((partition.partition_index, address));
    }
    Ok((!found.is_empty()).then_some(found))
}

/// Leaders and their partitions of a topic that must be there.
///
/// # Errors
/// If it is not.
pub fn find_topic(bootstrap: SocketAddr, topic: &str) -> Result<Vec<(i32, SocketAddr)>, BenchError> {
    let found = leaders(&mut Connection::open(bootstrap)?, topic)?;
    found.ok_or_else(|| BenchError::Unexpected(format!("{topic} is not there, or has no leaders")))
}

/// Partitions by their leader.
pub fn by_leader(partitions: &[(i32, SocketAddr)]) -> Vec<(SocketAddr, Vec<i32>)> {
    let mut found: BTreeMap<SocketAddr, Vec<i32>> = BTreeMap::new();
    for (partition, leader) in partitions {
        found.entry(*leader).or_default().push(*partition);
    }
    found.into_iter().collect()
}

/// Which end of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogEnd {
    /// Its first offset.
    Start,
    /// The offset after its last.
    Next,
}

/// Offsets at one end of each partition, now.
///
/// # Errors
/// If a leader does not say.
pub fn offsets(topic: &str, leaders: &[(i32, SocketAddr)], end: LogEnd) -> Result<BTreeMap<i32, i64>, BenchError> {
    let timestamp = match end {
        LogEnd::Start => -2,
        LogEnd::Next => -1,
    };
    let mut found = BTreeMap::new();
    for (leader, partitions) in by_leader(leaders) {
        let wanted = partitions.iter().map(|partition| ListOffsetsPartition {
            partition_index: *partition,
            timestamp,
            ..ListOffsetsPartition::default()
        });
        let request = ListOffsetsRequest {
            topics: vec![ListOffsetsTopic {
                name: topic.to_string(),
                partitions: wanted.collect(),
            }],
            ..ListOffsetsRequest::default()
        };
        let response = Connection::open(leader)?.ask(LIST_OFFSETS, &request)?;
        for answer in response.topics.iter().flat_map(|topic| &topic.partitions) {
            if answer.error_code != ErrorCode::NONE {
                let what = format!("offsets of {topic}/{}", answer.partition_index);
                return Err(BenchError::Refused(what, answer.error_code));
            }
            found.insert(answer.partition_index, answer.offset);
        }
        if let Some(partition) = partitions.iter().find(|partition| !found.contains_key(partition)) {
            return Err(BenchError::Unexpected(format!("no offset of {topic}/{partition}")));
        }
    }
    Ok(found)
}

/// A producer id and its epoch.
///
/// # Errors
/// If the broker has none to give.
pub fn producer_id(address: SocketAddr) -> Result<(i64, i16), BenchError> {
    let mut connection = Connection::open(address)?;
    for _ in 0..ATTEMPTS_MAX {
        let request = InitProducerIdRequest {
            transactional_id: None,
            transaction_timeout_ms: 60_000,
            ..InitProducerIdRequest::default()
        };
        let answer = connection.ask(INIT_PRODUCER_ID, &request)?;
        if answer.error_code == ErrorCode::NONE {
            return Ok((answer.producer_id, answer.producer_epoch));
        }
        // Kafka answers "coordinator load in progress" for a moment after its start.
        std::thread::sleep(Duration::from_millis(100));
    }
    Err(BenchError::Unexpected("the broker gives no producer id".to_string()))
}
