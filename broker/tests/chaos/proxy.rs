//! A TCP link that can be cut, hung and slowed down: one for each pair of ends that a test wants to part.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;

/// How often a waiting thread looks whether the link has changed.
const LOOK: Duration = Duration::from_millis(20);

/// Bytes that go through at a time.
const PIECE_BYTES: usize = 64 << 10;

/// A direction of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From who connects to the target.
    There,
    /// And back.
    Back,
}

#[derive(Debug, Default)]
struct State {
    /// Connections are closed, and new ones too.
    cut: AtomicBool,
    /// Nothing goes through, and nobody is told.
    hangs: AtomicBool,
    /// Nothing goes through in one direction: there, and back.
    one_way: [AtomicBool; 2],
    /// Each piece waits for so long, in milliseconds.
    delay_ms: AtomicU64,
    ended: AtomicBool,
}

impl State {
    fn stands(&self, way: Way) -> bool {
        self.hangs.load(Ordering::Relaxed) || self.one_way[way as usize].load(Ordering::Relaxed)
    }
}

/// A link from a loopback port to another address. Its threads end when it is dropped.
#[derive(Debug)]
pub struct Link {
    state: Arc<State>,
    address: SocketAddr,
}

impl Link {
    /// A link to `target`, which need not be there yet.
    pub fn to(target: SocketAddr) -> Link {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        let accepting = state.clone();
        std::thread::spawn(move || accept(&listener, target, &accepting));
        Link { state, address }
    }

    /// Where it is reached.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes all connections and lets nobody through, or no more.
    pub fn cut(&self, cut: bool) {
        self.state.cut.store(cut, Ordering::Relaxed);
    }

    /// Stands still, or no more.
    pub fn hang(&self, hangs: bool) {
        self.state.hangs.store(hangs, Ordering::Relaxed);
    }

    /// Stands still in one direction, or no more: the other end still gets what this one sends, or this one still gets
    /// what the other sends.
    pub fn hang_one(&self, way: Way, hangs: bool) {
        self.state.one_way[way as usize].store(hangs, Ordering::Relaxed);
    }

    /// Delays each piece; 0 is none.
    pub fn slow(&self, delay_ms: u64) {
        self.state.delay_ms.store(delay_ms, Ordering::Relaxed);
    }

    /// As new.
    pub fn heal(&self) {
        self.cut(false);
        self.hang(false);
        self.hang_one(Way::There, false);
        self.hang_one(Way::Back, false);
        self.slow(0);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
    }
}

fn accept(listener: &TcpListener, target: SocketAddr, state: &Arc<State>) {
    while let Ok((client, _)) = listener.accept() {
        if state.ended.load(Ordering::Relaxed) {
            return;
        }
        if state.cut.load(Ordering::Relaxed) {
            continue;
        }
        let Ok(server) = TcpStream::connect_timeout(&target, Duration::from_secs(1)) else {
            continue;
        };
        let (Ok(from_client), Ok(from_server)) = (client.try_clone(), server.try_clone()) else {
            continue;
        };
        for (way, from, to) in [(Way::There, from_client, server), (Way::Back, from_server, client)] {
            let state = state.clone();
            std::thread::spawn(move || {
                // Either end may go at any time: that is what this is for.
                let _ = pump(&from, &to, way, &state);
                let _ = from.shutdown(Shutdown::Both);
                let _ = to.shutdown(Shutdown::Both);
            });
        }
    }
}

fn pump(mut from: &TcpStream, mut to: &TcpStream, way: Way, state: &State) -> io::Result<()> {
    from.set_read_timeout(Some(LOOK))?;
    to.set_nodelay(true)?;
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        if state.ended.load(Ordering::Relaxed) || state.cut.load(Ordering::Relaxed) {
            return Ok(());
        }
        if state.stands(way) {
            std::thread::sleep(LOOK);
            continue;
        }
        let read = match from.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(read) => read,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => continue,
            Err(error) => return Err(error),
        };
        let delay_ms = state.delay_ms.load(Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(delay_ms));
        while state.stands(way) && !state.cut.load(Ordering::Relaxed) {
            std::thread::sleep(LOOK);
        }
        to.write_all(&piece[..read])?;
    }
}
