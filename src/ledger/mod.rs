//! Totals of the samples. Pure: samples with their instants come in, figures and events come out. It never reads a clock or does I/O.

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

pub use event::{Event, Found, Subject};
pub use follower::{Follower, Step, Wait};
pub use histogram::Histogram;
pub use history::{History, PARTS, Peaks};
pub use peak::Peak;
pub use queue::{ListenerLedger, Totals, UTILIZATION};
pub use waits::{WAIT, WaitTotals, Waits};

use crate::kernel::process::ProcessFigures;
use crate::sample::{
    Absence, LeftOut, Namespace, Presence, Round, Sample, Slow, Source, Waiting, Watched,
};
use queue::Before;
use waits::Followers;

/// Upper bounds of the histogram of a round's duration, in seconds.
pub const SAMPLE_DURATION: &[f64; 11] = &[
    0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.005, 0.025, 0.1, 1.0,
];
/// Maximum number of removed listeners of one share whose counters continue if they come back.
const INACTIVE_LIMIT: usize = 1024;
/// A kind of event is logged at most this often for a listener.
const LOG_INTERVAL: Duration = Duration::from_mins(1);
/// Log lines about listeners of one share within that time: who makes namespaces and listeners come and go does not fill the log.
const LINES: usize = 256;
/// Maximum number of events that wait for [`Ledger::take_events`].
const PENDING_EVENTS: usize = 1024;

/// All figures. What a scrape needs is in [`View`]; the rest is state for recording.
#[derive(Debug)]
pub struct Ledger {
    interval: Duration,
    peak_window: Duration,
    view: View,
    /// What else is kept of each listener of the view, at the same index.
    state: Vec<State>,
    /// What else is kept of each namespace of the view, at the same index.
    accounts: Vec<Account>,
    /// For each share, when the first of its last lines was, and how many there were since.
    lines: BTreeMap<String, (Duration, usize)>,
    events: Vec<Event>,
}

/// The figures of one moment.
#[derive(Debug, Clone)]
pub struct View {
    /// Watched network namespaces, sorted by their number.
    pub namespaces: Vec<NamespaceFigures>,
    /// Watched listeners, sorted by the number of their namespace and by their label.
    pub listeners: Vec<ListenerLedger>,
    /// This process; absent if procfs does not have it.
    pub process: Option<ProcessFigures>,
    /// Sources that were read at least once: whether the last read succeeded, and the number of failed reads.
    pub sources: BTreeMap<Source, SourceFigures>,
    /// Rounds.
    pub samples: u64,
    /// Rounds that started over one interval late.
    pub late_samples: u64,
    /// Time spent reading kernel state in one round, in seconds.
    pub sample_duration: Histogram<{ SAMPLE_DURATION.len() }>,
    /// Network namespaces beyond `--node.limit`; absent if only the exporter's own is watched.
    pub ignored_namespaces: Option<usize>,
    /// Whether listeners in whose queue no connection has ever waited are hidden.
    pub hides_idle: bool,
    /// How many those are; absent unless they are hidden.
    pub idle_listeners: Option<usize>,
    /// Start of the last round on the monotonic clock; absent before the first.
    pub last_sample: Option<Duration>,
    /// The time between rounds after the last one, if it is longer than configured.
    pub pace: Option<Duration>,
}

/// The figures of a network namespace.
#[derive(Debug, Clone)]
pub struct NamespaceFigures {
    /// Which one.
    pub namespace: Arc<Namespace>,
    /// What was read in the last slow round.
    pub slow: Slow,
    /// Listeners that discovery found and that are not watched.
    pub left_out: LeftOut,
}

/// The state of a source.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SourceFigures {
    /// Whether the last read succeeded in every namespace.
    pub up: bool,
    /// Failed reads.
    pub errors: u64,
}

/// The state of a namespace that no scrape needs.
#[derive(Debug, Default)]
struct Account {
    /// The indexes of the listeners of the last sample in the view.
    places: Vec<usize>,
    /// Listeners in the view.
    listeners: usize,
    /// In the order in which they were removed; the oldest is forgotten first.
    inactive: VecDeque<(ListenerLedger, Logged, Before)>,
    failures: BTreeMap<Source, String>,
}

/// The state of a listener that no scrape needs.
#[derive(Debug)]
struct State {
    logged: Logged,
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
    /// The depths of each listener, the same number for each.
    pub peaks: BTreeMap<String, Peaks>,
}

/// When each kind of event of a listener was logged last.
#[derive(Debug, Clone, Default)]
struct Logged {
    /// The presence that was reported last.
    reported: Option<Presence>,
    found: Option<Duration>,
    missing: Option<Duration>,
    removed: Option<Duration>,
    replaced: Option<Duration>,
    full: Option<Duration>,
    /// Whether it was replaced since that was reported.
    replaced_is_pending: bool,
    /// Whether it became full, and still is, since that was reported.
    full_is_pending: bool,
}

impl Ledger {
    /// An empty ledger for rounds that are `interval` apart.
    #[must_use]
    pub fn new(interval: Duration, peak_window: Duration) -> Self {
        Self {
            interval,
            peak_window,
            view: View {
                namespaces: Vec::new(),
                listeners: Vec::new(),
                process: None,
                sources: BTreeMap::new(),
                samples: 0,
                late_samples: 0,
                sample_duration: Histogram::new(SAMPLE_DURATION),
                ignored_namespaces: None,
                hides_idle: false,
                idle_listeners: None,
                last_sample: None,
                pace: None,
            },
            state: Vec::new(),
            accounts: Vec::new(),
            lines: BTreeMap::new(),
            events: Vec::new(),
        }
    }

    /// Hides listeners in whose queue no connection has ever waited, and logs none of their events.
    #[must_use]
    pub fn without_idle(mut self) -> Self {
        self.view.hides_idle = true;
        self
    }

    /// The current figures.
    #[must_use]
    pub fn view(&self) -> &View {
        &self.view
    }

    /// The peaks of the queues from part `from` on, as far as they are kept, up to the last completed part.
    #[must_use]
    pub fn recent(&self, from: u64) -> Recent {
        let length = history::part_length(self.interval);
        let end = self
            .view
            .last_sample
            .map_or(0, |at| history::part_at(at, length));
        let first = from.max(end.saturating_sub(PARTS as u64)).min(end);
        Recent {
            first,
            end,
            length,
            peaks: (self.view.listeners.iter().zip(&self.state))
                .filter(|(ledger, _)| self.view.shows(ledger))
                .map(|(ledger, state)| (ledger.title(), state.history.peaks(first..end)))
                .collect(),
        }
    }

    /// Whether a listener's utilization stayed above a bound for a time; `None` when no such listener is watched.
    #[must_use]
    pub fn stayed_above(&self, name: &str, window: Duration, utilization: f64) -> Option<bool> {
        let now = self.view.last_sample?;
        let history = &self.state.get(self.view.find(name)?)?.history;
        Some(history.stayed_above(now, window, utilization))
    }

    /// Takes the events since the last call.
    pub fn take_events(&mut self) -> impl Iterator<Item = Event> {
        self.events.drain(..)
    }

    /// Records a completed round.
    pub fn record_round(&mut self, round: &Round) {
        let view = &mut self.view;
        view.samples += 1;
        view.late_samples += u64::from(round.late);
        view.sample_duration.observe(round.took.as_secs_f64());
        view.last_sample = Some(round.at);
        view.pace = round.pace;
        view.ignored_namespaces = round.ignored_namespaces;
        if let Some(process) = round.process {
            view.process = process;
        }
    }

    /// Forgets a namespace that was removed.
    pub fn forget(&mut self, namespace: u64) {
        let view = &mut self.view;
        let Ok(account) = view
            .namespaces
            .binary_search_by_key(&namespace, |known| known.namespace.id)
        else {
            return;
        };
        view.namespaces.remove(account);
        let is_before = |id| move |ledger: &ListenerLedger| ledger.namespace.id < id;
        let first = view.listeners.partition_point(is_before(namespace));
        let end = view.listeners.partition_point(is_before(namespace + 1));
        view.listeners.drain(first..end);
        self.state.drain(first..end);
        let failures = self.accounts.remove(account).failures;
        for source in failures.into_keys() {
            let fails = |account: &Account| account.failures.contains_key(&source);
            if self.accounts.iter().any(fails) {
                continue;
            }
            if let Some(figures) = self.view.sources.get_mut(&source) {
                figures.up = true;
            }
            self.push_event(Event::SourceRecovered(source));
        }
    }

    /// Records why a part of the network namespaces is not available.
    pub fn record_closed(&mut self, reason: &str) {
        self.push_event(Event::Closed(reason.to_owned()));
    }

    /// Records what a round read of a namespace.
    pub fn record(&mut self, sample: &Sample) {
        let account = self.namespace(&sample.namespace);
        let view = &mut self.view;
        if let Some(figures) = view.namespaces.get_mut(account) {
            figures.left_out = sample.left_out;
            if let Some(slow) = &sample.slow {
                figures.slow.clone_from(slow);
            }
        }
        for (source, rows) in &sample.unreadable {
            view.sources.entry(*source).or_default().errors += rows;
        }
        for (source, outcome) in &sample.outcomes {
            self.record_source(account, *source, outcome.as_ref().err());
        }
        let interval = sample.distance.unwrap_or(self.interval);
        for (index, watched) in sample.listeners.iter().enumerate() {
            let place = self.place(account, index, &sample.namespace, watched);
            self.record_listener(account, sample.at, interval, watched, place);
        }
        let known = self
            .accounts
            .get(account)
            .map_or(0, |known| known.listeners);
        if known > sample.listeners.len() {
            self.deactivate(account, sample);
        } else if sample.slow.is_some() {
            self.report_removed(account, sample.at);
        }
    }

    /// The index of a namespace in the view. It is inserted if it is not there.
    fn namespace(&mut self, namespace: &Arc<Namespace>) -> usize {
        let known = &mut self.view.namespaces;
        let found = known.binary_search_by_key(&namespace.id, |known| known.namespace.id);
        let (Ok(place) | Err(place)) = found;
        if found.is_err() {
            let figures = NamespaceFigures {
                namespace: Arc::clone(namespace),
                slow: Slow::default(),
                left_out: LeftOut::default(),
            };
            known.insert(place, figures);
            self.accounts.insert(place, Account::default());
        }
        place
    }

    fn record_source(&mut self, account: usize, source: Source, failure: Option<&String>) {
        let figures = self.view.sources.entry(source).or_default();
        figures.errors += u64::from(failure.is_some());
        let Some(known) = self.accounts.get_mut(account) else {
            return;
        };
        let is_news = known.failures.get(&source) != failure;
        match failure {
            Some(reason) if is_news => {
                known.failures.insert(source, reason.clone());
            }
            None if is_news => {
                known.failures.remove(&source);
            }
            _ => {}
        }
        if failure.is_some() {
            figures.up = false;
        } else if is_news || !figures.up {
            let fails = |account: &Account| account.failures.contains_key(&source);
            figures.up = !self.accounts.iter().any(fails);
        }
        let is_up = figures.up;
        if !is_news {
            return;
        }
        match failure {
            // A reason is reported once, not once for each namespace.
            Some(reason) if !self.fails_elsewhere(account, source, reason) => {
                self.push_event(Event::SourceFailed(source, reason.clone()));
            }
            None if is_up => self.push_event(Event::SourceRecovered(source)),
            _ => {}
        }
    }

    fn fails_elsewhere(&self, account: usize, source: Source, reason: &String) -> bool {
        let mut others = self.accounts.iter().enumerate();
        others.any(|(place, other)| place != account && other.failures.get(&source) == Some(reason))
    }

    /// The index of a sample's listener in the view. It is inserted if it is not there.
    fn place(
        &mut self,
        account: usize,
        index: usize,
        namespace: &Arc<Namespace>,
        watched: &Watched,
    ) -> usize {
        let known = self.accounts.get(account);
        let likely = known.and_then(|known| known.places.get(index)).copied();
        let there = likely.and_then(|likely| self.view.listeners.get(likely));
        // Then the names need neither be read nor compared.
        if let Some(likely) = likely
            && there.is_some_and(|ledger| Arc::ptr_eq(&ledger.listener, &watched.listener))
        {
            return likely;
        }
        let place = match self.view.place(namespace.id, &watched.listener.name) {
            Ok(place) => place,
            Err(place) => {
                let (ledger, logged, before) = self.reactivate(account, namespace, watched);
                let state = State {
                    logged,
                    before,
                    followers: Followers::default(),
                    history: History::new(self.interval),
                };
                self.view.listeners.insert(place, ledger);
                self.state.insert(place, state);
                if let Some(known) = self.accounts.get_mut(account) {
                    known.listeners += 1;
                }
                place
            }
        };
        if let Some(known) = self.accounts.get_mut(account) {
            if known.places.len() <= index {
                known.places.resize(index + 1, 0);
            }
            if let Some(known) = known.places.get_mut(index) {
                *known = place;
            }
        }
        place
    }

    fn record_listener(
        &mut self,
        account: usize,
        at: Duration,
        interval: Duration,
        watched: &Watched,
        place: usize,
    ) {
        let (Some(ledger), Some(state)) = (
            self.view.listeners.get_mut(place),
            self.state.get_mut(place),
        ) else {
            return;
        };
        let State {
            logged,
            before,
            followers,
            history,
        } = state;
        let change = ledger.observe(at, interval, self.peak_window, watched, before);
        ledger.observe_waits(at, &watched.waiting, followers);
        let figures = self.view.namespaces.get(account);
        let somaxconn = figures.and_then(|figures| figures.slow.settings.somaxconn);
        if ledger.up() {
            // An unknown utilization counts as 0, so that no probe removes a pod because of it.
            let utilization = ledger.utilization_at_least(somaxconn).unwrap_or(0.0);
            history.observe(at, interval, ledger.depth(), utilization);
        }
        let listener = || Subject {
            namespace: Arc::clone(&ledger.namespace),
            listener: Arc::clone(&watched.listener),
        };
        if self.view.hides_idle && !ledger.was_busy {
            return;
        }
        // A change within the minute after a log line is reported when the minute is over, if it still holds.
        let event = match &watched.presence {
            Presence::Up => {
                logged.replaced_is_pending |= change.replaced;
                let is_reported = logged.reported == Some(Presence::Up);
                let found = ledger.found(somaxconn);
                if logged.replaced_is_pending && due(&mut logged.replaced, at) {
                    Some(Event::Replaced(listener(), found))
                } else if !is_reported && due(&mut logged.found, at) {
                    Some(Event::Found(listener(), found))
                } else {
                    None
                }
            }
            missing @ Presence::Missing(absence) => {
                let is_reported = logged.reported.as_ref() == Some(missing);
                (!is_reported && due(&mut logged.missing, at))
                    .then(|| Event::Missing(listener(), absence.clone(), somaxconn))
            }
            Presence::Unknown => None,
        };
        if event.is_some() {
            logged.reported = Some(watched.presence.clone());
            logged.replaced_is_pending = false;
        }
        logged.full_is_pending = (logged.full_is_pending || change.became_full) && ledger.full();
        let full = (logged.full_is_pending && due(&mut logged.full, at)).then(|| {
            logged.full_is_pending = false;
            Event::Full(listener(), ledger.found(somaxconn))
        });
        let place = Arc::clone(&ledger.namespace);
        for event in event.into_iter().chain(full) {
            self.push_event_of(&place, at, event);
        }
    }

    fn reactivate(
        &mut self,
        account: usize,
        namespace: &Arc<Namespace>,
        watched: &Watched,
    ) -> (ListenerLedger, Logged, Before) {
        let same = |(ledger, ..): &(ListenerLedger, Logged, Before)| {
            ledger.listener.name == watched.listener.name
        };
        let known = self.accounts.get_mut(account).and_then(|account| {
            let place = account.inactive.iter().position(same)?;
            account.inactive.remove(place)
        });
        let new = || {
            let ledger = ListenerLedger::new(Arc::clone(namespace), watched.listener.clone());
            (ledger, Logged::default(), Before::default())
        };
        let (mut ledger, logged, before) = known.unwrap_or_else(new);
        ledger.listener = watched.listener.clone();
        (ledger, logged, before)
    }

    fn deactivate(&mut self, account: usize, sample: &Sample) {
        let watched = sample.listeners.iter().map(|watched| &watched.listener);
        let watched: BTreeSet<&str> = watched.map(|l| l.name.as_str()).collect();
        let id = sample.namespace.id;
        let ledgers = &mut self.view.listeners;
        let first = ledgers.partition_point(|ledger| ledger.namespace.id < id);
        let end = ledgers.partition_point(|ledger| ledger.namespace.id <= id);
        let is_removed = |ledger: &ListenerLedger| !watched.contains(ledger.listener.name.as_str());
        let known = ledgers.get(first..end).unwrap_or_default();
        let marks: Vec<bool> = known.iter().map(is_removed).collect();
        // All at once: thousands may be removed together, and the ledger is locked meanwhile.
        let mut mark = marks.iter();
        let ledgers = ledgers.extract_if(first..end, |_| mark.next() == Some(&true));
        let mut mark = marks.iter();
        let states = (self.state).extract_if(first..end, |_| mark.next() == Some(&true));
        let removed: Vec<_> = ledgers.zip(states).collect();
        for (mut ledger, state) in removed {
            let State {
                logged, mut before, ..
            } = state;
            let missing = Watched {
                listener: ledger.listener.clone(),
                presence: Presence::Missing(Absence::NotListening),
                limit: ledger.limit,
                readings: Vec::new(),
                waiting: Waiting::default(),
            };
            let (interval, window) = (self.interval, self.peak_window);
            ledger.observe(sample.at, interval, window, &missing, &mut before);
            if let Some(account) = self.accounts.get_mut(account) {
                account.listeners -= 1;
                while account.inactive.len() >= sample.part_of(INACTIVE_LIMIT) {
                    account.inactive.pop_front();
                }
                account.inactive.push_back((ledger, logged, before));
            }
        }
        self.report_removed(account, sample.at);
    }

    /// Reports listeners that were removed, if that was not reported yet.
    fn report_removed(&mut self, account: usize, at: Duration) {
        let mut removed = Vec::new();
        let account = self.accounts.get_mut(account);
        for (ledger, logged, _) in account.into_iter().flat_map(|known| &mut known.inactive) {
            if logged.reported.is_some() && due(&mut logged.removed, at) {
                logged.reported = None;
                removed.push(Subject {
                    namespace: Arc::clone(&ledger.namespace),
                    listener: Arc::clone(&ledger.listener),
                });
            }
        }
        for subject in removed {
            let place = Arc::clone(&subject.namespace);
            self.push_event_of(&place, at, Event::Removed(subject));
        }
    }

    /// Notes an event of a listener. Of many namespaces, those of one share have a bounded number of them.
    fn push_event_of(&mut self, namespace: &Arc<Namespace>, at: Duration, event: Event) {
        if namespace.labels.is_empty() {
            return self.push_event(event);
        }
        if !self.lines.contains_key(&namespace.share) {
            self.lines
                .retain(|_, (since, _)| at < *since + LOG_INTERVAL);
            self.lines.insert(namespace.share.clone(), (at, 0));
        }
        let Some((since, count)) = self.lines.get_mut(&namespace.share) else {
            return;
        };
        if at >= *since + LOG_INTERVAL {
            (*since, *count) = (at, 0);
        }
        *count += 1;
        match *count {
            ..=LINES => self.push_event(event),
            count if count == LINES + 1 => self.push_event(Event::TooMany(Arc::clone(namespace))),
            _ => {}
        }
    }

    fn push_event(&mut self, event: Event) {
        if self.events.len() < PENDING_EVENTS {
            self.events.push(event);
        }
    }
}

impl View {
    /// The figures of a listener, if it is watched; of several namespaces, those of the first that has it.
    #[must_use]
    pub fn listener(&self, name: &str) -> Option<&ListenerLedger> {
        self.listeners.get(self.find(name)?)
    }

    /// Listeners that discovery found and that are not watched, in all namespaces.
    #[must_use]
    pub fn left_out(&self) -> LeftOut {
        let each = self.namespaces.iter().map(|figures| figures.left_out);
        each.fold(LeftOut::default(), |sum, left_out| LeftOut {
            excluded: sum.excluded + left_out.excluded,
            ignored: sum.ignored + left_out.ignored,
        })
    }

    /// `net.core.somaxconn` of a listener's namespace, if known.
    #[must_use]
    pub fn somaxconn(&self, listener: &ListenerLedger) -> Option<u32> {
        let id = listener.namespace.id;
        let namespaces = &self.namespaces;
        let place = namespaces.binary_search_by_key(&id, |known| known.namespace.id);
        namespaces.get(place.ok()?)?.slow.settings.somaxconn
    }

    /// The part that is shown.
    #[must_use]
    pub fn shown(&self) -> Self {
        let listeners = self.listeners.iter();
        let listeners: Vec<_> = listeners
            .filter(|ledger| self.shows(ledger))
            .cloned()
            .collect();
        let idle = self.listeners.len() - listeners.len();
        Self {
            namespaces: self.namespaces.clone(),
            listeners,
            process: self.process,
            sources: self.sources.clone(),
            sample_duration: self.sample_duration.clone(),
            idle_listeners: self.hides_idle.then_some(idle),
            ..*self
        }
    }

    fn shows(&self, ledger: &ListenerLedger) -> bool {
        !self.hides_idle || ledger.was_busy
    }

    fn find(&self, name: &str) -> Option<usize> {
        let titled = |ledger: &ListenerLedger| ledger.title() == name;
        let mut namespaces = self.namespaces.iter();
        let named = namespaces.find_map(|known| self.place(known.namespace.id, name).ok());
        named.or_else(|| self.listeners.iter().position(titled))
    }

    /// The index of a listener, or where it would be inserted.
    fn place(&self, namespace: u64, name: &str) -> Result<usize, usize> {
        self.listeners.binary_search_by(|ledger| {
            let of_namespace = ledger.namespace.id.cmp(&namespace);
            of_namespace.then_with(|| ledger.listener.name.as_str().cmp(name))
        })
    }
}

/// Whether an event that was logged last at `last` may be logged again.
fn due(last: &mut Option<Duration>, at: Duration) -> bool {
    let due = last.is_none_or(|last| at >= last + LOG_INTERVAL);
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
            Event::Removed(..) => "removed",
            Event::Replaced(..) => "replaced",
            Event::Full(..) => "full",
            Event::TooMany(_) => "too many",
            Event::SourceFailed(..) => "failed",
            Event::SourceRecovered(..) => "recovered",
            Event::Closed(_) => "closed",
        };
        ledger.take_events().map(kind).collect()
    }

    #[test]
    fn a_vanished_listener_leaves_no_series_and_its_counters_go_on_when_it_comes_back() {
        let mut ledger = ledger();
        ledger.record(&sample(10, vec![watched("unix:/a", 1, 6)]));
        ledger.record(&sample(20, vec![]));
        assert!(ledger.view().listeners.is_empty());
        ledger.record(&sample(30, vec![watched("unix:/a", 2, 6)]));
        let totals = totals(&ledger);
        assert_eq!((totals.full_episodes, totals.replacements), (2, 1));
        assert_eq!(kinds(&mut ledger), ["found", "full", "removed", "replaced"]);
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
            ledger.record(&sample(at_ms, order.into_iter().cloned().collect()));
            let view = ledger.view();
            assert_eq!(view.listeners.len(), names.len());
            assert!(view.listeners.is_sorted_by_key(|l| &l.listener.name));
            for watched in [&a, &b, &c] {
                let name = &watched.listener.name;
                let recorded = view.listener(name).map(|l| &l.readings);
                let expected = names.contains(name).then_some(&watched.readings);
                assert_eq!(recorded, expected);
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
            ledger.record(&sample(u64::from(number), vec![watched(&name, number, 0)]));
        }
        assert_eq!(ledger.accounts[0].inactive.len(), INACTIVE_LIMIT);
        assert_eq!(ledger.state.len(), 1);
        assert_eq!(ledger.events.len(), PENDING_EVENTS);
        let mut one_of_many = sample(2000, vec![]);
        one_of_many.others_of_share = 99;
        ledger.record(&one_of_many);
        assert_eq!(ledger.accounts[0].inactive.len(), INACTIVE_LIMIT / 100);
    }

    #[test]
    fn a_queue_that_is_full_again_and_again_is_reported_once_a_minute() {
        let mut ledger = ledger();
        for round in 0..12_000_u32 {
            let depth = 6 * (round % 2);
            let at_ms = u64::from(round) * 10;
            ledger.record(&sample(at_ms, vec![watched("unix:/a", 1, depth)]));
        }
        assert_eq!(kinds(&mut ledger), ["found", "full", "full"]);
        let totals = totals(&ledger);
        assert_eq!(totals.full_episodes, 6000);
    }

    /// Records rounds a second apart, with the listeners that `round` returns for each second. Returns the events and their seconds.
    fn reported(seconds: u32, round: impl Fn(u32) -> Vec<Watched>) -> Vec<(u32, &'static str)> {
        let mut ledger = ledger();
        let mut reported = Vec::new();
        for second in 0..seconds {
            ledger.record(&Sample {
                slow: Some(Slow::default()),
                ..sample(u64::from(second) * 1000, round(second))
            });
            reported.extend(kinds(&mut ledger).into_iter().map(|kind| (second, kind)));
        }
        reported
    }

    #[test]
    fn a_queue_that_becomes_full_again_within_a_minute_is_reported_after_it_if_it_still_is() {
        let full = |second| vec![watched("unix:/a", 1, if second == 3 { 0 } else { 6 })];
        let expected = [(0, "found"), (0, "full"), (60, "full")];
        assert_eq!(reported(200, full), expected);
        let briefly = |second| {
            vec![watched(
                "unix:/a",
                1,
                if second < 3 || second == 5 { 6 } else { 0 },
            )]
        };
        assert_eq!(reported(200, briefly), expected[..2]);
    }

    #[test]
    fn a_listener_that_was_replaced_within_a_minute_of_the_last_report_is_reported_once_after_it() {
        let replaced = |second| vec![watched("unix:/a", 1 + u32::min(second, 3), 0)];
        let expected = [(0, "found"), (1, "replaced"), (61, "replaced")];
        assert_eq!(reported(200, replaced), expected);
    }

    #[test]
    fn a_listener_that_stays_removed_is_reported_once_the_minute_since_the_last_report_is_over() {
        let there = |second| {
            vec![watched("unix:/a", 1, 0); usize::from(second < 5 || second == 70 || second == 72)]
        };
        let expected = [(0, "found"), (5, "removed"), (70, "found"), (71, "removed")];
        assert_eq!(
            reported(200, there),
            expected,
            "72 is within the minute, and over by its end"
        );
        let for_good = |second| {
            vec![
                watched("unix:/a", 1, 0);
                usize::from(second < 5 || (70..75).contains(&second) || (76..80).contains(&second))
            ]
        };
        let expected = [(0, "found"), (5, "removed"), (70, "found"), (75, "removed")];
        assert_eq!(reported(200, for_good), expected);
        let later = |second| {
            vec![watched("unix:/a", 1, 0); usize::from(second < 61 || (62..100).contains(&second))]
        };
        let expected = [
            (0, "found"),
            (61, "removed"),
            (62, "found"),
            (121, "removed"),
        ];
        assert_eq!(reported(200, later), expected);
    }

    #[test]
    fn a_replacement_is_reported_again_once_a_minute_has_passed() {
        let mut ledger = ledger();
        for (at_ms, inode) in [(10, 1), (20, 2), (60_019, 3), (60_020, 4)] {
            ledger.record(&sample(at_ms, vec![watched("unix:/a", inode, 0)]));
        }
        assert_eq!(kinds(&mut ledger), ["found", "replaced", "replaced"]);
        let listener = ledger.view().listener("unix:/a").unwrap();
        assert_eq!(listener.totals.as_ref().unwrap().replacements, 3);
    }

    #[test]
    fn namespaces_keep_listeners_of_one_name_apart_and_report_a_reason_once() {
        let mut ledger = ledger();
        let round = |id, listeners, outcome: Result<(), &str>| Sample {
            namespace: Arc::new(Namespace {
                id,
                ..Namespace::default()
            }),
            outcomes: vec![(Source::UnixDiag, outcome.map_err(str::to_owned))],
            ..sample(10, listeners)
        };
        let one = |inode, depth| vec![watched("unix:/a", inode, depth)];
        ledger.record(&round(2, one(1, 6), Err("no")));
        ledger.record(&round(1, one(2, 3), Err("no")));
        let depths = |ledger: &Ledger| {
            let each = ledger.view().listeners.iter();
            let each = each.map(|ledger| (ledger.namespace.id, ledger.depth()));
            each.collect::<Vec<_>>()
        };
        assert_eq!(depths(&ledger), [(1, 3), (2, 6)]);
        assert_eq!(kinds(&mut ledger), ["failed", "found", "full", "found"]);
        ledger.record(&round(1, vec![], Ok(())));
        assert_eq!(depths(&ledger), [(2, 6)]);
        assert!(!ledger.view().sources[&Source::UnixDiag].up);
        assert_eq!(kinds(&mut ledger), ["removed"]);
        ledger.record(&round(2, one(1, 5), Ok(())));
        assert_eq!(depths(&ledger), [(2, 5)]);
        let figures = ledger.view().sources[&Source::UnixDiag];
        assert_eq!((figures.up, figures.errors), (true, 2));
        assert_eq!(kinds(&mut ledger), ["recovered"]);
    }

    #[test]
    fn a_pod_whose_namespaces_come_and_go_does_not_fill_the_log() {
        let mut ledger = ledger();
        let mut come_and_go = |id, share: &str, at_ms, listeners: u32| {
            let names = (0..listeners).map(|n| watched(&format!("unix:@{n}"), n, 1));
            ledger.record(&Sample {
                namespace: Arc::new(Namespace {
                    id,
                    labels: vec![("cgroup", share.to_owned())],
                    share: share.to_owned(),
                    ..Namespace::default()
                }),
                ..sample(at_ms, names.collect())
            });
            ledger.forget(id);
            kinds(&mut ledger)
        };
        let mut lines = Vec::new();
        for at_ms in (0..50_000).step_by(500) {
            lines.extend(come_and_go(at_ms, "restless", at_ms, 20));
        }
        assert_eq!(lines.len(), LINES + 1);
        assert_eq!(lines[LINES - 1..], ["found", "too many"]);
        assert_eq!(come_and_go(1, "calm", 50_000, 1), ["found"]);
        assert_eq!(come_and_go(2, "restless", 60_000, 1), ["found"]);
    }

    #[test]
    fn a_source_is_told_when_it_fails_and_when_it_recovers() {
        let mut ledger = ledger();
        for outcome in [Err("no"), Err("no"), Ok(()), Ok(()), Err("other")] {
            let mut round = sample(10, vec![]);
            round.outcomes = vec![(Source::UnixDiag, outcome.map_err(str::to_owned))];
            ledger.record(&round);
        }
        assert_eq!(kinds(&mut ledger), ["failed", "recovered", "failed"]);
        let figures = ledger.view().sources[&Source::UnixDiag];
        assert_eq!((figures.up, figures.errors), (false, 3));
    }

    #[test]
    fn what_was_never_busy_is_counted_and_not_shown_and_what_becomes_busy_is_shown_whole() {
        let mut ledger = ledger().without_idle();
        let both = |at_ms, depth| {
            sample(
                at_ms,
                vec![watched("unix:/a", 1, depth), watched("unix:/b", 2, 0)],
            )
        };
        (1..=3).for_each(|round| ledger.record(&both(round * 10, 0)));
        let shown = ledger.view().shown();
        assert_eq!((shown.listeners.len(), shown.idle_listeners), (0, Some(2)));
        assert!(kinds(&mut ledger).is_empty());
        ledger.record(&both(40, 6));
        ledger.record(&both(50, 0));
        let shown = ledger.view().shown();
        assert_eq!((shown.listeners.len(), shown.idle_listeners), (1, Some(1)));
        let totals = shown.listeners[0].totals.as_ref().unwrap();
        assert_eq!((totals.utilization.count(), totals.full_episodes), (5, 1));
        assert_eq!(kinds(&mut ledger), ["found", "full"]);
    }

    #[test]
    fn a_removed_namespace_leaves_nothing_behind_and_takes_its_failures_along() {
        let mut ledger = ledger();
        let round = |id, outcome: Result<(), &str>| Sample {
            namespace: Arc::new(Namespace {
                id,
                ..Namespace::default()
            }),
            outcomes: vec![(Source::UnixDiag, outcome.map_err(str::to_owned))],
            ..sample(10, vec![watched("unix:/a", 1, 2)])
        };
        for (id, outcome) in [(1, Ok(())), (2, Err("no")), (3, Ok(()))] {
            ledger.record(&round(id, outcome));
        }
        ledger.take_events().for_each(drop);
        ledger.forget(2);
        ledger.forget(9);
        let view = ledger.view();
        let ids: Vec<u64> = view.listeners.iter().map(|l| l.namespace.id).collect();
        assert_eq!((ids, view.namespaces.len()), (vec![1, 3], 2));
        assert!(view.sources[&Source::UnixDiag].up);
        assert_eq!((ledger.state.len(), ledger.accounts.len()), (2, 2));
        assert_eq!(kinds(&mut ledger).last(), Some(&"recovered"));
        ledger.record(&round(3, Ok(())));
        assert_eq!(ledger.view().listeners.len(), 2);
    }
}
