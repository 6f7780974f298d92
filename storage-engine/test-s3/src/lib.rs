//! An S3 server for tests and benchmarks: real HTTP, real signatures, conditional creation that is atomic, and faults.
//!
//! The crate s3s reads requests, verifies SigV4 and writes XML. What it serves is `directory`, not s3s-fs: there, of eight
//! conditional puts at the same time up to eight win, and names that are long or odd do not survive. The faults of
//! [`Faults`] are set by [`Server::set_faults`] or by `PUT /_faults`, and `GET /_faults` tells what was counted.

mod directory;
mod faults;
mod front;

pub use faults::{Counters, Counts, Faults, Gone, Kind};

use directory::Directory;
use front::Front;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use s3s::auth::{S3Auth, SecretKey};
use s3s::host::MultiDomain;
use s3s::service::S3ServiceBuilder;
use s3s::{s3_error, S3Result};
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use tokio::sync::oneshot;

/// What a server is made of.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen; port 0 takes any that is free.
    pub addr: SocketAddr,
    /// Directory that holds a directory per bucket.
    pub root: PathBuf,
    /// The buckets that exist.
    pub buckets: Vec<String>,
    /// Name of the key that may do everything.
    pub access_key: String,
    /// The key.
    pub secret_key: String,
    /// Certificate chain and private key, both PEM; without them the server speaks plain HTTP.
    pub tls: Option<(String, String)>,
}

impl Config {
    /// A server on a free loopback port with the bucket `bucket` and the key `test` / `secret`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Config {
            addr: SocketAddr::from(([127, 0, 0, 1], 0)),
            root: root.into(),
            buckets: vec!["bucket".to_string()],
            access_key: "test".to_string(),
            secret_key: "secret".to_string(),
            tls: None,
        }
    }
}

/// A server on a thread of its own. It stops when this is dropped.
#[derive(Debug)]
pub struct Server {
    addr: SocketAddr,
    front: Arc<Front>,
    directory: Directory,
    keys: Keys,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts a server; it listens once this returns.
    ///
    /// # Errors
    /// If the directory, the address or the certificate cannot be used.
    pub fn start(config: &Config) -> io::Result<Self> {
        let directory = Directory::open(&config.root, &config.buckets)?;
        let keys = Keys::default();
        keys.set(&config.access_key, &config.secret_key);
        let mut builder = S3ServiceBuilder::new(directory.clone());
        builder.set_auth(keys.clone());
        let listener = std::net::TcpListener::bind(config.addr)?;
        listener.set_nonblocking(true)?;
        let addr = listener.local_addr()?;
        // Both as clients say it: with a port and, for the default ports, without.
        let domains = [format!("localhost:{}", addr.port()), "localhost".to_string()];
        builder.set_host(VirtualHosts(MultiDomain::new(domains).map_err(io::Error::other)?));
        let front = Arc::new(Front::new(builder.build()));
        let tls = config.tls.as_ref().map(acceptor).transpose()?;
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        let served = front.clone();
        let thread = std::thread::Builder::new().name("test-s3".to_string()).spawn(move || {
            runtime.block_on(front::serve(served, listener, tls, stopped));
            runtime.shutdown_background();
        })?;
        Ok(Server {
            addr,
            front,
            directory,
            keys,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The endpoint as an S3 client takes it, over plain HTTP.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Puts these faults in place of those before.
    pub fn set_faults(&self, faults: Faults) {
        self.front.set_faults(faults);
    }

    /// The keys of a bucket.
    pub fn keys(&self, bucket: &str) -> Vec<String> {
        self.directory.keys(bucket)
    }

    /// Loses an object.
    pub fn lose(&self, bucket: &str, key: &str) {
        self.directory.lose(bucket, key);
    }

    /// Changes an object's content, and its checksum with it. False if it is not there.
    ///
    /// # Errors
    /// If the object cannot be read or written.
    pub fn change(&self, bucket: &str, key: &str, change: impl FnOnce(&mut Vec<u8>)) -> io::Result<bool> {
        self.directory.change(bucket, key, change)
    }

    /// What was counted since the start.
    pub fn counters(&self) -> Counters {
        self.front.counters()
    }

    /// Closes all connections on which no request is going on, as a server does with those that are idle for long.
    pub fn close_idle_connections(&self) {
        self.front.close_idle_connections();
    }

    /// Lets this key in, and no other any more.
    pub fn set_key(&self, access_key: &str, secret_key: &str) {
        self.keys.set(access_key, secret_key);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn acceptor((chain, key): &(String, String)) -> io::Result<tokio_rustls::TlsAcceptor> {
    let chain = CertificateDer::pem_slice_iter(chain.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(io::Error::other)?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(io::Error::other)?;
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(io::Error::other)?;
    Ok(Arc::new(config).into())
}

/// The keys that are valid now.
#[derive(Debug, Clone, Default)]
struct Keys(Arc<Mutex<HashMap<String, String>>>);

impl Keys {
    fn set(&self, access_key: &str, secret_key: &str) {
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        keys.clear();
        keys.insert(access_key.to_string(), secret_key.to_string());
    }
}

#[async_trait::async_trait]
impl S3Auth for Keys {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        let keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match keys.get(access_key) {
            Some(secret) => Ok(SecretKey::from(secret.as_str())),
            None => Err(s3_error!(InvalidAccessKeyId)),
        }
    }
}

/// `bucket.localhost` names a bucket; any other host, addresses above all, leaves it to the path.
struct VirtualHosts(MultiDomain);

impl s3s::host::S3Host for VirtualHosts {
    fn parse_host_header<'a>(&'a self, host: &'a str) -> S3Result<s3s::host::VirtualHost<'a>> {
        let name = host.split_once(':').map_or(host, |(name, _)| name);
        if name == "localhost" || name.ends_with(".localhost") {
            self.0.parse_host_header(host)
        } else {
            Ok(s3s::host::VirtualHost::new(host))
        }
    }
}
