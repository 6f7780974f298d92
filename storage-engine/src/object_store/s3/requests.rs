//! The requests that the store makes, one attempt each, and what is checked of their answers.

use super::config::S3Config;
use super::dispatch::{Exchange, Remote, Reply};
use super::outcome::Failure;
use super::xml::Element;
use crate::object_store::{check_key, ListPage, ObjectMeta};
use base64::prelude::{Engine, BASE64_STANDARD};
use bytes::Bytes;
use percent_encoding::percent_decode_str;
use rusoto_core::ByteStream;
use rusoto_s3::{
    Delete, DeleteObjectRequest, DeleteObjectsRequest, GetObjectRequest, HeadObjectRequest, ListObjectsV2Request,
    ObjectIdentifier, PutObjectRequest, S3Client, S3,
};
use std::rc::Rc;
use std::time::Duration;

/// Keys that S3 lists or deletes at a time.
pub(super) const KEYS_PER_REQUEST_MAX: usize = 1000;

/// More than any of our objects has.
const SPAN_BYTES_LIKELY: u64 = 4 << 30;

/// Where and how one attempt is made.
#[derive(Clone, Copy)]
pub(super) struct Attempt<'a> {
    pub(super) remote: &'a Rc<Remote>,
    /// Use no connection that has served before.
    pub(super) fresh_only: bool,
    pub(super) limit: Duration,
}

/// Which bytes of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Span {
    /// From here, at most so many, at least one.
    From(u64, u64),
    /// At most so many at the end, at least one.
    Last(u64),
}

impl Span {
    /// How many bytes will come, as far as that is known: "all there is" may be anything.
    pub(super) fn bytes(self) -> u64 {
        let (Span::From(_, len) | Span::Last(len)) = self;
        if len > SPAN_BYTES_LIKELY {
            0
        } else {
            len
        }
    }
}

/// Bytes of an object, and its size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) bytes: Bytes,
    pub(super) object_len: u64,
}

/// Keys that were not deleted: the first one's code and message.
pub(super) type NotDeleted = Option<(String, String)>;

impl Attempt<'_> {
    fn exchange(&self) -> Exchange {
        Exchange::new(self.remote, self.fresh_only)
    }

    fn bucket(&self) -> String {
        self.remote.bucket.clone()
    }

    /// Writes an object if there is none of that name.
    pub(super) async fn create(&self, config: &S3Config, key: &str, body: &[Bytes], crc: u32) -> Result<(), Failure> {
        let len = body.iter().map(Bytes::len).sum();
        let parts: Vec<_> = body.iter().filter(|part| !part.is_empty()).cloned().map(Ok).collect();
        let request = PutObjectRequest {
            bucket: self.bucket(),
            key: key.to_string(),
            body: Some(ByteStream::new_with_size(futures::stream::iter(parts), len)),
            server_side_encryption: config.kms_key_arn.as_ref().map(|_| "aws:kms".to_string()),
            ssekms_key_id: config.kms_key_arn.clone(),
            storage_class: config.storage_class.clone(),
            ..PutObjectRequest::default()
        };
        let exchange = self
            .exchange()
            .header("if-none-match", "*")
            .header("x-amz-checksum-crc32c", encode_crc(crc));
        let put = |client: S3Client| async move { client.put_object(request).await };
        exchange.run(self.limit, put).await.map(drop)
    }

    /// Reads a part of an object. Fails with 416 if there is nothing of it.
    pub(super) async fn get(&self, key: &str, span: Span) -> Result<Part, Failure> {
        let (range, asked) = match span {
            // No object is that large. Of a whole object the store tells the checksum, of a range it may not.
            Span::From(0, len) if len > i64::MAX as u64 => (None, len),
            Span::From(from, len) if from.checked_add(len).is_none_or(|end| end > i64::MAX as u64) => {
                (Some(format!("bytes={from}-")), len)
            }
            Span::From(from, len) => (Some(format!("bytes={from}-{}", from + len - 1)), len),
            Span::Last(len) => (Some(format!("bytes=-{}", len.min(i64::MAX as u64))), len),
        };
        let request = GetObjectRequest {
            bucket: self.bucket(),
            key: key.to_string(),
            range,
            ..GetObjectRequest::default()
        };
        let exchange = self
            .exchange()
            .header("x-amz-checksum-mode", "ENABLED")
            .answer_max(asked);
        let get = |client: S3Client| async move { client.get_object(request).await };
        let reply = exchange.run(self.limit, get).await?;
        check_part(span, reply).map_err(Failure::Damaged)
    }

    /// An object's size.
    pub(super) async fn size(&self, key: &str) -> Result<u64, Failure> {
        let request = HeadObjectRequest {
            bucket: self.bucket(),
            key: key.to_string(),
            ..HeadObjectRequest::default()
        };
        let size = |client: S3Client| async move { client.head_object(request).await };
        let answer = self.exchange().run(self.limit, size).await;
        let reply = answer.map_err(|failure| match failure {
            // This answer has no body, so it cannot say more. It is only asked for after the object was seen.
            Failure::Answered { status: 404, .. } => Failure::Answered {
                status: 404,
                code: "NoSuchKey".to_string(),
                message: String::new(),
            },
            other => other,
        })?;
        reply
            .content_length
            .ok_or_else(|| Failure::Damaged("it has no length".to_string()))
    }

    /// One page of a listing as it comes, and the raw key to go on after.
    pub(super) async fn list(
        &self,
        prefix: &str,
        start_after: Option<&str>,
        limit: usize,
    ) -> Result<(ListPage, Option<String>), Failure> {
        let request = ListObjectsV2Request {
            bucket: self.bucket(),
            prefix: Some(prefix.to_string()),
            start_after: start_after.filter(|after| !after.is_empty()).map(str::to_string),
            max_keys: Some(limit.min(KEYS_PER_REQUEST_MAX) as i64),
            // XML cannot hold every character of a key.
            encoding_type: Some("url".to_string()),
            ..ListObjectsV2Request::default()
        };
        let list = |client: S3Client| async move { client.list_objects_v2(request).await };
        let reply = self.exchange().run(self.limit, list).await?;
        let page = Element::read(&reply.bytes, "ListBucketResult");
        page.and_then(|page| check_page(&page, prefix, start_after.unwrap_or("")))
            .map_err(Failure::Damaged)
    }

    /// Deletes one object.
    pub(super) async fn delete_one(&self, key: &str) -> Result<NotDeleted, Failure> {
        let request = DeleteObjectRequest {
            bucket: self.bucket(),
            key: key.to_string(),
            ..DeleteObjectRequest::default()
        };
        let delete = |client: S3Client| async move { client.delete_object(request).await };
        self.exchange().run(self.limit, delete).await.map(|_| None)
    }

    /// Deletes up to [`KEYS_PER_REQUEST_MAX`] objects whose keys XML can hold.
    pub(super) async fn delete_many(&self, keys: &[&String]) -> Result<NotDeleted, Failure> {
        let objects = keys.iter().map(|key| ObjectIdentifier {
            key: key.to_string(),
            version_id: None,
        });
        let request = DeleteObjectsRequest {
            bucket: self.bucket(),
            delete: Delete {
                objects: objects.collect(),
                quiet: Some(true),
            },
            ..DeleteObjectsRequest::default()
        };
        let delete = |client: S3Client| async move { client.delete_objects(request).await };
        let reply = self.exchange().run(self.limit, delete).await?;
        let result = Element::read(&reply.bytes, "DeleteResult").map_err(Failure::Damaged)?;
        let text = |error: &Element, name| error.text(name).unwrap_or_default().to_string();
        let mut errors = result
            .all("Error")
            .map(|error| (text(error, "Code"), text(error, "Message")));
        Ok(errors.find(|(code, _)| code != "NoSuchKey"))
    }
}

/// Whether XML can hold a key as it is: line ends are changed on the way, other control characters are not allowed, and
/// some servers trim blanks.
pub(super) fn is_plain(key: &str) -> bool {
    key.trim() == key
        && !key
            .chars()
            .any(|letter| letter.is_control() || matches!(letter, '\u{fffe}' | '\u{ffff}'))
}

fn encode_crc(crc: u32) -> String {
    BASE64_STANDARD.encode(crc.to_be_bytes())
}

/// Checks that these are the bytes that were asked for.
fn check_part(span: Span, reply: Reply) -> Result<Part, String> {
    let bytes = reply.bytes;
    let (from, object_len) = match (reply.status, &reply.content_range) {
        (206, Some(range)) => {
            parse_content_range(range, bytes.len() as u64).ok_or_else(|| format!("range {range:?}"))?
        }
        (206, None) => return Err("a part without a range".to_string()),
        _ => (0, bytes.len() as u64),
    };
    let (expected_from, expected_len) = match span {
        Span::From(from, len) => (from, len.min(object_len.saturating_sub(from))),
        Span::Last(len) => (object_len.saturating_sub(len), len.min(object_len)),
    };
    if (from, bytes.len() as u64) != (expected_from, expected_len) {
        let len = bytes.len();
        return Err(format!(
            "{len} bytes from {from} of {object_len} in place of {expected_len} from {expected_from}"
        ));
    }
    // The checksum is one of the whole object; that of a multipart object (`...-n`) is one of checksums.
    let crc = reply
        .crc32c
        .as_ref()
        .filter(|crc| bytes.len() as u64 == object_len && !crc.contains('-'));
    if crc.is_some_and(|crc| *crc != encode_crc(crc32c::crc32c(&bytes))) {
        return Err("the checksum is that of other bytes".to_string());
    }
    Ok(Part { bytes, object_len })
}

/// First byte and size of `bytes first-last/size`, if these are `len` bytes.
fn parse_content_range(range: &str, len: u64) -> Option<(u64, u64)> {
    let (part, size) = range.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = part.split_once('-')?;
    let (first, last, size): (u64, u64, u64) = (first.parse().ok()?, last.parse().ok()?, size.parse().ok()?);
    (last < size && last.checked_sub(first)? + 1 == len).then_some((first, size))
}

/// Checks order and names of a page.
fn check_page(page: &Element, prefix: &str, after: &str) -> Result<(ListPage, Option<String>), String> {
    let encoded = page.text("EncodingType") == Some("url");
    let mut objects = Vec::new();
    let mut last: Option<String> = None;
    for object in page.all("Contents") {
        let key = decode_key(object.text("Key").ok_or("an object without a key")?, encoded)?;
        if !key.starts_with(prefix) || key.as_str() <= last.as_deref().unwrap_or(after) {
            return Err(format!("key {key:?} is out of order"));
        }
        last = Some(key.clone());
        // Others may have put there what is no key here.
        if check_key(&key).is_err() {
            continue;
        }
        let size = object.text("Size").and_then(|size| size.trim().parse().ok());
        objects.push(ObjectMeta {
            size: size.ok_or("an object without a size")?,
            modified_ms: object.text("LastModified").map_or(Ok(0), parse_time)?,
            key,
        });
    }
    let more = match page.text("IsTruncated") {
        Some("true") => true,
        Some("false") => false,
        // Nobody knows whether this is all.
        _ => return Err("it does not say whether there is more".to_string()),
    };
    if more && last.is_none() {
        return Err("a page without keys before another".to_string());
    }
    Ok((ListPage { objects, more }, last))
}

fn decode_key(key: &str, encoded: bool) -> Result<String, String> {
    if !encoded {
        return Ok(key.to_string());
    }
    // S3 writes a blank as a plus, and a plus as %2B.
    let spaced = key.replace('+', " ");
    match percent_decode_str(&spaced).decode_utf8() {
        Ok(decoded) => Ok(decoded.into_owned()),
        Err(_) => Err(format!("key {key:?} is not UTF-8")),
    }
}

fn parse_time(text: &str) -> Result<i64, String> {
    let time = chrono::DateTime::parse_from_rfc3339(text.trim()).map_err(|error| format!("time {text:?}: {error}"))?;
    Ok(time.timestamp_millis())
}

#[cfg(test)]
mod tests;
