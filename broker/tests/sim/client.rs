//! A Kafka client as small as the workloads need it.

use crate::checkers::ledger::Place;
use crate::cluster::port;
use crate::executor::World;
use crate::net::{Network, SimStream};
use crate::workload::topic_of;
use futures::io::{AsyncReadExt, AsyncWriteExt};
use kafscale_broker::runtime::Instant;
use kafscale_codec::error_code::ErrorCode;
use kafscale_codec::frame::FrameDecoder;
use kafscale_codec::messages::*;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::rc::Rc;
use std::time::Duration;

const RESPONSE_MAX: usize = 16 << 20;

const INIT_PRODUCER_ID: i16 = 4;

/// One connection.
pub struct Connection {
    stream: SimStream,
    frames: FrameDecoder,
    next_id: i32,
}

impl Connection {
    /// Sends a request; returns its correlation id.
    pub async fn send<M: Request>(&mut self, version: i16, request: &M) -> io::Result<i32> {
        let id = self.next_id;
        self.next_id += 1;
        let frame = encode_request(version, id, Some("sim"), request).map_err(io::Error::other)?;
        self.stream.write_all(&frame.concat()).await?;
        Ok(id)
    }

    /// The next response, which must be to the request `id`.
    pub async fn receive<R: Message>(&mut self, version: i16, id: i32) -> io::Result<R> {
        loop {
            if let Some(frame) = self.frames.next_frame().map_err(io::Error::other)? {
                let (found, response) = decode_response(frame, version).map_err(io::Error::other)?;
                if found != id {
                    return Err(io::Error::other(format!("the answer to {id} came as {found}")));
                }
                return Ok(response);
            }
            let mut piece = [0; 8192];
            let got = self.stream.read(&mut piece).await?;
            if got == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.frames.buffer_mut().extend_from_slice(&piece[..got]);
        }
    }

    /// Asks and waits for the answer.
    pub async fn ask<M: Request>(&mut self, version: i16, request: &M) -> io::Result<M::Response> {
        let id = self.send(version, request).await?;
        self.receive(version, id).await
    }
}

/// What all workloads share.
pub struct Client {
    /// Where they live.
    pub world: World,
    network: Network,
    brokers: usize,
    /// Partitions that may be refused: who gets nowhere with one of them gives it up.
    pub refusable: RefCell<BTreeSet<Place>>,
}

/// How long a client tries a partition that may be refused.
const REFUSAL_PATIENCE: Duration = Duration::from_secs(5);

/// Leaders of a topic's partitions: broker and epoch.
pub type Leaders = BTreeMap<i32, (i32, i32)>;

impl Client {
    /// A client that knows the brokers' addresses.
    pub fn new(world: &World, network: &Network, brokers: usize) -> Rc<Self> {
        Rc::new(Client {
            world: world.clone(),
            network: network.clone(),
            brokers,
            refusable: RefCell::default(),
        })
    }

    /// A short pause before something is tried again.
    pub async fn back_off(&self) {
        let pause = self.world.draw(|random| random.micros(5_000, 60_000));
        self.world.sleep(pause).await;
    }

    /// A connection to a broker.
    pub async fn connect(&self, id: i32) -> io::Result<Connection> {
        Ok(Connection {
            stream: self.network.connect(port(id as usize)).await?,
            frames: FrameDecoder::new(RESPONSE_MAX),
            next_id: 1,
        })
    }

    /// An idempotent producer's id and epoch; asks until it gets them.
    pub async fn producer_id(&self) -> (i64, i16) {
        loop {
            let init = self
                .ask_anyone(INIT_PRODUCER_ID, &InitProducerIdRequest::default())
                .await;
            if init.error_code == ErrorCode::NONE {
                return (init.producer_id, init.producer_epoch);
            }
            self.back_off().await;
        }
    }

    /// A connection to any broker; tries until one lets it in.
    pub async fn bootstrap(&self) -> Connection {
        loop {
            let id = self.world.draw(|random| random.below(self.brokers as u64)) as i32;
            match self.connect(id).await {
                Ok(connection) => return connection,
                Err(_) => self.back_off().await,
            }
        }
    }

    /// Asks any broker until one answers.
    pub async fn ask_anyone<M: Request>(&self, version: i16, request: &M) -> M::Response {
        loop {
            let mut connection = self.bootstrap().await;
            match connection.ask(version, request).await {
                Ok(response) => return response,
                Err(_) => self.back_off().await,
            }
        }
    }

    /// Creates a topic; returns once somebody says that it is there.
    pub async fn create_topic(&self, name: &str, partitions: i32, configs: &[(&str, String)]) {
        let config = |(name, value): &(&str, String)| CreatableTopicConfig {
            name: name.to_string(),
            value: Some(value.clone()),
        };
        let any_time = i64::MAX.to_string();
        let topic = CreatableTopic {
            name: name.to_string(),
            num_partitions: partitions,
            replication_factor: 1,
            // Wall clocks jump here, so records may come from any time.
            configs: configs
                .iter()
                .chain([&("message.timestamp.after.max.ms", any_time)])
                .map(config)
                .collect(),
            ..CreatableTopic::default()
        };
        let request = CreateTopicsRequest {
            topics: vec![topic],
            timeout_ms: 1_000,
            ..CreateTopicsRequest::default()
        };
        loop {
            let error = self.ask_anyone(7, &request).await.topics[0].error_code;
            match error {
                ErrorCode::NONE | ErrorCode::TOPIC_ALREADY_EXISTS => return,
                ErrorCode::INVALID_CONFIG | ErrorCode::INVALID_PARTITIONS => {
                    self.world.violate(format!("topic {name} is refused: {error:?}"));
                    return;
                }
                _ => self.back_off().await,
            }
        }
    }

    /// The leaders of a topic that somebody knows, perhaps of none.
    pub async fn leaders(&self, topic: &str) -> Leaders {
        let request = MetadataRequest {
            topics: Some(vec![MetadataRequestTopic {
                name: Some(topic.to_string()),
                ..MetadataRequestTopic::default()
            }]),
            ..MetadataRequest::default()
        };
        let response = self.ask_anyone(9, &request).await;
        let partitions = response.topics.into_iter().flat_map(|topic| topic.partitions);
        partitions
            .filter(|partition| partition.leader_id >= 0)
            .map(|partition| (partition.partition_index, (partition.leader_id, partition.leader_epoch)))
            .collect()
    }

    /// A connection to the broker that leads a partition as somebody knows it.
    pub async fn leader_of(&self, place: &Place) -> io::Result<Connection> {
        match self.leaders(topic_of(place)).await.get(&place.1) {
            Some((leader, _)) => self.connect(*leader).await,
            None => Err(io::Error::other(format!("{place:?} has no leader"))),
        }
    }

    /// The same; looks until there is one, since a partition that is refused has a leader too.
    pub async fn connect_to_leader(&self, place: &Place) -> Connection {
        loop {
            match self.leader_of(place).await {
                Ok(connection) => return connection,
                Err(_) => self.back_off().await,
            }
        }
    }

    /// Patience with a partition, from now on.
    pub fn patience(&self, place: &Place) -> Patience<'_> {
        Patience {
            client: self,
            place: place.clone(),
            refusal: Refusal::default(),
        }
    }

    /// Sleeps for a time from `low` to `high` milliseconds.
    pub async fn pause_ms(&self, low: u64, high: u64) {
        let pause: Duration = self.world.draw(|random| random.micros(low * 1000, high * 1000));
        self.world.sleep(pause).await;
    }
}

/// For how long a partition has been refused: since when each answer was KAFKA_STORAGE_ERROR. Any other error has to pass, so
/// a client that waits for it runs into the limit on progress.
#[derive(Debug, Clone, Copy, Default)]
pub struct Refusal(Option<Instant>);

impl Refusal {
    /// The partition was answered.
    pub fn answered(&mut self, error: ErrorCode, now: Instant) {
        self.0 = (error == ErrorCode::KAFKA_STORAGE_ERROR).then(|| self.0.unwrap_or(now));
    }

    /// Whether it is time to give the partition up, which may be refused.
    pub fn is_final(&self, client: &Client, place: &Place) -> bool {
        let is_long = self
            .0
            .is_some_and(|since| client.world.now() - since >= REFUSAL_PATIENCE);
        is_long
            && client
                .refusable
                .borrow()
                .contains(&(topic_of(place).to_string(), place.1))
    }
}

/// How long somebody tries: forever, unless the partition may be refused, and is.
pub struct Patience<'a> {
    client: &'a Client,
    place: Place,
    refusal: Refusal,
}

impl Patience<'_> {
    /// Whether the partition counts as refused.
    pub fn is_over(&self) -> bool {
        self.refusal.is_final(self.client, &self.place)
    }

    /// What the last attempt was answered.
    pub fn answered(&mut self, error: ErrorCode) {
        self.refusal.answered(error, self.client.world.now());
    }
}
