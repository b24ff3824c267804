//! One table defines every metric. The page is rendered from the table and a view of the ledger, without any other state.
//!
//! `prometheus` is used only as the encoder: families are created anew at each scrape, so a removed listener leaves nothing behind.

mod family;
mod table;

use std::io::{self, BufWriter, Write};
use std::slice;

use prometheus::{Encoder as _, TextEncoder};

pub use family::{Family, Histograms, Kind, Metric};
pub use table::{TABLE, is_about_exporter};

use crate::ledger::View;

/// Which figures are on the page.
#[derive(Debug, Clone, Copy, Default)]
pub struct Extent {
    /// How much of the histograms.
    pub histograms: Histograms,
    /// Without the metrics that are [about the exporter](is_about_exporter).
    pub without_exporter: bool,
}

/// Writes the page in the text exposition format 0.0.4. A metric without a series is omitted.
///
/// # Errors
/// Those of `page`.
pub fn write(view: &View, extent: Extent, page: &mut impl Write) -> io::Result<()> {
    // The encoder writes a few bytes at a time, and to compress these alone would take several times as long.
    let mut page = BufWriter::new(page);
    // One at a time: to allocate and free thousands of series at once is expensive.
    let mut family = Family::new(extent.histograms);
    for metric in TABLE {
        if extent.without_exporter && is_about_exporter(metric.name) {
            continue;
        }
        let Some(encoded) = family.collect(metric, view) else {
            continue;
        };
        // Apart from `page`, it fails only on an empty family or name, and neither occurs here.
        TextEncoder::new()
            .encode(slice::from_ref(encoded), &mut page)
            .map_err(io::Error::other)?;
    }
    page.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Ledger;
    use crate::listener::{Address, Listener, UnixName};
    use crate::sample::{Access, LimitSource, Namespace, Presence, Sample, Slow, Waiting, Watched};
    use std::collections::BTreeSet;
    use std::sync::Arc;
    use std::time::Duration;

    #[test]
    fn names_are_unique_and_follow_the_conventions() {
        let names: BTreeSet<_> = TABLE.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), TABLE.len());
        for metric in TABLE {
            assert_eq!(
                metric.name.ends_with("_total"),
                metric.kind == Kind::Counter,
                "{}",
                metric.name
            );
            assert!(!metric.help.is_empty() && !metric.when.is_empty());
        }
    }

    fn render(view: &View) -> String {
        let mut page = Vec::new();
        write(view, Extent::default(), &mut page).unwrap();
        String::from_utf8(page).unwrap()
    }

    #[test]
    fn any_name_gives_a_page_of_whole_lines() {
        let mut ledger = Ledger::new(Duration::from_millis(10), Duration::from_mins(1));
        let name = UnixName::Path(b"/a\n\"\\\xff".to_vec());
        let listener = Listener::discovered(Address::Unix(name));
        ledger.record(&Sample {
            listeners: vec![Watched {
                listener: Arc::new(listener),
                presence: Presence::Up,
                limit: crate::sample::LimitSource::Kernel,
                readings: Vec::new(),
                waiting: Waiting::default(),
            }],
            ..Sample::default()
        });
        let page = render(ledger.view());
        assert!(
            page.contains(r#"listen_queue_listener_up{listener="unix:/a\\x0a\"\\x5c\\xff"} 1"#)
        );
        for line in page.lines() {
            assert!(
                line.starts_with('#')
                    || line.starts_with("listen_queue_")
                    || line.starts_with("process_")
            );
        }
    }

    #[test]
    fn a_namespace_adds_its_labels_to_each_series_of_its_listeners_and_settings() {
        let mut ledger = Ledger::new(Duration::from_millis(10), Duration::from_mins(1));
        let listener = Listener::discovered(Address::parse("tcp::80").unwrap());
        let mut slow = Slow::default();
        slow.settings.somaxconn = Some(128);
        ledger.record(&Sample {
            namespace: Arc::new(Namespace {
                id: 7,
                labels: vec![("pod", "a\"b".to_owned())],
                access: Some(Access::Proc),
                ..Namespace::default()
            }),
            listeners: vec![Watched {
                listener: Arc::new(listener),
                presence: Presence::Up,
                limit: LimitSource::Kernel,
                readings: Vec::new(),
                waiting: Waiting::default(),
            }],
            slow: Some(slow),
            ..Sample::default()
        });
        let page = render(ledger.view());
        for line in page.lines().filter(|line| line.contains("tcp::80")) {
            assert!(line.contains(r#"pod="a\"b""#), "{line}");
        }
        for series in [
            r#"listen_queue_depth{listener="tcp::80",pod="a\"b"} 0"#,
            r#"listen_queue_somaxconn{pod="a\"b"} 128"#,
            r#"listen_queue_namespace_info{access="proc",pod="a\"b"} 1"#,
            "listen_queue_samples_total 0",
        ] {
            assert!(page.contains(series), "{series}");
        }
    }
}
