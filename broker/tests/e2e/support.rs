//! The broker as a child process: started, waited for, measured, killed by its own process id, started again.

use crate::client::Client;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How long anything may take that takes a moment. Not a promise of speed: the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A pause between two looks at something that takes a moment.
pub const PAUSE: Duration = Duration::from_millis(5);

/// How a broker is started. The same value starts it again on the same data and the same port.
#[derive(Debug, Clone)]
pub struct Launch {
    /// Its data directory.
    pub data_dir: PathBuf,
    /// Its log; later starts append.
    pub log: PathBuf,
    /// Its Kafka port.
    pub port: u16,
    /// Where its metrics are; 0: somewhere.
    pub metrics_port: u16,
    /// More flags.
    pub flags: Vec<String>,
    /// The program; by default the one that was built with these tests.
    pub binary: PathBuf,
    /// A command that ends in `exec "$@"`, so that the process id stays the broker's.
    pub prefix: Vec<String>,
}

impl Launch {
    /// A broker with its data and log under `directory`, on a free port.
    pub fn new(directory: &Path) -> Launch {
        Launch {
            data_dir: directory.join("data"),
            log: directory.join("log"),
            port: free_port(),
            metrics_port: 0,
            flags: Vec::new(),
            binary: PathBuf::from(env!("CARGO_BIN_EXE_kafscale-broker")),
            prefix: Vec::new(),
        }
    }

    /// With these flags too, separated by spaces.
    pub fn flags(mut self, flags: &str) -> Launch {
        self.flags.extend(flags.split_whitespace().map(str::to_string));
        self
    }

    /// The program with these words before the flags.
    pub fn command(&self, words: &[&str]) -> Command {
        let prefix = self.prefix.iter().map(|word| OsStr::new(word.as_str()));
        let mut program = prefix.chain([self.binary.as_os_str()]);
        let mut command = Command::new(program.next().expect("the binary is the last word"));
        command.args(program).args(words);
        // The broker refuses variables that it does not know, and those of the tests are such.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("KAFSCALE_") {
                command.env_remove(name);
            }
        }
        command
            .args(["--broker-addr", &format!("127.0.0.1:{}", self.port)])
            .args([
                "--metrics-addr",
                &format!("127.0.0.1:{}", self.metrics_port),
                "--data-dir",
            ])
            .arg(&self.data_dir)
            .args(&self.flags);
        command
    }

    /// Starts it, and does not wait.
    pub fn spawn(&self) -> Broker {
        let log_from = std::fs::metadata(&self.log).map_or(0, |log| log.len() as usize);
        let log = File::options().create(true).append(true).open(&self.log).unwrap();
        let child = self
            .command(&[])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Broker {
            child,
            address: SocketAddr::from(([127, 0, 0, 1], self.port)),
            metrics_port: self.metrics_port,
            log: self.log.clone(),
            log_from,
        }
    }

    /// Starts it and waits until it serves.
    pub fn start(&self) -> Broker {
        let mut broker = self.spawn();
        broker.wait_until_it_serves();
        broker
    }
}

/// A running broker. It is killed when this is dropped.
#[derive(Debug)]
pub struct Broker {
    child: Child,
    /// Where it serves Kafka's protocol.
    pub address: SocketAddr,
    metrics_port: u16,
    log: PathBuf,
    log_from: usize,
}

impl Broker {
    /// Waits for the line that says that it serves.
    pub fn wait_until_it_serves(&mut self) {
        let until = Instant::now() + PATIENCE;
        while !self.log().contains("broker listening on") {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("the broker ended with {status}; its log:\n{}", self.log());
            }
            assert!(
                Instant::now() < until,
                "the broker does not serve; its log:\n{}",
                self.log()
            );
            std::thread::sleep(PAUSE);
        }
    }

    /// Waits until it serves or has ended; `true` if it serves.
    pub fn serves(&mut self) -> bool {
        let until = Instant::now() + PATIENCE;
        loop {
            if self.log().contains("broker listening on") {
                return true;
            }
            if self.child.try_wait().unwrap().is_some() {
                return false;
            }
            assert!(
                Instant::now() < until,
                "it neither serves nor ends; its log:\n{}",
                self.log()
            );
            std::thread::sleep(PAUSE);
        }
    }

    /// What this process has logged so far.
    pub fn log(&self) -> String {
        let log = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(log.get(self.log_from..).unwrap_or_default()).into_owned()
    }

    /// A new connection to it.
    pub fn connect(&self) -> Client {
        Client::connect(self.address).unwrap()
    }

    /// What a metric without labels counts, by its page.
    pub fn counter(&self, name: &str) -> u64 {
        let mut stream = TcpStream::connect(("127.0.0.1", self.metrics_port)).unwrap();
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .unwrap();
        let mut page = String::new();
        stream.read_to_string(&mut page).unwrap();
        let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let value = line.unwrap_or_else(|| panic!("no {name} in {page}"));
        value.parse::<f64>().unwrap() as u64
    }

    /// Ends it as a power cut would, as far as the process is concerned.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for it to end on its own.
    pub fn wait_for_end(&mut self) -> ExitStatus {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(
                Instant::now() < until,
                "the broker does not end; its log:\n{}",
                self.log()
            );
            std::thread::sleep(PAUSE);
        }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether the process runs.
    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Its resident memory in bytes.
    pub fn resident_bytes(&self) -> u64 {
        self.resident_bytes_if_any().unwrap()
    }

    /// The same, if it has any: a process that has just ended does not.
    pub fn resident_bytes_if_any(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().ok()?;
        Some(kib * 1024)
    }

    /// The process lives, serves a produce and a fetch on a connection of its own, and has grown by less than
    /// `growth_max` bytes since it had `before`.
    pub fn assert_well(&mut self, before: u64, growth_max: u64) {
        assert!(self.is_alive(), "the broker ended; its log:\n{}", self.log());
        let mut client = self.connect();
        client.create_topic("wellness", 1);
        let value = format!("still here at {:?}", Instant::now());
        let offset = client.produce_value("wellness", 0, value.as_bytes());
        let records = client.read_from("wellness", 0, offset);
        assert_eq!(records[0].value.as_deref(), Some(value.as_bytes()));
        let now = self.resident_bytes();
        assert!(
            now < before + growth_max,
            "the broker grew from {before} to {now} bytes, by more than {growth_max}"
        );
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the broker's log:\n{}", self.log());
        }
    }
}

/// A broker with default settings on two shards, and the directory that goes away with it.
pub fn broker(flags: &str) -> (tempfile::TempDir, Broker) {
    let directory = tempfile::tempdir().unwrap();
    let broker = Launch::new(directory.path()).flags("--shards 2").flags(flags).start();
    (directory, broker)
}

/// A port that is free now, and not given to another test. It lies below those that the kernel gives to outgoing
/// connections: a client that retries a port of that range while nobody listens may end up connected to itself.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    (0..1000)
        .map(|_| {
            let number = std::process::id()
                .wrapping_mul(97)
                .wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
            12_000 + (number % 20_000) as u16
        })
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("of a thousand ports one is free")
}

/// Numbers from a seed (splitmix64): the same seed gives the same numbers.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// Begins with this seed.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// The next number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// That many bytes.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next() as u8).collect()
    }
}
