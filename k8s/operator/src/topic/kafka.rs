//! As much of a Kafka client as topics need: one connection, one request at a time.

use bytes::Bytes;
use kafscale_codec::error_code::ErrorCode;
use kafscale_codec::messages::*;
use kafscale_codec::types::TopicId;
use kafscale_codec::wire::{DecodeError, EncodeError};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Versions that know topics' ids.
const METADATA: i16 = 12;
const CREATE_TOPICS: i16 = 7;
const DELETE_TOPICS: i16 = 6;
const CREATE_PARTITIONS: i16 = 3;
const DESCRIBE_CONFIGS: i16 = 4;
const INCREMENTAL_ALTER_CONFIGS: i16 = 1;

/// Kafka's number for settings of topics.
const RESOURCE_TOPIC: i8 = 2;
/// Where a setting comes from that was given to the topic itself.
const SOURCE_TOPIC: i8 = 1;
const OPERATION_SET: i8 = 0;
const OPERATION_DELETE: i8 = 1;

/// An answer must be there within this.
const PATIENCE: Duration = Duration::from_secs(15);
/// What brokers are told to take at most.
const TIMEOUT_MS: i32 = 10_000;
/// No answer about one topic is larger.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Why a broker could not be asked, or refused.
#[derive(Debug, thiserror::Error)]
pub enum KafkaError {
    /// Nobody there, or the connection failed.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// No answer in time.
    #[error("no answer within {} s", PATIENCE.as_secs())]
    Silent,
    /// The answer cannot be read.
    #[error("answer: {0}")]
    Decode(#[from] DecodeError),
    /// The request cannot be said.
    #[error("request: {0}")]
    Encode(#[from] EncodeError),
    /// The answer is not to what was asked.
    #[error("an answer that fits no request")]
    Unexpected,
    /// The broker refuses; its own words if it has any.
    #[error("{code}: {words}", code = .0.name(), words = .1)]
    Refused(ErrorCode, String),
}

/// A topic as it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Topic {
    /// Not that of another topic of the same name, before or after.
    pub id: TopicId,
    /// How many.
    pub partitions: i32,
    /// Settings that were given to it.
    pub config: BTreeMap<String, String>,
}

/// One connection.
#[derive(Debug)]
pub struct Admin {
    stream: TcpStream,
    next_id: i32,
}

impl Admin {
    /// Connects to a broker at `host:port`.
    ///
    /// # Errors
    /// If nobody listens there.
    pub async fn connect(address: &str) -> Result<Admin, KafkaError> {
        let stream = tokio::time::timeout(PATIENCE, TcpStream::connect(address))
            .await
            .map_err(|_| KafkaError::Silent)??;
        Ok(Admin { stream, next_id: 1 })
    }

    async fn ask<M: Request>(&mut self, version: i16, request: &M) -> Result<M::Response, KafkaError> {
        let exchange = self.exchange(version, request);
        tokio::time::timeout(PATIENCE, exchange)
            .await
            .map_err(|_| KafkaError::Silent)?
    }

    async fn exchange<M: Request>(&mut self, version: i16, request: &M) -> Result<M::Response, KafkaError> {
        let id = self.next_id;
        self.next_id = self.next_id.wrapping_add(1);
        for part in encode_request(version, id, Some("kafscale-operator"), request)? {
            self.stream.write_all(&part).await?;
        }
        let size = usize::try_from(self.stream.read_i32().await?).map_err(|_| KafkaError::Unexpected)?;
        if size > ANSWER_BYTES_MAX {
            return Err(KafkaError::Unexpected);
        }
        let mut frame = vec![0; size];
        self.stream.read_exact(&mut frame).await?;
        match decode_response(Bytes::from(frame), version)? {
            (answered, response) if answered == id => Ok(response),
            _ => Err(KafkaError::Unexpected),
        }
    }

    /// The topic, if there is one of this name.
    ///
    /// # Errors
    /// If it cannot be asked for.
    pub async fn topic(&mut self, name: &str) -> Result<Option<Topic>, KafkaError> {
        let request = MetadataRequest {
            topics: Some(vec![MetadataRequestTopic {
                name: Some(name.to_string()),
                ..MetadataRequestTopic::default()
            }]),
            // Asking must not create it.
            allow_auto_topic_creation: false,
            ..MetadataRequest::default()
        };
        let answer = self.ask(METADATA, &request).await?;
        let topic = only(answer.topics)?;
        match topic.error_code {
            ErrorCode::NONE => {}
            ErrorCode::UNKNOWN_TOPIC_OR_PARTITION => return Ok(None),
            code => return Err(KafkaError::Refused(code, format!("topic {name}"))),
        }
        Ok(Some(Topic {
            id: topic.topic_id,
            partitions: i32::try_from(topic.partitions.len()).map_err(|_| KafkaError::Unexpected)?,
            config: self.config(name).await?,
        }))
    }

    async fn config(&mut self, name: &str) -> Result<BTreeMap<String, String>, KafkaError> {
        let request = DescribeConfigsRequest {
            resources: vec![DescribeConfigsResource {
                resource_type: RESOURCE_TOPIC,
                resource_name: name.to_string(),
                configuration_keys: None,
            }],
            ..DescribeConfigsRequest::default()
        };
        let result = only(self.ask(DESCRIBE_CONFIGS, &request).await?.results)?;
        accepted(result.error_code, result.error_message)?;
        Ok(result
            .configs
            .into_iter()
            .filter(|setting| setting.config_source == SOURCE_TOPIC)
            .map(|setting| (setting.name, setting.value.unwrap_or_default()))
            .collect())
    }

    /// Creates a topic.
    ///
    /// # Errors
    /// If the broker refuses.
    pub async fn create(
        &mut self,
        name: &str,
        partitions: i32,
        config: &BTreeMap<String, String>,
    ) -> Result<(), KafkaError> {
        let setting = |(name, value): (&String, &String)| CreatableTopicConfig {
            name: name.clone(),
            value: Some(value.clone()),
        };
        let request = CreateTopicsRequest {
            topics: vec![CreatableTopic {
                name: name.to_string(),
                num_partitions: partitions,
                // As many as the cluster thinks right.
                replication_factor: -1,
                configs: config.iter().map(setting).collect(),
                ..CreatableTopic::default()
            }],
            timeout_ms: TIMEOUT_MS,
            ..CreateTopicsRequest::default()
        };
        let result = only(self.ask(CREATE_TOPICS, &request).await?.topics)?;
        accepted(result.error_code, result.error_message)
    }

    /// Raises the number of partitions to `count`.
    ///
    /// # Errors
    /// If the broker refuses.
    pub async fn grow(&mut self, name: &str, count: i32) -> Result<(), KafkaError> {
        let request = CreatePartitionsRequest {
            topics: vec![CreatePartitionsTopic {
                name: name.to_string(),
                count,
                assignments: None,
            }],
            timeout_ms: TIMEOUT_MS,
            validate_only: false,
        };
        let result = only(self.ask(CREATE_PARTITIONS, &request).await?.results)?;
        accepted(result.error_code, result.error_message)
    }

    /// Sets settings; one without a value goes back to its default.
    ///
    /// # Errors
    /// If the broker refuses.
    pub async fn alter(&mut self, name: &str, changes: &BTreeMap<String, Option<String>>) -> Result<(), KafkaError> {
        let change = |(name, value): (&String, &Option<String>)| IncrementalAlterableConfig {
            name: name.clone(),
            config_operation: if value.is_some() {
                OPERATION_SET
            } else {
                OPERATION_DELETE
            },
            value: value.clone(),
        };
        let request = IncrementalAlterConfigsRequest {
            resources: vec![IncrementalAlterConfigsResource {
                resource_type: RESOURCE_TOPIC,
                resource_name: name.to_string(),
                configs: changes.iter().map(change).collect(),
            }],
            validate_only: false,
        };
        let result = only(self.ask(INCREMENTAL_ALTER_CONFIGS, &request).await?.responses)?;
        accepted(result.error_code, result.error_message)
    }

    /// Deletes the topic with this id; another one of the same name stays.
    ///
    /// # Errors
    /// If the broker refuses. That it is not there is no error.
    pub async fn delete(&mut self, id: TopicId) -> Result<(), KafkaError> {
        let request = DeleteTopicsRequest {
            topics: vec![DeleteTopicState {
                name: None,
                topic_id: id,
            }],
            timeout_ms: TIMEOUT_MS,
            ..DeleteTopicsRequest::default()
        };
        let result = only(self.ask(DELETE_TOPICS, &request).await?.responses)?;
        match result.error_code {
            ErrorCode::UNKNOWN_TOPIC_ID | ErrorCode::UNKNOWN_TOPIC_OR_PARTITION => Ok(()),
            code => accepted(code, result.error_message),
        }
    }
}

fn only<T>(answers: Vec<T>) -> Result<T, KafkaError> {
    let mut answers = answers.into_iter();
    match (answers.next(), answers.next()) {
        (Some(answer), None) => Ok(answer),
        _ => Err(KafkaError::Unexpected),
    }
}

fn accepted(code: ErrorCode, words: Option<String>) -> Result<(), KafkaError> {
    match code {
        ErrorCode::NONE => Ok(()),
        code => Err(KafkaError::Refused(code, words.unwrap_or_default())),
    }
}
