//! Kafka's error codes (`org.apache.kafka.common.protocol.Errors`).

use crate::wire::{DecodeError, EncodeError, Field, Form, Reader, Writer};
use std::fmt;

/// An error code as it goes over the wire. Zero is "no error".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ErrorCode(pub i16);

macro_rules! error_codes {
    ($($name:ident = $code:literal $retriable:ident,)*) => {
        #[allow(missing_docs)] // The names are Kafka's; its protocol guide says what each means.
        impl ErrorCode {
            $(pub const $name: ErrorCode = ErrorCode($code);)*

            /// Kafka's name of the code.
            pub fn name(self) -> &'static str {
                match self.0 {
                    $($code => stringify!($name),)*
                    _ => "UNKNOWN",
                }
            }

            /// Whether clients try again on their own.
            pub fn is_retriable(self) -> bool {
                match self.0 {
                    $($code => stringify!($retriable).len() == "retry".len(),)*
                    _ => false,
                }
            }
        }
    };
}

error_codes! {
    UNKNOWN_SERVER_ERROR = -1 no,
    NONE = 0 no,
    OFFSET_OUT_OF_RANGE = 1 no,
    CORRUPT_MESSAGE = 2 retry,
    UNKNOWN_TOPIC_OR_PARTITION = 3 retry,
    INVALID_FETCH_SIZE = 4 no,
    LEADER_NOT_AVAILABLE = 5 retry,
    NOT_LEADER_OR_FOLLOWER = 6 retry,
    REQUEST_TIMED_OUT = 7 retry,
    BROKER_NOT_AVAILABLE = 8 no,
    REPLICA_NOT_AVAILABLE = 9 retry,
    MESSAGE_TOO_LARGE = 10 no,
    OFFSET_METADATA_TOO_LARGE = 12 no,
    NETWORK_EXCEPTION = 13 retry,
    COORDINATOR_LOAD_IN_PROGRESS = 14 retry,
    COORDINATOR_NOT_AVAILABLE = 15 retry,
    NOT_COORDINATOR = 16 retry,
    INVALID_TOPIC_EXCEPTION = 17 no,
    RECORD_LIST_TOO_LARGE = 18 no,
    NOT_ENOUGH_REPLICAS = 19 retry,
    INVALID_REQUIRED_ACKS = 21 no,
    ILLEGAL_GENERATION = 22 no,
    INCONSISTENT_GROUP_PROTOCOL = 23 no,
    INVALID_GROUP_ID = 24 no,
    UNKNOWN_MEMBER_ID = 25 no,
    INVALID_SESSION_TIMEOUT = 26 no,
    REBALANCE_IN_PROGRESS = 27 no,
    INVALID_COMMIT_OFFSET_SIZE = 28 no,
    TOPIC_AUTHORIZATION_FAILED = 29 no,
    GROUP_AUTHORIZATION_FAILED = 30 no,
    CLUSTER_AUTHORIZATION_FAILED = 31 no,
    INVALID_TIMESTAMP = 32 no,
    UNSUPPORTED_SASL_MECHANISM = 33 no,
    ILLEGAL_SASL_STATE = 34 no,
    UNSUPPORTED_VERSION = 35 no,
    TOPIC_ALREADY_EXISTS = 36 no,
    INVALID_PARTITIONS = 37 no,
    INVALID_REPLICATION_FACTOR = 38 no,
    INVALID_REPLICA_ASSIGNMENT = 39 no,
    INVALID_CONFIG = 40 no,
    NOT_CONTROLLER = 41 retry,
    INVALID_REQUEST = 42 no,
    UNSUPPORTED_FOR_MESSAGE_FORMAT = 43 no,
    POLICY_VIOLATION = 44 no,
    OUT_OF_ORDER_SEQUENCE_NUMBER = 45 no,
    DUPLICATE_SEQUENCE_NUMBER = 46 no,
    INVALID_PRODUCER_EPOCH = 47 no,
    INVALID_TXN_STATE = 48 no,
    INVALID_PRODUCER_ID_MAPPING = 49 no,
    INVALID_TRANSACTION_TIMEOUT = 50 no,
    TRANSACTIONAL_ID_AUTHORIZATION_FAILED = 53 no,
    SECURITY_DISABLED = 54 no,
    KAFKA_STORAGE_ERROR = 56 retry,
    SASL_AUTHENTICATION_FAILED = 58 no,
    UNKNOWN_PRODUCER_ID = 59 no,
    NON_EMPTY_GROUP = 68 no,
    GROUP_ID_NOT_FOUND = 69 no,
    FETCH_SESSION_ID_NOT_FOUND = 70 retry,
    INVALID_FETCH_SESSION_EPOCH = 71 retry,
    TOPIC_DELETION_DISABLED = 73 no,
    FENCED_LEADER_EPOCH = 74 retry,
    UNKNOWN_LEADER_EPOCH = 75 retry,
    UNSUPPORTED_COMPRESSION_TYPE = 76 no,
    STALE_BROKER_EPOCH = 77 no,
    OFFSET_NOT_AVAILABLE = 78 retry,
    MEMBER_ID_REQUIRED = 79 no,
    GROUP_MAX_SIZE_REACHED = 81 no,
    FENCED_INSTANCE_ID = 82 no,
    GROUP_SUBSCRIBED_TO_TOPIC = 86 no,
    INVALID_RECORD = 87 no,
    UNSTABLE_OFFSET_COMMIT = 88 retry,
    THROTTLING_QUOTA_EXCEEDED = 89 retry,
    UNKNOWN_TOPIC_ID = 100 retry,
    INCONSISTENT_TOPIC_ID = 103 retry,
    FETCH_SESSION_TOPIC_ID_ERROR = 106 retry,
    FENCED_MEMBER_EPOCH = 110 no,
    UNRELEASED_INSTANCE_ID = 111 no,
    UNSUPPORTED_ASSIGNOR = 112 no,
    STALE_MEMBER_EPOCH = 113 no,
    MISMATCHED_ENDPOINT_TYPE = 114 no,
    UNSUPPORTED_ENDPOINT_TYPE = 115 no,
    INVALID_REGULAR_EXPRESSION = 128 no,
}

impl fmt::Debug for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({})", self.name(), self.0)
    }
}

impl Field for ErrorCode {
    fn write(&self, writer: &mut Writer, form: Form) -> Result<(), EncodeError> {
        self.0.write(writer, form)
    }
    fn read(reader: &mut Reader, form: Form) -> Result<Self, DecodeError> {
        i16::read(reader, form).map(ErrorCode)
    }
    fn has_error(&self) -> bool {
        *self != ErrorCode::NONE
    }
}
