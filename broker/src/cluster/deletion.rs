//! What the reconciler may delete: decided from records of the metastore alone, apart from the act.

use kafscale_codec::types::TopicId;
use kafscale_metastore::keys::{DeletedTopicRecord, StreamRecord, StreamState};
use kafscale_metastore::operation::Versioned;
use kafscale_metastore::Revision;
use kafscale_storage_engine::wal::{self, StreamId};
use std::collections::BTreeSet;
use std::time::Duration;

/// Something that nothing refers to any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deletion {
    /// The objects of a deleted topic and its partitions' records. That it was deleted stays recorded.
    EmptyTopic {
        /// The topic.
        topic_id: TopicId,
        /// What is recorded of the deletion.
        deleted: Versioned<DeletedTopicRecord>,
    },
    /// What came late of a deleted topic, and the record of its deletion.
    ForgetTopic {
        /// The topic.
        topic_id: TopicId,
        /// The name that it had.
        name: String,
        /// Where its segments lay.
        folder: String,
    },
    /// A dead broker's stream that no partition needs: it is ended, and deleted in a later round.
    EndStream(u64),
    /// All objects of a sealed stream but its fence.
    EmptyStream {
        /// The stream.
        stream: u64,
        /// Its record.
        record: Versioned<StreamRecord>,
        /// The slot of the fence.
        end_seq: u64,
    },
    /// What was put into a stream after its record was forgotten: by a writer that was away for long, or by a deletion that
    /// did not come to its end.
    OrphanedStream(u64),
    /// A sealed stream's fence, whatever else may be left, and its record.
    ForgetStream {
        /// The stream.
        stream: u64,
        /// The revision of its record.
        mod_revision: Revision,
    },
}

impl Deletion {
    /// The prefixes below which everything goes.
    pub fn prefixes(&self, namespace: &str) -> Vec<String> {
        match self {
            Deletion::EmptyTopic { topic_id, deleted } => {
                topic_prefixes(namespace, *topic_id, &deleted.value.folder).into()
            }
            Deletion::ForgetTopic { topic_id, folder, .. } => topic_prefixes(namespace, *topic_id, folder).into(),
            Deletion::EndStream(_) => Vec::new(),
            Deletion::EmptyStream { stream, .. }
            | Deletion::ForgetStream { stream, .. }
            | Deletion::OrphanedStream(stream) => {
                vec![wal::stream_prefix(namespace, StreamId(*stream))]
            }
        }
    }

    /// The object that stays.
    pub fn keeps(&self, namespace: &str) -> Option<String> {
        match self {
            Deletion::EmptyStream { stream, end_seq, .. } => {
                Some(wal::slot_key(namespace, StreamId(*stream), *end_seq))
            }
            _ => None,
        }
    }
}

/// Where a topic's segments lie, and where its snapshots of producers.
pub(super) fn topic_prefixes(namespace: &str, topic_id: TopicId, folder: &str) -> [String; 2] {
    let id: String = topic_id.0.iter().map(|byte| format!("{byte:02x}")).collect();
    [
        format!("{namespace}/{folder}/"),
        format!("{namespace}/_producers/{id}/"),
    ]
}

/// When things were, and how long they have to rest.
#[derive(Debug, Clone, Copy)]
pub struct Grace {
    /// Now, ms since the Unix epoch.
    pub now_ms: i64,
    /// How long objects outlive the last reference, for readers that planned with them.
    pub delete_grace: Duration,
    /// How long a fence outlives its stream. It must outlive every writer that could still try its slot.
    pub fence_life: Duration,
}

impl Grace {
    fn is_past(&self, since_ms: i64, grace: Duration) -> bool {
        self.now_ms - since_ms >= grace.as_millis() as i64
    }
}

/// Of the deleted topics, those whose time has come. The record of a deletion outlives the objects: it alone tells a
/// broker that was away that the topic was deleted.
pub fn of_topics(deleted: Vec<(TopicId, Versioned<DeletedTopicRecord>)>, grace: Grace) -> Vec<Deletion> {
    let deletion = |(topic_id, deleted): (TopicId, Versioned<DeletedTopicRecord>)| {
        let since_ms = deleted.value.deleted_ms;
        if deleted.value.partitions > 0 {
            let due = grace.is_past(since_ms, grace.delete_grace);
            return due.then_some(Deletion::EmptyTopic { topic_id, deleted });
        }
        let DeletedTopicRecord { name, folder, .. } = deleted.value;
        // A broker that was away for longer than a fence lives has lost its stream, and with it whatever it held of the
        // topic.
        let due = grace.is_past(since_ms, 2 * grace.fence_life);
        due.then_some(Deletion::ForgetTopic { topic_id, name, folder })
    };
    deleted.into_iter().filter_map(deletion).collect()
}

/// Of all streams, those that no partition needs and whose owner is gone. `needed` must have been read after `found`: a
/// stream that is referred to only later was live when it was read.
pub fn of_streams(
    found: Vec<(u64, Versioned<StreamRecord>)>,
    needed: &BTreeSet<u64>,
    is_live: impl Fn(i32, u64) -> bool,
    grace: Grace,
) -> Vec<Deletion> {
    let unneeded = found.into_iter().filter(|(stream, record)| {
        !needed.contains(stream) && !is_live(record.value.broker_id, record.value.incarnation)
    });
    unneeded
        .filter_map(|(stream, record)| of_stream(stream, record, grace))
        .collect()
}

/// First everything but the fence, much later the fence.
fn of_stream(stream: u64, record: Versioned<StreamRecord>, grace: Grace) -> Option<Deletion> {
    let StreamState::Sealed { end_seq, sealed_ms } = record.value.state else {
        return Some(Deletion::EndStream(stream));
    };
    if grace.is_past(sealed_ms, grace.fence_life) {
        let mod_revision = record.mod_revision;
        return Some(Deletion::ForgetStream { stream, mod_revision });
    }
    let emptied = record.value.first_live_seq == end_seq && record.value.merged.is_empty();
    let due = !emptied && grace.is_past(sealed_ms, grace.delete_grace);
    due.then_some(Deletion::EmptyStream {
        stream,
        record,
        end_seq,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: i64 = 1_000_000_000;

    fn grace() -> Grace {
        Grace {
            now_ms: NOW_MS,
            delete_grace: Duration::from_secs(60),
            fence_life: Duration::from_secs(24 * 60 * 60),
        }
    }

    fn stream(stream: u64, state: StreamState) -> (u64, Versioned<StreamRecord>) {
        let value = StreamRecord {
            broker_id: 1,
            incarnation: 7,
            shard: 0,
            state,
            first_live_seq: 2,
            merged: Vec::new(),
        };
        (stream, Versioned { value, mod_revision: 5 })
    }

    fn sealed(end_seq: u64, seconds_ago: i64) -> StreamState {
        let sealed_ms = NOW_MS - seconds_ago * 1000;
        StreamState::Sealed { end_seq, sealed_ms }
    }

    fn plan(state: StreamState, needed: bool, live: bool) -> Vec<Deletion> {
        let needed = needed.then_some(3).into_iter().collect();
        of_streams(vec![stream(3, state)], &needed, |_, _| live, grace())
    }

    #[test]
    fn a_stream_that_is_needed_or_whose_owner_lives_stays() {
        for state in [StreamState::Open, StreamState::Sealing, sealed(9, 1_000_000)] {
            assert_eq!(plan(state, true, false), []);
            assert_eq!(plan(state, false, true), []);
        }
    }

    #[test]
    fn a_stream_goes_in_steps_and_its_fence_a_day_after_its_end() {
        assert_eq!(plan(StreamState::Open, false, false), [Deletion::EndStream(3)]);
        assert_eq!(plan(StreamState::Sealing, false, false), [Deletion::EndStream(3)]);
        assert_eq!(plan(sealed(9, 59), false, false), []);
        let emptied = plan(sealed(9, 60), false, false);
        assert!(matches!(emptied[..], [Deletion::EmptyStream { end_seq: 9, .. }]));
        assert_eq!(
            emptied[0].keeps("ns").as_deref(),
            Some("ns/_wal/0000000000000003/00000000000000000009.wal")
        );
        // Nothing is left but the fence, which stays.
        assert_eq!(plan(sealed(2, 86_399), false, false), []);
        let forgotten = plan(sealed(2, 86_400), false, false);
        assert!(matches!(forgotten[..], [Deletion::ForgetStream { stream: 3, .. }]));
    }

    #[test]
    fn a_deleted_topic_goes_after_its_grace_with_both_its_folders_and_the_record_of_it_days_later() {
        let deleted = |seconds_ago: i64, partitions| {
            let value = DeletedTopicRecord {
                name: "orders".to_string(),
                folder: "orders~2".to_string(),
                partitions,
                deleted_ms: NOW_MS - seconds_ago * 1000,
            };
            vec![(TopicId([0xab; 16]), Versioned { value, mod_revision: 5 })]
        };
        assert_eq!(of_topics(deleted(59, 1), grace()), []);
        let producers = format!("ns/_producers/{}/", "ab".repeat(16));
        let prefixes = ["ns/orders~2/".to_string(), producers];
        let emptied = of_topics(deleted(60, 1), grace());
        assert!(matches!(emptied[..], [Deletion::EmptyTopic { .. }]));
        assert_eq!(emptied[0].prefixes("ns"), prefixes);
        assert_eq!(of_topics(deleted(172_799, 0), grace()), []);
        let forgotten = of_topics(deleted(172_800, 0), grace());
        assert!(matches!(forgotten[..], [Deletion::ForgetTopic { .. }]));
        assert_eq!(forgotten[0].prefixes("ns"), prefixes);
    }
}
