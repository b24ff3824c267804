//! A connection whose client must read what it is sent within a time limit, because the data waits in memory.

use std::future::Future as _;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// How a client reads what it is sent.
#[derive(Debug, Default)]
pub(super) struct Client {
    /// Whether it has not read everything.
    is_reading: AtomicBool,
    /// Since when it is known to read nothing, if it does not.
    behind_since: Mutex<Option<Instant>>,
}

impl Client {
    pub(super) fn is_reading(&self) -> bool {
        self.is_reading.load(Ordering::Relaxed)
    }

    pub(super) fn behind_since(&self) -> Option<Instant> {
        let since = self.behind_since.lock();
        *since.unwrap_or_else(PoisonError::into_inner)
    }

    fn set_behind(&self, since: Option<Instant>) {
        let behind = self.behind_since.lock();
        *behind.unwrap_or_else(PoisonError::into_inner) = since;
    }
}

/// A stream whose writes fail if one has waited longer than the limit since the stream was last flushed.
#[derive(Debug)]
pub(super) struct Bounded<S> {
    stream: S,
    limit: Duration,
    /// Runs while the client has not read everything.
    timer: Option<Pin<Box<Sleep>>>,
    patience: Duration,
    /// Runs while the client reads nothing. When it has expired, what the client read in the meantime is known as well.
    pause: Option<Pin<Box<Sleep>>>,
    client: Arc<Client>,
}

impl<S> Bounded<S> {
    /// A client that reads nothing for longer than `patience` is behind.
    pub(super) fn new(stream: S, limit: Duration, patience: Duration, client: Arc<Client>) -> Self {
        Self {
            stream,
            limit,
            timer: None,
            patience,
            pause: None,
            client,
        }
    }

    fn note(
        &mut self,
        written: Poll<io::Result<usize>>,
        context: &mut Context,
    ) -> Poll<io::Result<usize>> {
        if written.is_pending() {
            return self.wait(context);
        }
        if self.pause.take().is_some() {
            self.client.set_behind(None);
        }
        written
    }

    fn wait(&mut self, context: &mut Context) -> Poll<io::Result<usize>> {
        self.client.is_reading.store(true, Ordering::Relaxed);
        let (limit, patience) = (self.limit, self.patience);
        let pause = self.pause.get_or_insert_with(|| Box::pin(sleep(patience)));
        if self.client.behind_since().is_none() && pause.as_mut().poll(context).is_ready() {
            self.client.set_behind(Some(Instant::now()));
        }
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(limit)));
        ready!(timer.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Bounded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context,
        buffer: &mut ReadBuf,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Bounded<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.note(written, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context,
        parts: &[IoSlice],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.note(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(context))?;
        if self.timer.take().is_some() {
            self.client.is_reading.store(false, Ordering::Relaxed);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
