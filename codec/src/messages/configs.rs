//! Configurations of topics and brokers, and client quotas.

use crate::error_code::ErrorCode;

api! {
    DescribeConfigs 1..=4 => DescribeConfigsRequest, DescribeConfigsResponse;
    AlterConfigs 0..=2 => AlterConfigsRequest, AlterConfigsResponse;
    IncrementalAlterConfigs 0..=1 => IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse;
    DescribeClientQuotas 0..=1 => DescribeClientQuotasRequest, DescribeClientQuotasResponse;
}

message! {
    DescribeConfigsRequest {
        resources: Vec<DescribeConfigsResource>, 0..;
        include_synonyms: bool, 1..;
        include_documentation: bool, 3..;
    }

    DescribeConfigsResource {
        resource_type: i8, 0..;
        resource_name: String, 0..;
        configuration_keys: Option<Vec<String>>, 0.., null 0..;
    }

    DescribeConfigsResponse {
        throttle_time_ms: i32, 0..;
        results: Vec<DescribeConfigsResult>, 0..;
    }

    DescribeConfigsResult {
        error_code: ErrorCode, 0..;
        error_message: Option<String>, 0.., null 0..;
        resource_type: i8, 0..;
        resource_name: String, 0..;
        configs: Vec<DescribeConfigsResourceResult>, 0..;
    }

    DescribeConfigsResourceResult {
        name: String, 0..;
        value: Option<String>, 0.., null 0..;
        read_only: bool, 0..;
        config_source: i8, 1.., default -1;
        is_sensitive: bool, 0..;
        synonyms: Vec<DescribeConfigsSynonym>, 1..;
        config_type: i8, 3..;
        documentation: Option<String>, 3.., null 3..;
    }

    DescribeConfigsSynonym {
        name: String, 1..;
        value: Option<String>, 1.., null 1..;
        source: i8, 1..;
    }

    AlterConfigsRequest {
        resources: Vec<AlterConfigsResource>, 0..;
        validate_only: bool, 0..;
    }

    AlterConfigsResource {
        resource_type: i8, 0..;
        resource_name: String, 0..;
        configs: Vec<AlterableConfig>, 0..;
    }

    AlterableConfig {
        name: String, 0..;
        value: Option<String>, 0.., null 0..;
    }

    AlterConfigsResponse {
        throttle_time_ms: i32, 0..;
        responses: Vec<AlterConfigsResourceResponse>, 0..;
    }

    AlterConfigsResourceResponse {
        error_code: ErrorCode, 0..;
        error_message: Option<String>, 0.., null 0..;
        resource_type: i8, 0..;
        resource_name: String, 0..;
    }

    IncrementalAlterConfigsRequest {
        resources: Vec<IncrementalAlterConfigsResource>, 0..;
        validate_only: bool, 0..;
    }

    IncrementalAlterConfigsResource {
        resource_type: i8, 0..;
        resource_name: String, 0..;
        configs: Vec<IncrementalAlterableConfig>, 0..;
    }

    IncrementalAlterableConfig {
        name: String, 0..;
        config_operation: i8, 0..;
        value: Option<String>, 0.., null 0..;
    }

    IncrementalAlterConfigsResponse {
        throttle_time_ms: i32, 0..;
        responses: Vec<AlterConfigsResourceResponse>, 0..;
    }

    DescribeClientQuotasRequest {
        components: Vec<QuotaComponent>, 0..;
        strict: bool, 0..;
    }

    QuotaComponent {
        entity_type: String, 0..;
        match_type: i8, 0..;
        r#match: Option<String>, 0.., null 0..;
    }

    DescribeClientQuotasResponse {
        throttle_time_ms: i32, 0..;
        error_code: ErrorCode, 0..;
        error_message: Option<String>, 0.., null 0..;
        entries: Option<Vec<QuotaEntry>>, 0.., null 0..;
    }

    QuotaEntry {
        entity: Vec<QuotaEntity>, 0..;
        values: Vec<QuotaValue>, 0..;
    }

    QuotaEntity {
        entity_type: String, 0..;
        entity_name: Option<String>, 0.., null 0..;
    }

    QuotaValue {
        key: String, 0..;
        value: f64, 0..;
    }
}
