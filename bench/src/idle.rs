//! Connections that are there and do nothing.

use crate::client::{BenchError, Connection};
use crate::process;
use kafscale_codec::error_code::ErrorCode;
use kafscale_codec::messages::ApiVersionsRequest;
use std::net::SocketAddr;
use std::time::Duration;

const API_VERSIONS: i16 = 0;
/// How long the broker gets to come to rest before its memory is looked at.
const SETTLE: Duration = Duration::from_millis(500);

/// The broker's resident memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdleMemory {
    /// Before the connections were there.
    pub before_bytes: u64,
    /// With all of them.
    pub after_bytes: u64,
}

/// The connections.
pub struct Idle {
    connections: Vec<Connection>,
    /// What they cost; none if nobody knows the broker's process.
    pub memory: Option<IdleMemory>,
}

impl Idle {
    /// Opens them. Each asks what every client asks first, so that the broker has seen a request of it.
    ///
    /// # Errors
    /// If one is refused; the limit of open files holds here and in the broker.
    pub fn open(bootstrap: SocketAddr, count: usize, broker_pid: Option<u32>) -> Result<Self, BenchError> {
        let before = broker_pid.and_then(process::sample);
        let mut connections = Vec::with_capacity(count);
        for _ in 0..count {
            let mut connection = Connection::open(bootstrap)?;
            is_answered(&mut connection)?;
            connections.push(connection);
        }
        if count > 0 {
            std::thread::sleep(SETTLE);
        }
        let after = broker_pid.and_then(process::sample);
        let memory = before
            .zip(after)
            .filter(|_| count > 0)
            .map(|(before, after)| IdleMemory {
                before_bytes: before.resident_bytes,
                after_bytes: after.resident_bytes,
            });
        Ok(Idle { connections, memory })
    }

    /// Makes sure that the broker still answers each.
    ///
    /// # Errors
    /// If it does not.
    pub fn close(self) -> Result<Option<IdleMemory>, BenchError> {
        for mut connection in self.connections {
            is_answered(&mut connection)?;
        }
        Ok(self.memory)
    }
}

fn is_answered(connection: &mut Connection) -> Result<(), BenchError> {
    let answer = connection.ask(API_VERSIONS, &ApiVersionsRequest::default())?;
    match answer.error_code {
        ErrorCode::NONE => Ok(()),
        error => Err(BenchError::Refused("ApiVersions".to_string(), error)),
    }
}
