//! What the machine says about itself, gathered once so that the rest is pure.

use std::net::{IpAddr, TcpListener, ToSocketAddrs};

/// Facts about the machine that defaults depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// CPUs this process may use.
    pub cpus: usize,
    /// Its name, if it resolves to addresses of this machine: those addresses with it.
    pub name: Option<(String, Vec<IpAddr>)>,
}

impl Host {
    /// One CPU, no name.
    pub fn unknown() -> Self {
        Host { cpus: 1, name: None }
    }

    /// Asks the operating system, and the resolver for the host name.
    pub fn this_machine() -> Self {
        Host {
            cpus: std::thread::available_parallelism().map_or(1, |cpus| cpus.get()),
            name: resolved_name(),
        }
    }

    /// The host to tell clients if nobody said which, for a listener on `listen`.
    pub(super) fn advertise(&self, listen: IpAddr) -> String {
        if !listen.is_unspecified() {
            return listen.to_string();
        }
        // `localhost` may resolve to ::1 first, where an IPv4 listener does not answer; 127.0.0.1 cannot go wrong.
        match &self.name {
            Some((name, ips)) if ips.iter().all(|ip| ip.is_ipv4() || listen.is_ipv6()) => name.clone(),
            _ if listen.is_ipv6() => "::1".to_owned(),
            _ => "127.0.0.1".to_owned(),
        }
    }
}

fn resolved_name() -> Option<(String, Vec<IpAddr>)> {
    let name = rustix::system::uname().nodename().to_str().ok()?.to_owned();
    if name.is_empty() || name == "(none)" {
        return None;
    }
    let ips: Vec<IpAddr> = (name.as_str(), 0)
        .to_socket_addrs()
        .ok()?
        .map(|address| address.ip())
        .collect();
    // A stale record of another machine must not send clients there: an address is ours if it can be bound.
    let ours = !ips.is_empty() && ips.iter().all(|&ip| TcpListener::bind((ip, 0)).is_ok());
    ours.then_some((name, ips))
}
