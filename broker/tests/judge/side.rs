//! One of the two brokers: its connections, and the names under which it knows what requests refer to.

use bytes::Bytes;
use kafscale_codec::types::TopicId;
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// How long an answer may take before the broker counts as silent. Requests here wait for at most a few seconds.
const PATIENCE: Duration = Duration::from_secs(12);

/// What became of a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// This frame, without its size.
    Answer(Bytes),
    /// The broker closed the connection.
    Closed,
    /// No answer, and the connection is open.
    Silent,
}

/// Values that differ between two brokers that were asked alike, by an alias that both share.
#[derive(Debug, Clone, Default)]
pub struct Names {
    /// Topic ids by topic.
    pub topics: BTreeMap<String, TopicId>,
    /// Member ids and the like.
    pub texts: BTreeMap<String, String>,
    /// Producer ids, epochs and the like.
    pub numbers: BTreeMap<String, i64>,
}

impl Names {
    /// The id of a topic; one that no topic has, if there is no such topic.
    pub fn topic(&self, name: &str) -> TopicId {
        self.topics.get(name).copied().unwrap_or(TopicId([7; 16]))
    }

    /// The text behind an alias, or the alias.
    pub fn text(&self, alias: &str) -> String {
        self.texts.get(alias).cloned().unwrap_or_else(|| alias.to_string())
    }

    /// The number behind an alias.
    pub fn number(&self, alias: &str) -> i64 {
        self.numbers.get(alias).copied().unwrap_or(-1)
    }
}

/// A broker under comparison.
#[derive(Debug)]
pub struct Side {
    address: SocketAddr,
    connections: BTreeMap<String, TcpStream>,
    /// How it calls what both have.
    pub names: Names,
}

impl Side {
    pub fn new(address: SocketAddr) -> Side {
        Side {
            address,
            connections: BTreeMap::new(),
            names: Names::default(),
        }
    }

    fn connection(&mut self, name: &str) -> io::Result<&mut TcpStream> {
        if !self.connections.contains_key(name) {
            let stream = TcpStream::connect_timeout(&self.address, PATIENCE)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            self.connections.insert(name.to_string(), stream);
        }
        Ok(self.connections.get_mut(name).expect("inserted above"))
    }

    /// Sends bytes on the connection of this name, which is opened if it is not there.
    pub fn send(&mut self, connection: &str, bytes: &[u8]) {
        let sent = self.connection(connection).and_then(|stream| stream.write_all(bytes));
        if sent.is_err() {
            // The next read finds the connection closed, which is the outcome.
            log_failure(connection, sent);
        }
    }

    /// The next frame of the connection. A connection that was closed or that stays silent is forgotten.
    pub fn receive(&mut self, connection: &str) -> Outcome {
        let Ok(stream) = self.connection(connection) else {
            return Outcome::Closed;
        };
        let outcome = match read_frame(stream) {
            Ok(frame) => return Outcome::Answer(frame),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                Outcome::Silent
            }
            Err(_) => Outcome::Closed,
        };
        self.forget(connection);
        outcome
    }

    /// Closes the connection; the next request opens another.
    pub fn forget(&mut self, connection: &str) {
        self.connections.remove(connection);
    }
}

fn log_failure(connection: &str, sent: io::Result<()>) {
    if let Err(error) = sent {
        eprintln!("judge: send on connection {connection:?}: {error}");
    }
}

fn read_frame(stream: &mut TcpStream) -> io::Result<Bytes> {
    let mut size = [0; 4];
    stream.read_exact(&mut size)?;
    let size = usize::try_from(i32::from_be_bytes(size)).map_err(io::Error::other)?;
    let mut frame = vec![0; size];
    stream.read_exact(&mut frame)?;
    Ok(frame.into())
}
