//! The questions of `/api/v1/`.

use super::facts::*;
use super::picture::Picture;
use super::{Answer, Status};
use crate::cluster::image::TopicImage;
use percent_encoding::percent_decode_str;
use serde::Serialize;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Items of a list if the question does not say.
const LIMIT_DEFAULT: usize = 100;
/// Items of a list at most.
const LIMIT_MAX: usize = 1000;

/// All questions, with what they are about.
const QUESTIONS: [(&str, &str); 5] = [
    ("overview", "the cluster, its brokers, and the shards of this one"),
    ("topics", "topics; ?contains=TEXT, ?limit=N, ?after=NAME"),
    ("topics/NAME", "a topic with its partitions"),
    (
        "groups",
        "the groups that this broker coordinates; ?contains=TEXT, ?limit=N, ?after=ID",
    ),
    ("groups/ID", "a group with its members, their partitions, and its lag"),
];

/// Which part of a list is wanted.
pub(super) struct Selection<'a> {
    contains: Cow<'a, str>,
    after: Option<Cow<'a, str>>,
    limit: usize,
}

/// Why a question has no answer.
pub(super) enum Refusal {
    /// The question is wrong.
    Bad(String),
    /// There is no such thing.
    Missing(String),
    /// Not now.
    Unavailable(String),
}

impl Status {
    pub(super) async fn api(&self, what: &str, query: &str) -> Answer {
        let result = match what.split_once('/') {
            None => match what {
                "" => Ok(json(&BTreeMap::from(QUESTIONS))),
                "overview" => self.overview().await.map(|found| json(&found)),
                "topics" => self.topics(query).await.map(|found| json(&found)),
                "groups" => self.groups(query).await.map(|found| json(&found)),
                _ => Err(Refusal::Missing("GET /api/v1/ lists what there is".to_string())),
            },
            Some(("topics", name)) => self.topic(&decoded(name)).await.map(|found| json(&found)),
            Some(("groups", id)) => self.group(&decoded(id)).await.map(|found| json(&found)),
            Some(_) => Err(Refusal::Missing("GET /api/v1/ lists what there is".to_string())),
        };
        let (status, body) = match result {
            Ok(body) => ("200 OK", body),
            Err(Refusal::Bad(error)) => ("400 Bad Request", json(&Failure { error })),
            Err(Refusal::Missing(error)) => ("404 Not Found", json(&Failure { error })),
            Err(Refusal::Unavailable(error)) => ("503 Service Unavailable", json(&Failure { error })),
        };
        Answer {
            status,
            content_type: "application/json",
            body,
        }
    }

    pub(super) async fn picture(&self) -> Result<Picture, Refusal> {
        self.photographer.picture().await.map_err(Refusal::Unavailable)
    }

    async fn overview(&self) -> Result<Overview, Refusal> {
        let picture = self.picture().await?;
        let image = &picture.image;
        let mut leads: BTreeMap<i32, usize> = BTreeMap::new();
        let (mut partitions, mut leaderless) = (0, 0);
        for topic in image.topics.values() {
            for partition in 0..topic.record.partitions as i32 {
                partitions += 1;
                match image.live_leader(topic, partition) {
                    Some(leader) => *leads.entry(leader.broker_id).or_default() += 1,
                    None => leaderless += 1,
                }
            }
        }
        let sizes = picture.now.partitions.values().filter_map(|status| status.size_bytes);
        Ok(Overview {
            cluster_id: image.cluster_id.clone(),
            broker_id: self.node.config.broker_id,
            version: env!("CARGO_PKG_VERSION"),
            uptime_s: self.node.runtime.now().as_secs(),
            brokers: (image.brokers.values())
                .map(|broker| BrokerFacts {
                    broker_id: broker.broker_id,
                    host: broker.host.clone(),
                    port: broker.port,
                    rack: broker.rack.clone(),
                    shards: broker.shards,
                    leads: leads.get(&broker.broker_id).copied().unwrap_or_default(),
                })
                .collect(),
            shards: (picture.now.shards.iter().enumerate())
                .map(|(number, shard)| {
                    let (load, requests_per_s) = picture.load(number);
                    ShardFacts {
                        shard: shard.shard,
                        load,
                        connections: shard.connections,
                        partitions: shard.partitions.len(),
                        requests_per_s,
                        memory_bytes: shard.memory_bytes,
                        live_objects: shard.live_objects,
                        puts_in_flight: shard.puts_in_flight,
                        rates: picture.rates(Some(number)),
                    }
                })
                .collect(),
            topics: image.topics.len(),
            partitions,
            leaderless,
            unreadable: self.node.unreadable(),
            quarantined: (self.node.shard.config.board.all().into_iter())
                .map(|((topic, partition), why)| QuarantinedFacts { topic, partition, why })
                .collect(),
            size_bytes: sizes.sum(),
            rates: picture.rates(None),
        })
    }

    async fn topics(&self, query: &str) -> Result<Page<TopicFacts>, Refusal> {
        let selection = Selection::of(query)?;
        let picture = self.picture().await?;
        let all = picture.image.topics.values();
        Ok(selection.page(all, |topic| &topic.name, |topic| topic_facts(&picture, topic)))
    }

    async fn topic(&self, name: &str) -> Result<TopicDetail, Refusal> {
        let picture = self.picture().await?;
        let topic = picture.image.topics.get(name);
        let topic = topic.ok_or_else(|| Refusal::Missing(format!("there is no topic {name}")))?;
        let facts = |partition| {
            let leader = picture.image.live_leader(topic, partition);
            let status = picture.partition(topic.record.topic_id, partition);
            PartitionFacts {
                partition,
                leader: leader.map(|leader| leader.broker_id),
                shard: leader.map(|leader| leader.shard),
                leader_epoch: leader.map(|leader| leader.leader_epoch),
                start_offset: status.map(|status| status.log_start_offset),
                end_offset: status.map(|status| status.high_watermark),
                size_bytes: status.and_then(|status| status.size_bytes),
            }
        };
        Ok(TopicDetail {
            topic: topic_facts(&picture, topic),
            partitions: (0..topic.record.partitions as i32).map(facts).collect(),
        })
    }
}

fn topic_facts(picture: &Picture, topic: &TopicImage) -> TopicFacts {
    let (mut leaderless, mut size_bytes, mut offsets) = (0, 0, 0);
    for partition in 0..topic.record.partitions as i32 {
        leaderless += usize::from(picture.image.live_leader(topic, partition).is_none());
        if let Some(status) = picture.partition(topic.record.topic_id, partition) {
            size_bytes += status.size_bytes.unwrap_or_default();
            offsets += status.high_watermark - status.log_start_offset;
        }
    }
    TopicFacts {
        name: topic.name.clone(),
        id: topic.record.topic_id.to_string(),
        partitions: topic.record.partitions,
        leaderless,
        size_bytes,
        offsets,
        rates: picture.topic_rates(&topic.name),
    }
}

impl<'a> Selection<'a> {
    pub(super) fn of(query: &'a str) -> Result<Self, Refusal> {
        let mut selection = Selection {
            contains: Cow::default(),
            after: None,
            limit: LIMIT_DEFAULT,
        };
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "contains" => selection.contains = value,
                "after" => selection.after = Some(value),
                "limit" => {
                    let limit = value.parse().ok().filter(|limit| (1..=LIMIT_MAX).contains(limit));
                    let wrong = || Refusal::Bad(format!("limit is a number from 1 to {LIMIT_MAX}, not {value}"));
                    selection.limit = limit.ok_or_else(wrong)?;
                }
                _ => return Err(Refusal::Bad(format!("there is no parameter {name}"))),
            }
        }
        Ok(selection)
    }

    /// The part of a list that is in the order of its names.
    pub(super) fn page<T, U>(
        &self,
        all: impl Iterator<Item = T>,
        name: impl Fn(&T) -> &str,
        facts: impl Fn(T) -> U,
    ) -> Page<U> {
        let mut page = Page {
            items: Vec::new(),
            matching: 0,
            next: None,
        };
        let mut last = None;
        for item in all.filter(|item| name(item).contains(&*self.contains)) {
            page.matching += 1;
            if self.after.as_deref().is_some_and(|after| name(&item) <= after) {
                continue;
            }
            if page.items.len() == self.limit {
                page.next = last.take().or(page.next);
                continue;
            }
            last = Some(name(&item).to_string());
            page.items.push(facts(item));
        }
        page
    }
}

fn decoded(part: &str) -> Cow<'_, str> {
    percent_decode_str(part).decode_utf8_lossy()
}

fn json(facts: &impl Serialize) -> String {
    serde_json::to_string(facts).expect("numbers, texts and lists of them can always be written")
}
