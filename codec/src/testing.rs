//! Random messages that can be said in a version, and the list of all messages. For tests and fuzz targets only.

use crate::error_code::ErrorCode;
use crate::types::TopicId;
use crate::wire::{Form, Records};
use bytes::Bytes;
use std::fmt::Debug;
use std::sync::Arc;

/// Values that mean something to a broker, for fields whose random values would not. `draw` decides which: the same draw
/// must pick the value in the same place of every vocabulary, so that two brokers can be asked alike.
pub trait Vocabulary: Debug + Send + Sync {
    /// A number for `field`, if it should not be any.
    fn integer(&self, field: &str, draw: u64) -> Option<i64>;
    /// A text for `field`, if it should not be any.
    fn text(&self, field: &str, draw: u64) -> Option<String>;
    /// A topic id for `field`.
    fn topic_id(&self, field: &str, draw: u64) -> Option<TopicId>;
    /// Bytes for `field`, if they should not be any.
    fn bytes(&self, field: &str, draw: u64) -> Option<Bytes>;
}

/// Deterministic randomness (SplitMix64).
#[derive(Debug, Clone)]
pub struct Sampler {
    state: u64,
    /// The field that is being drawn.
    pub(crate) field: &'static str,
    vocabulary: Option<Arc<dyn Vocabulary>>,
}

impl Sampler {
    /// The same seed gives the same values.
    pub fn new(seed: u64) -> Self {
        Sampler {
            state: seed,
            field: "",
            vocabulary: None,
        }
    }

    /// Draws from this vocabulary where it has a value.
    pub fn with_vocabulary(seed: u64, vocabulary: Arc<dyn Vocabulary>) -> Self {
        Sampler {
            vocabulary: Some(vocabulary),
            ..Sampler::new(seed)
        }
    }

    /// What the vocabulary, if there is one, has for the field.
    fn known<T>(&mut self, pick: impl FnOnce(&dyn Vocabulary, &str, u64) -> Option<T>) -> Option<T> {
        let vocabulary = self.vocabulary.clone()?;
        let draw = self.bits();
        pick(vocabulary.as_ref(), self.field, draw)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.bits() % bound
    }

    /// Null one time in four, where it can be said.
    fn null(&mut self, form: Form) -> bool {
        form.nullable && self.below(4) == 0
    }
}

/// A type that can be drawn at random.
pub trait Sample {
    /// A value that can be said in this form: what its version has no field for stays at the default.
    fn sample(sampler: &mut Sampler, form: Form) -> Self;
}

macro_rules! integers {
    ($($ty:ty)*) => {$(
        impl Sample for $ty {
            fn sample(sampler: &mut Sampler, _: Form) -> Self {
                let known = sampler.known(|vocabulary, field, draw| vocabulary.integer(field, draw));
                if let Some(known) = known.and_then(|known| <$ty>::try_from(known).ok()) {
                    return known;
                }
                match sampler.below(4) {
                    0 => 0,
                    1 => <$ty>::MIN,
                    2 => (sampler.bits() % 128) as $ty,
                    _ => sampler.bits() as $ty,
                }
            }
        }
    )*};
}

integers! { i8 i16 u16 i32 i64 }

impl Sample for f64 {
    fn sample(sampler: &mut Sampler, _: Form) -> Self {
        sampler.below(1 << 40) as f64 / 1024.0
    }
}

impl Sample for bool {
    fn sample(sampler: &mut Sampler, _: Form) -> Self {
        let known = sampler.known(|vocabulary, field, draw| vocabulary.integer(field, draw));
        known.unwrap_or_else(|| (sampler.bits() % 2) as i64) == 1
    }
}

impl Sample for ErrorCode {
    fn sample(sampler: &mut Sampler, form: Form) -> Self {
        ErrorCode(i16::sample(sampler, form))
    }
}

impl Sample for TopicId {
    fn sample(sampler: &mut Sampler, _: Form) -> Self {
        if let Some(known) = sampler.known(|vocabulary, field, draw| vocabulary.topic_id(field, draw)) {
            return known;
        }
        let mut id = [0; 16];
        id.fill_with(|| sampler.bits() as u8);
        TopicId(id)
    }
}

impl Sample for String {
    fn sample(sampler: &mut Sampler, _: Form) -> Self {
        if let Some(known) = sampler.known(|vocabulary, field, draw| vocabulary.text(field, draw)) {
            return known;
        }
        const LETTERS: [char; 8] = ['a', 'Z', '0', '-', '_', 'ß', '界', '🦀'];
        // Compact lengths change their size at 127.
        let len = if sampler.below(16) == 0 {
            120 + sampler.below(20)
        } else {
            sampler.below(6)
        };
        (0..len).map(|_| LETTERS[sampler.below(8) as usize]).collect()
    }
}

impl Sample for Bytes {
    fn sample(sampler: &mut Sampler, _: Form) -> Self {
        if let Some(known) = sampler.known(|vocabulary, field, draw| vocabulary.bytes(field, draw)) {
            return known;
        }
        let len = if sampler.below(16) == 0 {
            400 + sampler.below(300)
        } else {
            sampler.below(20)
        };
        (0..len).map(|_| sampler.bits() as u8).collect()
    }
}

impl Sample for Option<String> {
    fn sample(sampler: &mut Sampler, form: Form) -> Self {
        (!sampler.null(form)).then(|| String::sample(sampler, form))
    }
}

impl Sample for Option<Bytes> {
    fn sample(sampler: &mut Sampler, form: Form) -> Self {
        (!sampler.null(form)).then(|| Bytes::sample(sampler, form))
    }
}

impl Sample for Option<Records> {
    fn sample(sampler: &mut Sampler, form: Form) -> Self {
        Option::<Bytes>::sample(sampler, form).map(|bytes| Records(vec![bytes]))
    }
}

impl<T: Sample> Sample for Vec<T> {
    fn sample(sampler: &mut Sampler, form: Form) -> Self {
        let item = Form {
            nullable: false,
            ..form
        };
        (0..sampler.below(4)).map(|_| T::sample(sampler, item)).collect()
    }
}

impl<T: Sample> Sample for Option<Vec<T>> {
    fn sample(sampler: &mut Sampler, form: Form) -> Self {
        (!sampler.null(form)).then(|| Vec::sample(sampler, form))
    }
}

/// [`Option`] of a declared structure.
pub(crate) fn sample_nullable_struct<T: Sample>(sampler: &mut Sampler, form: Form) -> Option<T> {
    (!sampler.null(form)).then(|| T::sample(sampler, form))
}

/// Calls the macro `$callback` with every API whose messages are declared: `$callback! { Produce ProduceRequest ProduceResponse, … }`.
#[macro_export]
macro_rules! for_each_api {
    ($callback:ident) => {
        $callback! {
            Produce ProduceRequest ProduceResponse,
            Fetch FetchRequest FetchResponse,
            ListOffsets ListOffsetsRequest ListOffsetsResponse,
            Metadata MetadataRequest MetadataResponse,
            OffsetCommit OffsetCommitRequest OffsetCommitResponse,
            OffsetFetch OffsetFetchRequest OffsetFetchResponse,
            FindCoordinator FindCoordinatorRequest FindCoordinatorResponse,
            JoinGroup JoinGroupRequest JoinGroupResponse,
            Heartbeat HeartbeatRequest HeartbeatResponse,
            LeaveGroup LeaveGroupRequest LeaveGroupResponse,
            SyncGroup SyncGroupRequest SyncGroupResponse,
            DescribeGroups DescribeGroupsRequest DescribeGroupsResponse,
            ListGroups ListGroupsRequest ListGroupsResponse,
            ApiVersions ApiVersionsRequest ApiVersionsResponse,
            CreateTopics CreateTopicsRequest CreateTopicsResponse,
            DeleteTopics DeleteTopicsRequest DeleteTopicsResponse,
            DeleteRecords DeleteRecordsRequest DeleteRecordsResponse,
            InitProducerId InitProducerIdRequest InitProducerIdResponse,
            OffsetForLeaderEpoch OffsetForLeaderEpochRequest OffsetForLeaderEpochResponse,
            DescribeConfigs DescribeConfigsRequest DescribeConfigsResponse,
            AlterConfigs AlterConfigsRequest AlterConfigsResponse,
            DescribeLogDirs DescribeLogDirsRequest DescribeLogDirsResponse,
            CreatePartitions CreatePartitionsRequest CreatePartitionsResponse,
            DeleteGroups DeleteGroupsRequest DeleteGroupsResponse,
            IncrementalAlterConfigs IncrementalAlterConfigsRequest IncrementalAlterConfigsResponse,
            OffsetDelete OffsetDeleteRequest OffsetDeleteResponse,
            DescribeClientQuotas DescribeClientQuotasRequest DescribeClientQuotasResponse,
            DescribeCluster DescribeClusterRequest DescribeClusterResponse,
            DescribeProducers DescribeProducersRequest DescribeProducersResponse,
            ListTransactions ListTransactionsRequest ListTransactionsResponse,
            ConsumerGroupHeartbeat ConsumerGroupHeartbeatRequest ConsumerGroupHeartbeatResponse,
            ConsumerGroupDescribe ConsumerGroupDescribeRequest ConsumerGroupDescribeResponse,
            DescribeTopicPartitions DescribeTopicPartitionsRequest DescribeTopicPartitionsResponse,
        }
    };
}
