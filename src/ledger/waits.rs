//! How long the connections of one listener wait, over all its sockets.

use std::time::Duration;

use super::follower::Follower;
use super::histogram::Histogram;
use crate::kernel::SocketId;
use crate::sample::{Reading, Waiting};

/// Upper bounds of the histogram of waits, in seconds.
pub const WAIT: &[f64; 15] = &[
    0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
];

/// The connections that wait now. A figure is absent if the last round does not have it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Waits {
    /// The least time that the connection at the head of the queue has waited; for several sockets, the longest.
    pub oldest: Option<Duration>,
    /// Connections whose client has disconnected.
    pub abandoned: Option<u64>,
    /// Connects that sleep because the queue is full.
    pub blocked: Option<u64>,
    /// Connections whose handshake is in progress.
    pub half_open: Option<u64>,
}

impl Waits {
    /// The waits of a TCP listener. No scan runs while no connection waits: then nothing waits, and the SYN queue is unknown.
    pub(super) fn of_tcp(depth: u64, waiting: &Waiting) -> Self {
        let scanned = waiting.tcp.filter(|_| depth > 0);
        let empty = (depth == 0).then_some(0);
        Self {
            oldest: scanned.map_or(empty.map(Duration::from_secs), |tcp| tcp.oldest),
            abandoned: scanned.map_or(empty, |tcp| Some(tcp.abandoned)),
            half_open: scanned.map(|tcp| tcp.half_open),
            blocked: None,
        }
    }
}

/// Totals of the waits in unix queues.
#[derive(Debug, Clone)]
pub struct WaitTotals {
    /// Time in the queue of connections that were in it at a round and left it, in seconds.
    pub waited: Histogram<{ WAIT.len() }>,
    /// Connections that left the queue, as far as they were in it at a round.
    pub left: u64,
    /// Rounds before which connections may have arrived and left without being observed.
    pub unanchored_rounds: u64,
}

/// One follower for each socket.
#[derive(Debug, Default)]
pub(super) struct Followers(Vec<(SocketId, Follower)>);

impl Default for WaitTotals {
    fn default() -> Self {
        Self {
            waited: Histogram::new(WAIT),
            left: 0,
            unanchored_rounds: 0,
        }
    }
}

impl Followers {
    /// Records a round of a unix listener that is up.
    pub(super) fn follow(
        &mut self,
        at: Duration,
        readings: &[Reading],
        waiting: &Waiting,
        totals: &mut WaitTotals,
    ) -> Waits {
        let (mut oldest, mut abandoned, mut anchored) = (Some(Duration::ZERO), Some(0), true);
        let mut clients = waiting.clients.as_slice();
        for (index, reading) in readings.iter().enumerate() {
            let follower = self.at(index, reading.id);
            if waiting.listed.get(index) != Some(&true) {
                follower.miss();
                (oldest, abandoned, anchored) = (None, None, false);
                continue;
            }
            let length = usize::try_from(reading.depth).unwrap_or(usize::MAX);
            let (list, rest) = clients.split_at(length.min(clients.len()));
            clients = rest;
            let waited = &mut totals.waited;
            let step = follower.follow(at, list, |wait| waited.observe(wait.as_secs_f64()));
            anchored &= step.anchored;
            totals.left += step.left as u64;
            let head = follower.oldest(at).map(|wait| wait.at_least);
            oldest = oldest.zip(head).map(|(a, b)| a.max(b));
            abandoned = abandoned.map(|sum| sum + follower.abandoned() as u64);
        }
        // Connections in the queue of a socket that was closed were not accepted: their waits have no end.
        self.0.truncate(readings.len());
        totals.unanchored_rounds += u64::from(!anchored);
        Waits {
            oldest,
            abandoned,
            blocked: waiting.blocked,
            half_open: None,
        }
    }

    /// Records a round that could not read the listener.
    pub(super) fn miss(&mut self) {
        for (_, follower) in &mut self.0 {
            follower.miss();
        }
    }

    /// Forgets all sockets.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// The follower of a socket, moved to `index`. The followers before that index are those of the sockets before this one.
    fn at(&mut self, index: usize, id: SocketId) -> &mut Follower {
        let is_it = |known: &(SocketId, Follower)| known.0 == id;
        let found = self
            .0
            .get(index..)
            .and_then(|rest| rest.iter().position(is_it));
        match found {
            Some(0) => {}
            Some(further) => self.0.swap(index, index + further),
            None => {
                self.0.push((id, Follower::default()));
                let last = self.0.len() - 1;
                self.0.swap(index, last);
            }
        }
        &mut self.0[index].1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Listener {
        followers: Followers,
        totals: WaitTotals,
        rounds: u64,
    }

    impl Listener {
        /// A round, 10 ms after the one before: sockets by number, each with its list or, if it is too long, its depth.
        fn round(&mut self, queues: &[(u8, Result<&[u32], u32>)]) -> (Option<u128>, Option<u64>) {
            let (mut readings, mut waiting) = (Vec::new(), Waiting::default());
            for (socket, list) in queues {
                let depth = list.map_or_else(|depth| depth, |l| u32::try_from(l.len()).unwrap());
                readings.push(Reading {
                    id: SocketId {
                        inode: u32::from(*socket),
                        cookie: [*socket; 8],
                    },
                    depth,
                    backlog: Some(4096),
                    drops: None,
                });
                waiting.listed.push(list.is_ok());
                waiting.clients.extend(list.unwrap_or_default());
            }
            self.rounds += 1;
            let at = Duration::from_millis(10 * self.rounds);
            let totals = &mut self.totals;
            let waits = self.followers.follow(at, &readings, &waiting, totals);
            let oldest = waits.oldest.map(|oldest| oldest.as_millis());
            (oldest, waits.abandoned)
        }
    }

    #[test]
    fn the_oldest_of_several_sockets_counts_and_the_abandoned_add_up() {
        let mut listener = Listener::default();
        listener.round(&[(1, Ok(&[])), (2, Ok(&[]))]);
        listener.round(&[(1, Ok(&[])), (2, Ok(&[7]))]);
        let both = listener.round(&[(1, Ok(&[5, 6])), (2, Ok(&[7]))]);
        assert_eq!(both, (Some(10), Some(0)));
        // In another order they are still the same sockets.
        let turned = listener.round(&[(2, Ok(&[7])), (1, Ok(&[5, 0]))]);
        assert_eq!(turned, (Some(20), Some(1)));
        assert_eq!(listener.totals.unanchored_rounds, 3);
    }

    #[test]
    fn what_is_too_long_to_list_is_absent_for_the_listener_and_counted() {
        let mut listener = Listener::default();
        listener.round(&[(1, Ok(&[5])), (2, Ok(&[7]))]);
        let too_long = listener.round(&[(1, Err(901)), (2, Ok(&[7, 8]))]);
        assert_eq!(too_long, (None, None));
        let again = listener.round(&[(1, Ok(&[5])), (2, Ok(&[7, 8]))]);
        assert_eq!(again, (Some(20), Some(0)));
        assert_eq!(listener.totals.unanchored_rounds, 2);
    }

    #[test]
    fn connections_in_the_queue_of_a_closed_socket_have_no_wait() {
        let mut listener = Listener::default();
        listener.round(&[(1, Ok(&[])), (2, Ok(&[]))]);
        listener.round(&[(1, Ok(&[5])), (2, Ok(&[7]))]);
        listener.round(&[(2, Ok(&[7]))]);
        let new_socket_of_the_number = listener.round(&[(2, Ok(&[])), (1, Ok(&[]))]);
        assert_eq!(new_socket_of_the_number, (Some(0), Some(0)));
        assert_eq!(listener.totals.waited.count(), 1);
        assert!((listener.totals.waited.sum() - 0.02).abs() < 1e-9);
    }
}
