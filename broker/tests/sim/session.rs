//! A consumer's connection to a leader, with the fetch session (KIP-227) that it may have there.

use crate::client::Connection;
use crate::executor::World;
use kafscale_codec::error_code::ErrorCode;
use kafscale_codec::messages::*;
use std::collections::BTreeMap;
use std::io;

const FETCH: i16 = 12;

/// Of a thousand connections, so many have no session.
const WITHOUT_PERMILLE: u64 = 300;

/// Of a thousand fetches in a session, so many begin a new one, as clients may at any time.
const ANEW_PERMILLE: u64 = 20;

/// A connection that fetches from one topic.
pub struct Reader {
    connection: Connection,
    topic: String,
    has_session: bool,
    id: i32,
    epoch: i32,
    /// What the session knows of each partition: the leader's epoch and the offset.
    known: BTreeMap<i32, (i32, i64)>,
}

impl Reader {
    /// On a new connection.
    pub fn new(world: &World, connection: Connection, topic: &str) -> Self {
        Reader {
            connection,
            topic: topic.to_string(),
            has_session: !world.draw(|random| random.permille(WITHOUT_PERMILLE)),
            id: 0,
            epoch: 0,
            known: BTreeMap::new(),
        }
    }

    /// Reads these partitions from there on. What a session does not mention has not changed.
    pub async fn fetch(
        &mut self,
        world: &World,
        wanted: &BTreeMap<i32, (i32, i64)>,
        (wait_ms, partition_bytes): (i32, i32),
    ) -> io::Result<Vec<PartitionData>> {
        let anew = self.id == 0 || world.draw(|random| random.permille(ANEW_PERMILLE));
        if anew {
            self.epoch = if self.has_session { 0 } else { -1 };
            self.known.clear();
        }
        let partition = |(partition, (epoch, offset)): (&i32, &(i32, i64))| FetchPartition {
            partition: *partition,
            current_leader_epoch: *epoch,
            fetch_offset: *offset,
            partition_max_bytes: partition_bytes,
            ..FetchPartition::default()
        };
        let changed = wanted.iter().filter(|(at, place)| self.known.get(at) != Some(place));
        let partitions: Vec<FetchPartition> = changed.map(partition).collect();
        let forgotten: Vec<i32> = self
            .known
            .keys()
            .copied()
            .filter(|at| !wanted.contains_key(at))
            .collect();
        let topic = || self.topic.clone();
        let named = (!partitions.is_empty()).then(|| FetchTopic {
            topic: topic(),
            partitions,
            ..FetchTopic::default()
        });
        let forgotten = (!forgotten.is_empty()).then(|| ForgottenTopic {
            topic: topic(),
            partitions: forgotten,
            ..ForgottenTopic::default()
        });
        let request = FetchRequest {
            max_wait_ms: wait_ms,
            min_bytes: 1,
            max_bytes: 1 << 20,
            session_id: self.id,
            session_epoch: self.epoch,
            topics: named.into_iter().collect(),
            forgotten_topics_data: forgotten.into_iter().collect(),
            ..FetchRequest::default()
        };
        let response = self.connection.ask(FETCH, &request).await?;
        if response.error_code != ErrorCode::NONE {
            world.violate(format!(
                "session {} is refused with {:?} at epoch {} of its own connection",
                self.id, response.error_code, self.epoch
            ));
        }
        if self.has_session && response.session_id == 0 {
            world.violate(format!("session {} is over, or was never given", self.id));
        }
        self.id = response.session_id;
        self.epoch += 1;
        self.known.clone_from(wanted);
        let answers: Vec<PartitionData> = response
            .responses
            .into_iter()
            .flat_map(|topic| topic.partitions)
            .collect();
        for answer in &answers {
            if !wanted.contains_key(&answer.partition_index) {
                world.violate(format!(
                    "partition {} is answered and was not asked for",
                    answer.partition_index
                ));
            }
        }
        Ok(answers)
    }
}
