//! A network of byte streams: late, in pieces, and sometimes cut.

use crate::executor::World;
use bytes::{Buf, Bytes};
use futures::io::{AsyncRead, AsyncWrite};
use kafscale_broker::runtime::Instant;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// Bytes on the way in one direction before the writer waits.
const PIPE_BYTES: usize = 64 * 1024;

/// One direction of a connection.
#[derive(Default)]
struct Pipe {
    /// Pieces with the time at which they arrive.
    pieces: VecDeque<(Instant, Bytes)>,
    bytes: usize,
    /// The writer has ended it: what is on the way still arrives.
    ended: bool,
    /// The connection is gone: nothing arrives any more.
    reset: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Pipe {
    fn wake(&mut self) {
        self.reader.take().into_iter().for_each(Waker::wake);
        self.writer.take().into_iter().for_each(Waker::wake);
    }
}

/// One end of a connection.
pub struct SimStream {
    world: World,
    incoming: Rc<RefCell<Pipe>>,
    outgoing: Rc<RefCell<Pipe>>,
    /// Wakes the reader when the next piece arrives.
    arrival: Option<Pin<Box<crate::executor::Sleep>>>,
    slow: Rc<Cell<Duration>>,
}

impl AsyncRead for SimStream {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let mut pipe = this.incoming.borrow_mut();
        if pipe.reset {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let now = this.world.now();
        let Some((at, piece)) = pipe.pieces.front_mut() else {
            if pipe.ended {
                return Poll::Ready(Ok(0));
            }
            pipe.reader = Some(context.waker().clone());
            return Poll::Pending;
        };
        if *at > now {
            let mut sleep = Box::pin(this.world.sleep(*at - now));
            pipe.reader = Some(context.waker().clone());
            drop(pipe);
            if sleep.as_mut().poll(context).is_pending() {
                this.arrival = Some(sleep);
            }
            return Poll::Pending;
        }
        // Sometimes less is read than is there.
        let all = piece.len().min(buffer.len());
        let taken = this.world.draw(|random| match random.permille(100) {
            true => random.between(1, all as u64) as usize,
            false => all,
        });
        buffer[..taken].copy_from_slice(&piece[..taken]);
        piece.advance(taken);
        if piece.is_empty() {
            pipe.pieces.pop_front();
        }
        pipe.bytes -= taken;
        pipe.writer.take().into_iter().for_each(Waker::wake);
        Poll::Ready(Ok(taken))
    }
}

impl AsyncWrite for SimStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut pipe = self.outgoing.borrow_mut();
        if pipe.reset || pipe.ended {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let room = PIPE_BYTES.saturating_sub(pipe.bytes).min(bytes.len());
        if room == 0 {
            pipe.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        let (taken, late) = self.world.draw(|random| {
            let taken = match random.permille(100) {
                true => random.between(1, room as u64) as usize,
                false => room,
            };
            let late = match random.permille(20) {
                true => random.micros(1_000, 30_000),
                false => random.micros(20, 300),
            };
            (taken, late)
        });
        let earliest = pipe.pieces.back().map_or(Duration::ZERO, |(at, _)| *at);
        let at = (self.world.now() + late + self.slow.get()).max(earliest);
        pipe.pieces.push_back((at, Bytes::copy_from_slice(&bytes[..taken])));
        pipe.bytes += taken;
        pipe.reader.take().into_iter().for_each(Waker::wake);
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut pipe = self.outgoing.borrow_mut();
        pipe.ended = true;
        pipe.wake();
        Poll::Ready(Ok(()))
    }
}

impl Drop for SimStream {
    fn drop(&mut self) {
        let mut outgoing = self.outgoing.borrow_mut();
        outgoing.ended = true;
        outgoing.wake();
        drop(outgoing);
        let mut incoming = self.incoming.borrow_mut();
        incoming.reset = true;
        incoming.wake();
    }
}

/// A broker's address.
struct Listener {
    accept: async_channel::Sender<SimStream>,
    /// Connections that exist, to be cut.
    pipes: Vec<Weak<RefCell<Pipe>>>,
    /// No new connections while this is set.
    cut: bool,
    slow: Rc<Cell<Duration>>,
}

/// All addresses, by port.
#[derive(Clone)]
pub struct Network {
    world: World,
    listeners: Rc<RefCell<BTreeMap<u16, Listener>>>,
}

impl Network {
    /// No addresses yet.
    pub fn new(world: &World) -> Self {
        Network {
            world: world.clone(),
            listeners: Rc::default(),
        }
    }

    /// Begins to accept connections at `port`; whoever listened there does no more.
    pub fn listen(&self, port: u16) -> async_channel::Receiver<SimStream> {
        let (accept, accepted) = async_channel::unbounded();
        let listener = Listener {
            accept,
            pipes: Vec::new(),
            cut: false,
            slow: Rc::default(),
        };
        let old = self.listeners.borrow_mut().insert(port, listener);
        drop(old);
        accepted
    }

    /// Connects, or is refused.
    pub async fn connect(&self, port: u16) -> io::Result<SimStream> {
        let late = self.world.draw(|random| random.micros(50, 500));
        self.world.sleep(late).await;
        let mut listeners = self.listeners.borrow_mut();
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        let listener = listeners
            .get_mut(&port)
            .filter(|listener| !listener.cut)
            .ok_or_else(refused)?;
        let (there, back) = (Rc::<RefCell<Pipe>>::default(), Rc::<RefCell<Pipe>>::default());
        let end = |incoming: &Rc<RefCell<Pipe>>, outgoing: &Rc<RefCell<Pipe>>| SimStream {
            world: self.world.clone(),
            incoming: incoming.clone(),
            outgoing: outgoing.clone(),
            arrival: None,
            slow: listener.slow.clone(),
        };
        let (client, server) = (end(&back, &there), end(&there, &back));
        listener.pipes.retain(|pipe| pipe.strong_count() > 0);
        listener.pipes.extend([&there, &back].map(Rc::downgrade));
        let sent = listener.accept.try_send(server);
        drop(listeners);
        sent.map(|()| client).map_err(|_| refused())
    }

    /// Breaks every connection with `port`.
    pub fn reset(&self, port: u16) {
        let pipes = match self.listeners.borrow_mut().get_mut(&port) {
            Some(listener) => std::mem::take(&mut listener.pipes),
            None => return,
        };
        for pipe in pipes.iter().filter_map(Weak::upgrade) {
            let mut pipe = pipe.borrow_mut();
            pipe.reset = true;
            pipe.wake();
        }
    }

    /// Lets nobody in at `port`, or everybody again.
    pub fn cut(&self, port: u16, cut: bool) {
        if let Some(listener) = self.listeners.borrow_mut().get_mut(&port) {
            listener.cut = cut;
        }
    }

    /// Makes everything to and from `port` later by this.
    pub fn slow(&self, port: u16, by: Duration) {
        if let Some(listener) = self.listeners.borrow().get(&port) {
            listener.slow.set(by);
        }
    }
}
