//! A row of the table, and the series that it makes.

use prometheus::proto;

use crate::ledger::{Histogram, ListenerLedger, View};

/// A metric: its name, type, labels and meaning, and how to get its series from a view of the ledger.
#[derive(Debug)]
pub struct Metric {
    /// Name.
    pub name: &'static str,
    /// Type.
    pub kind: Kind,
    /// Names of its labels, `le` aside.
    pub labels: &'static [&'static str],
    /// When there is a series.
    pub when: &'static str,
    /// Meaning, unit, and the kernel's field it comes from.
    pub help: &'static str,
    pub(super) collect: fn(&View, &mut Family),
}

/// Types of metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Cumulative buckets.
    Histogram,
}

/// The series of one metric while they are collected.
#[derive(Debug)]
pub struct Family {
    kind: Kind,
    labels: &'static [&'static str],
    series: Vec<proto::Metric>,
}

impl Metric {
    pub(super) fn family(&self, view: &View) -> Option<proto::MetricFamily> {
        let mut family = Family {
            kind: self.kind,
            labels: self.labels,
            // Most have one a listener.
            series: Vec::with_capacity(view.listeners.len()),
        };
        (self.collect)(view, &mut family);
        if family.series.is_empty() {
            return None;
        }
        let mut encoded = proto::MetricFamily::default();
        encoded.set_name(self.name.to_owned());
        encoded.set_help(self.help.to_owned());
        encoded.set_field_type(match self.kind {
            Kind::Counter => proto::MetricType::COUNTER,
            Kind::Gauge => proto::MetricType::GAUGE,
            Kind::Histogram => proto::MetricType::HISTOGRAM,
        });
        encoded.set_metric(family.series);
        Some(encoded)
    }
}

impl Kind {
    /// `counter`, `gauge` or `histogram`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

impl Family {
    /// Adds a series; no value, no series.
    pub(super) fn push(&mut self, labels: &[&str], value: Option<f64>) {
        let Some(value) = value else { return };
        let mut series = self.series(labels);
        match self.kind {
            Kind::Counter => {
                let mut counter = proto::Counter::default();
                counter.set_value(value);
                series.set_counter(counter);
            }
            Kind::Gauge | Kind::Histogram => {
                let mut gauge = proto::Gauge::default();
                gauge.set_value(value);
                series.set_gauge(gauge);
            }
        }
        self.series.push(series);
    }

    /// Adds the buckets, sum and count of a histogram; no histogram, no series.
    pub(super) fn push_histogram(&mut self, labels: &[&str], histogram: Option<&Histogram>) {
        let Some(histogram) = histogram else { return };
        let bucket = |(bound, count)| {
            let mut bucket = proto::Bucket::default();
            bucket.set_upper_bound(bound);
            bucket.set_cumulative_count(count);
            bucket
        };
        let mut encoded = proto::Histogram::default();
        encoded.set_bucket(histogram.cumulative().map(bucket).collect());
        encoded.set_sample_sum(histogram.sum());
        encoded.set_sample_count(histogram.count());
        let mut series = self.series(labels);
        series.set_histogram(encoded);
        self.series.push(series);
    }

    /// Adds a series for each listener that has a value.
    pub(super) fn each(&mut self, view: &View, value: impl Fn(&ListenerLedger) -> Option<f64>) {
        for (name, listener) in &view.listeners {
            self.push(&[name], value(listener));
        }
    }

    fn series(&self, values: &[&str]) -> proto::Metric {
        debug_assert_eq!(self.labels.len(), values.len());
        let pair = |(name, value): (&&str, &&str)| {
            let mut pair = proto::LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        };
        proto::Metric::from_label(self.labels.iter().zip(values).map(pair).collect())
    }
}
