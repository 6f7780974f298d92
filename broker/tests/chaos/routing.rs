//! A client's view of the cluster: which broker leads what, asked of whoever answers.

use crate::client::Client;
use crate::support::Random;
use kafscale_codec::messages::*;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

/// How long a broker that says nothing is waited for.
pub const ANSWER_MAX: Duration = Duration::from_secs(8);

/// The way into the cluster.
#[derive(Debug, Clone)]
pub struct Router {
    addresses: Vec<SocketAddr>,
    random: Random,
}

impl Router {
    /// By these addresses.
    pub fn new(addresses: Vec<SocketAddr>, seed: u64) -> Router {
        Router {
            addresses,
            random: Random::new(seed),
        }
    }

    /// A connection to any broker.
    pub fn anyone(&mut self) -> io::Result<Client> {
        let at = self.random.below(self.addresses.len() as u64) as usize;
        connect(self.addresses[at])
    }

    /// A connection to the leader of a partition, as any broker knows it.
    pub fn leader(&mut self, topic: &str, partition: i32) -> io::Result<Client> {
        let request = MetadataRequest {
            topics: Some(vec![MetadataRequestTopic {
                name: Some(topic.to_string()),
                ..MetadataRequestTopic::default()
            }]),
            ..MetadataRequest::default()
        };
        let response = self.anyone()?.ask(9, &request)?;
        let partitions = response.topics.iter().flat_map(|topic| &topic.partitions);
        let leader = partitions
            .filter(|known| known.partition_index == partition && known.leader_id >= 0)
            .map(|known| known.leader_id)
            .next();
        let broker = response.brokers.iter().find(|broker| Some(broker.node_id) == leader);
        match broker {
            Some(broker) => connect(SocketAddr::from(([127, 0, 0, 1], broker.port as u16))),
            None => Err(io::Error::other("no leader")),
        }
    }

    /// A connection to the coordinator of a group, as any broker knows it.
    pub fn coordinator(&mut self, group: &str) -> io::Result<Client> {
        let request = FindCoordinatorRequest {
            key: group.to_string(),
            ..FindCoordinatorRequest::default()
        };
        let found = self.anyone()?.ask(2, &request)?;
        match found.port {
            port if port > 0 => connect(SocketAddr::from(([127, 0, 0, 1], port as u16))),
            _ => Err(io::Error::other(format!("no coordinator: {:?}", found.error_code))),
        }
    }
}

fn connect(address: SocketAddr) -> io::Result<Client> {
    let client = Client::connect(address)?;
    client.stream().set_read_timeout(Some(ANSWER_MAX))?;
    client.stream().set_write_timeout(Some(ANSWER_MAX))?;
    Ok(client)
}
