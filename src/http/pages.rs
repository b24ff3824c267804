//! Large responses in memory: how much they may occupy together, and what happens when there is no room.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::FutureExt as _;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::pieces::Pieces;

/// Memory in KiB for the responses that clients have not read yet: a container may have a limit of 16 MiB, and a page of 1,000 listeners
/// occupies more than 2 MiB.
const ROOM: u32 = 3 * 1024;
/// While there is no room, a response that is not older than this is sent again.
const FRESH: Duration = Duration::from_secs(1);
/// Interval at which a response that waits for room has clients disconnected that do not read theirs.
const AGAIN: Duration = Duration::from_millis(50);

/// Limits the responses in memory.
#[derive(Debug, Clone)]
pub struct Pages {
    room: Arc<Semaphore>,
    /// The last response of each name.
    made: Arc<Mutex<HashMap<&'static str, Made>>>,
    wanted: Arc<Notify>,
}

#[derive(Debug)]
struct Made {
    at: Instant,
    /// In KiB.
    size: u32,
    held: Weak<Held>,
}

/// A response in memory.
#[derive(Debug)]
struct Held {
    pieces: Pieces,
    _room: OwnedSemaphorePermit,
}

/// A response that is sent to a client, in parts.
#[derive(Debug)]
pub(super) struct Sent {
    held: Arc<Held>,
    next: usize,
}

/// A part of a response, which occupies room until all are sent.
struct Part {
    held: Arc<Held>,
    index: usize,
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        self.held.pieces.get(self.index).unwrap_or_default()
    }
}

impl Iterator for Sent {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let part = Part {
            held: self.held.clone(),
            index: self.next,
        };
        self.held.pieces.get(self.next)?;
        self.next += 1;
        Some(Bytes::from_owner(part))
    }
}

impl Body for Sent {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.next().map(|part| Ok(Frame::data(part))))
    }

    /// The length of the whole, for `Content-Length`.
    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.held.pieces.len() as u64)
    }
}

impl IntoResponse for Sent {
    fn into_response(self) -> Response {
        axum::body::Body::new(self).into_response()
    }
}

impl Default for Pages {
    fn default() -> Self {
        Self {
            room: Arc::new(Semaphore::new(ROOM as usize)),
            made: Arc::default(),
            wanted: Arc::default(),
        }
    }
}

impl Pages {
    /// Is notified while a response waits for room.
    #[must_use]
    pub fn wanted(&self) -> Arc<Notify> {
        Arc::clone(&self.wanted)
    }

    /// Renders a response when there is room, and occupies the room until it is sent. Responses of one name have the same content at the same
    /// time: if there is no room, one that was just rendered is sent again.
    pub(super) async fn hold(
        &self,
        name: &'static str,
        make: impl FnOnce(&mut Pieces) -> io::Result<()>,
    ) -> Sent {
        self.hold_or(name, || self.fresh(name), make).await
    }

    /// As [`hold`](Self::hold), for what only one client is sent. Responses of one name have about the same size.
    pub(super) async fn hold_own(
        &self,
        name: &'static str,
        make: impl FnOnce(&mut Pieces) -> io::Result<()>,
    ) -> Sent {
        self.hold_or(name, || None, make).await
    }

    async fn hold_or(
        &self,
        name: &'static str,
        instead: impl Fn() -> Option<Arc<Held>>,
        make: impl FnOnce(&mut Pieces) -> io::Result<()>,
    ) -> Sent {
        let held = match self.room(name, instead).await {
            Ok(room) => self.render(name, room, make),
            Err(held) => held,
        };
        Sent { held, next: 0 }
    }

    /// Waits for the room of a response, or until there is another one to send instead.
    async fn room(
        &self,
        name: &'static str,
        instead: impl Fn() -> Option<Arc<Held>>,
    ) -> Result<OwnedSemaphorePermit, Arc<Held>> {
        let size = self.lock().get(name).map_or(ROOM, |made| made.size);
        let mut room = pin!(Arc::clone(&self.room).acquire_many_owned(size));
        loop {
            if let Some(Ok(room)) = room.as_mut().now_or_never() {
                return Ok(room);
            }
            if let Some(held) = instead() {
                return Err(held);
            }
            self.wanted.notify_one();
            if let Ok(Ok(room)) = tokio::time::timeout(AGAIN, room.as_mut()).await {
                return Ok(room);
            }
        }
    }

    fn render(
        &self,
        name: &'static str,
        mut room: OwnedSemaphorePermit,
        make: impl FnOnce(&mut Pieces) -> io::Result<()>,
    ) -> Arc<Held> {
        let mut pieces = Pieces::default();
        // Writing plain data to memory cannot fail.
        if let Err(error) = make(&mut pieces) {
            tracing::error!(%error, "cannot write a response");
        }
        let size = u32::try_from(pieces.len().div_ceil(1024)).unwrap_or(ROOM);
        let size = size.clamp(1, ROOM);
        self.fit(&mut room, size);
        let held = Arc::new(Held {
            pieces,
            _room: room,
        });
        let last = Made {
            at: Instant::now(),
            size,
            held: Arc::downgrade(&held),
        };
        self.lock().insert(name, last);
        held
    }

    /// Releases the surplus, and acquires what is missing if it is available.
    fn fit(&self, room: &mut OwnedSemaphorePermit, size: u32) {
        let needed = size as usize;
        if let Some(surplus) = room.num_permits().checked_sub(needed) {
            drop(room.split(surplus));
        } else if let Ok(missing) = u32::try_from(needed - room.num_permits())
            && let Ok(more) = Arc::clone(&self.room).try_acquire_many_owned(missing)
        {
            room.merge(more);
        }
    }

    fn fresh(&self, name: &str) -> Option<Arc<Held>> {
        let made = self.lock();
        let last = made.get(name)?;
        let is_fresh = last.at.elapsed() < FRESH;
        is_fresh.then(|| last.held.upgrade())?
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<&'static str, Made>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    /// Of this many KiB.
    fn answer(byte: u8, size: usize) -> impl FnOnce(&mut Pieces) -> io::Result<()> {
        move |pieces| pieces.write_all(&vec![byte; size * 1024])
    }

    fn text(sent: Sent) -> Vec<u8> {
        sent.flatten().collect()
    }

    #[tokio::test]
    async fn answers_take_the_room_that_they_need_and_give_it_back() {
        let pages = Pages::default();
        let first = pages.hold("a", answer(1, 1000)).await;
        assert_eq!(pages.room.available_permits(), 2072);
        let second = pages.hold("a", answer(2, 1500)).await;
        assert_eq!(pages.room.available_permits(), 572, "it had grown");
        drop((first, second));
        let larger = pages.hold("b", answer(3, 5000)).await;
        assert_eq!(pages.room.available_permits(), 0);
        assert_eq!(text(larger).len(), 5000 * 1024);
        assert_eq!(pages.room.available_permits(), ROOM as usize);
    }

    #[tokio::test]
    async fn without_room_an_answer_that_was_just_made_is_sent_again() {
        let pages = Pages::default();
        let first = pages.hold("a", answer(1, 2000)).await;
        let again = pages.hold("a", answer(2, 2000)).await;
        assert_eq!(text(again)[0], 1);
        drop(first);
        assert_eq!(text(pages.hold("a", answer(3, 2000)).await)[0], 3);
    }

    #[tokio::test]
    async fn without_room_another_answer_waits_and_asks_for_it() {
        let pages = Pages::default();
        let first = pages.hold("a", answer(1, 2000)).await;
        let mut second = pin!(pages.hold("b", answer(2, 2000)));
        let wanted = pages.wanted();
        for _ in 0..3 {
            tokio::select! {
                biased;
                _ = second.as_mut() => panic!("there is no room"),
                () = wanted.notified() => {}
            }
        }
        drop(first);
        assert_eq!(text(second.await)[0], 2);
    }
}
