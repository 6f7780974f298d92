//! What is done to etcd from Jobs and before a member starts: snapshots to a bucket, restore, defragmentation.
//!
//! These run as processes of their own, told by variables; nothing here talks to the API server.

use etcd_client::{Certificate, Client, ConnectOptions, Identity, TlsOptions};
use futures::{StreamExt, TryStreamExt};
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::buffered::BufWriter;
use object_store::path::Path as Key;
use object_store::{ObjectStore, ObjectStoreExt};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// How long a member may take to answer.
const ANSWER: Duration = Duration::from_secs(30);
/// How long a member may take to defragment, during which it does not answer.
const DEFRAGMENTATION: Duration = Duration::from_secs(600);
/// How long a member may take until it serves again after that.
const RECOVERY_LOOKS: u32 = 60;
/// Parts of an upload; the smallest that S3 takes is 5 MiB.
const PART_BYTES: usize = 8 << 20;
/// Bytes that are hashed and copied at once.
const CHUNK_BYTES: usize = 1 << 20;
/// etcd ends a snapshot with its SHA-256.
const DIGEST_BYTES: u64 = 32;
/// What etcd's files consist of.
const PAGE_BYTES: u64 = 512;
/// A restored etcd goes on so many revisions later, so that what somebody saw before is not taken for something new.
const REVISIONS_AHEAD: &str = "1000000000";

/// Ends of a command that are told apart by the operator; see [`ToolError::exit_code`].
pub const EXIT_BUCKET: u8 = 4;

/// Why a command did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// A variable is missing.
    #[error("set {0}")]
    Missing(&'static str),
    /// A variable says nothing that can be.
    #[error("{0} is {1:?}, which it cannot be")]
    Variable(&'static str, String),
    /// A file of ours cannot be read or written.
    #[error("{0}: {1}")]
    File(PathBuf, #[source] std::io::Error),
    /// etcd does not answer, or refuses.
    #[error("etcd {0}: {1}")]
    Etcd(String, #[source] Box<etcd_client::Error>),
    /// A member did not come back: the others are left alone.
    #[error("etcd {0} does not serve; nothing more is done")]
    Unhealthy(String),
    /// The bucket does not answer, or refuses.
    #[error("bucket: {0}: {1}")]
    Bucket(String, #[source] Box<object_store::Error>),
    /// What came is not what was sent.
    #[error("{0} is damaged: {1}")]
    Damaged(String, &'static str),
    /// etcd's own tool failed; its words are above.
    #[error("{0} ended with {1}")]
    Restore(PathBuf, std::process::ExitStatus),
}

impl ToolError {
    /// How the process ends.
    pub fn exit_code(&self) -> u8 {
        match self {
            ToolError::Bucket(..) => EXIT_BUCKET,
            _ => 1,
        }
    }
}

fn file(path: &Path) -> impl FnOnce(std::io::Error) -> ToolError + '_ {
    move |error| ToolError::File(path.to_path_buf(), error)
}

fn bucket(doing: impl Into<String>) -> impl FnOnce(object_store::Error) -> ToolError {
    let doing = doing.into();
    move |error| ToolError::Bucket(doing, Box::new(error))
}

fn etcd(endpoint: &str) -> impl Fn(etcd_client::Error) -> ToolError + '_ {
    move |error| ToolError::Etcd(endpoint.to_string(), Box::new(error))
}

fn optional(name: &'static str) -> Option<String> {
    std::env::var(name).ok().filter(|text| !text.is_empty())
}

fn needed(name: &'static str) -> Result<String, ToolError> {
    optional(name).ok_or(ToolError::Missing(name))
}

/// Takes a snapshot, uploads it with its checksum, and deletes those beyond the number that is kept.
///
/// # Errors
/// If any of this fails; what was uploaded without its checksum counts as not there.
pub async fn snapshot() -> Result<(), ToolError> {
    let kept: usize = {
        let text = needed("KAFSCALE_SNAPSHOTS_KEPT")?;
        let number = text.parse().ok().filter(|number| *number > 0);
        number.ok_or(ToolError::Variable("KAFSCALE_SNAPSHOTS_KEPT", text))?
    };
    let scratch = PathBuf::from(needed("KAFSCALE_SNAPSHOT_SCRATCH")?).join("snapshot.db");
    let snapshots = Snapshots::from_environment()?;
    // Whether the bucket lets us in is told apart from whether etcd answers.
    snapshots.names().await?;
    let (revision, digest) = save(&scratch).await?;
    let name = snapshot_name(k8s_openapi::jiff::Timestamp::now(), revision);
    snapshots.put(&name, &scratch, &digest).await?;
    log::info!("snapshot {name} of revision {revision}, sha256 {digest}");
    let names = snapshots.names().await?;
    for old in &names[..names.len().saturating_sub(kept)] {
        snapshots.delete(old).await?;
        log::info!("snapshot {old} is deleted");
    }
    Ok(())
}

/// Names sort by time.
fn snapshot_name(now: k8s_openapi::jiff::Timestamp, revision: i64) -> String {
    format!("{}-r{revision}.db", now.strftime("%Y-%m-%dT%H-%M-%SZ"))
}

/// Saves what the first member that answers has; returns its revision and the file's SHA-256.
async fn save(to: &Path) -> Result<(i64, String), ToolError> {
    let mut last = ToolError::Missing("KAFSCALE_ETCD_ENDPOINTS");
    for endpoint in endpoints()? {
        match save_from(&endpoint, to).await {
            Ok(saved) => return Ok(saved),
            Err(error) => {
                log::warn!("{error}");
                last = error;
            }
        }
    }
    Err(last)
}

async fn save_from(endpoint: &str, to: &Path) -> Result<(i64, String), ToolError> {
    let mut client = connect(endpoint, ANSWER).await?;
    let status = client.status().await.map_err(etcd(endpoint))?;
    let revision = status.header().map_or(0, etcd_client::ResponseHeader::revision);
    // The whole stream may take longer than any one answer.
    let mut client = connect(endpoint, Duration::MAX).await?;
    let mut stream = client.snapshot().await.map_err(etcd(endpoint))?;
    let mut out = File::create(to).await.map_err(file(to))?;
    loop {
        let next = tokio::time::timeout(ANSWER, stream.message()).await;
        let next = next.map_err(|_| ToolError::Unhealthy(endpoint.to_string()))?;
        let Some(part) = next.map_err(etcd(endpoint))? else {
            break;
        };
        out.write_all(part.blob()).await.map_err(file(to))?;
    }
    out.flush().await.map_err(file(to))?;
    Ok((revision, checked_digest(to).await?))
}

/// SHA-256 of the file, once etcd's own at its end was found right.
async fn checked_digest(path: &Path) -> Result<String, ToolError> {
    let damaged = |why| ToolError::Damaged(path.display().to_string(), why);
    let mut input = File::open(path).await.map_err(file(path))?;
    let length = input.metadata().await.map_err(file(path))?.len();
    if length % PAGE_BYTES != DIGEST_BYTES {
        return Err(damaged("it does not end with etcd's checksum"));
    }
    let (mut whole, mut content) = (Sha256::new(), Sha256::new());
    let mut left = length - DIGEST_BYTES;
    let mut chunk = vec![0; CHUNK_BYTES];
    while left > 0 {
        let size = (CHUNK_BYTES as u64).min(left) as usize;
        input.read_exact(&mut chunk[..size]).await.map_err(file(path))?;
        whole.update(&chunk[..size]);
        content.update(&chunk[..size]);
        left -= size as u64;
    }
    let end = &mut chunk[..DIGEST_BYTES as usize];
    input.read_exact(end).await.map_err(file(path))?;
    whole.update(&*end);
    if content.finalize().as_slice() != &*end {
        return Err(damaged("etcd's checksum is another"));
    }
    Ok(hex(&whole.finalize()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn endpoints() -> Result<Vec<String>, ToolError> {
    let text = needed("KAFSCALE_ETCD_ENDPOINTS")?;
    Ok(text.split(',').map(str::to_string).collect())
}

async fn connect(endpoint: &str, answer: Duration) -> Result<Client, ToolError> {
    let pem = |name| -> Result<Vec<u8>, ToolError> {
        let path = PathBuf::from(needed(name)?);
        std::fs::read(&path).map_err(file(&path))
    };
    let mut options = ConnectOptions::new().with_connect_timeout(ANSWER);
    if answer < Duration::MAX {
        options = options.with_timeout(answer);
    }
    if endpoint.starts_with("https://") {
        let authorities = Certificate::from_pem(pem("KAFSCALE_ETCD_CA_FILE")?);
        let identity = Identity::from_pem(pem("KAFSCALE_ETCD_CERT_FILE")?, pem("KAFSCALE_ETCD_KEY_FILE")?);
        options = options.with_tls(TlsOptions::new().ca_certificate(authorities).identity(identity));
    }
    Client::connect([endpoint], Some(options)).await.map_err(etcd(endpoint))
}

/// Defragments all members, the leader last, each once the one before serves again.
///
/// # Errors
/// If one does not serve, before or after: the others are left alone then.
pub async fn defragment() -> Result<(), ToolError> {
    let endpoints = endpoints()?;
    let mut members = Vec::new();
    for endpoint in &endpoints {
        let mut client = connect(endpoint, ANSWER).await?;
        let status = client.status().await.map_err(etcd(endpoint))?;
        let leads = status
            .header()
            .is_some_and(|header| header.member_id() == status.leader());
        members.push((leads, endpoint));
    }
    members.sort();
    for (_, endpoint) in members {
        let before = until_it_serves(endpoint).await?;
        let mut client = connect(endpoint, DEFRAGMENTATION).await?;
        client.defragment().await.map_err(etcd(endpoint))?;
        let after = until_it_serves(endpoint).await?;
        log::info!("{endpoint}: {before} bytes before, {after} after");
    }
    Ok(())
}

/// Waits until a member takes part in the cluster; returns the size of its file.
async fn until_it_serves(endpoint: &str) -> Result<i64, ToolError> {
    for _ in 0..RECOVERY_LOOKS {
        let look = async {
            let mut client = connect(endpoint, ANSWER).await?;
            // A read that a majority agrees to.
            client.get("health", None).await.map_err(etcd(endpoint))?;
            client.status().await.map_err(etcd(endpoint))
        };
        match look.await {
            Ok(status) if status.leader() != 0 => return Ok(status.db_size()),
            Ok(_) => log::warn!("{endpoint} knows no leader"),
            Err(error) => log::warn!("{error}"),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    Err(ToolError::Unhealthy(endpoint.to_string()))
}

/// Fills the data directory of a member from a snapshot, if it is not there.
///
/// # Errors
/// If the snapshot is not there or damaged, or etcd's own tool fails; the data directory is not there then.
pub async fn restore() -> Result<(), ToolError> {
    let data = PathBuf::from(needed("KAFSCALE_MEMBER_DATA")?);
    if data.exists() {
        log::info!("{} is there: nothing is restored", data.display());
        return Ok(());
    }
    let name = needed("KAFSCALE_SNAPSHOT_NAME")?;
    let (download, restoring) = (data.with_extension("download"), data.with_extension("restoring"));
    Snapshots::from_environment()?.get(&name, &download).await?;
    // Of an attempt before.
    if restoring.exists() {
        std::fs::remove_dir_all(&restoring).map_err(file(&restoring))?;
    }
    let tool = PathBuf::from(optional("KAFSCALE_ETCDUTL").unwrap_or_else(|| "/usr/local/bin/etcdutl".to_string()));
    let status = tokio::process::Command::new(&tool)
        .args(["snapshot", "restore"])
        .arg(&download)
        .arg("--data-dir")
        .arg(&restoring)
        .args(["--bump-revision", REVISIONS_AHEAD, "--mark-compacted"])
        .args(["--name", &needed("KAFSCALE_MEMBER_NAME")?])
        .args(["--initial-advertise-peer-urls", &needed("KAFSCALE_MEMBER_PEER_URL")?])
        .args(["--initial-cluster", &needed("KAFSCALE_MEMBER_CLUSTER")?])
        .args(["--initial-cluster-token", &needed("KAFSCALE_MEMBER_TOKEN")?])
        .status()
        .await
        .map_err(file(&tool))?;
    if !status.success() {
        return Err(ToolError::Restore(tool, status));
    }
    std::fs::rename(&restoring, &data).map_err(file(&data))?;
    std::fs::remove_file(&download).map_err(file(&download))?;
    log::info!("{} is restored from {name}", data.display());
    Ok(())
}

/// The snapshots of one cluster.
struct Snapshots {
    store: Arc<AmazonS3>,
    prefix: Key,
}

impl Snapshots {
    fn from_environment() -> Result<Self, ToolError> {
        // What is not said here is found as AWS tools find it.
        let mut builder = AmazonS3Builder::from_env()
            .with_bucket_name(needed("KAFSCALE_S3_BUCKET")?)
            .with_region(optional("KAFSCALE_S3_REGION").unwrap_or_else(|| "us-east-1".to_string()));
        if let Some(endpoint) = optional("KAFSCALE_S3_ENDPOINT") {
            builder = builder
                .with_allow_http(endpoint.starts_with("http://"))
                .with_endpoint(endpoint)
                .with_virtual_hosted_style_request(false);
        }
        if let Some(key) = optional("KAFSCALE_S3_ACCESS_KEY") {
            builder = builder
                .with_access_key_id(key)
                .with_secret_access_key(needed("KAFSCALE_S3_SECRET_KEY")?);
        }
        if let Some(token) = optional("KAFSCALE_S3_SESSION_TOKEN") {
            builder = builder.with_token(token);
        }
        if let Some(key) = optional("KAFSCALE_S3_KMS_ARN") {
            builder = builder.with_sse_kms_encryption(key);
        }
        Ok(Snapshots {
            store: Arc::new(builder.build().map_err(bucket("open"))?),
            prefix: Key::from(needed("KAFSCALE_SNAPSHOT_PREFIX")?),
        })
    }

    fn key(&self, name: &str) -> Key {
        self.prefix.clone().join(name)
    }

    fn checksum_key(&self, name: &str) -> Key {
        self.key(&format!("{name}.sha256"))
    }

    /// Complete ones, the oldest first.
    async fn names(&self) -> Result<Vec<String>, ToolError> {
        let listed: Vec<_> = self
            .store
            .list(Some(&self.prefix))
            .try_collect()
            .await
            .map_err(bucket("list"))?;
        let mut names: Vec<String> = listed
            .iter()
            .filter_map(|object| object.location.filename()?.strip_suffix(".sha256").map(str::to_string))
            .collect();
        names.sort();
        Ok(names)
    }

    /// Uploads a file; its checksum, as `sha256sum` writes it, comes last.
    async fn put(&self, name: &str, path: &Path, digest: &str) -> Result<(), ToolError> {
        let upload = |error: std::io::Error| {
            let source = Box::new(error);
            bucket(format!("put {name}"))(object_store::Error::Generic { store: "S3", source })
        };
        let mut input = File::open(path).await.map_err(file(path))?;
        let length = input.metadata().await.map_err(file(path))?.len();
        let mut out = BufWriter::with_capacity(self.store.clone(), self.key(name), PART_BYTES);
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            let size = input.read(&mut chunk).await.map_err(file(path))?;
            if size == 0 {
                break;
            }
            out.write_all(&chunk[..size]).await.map_err(upload)?;
        }
        out.shutdown().await.map_err(upload)?;
        let there = self
            .store
            .head(&self.key(name))
            .await
            .map_err(bucket(format!("look at {name}")))?;
        if there.size != length {
            return Err(ToolError::Damaged(name.to_string(), "the store has another size of it"));
        }
        let line = format!("{digest}  {name}\n");
        let put = self.store.put(&self.checksum_key(name), line.into()).await;
        put.map(|_| ()).map_err(bucket(format!("put the checksum of {name}")))
    }

    /// Downloads to a file, and compares the checksum.
    async fn get(&self, name: &str, path: &Path) -> Result<(), ToolError> {
        let line = self.store.get(&self.checksum_key(name)).await;
        let line = line.map_err(bucket(format!("get the checksum of {name}")))?;
        let line = line
            .bytes()
            .await
            .map_err(bucket(format!("get the checksum of {name}")))?;
        let found = self.store.get(&self.key(name)).await;
        let mut parts = found.map_err(bucket(format!("get {name}")))?.into_stream();
        let mut out = File::create(path).await.map_err(file(path))?;
        while let Some(part) = parts.next().await {
            let part = part.map_err(bucket(format!("get {name}")))?;
            out.write_all(&part).await.map_err(file(path))?;
        }
        out.flush().await.map_err(file(path))?;
        out.sync_all().await.map_err(file(path))?;
        let digest = checked_digest(path).await?;
        if line.split(|byte| *byte == b' ').next() != Some(digest.as_bytes()) {
            return Err(ToolError::Damaged(name.to_string(), "its checksum is another"));
        }
        Ok(())
    }

    /// Deletes one; without its checksum it is none any more.
    async fn delete(&self, name: &str) -> Result<(), ToolError> {
        for key in [self.checksum_key(name), self.key(name)] {
            self.store
                .delete(&key)
                .await
                .map_err(bucket(format!("delete {name}")))?;
        }
        Ok(())
    }
}
