//! Real etcd clusters for tests: processes on loopback that can be killed, stopped and started again.
//!
//! A cluster takes free ports and a directory of its own, and leaves nothing behind when it is dropped. What goes wrong
//! here is the test environment's fault, so everything panics with what etcd had to say.

mod http;
mod member;

use member::Member;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How long a member may take until it serves.
const START_LIMIT: Duration = Duration::from_secs(30);
/// Pause between two looks.
const POLL: Duration = Duration::from_millis(20);
/// A free port may be taken by somebody else before etcd has it.
const START_ATTEMPTS: usize = 5;

/// What clients need to be sure of whom they talk to.
#[derive(Debug, Clone)]
pub struct ServerTls {
    /// The server's certificate, PEM.
    pub cert_file: PathBuf,
    /// Its key, PEM.
    pub key_file: PathBuf,
    /// Who must have signed a client's certificate; clients need none otherwise.
    pub client_ca_file: Option<PathBuf>,
}

/// How a cluster is to be.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// How many members; 0 counts as 1.
    pub members: usize,
    /// Loopback addresses, used in turn; all on 127.0.0.1 if there are none.
    pub addresses: Vec<String>,
    /// TLS towards clients.
    pub tls: Option<ServerTls>,
    /// More arguments for every member, after ours.
    pub args: Vec<String>,
}

/// A running cluster.
#[derive(Debug)]
pub struct Cluster {
    members: Vec<Member>,
    directory: PathBuf,
    scheme: &'static str,
}

impl Cluster {
    /// A cluster of so many members, each of which serves.
    ///
    /// # Panics
    /// If etcd is not installed or does not start.
    pub fn start(members: usize) -> Self {
        Self::start_with(&Options {
            members,
            ..Options::default()
        })
    }

    /// A cluster as described, each member of which serves.
    ///
    /// # Panics
    /// If etcd is not installed or does not start.
    pub fn start_with(options: &Options) -> Self {
        let mut said = String::new();
        for _ in 0..START_ATTEMPTS {
            let mut cluster = Self::prepare(options);
            for member in &mut cluster.members {
                member.start();
            }
            let deadline = Instant::now() + START_LIMIT;
            match (0..cluster.members.len()).try_for_each(|index| cluster.await_health(index, deadline)) {
                Ok(()) => return cluster,
                Err(why) => said = why,
            }
        }
        panic!("etcd did not start {START_ATTEMPTS} times; in the end: {said}");
    }

    fn prepare(options: &Options) -> Self {
        static CLUSTERS: AtomicUsize = AtomicUsize::new(0);
        let number = CLUSTERS.fetch_add(1, Ordering::Relaxed);
        let name = format!("kafscale-test-etcd-{}-{number}", std::process::id());
        let directory = std::env::temp_dir().join(&name);
        std::fs::create_dir_all(&directory).expect("the temporary directory can be written");
        let scheme = if options.tls.is_some() { "https" } else { "http" };
        Cluster {
            members: Member::all(options, &directory, &name),
            directory,
            scheme,
        }
    }

    /// Where clients reach the members, as `http(s)://host:port`, in the order of their indices.
    pub fn endpoints(&self) -> Vec<String> {
        let url = |member: &Member| format!("{}://{}", self.scheme, member.client_address);
        self.members.iter().map(url).collect()
    }

    /// The member that leads at the moment, as far as one says so.
    pub fn leader(&self) -> Option<usize> {
        self.members.iter().position(|member| {
            member.runs()
                && http::get(&member.metrics_address, "/metrics")
                    .is_ok_and(|metrics| metrics.lines().any(|line| line == "etcd_server_is_leader 1"))
        })
    }

    /// Waits until a member leads.
    ///
    /// # Panics
    /// If none does for 30 seconds.
    pub fn await_leader(&self) -> usize {
        let deadline = Instant::now() + START_LIMIT;
        while Instant::now() < deadline {
            if let Some(leader) = self.leader() {
                return leader;
            }
            std::thread::sleep(POLL);
        }
        panic!("no member leads");
    }

    /// Kills a member with SIGKILL.
    pub fn kill(&mut self, index: usize) {
        self.members[index].kill();
    }

    /// Stops a member with SIGSTOP: its connections stay open, and nobody answers.
    pub fn stop(&self, index: usize) {
        self.members[index].signal("STOP");
    }

    /// Lets a stopped member go on.
    pub fn cont(&self, index: usize) {
        self.members[index].signal("CONT");
    }

    /// Starts a member that was killed, on its data; returns once it serves.
    ///
    /// # Panics
    /// If it does not within 30 seconds.
    pub fn restart(&mut self, index: usize) {
        self.restart_without_waiting(index);
        if let Err(why) = self.await_health(index, Instant::now() + START_LIMIT) {
            panic!("member {index} did not start again: {why}");
        }
    }

    /// Starts a member that was killed, and returns at once: most of a cluster must run before one member serves.
    pub fn restart_without_waiting(&mut self, index: usize) {
        self.members[index].kill();
        self.members[index].start();
    }

    fn await_health(&mut self, index: usize, deadline: Instant) -> Result<(), String> {
        while Instant::now() < deadline {
            let member = &mut self.members[index];
            if member.has_ended() {
                break;
            }
            if http::get(&member.metrics_address, "/health").is_ok_and(|health| health.contains("\"true\"")) {
                return Ok(());
            }
            std::thread::sleep(POLL);
        }
        Err(self.members[index].log_end())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for member in &mut self.members {
            member.kill();
        }
        // What stays is in the temporary directory.
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// A port that nobody listens on at the moment.
///
/// # Panics
/// If the address is not one of this machine.
pub fn free_port(address: &str) -> u16 {
    std::net::TcpListener::bind((address, 0))
        .and_then(|listener| listener.local_addr())
        .expect("a loopback address has free ports")
        .port()
}
