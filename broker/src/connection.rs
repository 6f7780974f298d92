//! One connection: frames in, responses out in the order of the requests.
//!
//! A request has two stages. The first decides its order and runs before the next frame is looked at; the second waits
//! (for durability, for data, for a group) beside those of the requests behind it.

use crate::budget::{ByteBudget, Permit};
use crate::handlers::{self, Client, Reply};
use crate::node::Node;
use crate::runtime::{Instant, Runtime};
use bytes::BytesMut;
use futures::future::{select, Either};
use futures::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use futures::stream::StreamExt;
use kafscale_codec::api::ApiKey;
use kafscale_codec::error_code::ErrorCode;
use kafscale_codec::frame::{FrameDecoder, FrameError};
use kafscale_codec::wire::{BufferList, DecodeError};
use std::cell::Cell;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

/// The least that is read from a socket at a time: all that an idle connection holds.
const READ_BYTES_MIN: usize = 1024;

/// The most.
const READ_BYTES_MAX: usize = 256 * 1024;

/// Once so much of a frame is there, it gets its room before the rest is read: so memory does not grow with connections
/// that bring much, and who only announces much takes nothing from others.
const RESERVED_BYTES_MIN: usize = 16 * 1024;

/// How long such a frame may stand still: its room is wanted by others.
const STALLED_MAX: Duration = Duration::from_secs(10);

/// Pieces up to this many bytes in all are sent as one.
const GATHER_BYTES: usize = 64 * 1024;

/// Why a connection ended otherwise than by the client's wish.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The socket failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// What arrived is no frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A frame holds no request.
    #[error("malformed request: {0}")]
    Decode(#[from] DecodeError),
    /// A large frame has begun, and nothing more of it came for long.
    #[error("a request of many bytes does not arrive")]
    Stalled,
    /// A produce request with `acks=0` has failed, and no answer can report it.
    #[error("a produce request with acks=0 failed with {0:?}; only the end of the connection can report that")]
    Unanswered(ErrorCode),
    /// Nothing has moved for longer than `connections_max_idle_ms`.
    #[error("nothing was received or sent for {0:?}")]
    Idle(Duration),
    /// A response cannot be said in the client's version.
    #[error("response: {0}")]
    Encode(#[from] kafscale_codec::wire::EncodeError),
}

/// When the connection last moved, and whether it waits for the broker rather than for its client.
struct Activity {
    runtime: Rc<dyn Runtime>,
    moved: Cell<Instant>,
    /// Requests that were read and are not answered yet.
    in_flight: Cell<usize>,
    /// An answer is being written: the client has to take it.
    writing: Cell<bool>,
}

impl Activity {
    fn new(node: &Node) -> Self {
        Activity {
            runtime: node.runtime.clone(),
            moved: Cell::new(node.runtime.now()),
            in_flight: Cell::new(0),
            writing: Cell::new(false),
        }
    }

    fn moves(&self) {
        self.moved.set(self.runtime.now());
    }

    /// Completes once nothing has moved for `limit`. A request that is being worked on is no idleness, but an answer
    /// that the client does not take is. One timer serves the whole connection: reads and writes only note the time.
    async fn idle_for(&self, limit: Duration) -> ConnectionError {
        loop {
            let waits_for_us = self.in_flight.get() > 0 && !self.writing.get();
            if waits_for_us {
                self.moves();
            }
            let idle = self.runtime.now() - self.moved.get();
            if idle >= limit {
                return ConnectionError::Idle(idle);
            }
            self.runtime.sleep(limit - idle).await;
        }
    }
}

/// Serves a connection until the client closes it or breaks the protocol. `client_host` says where the client is.
pub async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    node: Rc<Node>,
    client_host: Rc<str>,
    stream: S,
) -> Result<(), ConnectionError> {
    let (reader, writer) = stream.split();
    let limit = node.config.requests_in_flight_max;
    let (replies, pending) = async_channel::bounded::<Reply>(limit);
    let client = Client::new(client_host);
    let activity = Activity::new(&node);
    let serve = pin!(async {
        let read = pin!(read_requests(&node, &client, &activity, reader, replies));
        let write = pin!(write_replies(writer, pending, limit, &activity));
        match select(read, write).await {
            // The client has said all it wants to: what is under way is still answered.
            Either::Left((Ok(()), write)) => write.await,
            Either::Left((Err(error), _)) => Err(error),
            Either::Right((written, _)) => written,
        }
    });
    let idle = pin!(activity.idle_for(node.config.connections_max_idle));
    match select(serve, idle).await {
        Either::Left((served, _)) => served,
        Either::Right((idle, _)) => Err(idle),
    }
}

async fn read_requests(
    node: &Rc<Node>,
    client: &Rc<Client>,
    activity: &Activity,
    mut reader: impl AsyncRead + Unpin,
    replies: async_channel::Sender<Reply>,
) -> Result<(), ConnectionError> {
    let mut frames = FrameDecoder::new(node.config.request_bytes_max);
    // Room for what may come behind the frame that is being read: more for a busy connection.
    let mut ahead = READ_BYTES_MIN;
    let mut reserved: Option<Permit> = None;
    loop {
        while let Some(frame) = frames.next_frame()? {
            let permit = match reserved.take() {
                Some(permit) => permit,
                None => budget(node, &frame).take(frame.len()).await,
            };
            activity.in_flight.set(activity.in_flight.get() + 1);
            let reply = handlers::dispatch(node, client, frame, permit).await?;
            if replies.send(reply).await.is_err() {
                return Ok(());
            }
        }
        if reserved.is_none() {
            // The rest of a large one is not read before there is room for it.
            let large = frames.begun().filter(|(_, begin)| begin.len() >= RESERVED_BYTES_MIN);
            if let Some((size, begin)) = large {
                reserved = Some(budget(node, begin).take(size).await);
            }
        }
        let missing = match frames.missing().unwrap_or(0) {
            // Just enough to know that it does arrive.
            large if reserved.is_none() => large.min(RESERVED_BYTES_MIN),
            missing => missing,
        };
        let want = missing.max(ahead).min(READ_BYTES_MAX);
        let buffer = frames.buffer_mut();
        if buffer.is_empty() && buffer.capacity() > 4 * want {
            // A connection that has calmed down gives its room back.
            *buffer = BytesMut::with_capacity(want);
        }
        let filled = buffer.len();
        buffer.resize(filled + want, 0);
        let got = match &reserved {
            None => reader.read(&mut buffer[filled..]).await?,
            Some(_) => {
                let read = node.within(STALLED_MAX, reader.read(&mut buffer[filled..])).await;
                read.ok_or(ConnectionError::Stalled)??
            }
        };
        buffer.truncate(filled + got);
        activity.moves();
        if got == want {
            ahead = (ahead * 2).min(READ_BYTES_MAX);
        } else if got < ahead / 4 {
            ahead = (ahead / 2).max(READ_BYTES_MIN);
        }
        // A socket that always has more must not keep the others waiting.
        node.runtime.yield_now().await;
        if got == 0 {
            return Ok(());
        }
    }
}

async fn write_replies(
    mut writer: impl AsyncWrite + Unpin,
    pending: async_channel::Receiver<Reply>,
    limit: usize,
    activity: &Activity,
) -> Result<(), ConnectionError> {
    let mut replies = pin!(pending.buffered(limit));
    while let Some(reply) = replies.next().await {
        if let Some(buffers) = reply? {
            activity.moves();
            activity.writing.set(true);
            write_buffers(&mut writer, buffers, activity).await?;
            activity.writing.set(false);
        }
        activity.in_flight.set(activity.in_flight.get() - 1);
        activity.moves();
    }
    Ok(())
}

async fn write_buffers(
    writer: &mut (impl AsyncWrite + Unpin),
    buffers: BufferList,
    activity: &Activity,
) -> io::Result<()> {
    let mut small = BytesMut::new();
    for buffer in buffers {
        if buffer.len() < GATHER_BYTES {
            small.extend_from_slice(&buffer);
            if small.len() < GATHER_BYTES {
                continue;
            }
        }
        if !small.is_empty() {
            write_all(writer, &small.split(), activity).await?;
        }
        if buffer.len() >= GATHER_BYTES {
            write_all(writer, &buffer, activity).await?;
        }
    }
    if !small.is_empty() {
        write_all(writer, &small, activity).await?;
    }
    writer.flush().await
}

/// Writes all of `bytes`; each piece that the client takes is a move.
async fn write_all(writer: &mut (impl AsyncWrite + Unpin), mut bytes: &[u8], activity: &Activity) -> io::Result<()> {
    while !bytes.is_empty() {
        let written = writer.write(bytes).await?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        bytes = bytes.get(written..).unwrap_or_default();
        activity.moves();
    }
    Ok(())
}

/// Where a frame that begins like this gets its room. Records wait for the store, which may be slow or gone; nothing else
/// shall have to wait for them.
fn budget<'a>(node: &'a Node, frame: &[u8]) -> &'a Rc<ByteBudget> {
    match frame.first_chunk() == Some(&(ApiKey::Produce as i16).to_be_bytes()) {
        true => &node.produce_budget,
        false => &node.budget,
    }
}
