//! Buckets as directories: what the server does once a request is understood and its signature is verified.
//!
//! Each object is one file: a line of JSON that describes it, then its bytes. It is written under another name and
//! renamed, so a server that is killed leaves whole objects only. An index in memory answers listings, and makes
//! conditional creation atomic: a file gets its name while the index is locked.

use crate::front::{collect, IGNORE_CONDITIONS};
use base64::prelude::{Engine, BASE64_STANDARD};
use bytes::Bytes;
use percent_encoding::{utf8_percent_encode, NON_ALPHANUMERIC};
use s3s::dto::{
    ChecksumMode, DeleteObjectInput, DeleteObjectOutput, DeleteObjectsInput, DeleteObjectsOutput, DeletedObject, ETag,
    ETagCondition, EncodingType, GetObjectInput, GetObjectOutput, HeadBucketInput, HeadBucketOutput, HeadObjectInput,
    HeadObjectOutput, ListObjectsV2Input, ListObjectsV2Output, Object, PutObjectInput, PutObjectOutput, StreamingBlob,
    Timestamp,
};
use s3s::{s3_error, Body, S3Error, S3Request, S3Response, S3Result, S3};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::ops::Bound;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What ends the name of a whole object's file.
const WHOLE: &str = "object";

/// The line that a file begins with.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Description {
    key: String,
    size: u64,
    modified_ms: u64,
    /// CRC-32C of the bytes, as S3 writes it.
    crc32c: String,
}

#[derive(Debug, Clone)]
struct Stored {
    file: u64,
    description: Description,
}

#[derive(Debug)]
struct Bucket {
    path: PathBuf,
    next_file: AtomicU64,
    objects: Mutex<BTreeMap<String, Stored>>,
}

/// All buckets of a server; clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Directory {
    buckets: Arc<BTreeMap<String, Bucket>>,
}

impl Directory {
    pub(crate) fn open(root: &Path, buckets: &[String]) -> io::Result<Self> {
        let open = |name: &String| Ok((name.clone(), Bucket::open(root.join(name))?));
        let buckets = buckets.iter().map(open).collect::<io::Result<_>>()?;
        Ok(Directory {
            buckets: Arc::new(buckets),
        })
    }

    /// The keys of a bucket.
    pub(crate) fn keys(&self, bucket: &str) -> Vec<String> {
        let keys = self
            .buckets
            .get(bucket)
            .map(|bucket| bucket.lock().keys().cloned().collect());
        keys.unwrap_or_default()
    }

    /// Removes an object, without anybody having asked for it.
    pub(crate) fn lose(&self, bucket: &str, key: &str) {
        if let Some(bucket) = self.buckets.get(bucket) {
            bucket.remove(key);
        }
    }

    /// Makes an object another one, of which the server knows no better. False if it is not there.
    pub(crate) fn change(&self, bucket: &str, key: &str, change: impl FnOnce(&mut Vec<u8>)) -> io::Result<bool> {
        let Some((bucket, stored)) = self
            .buckets
            .get(bucket)
            .and_then(|bucket| Some((bucket, bucket.get(key).ok()?)))
        else {
            return Ok(false);
        };
        let mut content = bucket.read(&stored, 0, stored.description.size)?.to_vec();
        change(&mut content);
        let body = [Bytes::from(content)];
        let description = describe(key.to_string(), &body);
        bucket.put(description, &body, false).map_err(io::Error::other)?;
        Ok(true)
    }

    fn bucket(&self, name: &str) -> S3Result<&Bucket> {
        self.buckets.get(name).ok_or_else(|| s3_error!(NoSuchBucket))
    }
}

impl Bucket {
    fn open(path: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&path)?;
        let mut files = Vec::new();
        for entry in fs::read_dir(&path)? {
            let path = entry?.path();
            let number = path.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok());
            match number {
                Some(number) if path.extension().is_some_and(|extension| extension == WHOLE) => files.push(number),
                _ => fs::remove_file(&path)?,
            }
        }
        // Of two with the same key the later one counts.
        files.sort_unstable();
        let bucket = Bucket {
            next_file: AtomicU64::new(files.last().map_or(0, |last| last + 1)),
            path,
            objects: Mutex::default(),
        };
        for file in files {
            let mut line = String::new();
            BufReader::new(File::open(bucket.file(file))?).read_line(&mut line)?;
            let description: Description = serde_json::from_str(&line)?;
            bucket.insert(&mut bucket.lock(), Stored { file, description });
        }
        Ok(bucket)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Stored>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file(&self, number: u64) -> PathBuf {
        self.path.join(format!("{number:020}.{WHOLE}"))
    }

    fn get(&self, key: &str) -> S3Result<Stored> {
        self.lock().get(key).cloned().ok_or_else(|| s3_error!(NoSuchKey))
    }

    fn insert(&self, objects: &mut BTreeMap<String, Stored>, stored: Stored) {
        if let Some(before) = objects.insert(stored.description.key.clone(), stored) {
            let _ = fs::remove_file(self.file(before.file));
        }
    }

    fn remove(&self, key: &str) {
        if let Some(stored) = self.lock().remove(key) {
            let _ = fs::remove_file(self.file(stored.file));
        }
    }

    /// Writes an object; nothing that exists is replaced if `create_only`.
    fn put(&self, description: Description, body: &[Bytes], create_only: bool) -> S3Result<()> {
        let file = self.next_file.fetch_add(1, Ordering::Relaxed);
        let temporary = self.path.join(format!("{file:020}.part"));
        write(&temporary, &description, body).map_err(S3Error::internal_error)?;
        let mut objects = self.lock();
        if create_only && objects.contains_key(&description.key) {
            let _ = fs::remove_file(&temporary);
            return Err(s3_error!(PreconditionFailed));
        }
        fs::rename(&temporary, self.file(file)).map_err(S3Error::internal_error)?;
        self.insert(&mut objects, Stored { file, description });
        Ok(())
    }

    fn read(&self, stored: &Stored, from: u64, len: u64) -> io::Result<Bytes> {
        let file = File::open(self.file(stored.file))?;
        let start = file.metadata()?.len() - stored.description.size;
        let mut bytes = vec![0; len as usize];
        file.read_exact_at(&mut bytes, start + from)?;
        Ok(bytes.into())
    }
}

fn write(path: &Path, description: &Description, body: &[Bytes]) -> io::Result<()> {
    let mut file = File::create(path)?;
    let mut line = serde_json::to_vec(description)?;
    line.push(b'\n');
    file.write_all(&line)?;
    body.iter().try_for_each(|part| file.write_all(part))
}

fn etag(description: &Description) -> ETag {
    ETag::Strong(format!("{}-{}", description.crc32c, description.size))
}

fn modified(description: &Description) -> Timestamp {
    (UNIX_EPOCH + Duration::from_millis(description.modified_ms)).into()
}

fn describe(key: String, body: &[Bytes]) -> Description {
    let crc = body.iter().fold(0, |crc, part| crc32c::crc32c_append(crc, part));
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Description {
        key,
        size: body.iter().map(|part| part.len() as u64).sum(),
        modified_ms: since.as_millis() as u64,
        crc32c: BASE64_STANDARD.encode(crc.to_be_bytes()),
    }
}

#[async_trait::async_trait]
impl S3 for Directory {
    async fn put_object(&self, request: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        let create_only = match &request.input.if_none_match {
            None => false,
            Some(ETagCondition::Any) => !request.headers.contains_key(IGNORE_CONDITIONS),
            Some(ETagCondition::ETag(_)) => return Err(s3_error!(NotImplemented)),
        };
        let input = request.input;
        let bucket = self.bucket(&input.bucket)?;
        let body = match input.body {
            Some(body) => collect(body).await.map_err(|_| s3_error!(IncompleteBody))?,
            None => Vec::new(),
        };
        let description = describe(input.key, &body);
        if input
            .content_length
            .is_some_and(|length| length as u64 != description.size)
        {
            return Err(s3_error!(IncompleteBody));
        }
        if input.checksum_crc32c.is_some_and(|sent| sent != description.crc32c) {
            return Err(s3_error!(BadDigest));
        }
        let output = PutObjectOutput {
            e_tag: Some(etag(&description)),
            checksum_crc32c: Some(description.crc32c.clone()),
            ..PutObjectOutput::default()
        };
        bucket.put(description, &body, create_only)?;
        Ok(S3Response::new(output))
    }

    async fn get_object(&self, request: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let input = request.input;
        let bucket = self.bucket(&input.bucket)?;
        let stored = bucket.get(&input.key)?;
        let size = stored.description.size;
        let range = match input.range {
            // No range says "nothing", so an empty object has none, not even at its end.
            Some(_) if size == 0 => return Err(s3_error!(InvalidRange)),
            Some(range) => range.check(size)?,
            None => 0..size,
        };
        let len = range.end - range.start;
        let bytes = match bucket.read(&stored, range.start, len) {
            // It was deleted meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(s3_error!(NoSuchKey)),
            read => read.map_err(S3Error::internal_error)?,
        };
        let checked = input
            .checksum_mode
            .is_some_and(|mode| mode.as_str() == ChecksumMode::ENABLED)
            && len == size;
        Ok(S3Response::new(GetObjectOutput {
            body: Some(StreamingBlob::from(Body::from(bytes))),
            content_length: Some(len as i64),
            content_range: input
                .range
                .map(|_| format!("bytes {}-{}/{size}", range.start, range.end - 1)),
            checksum_crc32c: checked.then(|| stored.description.crc32c.clone()),
            e_tag: Some(etag(&stored.description)),
            last_modified: Some(modified(&stored.description)),
            ..GetObjectOutput::default()
        }))
    }

    async fn head_object(&self, request: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        let input = request.input;
        let stored = self.bucket(&input.bucket)?.get(&input.key)?;
        Ok(S3Response::new(HeadObjectOutput {
            content_length: Some(stored.description.size as i64),
            e_tag: Some(etag(&stored.description)),
            last_modified: Some(modified(&stored.description)),
            ..HeadObjectOutput::default()
        }))
    }

    async fn head_bucket(&self, request: S3Request<HeadBucketInput>) -> S3Result<S3Response<HeadBucketOutput>> {
        self.bucket(&request.input.bucket)?;
        Ok(S3Response::new(HeadBucketOutput::default()))
    }

    async fn delete_object(&self, request: S3Request<DeleteObjectInput>) -> S3Result<S3Response<DeleteObjectOutput>> {
        self.bucket(&request.input.bucket)?.remove(&request.input.key);
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }

    async fn delete_objects(
        &self,
        request: S3Request<DeleteObjectsInput>,
    ) -> S3Result<S3Response<DeleteObjectsOutput>> {
        let is_checksum = |name: &str| name == "content-md5" || name.starts_with("x-amz-checksum-");
        if !request.headers.keys().any(|name| is_checksum(name.as_str())) {
            return Err(s3_error!(InvalidRequest, "a delete of many needs a checksum"));
        }
        let bucket = self.bucket(&request.input.bucket)?;
        let objects = request.input.delete.objects;
        if objects.len() > 1000 {
            return Err(s3_error!(MalformedXML));
        }
        objects.iter().for_each(|object| bucket.remove(&object.key));
        let deleted = |key| DeletedObject {
            key: Some(key),
            ..DeletedObject::default()
        };
        let quiet = request.input.delete.quiet.unwrap_or(false);
        let names = objects.into_iter().map(|object| object.key);
        Ok(S3Response::new(DeleteObjectsOutput {
            deleted: (!quiet).then(|| names.map(deleted).collect()),
            ..DeleteObjectsOutput::default()
        }))
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let input = request.input;
        if input.delimiter.is_some() {
            return Err(s3_error!(NotImplemented));
        }
        let prefix = input.prefix.unwrap_or_default();
        let token = input
            .continuation_token
            .as_ref()
            .map(|token| BASE64_STANDARD.decode(token));
        let token = token.transpose().map_err(|_| s3_error!(InvalidArgument))?;
        let token = token.map(|token| String::from_utf8_lossy(&token).into_owned());
        let after = token.max(input.start_after.clone()).unwrap_or_default();
        let limit = input.max_keys.unwrap_or(1000).clamp(0, 1000) as usize;
        let (found, more) = page(&self.bucket(&input.bucket)?.lock(), &prefix, &after, limit);
        let encoded = input
            .encoding_type
            .as_ref()
            .is_some_and(|how| how.as_str() == EncodingType::URL);
        let name = |key: &str| match encoded {
            true => utf8_percent_encode(key, NON_ALPHANUMERIC).to_string(),
            false => key.to_string(),
        };
        let last = found.last().map(|last| BASE64_STANDARD.encode(&last.key));
        let object = |description: &Description| Object {
            key: Some(name(&description.key)),
            size: Some(description.size as i64),
            e_tag: Some(etag(description)),
            last_modified: Some(modified(description)),
            ..Object::default()
        };
        Ok(S3Response::new(ListObjectsV2Output {
            name: Some(input.bucket),
            key_count: Some(found.len() as i32),
            max_keys: Some(limit as i32),
            is_truncated: Some(more),
            next_continuation_token: last.filter(|_| more),
            contents: Some(found.iter().map(object).collect()),
            prefix: Some(name(&prefix)),
            start_after: input.start_after.as_deref().map(name),
            encoding_type: input.encoding_type,
            ..ListObjectsV2Output::default()
        }))
    }
}

/// What comes after `after` and begins with `prefix`, at most `limit`, and whether there is more.
fn page(objects: &BTreeMap<String, Stored>, prefix: &str, after: &str, limit: usize) -> (Vec<Description>, bool) {
    let start = if after < prefix {
        Bound::Included(prefix)
    } else {
        Bound::Excluded(after)
    };
    let mut rest = objects
        .range::<str, _>((start, Bound::Unbounded))
        .take_while(|(key, _)| key.starts_with(prefix));
    let found = rest
        .by_ref()
        .take(limit)
        .map(|(_, stored)| stored.description.clone())
        .collect();
    (found, rest.next().is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(root: &Path) -> Directory {
        Directory::open(root, &["b".to_string()]).unwrap()
    }

    fn put(bucket: &Bucket, key: &str, body: &'static str, create_only: bool) -> S3Result<()> {
        let body = [Bytes::from(body)];
        bucket.put(describe(key.to_string(), &body), &body, create_only)
    }

    fn content(bucket: &Bucket, key: &str) -> Bytes {
        let stored = bucket.get(key).unwrap();
        bucket.read(&stored, 0, stored.description.size).unwrap()
    }

    #[test]
    fn of_conditional_puts_at_the_same_time_one_wins() {
        let root = std::env::temp_dir().join(format!("test-s3-race-{}", std::process::id()));
        let directory = open(&root);
        let bucket = directory.bucket("b").unwrap();
        for round in 0..50 {
            let key = format!("k{round}");
            let wins = std::thread::scope(|scope| {
                let writers: Vec<_> = (0..8).map(|_| scope.spawn(|| put(bucket, &key, "x", true))).collect();
                let wins = writers.into_iter().filter_map(|writer| writer.join().unwrap().ok());
                wins.count()
            });
            assert_eq!(wins, 1);
        }
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn whole_objects_survive_a_restart_and_halves_do_not() {
        let root = std::env::temp_dir().join(format!("test-s3-restart-{}", std::process::id()));
        {
            let directory = open(&root);
            let bucket = directory.bucket("b").unwrap();
            put(bucket, "a\nb", "first", false).unwrap();
            put(bucket, "a\nb", "second", false).unwrap();
            put(bucket, "gone", "x", false).unwrap();
            bucket.remove("gone");
            fs::write(bucket.path.join("00000000000000000009.part"), "half").unwrap();
        }
        let directory = open(&root);
        let bucket = directory.bucket("b").unwrap();
        assert_eq!(content(bucket, "a\nb"), "second");
        assert_eq!(bucket.lock().len(), 1);
        assert_eq!(fs::read_dir(&bucket.path).unwrap().count(), 1);
        put(bucket, "later", "y", true).unwrap();
        assert_eq!(
            (content(bucket, "later"), content(bucket, "a\nb")),
            ("y".into(), "second".into())
        );
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn a_page_begins_after_a_text_and_tells_of_more() {
        let keys = ["a", "b/1", "b/2", "b/3", "c"];
        let stored = |key: &str| Stored {
            file: 0,
            description: describe(key.to_string(), &[]),
        };
        let objects: BTreeMap<String, Stored> = keys.iter().map(|key| (key.to_string(), stored(key))).collect();
        let names = |prefix, after, limit| {
            let (found, more) = page(&objects, prefix, after, limit);
            (
                found.into_iter().map(|found| found.key).collect::<Vec<_>>().join(" "),
                more,
            )
        };
        assert_eq!(names("", "", 9), ("a b/1 b/2 b/3 c".to_string(), false));
        assert_eq!(names("b/", "", 2), ("b/1 b/2".to_string(), true));
        assert_eq!(names("b/", "b/2", 2), ("b/3".to_string(), false));
        assert_eq!(names("b/", "c", 2), (String::new(), false));
    }
}
