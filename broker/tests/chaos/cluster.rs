//! Brokers as processes, with links that can be broken between each of them and its clients, its etcd and its bucket.

use crate::proxy::Link;
use crate::support::{free_port, Broker, Launch};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// How long a broker that is asked to end is waited for.
const DRAIN_MAX: Duration = Duration::from_secs(20);

/// Lease of a broker: so long its partitions rest after it was killed.
pub const LEASE_TTL_MS: u64 = 3_000;

/// Which version a broker starts with, if there are two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Versions {
    /// This one.
    New,
    /// Both in turn, and not all brokers with the same one.
    Both,
    /// The other one.
    Old,
}

/// One broker's place: the process comes and goes, the address stays.
pub struct Machine {
    launch: Launch,
    /// The same as another version, if there is one.
    old: Option<Launch>,
    versions: Arc<Mutex<Versions>>,
    /// Starts of either version so far.
    starts: [AtomicUsize; 2],
    broker: Mutex<Option<Broker>>,
    /// From clients.
    pub clients: Link,
    /// To each member of etcd.
    pub etcd: Vec<Link>,
    /// To the bucket.
    pub bucket: Link,
}

/// Everything: etcd, the bucket, and brokers.
pub struct Cluster {
    /// Real etcd.
    pub etcd: Mutex<kafscale_test_etcd::Cluster>,
    /// A real S3 server.
    pub bucket: kafscale_test_s3::Server,
    /// The brokers, ids from 1.
    pub machines: Vec<Machine>,
    versions: Arc<Mutex<Versions>>,
}

impl Cluster {
    /// So many brokers, all of which serve.
    pub fn start(directory: &Path, etcd_members: usize, brokers: usize, flags: &str) -> Cluster {
        let etcd = kafscale_test_etcd::Cluster::start(etcd_members);
        let bucket = kafscale_test_s3::Server::start(&kafscale_test_s3::Config::new(directory.join("s3"))).unwrap();
        let endpoints = etcd.endpoints();
        let versions = Arc::new(Mutex::new(Versions::New));
        let machines = (1..=brokers)
            .map(|id| Machine::new(directory, id, &endpoints, bucket.addr(), flags, versions.clone()))
            .collect();
        let cluster = Cluster {
            etcd: Mutex::new(etcd),
            bucket,
            machines,
            versions,
        };
        cluster.machines.iter().for_each(Machine::start);
        cluster.machines.iter().for_each(Machine::wait_until_it_serves);
        cluster
    }

    /// Where clients find the brokers.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.machines.iter().map(|machine| machine.clients.address()).collect()
    }

    /// Whether there are two versions.
    pub fn has_old(&self) -> bool {
        self.machines.iter().any(|machine| machine.old.is_some())
    }

    /// From now on brokers start with these.
    pub fn take_versions(&self, versions: Versions) {
        *self.versions.lock().unwrap() = versions;
    }

    /// How often a broker was started with this version, and with the other one.
    pub fn starts(&self) -> [usize; 2] {
        [0, 1].map(|at| {
            let starts = self.machines.iter().map(|machine| &machine.starts[at]);
            starts.map(|starts| starts.load(Ordering::Relaxed)).sum()
        })
    }

    /// Mends every link, ends every fault, and starts what does not run.
    pub fn heal(&self) {
        self.bucket.set_faults(kafscale_test_s3::Faults::default());
        for machine in &self.machines {
            machine.heal();
            machine.thaw();
            machine.start();
        }
    }
}

impl Machine {
    fn new(
        directory: &Path,
        id: usize,
        etcd: &[String],
        bucket: SocketAddr,
        flags: &str,
        versions: Arc<Mutex<Versions>>,
    ) -> Machine {
        let port = free_port();
        let clients = Link::to(SocketAddr::from(([127, 0, 0, 1], port)));
        let member = |url: &String| Link::to(url.trim_start_matches("http://").parse().unwrap());
        let etcd: Vec<Link> = etcd.iter().map(member).collect();
        let bucket = Link::to(bucket);
        let home = directory.join(format!("broker-{id}"));
        std::fs::create_dir_all(&home).unwrap();
        let urls: Vec<String> = etcd.iter().map(|link| format!("http://{}", link.address())).collect();
        let mut launch = Launch::new(&home)
            .flags(&format!(
                "--broker-id {id} --broker-host 127.0.0.1 --broker-port {}",
                clients.address().port()
            ))
            .flags(&format!("--etcd-endpoints {}", urls.join(",")))
            .flags(&format!("--s3-bucket bucket --s3-endpoint http://{}", bucket.address()))
            .flags("--s3-access-key test --s3-secret-key secret")
            .flags(&format!("--broker-lease-ttl-ms {LEASE_TTL_MS}"))
            .flags(flags);
        launch.port = port;
        let old = std::env::var_os("CHAOS_OLD_BROKER").map(|binary| Launch {
            binary: binary.into(),
            ..launch.clone()
        });
        Machine {
            launch,
            old,
            versions,
            starts: [AtomicUsize::new(0), AtomicUsize::new(0)],
            broker: Mutex::new(None),
            clients,
            etcd,
            bucket,
        }
    }

    fn broker(&self) -> MutexGuard<'_, Option<Broker>> {
        self.broker.lock().unwrap()
    }

    /// Starts the process, if it does not run. It may still be on its way when this returns.
    pub fn start(&self) {
        let mut broker = self.broker();
        if broker.as_mut().is_none_or(|broker| !broker.is_alive()) {
            let [new, old] = [0, 1].map(|at| self.starts[at].load(Ordering::Relaxed));
            let wants_old = match *self.versions.lock().unwrap() {
                Versions::New => false,
                Versions::Both => old <= new,
                Versions::Old => true,
            };
            let old = self.old.as_ref().filter(|_| wants_old);
            self.starts[usize::from(old.is_some())].fetch_add(1, Ordering::Relaxed);
            *broker = Some(old.unwrap_or(&self.launch).spawn());
        }
    }

    /// SIGTERM, and a new start once the process has ended; one that does not end is left alone.
    pub fn restart(&self) {
        self.terminate();
        let until = Instant::now() + DRAIN_MAX;
        while self.runs() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(20));
        }
        self.start();
    }

    /// Waits until the process serves.
    pub fn wait_until_it_serves(&self) {
        if let Some(broker) = self.broker().as_mut() {
            broker.wait_until_it_serves();
        }
    }

    /// SIGKILL.
    pub fn kill(&self) {
        if let Some(mut broker) = self.broker().take() {
            broker.kill();
        }
    }

    /// SIGTERM. The process may still be on its way out when this returns.
    pub fn terminate(&self) {
        self.signal("TERM");
    }

    /// Whether the process runs.
    pub fn runs(&self) -> bool {
        self.broker().as_mut().is_some_and(Broker::is_alive)
    }

    /// Memory of the process that runs.
    pub fn resident_bytes(&self) -> u64 {
        self.broker().as_ref().expect("it was started").resident_bytes()
    }

    /// Memory of the process, if it runs.
    pub fn memory(&self) -> Option<u64> {
        self.broker().as_ref()?.resident_bytes_if_any()
    }

    /// SIGSTOP.
    pub fn freeze(&self) {
        self.signal("STOP");
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        self.signal("CONT");
    }

    /// Mends all its links.
    pub fn heal(&self) {
        self.clients.heal();
        self.bucket.heal();
        self.etcd.iter().for_each(Link::heal);
    }

    /// The end of its log.
    pub fn log_tail(&self) -> String {
        tail_of(&std::fs::read_to_string(&self.launch.log).unwrap_or_default())
    }

    /// How this version of it is started.
    pub fn launch(&self) -> &Launch {
        &self.launch
    }

    fn signal(&self, name: &str) {
        let mut broker = self.broker();
        let Some(broker) = broker.as_mut() else { return };
        if broker.is_alive() {
            let pid = broker.id().to_string();
            let sent = std::process::Command::new("kill").args(["-s", name, &pid]).status();
            assert!(sent.unwrap().success(), "{name} reaches process {pid}");
        }
    }
}

/// The last lines of a log.
pub fn tail_of(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}
