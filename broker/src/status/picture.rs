//! The whole broker at one moment, with an earlier moment to compare it with.

use super::facts::Rates;
use crate::cluster::image::ClusterImage;
use crate::mailbox::ShardRequest;
use crate::node::Node;
use crate::runtime::Instant;
use crate::shard::status::{PartitionStatus, ShardStatus, Traffic};
use futures::channel::oneshot;
use kafscale_codec::types::TopicId;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// All shards must answer within this.
const SHARD_TIMEOUT: Duration = Duration::from_secs(5);
/// A sample that is younger is not taken again, however many look.
const FRESH: Duration = Duration::from_millis(900);
/// Rates are taken over at least this time.
const APART_MIN: Duration = Duration::from_secs(1);
/// Older samples say nothing of now.
const APART_MAX: Duration = Duration::from_secs(15);

/// All shards at one moment.
pub struct Sample {
    at: Instant,
    /// The shards by number.
    pub shards: Vec<ShardStatus>,
    /// Partitions that are led here.
    pub partitions: HashMap<(TopicId, i32), PartitionStatus>,
    /// By topic, over all shards.
    pub traffic: BTreeMap<String, Traffic>,
}

/// Two samples, and the cluster as it was at the later one.
pub struct Picture {
    /// The cluster.
    pub image: Arc<ClusterImage>,
    /// The present.
    pub now: Rc<Sample>,
    earlier: Rc<Sample>,
}

/// Takes samples when somebody looks, and keeps the latest.
pub struct Photographer {
    node: Rc<Node>,
    samples: RefCell<VecDeque<Rc<Sample>>>,
}

impl Photographer {
    /// One without a sample.
    pub fn new(node: Rc<Node>) -> Self {
        Photographer {
            node,
            samples: RefCell::default(),
        }
    }

    /// The broker now. The first look in a while takes a second, since rates need two.
    ///
    /// # Errors
    /// A sentence that says which shard did not answer.
    pub async fn picture(&self) -> Result<Picture, String> {
        let mut now = self.sample().await?;
        let earlier = match self.earlier_than(now.at) {
            Some(earlier) => earlier,
            None => {
                self.node.runtime.sleep(APART_MIN).await;
                std::mem::replace(&mut now, self.sample().await?)
            }
        };
        Ok(Picture {
            image: self.node.image(),
            now,
            earlier,
        })
    }

    fn earlier_than(&self, now: Instant) -> Option<Rc<Sample>> {
        let samples = self.samples.borrow();
        let apart = |sample: &&Rc<Sample>| now.saturating_sub(sample.at) >= APART_MIN;
        samples.iter().rev().find(apart).cloned()
    }

    async fn sample(&self) -> Result<Rc<Sample>, String> {
        let now = self.node.runtime.now();
        if let Some(latest) = self.samples.borrow().back() {
            if now.saturating_sub(latest.at) < FRESH {
                return Ok(latest.clone());
            }
        }
        let asked = (0..self.node.inboxes.len() as u32).map(|shard| self.ask(shard));
        let answers = self.node.within(SHARD_TIMEOUT, futures::future::join_all(asked)).await;
        let Some(answers) = answers else {
            return Err(format!("not all shards answered within {SHARD_TIMEOUT:?}"));
        };
        let shards: Vec<ShardStatus> = answers.into_iter().collect::<Result<_, _>>()?;
        let mut partitions = HashMap::new();
        let mut traffic: BTreeMap<String, Traffic> = BTreeMap::new();
        for shard in &shards {
            let of_shard = shard.partitions.iter();
            partitions.extend(of_shard.map(|status| ((status.topic_id, status.partition), *status)));
            for (topic, counted) in &shard.traffic {
                let sum = traffic.entry(topic.clone()).or_default();
                *sum = sum.plus(*counted);
            }
        }
        let sample = Rc::new(Sample {
            at: self.node.runtime.now(),
            shards,
            partitions,
            traffic,
        });
        let mut samples = self.samples.borrow_mut();
        samples.retain(|old| sample.at.saturating_sub(old.at) <= APART_MAX);
        samples.push_back(sample.clone());
        Ok(sample)
    }

    async fn ask(&self, shard: u32) -> Result<ShardStatus, String> {
        let (reply, answer) = oneshot::channel();
        self.node.send(shard, ShardRequest::Status(reply)).await;
        answer.await.map_err(|_| format!("shard {shard} does not answer"))
    }
}

impl Picture {
    /// Seconds between the two samples.
    fn seconds(&self) -> f64 {
        self.now.at.saturating_sub(self.earlier.at).as_secs_f64()
    }

    /// The traffic of one topic.
    pub fn topic_rates(&self, topic: &str) -> Rates {
        let of = |sample: &Sample| sample.traffic.get(topic).copied().unwrap_or_default();
        Rates::between(of(&self.earlier), of(&self.now), self.seconds())
    }

    /// The traffic of one shard, or of all.
    pub fn rates(&self, shard: Option<usize>) -> Rates {
        let of = |sample: &Sample| {
            let shards = sample.shards.iter().enumerate();
            let chosen = shards.filter(|(number, _)| shard.is_none_or(|wanted| wanted == *number));
            let traffic = chosen.flat_map(|(_, shard)| shard.traffic.values().copied());
            traffic.fold(Traffic::default(), Traffic::plus)
        };
        Rates::between(of(&self.earlier), of(&self.now), self.seconds())
    }

    /// Part of the time in which a shard had its CPU, and its requests per second.
    pub fn load(&self, shard: usize) -> (f64, f64) {
        match (self.earlier.shards.get(shard), self.now.shards.get(shard)) {
            (Some(earlier), Some(now)) => (
                now.busy.saturating_sub(earlier.busy).as_secs_f64() / self.seconds(),
                now.requests.saturating_sub(earlier.requests) as f64 / self.seconds(),
            ),
            _ => (0.0, 0.0),
        }
    }

    /// A partition that is led here.
    pub fn partition(&self, topic_id: TopicId, partition: i32) -> Option<&PartitionStatus> {
        self.now.partitions.get(&(topic_id, partition))
    }
}
