//! The places of connections, and which connection leaves its place to a new one if there are no more.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::Notify;

use super::bounded::Client;

/// A new connection keeps its place for this time: its request may be on the way.
const GRACE: Duration = Duration::from_millis(30);

/// The served connections, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Places(Mutex<Vec<Arc<Place>>>);

/// The place of one connection.
#[derive(Debug)]
pub(super) struct Place {
    since: Instant,
    /// Requests that have arrived and are not answered yet: a client may send the next one before it has received the last response.
    unanswered: AtomicU32,
    /// Whether the password of its request waits to be checked.
    is_in_doubt: AtomicBool,
    client: Arc<Client>,
    given_up: Notify,
}

impl Default for Place {
    fn default() -> Self {
        Self {
            since: Instant::now(),
            unanswered: AtomicU32::default(),
            is_in_doubt: AtomicBool::default(),
            client: Arc::default(),
            given_up: Notify::default(),
        }
    }
}

impl Places {
    pub(super) fn take(&self) -> Arc<Place> {
        let place = Arc::new(Place::default());
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        places.push(place.clone());
        place
    }

    pub(super) fn leave(&self, place: &Arc<Place>) {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        places.retain(|other| !Arc::ptr_eq(other, place));
    }

    /// Closes the oldest connection that has sent no request or whose password waits to be checked, or else the one whose client has been behind
    /// for the longest time.
    pub(super) fn give_one_up(&self) {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let first = places.iter().position(|place| place.gives_way(now));
        let index = first.or_else(|| {
            let places = places.iter().enumerate();
            let behind =
                places.filter_map(|(index, place)| Some((place.client.behind_since()?, index)));
            behind.min().map(|(_, index)| index)
        });
        if let Some(index) = index {
            places.remove(index).given_up.notify_one();
        }
    }

    /// Closes all connections whose clients are behind.
    pub(super) fn give_up_those_behind(&self) {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        places.retain(|place| {
            let is_behind = place.client.behind_since().is_some();
            if is_behind {
                place.given_up.notify_one();
            }
            !is_behind
        });
    }
}

impl Place {
    /// How its client reads.
    pub(super) fn client(&self) -> Arc<Client> {
        self.client.clone()
    }

    /// Resolves when the connection must close.
    pub(super) async fn given_up(&self) {
        self.given_up.notified().await;
    }

    /// Until the result is dropped, the password of its request waits to be checked.
    pub(super) fn doubt(&self) -> Doubt<'_> {
        self.is_in_doubt.store(true, Ordering::Relaxed);
        Doubt(self)
    }

    fn gives_way(&self, now: Instant) -> bool {
        let is_idle = || {
            // Encrypted bytes are no longer part of the response.
            self.unanswered.load(Ordering::Relaxed) == 0 && !self.client.is_reading()
        };
        self.is_in_doubt.load(Ordering::Relaxed) || (is_idle() && now >= self.since + GRACE)
    }
}

/// While it exists, its connection gives way to others.
pub(super) struct Doubt<'a>(&'a Place);

impl Drop for Doubt<'_> {
    fn drop(&mut self) {
        self.0.is_in_doubt.store(false, Ordering::Relaxed);
    }
}

/// While it is held, a request is answered.
pub(super) struct Busy(Arc<Place>);

impl Busy {
    pub(super) fn begin(place: Arc<Place>) -> Arc<Self> {
        place.unanswered.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self(place))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.unanswered.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A response that protects its connection until its last byte is sent.
pub(super) struct Answer {
    body: axum::body::Body,
    busy: Arc<Busy>,
}

impl Answer {
    pub(super) fn new(body: axum::body::Body, busy: Arc<Busy>) -> Self {
        Self { body, busy }
    }
}

/// A part of it.
struct Part {
    bytes: Bytes,
    _busy: Arc<Busy>,
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        frame.map_ok(|frame| {
            frame.map_data(|bytes| {
                Bytes::from_owner(Part {
                    bytes,
                    _busy: self.busy.clone(),
                })
            })
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One place that is older than a new one is.
    fn old(places: &Places) -> Arc<Place> {
        let since = Instant::now().checked_sub(GRACE).unwrap();
        let place = Arc::new(Place {
            since,
            ..Place::default()
        });
        places.0.lock().unwrap().push(place.clone());
        place
    }

    fn left(places: &Places) -> Vec<Arc<Place>> {
        places.0.lock().unwrap().clone()
    }

    #[test]
    fn the_oldest_without_a_request_gives_way_and_a_new_one_does_not_yet() {
        let places = Places::default();
        let busy = old(&places);
        let request = Busy::begin(busy.clone());
        let (_first, second, new) = (old(&places), old(&places), places.take());
        for expected in [vec![&busy, &second, &new], vec![&busy, &new]] {
            places.give_one_up();
            let left = left(&places);
            assert!(left.iter().zip(&expected).all(|(a, b)| Arc::ptr_eq(a, b)));
            assert_eq!(left.len(), expected.len());
        }
        places.give_one_up();
        assert_eq!(left(&places).len(), 2);
        drop(request);
        places.give_one_up();
        assert!(Arc::ptr_eq(&left(&places)[0], &new));
    }

    #[test]
    fn one_whose_password_waits_to_be_checked_gives_way_at_once_and_no_longer_afterwards() {
        let places = Places::default();
        let place = places.take();
        let _request = Busy::begin(place.clone());
        let doubt = place.doubt();
        assert!(place.gives_way(Instant::now()));
        drop(doubt);
        places.give_one_up();
        assert_eq!(left(&places).len(), 1);
    }
}
