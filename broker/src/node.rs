//! What a connection needs of its shard and of the broker around it.

use crate::broker_config::BrokerConfig;
use crate::budget::ByteBudget;
use crate::cluster::image::{ClusterImage, Leader, TopicImage};
use crate::cluster::shown;
use crate::coordinator::host::CoordinatorHost;
use crate::coordinator::service::CoordinatorHandle;
use crate::handlers::SessionLimit;
use crate::mailbox::{Inbox, ShardRequest};
use crate::runtime::Runtime;
use crate::shard::Shard;
use futures::future::{select, Either};
use kafscale_codec::error_code::ErrorCode;
use kafscale_codec::types::TopicId;
use kafscale_metastore::Metastore;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// What connections and handlers need of the settings.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// This broker.
    pub broker_id: i32,
    /// Largest request in bytes.
    pub request_bytes_max: usize,
    /// Requests of one connection that are executed at the same time.
    pub requests_in_flight_max: usize,
    /// A connection on which nothing moves for this long is closed.
    pub connections_max_idle: Duration,
    /// Topics are created when first asked for.
    pub auto_create_topics: bool,
    /// Partitions of topics created without a number.
    pub auto_create_partitions: i32,
    /// A line is logged for each request.
    pub trace_requests: bool,
    /// Clients may create and delete topics.
    pub allow_admin_apis: bool,
    /// Defaults of topic settings, by Kafka's names.
    pub topic_defaults: Arc<BTreeMap<String, String>>,
    /// The broker's own settings, by Kafka's names.
    pub broker_configs: Arc<[BrokerConfig]>,
}

/// One shard's side of the broker, for the connections that it accepted.
pub struct Node {
    /// Settings.
    pub config: NodeConfig,
    /// The shard that accepted the connection.
    pub shard: Rc<Shard>,
    /// All shards, by number.
    pub inboxes: Vec<Inbox>,
    /// The way to the group coordinator.
    pub coordinator: CoordinatorHandle,
    /// The coordinators themselves, on the shard that has them.
    pub(crate) coordinators: Option<Rc<CoordinatorHost>>,
    /// Time and tasks.
    pub runtime: Rc<dyn Runtime>,
    /// The metastore.
    pub metastore: Rc<dyn Metastore>,
    /// Bytes of produce requests that may be under way on this shard's connections.
    pub produce_budget: Rc<ByteBudget>,
    /// Bytes of all other requests.
    pub budget: Rc<ByteBudget>,
    /// Fetch sessions of this shard's connections.
    pub(crate) fetch_sessions: Rc<SessionLimit>,
}

/// A topic as a request names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TopicRef<'a> {
    /// By name.
    Name(&'a str),
    /// By id.
    Id(TopicId),
}

impl Node {
    /// The cluster as this shard knows it.
    pub fn image(&self) -> Arc<ClusterImage> {
        self.shard.image()
    }

    /// Values of the metastore that this broker knows to exist and cannot read, by key, with the reason; those of groups
    /// on the first shard only.
    pub fn unreadable(&self) -> BTreeMap<String, String> {
        let of_groups = self.coordinators.iter().flat_map(|host| host.unreadable());
        let image = self.image();
        let of_cluster = image
            .unreadable
            .iter()
            .map(|(key, reason)| (shown(key), reason.clone()));
        of_cluster
            .chain(of_groups.map(|(key, reason)| (shown(&key), reason)))
            .collect()
    }

    /// Sends a request to the shard that owns what it is about; its own shard handles it right here.
    pub async fn send(&self, shard: u32, request: ShardRequest) {
        if shard == self.shard.config.shard {
            self.shard.handle(request);
        } else if let Some(inbox) = self.inboxes.get(shard as usize) {
            // A closed inbox drops the request and its reply with it, which the caller sees.
            let _ = inbox.send(request).await;
        }
    }

    /// The result of `work`, if it comes within `limit`.
    pub async fn within<T>(&self, limit: Duration, work: impl Future<Output = T>) -> Option<T> {
        match select(pin!(work), self.runtime.sleep(limit)).await {
            Either::Left((result, _)) => Some(result),
            Either::Right(_) => None,
        }
    }

    /// Completes when `ready` says so for the current image, or when `limit` has passed.
    pub async fn wait_for_image(&self, limit: Duration, ready: impl Fn(&ClusterImage) -> bool) {
        let until = self.runtime.now().saturating_add(limit);
        while !ready(&self.image()) && self.runtime.now() < until {
            self.runtime.sleep(Duration::from_millis(2)).await;
        }
    }
}

/// The topic, or the error that tells that there is none.
pub fn find_topic<'a>(image: &'a ClusterImage, topic: TopicRef<'_>) -> Result<&'a Arc<TopicImage>, ErrorCode> {
    match topic {
        TopicRef::Name(name) => image.topics.get(name).ok_or_else(|| unknown_name(image, name)),
        TopicRef::Id(id) => image.topic_by_id(id).ok_or(ErrorCode::UNKNOWN_TOPIC_ID),
    }
}

/// Why there is no topic of this name. One whose record cannot be decoded exists: clients have to try again.
pub fn unknown_name(image: &ClusterImage, name: &str) -> ErrorCode {
    match image.is_unreadable(name) {
        true => ErrorCode::KAFKA_STORAGE_ERROR,
        false => ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
    }
}

/// Where a partition's requests go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// To this shard of this broker.
    Here(u32),
    /// Elsewhere, or nowhere for the moment.
    Elsewhere(Option<Leader>),
}

/// The owner of a partition as the image tells.
pub fn route(image: &ClusterImage, broker_id: i32, topic: &TopicImage, partition: i32) -> Result<Route, ErrorCode> {
    if partition < 0 || partition >= topic.record.partitions as i32 {
        return Err(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    }
    Ok(match image.live_leader(topic, partition) {
        Some(leader) if leader.broker_id == broker_id => Route::Here(leader.shard),
        leader => Route::Elsewhere(leader),
    })
}
