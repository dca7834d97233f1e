//! A guard between the guest's bytes and ttrpc.
//!
//! ttrpc itself answers an oversized frame by reading and throwing away up to 4 GiB of it, and queues stream
//! frames without limit. Our services have neither, so a guest that sends either is broken or hostile:
//! the guard ends the connection at the offending header and remembers why. ttrpc's own limit of 4 MiB is too high: such a
//! message, filled with empty list entries, takes hundreds of MiB once it is decoded. No answer of the agent comes near it.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use ttrpc::proto::{MESSAGE_HEADER_LENGTH, MESSAGE_TYPE_RESPONSE, MessageHeader};

/// The largest answer that is taken, in bytes. The largest that an agent sends is what was read of a stream,
/// [`crate::MAX_STREAM_CHUNK`] at most.
pub const MAX_ANSWER: usize = 256 << 10;

/// What a guest sent that no agent sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Violation {
    /// A frame above [`MAX_ANSWER`].
    #[error("a message of {length} bytes, above the {MAX_ANSWER} that an answer may have")]
    Oversized {
        /// Length the frame's header claims, in bytes.
        length: u32,
    },
    /// A frame that is not an answer; all of the agent's calls are unary.
    #[error("a frame of type {kind:#x}, which is not an answer")]
    NotAnAnswer {
        /// The header's type byte.
        kind: u8,
    },
}

/// What a guard knows about its connection; shared with those who make calls on it.
#[derive(Debug, Default)]
pub(crate) struct Link {
    violation: OnceLock<Violation>,
    closed: AtomicBool,
    closing: Notify,
}

impl Link {
    /// The violation the guard ended the connection for.
    pub(crate) fn violation(&self) -> Option<Violation> {
        self.violation.get().copied()
    }

    /// Whether the connection has ended, for whatever reason.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Waits for the connection's end.
    pub(crate) async fn ended(&self) {
        loop {
            let closing = self.closing.notified();
            if self.is_closed() {
                return;
            }
            closing.await;
        }
    }

    fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        self.closing.notify_waiters();
    }
}

/// Where in the byte stream the guard stands.
#[derive(Debug)]
enum Position {
    Header { have: usize, bytes: [u8; MESSAGE_HEADER_LENGTH] },
    Body { left: usize },
}

impl Position {
    fn start() -> Self {
        Self::Header { have: 0, bytes: [0; MESSAGE_HEADER_LENGTH] }
    }

    /// Moves over `input`, checking every header that is complete.
    fn advance(&mut self, mut input: &[u8]) -> Result<(), Violation> {
        while !input.is_empty() {
            match self {
                Self::Body { left } => {
                    let taken = input.len().min(*left);
                    input = &input[taken..];
                    *left -= taken;
                    if *left == 0 {
                        *self = Self::start();
                    }
                }
                Self::Header { have, bytes } => {
                    let taken = input.len().min(MESSAGE_HEADER_LENGTH - *have);
                    bytes[*have..*have + taken].copy_from_slice(&input[..taken]);
                    input = &input[taken..];
                    *have += taken;
                    if *have == MESSAGE_HEADER_LENGTH {
                        let left = check(MessageHeader::from(&bytes[..]))?;
                        *self = if left == 0 { Self::start() } else { Self::Body { left } };
                    }
                }
            }
        }
        Ok(())
    }
}

/// Returns the length of the body to come.
fn check(header: MessageHeader) -> Result<usize, Violation> {
    if header.type_ != MESSAGE_TYPE_RESPONSE {
        return Err(Violation::NotAnAnswer { kind: header.type_ });
    }
    usize::try_from(header.length)
        .ok()
        .filter(|length| *length <= MAX_ANSWER)
        .ok_or(Violation::Oversized { length: header.length })
}

/// A client's connection whose incoming frames are checked.
#[derive(Debug)]
pub(crate) struct Guarded<S> {
    inner: S,
    position: Position,
    link: Arc<Link>,
}

impl<S> Guarded<S> {
    pub(crate) fn new(inner: S, link: Arc<Link>) -> Self {
        Self { inner, position: Position::start(), link }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let polled = Pin::new(&mut this.inner).poll_read(cx, buf);
        if let Err(violation) = this.position.advance(&buf.filled()[before..]) {
            // The first one counts; ttrpc gives up on the connection with it.
            let _ = this.link.violation.set(violation);
            this.link.close();
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, violation)));
        }
        let ended = match &polled {
            Poll::Ready(Ok(())) => buf.filled().len() == before && buf.remaining() > 0,
            Poll::Ready(Err(_)) => true,
            Poll::Pending => false,
        };
        if ended {
            this.link.close();
        }
        polled
    }
}

impl<S> Drop for Guarded<S> {
    fn drop(&mut self) {
        self.link.close();
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(length: u32, body: usize) -> Vec<u8> {
        let mut bytes = Vec::from(MessageHeader::new_response(1, length));
        bytes.extend(vec![0xff; body]);
        bytes
    }

    #[test]
    fn the_limit_itself_is_allowed_and_one_more_is_not() {
        let limit = u32::try_from(MAX_ANSWER).unwrap();
        assert_eq!(Position::start().advance(&frame(limit, 0)), Ok(()));
        assert_eq!(
            Position::start().advance(&frame(limit + 1, 0)),
            Err(Violation::Oversized { length: limit + 1 })
        );
    }

    #[test]
    fn stream_frames_are_refused() {
        let header = Vec::from(MessageHeader::new_data(1, 0));
        assert_eq!(Position::start().advance(&header), Err(Violation::NotAnAnswer { kind: 3 }));
    }

    proptest! {
        /// However the bytes are cut into reads, only the bad header at the end is found.
        #[test]
        fn cuts_do_not_matter(bodies in proptest::collection::vec(0usize..64, 0..8), cut in 1usize..32) {
            let mut bytes: Vec<u8> =
                bodies.iter().flat_map(|n| frame(u32::try_from(*n).unwrap(), *n)).collect();
            let mut position = Position::start();
            for piece in bytes.chunks(cut) {
                prop_assert_eq!(position.advance(piece), Ok(()));
            }
            bytes.extend(frame(u32::MAX, 0));
            let mut position = Position::start();
            let last = bytes.chunks(cut).map(|piece| position.advance(piece)).find(Result::is_err);
            prop_assert_eq!(last, Some(Err(Violation::Oversized { length: u32::MAX })));
        }
    }
}
