//! A row of the table, and the series that it produces.

use prometheus::proto;

use crate::ledger::{Histogram, ListenerLedger, View};
use crate::sample::Namespace;

/// A metric: its name, type, labels and meaning, and how to get its series from a view of the ledger.
#[derive(Debug)]
pub struct Metric {
    /// Name.
    pub name: &'static str,
    /// Type.
    pub kind: Kind,
    /// Names of its labels, except `le`.
    pub labels: &'static [&'static str],
    /// Condition under which a series exists.
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

/// Which parts of the histograms are on the page.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Histograms {
    /// All of them.
    #[default]
    Whole,
    /// Only sums and counts, and the bucket `+Inf`, which a histogram requires.
    WithoutBuckets,
}

/// The series of one metric while they are collected, then those of the next metric.
#[derive(Debug, Default)]
pub struct Family {
    encoded: proto::MetricFamily,
    labels: &'static [&'static str],
    histograms: Histograms,
    /// For each series, the position of its listener in the view, if the listener is its only label.
    places: Vec<Option<usize>>,
    /// Series of earlier metrics by the position of their listener. They already have labels: to label thousands again, for each listener
    /// and metric, is expensive.
    labelled: Vec<Option<proto::Metric>>,
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
    pub(super) fn new(histograms: Histograms) -> Self {
        Self {
            histograms,
            ..Self::default()
        }
    }

    /// Collects the series of a metric, replacing those of another. `None` if there are none.
    pub(super) fn collect(&mut self, metric: &Metric, view: &View) -> Option<&proto::MetricFamily> {
        self.labelled.resize_with(view.listeners.len(), || None);
        for (series, place) in self.encoded.mut_metric().drain(..).zip(&self.places) {
            if let Some(slot) = place.and_then(|place| self.labelled.get_mut(place)) {
                *slot = Some(series);
            }
        }
        self.places.clear();
        self.labels = metric.labels;
        self.encoded.set_name(metric.name.to_owned());
        self.encoded.set_help(metric.help.to_owned());
        self.encoded.set_field_type(match metric.kind {
            Kind::Counter => proto::MetricType::COUNTER,
            Kind::Gauge => proto::MetricType::GAUGE,
            Kind::Histogram => proto::MetricType::HISTOGRAM,
        });
        (metric.collect)(view, self);
        (!self.places.is_empty()).then_some(&self.encoded)
    }

    /// Adds a series, unless the value is absent.
    pub(super) fn push(&mut self, labels: &[&str], value: Option<f64>) {
        self.push_labelled(&[], labels, value);
    }

    /// Adds a series of a network namespace.
    pub(super) fn push_of(&mut self, namespace: &Namespace, labels: &[&str], value: Option<f64>) {
        self.push_labelled(&namespace.labels, labels, value);
    }

    fn push_labelled(
        &mut self,
        namespace: &[(&'static str, String)],
        labels: &[&str],
        value: Option<f64>,
    ) {
        if let Some(value) = value {
            let series = self.series(namespace, labels);
            self.add(None, series, value);
        }
    }

    /// Adds the buckets, sum and count of a histogram.
    pub(super) fn push_histogram<const N: usize>(
        &mut self,
        labels: &[&str],
        histogram: &Histogram<N>,
    ) {
        let series = self.series(&[], labels);
        self.add_histogram(None, series, histogram);
    }

    /// Adds a series for each listener that has a value.
    pub(super) fn each(&mut self, view: &View, value: impl Fn(&ListenerLedger) -> Option<f64>) {
        for (place, listener) in view.listeners.iter().enumerate() {
            if let Some(value) = value(listener) {
                let series = self.series_of(place, listener);
                self.add(Some(place), series, value);
            }
        }
    }

    /// Adds a histogram for each listener that has one.
    pub(super) fn each_histogram<const N: usize>(
        &mut self,
        view: &View,
        histogram: impl Fn(&ListenerLedger) -> Option<&Histogram<N>>,
    ) {
        for (place, listener) in view.listeners.iter().enumerate() {
            if let Some(histogram) = histogram(listener) {
                let series = self.series_of(place, listener);
                self.add_histogram(Some(place), series, histogram);
            }
        }
    }

    fn series_of(&mut self, place: usize, listener: &ListenerLedger) -> proto::Metric {
        let labelled = self.labelled.get_mut(place).and_then(Option::take);
        let labels = &listener.namespace.labels;
        labelled.unwrap_or_else(|| self.series(labels, &[&listener.listener.name]))
    }

    fn series(&self, namespace: &[(&'static str, String)], values: &[&str]) -> proto::Metric {
        debug_assert_eq!(self.labels.len(), values.len());
        let pair = |(name, value): (&str, &str)| {
            let mut pair = proto::LabelPair::default();
            pair.set_name(name.to_owned());
            pair.set_value(value.to_owned());
            pair
        };
        let own = self.labels.iter().copied().zip(values.iter().copied());
        let namespace = namespace.iter();
        let namespace = namespace.map(|(name, value)| (*name, value.as_str()));
        proto::Metric::from_label(own.chain(namespace).map(pair).collect())
    }

    fn add(&mut self, place: Option<usize>, mut series: proto::Metric, value: f64) {
        if self.encoded.get_field_type() == proto::MetricType::COUNTER {
            let mut counter = proto::Counter::default();
            counter.set_value(value);
            series.set_counter(counter);
        } else {
            let mut gauge = proto::Gauge::default();
            gauge.set_value(value);
            series.set_gauge(gauge);
        }
        self.places.push(place);
        self.encoded.mut_metric().push(series);
    }

    fn add_histogram<const N: usize>(
        &mut self,
        place: Option<usize>,
        mut series: proto::Metric,
        histogram: &Histogram<N>,
    ) {
        let bucket = |(bound, count)| {
            let mut bucket = proto::Bucket::default();
            bucket.set_upper_bound(bound);
            bucket.set_cumulative_count(count);
            bucket
        };
        let mut encoded = proto::Histogram::default();
        if self.histograms == Histograms::Whole {
            encoded.set_bucket(histogram.cumulative().map(bucket).collect());
        }
        encoded.set_sample_sum(histogram.sum());
        encoded.set_sample_count(histogram.count());
        series.set_histogram(encoded);
        self.places.push(place);
        self.encoded.mut_metric().push(series);
    }
}
