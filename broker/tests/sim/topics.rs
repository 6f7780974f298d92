//! Topics whose life is short, that grow, that are limited and set otherwise: each has a name, a task and a place in the
//! book of its own.

use crate::checkers::ledger::{record_id, value_of, Place, RecordId};
use crate::workload::{idempotent_producer, Work};
use kafscale_codec::error_code::ErrorCode;
use kafscale_codec::messages::*;
use kafscale_codec::record_batch::{self, BatchBuilder};
use kafscale_codec::types::TopicId;
use std::collections::BTreeSet;
use std::io;
use std::rc::Rc;

/// First versions that name topics by their ids, or those after.
const PRODUCE_BY_ID: i16 = 13;
const FETCH_BY_ID: i16 = 13;
const DELETE_BY_ID: i16 = 6;
const METADATA_WITH_IDS: i16 = 12;

const CREATE_PARTITIONS: i16 = 3;
const ALTER_CONFIGS: i16 = 1;

/// In IncrementalAlterConfigs.
const RESOURCE_TOPIC: i8 = 2;
const SET: i8 = 0;

/// The book's name for one of the topics that had this name.
fn life_of(topic: &str, life: usize) -> String {
    format!("{topic}#{life}")
}

/// Creates a topic, writes to it, reads it, deletes it, and begins anew under the same name. What it writes and reads it
/// names by the topic's id, so that nothing of one life can rightly get into another.
pub async fn recreator(work: Rc<Work>, number: u32, topic: String, lives: usize) {
    let who = format!("recreator of {topic}");
    let mut ids: BTreeSet<TopicId> = BTreeSet::new();
    let mut sent = 0;
    for life in 0..lives {
        work.doing(&who, || format!("creates life {life}"));
        let id = create(&work, &topic, &ids).await;
        ids.insert(id);
        let place: Place = (life_of(&topic, life), 0);
        for _ in 0..work.client.world.draw(|random| random.between(1, 8)) {
            work.doing(&who, || format!("writes to life {life}"));
            let record = record_id(number, sent);
            sent += 1;
            if let Err(error) = write(&work, id, &place, record).await {
                log::debug!("{who}: {error}");
                work.client.back_off().await;
            }
        }
        work.doing(&who, || format!("reads life {life}"));
        read_all(&work, id, &place).await;
        if life + 1 < lives {
            work.doing(&who, || format!("deletes life {life}"));
            delete(&work, id).await;
        } else {
            work.last_lives.borrow_mut().push(place);
        }
    }
    work.done(&who);
}

/// Creates the topic after all these; returns its id.
async fn create(work: &Work, topic: &str, old: &BTreeSet<TopicId>) -> TopicId {
    let request = MetadataRequest {
        topics: Some(vec![MetadataRequestTopic {
            name: Some(topic.to_string()),
            ..MetadataRequestTopic::default()
        }]),
        ..MetadataRequest::default()
    };
    loop {
        work.client.create_topic(topic, 1, &[]).await;
        let response = work.client.ask_anyone(METADATA_WITH_IDS, &request).await;
        let found = &response.topics[0];
        if found.error_code == ErrorCode::NONE {
            if !old.contains(&found.topic_id) {
                return found.topic_id;
            }
            // Whoever answered does not know the new one, or whoever was to delete this one did not know it.
            delete(work, found.topic_id).await;
        }
        work.client.back_off().await;
    }
}

async fn write(work: &Work, id: TopicId, place: &Place, record: RecordId) -> io::Result<()> {
    let mut builder = BatchBuilder::new();
    builder.push(work.draw_timestamp(), None, Some(&value_of(record)), &[]);
    let batch = builder.build().map_err(io::Error::other)?;
    let request = ProduceRequest {
        transactional_id: None,
        acks: -1,
        timeout_ms: 60_000,
        topic_data: vec![TopicProduceData {
            topic_id: id,
            partition_data: vec![PartitionProduceData {
                index: 0,
                records: Some(batch),
            }],
            ..TopicProduceData::default()
        }],
    };
    let mut connection = work.client.leader_of(place).await?;
    work.ledger.sent(place, record);
    let response = connection.ask(PRODUCE_BY_ID, &request).await?;
    let answer = &response.responses[0].partition_responses[0];
    match answer.error_code {
        ErrorCode::NONE => work.ledger.acknowledged(place, answer.base_offset, &[record]),
        error => return Err(io::Error::other(format!("{error:?}"))),
    }
    Ok(())
}

/// Reads what is there, unless it is refused; the book looks at each record, and that nothing acknowledged is missing.
async fn read_all(work: &Work, id: TopicId, place: &Place) {
    let mut found: Vec<RecordId> = Vec::new();
    let end = work.ledger.end_of_acknowledged(place);
    let mut patience = work.client.patience(place);
    while (found.len() as i64) < end {
        match read_on(work, id, place, &mut found).await {
            Ok(ErrorCode::NONE) => continue,
            Ok(error) => patience.answered(error),
            Err(_) => {}
        }
        if patience.is_over() {
            return;
        }
        work.client.back_off().await;
    }
    work.ledger.whole(place, 0, &found);
}

async fn read_on(work: &Work, id: TopicId, place: &Place, found: &mut Vec<RecordId>) -> io::Result<ErrorCode> {
    let next = found.len() as i64;
    let request = FetchRequest {
        max_wait_ms: 50,
        min_bytes: 1,
        max_bytes: 1 << 20,
        session_epoch: -1,
        topics: vec![FetchTopic {
            topic_id: id,
            partitions: vec![FetchPartition {
                partition: 0,
                current_leader_epoch: -1,
                fetch_offset: next,
                partition_max_bytes: 1 << 20,
                ..FetchPartition::default()
            }],
            ..FetchTopic::default()
        }],
        ..FetchRequest::default()
    };
    let response = work.client.leader_of(place).await?.ask(FETCH_BY_ID, &request).await?;
    let Some(data) = response.responses.iter().flat_map(|topic| &topic.partitions).next() else {
        return Err(io::Error::other("no answer"));
    };
    if data.error_code != ErrorCode::NONE {
        return Ok(data.error_code);
    }
    let bytes: Vec<u8> = data
        .records
        .iter()
        .flat_map(|records| &records.0)
        .flatten()
        .copied()
        .collect();
    for (_, batch) in record_batch::iter_batches(&bytes).filter_map(Result::ok) {
        for record in record_batch::records(batch).map_err(io::Error::other)? {
            if record.offset == found.len() as i64 {
                let id = work.ledger.read(place, record.offset, record.value.as_deref());
                found.push(id.unwrap_or_default());
            }
        }
    }
    Ok(ErrorCode::NONE)
}

async fn delete(work: &Work, id: TopicId) {
    let request = DeleteTopicsRequest {
        topics: vec![DeleteTopicState {
            name: None,
            topic_id: id,
        }],
        timeout_ms: 1_000,
        ..DeleteTopicsRequest::default()
    };
    loop {
        let response = work.client.ask_anyone(DELETE_BY_ID, &request).await;
        match response.responses[0].error_code {
            ErrorCode::NONE | ErrorCode::UNKNOWN_TOPIC_ID => return,
            _ => work.client.back_off().await,
        }
    }
}

/// Gives a topic more and more partitions, and writes to each.
pub async fn grower(work: Rc<Work>, number: u32, topic: String, partitions: i32) {
    let who = format!("grower of {topic}");
    for count in 1..=partitions {
        work.doing(&who, || format!("grows to {count}"));
        if count == 1 {
            work.client.create_topic(&topic, 1, &[]).await;
        } else {
            grow(&work, &topic, count).await;
        }
        let place = (topic.clone(), count - 1);
        work.last_lives.borrow_mut().push(place.clone());
        work.doing(&who, || format!("writes to {place:?}"));
        idempotent_producer(work.clone(), number + count as u32, place, 4).await;
    }
    work.done(&who);
}

async fn grow(work: &Work, topic: &str, count: i32) {
    let request = CreatePartitionsRequest {
        topics: vec![CreatePartitionsTopic {
            name: topic.to_string(),
            count,
            assignments: None,
        }],
        timeout_ms: 1_000,
        ..CreatePartitionsRequest::default()
    };
    loop {
        let response = work.client.ask_anyone(CREATE_PARTITIONS, &request).await;
        match response.results[0].error_code {
            // The second is what is answered to who has grown it before, and did not learn it.
            ErrorCode::NONE | ErrorCode::INVALID_PARTITIONS => return,
            _ => work.client.back_off().await,
        }
    }
}

/// Sets a topic otherwise now and then.
pub async fn setter(work: Rc<Work>, topic: String, changes: usize) {
    let who = format!("setter of {topic}");
    for change in 0..changes {
        work.doing(&who, || format!("makes change {change}"));
        work.client.pause_ms(20, 600).await;
        let (name, value) = work.client.world.draw(|random| match random.below(3) {
            0 => ("segment.bytes", random.between(1_100, 20_000)),
            1 => ("segment.ms", *random.pick(&[200, 1_000, 3_600_000])),
            _ => ("max.message.bytes", random.between(100_000, 1_000_000)),
        });
        let request = IncrementalAlterConfigsRequest {
            resources: vec![IncrementalAlterConfigsResource {
                resource_type: RESOURCE_TOPIC,
                resource_name: topic.clone(),
                configs: vec![IncrementalAlterableConfig {
                    name: name.to_string(),
                    config_operation: SET,
                    value: Some(value.to_string()),
                }],
            }],
            ..IncrementalAlterConfigsRequest::default()
        };
        // Whatever comes of it: the next one may be heard.
        let _ = work.client.bootstrap().await.ask(ALTER_CONFIGS, &request).await;
    }
    work.done(&who);
}
