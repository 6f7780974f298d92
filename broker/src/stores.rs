//! Which stores the settings ask for, opened: directories of this machine, or a bucket and an etcd cluster that brokers
//! share. What is set is used, or the broker does not start: nothing falls back.

use crate::data_dir::{DataDir, DataDirError};
use crate::settings::{EtcdSettings, S3Settings, Settings};
use kafscale_aws_credentials::{self as aws, Refresher};
use kafscale_metastore::embedded::{EmbeddedMetastore, OpenError};
use kafscale_metastore::etcd::{ConnectError, EtcdConfig, EtcdMetastore, EtcdTls};
use kafscale_metastore::Metastore;
use kafscale_storage_engine::object_store::local::LocalStore;
use kafscale_storage_engine::object_store::memory::MemoryStore;
use kafscale_storage_engine::object_store::s3::{Bucket, Credentials, CredentialsHandle, Limits, S3Config, S3Store};
use kafscale_storage_engine::object_store::{ObjectStore, StoreError};
use std::rc::Rc;
use std::time::Duration;

/// The status of a process whose metastore could not commit: `EX_IOERR` of sysexits.
pub const METASTORE_FAILED: i32 = 74;

/// Ends the process after a failed commit of the embedded metastore: what the page cache has from now on may not be on the
/// disk (docs/decisions/0018).
fn end_of_trust(why: &str) {
    log::error!(
        "{why}: nobody knows what the disk has, so this process ends with status {METASTORE_FAILED}. What was acknowledged \
         is durable. Look into the kernel's log for the disk's errors, then start the broker again"
    );
    log::logger().flush();
    std::process::exit(METASTORE_FAILED);
}

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum StoresError {
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The embedded metastore cannot be opened.
    #[error("metastore: {0}")]
    Embedded(#[from] OpenError),
    /// etcd cannot be used.
    #[error("metastore: {0}")]
    Etcd(#[from] ConnectError),
    /// The object store cannot be opened.
    #[error("object store: {0}")]
    Objects(#[from] StoreError),
    /// There are no keys for the bucket.
    #[error("{0}; set s3_access_key and s3_secret_key, or one of the sources that AWS tools use")]
    Credentials(#[from] aws::Error),
}

/// The stores, for all shards.
pub struct Stores {
    /// Where the records are.
    pub objects: Objects,
    /// Where everything else is.
    pub metastore: MetastoreHandle,
    /// Held to the end: nobody else may use the directory meanwhile. None where nothing is kept on this machine.
    _data_dir: Option<DataDir>,
    /// Keeps the bucket's keys fresh. None where they are fixed.
    _refresher: Option<Refresher>,
}

/// The object store, as any thread may hold it.
#[derive(Clone)]
pub enum Objects {
    /// A directory.
    Local(LocalStore),
    /// Nowhere.
    Memory(MemoryStore),
    /// A bucket, and the keys to it.
    S3(Box<S3Config>, CredentialsHandle),
}

/// The metastore, as any thread may hold it.
#[derive(Clone)]
pub enum MetastoreHandle {
    /// A file of this broker.
    Embedded(EmbeddedMetastore),
    /// What brokers share.
    Etcd(EtcdMetastore),
}

impl Stores {
    /// Opens what the settings ask for.
    ///
    /// # Errors
    /// [`StoresError`] says what is in the way.
    pub fn open(settings: &Settings) -> Result<Stores, StoresError> {
        let data_dir = match (&settings.s3, &settings.etcd) {
            (Some(_), Some(_)) => None,
            _ => Some(DataDir::lock(&settings.data_dir)?),
        };
        let metastore = match &settings.etcd {
            Some(etcd) => MetastoreHandle::Etcd(EtcdMetastore::connect(etcd_config(etcd, settings.broker_id))?),
            None => MetastoreHandle::Embedded(EmbeddedMetastore::open(
                &settings.data_dir.join("metastore"),
                end_of_trust,
            )?),
        };
        let (objects, refresher) = open_objects(settings, data_dir.as_ref())?;
        Ok(Stores {
            objects,
            metastore,
            _data_dir: data_dir,
            _refresher: refresher,
        })
    }
}

/// The object store alone, for who works without the metastore.
pub struct ObjectsOnly {
    /// Where the records are.
    pub objects: Objects,
    _data_dir: Option<DataDir>,
    _refresher: Option<Refresher>,
}

impl ObjectsOnly {
    /// Opens what the settings ask for.
    ///
    /// # Errors
    /// [`StoresError`] says what is in the way.
    pub fn open(settings: &Settings) -> Result<ObjectsOnly, StoresError> {
        let data_dir = match &settings.s3 {
            Some(_) => None,
            None => Some(DataDir::lock(&settings.data_dir)?),
        };
        let (objects, refresher) = open_objects(settings, data_dir.as_ref())?;
        Ok(ObjectsOnly {
            objects,
            _data_dir: data_dir,
            _refresher: refresher,
        })
    }
}

fn open_objects(settings: &Settings, data_dir: Option<&DataDir>) -> Result<(Objects, Option<Refresher>), StoresError> {
    let mut refresher = None;
    let objects = if let Some(s3) = &settings.s3 {
        Objects::S3(Box::new(s3_config(s3)), credentials(s3, &mut refresher)?)
    } else if settings.use_memory_s3 {
        log::warn!("use_memory_s3 is set: records are kept in memory only and are lost with this process");
        Objects::Memory(MemoryStore::new())
    } else {
        let store = LocalStore::open(settings.data_dir.join("objects"))?;
        Objects::Local(match data_dir.map(DataDir::reserve) {
            Some(reserve) => store.while_there_is_room(move || reserve.check()),
            None => store,
        })
    };
    Ok((objects, refresher))
}

impl Objects {
    /// For the shard on whose thread this is called.
    ///
    /// # Errors
    /// If what is set about the bucket cannot work.
    pub fn for_shard(&self) -> Result<Rc<dyn ObjectStore>, StoreError> {
        Ok(match self {
            Objects::Local(store) => Rc::new(store.handle()),
            Objects::Memory(store) => Rc::new(store.clone()),
            Objects::S3(config, credentials) => Rc::new(S3Store::new((**config).clone(), credentials.clone())?),
        })
    }

    /// Whether others may use it too, so that what it promises has to be seen.
    pub fn is_shared(&self) -> bool {
        matches!(self, Objects::S3(..))
    }
}

impl MetastoreHandle {
    /// Whether other brokers use it, too.
    pub fn is_shared(&self) -> bool {
        matches!(self, MetastoreHandle::Etcd(_))
    }

    /// For the thread on which this is called.
    pub fn for_shard(&self) -> Rc<dyn Metastore> {
        match self {
            MetastoreHandle::Embedded(store) => Rc::new(store.clone()),
            MetastoreHandle::Etcd(store) => Rc::new(store.clone()),
        }
    }
}

fn etcd_config(settings: &EtcdSettings, broker_id: i32) -> EtcdConfig {
    let mut endpoints = settings.endpoints.clone();
    // The first is used until it fails: brokers spread over them.
    let first = broker_id.unsigned_abs() as usize % endpoints.len().max(1);
    endpoints.rotate_left(first);
    let (username, password) = settings.user.clone().unzip();
    let (cert_file, key_file) = settings.identity.clone().unzip();
    EtcdConfig {
        endpoints,
        username,
        password,
        tls: settings.ca_file.clone().map(|ca_file| EtcdTls {
            ca_file,
            cert_file,
            key_file,
            domain: None,
        }),
        key_prefix: settings.prefix.clone(),
        ..EtcdConfig::default()
    }
}

fn s3_config(settings: &S3Settings) -> S3Config {
    let bucket = |name: &str, region: &str, endpoint: &Option<String>| Bucket {
        name: name.to_owned(),
        region: region.to_owned(),
        endpoint: endpoint.clone(),
        connect_to: Vec::new(),
    };
    let replica = settings.replica.as_ref();
    S3Config {
        bucket: bucket(&settings.bucket, &settings.region, &settings.endpoint),
        path_style: settings.path_style,
        kms_key_arn: settings.kms_arn.clone(),
        storage_class: settings.storage_class.clone(),
        ca_file: settings.ca_file.clone(),
        read_replica: replica.map(|(name, region, endpoint)| bucket(name, region, endpoint)),
        limits: Limits {
            concurrency: settings.concurrency,
            request_timeout: Duration::from_millis(settings.request_timeout_ms),
            ..Limits::default()
        },
    }
}

/// The keys that are set, or those that are found where AWS tools find theirs, kept fresh.
fn credentials(settings: &S3Settings, refresher: &mut Option<Refresher>) -> Result<CredentialsHandle, aws::Error> {
    let keys = |found: aws::Credentials| Credentials {
        access_key: found.access_key,
        secret_key: found.secret_key,
        session_token: found.session_token,
        expires: found.expires,
    };
    if let Some((access_key, secret_key, session_token)) = settings.keys.clone() {
        return Ok(CredentialsHandle::new(Credentials {
            access_key,
            secret_key,
            session_token,
            expires: None,
        }));
    }
    // The handle can only be made of the first keys; later ones go through it.
    let (later, first) = std::sync::mpsc::channel::<CredentialsHandle>();
    let mut handle = None;
    let replace = move |found| {
        let handle = handle.get_or_insert_with(|| first.recv().ok());
        if let Some(handle) = handle {
            handle.set(keys(found));
        }
    };
    let (found, source, started) = Refresher::start(aws::Settings::default(), replace)?;
    log::info!("keys for the bucket come from {source}");
    *refresher = Some(started);
    let handle = CredentialsHandle::new(keys(found));
    // The other end lives as long as the thread that was just started.
    let _ = later.send(handle.clone());
    Ok(handle)
}
