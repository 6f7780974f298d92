//! What tools ask about: log directories, active producers, transactions.

use crate::error_code::ErrorCode;

api! {
    DescribeLogDirs 1..=4 => DescribeLogDirsRequest, DescribeLogDirsResponse;
    DescribeProducers 0..=0 => DescribeProducersRequest, DescribeProducersResponse;
    ListTransactions 0..=2 => ListTransactionsRequest, ListTransactionsResponse;
}

message! {
    DescribeLogDirsRequest {
        topics: Option<Vec<DescribableLogDirTopic>>, 0.., null 0..;
    }

    DescribableLogDirTopic {
        topic: String, 0..;
        partitions: Vec<i32>, 0..;
    }

    DescribeLogDirsResponse {
        throttle_time_ms: i32, 0..;
        error_code: ErrorCode, 3..;
        results: Vec<DescribeLogDirsResult>, 0..;
    }

    DescribeLogDirsResult {
        error_code: ErrorCode, 0..;
        log_dir: String, 0..;
        topics: Vec<DescribeLogDirsTopic>, 0..;
        total_bytes: i64, 4.., default -1;
        usable_bytes: i64, 4.., default -1;
    }

    DescribeLogDirsTopic {
        name: String, 0..;
        partitions: Vec<DescribeLogDirsPartition>, 0..;
    }

    DescribeLogDirsPartition {
        partition_index: i32, 0..;
        partition_size: i64, 0..;
        offset_lag: i64, 0..;
        is_future_key: bool, 0..;
    }

    DescribeProducersRequest {
        topics: Vec<DescribeProducersTopic>, 0..;
    }

    DescribeProducersTopic {
        name: String, 0..;
        partition_indexes: Vec<i32>, 0..;
    }

    DescribeProducersResponse {
        throttle_time_ms: i32, 0..;
        topics: Vec<DescribeProducersTopicResponse>, 0..;
    }

    DescribeProducersTopicResponse {
        name: String, 0..;
        partitions: Vec<DescribeProducersPartition>, 0..;
    }

    DescribeProducersPartition {
        partition_index: i32, 0..;
        error_code: ErrorCode, 0..;
        error_message: Option<String>, 0.., null 0..;
        active_producers: Vec<ActiveProducer>, 0..;
    }

    ActiveProducer {
        producer_id: i64, 0..;
        producer_epoch: i32, 0..;
        last_sequence: i32, 0.., default -1;
        last_timestamp: i64, 0.., default -1;
        coordinator_epoch: i32, 0..;
        current_txn_start_offset: i64, 0.., default -1;
    }

    ListTransactionsRequest {
        state_filters: Vec<String>, 0..;
        producer_id_filters: Vec<i64>, 0..;
        duration_filter: i64, 1.., default -1;
        transactional_id_pattern: Option<String>, 2.., null 2..;
    }

    ListTransactionsResponse {
        throttle_time_ms: i32, 0..;
        error_code: ErrorCode, 0..;
        unknown_state_filters: Vec<String>, 0..;
        transaction_states: Vec<TransactionState>, 0..;
    }

    TransactionState {
        transactional_id: String, 0..;
        producer_id: i64, 0..;
        transaction_state: String, 0..;
    }
}
