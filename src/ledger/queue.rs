//! Totals of the samples of one listener.

use std::sync::Arc;
use std::time::Duration;

use super::event::Found;
use super::histogram::Histogram;
use super::peak::Peak;
use super::waits::{Followers, WaitTotals, Waits};
use crate::kernel::SocketId;
use crate::listener::{Address, Listener};
use crate::sample::{LimitSource, Namespace, Presence, Reading, Waiting, Watched};

/// Upper bounds of the utilization histogram.
pub const UTILIZATION: &[f64; 8] = &[0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0];
/// Maximum number of sockets that left a group and whose drop counter is remembered, in case a long listing only missed them.
const REMEMBERED: usize = 64;

/// The figures of one listener. Counters only increase, whatever happens to its sockets.
#[derive(Debug, Clone)]
pub struct ListenerLedger {
    /// Its network namespace.
    pub namespace: Arc<Namespace>,
    /// Its name and address.
    pub listener: Arc<Listener>,
    /// Whether it was present in the last round.
    pub presence: Presence,
    /// Where the limits of its queues come from.
    pub limit: LimitSource,
    /// Its sockets in the last round; empty unless present.
    pub readings: Vec<Reading>,
    /// The connections that wait in its queues.
    pub waits: Waits,
    /// Its totals; absent until it was found once.
    pub totals: Option<Totals>,
    /// Whether a connection has ever waited in its queues, or was dropped.
    pub was_busy: bool,
}

/// Totals over rounds.
#[derive(Debug, Clone)]
pub struct Totals {
    /// Highest depth of the window.
    pub peak: Peak,
    /// One observation for each round: the highest utilization among the sockets.
    pub utilization: Histogram<{ UTILIZATION.len() }>,
    /// One interval for each round that found it full.
    pub full: Duration,
    /// Number of times it became full.
    pub full_episodes: u64,
    /// Packets dropped at its TCP sockets.
    pub drops: Option<u64>,
    /// Number of times that new sockets replaced all earlier sockets at the address.
    pub replacements: u64,
    /// The waits in the queue of a unix listener.
    pub waits: Option<WaitTotals>,
}

/// The state that the next round is compared with.
#[derive(Debug, Default)]
pub(super) struct Before {
    was_full: bool,
    /// The sockets at the address after the last replacement.
    origin: Vec<SocketId>,
    /// The last drop counter of each socket. Counters of sockets that left are forgotten first.
    drops: Vec<(SocketId, u32)>,
}

/// The changes in a round.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Change {
    pub replaced: bool,
    pub became_full: bool,
}

impl ListenerLedger {
    pub(super) fn new(namespace: Arc<Namespace>, listener: Arc<Listener>) -> Self {
        Self {
            namespace,
            listener,
            presence: Presence::Unknown,
            limit: LimitSource::Kernel,
            readings: Vec::new(),
            waits: Waits::default(),
            totals: None,
            was_busy: false,
        }
    }

    /// Its name and, if there are several namespaces, its location.
    #[must_use]
    pub fn title(&self) -> String {
        self.namespace.title(&self.listener.name)
    }

    /// Whether its sockets were read.
    #[must_use]
    pub fn up(&self) -> bool {
        self.presence == Presence::Up
    }

    /// Connections waiting, over all sockets.
    #[must_use]
    pub fn depth(&self) -> u64 {
        self.readings.iter().map(|r| u64::from(r.depth)).sum()
    }

    /// The sum of the sockets' limits; absent if one of them is unknown.
    #[must_use]
    pub fn backlog(&self) -> Option<u64> {
        self.readings.iter().map(|r| r.backlog.map(u64::from)).sum()
    }

    /// The sum of the sockets' capacities; absent if one of them is unknown.
    #[must_use]
    pub fn capacity(&self) -> Option<u64> {
        self.readings.iter().map(Reading::capacity).sum()
    }

    /// The upper bound of an unknown capacity: `listen(2)` grants no more than `net.core.somaxconn`.
    #[must_use]
    pub fn capacity_at_most(&self, somaxconn: Option<u32>) -> Option<u64> {
        let each = u64::from(somaxconn?) + 1;
        let is_unknown = self.up() && self.limit == LimitSource::Unknown;
        is_unknown.then_some(each * self.readings.len() as u64)
    }

    /// Depth divided by capacity of the fullest socket; above 1 after `listen()` was called again with a smaller backlog. Absent if a limit is
    /// unknown.
    #[must_use]
    pub fn utilization(&self) -> Option<f64> {
        #[expect(clippy::cast_precision_loss, reason = "a capacity is below 2^33")]
        let of = |reading: &Reading| Some(f64::from(reading.depth) / reading.capacity()? as f64);
        let mut each = self.readings.iter().map(of);
        each.try_fold(0.0, |highest, each| Some(f64::max(highest, each?)))
    }

    /// The utilization, or its lower bound if the utilization is unknown and the bound is known.
    #[must_use]
    pub fn utilization_at_least(&self, somaxconn: Option<u32>) -> Option<f64> {
        #[expect(clippy::cast_precision_loss, reason = "a depth is below 2^53")]
        let least = || Some(self.depth() as f64 / self.capacity_at_most(somaxconn)? as f64);
        self.utilization().or_else(least)
    }

    /// Whether a socket is full: its next connection is refused or must wait.
    #[must_use]
    pub fn full(&self) -> bool {
        self.readings.iter().any(Reading::full)
    }

    pub(super) fn found(&self, somaxconn: Option<u32>) -> Found {
        Found {
            sockets: self.readings.len(),
            depth: self.depth(),
            backlog: self.backlog(),
            capacity: self.capacity(),
            somaxconn,
        }
    }

    pub(super) fn observe(
        &mut self,
        at: Duration,
        interval: Duration,
        peak_window: Duration,
        watched: &Watched,
        before: &mut Before,
    ) -> Change {
        let readings = watched.readings.as_slice();
        self.presence.clone_from(&watched.presence);
        self.limit = watched.limit;
        self.readings.clear();
        self.readings.extend_from_slice(readings);
        if !self.up() {
            // An episode does not end while the listener's state is unknown.
            before.was_full &= self.presence == Presence::Unknown;
            return Change::default();
        }
        let (depth, utilization) = (self.depth(), self.utilization());
        // An episode continues while the limit is unknown, unless the queue is empty.
        let is_known = utilization.is_some();
        let full = self.full();
        let totals = self.totals.get_or_insert_with(|| Totals::new(peak_window));
        totals
            .peak
            .observe(at, u32::try_from(depth).unwrap_or(u32::MAX));
        if let Some(utilization) = utilization {
            totals.utilization.observe(utilization);
        }
        let change = Change {
            replaced: before.replaced_by(readings),
            became_full: full && !before.was_full,
        };
        if full {
            totals.full += interval;
        }
        totals.full_episodes += u64::from(change.became_full);
        totals.replacements += u64::from(change.replaced);
        self.was_busy |= depth > 0;
        if let Some(increase) = before.drops_until(readings) {
            self.was_busy |= increase > 0;
            *totals.drops.get_or_insert(0) += increase;
        }
        before.was_full = full || (!is_known && before.was_full && depth > 0);
        change
    }

    /// Follows the connections in the queues of the last observation.
    pub(super) fn observe_waits(
        &mut self,
        at: Duration,
        waiting: &Waiting,
        followers: &mut Followers,
    ) {
        self.waits = match (&self.presence, &self.listener.address, &mut self.totals) {
            // The tables have no order, so connections cannot be followed in them.
            (Presence::Up, ..) if self.limit != LimitSource::Kernel => {
                followers.clear();
                Waits {
                    abandoned: waiting.abandoned,
                    blocked: waiting.blocked,
                    ..Waits::default()
                }
            }
            (Presence::Up, Address::Unix(_), Some(totals)) => {
                let totals = totals.waits.get_or_insert_default();
                followers.follow(at, &self.readings, waiting, totals)
            }
            (Presence::Up, ..) => Waits::of_tcp(self.depth(), waiting),
            (Presence::Unknown, ..) => {
                followers.miss();
                Waits::default()
            }
            _ => {
                followers.clear();
                Waits::default()
            }
        };
    }
}

impl Totals {
    fn new(peak_window: Duration) -> Self {
        Self {
            peak: Peak::new(peak_window),
            utilization: Histogram::new(UTILIZATION),
            full: Duration::ZERO,
            full_episodes: 0,
            drops: None,
            replacements: 0,
            waits: None,
        }
    }
}

impl Before {
    /// Whether none of the earlier sockets at the address is left. A group that grows or shrinks is not replaced.
    fn replaced_by(&mut self, readings: &[Reading]) -> bool {
        let origin = &mut self.origin;
        let mut still = false;
        for reading in readings {
            if let Some(known) = origin.iter_mut().find(|known| known.may_be(reading.id)) {
                still = true;
                // From now on, a cookie that was unknown is known.
                if known.cookie == SocketId::NO_COOKIE {
                    *known = reading.id;
                }
            }
        }
        if still {
            return false;
        }
        let replaced = !self.origin.is_empty();
        self.origin.clear();
        self.origin
            .extend(readings.iter().map(|reading| reading.id));
        replaced
    }

    /// The increase of the sockets' drop counters; none if there are no counters. `sk_drops` is a 32-bit counter that starts at 0 with its
    /// socket and wraps.
    fn drops_until(&mut self, readings: &[Reading]) -> Option<u64> {
        let mut sum = None;
        for (index, reading) in readings.iter().enumerate() {
            let Some(now) = reading.drops else { continue };
            let is_it = |seen: &&mut (SocketId, u32)| seen.0 == reading.id;
            let likely = index.min(self.drops.len());
            let (earlier, later) = self.drops.split_at_mut(likely);
            let increase = if let Some((_, last)) = later.iter_mut().chain(earlier).find(is_it) {
                now.wrapping_sub(std::mem::replace(last, now))
            } else {
                self.drops.push((reading.id, now));
                now
            };
            *sum.get_or_insert(0) += u64::from(increase);
        }
        self.forget_the_oldest(readings);
        sum
    }

    fn forget_the_oldest(&mut self, readings: &[Reading]) {
        let mut left = self.drops.len().saturating_sub(readings.len() + REMEMBERED);
        if left > 0 {
            self.drops.retain(|(id, _)| {
                let forget = left > 0 && !readings.iter().any(|reading| reading.id.may_be(*id));
                left -= usize::from(forget);
                !forget
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::sample::Absence;

    const INTERVAL: Duration = Duration::from_millis(10);

    /// A listener's ledger, and the state that its next round is compared with.
    struct State {
        ledger: ListenerLedger,
        before: Before,
    }

    impl State {
        fn totals(&self) -> &Totals {
            self.ledger.totals.as_ref().unwrap()
        }
    }

    fn state() -> State {
        let address = Address::parse("tcp::80").unwrap();
        State {
            ledger: ListenerLedger::new(Arc::default(), Arc::new(Listener::discovered(address))),
            before: Before::default(),
        }
    }

    fn reading(inode: u32, depth: u32, backlog: u32, drops: u32) -> Reading {
        let mut cookie = [0; 8];
        cookie[0] = inode.to_le_bytes()[0];
        Reading {
            id: SocketId { inode, cookie },
            depth,
            backlog: Some(backlog),
            drops: Some(drops),
        }
    }

    fn observe(state: &mut State, at_ms: u64, readings: &[Reading]) -> Change {
        let watched = Watched {
            listener: state.ledger.listener.clone(),
            presence: match readings {
                [] => Presence::Missing(Absence::NotListening),
                _ => Presence::Up,
            },
            limit: LimitSource::Kernel,
            readings: readings.to_vec(),
            waiting: Waiting::default(),
        };
        let window = Duration::from_mins(1);
        let at = Duration::from_millis(at_ms);
        let State { ledger, before } = state;
        ledger.observe(at, INTERVAL, window, &watched, before)
    }

    #[test]
    fn it_is_full_at_one_above_the_backlog() {
        let mut state = state();
        assert!(!observe(&mut state, 10, &[reading(1, 5, 5, 0)]).became_full);
        assert!(observe(&mut state, 20, &[reading(1, 6, 5, 0)]).became_full);
        assert!(!observe(&mut state, 30, &[reading(1, 6, 5, 0)]).became_full);
        observe(&mut state, 40, &[reading(1, 5, 5, 0)]);
        let (ledger, totals) = (&state.ledger, state.totals());
        assert_eq!(totals.full, INTERVAL * 2);
        assert_eq!(totals.full_episodes, 1);
        assert_eq!(totals.peak.highest(), 6);
        assert_eq!(
            (ledger.depth(), ledger.backlog(), ledger.capacity()),
            (5, Some(5), Some(6))
        );
    }

    #[test]
    fn a_round_that_knows_nothing_ends_no_episode_and_one_that_finds_nothing_does() {
        let mut state = state();
        let full = [reading(1, 6, 5, 0)];
        assert!(observe(&mut state, 10, &full).became_full);
        let unknown = Watched {
            listener: state.ledger.listener.clone(),
            presence: Presence::Unknown,
            limit: LimitSource::Kernel,
            readings: Vec::new(),
            waiting: Waiting::default(),
        };
        let State { ledger, before } = &mut state;
        let (at, window) = (Duration::from_millis(20), Duration::from_mins(1));
        ledger.observe(at, INTERVAL, window, &unknown, before);
        assert!(!observe(&mut state, 30, &full).became_full);
        assert_eq!(state.totals().full, INTERVAL * 2);
        observe(&mut state, 40, &[]);
        assert!(observe(&mut state, 50, &full).became_full);
        assert_eq!(state.totals().full_episodes, 2);
    }

    #[test]
    fn a_stall_records_no_more_than_one_interval_a_round() {
        let mut state = state();
        observe(&mut state, 10, &[reading(1, 6, 5, 0)]);
        observe(&mut state, 60_000, &[reading(1, 6, 5, 0)]);
        assert_eq!(state.totals().full, INTERVAL * 2);
    }

    #[test]
    fn the_utilization_of_a_group_is_that_of_its_fullest_socket() {
        let mut state = state();
        observe(&mut state, 10, &[reading(1, 0, 9, 0), reading(2, 10, 9, 0)]);
        assert_eq!(state.ledger.utilization(), Some(1.0));
        assert!(state.ledger.full());
        observe(&mut state, 20, &[reading(1, 512, 5, 0)]);
        assert!(state.ledger.utilization() > Some(85.0));
    }

    #[test]
    fn drops_are_the_increases_of_each_socket_and_survive_wraps_and_leavers() {
        let mut state = state();
        let drops = |state: &State| state.totals().drops;
        observe(
            &mut state,
            10,
            &[reading(1, 0, 5, u32::MAX), reading(2, 0, 5, 7)],
        );
        let start = u64::from(u32::MAX) + 7;
        assert_eq!(drops(&state), Some(start));
        observe(&mut state, 20, &[reading(1, 0, 5, 2), reading(2, 0, 5, 7)]);
        assert_eq!(drops(&state), Some(start + 3));
        observe(&mut state, 30, &[reading(2, 0, 5, 8)]);
        observe(&mut state, 40, &[reading(2, 0, 5, 8), reading(1, 0, 5, 2)]);
        assert_eq!(drops(&state), Some(start + 4));
        observe(&mut state, 50, &[]);
        observe(&mut state, 60, &[reading(3, 0, 5, 1)]);
        assert_eq!(drops(&state), Some(start + 5));
    }

    #[test]
    fn the_memory_of_sockets_that_left_is_bounded() {
        let mut state = state();
        for inode in 0..1000 {
            observe(&mut state, u64::from(inode), &[reading(inode, 0, 5, 1)]);
        }
        assert_eq!(state.totals().drops, Some(1000));
        assert_eq!(state.before.drops.len(), 1 + REMEMBERED);
        // A table shows neither cookies nor drops.
        let oldest = reading(state.before.drops[0].0.inode, 0, 5, 1);
        let others = [reading(2000, 0, 5, 1), reading(2001, 0, 5, 1)];
        observe(&mut state, 1000, &[oldest, others[0], others[1]]);
        assert_eq!(state.totals().drops, Some(1002));
        let id = SocketId::without_cookie(oldest.id.inode);
        let by_table = Reading {
            id,
            drops: None,
            ..oldest
        };
        observe(&mut state, 1001, &[by_table]);
        observe(&mut state, 1002, &[oldest]);
        assert_eq!(state.totals().drops, Some(1002));
    }

    #[test]
    fn a_replacement_is_counted_when_no_socket_of_before_is_left() {
        let mut state = state();
        let (one, two, three) = (
            reading(1, 0, 5, 0),
            reading(2, 0, 5, 0),
            reading(3, 0, 5, 0),
        );
        for (readings, replaced) in [
            (&[one][..], false),
            (&[one, two], false),
            (&[two], true),
            (&[], false),
            (&[two], false),
            (&[], false),
            (&[three], true),
        ] {
            assert_eq!(observe(&mut state, 10, readings).replaced, replaced);
        }
        assert_eq!(state.totals().replacements, 2);
    }

    #[test]
    fn a_listener_that_was_never_seen_has_no_totals() {
        let mut state = state();
        observe(&mut state, 10, &[]);
        assert!(state.ledger.totals.is_none());
    }

    /// Number of sockets in the random rounds.
    const MEMBERS: usize = 5;

    /// A socket in a random round.
    #[derive(Debug, Clone)]
    struct Turn {
        present: bool,
        depth: u32,
        backlog: u32,
        /// The increase of its drop counter.
        dropped: u32,
    }

    fn any_turn() -> impl Strategy<Value = Turn> {
        let dropped = prop_oneof![3 => 0..4_u32, 1 => 0..u32::MAX - 1000];
        (any::<bool>(), 0..5_u32, 0..4_u32, dropped).prop_map(
            |(present, depth, backlog, dropped)| Turn {
                present,
                depth,
                backlog,
                dropped,
            },
        )
    }

    fn any_rounds() -> impl Strategy<Value = Vec<(u64, Vec<Turn>)>> {
        let absent = any_turn().prop_map(|turn| Turn {
            present: false,
            ..turn
        });
        let turns = prop_oneof![
            4 => prop::collection::vec(any_turn(), MEMBERS),
            1 => prop::collection::vec(absent, MEMBERS),
        ];
        prop::collection::vec((1..20_000_u64, turns), 1..60)
    }

    proptest! {
        #[test]
        fn the_totals_are_those_of_a_naive_count(rounds in any_rounds()) {
            let mut state = state();
            let mut at_ms = 100_000;
            let mut dropped = [0_u64; MEMBERS];
            let mut dropped_when_seen = [0_u64; MEMBERS];
            let (mut up, mut idle, mut at_most_full, mut full, mut episodes) = (0, 0, 0, 0, 0);
            let (mut was_full, mut replacements) = (false, 0);
            let mut origin = BTreeSet::new();
            let mut depths: Vec<(u64, u32)> = Vec::new();
            let mut drops_before = 0;
            for (pause, turns) in rounds {
                at_ms += pause;
                let mut readings = Vec::new();
                for (member, turn) in turns.iter().enumerate() {
                    // A counter that wraps between two reads cannot be followed.
                    dropped[member] += u64::from(if turn.present { turn.dropped } else { turn.dropped % 4 });
                    if turn.present {
                        dropped_when_seen[member] = dropped[member];
                        let wrapped = u32::try_from(dropped[member] % (1 << 32)).unwrap();
                        let inode = u32::try_from(member).unwrap();
                        readings.push(reading(inode, turn.depth, turn.backlog, wrapped));
                    }
                }
                let change = observe(&mut state, at_ms, &readings);

                let now: BTreeSet<_> = readings.iter().map(|reading| reading.id).collect();
                let replaced = !now.is_empty() && !origin.is_empty() && origin.is_disjoint(&now);
                if !now.is_empty() && origin.is_disjoint(&now) {
                    origin.clone_from(&now);
                }
                let is_full = readings.iter().any(|reading| Some(reading.depth) > reading.backlog);
                let became_full = is_full && !was_full;
                was_full = is_full;
                prop_assert_eq!(change, Change { replaced, became_full });
                replacements += u64::from(replaced);
                episodes += u64::from(became_full);
                full += u32::from(is_full);
                if readings.is_empty() {
                    prop_assert!(!state.ledger.up() && state.ledger.readings.is_empty());
                    continue;
                }
                up += 1;
                idle += u64::from(readings.iter().all(|reading| reading.depth == 0));
                at_most_full += u64::from(readings.iter().all(|r| Some(r.depth) <= r.backlog.map(|b| b + 1)));
                depths.push((at_ms, readings.iter().map(|reading| reading.depth).sum()));

                let totals = state.totals();
                let drops = totals.drops.unwrap();
                prop_assert_eq!(drops, dropped_when_seen.iter().sum::<u64>());
                prop_assert!(drops >= drops_before);
                drops_before = drops;
                prop_assert_eq!(totals.full, INTERVAL * full);
                prop_assert_eq!(totals.full_episodes, episodes);
                prop_assert_eq!(totals.replacements, replacements);
                prop_assert_eq!(totals.utilization.count(), up);
                let buckets: Vec<_> = totals.utilization.cumulative().collect();
                prop_assert_eq!((buckets[0], buckets[7]), ((0.0, idle), (1.0, at_most_full)));
                let highest = |window: u64| {
                    let within = depths.iter().filter(|(at, _)| at + window >= at_ms);
                    within.map(|(_, depth)| *depth).max().unwrap()
                };
                // The window is rounded up by a sixtieth.
                prop_assert!(totals.peak.highest() >= highest(60_000));
                prop_assert!(totals.peak.highest() <= highest(61_001));
            }
        }
    }
}
