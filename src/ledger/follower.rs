//! Follows the connections of one unix socket's queue from list to list. Pure: lists and their instants come in, waits go out.
//!
//! The kernel lists a queue head first, each connection by the inode of its client's socket, or by 0 once the client has disconnected
//! (`UNIX_DIAG_ICONS`). The queue is first in, first out, and contains the inode of a client once. The connections that stay are therefore the
//! end of the previous list and the beginning of the new one, and one client that is in both shows how far the queue has moved. This is an
//! anchor. With an anchor no connection can have arrived and left unobserved, because all later arrivals are still behind it.
//!
//! Without an anchor nothing is assumed. Zeros at the beginning of a list may be connections of the previous list whose clients have
//! disconnected since, or others.

use std::collections::VecDeque;
use std::time::Duration;

/// The queue of one socket at its last list.
#[derive(Debug, Default)]
pub struct Follower {
    /// Head first.
    queue: VecDeque<Entry>,
    /// The time of the last list; none before the first.
    at: Option<Duration>,
    /// Whether rounds without a list followed.
    gap: bool,
    abandoned: usize,
    /// Whether the head may have been in the queue for longer than is known.
    head_is_doubtful: bool,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    /// Inode of the client's socket, 0 once the client has disconnected.
    client: u32,
    first_seen: Duration,
    /// The time of the last list without it.
    last_not_seen: Option<Duration>,
    /// Whether that was the round before `first_seen`, so that its arrival is known to a round.
    came_between_rounds: bool,
}

/// The change of the queue between two lists.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Step {
    /// Whether a connection that is in both lists shows how far the queue has moved. If so, the numbers below are exact; if not, they
    /// are lower bounds.
    pub anchored: bool,
    /// Connections that arrived.
    pub came: usize,
    /// Connections that left.
    pub left: usize,
}

/// How long a connection has been in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wait {
    /// Time since the first list that contains it.
    pub at_least: Duration,
    /// Time since the last list without it; unknown if the first list contains it.
    pub at_most: Option<Duration>,
}

impl Follower {
    /// Takes the list of the round that started at `at`. Calls `waited` with the time in the queue of each connection that left it since
    /// the round before, if its arrival is known to a round: the middle of the possible times, with an error of half a round at each end.
    pub fn follow(
        &mut self,
        at: Duration,
        clients: &[u32],
        mut waited: impl FnMut(Duration),
    ) -> Step {
        let before = self.at.replace(at);
        let gap = std::mem::take(&mut self.gap);
        let successive = before.filter(|_| !gap);
        let held = self.queue.len();
        self.abandoned = clients.iter().filter(|client| **client == 0).count();
        let anchor = self.anchor(clients);
        // Without an anchor, a connection that is still there has lost its client. It is at the beginning, and was at the end of the previous list.
        let zeros = || clients.iter().take_while(|client| **client == 0).count();
        let doubtful = anchor.map_or_else(|| zeros().min(held), |_| 0);
        let left = anchor.unwrap_or(held - doubtful);
        if let Some(before) = successive {
            for entry in self.queue.iter().take(left) {
                if let Some(wait) = entry.waited(before, at) {
                    waited(wait);
                }
            }
        }
        self.queue.drain(..left);
        let stayed = self.queue.len();
        for (entry, client) in self.queue.iter_mut().zip(clients) {
            entry.client = *client;
            if anchor.is_none() {
                (entry.first_seen, entry.came_between_rounds) = (at, false);
            }
        }
        let came = clients.iter().skip(stayed);
        self.queue.extend(came.map(|client| Entry {
            client: *client,
            first_seen: at,
            last_not_seen: before,
            came_between_rounds: successive.is_some(),
        }));
        self.head_is_doubtful = doubtful > 0;
        Step {
            anchored: anchor.is_some(),
            came: clients.len() - stayed,
            left,
        }
    }

    /// Records a round without a list.
    pub fn miss(&mut self) {
        self.gap = true;
    }

    /// How long the connection at the head has waited at the round that started at `now`; 0 if the queue is empty, none if the last list
    /// does not determine which connection that is.
    #[must_use]
    pub fn oldest(&self, now: Duration) -> Option<Wait> {
        match self.queue.front() {
            None => Some(Wait {
                at_least: Duration::ZERO,
                at_most: Some(Duration::ZERO),
            }),
            Some(_) if self.head_is_doubtful => None,
            Some(head) => Some(Wait {
                at_least: now.saturating_sub(head.first_seen),
                at_most: head.last_not_seen.map(|seen| now.saturating_sub(seen)),
            }),
        }
    }

    /// Connections in the queue whose client has disconnected.
    #[must_use]
    pub fn abandoned(&self) -> usize {
        self.abandoned
    }

    /// Number of connections that left the head of the queue, if there is an anchor.
    fn anchor(&self, clients: &[u32]) -> Option<usize> {
        // Connections that stayed come first, so either the first client of the list is one of them, or none stayed.
        let place = clients.iter().position(|client| *client != 0)?;
        let client = clients.get(place)?;
        let held = self.queue.iter().position(|e| e.client == *client)?;
        let left = held.checked_sub(place)?;
        let stayed = self.queue.len() - left;
        // If another socket has received the same inode number since, its neighbours do not match.
        let fits = |(entry, client): (&Entry, &u32)| *client == 0 || *client == entry.client;
        let all_fit = || self.queue.range(left..).zip(clients).all(fits);
        (stayed <= clients.len() && all_fit()).then_some(left)
    }
}

impl Entry {
    /// The middle of the longest and the shortest time in the queue, if arrival and departure are both known to a round. The connection was
    /// in the list at `before` and is not in the list at `at`.
    fn waited(&self, before: Duration, at: Duration) -> Option<Duration> {
        let last_not_seen = self.last_not_seen.filter(|_| self.came_between_rounds)?;
        let longest = at.saturating_sub(last_not_seen);
        let shortest = before.saturating_sub(self.first_seen);
        Some((longest + shortest) / 2)
    }
}

#[cfg(test)]
#[expect(
    clippy::unchecked_time_subtraction,
    reason = "a test may panic where time goes back"
)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    /// Follows one list after another, 10 ms apart, and returns each step and the waits in ms.
    fn follow(lists: &[&[u32]]) -> (Follower, Vec<Step>, Vec<u128>) {
        let (mut follower, mut waits) = (Follower::default(), Vec::new());
        let steps = lists.iter().zip(1..).map(|(list, round)| {
            follower.follow(MS(10 * round), list, |wait| waits.push(wait.as_millis()))
        });
        let steps = steps.collect();
        (follower, steps, waits)
    }

    fn step(anchored: bool, came: usize, left: usize) -> Step {
        Step {
            anchored,
            came,
            left,
        }
    }

    fn at_least(follower: &Follower, now_ms: u64) -> Option<Duration> {
        follower.oldest(MS(now_ms)).map(|wait| wait.at_least)
    }

    #[test]
    fn one_client_that_stays_shows_what_arrived_and_what_left() {
        let (follower, steps, waits) = follow(&[&[], &[1, 2, 3], &[2, 3, 4], &[3, 4], &[]]);
        let expected = [
            step(false, 0, 0),
            step(false, 3, 0),
            step(true, 1, 1),
            step(true, 0, 1),
            step(false, 0, 2),
        ];
        assert_eq!(steps, expected);
        assert_eq!(waits, [10, 20, 30, 20]);
        assert_eq!(at_least(&follower, 60), Some(MS(0)));
    }

    #[test]
    fn a_client_that_disconnects_keeps_its_place_and_its_age() {
        let (follower, steps, _) = follow(&[&[], &[1, 2, 3], &[0, 2, 0], &[0, 2, 0, 4]]);
        assert_eq!(steps[2..], [step(true, 0, 0), step(true, 1, 0)]);
        assert_eq!(follower.abandoned(), 2);
        let head = follower.oldest(MS(40)).unwrap();
        assert_eq!((head.at_least, head.at_most), (MS(20), Some(MS(30))));
    }

    #[test]
    fn a_queue_that_was_replaced_as_a_whole_records_those_that_were_seen() {
        let (follower, steps, waits) = follow(&[&[], &[1, 2], &[3, 4]]);
        assert_eq!(steps[2], step(false, 2, 2));
        assert_eq!(waits, [10, 10]);
        assert_eq!(at_least(&follower, 35), Some(MS(5)));
    }

    #[test]
    fn zeros_alone_anchor_nothing() {
        let (follower, steps, waits) = follow(&[&[], &[1, 2, 3], &[0, 0], &[0, 0, 7], &[0, 7]]);
        // 1 has left for certain; whether the zeros are 2 and 3 is not known, nor later how long they were there.
        let expected = [step(false, 0, 1), step(false, 1, 0), step(true, 0, 1)];
        assert_eq!(steps[2..], expected);
        assert_eq!(waits, [10]);
        let head = follower.oldest(MS(60)).unwrap();
        assert_eq!((head.at_least, head.at_most), (MS(20), Some(MS(50))));
        let (follower, ..) = follow(&[&[], &[1], &[0]]);
        assert_eq!(follower.oldest(MS(30)), None);
        assert_eq!(follower.abandoned(), 1);
    }

    #[test]
    fn connections_that_were_there_at_first_have_an_age_of_at_least_and_no_wait() {
        let (follower, steps, waits) = follow(&[&[1, 2], &[1, 2], &[2]]);
        assert_eq!(
            steps,
            [step(false, 2, 0), step(true, 0, 0), step(true, 0, 1)]
        );
        assert!(waits.is_empty());
        let head = follower.oldest(MS(30)).unwrap();
        assert_eq!((head.at_least, head.at_most), (MS(20), None));
    }

    #[test]
    fn after_rounds_without_a_list_ages_go_on_and_waits_begin_anew() {
        let (mut follower, _, mut waits) = follow(&[&[], &[1, 2, 3]]);
        follower.miss();
        let mut record = |wait: Duration| waits.push(wait.as_millis());
        let after = follower.follow(MS(1000), &[2, 3, 4], &mut record);
        assert_eq!(after, step(true, 1, 1));
        assert_eq!(at_least(&follower, 1000), Some(MS(980)));
        follower.follow(MS(1010), &[5], &mut record);
        // 2 and 3 came and left between rounds; 4 came between two rounds.
        assert_eq!(waits, [990, 990]);
    }

    #[test]
    fn an_inode_that_another_socket_got_since_is_no_anchor() {
        let (_, steps, waits) = follow(&[&[], &[7, 8, 9], &[7], &[8, 7]]);
        assert_eq!(steps[2..], [step(false, 1, 3), step(false, 2, 1)]);
        assert_eq!(waits, [10, 10, 10, 10]);
    }

    /// A queue as the kernel keeps it, with the truth about each connection.
    #[derive(Default)]
    struct Model {
        queue: VecDeque<Connection>,
        last_client: u32,
        /// Since the last list.
        came: usize,
        left: Vec<(Connection, Duration)>,
    }

    #[derive(Clone, Copy)]
    struct Connection {
        client: u32,
        came: Duration,
        /// The first list that has it, and the list before that if no round was missed in between.
        first_seen: Option<(Duration, Option<Duration>)>,
    }

    /// Numbers of clients are reused, as inode numbers are, but not while the last list may still contain them.
    const CLIENTS: u32 = 120;

    impl Model {
        fn come(&mut self, now: Duration) {
            if self.queue.len() + self.left.len() + self.came < CLIENTS as usize / 2 {
                self.last_client = self.last_client % CLIENTS + 1;
                self.queue.push_back(Connection {
                    client: self.last_client,
                    came: now,
                    first_seen: None,
                });
                self.came += 1;
            }
        }

        fn leave(&mut self, now: Duration) {
            let head = self.queue.pop_front();
            self.left.extend(head.map(|connection| (connection, now)));
        }

        /// The waits that can be known of connections that left between the lists at `before` and `now`.
        fn waits(&self, before: Option<Duration>, now: Duration) -> Vec<Duration> {
            let Some(before) = before else { return vec![] };
            let wait = |(connection, left): &(Connection, Duration)| {
                let (first, last_not) = connection.first_seen?;
                let last_not = last_not?;
                let wait = (now - last_not + (before - first)) / 2;
                let doubt = (first - last_not + (now - before)) / 2;
                assert!(wait.abs_diff(*left - connection.came) <= doubt);
                Some(wait)
            };
            self.left.iter().filter_map(wait).collect()
        }
    }

    #[derive(Debug, Clone, Copy)]
    enum Event {
        Come,
        Leave,
        LeaveAll,
        Abandon(proptest::sample::Index),
        AbandonAll,
        List,
        Miss,
    }

    fn events(abandon: u32) -> impl Strategy<Value = Vec<(Event, u64)>> {
        let abandoned = any::<proptest::sample::Index>().prop_map(Event::Abandon);
        let event = prop_oneof![
            16 => Just(Event::Come),
            12 => Just(Event::Leave),
            2 => Just(Event::LeaveAll),
            3 * abandon => abandoned,
            abandon => Just(Event::AbandonAll),
            10 => Just(Event::List),
            1 => Just(Event::Miss),
        ];
        proptest::collection::vec((event, 1_u64..20), 0..400)
    }

    /// Applies the events to a model, passes its lists to a follower, and compares the follower's figures with the model.
    fn check(events: Vec<(Event, u64)>, clients_go_away: bool) {
        let (mut model, mut follower) = (Model::default(), Follower::default());
        let (mut now, mut before, mut missed) = (MS(0), None, false);
        for (event, pause) in events {
            now += MS(pause);
            match event {
                Event::Come => model.come(now),
                Event::Leave => model.leave(now),
                Event::LeaveAll => (0..model.queue.len()).for_each(|_| model.leave(now)),
                Event::Abandon(index) if !model.queue.is_empty() => {
                    let index = index.index(model.queue.len());
                    model.queue[index].client = 0;
                }
                Event::Abandon(_) => {}
                Event::AbandonAll => model.queue.iter_mut().for_each(|c| c.client = 0),
                Event::Miss => {
                    follower.miss();
                    missed = true;
                }
                Event::List => {
                    let clients: Vec<u32> = model.queue.iter().map(|c| c.client).collect();
                    let mut waits = Vec::new();
                    let step = follower.follow(now, &clients, |wait| waits.push(wait));
                    if step.anchored {
                        assert_eq!((step.came, step.left), (model.came, model.left.len()));
                    } else {
                        assert!(step.came <= model.came && step.left <= model.left.len());
                    }
                    let last = before.filter(|_| !missed);
                    let known = model.waits(last, now);
                    if clients_go_away {
                        let mut known = known.iter();
                        assert!(waits.iter().all(|wait| known.any(|k| k == wait)));
                    } else {
                        assert_eq!(waits, known);
                    }
                    let truth = model
                        .queue
                        .front()
                        .map(|head| (now - head.came, head.client));
                    match (truth, follower.oldest(now)) {
                        (None, head) => assert_eq!(head.unwrap().at_least, MS(0)),
                        (Some((age, _)), Some(head)) => {
                            assert!(head.at_least <= age);
                            assert!(head.at_most.is_none_or(|most| age <= most));
                        }
                        (Some((_, client)), None) => assert!(client == 0 && !step.anchored),
                    }
                    assert_eq!(
                        follower.abandoned(),
                        clients.iter().filter(|c| **c == 0).count()
                    );
                    for connection in &mut model.queue {
                        connection.first_seen.get_or_insert((now, last));
                    }
                    (before, missed) = (Some(now), false);
                    (model.came, model.left) = (0, Vec::new());
                }
            }
        }
    }

    /// Distinct clients out of six, in any order, with zeros among them.
    fn list_with_reused_numbers() -> impl Strategy<Value = Vec<u32>> {
        let order = Just((1..=6_u32).collect::<Vec<_>>()).prop_shuffle();
        let abandoned = proptest::collection::vec(proptest::bool::weighted(0.2), 6);
        (order, abandoned, 0..=6_usize).prop_map(|(mut list, abandoned, length)| {
            list.truncate(length);
            for (client, abandoned) in list.iter_mut().zip(abandoned) {
                *client *= u32::from(!abandoned);
            }
            list
        })
    }

    proptest! {
        #[test]
        fn while_clients_stay_every_wait_that_can_be_known_is_reported(events in events(0)) {
            check(events, false);
        }

        #[test]
        fn if_clients_disconnect_no_wrong_wait_is_reported(events in events(2)) {
            check(events, true);
        }

        /// The kernel reuses a number only after four billion others, but a list may contain anything.
        #[test]
        fn whichever_numbers_come_back_the_counts_add_up_and_an_anchor_fits_its_neighbours(
            lists in proptest::collection::vec(list_with_reused_numbers(), 0..40),
        ) {
            let (mut follower, mut before, mut held) = (Follower::default(), vec![], 0);
            for (list, now) in lists.into_iter().zip((1..).map(MS)) {
                let mut reported = 0;
                let step = follower.follow(now, &list, |_| reported += 1);
                prop_assert_eq!(held + step.came, list.len() + step.left);
                prop_assert!(reported <= step.left);
                if step.anchored {
                    let stayed = before.iter().skip(step.left).zip(&list);
                    prop_assert!(stayed.clone().any(|(old, new)| old == new && *new != 0));
                    prop_assert!(stayed.clone().all(|(old, new)| old == new || *new == 0));
                }
                prop_assert_eq!(follower.abandoned(), list.iter().filter(|c| **c == 0).count());
                if let Some(head) = follower.oldest(now) {
                    prop_assert!(head.at_most.is_none_or(|most| head.at_least <= most));
                }
                held = list.len();
                before = list;
            }
        }
    }
}
