//! One table names every metric; the page is rendered from it and a view of the ledger, with no state of its own.
//!
//! `prometheus` serves as the encoder only: families are made anew at each scrape, so a vanished listener leaves nothing behind.

mod family;
mod table;

use std::slice;

use prometheus::TextEncoder;

pub use family::{Family, Kind, Metric};
pub use table::TABLE;

use crate::ledger::View;

/// About what the page takes without listeners, and for each.
const PAGE: usize = 16 * 1024;
const LISTENER: usize = 2560;

/// The text exposition format 0.0.4 of everything that is known. A metric without a series is left out.
#[must_use]
pub fn render(view: &View) -> String {
    let mut page = String::with_capacity(PAGE + LISTENER * view.listeners.len());
    // One at a time: thousands of series at once are dear to allocate and to free.
    let mut family = Family::default();
    for metric in TABLE {
        let Some(encoded) = family.collect(metric, view) else {
            continue;
        };
        // It fails on an empty family or name only, and neither gets here.
        if let Err(error) = TextEncoder::new().encode_utf8(slice::from_ref(encoded), &mut page) {
            tracing::error!(%error, "cannot write the metrics");
        }
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Ledger;
    use crate::listener::{Address, Listener, UnixName};
    use crate::sample::{Presence, Sample, Waiting, Watched};
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

    #[test]
    fn any_name_gives_a_page_of_whole_lines() {
        let mut ledger = Ledger::new(Duration::from_millis(10), Duration::from_mins(1));
        let name = UnixName::Path(b"/a\n\"\\\xff".to_vec());
        let listener = Listener::discovered(Address::Unix(name));
        ledger.book(&Sample {
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
}
