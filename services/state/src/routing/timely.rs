//! Connections that don't wait for ever: neither for a peer that says nothing, nor for one that takes nothing.
//!
//! Both protocols of the push API look after themselves once it is known which one is spoken (pings, a deadline for heads). Before
//! that, and while an answer can't be written, nobody does.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;
use tonic::transport::server::Connected;

/// Bytes after which it is known what a peer speaks: HTTP/2's preface has as many, and no request of HTTP/1 is much shorter.
const PREFACE: usize = 24;

/// A connection with a limit to its patience.
#[derive(Debug)]
pub(crate) struct Timely<S> {
    stream: S,
    patience: Duration,
    /// Until [`PREFACE`] bytes have come.
    opening: Option<Opening>,
    /// While the peer takes nothing.
    stalled: Option<Pin<Box<Sleep>>>,
}

#[derive(Debug)]
struct Opening {
    bytes: usize,
    deadline: Pin<Box<Sleep>>,
}

// === impl Timely ===

impl<S> Timely<S> {
    pub(crate) fn new(stream: S, patience: Duration) -> Timely<S> {
        let opening = Opening {
            bytes: 0,
            deadline: Box::pin(tokio::time::sleep(patience)),
        };
        Timely {
            stream,
            patience,
            opening: Some(opening),
            stalled: None,
        }
    }

    /// What a write came to. One that waits for too long has failed.
    fn wrote<T>(&mut self, context: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let patience = self.patience;
        let stalled = self
            .stalled
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        ready!(stalled.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Timely<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(context, buffer);
        let Some(opening) = &mut this.opening else {
            return read;
        };
        if read.is_pending() {
            ready!(opening.deadline.as_mut().poll(context));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        opening.bytes += buffer.filled().len() - before;
        if opening.bytes >= PREFACE {
            this.opening = None;
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Timely<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(context, bytes);
        this.wrote(context, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(context, pieces);
        this.wrote(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.stream).poll_flush(context);
        this.wrote(context, flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let shut = Pin::new(&mut this.stream).poll_shutdown(context);
        this.wrote(context, shut)
    }
}

impl<S: Connected> Connected for Timely<S> {
    type ConnectInfo = S::ConnectInfo;

    fn connect_info(&self) -> S::ConnectInfo {
        self.stream.connect_info()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::time::Instant;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_says_too_little_is_not_waited_for() {
        let (ours, mut theirs) = duplex(64);
        let mut ours = Timely::new(ours, PATIENCE);
        theirs.write_all(b"PRI * HTTP/2.0").await.unwrap();
        let start = Instant::now();
        let fault = ours.read_exact(&mut [0; PREFACE]).await.unwrap_err();
        assert_eq!(fault.kind(), io::ErrorKind::TimedOut);
        assert_eq!(start.elapsed().as_secs(), PATIENCE.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_has_begun_may_be_silent() {
        let (ours, mut theirs) = duplex(64);
        let mut ours = Timely::new(ours, PATIENCE);
        theirs.write_all(&[b'x'; PREFACE]).await.unwrap();
        ours.read_exact(&mut [0; PREFACE]).await.unwrap();
        let mut next = [0];
        let silent = tokio::time::timeout(2 * PATIENCE, ours.read_exact(&mut next));
        assert!(silent.await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_nothing_is_not_waited_for() {
        let (ours, mut theirs) = duplex(64);
        let mut ours = Timely::new(ours, PATIENCE);
        ours.write_all(&[0; 64]).await.unwrap();
        // It takes something: there is as much time again.
        let half = tokio::time::timeout(PATIENCE / 2, ours.write_all(&[0; 32]));
        assert!(half.await.is_err());
        theirs.read_exact(&mut [0; 32]).await.unwrap();
        ours.write_all(&[0; 32]).await.unwrap();
        let start = Instant::now();
        let fault = ours.write_all(&[0; 32]).await.unwrap_err();
        assert_eq!(fault.kind(), io::ErrorKind::TimedOut);
        assert_eq!(start.elapsed().as_secs(), PATIENCE.as_secs());
    }
}
