//! Metadata 0–13. Creates topics that are asked for, where the client and the broker both allow it.

use super::topics::{create_one, wait_for_leaders, Wish};
use super::{Context, Reply};
use crate::cluster::image::{ClusterImage, TopicImage};
use crate::node::{unknown_name, Node};
use kafscale_codec::error_code::ErrorCode;
use kafscale_codec::messages::*;
use kafscale_codec::types::TopicId;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// Everything a client could be allowed to do with a topic, as KIP-430's bit set, while there is no authorizer.
pub(super) const ALL_TOPIC_OPERATIONS: i32 = 0b0000_1101_1111_1000;

/// The first version in which topics can be asked for by id. The fields are older.
const BY_ID_SINCE: i16 = 12;

pub(super) fn handle(context: Context, request: MetadataRequest) -> Reply {
    let node = context.node.clone();
    let version = context.version();
    if let Some(error_code) = misnamed(&request, version) {
        return context.ready(refused(&request, error_code));
    }
    let mut request = request;
    if let Some(topics) = request.topics.as_mut().filter(|topics| topics.iter().any(has_id)) {
        // As Kafka: where any topic is named by its id, all are.
        topics.retain(has_id);
        topics.iter_mut().for_each(|topic| topic.name = None);
    }
    context.later(async move {
        if request.allow_auto_topic_creation || version < 4 {
            create_missing(&node, &request).await;
        }
        respond(&node.image(), &request, version)
    })
}

fn has_id(topic: &MetadataRequestTopic) -> bool {
    !topic.topic_id.is_zero()
}

/// Whether topics are named in a way that the version does not have, and what Kafka calls that.
fn misnamed(request: &MetadataRequest, version: i16) -> Option<ErrorCode> {
    let mut topics = request.topics.iter().flatten();
    match version {
        BY_ID_SINCE.. => topics
            .any(|topic| topic.name.is_none() && !has_id(topic))
            .then_some(ErrorCode::UNKNOWN_SERVER_ERROR),
        _ => topics
            .any(|topic| topic.name.is_none() || has_id(topic))
            .then_some(ErrorCode::INVALID_REQUEST),
    }
}

/// The answer to a request that cannot be worked on at all.
fn refused(request: &MetadataRequest, error_code: ErrorCode) -> MetadataResponse {
    let topics = request.topics.iter().flatten().map(|asked| MetadataResponseTopic {
        error_code,
        name: Some(asked.name.clone().unwrap_or_default()),
        topic_id: asked.topic_id,
        ..Default::default()
    });
    MetadataResponse {
        error_code,
        controller_id: -1,
        topics: topics.collect(),
        ..Default::default()
    }
}

async fn create_missing(node: &Rc<Node>, request: &MetadataRequest) {
    if !node.config.auto_create_topics {
        return;
    }
    let mut created = Vec::new();
    for name in request.topics.iter().flatten().filter_map(|topic| topic.name.as_ref()) {
        if node.image().topics.contains_key(name) || super::topics::is_internal(name) {
            continue;
        }
        let wish = Wish {
            name: name.clone(),
            partitions: -1,
            configs: BTreeMap::new(),
            validate_only: false,
        };
        match create_one(node, wish).await {
            Ok(_) => created.push(name.clone()),
            Err((ErrorCode::TOPIC_ALREADY_EXISTS, _)) => created.push(name.clone()),
            // The response says what is wrong with the name.
            Err((error, message)) => log::debug!("topic {name:?} is not created: {error:?} {message}"),
        }
    }
    wait_for_leaders(node, &created).await;
}

fn respond(image: &ClusterImage, request: &MetadataRequest, version: i16) -> MetadataResponse {
    let brokers = image
        .nodes()
        .map(|node| MetadataResponseBroker {
            node_id: node.node_id,
            host: node.broker.host.clone(),
            port: i32::from(node.port),
            rack: node.broker.rack.clone(),
        })
        .collect();
    let mut topics: Vec<MetadataResponseTopic> = match &request.topics {
        // In version 0 an empty list asks for everything, later null does.
        Some(asked) if !(version == 0 && asked.is_empty()) => {
            let mut seen = BTreeSet::new();
            let once = asked.iter().filter(|topic| seen.insert((&topic.name, topic.topic_id)));
            once.map(|topic| asked_topic(image, topic, version)).collect()
        }
        _ => image.topics.values().map(|topic| describe(image, topic)).collect(),
    };
    if request.include_topic_authorized_operations {
        topics
            .iter_mut()
            .for_each(|topic| topic.topic_authorized_operations = ALL_TOPIC_OPERATIONS);
    }
    let cluster_operations = request.include_cluster_authorized_operations;
    MetadataResponse {
        brokers,
        cluster_id: Some(image.cluster_id.clone()),
        controller_id: image.controller_node(),
        topics,
        cluster_authorized_operations: match cluster_operations {
            true => super::cluster::ALL_CLUSTER_OPERATIONS,
            false => NO_AUTHORIZED_OPERATIONS,
        },
        ..Default::default()
    }
}

fn asked_topic(image: &ClusterImage, asked: &MetadataRequestTopic, version: i16) -> MetadataResponseTopic {
    let found = match &asked.name {
        Some(name) => image.topics.get(name),
        None => image.topic_by_id(asked.topic_id),
    };
    if let Some(topic) = found {
        return describe(image, topic);
    }
    let error_code = match &asked.name {
        Some(name) if super::topics::check_name(name).is_err() => ErrorCode::INVALID_TOPIC_EXCEPTION,
        Some(name) => unknown_name(image, name),
        None => ErrorCode::UNKNOWN_TOPIC_ID,
    };
    let topic_id = if asked.name.is_some() {
        TopicId::ZERO
    } else {
        asked.topic_id
    };
    let name = match version {
        BY_ID_SINCE.. => asked.name.clone(),
        _ => Some(asked.name.clone().unwrap_or_default()),
    };
    MetadataResponseTopic {
        error_code,
        name,
        topic_id,
        ..Default::default()
    }
}

fn describe(image: &ClusterImage, topic: &TopicImage) -> MetadataResponseTopic {
    let partitions = (0..topic.record.partitions as i32)
        .map(|partition_index| match image.live_leader(topic, partition_index) {
            // Durability is the store's: the leader is the only replica there is.
            Some(leader) => {
                let leader_id = image.node_id(leader.broker_id, leader.shard);
                MetadataResponsePartition {
                    partition_index,
                    leader_id,
                    leader_epoch: leader.leader_epoch,
                    replica_nodes: vec![leader_id],
                    isr_nodes: vec![leader_id],
                    ..Default::default()
                }
            }
            None => MetadataResponsePartition {
                error_code: ErrorCode::LEADER_NOT_AVAILABLE,
                partition_index,
                leader_id: -1,
                ..Default::default()
            },
        })
        .collect();
    MetadataResponseTopic {
        name: Some(topic.name.clone()),
        topic_id: topic.record.topic_id,
        partitions,
        ..Default::default()
    }
}
