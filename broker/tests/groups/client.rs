//! A broker process, and a client that speaks the protocol through the codec.

use bytes::Bytes;
use kafscale_codec::messages::*;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Longer than anything here takes; only a broken broker meets it.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The real binary on a free port; it is killed if the test ends before it does.
pub struct Broker {
    process: Child,
    pub address: SocketAddr,
    http: SocketAddr,
}

impl Broker {
    pub fn start(data_dir: &Path) -> Self {
        // Free a moment ago, and the kernel hands such ports out in turn.
        let http = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
        let http = http.expect("a free port");
        let mut process = Command::new(env!("CARGO_BIN_EXE_kafscale-broker"))
            .args(["--broker-addr", "127.0.0.1:0", "--metrics-addr", &http.to_string()])
            .args(["--shards", "2", "--data-dir"])
            .arg(data_dir)
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        let log = BufReader::new(process.stderr.take().expect("piped"));
        let (found, address) = mpsc::channel();
        // Reads to the end, so that the broker never waits for a full pipe.
        std::thread::spawn(move || {
            for line in log.lines().map_while(Result::ok) {
                if let Some((_, address)) = line.split_once("broker listening on ") {
                    let _ = found.send(address.trim().parse::<SocketAddr>().expect("an address"));
                }
                eprintln!("broker: {line}");
            }
        });
        let address = address.recv_timeout(PATIENCE).expect("the broker serves");
        Broker { process, address, http }
    }

    /// The head and the body of what the HTTP port answers.
    pub fn get(&self, path: &str) -> (String, String) {
        let mut stream = TcpStream::connect(self.http).expect("the HTTP port listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout is set");
        let request = format!("GET {path} HTTP/1.1\r\nHost: broker\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers in text");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        (head.to_string(), body.to_string())
    }

    pub fn connect(&self) -> Client {
        let stream = TcpStream::connect(self.address).expect("the broker listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout is set");
        Client { stream, next_id: 0 }
    }

    /// As `kill -9` does.
    pub fn kill(mut self) {
        self.process.kill().expect("it runs");
        self.process.wait().expect("it is ours");
    }

    /// Asks it to end, as an operator does.
    pub fn terminate(&self) {
        let pid = rustix::process::Pid::from_child(&self.process);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
    }

    pub fn wait(mut self) -> ExitStatus {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.process.try_wait().expect("it is ours") {
                return status;
            }
            assert!(Instant::now() < until, "the broker does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// One connection.
pub struct Client {
    stream: TcpStream,
    next_id: i32,
}

impl Client {
    /// Sends without waiting; the answer to it is the next one that is not received yet.
    pub fn send<R: Request>(&mut self, version: i16, request: &R) -> i32 {
        self.next_id += 1;
        let frame = encode_request(version, self.next_id, Some("test"), request).expect("the version can say it");
        self.stream.write_all(&frame.concat()).expect("the broker reads");
        self.next_id
    }

    pub fn receive<R: Request>(&mut self, version: i16) -> (i32, R::Response) {
        decode_response(self.frame().expect("an answer"), version).expect("an answer of this kind")
    }

    pub fn call<R: Request>(&mut self, version: i16, request: &R) -> R::Response {
        let id = self.send(version, request);
        let (answered, response) = self.receive::<R>(version);
        assert_eq!(answered, id, "answers come in the order of the requests");
        response
    }

    /// Whether nothing arrives for a while.
    pub fn is_silent_for(&mut self, silence: Duration) -> bool {
        self.stream.set_read_timeout(Some(silence)).expect("a timeout is set");
        let silent = self.stream.peek(&mut [0]).is_err();
        self.stream.set_read_timeout(Some(PATIENCE)).expect("a timeout is set");
        silent
    }

    /// The next frame, none if the broker has closed the connection.
    fn frame(&mut self) -> Option<Bytes> {
        let mut size = [0; 4];
        self.stream.read_exact(&mut size).ok()?;
        let mut frame = vec![0; u32::from_be_bytes(size) as usize];
        self.stream.read_exact(&mut frame).expect("a whole frame");
        Some(frame.into())
    }

    pub fn create_topic(&mut self, name: &str, partitions: i32) {
        let response = self.call(5, &topic_request(name, partitions));
        assert_eq!(response.topics[0].error_code.0, 0, "{response:?}");
    }
}

pub fn topic_request(name: &str, partitions: i32) -> CreateTopicsRequest {
    CreateTopicsRequest {
        topics: vec![CreatableTopic {
            name: name.into(),
            num_partitions: partitions,
            replication_factor: 1,
            ..Default::default()
        }],
        timeout_ms: 10_000,
        ..Default::default()
    }
}
