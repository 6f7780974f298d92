//! The network as glommio has it: the only file of the S3 store that names the executor.

use futures::future::{select, Either};
use futures::{ready, AsyncRead, AsyncWrite};
use futures_rustls::client::TlsStream;
use glommio::net::TcpStream;
use hyper::rt::{Read, ReadBufCursor, Write};
use rustix::fd::BorrowedFd;
use rustix::io::Errno;
use rustix::net::{sendmsg, SendAncillaryBuffer, SendFlags};
use std::future::Future;
use std::io::{self, IoSlice};
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::AsRawFd;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

/// Bytes received at a time: as many as hyper asks for in the middle of a large body.
const RECEIVE_BYTES: usize = 64 << 10;

/// A connection, as hyper wants it.
pub(super) struct NetStream {
    stream: Stream,
    received: Box<[u8]>,
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Runs `future` for at most `limit`; none if that was too short.
pub(super) async fn within<T>(limit: Duration, future: impl Future<Output = T>) -> Option<T> {
    match select(Box::pin(future), Box::pin(glommio::timer::sleep(limit))).await {
        Either::Left((result, _)) => Some(result),
        Either::Right(_) => None,
    }
}

pub(super) async fn sleep(pause: Duration) {
    glommio::timer::sleep(pause).await;
}

/// Runs a task on this shard until it ends by itself.
pub(super) fn spawn(task: impl Future<Output = ()> + 'static) {
    glommio::spawn_local(task).detach();
}

/// The addresses of a host. The system's resolver blocks, so it runs on the executor's pool.
pub(super) async fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    // An IPv6 address in brackets, as URLs have it.
    let host = host.trim_start_matches('[').trim_end_matches(']').to_string();
    let lookup = move || Ok((host.as_str(), port).to_socket_addrs()?.collect());
    // A panic there would hang this task.
    let guarded = move || catch_unwind(AssertUnwindSafe(lookup));
    let found = glommio::executor().spawn_blocking(guarded).await;
    found.unwrap_or_else(|_| Err(io::Error::other("the resolver panicked")))
}

/// Connects, without TLS.
pub(super) async fn connect(addr: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(addr).await.map_err(io::Error::from)?;
    // A request's end must not wait until its beginning is acknowledged.
    stream.set_nodelay(true).map_err(io::Error::from)?;
    Ok(stream)
}

impl NetStream {
    pub(super) fn plain(stream: TcpStream) -> Self {
        Self::new(Stream::Plain(stream))
    }

    pub(super) fn tls(stream: TlsStream<TcpStream>) -> Self {
        Self::new(Stream::Tls(Box::new(stream)))
    }

    fn new(stream: Stream) -> Self {
        NetStream {
            stream,
            received: vec![0; RECEIVE_BYTES].into(),
        }
    }
}

impl Read for NetStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, mut buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let NetStream { stream, received } = self.get_mut();
        let most = buf.remaining().min(received.len());
        let part = &mut received[..most];
        let count = ready!(match stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, part),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, part),
        })?;
        buf.put_slice(&part[..count]);
        Poll::Ready(Ok(()))
    }
}

impl Write for NetStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_close(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_close(cx),
        }
    }

    /// With TLS each byte is rewritten anyway, so hyper may as well gather them.
    fn is_write_vectored(&self) -> bool {
        matches!(self.stream, Stream::Plain(_))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let stream = match &mut self.get_mut().stream {
            Stream::Plain(stream) => stream,
            Stream::Tls(stream) => return Pin::new(stream).poll_write_vectored(cx, bufs),
        };
        // SAFETY: the descriptor belongs to `stream`, which outlives this call and is not closed in it.
        let fd = unsafe { BorrowedFd::borrow_raw(stream.as_raw_fd()) };
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        loop {
            // The executor's stream would write the first slice only.
            match sendmsg(fd, bufs, &mut SendAncillaryBuffer::default(), flags) {
                Ok(count) => return Poll::Ready(Ok(count)),
                Err(Errno::INTR) => {}
                // The stream's own write waits until there is room.
                Err(Errno::AGAIN) => {
                    let first = bufs.iter().find(|buf| !buf.is_empty());
                    return Pin::new(stream).poll_write(cx, first.map_or(&[], |buf| buf));
                }
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }
}
