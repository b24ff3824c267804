//! What samples add up to. Pure: samples with their instants come in, figures and events come out. It never reads a clock or does I/O.

mod event;
mod follower;
mod histogram;
mod history;
mod peak;
mod queue;
mod waits;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

pub use event::{Event, Found};
pub use follower::{Follower, Step, Wait};
pub use histogram::Histogram;
pub use history::{History, PARTS};
pub use peak::Peak;
pub use queue::{ListenerLedger, Totals, UTILIZATION};
pub use waits::{WAIT, WaitTotals, Waits};

use crate::sample::{Absence, Presence, Sample, Slow, Source, Waiting, Watched};
use queue::Before;
use waits::Followers;

/// Upper bounds of the histogram of a round's duration, in seconds.
pub const SAMPLE_DURATION: &[f64; 11] = &[
    0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.005, 0.025, 0.1, 1.0,
];
/// Listeners that went away and whose counters go on should they come back.
const RETIRED: usize = 1024;
/// A kind of event is noted at most this often a listener.
const QUIET: Duration = Duration::from_mins(1);
/// Events that nobody has taken yet.
const PENDING_EVENTS: usize = 1024;

/// All figures. What a scrape needs is in [`View`]; the rest is bookkeeping.
#[derive(Debug)]
pub struct Ledger {
    interval: Duration,
    peak_window: Duration,
    view: View,
    /// What each listener of the view needs besides, at the same place.
    books: Vec<Books>,
    /// Where the listeners of the last sample stand in the view.
    places: Vec<usize>,
    /// In the order in which they went away; the oldest is forgotten first.
    retired: VecDeque<(ListenerLedger, Noted, Before)>,
    failures: BTreeMap<Source, String>,
    events: Vec<Event>,
}

/// The figures of one moment.
#[derive(Debug, Clone)]
pub struct View {
    /// Watched listeners, sorted by their label.
    pub listeners: Vec<ListenerLedger>,
    /// What was read in the last slow round.
    pub slow: Slow,
    /// Sources that were asked: whether the last answer was good, and the number of bad ones.
    pub sources: BTreeMap<Source, SourceFigures>,
    /// Rounds.
    pub samples: u64,
    /// Rounds that started over one interval late.
    pub late_samples: u64,
    /// Time that a round took to read the kernel, in seconds.
    pub sample_duration: Histogram<{ SAMPLE_DURATION.len() }>,
    /// Listeners beyond `--discover.limit`.
    pub ignored_listeners: usize,
    /// Start of the last round on the monotonic clock; absent before the first.
    pub last_sample: Option<Duration>,
    /// The distance of the last two rounds, if they are further apart than configured.
    pub distance: Option<Duration>,
}

/// How a source does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SourceFigures {
    /// Whether its last answer was good.
    pub up: bool,
    /// Bad answers.
    pub errors: u64,
}

/// What is kept of a listener, and no scrape needs.
#[derive(Debug)]
struct Books {
    noted: Noted,
    before: Before,
    followers: Followers,
    history: History,
}

/// The highest depths of consecutive parts of time, a part's length apart.
#[derive(Debug, Clone, PartialEq)]
pub struct Recent {
    /// Number of the first part.
    pub first: u64,
    /// Number of the part after the last.
    pub end: u64,
    /// Length of a part.
    pub length: Duration,
    /// Each listener's depths, all of the same number; absent where no round saw the listener.
    pub peaks: BTreeMap<String, Vec<Option<u32>>>,
}

/// When each kind of event was last noted of a listener.
#[derive(Debug, Clone, Default)]
struct Noted {
    /// The presence that was told last.
    told: Option<Presence>,
    found: Option<Duration>,
    missing: Option<Duration>,
    gone: Option<Duration>,
    replaced: Option<Duration>,
    full: Option<Duration>,
    /// Whether it was replaced since that was told.
    owes_replaced: bool,
    /// Whether it became full, and still is, since that was told.
    owes_full: bool,
}

impl Ledger {
    /// An empty ledger for rounds that are `interval` apart.
    #[must_use]
    pub fn new(interval: Duration, peak_window: Duration) -> Self {
        Self {
            interval,
            peak_window,
            view: View {
                listeners: Vec::new(),
                slow: Slow::default(),
                sources: BTreeMap::new(),
                samples: 0,
                late_samples: 0,
                sample_duration: Histogram::new(SAMPLE_DURATION),
                ignored_listeners: 0,
                last_sample: None,
                distance: None,
            },
            books: Vec::new(),
            places: Vec::new(),
            retired: VecDeque::new(),
            failures: BTreeMap::new(),
            events: Vec::new(),
        }
    }

    /// The figures as they stand.
    #[must_use]
    pub fn view(&self) -> &View {
        &self.view
    }

    /// What the queues did from part `from` on, as far as that is kept, up to the last part that is over.
    #[must_use]
    pub fn recent(&self, from: u64) -> Recent {
        let length = history::part_length(self.interval);
        let end = self
            .view
            .last_sample
            .map_or(0, |at| history::part_at(at, length));
        let first = from.max(end.saturating_sub(PARTS as u64)).min(end);
        let peaks = |books: &Books| (first..end).map(|part| books.history.peak(part)).collect();
        Recent {
            first,
            end,
            length,
            peaks: (self.view.listeners.iter().zip(&self.books))
                .map(|(ledger, books)| (ledger.listener.name.clone(), peaks(books)))
                .collect(),
        }
    }

    /// Whether a listener's utilization stayed above a bound for a time; `None` when no such listener is watched.
    #[must_use]
    pub fn stayed_above(&self, name: &str, window: Duration, utilization: f64) -> Option<bool> {
        let now = self.view.last_sample?;
        let history = &self.books.get(self.view.place(name).ok()?)?.history;
        Some(history.stayed_above(now, window, utilization))
    }

    /// Hands over what happened since the last call.
    pub fn take_events(&mut self) -> impl Iterator<Item = Event> {
        self.events.drain(..)
    }

    /// Books one round.
    pub fn book(&mut self, sample: &Sample) {
        let view = &mut self.view;
        view.samples += 1;
        view.late_samples += u64::from(sample.late);
        view.sample_duration.observe(sample.took.as_secs_f64());
        view.ignored_listeners = sample.ignored_listeners;
        view.last_sample = Some(sample.at);
        view.distance = sample.distance;
        if let Some(slow) = &sample.slow {
            view.slow.clone_from(slow);
        }
        for (source, rows) in &sample.unreadable {
            view.sources.entry(*source).or_default().errors += rows;
        }
        for (source, outcome) in &sample.outcomes {
            self.book_source(*source, outcome.as_ref().err());
        }
        let interval = sample.distance.unwrap_or(self.interval);
        self.places.resize(sample.listeners.len(), 0);
        for (index, watched) in sample.listeners.iter().enumerate() {
            let place = self.place(index, watched);
            self.book_listener(sample.at, interval, watched, place);
        }
        if self.view.listeners.len() > sample.listeners.len() {
            self.retire(sample);
        } else if sample.slow.is_some() {
            self.tell_who_is_gone(sample.at);
        }
    }

    fn book_source(&mut self, source: Source, failure: Option<&String>) {
        let figures = self.view.sources.entry(source).or_default();
        figures.up = failure.is_none();
        figures.errors += u64::from(failure.is_some());
        match failure {
            Some(reason) if self.failures.get(&source) != Some(reason) => {
                self.failures.insert(source, reason.clone());
                self.note(Event::SourceFailed(source, reason.clone()));
            }
            None if self.failures.remove(&source).is_some() => {
                self.note(Event::SourceRecovered(source));
            }
            _ => {}
        }
    }

    /// The place of a sample's listener in the view, where it is put if it is not there.
    fn place(&mut self, index: usize, watched: &Watched) -> usize {
        let likely = self.places.get(index).copied().unwrap_or_default();
        let there = self.view.listeners.get(likely);
        // The names need not be compared then, nor read.
        if there.is_some_and(|ledger| Arc::ptr_eq(&ledger.listener, &watched.listener)) {
            return likely;
        }
        let place = match self.view.place(&watched.listener.name) {
            Ok(place) => place,
            Err(place) => {
                let (ledger, noted, before) = self.unretire(watched);
                let books = Books {
                    noted,
                    before,
                    followers: Followers::default(),
                    history: History::new(self.interval),
                };
                self.view.listeners.insert(place, ledger);
                self.books.insert(place, books);
                place
            }
        };
        if let Some(known) = self.places.get_mut(index) {
            *known = place;
        }
        place
    }

    fn book_listener(&mut self, at: Duration, interval: Duration, watched: &Watched, place: usize) {
        let (Some(ledger), Some(books)) = (
            self.view.listeners.get_mut(place),
            self.books.get_mut(place),
        ) else {
            return;
        };
        let Books {
            noted,
            before,
            followers,
            history,
        } = books;
        let change = ledger.observe(at, interval, self.peak_window, watched, before);
        ledger.observe_waits(at, &watched.waiting, followers);
        let somaxconn = self.view.slow.settings.somaxconn;
        if ledger.up() {
            // Nothing known counts as an empty queue: nobody takes a pod out of rotation for it.
            let utilization = ledger.utilization_at_least(somaxconn).unwrap_or(0.0);
            history.observe(at, interval, ledger.depth(), utilization);
        }
        let listener = || watched.listener.clone();
        // What changed within a quiet minute is told when that is over, if it still is so.
        let event = match &watched.presence {
            Presence::Up => {
                noted.owes_replaced |= change.replaced;
                let is_told = noted.told == Some(Presence::Up);
                let found = ledger.found(somaxconn);
                if noted.owes_replaced && due(&mut noted.replaced, at) {
                    Some(Event::Replaced(listener(), found))
                } else if !is_told && due(&mut noted.found, at) {
                    Some(Event::Found(listener(), found))
                } else {
                    None
                }
            }
            missing @ Presence::Missing(absence) => {
                let is_told = noted.told.as_ref() == Some(missing);
                (!is_told && due(&mut noted.missing, at))
                    .then(|| Event::Missing(listener(), absence.clone(), somaxconn))
            }
            Presence::Unknown => None,
        };
        if event.is_some() {
            noted.told = Some(watched.presence.clone());
            noted.owes_replaced = false;
        }
        noted.owes_full = (noted.owes_full || change.became_full) && ledger.full();
        let full = (noted.owes_full && due(&mut noted.full, at)).then(|| {
            noted.owes_full = false;
            Event::Full(listener(), ledger.found(somaxconn))
        });
        event.into_iter().chain(full).for_each(|e| self.note(e));
    }

    fn unretire(&mut self, watched: &Watched) -> (ListenerLedger, Noted, Before) {
        let same = |(ledger, ..): &(ListenerLedger, Noted, Before)| {
            ledger.listener.name == watched.listener.name
        };
        let known = self.retired.iter().position(same);
        let known = known.and_then(|index| self.retired.remove(index));
        let new = || {
            let ledger = ListenerLedger::new(watched.listener.clone());
            (ledger, Noted::default(), Before::default())
        };
        let (mut ledger, noted, before) = known.unwrap_or_else(new);
        ledger.listener = watched.listener.clone();
        (ledger, noted, before)
    }

    fn retire(&mut self, sample: &Sample) {
        let watched = sample.listeners.iter().map(|watched| &watched.listener);
        let watched: BTreeSet<&str> = watched.map(|l| l.name.as_str()).collect();
        let mut place = 0;
        while let Some(ledger) = self.view.listeners.get(place) {
            if watched.contains(ledger.listener.name.as_str()) {
                place += 1;
                continue;
            }
            let (mut ledger, books) = (self.view.listeners.remove(place), self.books.remove(place));
            let Books {
                noted, mut before, ..
            } = books;
            let gone = Watched {
                listener: ledger.listener.clone(),
                presence: Presence::Missing(Absence::NotListening),
                limit: ledger.limit,
                readings: Vec::new(),
                waiting: Waiting::default(),
            };
            let (interval, window) = (self.interval, self.peak_window);
            ledger.observe(sample.at, interval, window, &gone, &mut before);
            if self.retired.len() == RETIRED {
                self.retired.pop_front();
            }
            self.retired.push_back((ledger, noted, before));
        }
        self.tell_who_is_gone(sample.at);
    }

    /// Of those that are gone and were not told to be.
    fn tell_who_is_gone(&mut self, at: Duration) {
        let mut gone = Vec::new();
        for (ledger, noted, _) in &mut self.retired {
            if noted.told.is_some() && due(&mut noted.gone, at) {
                noted.told = None;
                gone.push(Event::Gone(ledger.listener.clone()));
            }
        }
        for event in gone {
            self.note(event);
        }
    }

    fn note(&mut self, event: Event) {
        if self.events.len() < PENDING_EVENTS {
            self.events.push(event);
        }
    }
}

impl View {
    /// The figures of a listener, if it is watched.
    #[must_use]
    pub fn listener(&self, name: &str) -> Option<&ListenerLedger> {
        self.listeners.get(self.place(name).ok()?)
    }

    /// Where a listener stands, or would.
    fn place(&self, name: &str) -> Result<usize, usize> {
        self.listeners
            .binary_search_by(|ledger| ledger.listener.name.as_str().cmp(name))
    }
}

/// Whether an event that was last noted at `last` may be noted again.
fn due(last: &mut Option<Duration>, at: Duration) -> bool {
    let due = last.is_none_or(|last| at >= last + QUIET);
    if due {
        *last = Some(at);
    }
    due
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::SocketId;
    use crate::listener::{Address, Listener};
    use crate::sample::Reading;

    fn ledger() -> Ledger {
        Ledger::new(Duration::from_millis(10), Duration::from_mins(1))
    }

    fn watched(name: &str, inode: u32, depth: u32) -> Watched {
        let address = Address::parse(name).unwrap();
        Watched {
            listener: Arc::new(Listener::discovered(address)),
            presence: Presence::Up,
            limit: crate::sample::LimitSource::Kernel,
            readings: vec![Reading {
                id: SocketId {
                    inode,
                    cookie: [1; 8],
                },
                depth,
                backlog: Some(5),
                drops: None,
            }],
            waiting: Waiting::default(),
        }
    }

    fn sample(at_ms: u64, listeners: Vec<Watched>) -> Sample {
        Sample {
            at: Duration::from_millis(at_ms),
            listeners,
            ..Sample::default()
        }
    }

    fn totals(ledger: &Ledger) -> Totals {
        let listener = ledger.view().listener("unix:/a").unwrap();
        listener.totals.clone().unwrap()
    }

    fn kinds(ledger: &mut Ledger) -> Vec<&'static str> {
        let kind = |event| match event {
            Event::Found(..) => "found",
            Event::Missing(..) => "missing",
            Event::Gone(..) => "gone",
            Event::Replaced(..) => "replaced",
            Event::Full(..) => "full",
            Event::SourceFailed(..) => "failed",
            Event::SourceRecovered(..) => "recovered",
        };
        ledger.take_events().map(kind).collect()
    }

    #[test]
    fn a_vanished_listener_leaves_no_series_and_its_counters_go_on_when_it_comes_back() {
        let mut ledger = ledger();
        ledger.book(&sample(10, vec![watched("unix:/a", 1, 6)]));
        ledger.book(&sample(20, vec![]));
        assert!(ledger.view().listeners.is_empty());
        ledger.book(&sample(30, vec![watched("unix:/a", 2, 6)]));
        let totals = totals(&ledger);
        assert_eq!((totals.full_episodes, totals.replacements), (2, 1));
        assert_eq!(kinds(&mut ledger), ["found", "full", "gone", "replaced"]);
    }

    #[test]
    fn each_listener_gets_its_own_readings_in_whatever_order_they_come() {
        let mut ledger = ledger();
        let [a, b, c] = [("unix:/a", 1), ("unix:/b", 2), ("unix:/c", 3)]
            .map(|(name, depth)| watched(name, depth, depth));
        for (at_ms, order) in [
            (10, vec![&b, &c]),
            (20, vec![&c, &b]),
            (30, vec![&c, &a, &b]),
            (40, vec![&b]),
            (50, vec![&a, &b, &c]),
        ] {
            let names: Vec<_> = order.iter().map(|w| w.listener.name.clone()).collect();
            ledger.book(&sample(at_ms, order.into_iter().cloned().collect()));
            let view = ledger.view();
            assert_eq!(view.listeners.len(), names.len());
            assert!(view.listeners.is_sorted_by_key(|l| &l.listener.name));
            for watched in [&a, &b, &c] {
                let name = &watched.listener.name;
                let booked = view.listener(name).map(|l| &l.readings);
                let expected = names.contains(name).then_some(&watched.readings);
                assert_eq!(booked, expected);
            }
        }
        let rounds = |name| {
            let ledger = ledger.view().listener(name).unwrap();
            ledger.totals.as_ref().unwrap().utilization.count()
        };
        assert_eq!(["unix:/a", "unix:/b", "unix:/c"].map(rounds), [2, 5, 4]);
    }

    #[test]
    fn names_that_come_and_go_do_not_grow_memory_without_bound() {
        let mut ledger = ledger();
        for number in 0..2000 {
            let name = format!("unix:@{number}");
            ledger.book(&sample(u64::from(number), vec![watched(&name, number, 0)]));
        }
        assert_eq!(ledger.retired.len(), RETIRED);
        assert_eq!(ledger.books.len(), 1);
        assert_eq!(ledger.events.len(), PENDING_EVENTS);
    }

    #[test]
    fn a_queue_that_is_full_again_and_again_is_told_once_a_minute() {
        let mut ledger = ledger();
        for round in 0..12_000_u32 {
            let depth = 6 * (round % 2);
            let at_ms = u64::from(round) * 10;
            ledger.book(&sample(at_ms, vec![watched("unix:/a", 1, depth)]));
        }
        assert_eq!(kinds(&mut ledger), ["found", "full", "full"]);
        let totals = totals(&ledger);
        assert_eq!(totals.full_episodes, 6000);
    }

    /// Books rounds a second apart, each as `round` makes it of its second, and tells what was noted and when.
    fn told(seconds: u32, round: impl Fn(u32) -> Vec<Watched>) -> Vec<(u32, &'static str)> {
        let mut ledger = ledger();
        let mut told = Vec::new();
        for second in 0..seconds {
            ledger.book(&Sample {
                slow: Some(Slow::default()),
                ..sample(u64::from(second) * 1000, round(second))
            });
            told.extend(kinds(&mut ledger).into_iter().map(|kind| (second, kind)));
        }
        told
    }

    #[test]
    fn a_queue_that_became_full_within_the_quiet_minute_is_told_after_it_if_it_still_is() {
        let full = |second| vec![watched("unix:/a", 1, if second == 3 { 0 } else { 6 })];
        let expected = [(0, "found"), (0, "full"), (60, "full")];
        assert_eq!(told(200, full), expected);
        let briefly = |second| {
            vec![watched(
                "unix:/a",
                1,
                if second < 3 || second == 5 { 6 } else { 0 },
            )]
        };
        assert_eq!(told(200, briefly), expected[..2]);
    }

    #[test]
    fn a_listener_that_was_replaced_again_within_the_quiet_minute_is_told_once_after_it() {
        let replaced = |second| vec![watched("unix:/a", 1 + u32::min(second, 3), 0)];
        let expected = [(0, "found"), (1, "replaced"), (61, "replaced")];
        assert_eq!(told(200, replaced), expected);
    }

    #[test]
    fn a_listener_that_is_gone_for_good_within_the_quiet_minute_is_told_after_it() {
        let there = |second| {
            vec![watched("unix:/a", 1, 0); usize::from(second < 5 || second == 70 || second == 72)]
        };
        let expected = [(0, "found"), (5, "gone"), (70, "found"), (71, "gone")];
        assert_eq!(
            told(200, there),
            expected,
            "72 is within the minute, and over by its end"
        );
        let for_good = |second| {
            vec![
                watched("unix:/a", 1, 0);
                usize::from(second < 5 || (70..75).contains(&second) || (76..80).contains(&second))
            ]
        };
        let expected = [(0, "found"), (5, "gone"), (70, "found"), (75, "gone")];
        assert_eq!(told(200, for_good), expected);
        let later = |second| {
            vec![watched("unix:/a", 1, 0); usize::from(second < 61 || (62..100).contains(&second))]
        };
        let expected = [(0, "found"), (61, "gone"), (62, "found"), (121, "gone")];
        assert_eq!(told(200, later), expected);
    }

    #[test]
    fn a_replacement_is_told_again_once_a_minute_has_passed() {
        let mut ledger = ledger();
        for (at_ms, inode) in [(10, 1), (20, 2), (60_019, 3), (60_020, 4)] {
            ledger.book(&sample(at_ms, vec![watched("unix:/a", inode, 0)]));
        }
        assert_eq!(kinds(&mut ledger), ["found", "replaced", "replaced"]);
        let listener = ledger.view().listener("unix:/a").unwrap();
        assert_eq!(listener.totals.as_ref().unwrap().replacements, 3);
    }

    #[test]
    fn a_source_is_told_when_it_fails_and_when_it_recovers() {
        let mut ledger = ledger();
        for outcome in [Err("no"), Err("no"), Ok(()), Ok(()), Err("other")] {
            let mut round = sample(10, vec![]);
            round.outcomes = vec![(Source::UnixDiag, outcome.map_err(str::to_owned))];
            ledger.book(&round);
        }
        assert_eq!(kinds(&mut ledger), ["failed", "recovered", "failed"]);
        let figures = ledger.view().sources[&Source::UnixDiag];
        assert_eq!((figures.up, figures.errors), (false, 3));
    }
}
