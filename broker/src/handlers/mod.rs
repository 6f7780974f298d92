//! One file per API, or per family of APIs: what each request means here.

mod cluster;
mod configs;
mod consumer_groups;
mod fetch;
mod find_coordinator;
mod group_configs;
mod groups;
mod inspection;
mod list_offsets;
mod metadata;
mod offsets;
mod partitions;
mod produce;
mod topics;
mod unserved;

pub(crate) use fetch::SessionLimit;

use crate::budget::Permit;
use crate::connection::ConnectionError;
use crate::mailbox::ShardRequest;
use crate::node::{find_topic, route, Node, Route, TopicRef};
use crate::runtime::Instant;
use bytes::Bytes;
use fetch::ConnectionSession;
use futures::channel::oneshot;
use kafscale_codec::api::{served, ApiKey};
use kafscale_codec::error_code::ErrorCode;
use kafscale_codec::messages::{decode_request_header, encode_response, Message, RequestHeader};
use kafscale_codec::wire::{BufferList, Reader};
use kafscale_storage_engine::object_store::LocalFuture;
use kafscale_storage_engine::partition_log::PartitionKey;
use std::future::Future;
use std::rc::Rc;

/// The second stage of a request: completes with the response's bytes, or with none if the client wants no answer.
pub type Reply = LocalFuture<'static, Result<Option<BufferList>, ConnectionError>>;

/// What is known of the client behind a connection.
pub(crate) struct Client {
    /// Where it is, as Kafka writes it: `/127.0.0.1`.
    host: Rc<str>,
    fetch_session: Rc<ConnectionSession>,
    offset_turns: offsets::Turns,
}

impl Client {
    /// A client that has said nothing yet.
    pub fn new(host: Rc<str>) -> Rc<Self> {
        Rc::new(Client {
            host,
            fetch_session: Rc::default(),
            offset_turns: offsets::Turns::default(),
        })
    }
}

/// What every handler gets.
pub(crate) struct Context {
    node: Rc<Node>,
    header: RequestHeader,
    client: Rc<Client>,
    /// Returned when the response is built: what is under way is bounded by it.
    permit: Permit,
    received: Instant,
}

impl Context {
    fn version(&self) -> i16 {
        self.header.api_version
    }

    /// A reply that is known already.
    fn ready<M: Message + 'static>(self, response: M) -> Reply {
        self.later(async move { response })
    }

    /// A reply that takes time.
    fn later<M: Message + 'static>(self, response: impl Future<Output = M> + 'static) -> Reply {
        let Context {
            node,
            header,
            permit,
            received,
            client: _,
        } = self;
        Box::pin(async move {
            let response = response.await;
            let metrics = node.shard.metrics.request(M::API);
            metrics.duration.record(node.runtime.now().saturating_sub(received));
            if response.has_error() {
                metrics.errors.add(1);
            }
            let buffers = encode_response(header.api_version, header.correlation_id, &response)?;
            drop(permit);
            Ok(Some(buffers))
        })
    }
}

/// First stage: reads the request and puts it in its place. Returns when its order is decided.
pub(crate) async fn dispatch(
    node: &Rc<Node>,
    client: &Rc<Client>,
    frame: Bytes,
    permit: Permit,
) -> Result<Reply, ConnectionError> {
    let mut reader = Reader::new(frame);
    let header = decode_request_header(&mut reader)?;
    let version = header.api_version;
    let Some(api) = ApiKey::from_key(header.api_key).and_then(served) else {
        return Ok(unserved::refuse(&header));
    };
    if version < api.min || version > api.max {
        if api.key == ApiKey::ApiVersions {
            return Ok(cluster::unsupported_api_versions(&header));
        }
        return Ok(unserved::refuse(&header));
    }
    if node.config.trace_requests {
        let client_id = header.client_id.as_deref().unwrap_or("");
        log::info!("request {:?} {version} from {} {client_id:?}", api.key, client.host);
    }
    let context = Context {
        node: node.clone(),
        header,
        client: client.clone(),
        permit,
        received: node.runtime.now(),
    };
    let body = &mut reader;
    Ok(match api.key {
        ApiKey::Produce => produce::handle(context, Message::decode(body, version)?).await,
        ApiKey::Fetch => fetch::handle(context, Message::decode(body, version)?),
        ApiKey::ListOffsets => list_offsets::handle(context, Message::decode(body, version)?),
        ApiKey::Metadata => metadata::handle(context, Message::decode(body, version)?),
        ApiKey::ApiVersions => cluster::api_versions(context, Message::decode(body, version)?),
        ApiKey::DescribeCluster => cluster::describe_cluster(context, Message::decode(body, version)?),
        ApiKey::CreateTopics => topics::create(context, Message::decode(body, version)?),
        ApiKey::DeleteTopics => topics::delete(context, Message::decode(body, version)?),
        ApiKey::InitProducerId => cluster::init_producer_id(context, Message::decode(body, version)?),
        ApiKey::FindCoordinator => find_coordinator::handle(context, Message::decode(body, version)?),
        ApiKey::JoinGroup => groups::join(context, Message::decode(body, version)?).await,
        ApiKey::SyncGroup => groups::sync(context, Message::decode(body, version)?).await,
        ApiKey::Heartbeat => groups::heartbeat(context, Message::decode(body, version)?).await,
        ApiKey::LeaveGroup => groups::leave(context, Message::decode(body, version)?).await,
        ApiKey::DescribeGroups => groups::describe(context, Message::decode(body, version)?).await,
        ApiKey::ConsumerGroupHeartbeat => consumer_groups::heartbeat(context, Message::decode(body, version)?).await,
        ApiKey::ConsumerGroupDescribe => consumer_groups::describe(context, Message::decode(body, version)?).await,
        ApiKey::ListGroups => groups::list(context, Message::decode(body, version)?).await,
        ApiKey::DeleteGroups => groups::delete(context, Message::decode(body, version)?).await,
        ApiKey::OffsetCommit => offsets::commit(context, Message::decode(body, version)?).await,
        ApiKey::OffsetFetch => offsets::fetch(context, Message::decode(body, version)?).await,
        ApiKey::OffsetDelete => offsets::delete(context, Message::decode(body, version)?).await,
        ApiKey::DescribeConfigs => configs::describe(context, Message::decode(body, version)?),
        ApiKey::AlterConfigs => configs::alter(context, Message::decode(body, version)?),
        ApiKey::IncrementalAlterConfigs => configs::alter_incrementally(context, Message::decode(body, version)?),
        ApiKey::CreatePartitions => partitions::create(context, Message::decode(body, version)?),
        ApiKey::DeleteRecords => partitions::delete_records(context, Message::decode(body, version)?),
        ApiKey::OffsetForLeaderEpoch => partitions::offset_for_leader_epoch(context, Message::decode(body, version)?),
        ApiKey::DescribeTopicPartitions => {
            inspection::describe_topic_partitions(context, Message::decode(body, version)?)
        }
        ApiKey::DescribeLogDirs => inspection::describe_log_dirs(context, Message::decode(body, version)?),
        ApiKey::DescribeProducers => inspection::describe_producers(context, Message::decode(body, version)?),
        ApiKey::ListTransactions => inspection::list_transactions(context, Message::decode(body, version)?),
        ApiKey::DescribeClientQuotas => inspection::describe_client_quotas(context, Message::decode(body, version)?),
        // The table lists an API only together with its handler; a test walks the table.
        _ => unserved::refuse(&context.header),
    })
}

/// Asks the shard that owns a partition, if it is one of this broker's.
pub(crate) async fn ask_owner<T>(
    node: &Rc<Node>,
    topic: &str,
    partition: i32,
    request: impl FnOnce(PartitionKey, oneshot::Sender<T>) -> ShardRequest,
) -> Result<T, ErrorCode> {
    let image = node.image();
    let topic = find_topic(&image, TopicRef::Name(topic))?;
    let Route::Here(shard) = route(&image, node.config.broker_id, topic, partition)? else {
        return Err(ErrorCode::NOT_LEADER_OR_FOLLOWER);
    };
    let key = PartitionKey {
        topic_id: topic.record.topic_id,
        partition,
    };
    let (reply, answer) = oneshot::channel();
    node.send(shard, request(key, reply)).await;
    // A shard that has stopped drops the request.
    answer.await.map_err(|_| ErrorCode::NOT_LEADER_OR_FOLLOWER)
}
