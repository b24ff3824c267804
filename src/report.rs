//! The figures of a moment as data for people and programs: the JSON of `/api/v1/listeners` and of `check`, and what the live page shows.
//!
//! A field that is not known is left out, never 0 or null.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::ledger::{ListenerLedger, Recent, SourceFigures, View};
use crate::sample::{LimitSource, Presence, Source};

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
    /// Where the figures come from, and how that goes.
    pub sources: Vec<SourceReport>,
    /// Refused connects to addresses that are not watched, by address and witness.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub refused_elsewhere: BTreeMap<String, BTreeMap<&'static str, u64>>,
}

/// A report with what the queues did lately.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LiveReport {
    /// The moment.
    #[serde(flatten)]
    pub report: Report,
    /// The last minutes.
    pub recent: RecentReport,
}

/// The highest depths of consecutive parts of time.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RecentReport {
    /// Number of the first part; the first that follows is asked for with `since`.
    pub first: u64,
    /// Length of a part.
    pub part_seconds: f64,
    /// By listener, one a part; null where no round saw the listener.
    pub peaks: BTreeMap<String, Vec<Option<u32>>>,
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
    /// Whether its last answer was good.
    pub up: bool,
    /// Bad answers.
    pub errors: u64,
}

/// A listener.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ListenerReport {
    /// As the label `listener` of the metrics.
    pub name: String,
    /// `unix` or `tcp`.
    pub family: &'static str,
    /// Where clients connect to.
    pub address: String,
    /// Whether it is there.
    pub state: State,
    /// Why it is not there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Its queue; left out unless it is there.
    #[serde(flatten)]
    pub queue: Option<QueueReport>,
    /// What was added up since the exporter saw it first; left out before.
    #[serde(flatten)]
    pub totals: Option<TotalsReport>,
    /// Refused connects, by witness; left out without one.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub refused_connects: BTreeMap<&'static str, u64>,
}

/// Whether a listener is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It was read.
    Up,
    /// It is not there.
    Missing,
    /// Its source failed.
    Unknown,
}

/// The queue at the last sample.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct QueueReport {
    /// Listening sockets.
    pub sockets: usize,
    /// Connections waiting for `accept()`.
    pub depth: u64,
    /// Limit of the queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backlog: Option<u64>,
    /// Depth at which the next connection is turned away.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capacity: Option<u64>,
    /// The most that the capacity can be, where it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capacity_at_most: Option<u64>,
    /// Depth by capacity of the fullest socket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub utilization: Option<f64>,
    /// Whether a socket turns the next connection away.
    pub full: bool,
    /// The limit of each socket, if all have the same.
    #[serde(skip)]
    pub each: Option<u32>,
    /// What the application asks for, as it was told with `backlog=`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requested_backlog: Option<u32>,
    /// Why the limit is what it is, in words.
    pub limit: String,
    /// How long the head of the queue has waited, at least.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest_wait_seconds: Option<f64>,
    /// Those in the queue whose client has gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub abandoned_connections: Option<u64>,
    /// Connects that sleep before the full queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blocked_connects: Option<u64>,
    /// Half-open TCP connections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub syn_queue_depth: Option<u64>,
}

/// What was added up.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TotalsReport {
    /// Highest depth of the peak window.
    pub depth_peak: u32,
    /// Time seen full; left out where the limit is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub full_seconds: Option<f64>,
    /// Times it became full; left out where the limit is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub full_episodes: Option<u64>,
    /// Packets dropped at its TCP sockets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drops: Option<u64>,
    /// Times that another socket took the address over.
    pub replacements: u64,
}

impl Report {
    /// Of a view.
    #[must_use]
    pub fn new(view: &View) -> Self {
        let somaxconn = view.slow.settings.somaxconn;
        let mut refused: BTreeMap<String, BTreeMap<&'static str, u64>> = BTreeMap::new();
        for figure in &view.slow.refused {
            let by_source = refused.entry(figure.listener.clone()).or_default();
            by_source.insert(figure.source.name(), figure.count);
        }
        let listeners = view
            .listeners
            .iter()
            .map(|ledger| ListenerReport {
                refused_connects: refused.remove(&ledger.listener.name).unwrap_or_default(),
                ..ListenerReport::new(ledger, somaxconn)
            })
            .collect();
        let source = |(source, figures): (&Source, &SourceFigures)| SourceReport {
            name: source.name(),
            up: figures.up,
            errors: figures.errors,
        };
        Self {
            version: crate::VERSION,
            somaxconn,
            listeners,
            ignored_listeners: view.ignored_listeners,
            sources: view.sources.iter().map(source).collect(),
            refused_elsewhere: refused,
        }
    }
}

impl ListenerReport {
    fn new(ledger: &ListenerLedger, somaxconn: Option<u32>) -> Self {
        let address = &ledger.listener.address;
        let is_limited = ledger.limit != LimitSource::Unknown;
        let (state, reason) = match &ledger.presence {
            Presence::Up => (State::Up, None),
            Presence::Missing(absence) => (State::Missing, Some(absence.to_string())),
            Presence::Unknown => (
                State::Unknown,
                Some("its source fails; see sources and the log".to_owned()),
            ),
        };
        Self {
            name: ledger.listener.name.clone(),
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

impl QueueReport {
    /// The utilization, or where that is not known the least that it can be, if that is known.
    #[must_use]
    pub fn utilization_at_least(&self) -> Option<f64> {
        #[expect(clippy::cast_precision_loss, reason = "a depth is below 2^53")]
        let least = |bound: u64| self.depth as f64 / bound as f64;
        self.utilization
            .or_else(|| self.capacity_at_most.map(least))
    }

    fn new(ledger: &ListenerLedger, somaxconn: Option<u32>) -> Self {
        let requested = ledger.listener.requested_backlog;
        let mut limits = ledger.readings.iter().filter_map(|reading| reading.backlog);
        let first = limits.next();
        let each = first.filter(|first| limits.all(|limit| limit == *first));
        Self {
            sockets: ledger.readings.len(),
            depth: ledger.depth(),
            backlog: ledger.backlog(),
            capacity: ledger.capacity(),
            capacity_at_most: ledger.capacity_at_most(somaxconn),
            utilization: ledger.utilization(),
            full: ledger.full(),
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
        }
    }
}

/// `listen(2)` grants no more than `net.core.somaxconn`.
fn unknown(somaxconn: Option<u32>) -> String {
    let bound = somaxconn.map_or(String::new(), |somaxconn| format!(" (at most {somaxconn})"));
    format!("limit unknown{bound}: sock_diag is not available here, configure backlog=")
}

fn explain(
    each: Option<u32>,
    sockets: usize,
    requested: Option<u32>,
    somaxconn: Option<u32>,
) -> String {
    let Some(limit) = each else {
        return "its sockets have different limits".to_owned();
    };
    let reason = Limit::of(limit, requested, somaxconn).reason(requested, somaxconn);
    match sockets {
        1 => format!("{limit}: {reason}"),
        sockets => format!("{limit} for each of {sockets} sockets: {reason}"),
    }
}

/// Why a limit is what it is, as far as that can be known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// It is what the application asks for.
    AsAsked,
    /// `somaxconn` cuts what the application asks for.
    Cut,
    /// The application asks for more and `somaxconn` would grant more: `listen()` was called before it was raised.
    Old,
    /// It equals `somaxconn`, and what the application asks for is not known.
    MaybeCut,
    /// It is below `somaxconn`, and what the application asks for is not known.
    Below,
    /// It is above `somaxconn`, which was lowered since.
    Above,
    /// `somaxconn` is hidden.
    Hidden,
    /// It is more than the application is said to ask for.
    MoreThanAsked,
}

impl Limit {
    /// Compares a socket's limit with what is asked for and what is granted.
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
            Self::AsAsked => "what the application asks for".to_owned(),
            Self::Cut => {
                format!(
                    "net.core.somaxconn, which cuts the {requested} that the application asks for"
                )
            }
            Self::Old => format!(
                "of {requested} asked for; net.core.somaxconn is {somaxconn} now, so listen() was called before it was raised: reload the application"
            ),
            Self::MaybeCut => {
                "net.core.somaxconn; the application may have asked for more".to_owned()
            }
            Self::Below => format!(
                "what the application asked for, or net.core.somaxconn when it did; that is {somaxconn} now"
            ),
            Self::Above => {
                format!("granted before net.core.somaxconn was lowered to {somaxconn}")
            }
            Self::Hidden => "net.core.somaxconn is hidden here".to_owned(),
            Self::MoreThanAsked => format!("more than the {requested} that backlog= tells"),
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
