//! The values of the metastore. Each record's fields are declared once; their order here is their order in the bytes.

use super::encoding::{decode_versioned, encode_versioned, Field, RecordError};
use bytes::Bytes;
use kafscale_codec::types::TopicId;
use std::collections::BTreeMap;

/// Declares a struct whose fields are written in order; with a version it is a record of its own.
macro_rules! fields {
    ($(#[$about:meta])* pub struct $name:ident { $($(#[$field_about:meta])* pub $field:ident: $kind:ty,)* }) => {
        $(#[$about])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $name {
            $($(#[$field_about])* pub $field: $kind,)*
        }

        impl Field for $name {
            fn put(&self, into: &mut Vec<u8>) {
                $(self.$field.put(into);)*
            }

            fn take(from: &mut &[u8]) -> Result<Self, RecordError> {
                Ok($name { $($field: Field::take(from)?,)* })
            }
        }
    };
    (version $version:literal; $(#[$about:meta])* pub struct $name:ident { $($body:tt)* }) => {
        fields! { $(#[$about])* pub struct $name { $($body)* } }

        impl $name {
            /// The record as stored.
            pub fn encode(&self) -> Bytes {
                encode_versioned($version, |into| self.put(into))
            }

            /// Reads a stored record.
            ///
            /// # Errors
            /// [`RecordError`] if the bytes are not exactly one record of a known version.
            pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
                decode_versioned($version, bytes, Field::take)
            }
        }
    };
}

fields! {
    version 1;
    /// The cluster: written once, by the first broker.
    pub struct ClusterRecord {
        /// What clients see as the cluster's id: 22 characters of URL-safe base64, as Kafka's.
        pub cluster_id: String,
    }
}

fields! {
    version 1;
    /// A broker that is alive: the key is bound to its lease.
    pub struct BrokerRecord {
        /// The broker.
        pub broker_id: i32,
        /// This life of it; never used by another.
        pub incarnation: u64,
        /// Host that clients are told.
        pub host: String,
        /// Port that clients are told.
        pub port: u16,
        /// Where it stands.
        pub rack: Option<String>,
        /// How many shards it runs.
        pub shards: u32,
        /// The port of each shard if clients are sent straight to the owning shard; empty otherwise.
        pub shard_ports: Vec<u16>,
    }
}

fields! {
    version 1;
    /// When a life of a broker began: the key is bound to the lease of its registration.
    pub struct StartRecord {
        /// The life.
        pub incarnation: u64,
        /// When its process started, in milliseconds since the Unix epoch, by its own clock.
        pub started_ms: i64,
    }
}

fields! {
    version 1;
    /// A number: of a counter, or of the topics that have had a name.
    pub struct CountRecord {
        /// The number.
        pub count: u64,
    }
}

fields! {
    version 1;
    /// A topic that exists.
    pub struct TopicRecord {
        /// Its identity.
        pub topic_id: TopicId,
        /// Where its segments lie: its name, or `{name}~{n}` if the name was used before.
        pub folder: String,
        /// How many partitions it has; never fewer than before.
        pub partitions: u32,
        /// What was set on it, by Kafka's names; what is not here has its default.
        pub configs: BTreeMap<String, String>,
        /// When it was created, in milliseconds since the Unix epoch.
        pub created_ms: i64,
    }
}

fields! {
    version 1;
    /// A partition that was claimed at least once.
    pub struct PartitionRecord {
        /// Broker id of the leader.
        pub leader: i32,
        /// The leader's life.
        pub leader_incarnation: u64,
        /// The shard of the leader that owns the partition.
        pub shard: u32,
        /// Grows by one with each claim.
        pub leader_epoch: i32,
        /// The open stream that the leader appends to.
        pub stream: u64,
        /// Records before it are deleted.
        pub log_start_offset: i64,
        /// Records before it are in segments.
        pub rolled_offset: i64,
        /// Older streams that may hold records not yet rolled, oldest first.
        pub tail_streams: Vec<u64>,
        /// Leader epochs with the offset at which each began, in ascending order.
        pub epoch_starts: Vec<(i32, i64)>,
    }
}

fields! {
    version 1;
    /// A write-ahead stream: one shard of one life of a broker.
    pub struct StreamRecord {
        /// The broker that writes it.
        pub broker_id: i32,
        /// The life of the broker.
        pub incarnation: u64,
        /// The shard.
        pub shard: u32,
        /// Who may do what with it.
        pub state: StreamState,
        /// Slots before it may be gone; all from it up to the end are there.
        pub first_live_seq: u64,
        /// Objects that hold slots before `first_live_seq` that are not yet rolled, in slot order.
        pub merged: Vec<MergedObject>,
    }
}

fields! {
    /// Consecutive slots of a stream in one object.
    pub struct MergedObject {
        /// The first slot.
        pub first: u64,
        /// The last slot, inclusive.
        pub last: u64,
        /// How often its content was merged; slots themselves are level 0.
        pub level: u8,
    }
}

fields! {
    version 1;
    /// A topic that was deleted and whose objects may still have to go.
    pub struct DeletedTopicRecord {
        /// Its name.
        pub name: String,
        /// Where its segments lie.
        pub folder: String,
        /// How many partitions it had; 0 once its objects and its partitions' records are gone.
        pub partitions: u32,
        /// When it was deleted, in milliseconds since the Unix epoch.
        pub deleted_ms: i64,
    }
}

fields! {
    version 1;
    /// A committed offset of a group.
    pub struct OffsetRecord {
        /// The next offset to consume.
        pub offset: i64,
        /// Leader epoch of the last consumed record, -1 if the client did not say.
        pub leader_epoch: i32,
        /// What the client added.
        pub metadata: String,
        /// When it was committed, in milliseconds since the Unix epoch.
        pub commit_ms: i64,
        /// When it expires, in milliseconds since the Unix epoch, if the client asked for a retention of its own.
        pub expire_ms: Option<i64>,
    }
}

fields! {
    version 1;
    /// What is set on a group.
    pub struct GroupConfigRecord {
        /// By Kafka's names; what is not here has its default.
        pub configs: BTreeMap<String, String>,
    }
}

impl StreamRecord {
    /// Two parts of the stream that claim the same slots, each as first and last slot; `None` in a sound record. Merged
    /// objects are in slot order, lie before `first_live_seq` and share no slot: a slot that counts twice would give its
    /// records twice.
    pub fn overlap(&self) -> Option<((u64, u64), (u64, u64))> {
        let slots = (self.first_live_seq, u64::MAX);
        let parts = || {
            let merged = self.merged.iter().map(|object| (object.first, object.last));
            merged.chain([slots])
        };
        let reversed = parts().find(|part| part.0 > part.1).map(|part| (part, part));
        reversed.or_else(|| parts().zip(parts().skip(1)).find(|(one, next)| one.1 >= next.0))
    }
}

/// Who may do what with a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamState {
    /// Its owner writes and trims it.
    Open,
    /// A successor looks for its end: its owner trims nothing any more.
    Sealing,
    /// It is final.
    Sealed {
        /// The slots before it count, none from it on.
        end_seq: u64,
        /// When the end was recorded, in milliseconds since the Unix epoch.
        sealed_ms: i64,
    },
}

impl Field for StreamState {
    fn put(&self, into: &mut Vec<u8>) {
        match *self {
            StreamState::Open => into.push(0),
            StreamState::Sealing => into.push(1),
            StreamState::Sealed { end_seq, sealed_ms } => {
                into.push(2);
                (end_seq, sealed_ms).put(into);
            }
        }
    }

    fn take(from: &mut &[u8]) -> Result<Self, RecordError> {
        match u8::take(from)? {
            0 => Ok(StreamState::Open),
            1 => Ok(StreamState::Sealing),
            2 => {
                let (end_seq, sealed_ms) = Field::take(from)?;
                Ok(StreamState::Sealed { end_seq, sealed_ms })
            }
            _ => Err(RecordError::Invalid("unknown stream state")),
        }
    }
}
