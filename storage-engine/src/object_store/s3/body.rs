//! A request's body: the parts as they are, one frame each, so that they are written where they lie.

use bytes::Bytes;
use futures::{ready, Stream};
use http_body::{Body, Frame, SizeHint};
use rusoto_core::signature::SignedRequestPayload;
use rusoto_core::ByteStream;
use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

/// A body of a known length.
pub(super) struct PartsBody {
    parts: Option<ByteStream>,
    left: u64,
    /// Set once all of it was taken.
    taken: Rc<Cell<bool>>,
}

impl PartsBody {
    /// `len` is what the parts add up to.
    pub(super) fn new(payload: Option<SignedRequestPayload>, len: u64) -> Self {
        let parts = payload.map(|payload| match payload {
            SignedRequestPayload::Buffer(bytes) => ByteStream::from_bytes(bytes),
            SignedRequestPayload::Stream(stream) => stream,
        });
        PartsBody {
            parts,
            left: len,
            taken: Rc::new(Cell::new(len == 0)),
        }
    }

    /// Tells whether all of it was taken.
    pub(super) fn taken(&self) -> Rc<Cell<bool>> {
        self.taken.clone()
    }
}

trait FromBytes {
    fn from_bytes(bytes: Bytes) -> Self;
}

impl FromBytes for ByteStream {
    fn from_bytes(bytes: Bytes) -> Self {
        let len = bytes.len();
        ByteStream::new_with_size(futures::stream::iter([Ok(bytes)]), len)
    }
}

impl Body for PartsBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = self.get_mut();
        let Some(parts) = &mut this.parts else {
            return Poll::Ready(None);
        };
        let frame = match ready!(Pin::new(parts).poll_next(cx)) {
            Some(Ok(part)) => {
                this.left = this.left.saturating_sub(part.len() as u64);
                Some(Ok(Frame::data(part)))
            }
            Some(Err(error)) => Some(Err(error)),
            None => None,
        };
        if this.left == 0 {
            this.taken.set(true);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::executor::block_on;
    use std::future::poll_fn;

    #[test]
    fn parts_are_passed_on_uncopied() {
        let parts = [Bytes::from(vec![1; 10]), Bytes::from(vec![2; 20])];
        let addresses = parts.clone().map(|part| part.as_ptr());
        let stream = ByteStream::new_with_size(futures::stream::iter(parts.map(Ok)), 30);
        let mut body = PartsBody::new(Some(SignedRequestPayload::Stream(stream)), 30);
        let taken = body.taken();
        for address in addresses {
            assert!(!taken.get() && !body.is_end_stream());
            let frame = block_on(poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)));
            let data = frame.expect("a part").expect("no error").into_data().expect("data");
            assert_eq!(data.as_ptr(), address);
        }
        assert!(taken.get() && body.is_end_stream());
    }
}
