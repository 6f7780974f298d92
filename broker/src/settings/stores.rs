//! What is set about the stores that several brokers share.

use super::sources::Values;
use std::fmt;
use std::path::PathBuf;

/// A bucket that holds the records.
#[derive(Clone, PartialEq, Eq)]
pub struct S3Settings {
    /// Its name.
    pub bucket: String,
    /// Its region.
    pub region: String,
    /// Where the store is; AWS if nothing is set.
    pub endpoint: Option<String>,
    /// Whether the bucket is part of the path.
    pub path_style: bool,
    /// Access key id, secret key and session token; found elsewhere if not set.
    pub keys: Option<(String, String, Option<String>)>,
    /// KMS key with which the store encrypts.
    pub kms_arn: Option<String>,
    /// Storage class of new objects.
    pub storage_class: Option<String>,
    /// Authorities beside the system's.
    pub ca_file: Option<PathBuf>,
    /// A replica to read from: bucket, region, endpoint.
    pub replica: Option<(String, String, Option<String>)>,
    /// Requests of one shard at once.
    pub concurrency: usize,
    /// Longest time of one attempt.
    pub request_timeout_ms: u64,
}

impl fmt::Debug for S3Settings {
    /// Without the keys: settings are logged.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Settings")
            .field("bucket", &self.bucket)
            .field("region", &self.region)
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

/// An etcd cluster that coordinates brokers.
#[derive(Clone, PartialEq, Eq)]
pub struct EtcdSettings {
    /// Its members.
    pub endpoints: Vec<String>,
    /// User and password.
    pub user: Option<(String, String)>,
    /// Authorities of its certificates.
    pub ca_file: Option<PathBuf>,
    /// This broker's certificate and key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// What comes before every key.
    pub prefix: String,
}

impl fmt::Debug for EtcdSettings {
    /// Without the password: settings are logged.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdSettings")
            .field("endpoints", &self.endpoints)
            .finish_non_exhaustive()
    }
}

/// The bucket, if one is set.
pub(super) fn s3(values: &Values, mistakes: &mut Vec<String>) -> Option<S3Settings> {
    let text = |name| values.optional_text(name);
    let Some(bucket) = text("s3_bucket") else {
        without(values, "s3_bucket", &S3_EXTRAS, mistakes);
        return None;
    };
    if values.bool("use_memory_s3") {
        mistakes
            .push("s3_bucket and use_memory_s3 are both set: records are kept in one of them; unset the other".into());
    }
    let region = text("s3_region").unwrap_or_default();
    let endpoint = text("s3_endpoint");
    for (name, endpoint) in [
        ("s3_endpoint", &endpoint),
        ("s3_read_endpoint", &text("s3_read_endpoint")),
    ] {
        check_urls(name, endpoint.iter(), mistakes);
    }
    let keys = match (text("s3_access_key"), text("s3_secret_key")) {
        (Some(id), Some(secret)) => Some((id, secret, text("s3_session_token"))),
        (None, None) => None,
        _ => {
            mistakes.push("s3_access_key and s3_secret_key go together: set both or none".into());
            None
        }
    };
    let replica = text("s3_read_bucket").map(|bucket| {
        let region = text("s3_read_region").unwrap_or_else(|| region.clone());
        (bucket, region, text("s3_read_endpoint").or_else(|| endpoint.clone()))
    });
    Some(S3Settings {
        path_style: match values.text("s3_path_style") {
            Some(_) => values.bool("s3_path_style"),
            None => endpoint.is_some(),
        },
        bucket,
        region,
        endpoint,
        keys,
        kms_arn: text("s3_kms_arn"),
        storage_class: text("s3_storage_class"),
        ca_file: values.optional_path("s3_ca_file"),
        replica,
        concurrency: values.number("s3_concurrency"),
        request_timeout_ms: values.number("s3_request_timeout_ms"),
    })
}

/// Settings that mean nothing without a bucket.
const S3_EXTRAS: [&str; 4] = ["s3_endpoint", "s3_access_key", "s3_secret_key", "s3_read_bucket"];

/// The etcd cluster, if one is set.
pub(super) fn etcd(values: &Values, mistakes: &mut Vec<String>) -> Option<EtcdSettings> {
    let Some(endpoints) = values.text("etcd_endpoints") else {
        without(
            values,
            "etcd_endpoints",
            &["etcd_username", "etcd_ca_file", "etcd_prefix"],
            mistakes,
        );
        return None;
    };
    let endpoints: Vec<String> = endpoints.split(',').map(|one| one.trim().to_owned()).collect();
    if endpoints.iter().any(String::is_empty) {
        mistakes.push("etcd_endpoints has an empty entry: write http://host:2379,http://other:2379".into());
    }
    if values.text("s3_bucket").is_none() {
        mistakes.push(
            "etcd_endpoints is set and s3_bucket is not: brokers that share an etcd have to share their records too; set \
             s3_bucket, or unset etcd_endpoints to run a single broker"
                .into(),
        );
    }
    let pair = |first: &str, second: &str, mistakes: &mut Vec<String>| match (values.text(first), values.text(second)) {
        (Some(a), Some(b)) => Some((a.to_owned(), b.to_owned())),
        (None, None) => None,
        _ => {
            mistakes.push(format!("{first} and {second} go together: set both or none"));
            None
        }
    };
    Some(EtcdSettings {
        endpoints,
        user: pair("etcd_username", "etcd_password", mistakes),
        ca_file: values.optional_path("etcd_ca_file"),
        identity: pair("etcd_cert_file", "etcd_key_file", mistakes).map(|(cert, key)| (cert.into(), key.into())),
        prefix: values.optional_text("etcd_prefix").unwrap_or_default(),
    })
}

fn without(values: &Values, needed: &str, extras: &[&str], mistakes: &mut Vec<String>) {
    for extra in extras.iter().filter(|name| values.text(name).is_some()) {
        mistakes.push(format!(
            "{extra} is set and {needed} is not: set {needed} too, or unset {extra}"
        ));
    }
}

fn check_urls<'a>(name: &str, urls: impl Iterator<Item = &'a String>, mistakes: &mut Vec<String>) {
    for url in urls.filter(|url| !url.starts_with("http://") && !url.starts_with("https://")) {
        mistakes.push(format!(
            "{name} is {url:?}, but http://host:port or https://host is needed"
        ));
    }
}
