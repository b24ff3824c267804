//! The current figures as data for people and programs: the JSON of `/api/v1/listeners` and of `check`, and what the live page shows.
//!
//! A field that is not known is absent, never 0 or null.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};

use crate::counted::counted;
use crate::ledger::{ListenerLedger, Peaks, Recent, SourceFigures, View};
use crate::sample::{LimitSource, Presence, Reading, Source};

/// Everything.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Version of the exporter.
    pub version: &'static str,
    /// `net.core.somaxconn` of this network namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub somaxconn: Option<u32>,
    /// By name.
    pub listeners: Vec<ListenerReport>,
    /// Listeners beyond `--discover.limit`.
    pub ignored_listeners: usize,
    /// Listeners that `--discover.exclude` and `--discover.include` exclude.
    pub excluded_listeners: usize,
    /// Listeners that are omitted because no connection ever waited; absent if idle listeners are shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_listeners: Option<usize>,
    /// Network namespaces beyond `--node.limit`; absent if only the exporter's own namespace is watched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ignored_namespaces: Option<usize>,
    /// The sources of the figures and their state.
    pub sources: Vec<SourceReport>,
    /// Refused connects to addresses that are not watched, by address and source.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub refused_elsewhere: BTreeMap<String, BTreeMap<&'static str, u64>>,
}

/// A report with the recent history of the queues.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LiveReport {
    /// The current figures.
    #[serde(flatten)]
    pub report: Report,
    /// The last minutes.
    pub recent: RecentReport,
}

/// The highest depths of consecutive parts of time.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RecentReport {
    /// Number of the first part. The parts after the last one are requested with `since`.
    pub first: u64,
    /// Length of a part.
    pub part_seconds: f64,
    /// By listener, one for each part; null if no round saw the listener.
    pub peaks: BTreeMap<String, Peaks>,
}

impl Serialize for Peaks {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl From<Recent> for RecentReport {
    fn from(recent: Recent) -> Self {
        Self {
            first: recent.first,
            part_seconds: recent.length.as_secs_f64(),
            peaks: recent.peaks,
        }
    }
}

/// A source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SourceReport {
    /// As the label `source` of the metrics.
    pub name: &'static str,
    /// Whether the last read succeeded.
    pub up: bool,
    /// Failed reads.
    pub errors: u64,
}

/// A listener.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ListenerReport {
    /// As the label `listener` of the metrics.
    pub name: String,
    /// The labels of its network namespace; none if there is only one.
    #[serde(flatten)]
    pub place: BTreeMap<&'static str, String>,
    /// Its name and location, if there are several namespaces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// `unix` or `tcp`.
    pub family: &'static str,
    /// Where clients connect to.
    pub address: String,
    /// Whether it exists.
    pub state: State,
    /// Why it does not exist.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Its queue; absent unless it exists.
    #[serde(flatten)]
    pub queue: Option<QueueReport>,
    /// Totals since the exporter first saw the listener; absent before.
    #[serde(flatten)]
    pub totals: Option<TotalsReport>,
    /// Refused connects, by source; absent without a source.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub refused_connects: BTreeMap<&'static str, u64>,
}

/// Whether a listener exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It was read.
    Up,
    /// It does not exist.
    Missing,
    /// Its source failed.
    Unknown,
}

/// The queue at the last sample.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct QueueReport {
    /// `net.core.somaxconn` of its network namespace.
    #[serde(skip)]
    pub somaxconn: Option<u32>,
    /// Listening sockets.
    pub sockets: usize,
    /// Connections waiting for `accept()`.
    pub depth: u64,
    /// For a group, the queue of each socket.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<MemberReport>,
    /// For a group, a description of the socket that is full while the others are empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stuck_member: Option<String>,
    /// Limit of the queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backlog: Option<u64>,
    /// Depth at which the next connection is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capacity: Option<u64>,
    /// Upper bound of the capacity, if it is unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capacity_at_most: Option<u64>,
    /// Depth divided by capacity, for the fullest socket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub utilization: Option<f64>,
    /// Whether a socket is full; absent if that depends on an unknown limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub full: Option<bool>,
    /// The limit of each socket, if all have the same.
    #[serde(skip)]
    pub each: Option<u32>,
    /// The backlog that the application requests, as configured with `backlog=`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requested_backlog: Option<u32>,
    /// Explanation of the limit.
    pub limit: String,
    /// Time that the head of the queue has waited, as a lower bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest_wait_seconds: Option<f64>,
    /// Queued connections whose client has disconnected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub abandoned_connections: Option<u64>,
    /// Connects that sleep because the queue is full.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blocked_connects: Option<u64>,
    /// Half-open TCP connections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub syn_queue_depth: Option<u64>,
}

/// One socket of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct MemberReport {
    /// Its inode, as `ss -e` shows it.
    pub inode: u32,
    /// Connections waiting for `accept()`.
    pub depth: u32,
    /// Limit of its queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backlog: Option<u32>,
    /// Whether it is full; absent if its limit is unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub full: Option<bool>,
}

/// Totals.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TotalsReport {
    /// Highest depth of the peak window.
    pub depth_peak: u32,
    /// Time full; absent if the limit is unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub full_seconds: Option<f64>,
    /// Number of times it became full; absent if the limit is unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub full_episodes: Option<u64>,
    /// Packets dropped at its TCP sockets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drops: Option<u64>,
    /// Number of times that other sockets replaced those of the address.
    pub replacements: u64,
}

impl Report {
    /// The report of a view.
    #[must_use]
    pub fn new(view: &View) -> Self {
        // That of the namespace, if there is only one.
        let somaxconn = match view.namespaces.as_slice() {
            [figures] => figures.slow.settings.somaxconn,
            _ => None,
        };
        let mut refused: BTreeMap<(u64, String), BTreeMap<&'static str, u64>> = BTreeMap::new();
        for figures in &view.namespaces {
            for figure in &figures.slow.refused {
                let key = (figures.namespace.id, figure.listener.clone());
                let by_source = refused.entry(key).or_default();
                by_source.insert(figure.source.name(), figure.count);
            }
        }
        let listeners = view
            .listeners
            .iter()
            .map(|ledger| ListenerReport {
                refused_connects: refused
                    .remove(&(ledger.namespace.id, ledger.listener.name.clone()))
                    .unwrap_or_default(),
                ..ListenerReport::new(ledger, view.somaxconn(ledger))
            })
            .collect();
        let source = |(source, figures): (&Source, &SourceFigures)| SourceReport {
            name: source.name(),
            up: figures.up,
            errors: figures.errors,
        };
        let left_out = view.left_out();
        Self {
            version: crate::VERSION,
            somaxconn,
            listeners,
            ignored_listeners: left_out.ignored,
            excluded_listeners: left_out.excluded,
            sources: view.sources.iter().map(source).collect(),
            idle_listeners: view.idle_listeners,
            ignored_namespaces: view.ignored_namespaces,
            refused_elsewhere: refused
                .into_iter()
                .map(|((_, name), counts)| (name, counts))
                .collect(),
        }
    }
}

impl ListenerReport {
    /// Its name and, if there are several namespaces, its location. It is unique.
    #[must_use]
    pub fn title(&self) -> &str {
        self.title.as_ref().unwrap_or(&self.name)
    }

    fn new(ledger: &ListenerLedger, somaxconn: Option<u32>) -> Self {
        let address = &ledger.listener.address;
        let is_limited = ledger.limit != LimitSource::Unknown;
        let (state, reason) = match &ledger.presence {
            Presence::Up => (State::Up, None),
            Presence::Missing(absence) => (State::Missing, Some(absence.to_string())),
            Presence::Unknown => (
                State::Unknown,
                Some("its source failed; see sources and the log".to_owned()),
            ),
        };
        Self {
            name: ledger.listener.name.clone(),
            place: ledger.namespace.labels.iter().cloned().collect(),
            title: Some(ledger.title()).filter(|title| *title != ledger.listener.name),
            family: address.family(),
            address: address.to_string(),
            state,
            reason,
            queue: ledger.up().then(|| QueueReport::new(ledger, somaxconn)),
            totals: ledger.totals.as_ref().map(|totals| TotalsReport {
                depth_peak: totals.peak.highest(),
                full_seconds: is_limited.then_some(totals.full.as_secs_f64()),
                full_episodes: is_limited.then_some(totals.full_episodes),
                drops: totals.drops.filter(|_| ledger.limit == LimitSource::Kernel),
                replacements: totals.replacements,
            }),
            refused_connects: BTreeMap::new(),
        }
    }
}

impl MemberReport {
    /// Whether it is known to be full.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.full == Some(true)
    }
}

impl QueueReport {
    /// The utilization or, if it is unknown, its lower bound.
    #[must_use]
    pub fn utilization_at_least(&self) -> Option<f64> {
        #[expect(clippy::cast_precision_loss, reason = "a depth is below 2^53")]
        let least = |bound: u64| self.depth as f64 / bound as f64;
        self.utilization
            .or_else(|| self.capacity_at_most.map(least))
    }

    /// The one socket of a group that is full while all others are empty.
    #[must_use]
    pub fn only_full_member(&self) -> Option<MemberReport> {
        let mut waiting = self.members.iter().filter(|member| member.depth > 0);
        let only = waiting.next().filter(|member| member.is_full())?;
        waiting.next().is_none().then_some(*only)
    }

    /// Whether a socket is known to be full.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.full == Some(true)
    }

    /// Describes it.
    #[must_use]
    pub fn stuck_words(&self, member: MemberReport) -> String {
        format!(
            "one of its {} is full ({} waiting, inode {}) while the others are empty",
            counted(self.members.len() as u64, "socket"),
            counted(member.depth.into(), "connection"),
            member.inode
        )
    }

    fn new(ledger: &ListenerLedger, somaxconn: Option<u32>) -> Self {
        let requested = ledger.listener.requested_backlog;
        let mut limits = ledger.readings.iter().filter_map(|reading| reading.backlog);
        let first = limits.next();
        let each = first.filter(|first| limits.all(|limit| limit == *first));
        let member = |reading: &Reading| MemberReport {
            inode: reading.id.inode,
            depth: reading.depth,
            backlog: reading.backlog,
            full: reading.backlog.map(|_| reading.full()),
        };
        let members: Vec<MemberReport> = match ledger.readings.as_slice() {
            [_] => Vec::new(),
            readings => readings.iter().map(member).collect(),
        };
        let mut queue = Self {
            somaxconn,
            sockets: ledger.readings.len(),
            depth: ledger.depth(),
            members,
            stuck_member: None,
            backlog: ledger.backlog(),
            capacity: ledger.capacity(),
            capacity_at_most: ledger.capacity_at_most(somaxconn),
            utilization: ledger.utilization(),
            full: Some(ledger.full()).filter(|full| *full || ledger.capacity().is_some()),
            each,
            requested_backlog: requested,
            limit: match ledger.limit {
                LimitSource::Unknown => unknown(somaxconn),
                _ => explain(each, ledger.readings.len(), requested, somaxconn),
            },
            oldest_wait_seconds: ledger.waits.oldest.map(|wait| wait.as_secs_f64()),
            abandoned_connections: ledger.waits.abandoned,
            blocked_connects: ledger.waits.blocked,
            syn_queue_depth: ledger.waits.half_open,
        };
        let stuck = queue.only_full_member();
        queue.stuck_member = stuck.map(|member| queue.stuck_words(member));
        queue
    }
}

/// `listen(2)` grants no more than `net.core.somaxconn`.
fn unknown(somaxconn: Option<u32>) -> String {
    let bound = somaxconn.map_or(String::new(), |somaxconn| format!(" (at most {somaxconn})"));
    format!("limit unknown{bound}: sock_diag is not available; configure backlog=")
}

fn explain(
    each: Option<u32>,
    sockets: usize,
    requested: Option<u32>,
    somaxconn: Option<u32>,
) -> String {
    let Some(limit) = each else {
        return "the sockets have different limits".to_owned();
    };
    let reason = Limit::of(limit, requested, somaxconn).reason(requested, somaxconn);
    match sockets {
        1 => format!("{limit}: {reason}"),
        sockets => {
            let sockets = counted(sockets as u64, "socket");
            format!("{limit} for each of {sockets}: {reason}")
        }
    }
}

/// The reason for a limit, as far as it can be determined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// It is what the application requests.
    AsAsked,
    /// `somaxconn` is lower than what the application requests.
    Cut,
    /// The application requests more and `somaxconn` would grant more: `listen()` was called before it was raised.
    Old,
    /// It equals `somaxconn`, and what the application requests is unknown.
    MaybeCut,
    /// It is below `somaxconn`, and what the application requests is unknown.
    Below,
    /// It is above `somaxconn`, which was lowered later.
    Above,
    /// `somaxconn` cannot be read.
    Hidden,
    /// It is more than configured with `backlog=`.
    MoreThanAsked,
}

impl Limit {
    /// Compares the limit of a socket with what is requested and what is granted.
    #[must_use]
    pub fn of(limit: u32, requested: Option<u32>, somaxconn: Option<u32>) -> Self {
        match (requested, somaxconn) {
            (Some(requested), _) if requested == limit => Self::AsAsked,
            (Some(requested), _) if requested < limit => Self::MoreThanAsked,
            (_, None) => Self::Hidden,
            (_, Some(somaxconn)) if limit > somaxconn => Self::Above,
            (Some(_), Some(somaxconn)) if limit == somaxconn => Self::Cut,
            (Some(_), _) => Self::Old,
            (None, Some(somaxconn)) if limit == somaxconn => Self::MaybeCut,
            (None, _) => Self::Below,
        }
    }

    fn reason(self, requested: Option<u32>, somaxconn: Option<u32>) -> String {
        let (requested, somaxconn) = (requested.unwrap_or(0), somaxconn.unwrap_or(0));
        match self {
            Self::AsAsked => "as requested by the application".to_owned(),
            Self::Cut => {
                format!(
                    "net.core.somaxconn, which is lower than the {requested} that the application requests"
                )
            }
            Self::Old => format!(
                "lower than the {requested} that the application requests; net.core.somaxconn is {somaxconn} now, so listen() was called before it was raised: reload the application"
            ),
            Self::MaybeCut => {
                "net.core.somaxconn; the application may have requested more".to_owned()
            }
            Self::Below => format!(
                "as requested by the application, or net.core.somaxconn at the time of listen(); it is {somaxconn} now"
            ),
            Self::Above => {
                format!("granted before net.core.somaxconn was lowered to {somaxconn}")
            }
            Self::Hidden => "net.core.somaxconn cannot be read".to_owned(),
            Self::MoreThanAsked => format!("higher than the {requested} configured with backlog="),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_explained_by_what_is_known() {
        for (limit, requested, somaxconn, expected) in [
            (128, Some(128), Some(4096), Limit::AsAsked),
            (128, Some(2048), Some(128), Limit::Cut),
            (128, Some(2048), Some(4096), Limit::Old),
            (128, None, Some(128), Limit::MaybeCut),
            (511, None, Some(4096), Limit::Below),
            (4096, None, Some(128), Limit::Above),
            (128, None, None, Limit::Hidden),
            (128, Some(64), Some(4096), Limit::MoreThanAsked),
        ] {
            let found = Limit::of(limit, requested, somaxconn);
            assert_eq!(found, expected);
            assert!(!found.reason(requested, somaxconn).is_empty());
        }
    }
}
