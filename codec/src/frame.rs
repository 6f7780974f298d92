//! A stream of bytes into size-bounded frames.

use bytes::{Buf, Bytes, BytesMut};

/// The size that a client announced cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a frame of {size} bytes is not within 0..={max}")]
pub struct FrameError {
    /// What the client said.
    pub size: i32,
    /// `socket.request.max.bytes`.
    pub max: usize,
}

/// Cuts frames out of what a connection receives. Memory grows with the bytes received, never with the size announced.
#[derive(Debug)]
pub struct FrameDecoder {
    buffer: BytesMut,
    max_frame_bytes: usize,
}

impl FrameDecoder {
    /// Refuses frames over `max_frame_bytes`.
    pub fn new(max_frame_bytes: usize) -> Self {
        FrameDecoder {
            buffer: BytesMut::new(),
            max_frame_bytes,
        }
    }

    /// Where received bytes are to be appended.
    pub fn buffer_mut(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// How many bytes of the frame at the front are still missing, if its size is known and it is incomplete.
    pub fn missing(&self) -> Option<usize> {
        let size = self.announced().ok()??;
        (size + 4).checked_sub(self.buffer.len()).filter(|missing| *missing > 0)
    }

    /// The size of the frame at the front if it is incomplete, and what is there of it.
    pub fn begun(&self) -> Option<(usize, &[u8])> {
        let size = self.announced().ok()??;
        self.missing().map(|_| (size, &self.buffer[4..]))
    }

    fn announced(&self) -> Result<Option<usize>, FrameError> {
        let Some(prefix) = self.buffer.first_chunk::<4>() else {
            return Ok(None);
        };
        let size = i32::from_be_bytes(*prefix);
        match usize::try_from(size) {
            Ok(bytes) if bytes <= self.max_frame_bytes => Ok(Some(bytes)),
            _ => Err(FrameError {
                size,
                max: self.max_frame_bytes,
            }),
        }
    }

    /// The next whole frame without its size, as a slice of what was received.
    pub fn next_frame(&mut self) -> Result<Option<Bytes>, FrameError> {
        let Some(size) = self.announced()? else { return Ok(None) };
        if self.buffer.len() < size + 4 {
            return Ok(None);
        }
        self.buffer.advance(4);
        Ok(Some(self.buffer.split_to(size).freeze()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_whole_however_they_arrive() {
        let stream = [0, 0, 0, 3, b'a', b'b', b'c', 0, 0, 0, 0, 0, 0, 0, 1, b'd'];
        for step in 1..=stream.len() {
            let mut decoder = FrameDecoder::new(3);
            let mut frames = Vec::new();
            for part in stream.chunks(step) {
                decoder.buffer_mut().extend_from_slice(part);
                while let Some(frame) = decoder.next_frame().unwrap() {
                    frames.push(frame);
                }
            }
            assert_eq!(frames, [&b"abc"[..], b"", b"d"]);
        }
    }

    #[test]
    fn a_frame_that_has_begun_tells_its_size_and_its_beginning() {
        let mut decoder = FrameDecoder::new(100);
        for (bytes, begun) in [
            (&[0, 0, 0][..], None),
            (&[5], Some((5, &b""[..]))),
            (b"ab", Some((5, b"ab"))),
            (b"cde", None),
        ] {
            decoder.buffer_mut().extend_from_slice(bytes);
            assert_eq!(decoder.begun(), begun);
        }
    }

    #[test]
    fn a_size_that_is_negative_or_too_large_is_refused_before_anything_is_allocated() {
        for prefix in [[0x7f, 0xff, 0xff, 0xff], [0xff, 0xff, 0xff, 0xff], [0, 0, 0, 4]] {
            let mut decoder = FrameDecoder::new(3);
            decoder.buffer_mut().extend_from_slice(&prefix);
            assert!(decoder.next_frame().is_err());
        }
    }
}
