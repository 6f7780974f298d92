//! TCP listeners, one per shard on the same port: the kernel spreads connections over them (SO_REUSEPORT).
//!
//! With SO_REUSEPORT a second broker on the same port would bind without an error and get half of the connections. So the
//! port is probed first by a socket without that option, which fails if anybody listens there.
//!
//! `accept` must not be raced against anything: one that is dropped may take a connection with it. To end it,
//! `ShardListener::close` shuts the listening socket down, which makes the pending accept fail, and that is its end.

use glommio::net::{TcpListener, TcpStream};
use rustix::io::Errno;
use rustix::net::{bind, getsockname, listen, shutdown, socket_with, sockopt, AddressFamily, Shutdown};
use rustix::net::{SocketFlags, SocketType};
use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// Connections that the kernel keeps for a listener that is busy.
const BACKLOG: i32 = 1024;
/// How long a port may be in use before that is an error, and the pause between two looks.
const PROBE_PATIENCE: Duration = Duration::from_secs(2);
const PROBE_PAUSE: Duration = Duration::from_millis(20);
/// Pause after an accept that failed for want of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A socket that has its port but does not listen yet. It may go to another thread.
#[derive(Debug)]
pub struct BoundListener {
    socket: OwnedFd,
    address: SocketAddr,
}

/// Binds one socket per shard to `address`; with port 0, all to the same free port.
///
/// # Errors
/// `AddrInUse` if anybody listens there already, or what the system says.
pub fn bind_for_shards(address: SocketAddr, shards: usize) -> io::Result<Vec<BoundListener>> {
    let context = |error: Errno| {
        let error = io::Error::from(error);
        let text = match error.kind() {
            io::ErrorKind::AddrInUse => {
                format!("{address} is in use by another process: stop it or choose another port")
            }
            io::ErrorKind::AddrNotAvailable => format!("{address} is no address of this machine"),
            io::ErrorKind::PermissionDenied => format!("not allowed to listen on {address}: choose a port above 1023"),
            _ => format!("cannot listen on {address}: {error}"),
        };
        io::Error::new(error.kind(), text)
    };
    probe(address).map_err(context)?;
    let mut address = address;
    (0..shards)
        .map(|_| {
            let socket = new_socket(address, true).map_err(context)?;
            address = local_address(&socket).map_err(context)?;
            Ok(BoundListener { socket, address })
        })
        .collect()
}

/// Fails if anybody listens on `address`. It looks for a while: the sockets of a killed broker outlive its process by
/// the moment that the kernel takes to tear its rings down, and a supervisor may start the next one within that.
fn probe(address: SocketAddr) -> Result<(), Errno> {
    let give_up_at = Instant::now() + PROBE_PATIENCE;
    loop {
        match new_socket(address, false) {
            Err(Errno::ADDRINUSE) if Instant::now() < give_up_at => std::thread::sleep(PROBE_PAUSE),
            probed => return probed.map(drop),
        }
    }
}

/// A bound socket. SO_REUSEADDR lets it have a port on which connections of a former broker still linger.
fn new_socket(address: SocketAddr, share_port: bool) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv6() {
        AddressFamily::INET6
    } else {
        AddressFamily::INET
    };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if share_port {
        sockopt::set_socket_reuseport(&socket, true)?;
    }
    bind(&socket, &address)?;
    Ok(socket)
}

fn local_address(socket: &OwnedFd) -> Result<SocketAddr, Errno> {
    SocketAddr::try_from(getsockname(socket)?)
}

impl BoundListener {
    /// The address with the port that was found.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Starts to listen, on the executor that calls it.
    ///
    /// # Errors
    /// `AddrInUse` if somebody else got the port meanwhile, or what the system says.
    pub fn listen(self) -> io::Result<ShardListener> {
        listen(&self.socket, BACKLOG)?;
        let socket = self.socket.try_clone()?;
        // SAFETY: the descriptor is open, a listening TCP socket, and given up by its owner here.
        let listener = unsafe { TcpListener::from_raw_fd(self.socket.into_raw_fd()) };
        Ok(ShardListener {
            listener,
            socket,
            address: self.address,
            closed: Cell::new(false),
        })
    }
}

/// A shard's listener.
#[derive(Debug)]
pub struct ShardListener {
    listener: TcpListener,
    /// The same socket, by which it can be shut down while an accept is pending.
    socket: OwnedFd,
    address: SocketAddr,
    closed: Cell<bool>,
}

impl ShardListener {
    /// The address it listens on.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// The next connection, with TCP_NODELAY set; none once the listener is closed. Poll it to its end.
    pub async fn accept(&self) -> Option<TcpStream> {
        loop {
            if self.closed.get() {
                return None;
            }
            match self.listener.accept().await {
                Ok(stream) if !self.closed.get() => {
                    // It fails only if the client is gone already, which the first read will tell.
                    let _ = stream.set_nodelay(true);
                    keep_alive(&stream);
                    return Some(stream);
                }
                Ok(_) => return None,
                Err(_) if self.closed.get() => return None,
                Err(error) => {
                    let error = io::Error::from(error);
                    if error.kind() != io::ErrorKind::ConnectionAborted {
                        log::warn!("accept a connection on {}: {error}", self.address);
                        glommio::timer::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        }
    }

    /// Takes no more connections: `accept` ends, and connecting is refused from now on.
    pub fn close(&self) {
        if !self.closed.replace(true) {
            // On Linux this ends a pending accept with EINVAL.
            if let Err(error) = shutdown(self.socket.as_fd(), Shutdown::Both) {
                log::warn!("close the listener on {}: {error}", self.address);
            }
        }
    }
}

/// Lets the kernel find out that a peer has vanished without closing its connection, as Kafka does: a request may wait
/// for longer than an idle connection is kept.
fn keep_alive(stream: &TcpStream) {
    // SAFETY: the stream owns the descriptor and outlives this borrow of it.
    let socket = unsafe { BorrowedFd::borrow_raw(stream.as_raw_fd()) };
    if let Err(error) = sockopt::set_socket_keepalive(socket, true) {
        log::debug!("set SO_KEEPALIVE on a connection: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::{AsyncReadExt, AsyncWriteExt};
    use std::io::{Read, Write};
    use std::rc::Rc;

    fn run<T>(test: impl std::future::Future<Output = T>) -> T {
        glommio::LocalExecutorBuilder::default()
            .io_memory(1 << 20)
            .make()
            .unwrap()
            .run(test)
    }

    const LOOPBACK: &str = "127.0.0.1:0";

    #[test]
    fn a_port_that_another_process_shares_willingly_is_still_in_use() {
        let held = bind_for_shards(LOOPBACK.parse().unwrap(), 1).unwrap().pop().unwrap();
        let address = held.local_addr();
        run(async move {
            let _listening = held.listen().unwrap();
            let error = bind_for_shards(address, 1).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
            assert!(error.to_string().contains(&format!("{address} is in use")), "{error}");
        });
    }

    #[test]
    fn all_shards_listen_on_one_port() {
        let bound = bind_for_shards(LOOPBACK.parse().unwrap(), 3).unwrap();
        assert!(bound
            .iter()
            .all(|one| one.local_addr() == bound[0].local_addr() && one.local_addr().port() != 0));
    }

    #[test]
    fn an_address_of_another_machine_is_refused() {
        let error = bind_for_shards("192.0.2.1:9092".parse().unwrap(), 1).unwrap_err();
        assert!(error.to_string().contains("no address of this machine"), "{error}");
    }

    #[test]
    fn closing_ends_a_pending_accept_and_refuses_connections() {
        run(async {
            let bound = bind_for_shards(LOOPBACK.parse().unwrap(), 1).unwrap().pop().unwrap();
            let address = bound.local_addr();
            let listener = Rc::new(bound.listen().unwrap());
            let closer = listener.clone();
            glommio::spawn_local(async move {
                glommio::timer::sleep(Duration::from_millis(30)).await;
                closer.close();
            })
            .detach();
            assert!(listener.accept().await.is_none());
            assert!(listener.accept().await.is_none());
            assert!(std::net::TcpStream::connect(address).is_err());
        });
    }

    #[test]
    fn a_port_is_free_again_right_after_its_connections_were_closed_by_the_server() {
        let mut address: SocketAddr = LOOPBACK.parse().unwrap();
        for _ in 0..2 {
            // The second turn finds the first one's connection in TIME_WAIT.
            let bound = bind_for_shards(address, 1).unwrap().pop().unwrap();
            address = bound.local_addr();
            let client = std::thread::spawn(move || {
                let mut stream = loop {
                    match std::net::TcpStream::connect(address) {
                        Ok(stream) => break stream,
                        Err(_) => std::thread::sleep(Duration::from_millis(5)),
                    }
                };
                stream.write_all(b"ping").unwrap();
                let mut answer = Vec::new();
                stream.read_to_end(&mut answer).unwrap();
                answer
            });
            run(async move {
                let listener = bound.listen().unwrap();
                let mut stream = listener.accept().await.unwrap();
                let mut request = [0; 4];
                stream.read_exact(&mut request).await.unwrap();
                stream.write_all(b"pong").await.unwrap();
                listener.close();
            });
            assert_eq!(client.join().unwrap(), b"pong");
        }
    }
}
