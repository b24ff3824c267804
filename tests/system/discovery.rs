//! Which of the listeners that are found are watched.

use std::collections::BTreeSet;
use std::fs;

use crate::common::exporter::Exporter;
use crate::common::namespace::Namespace;
use crate::common::socket::Listener;

const EXCLUDED: &str = "listen_queue_discovery_excluded_listeners";
const IGNORED: &str = "listen_queue_discovery_ignored_listeners";

/// Three that the default leaves out, and three that it keeps.
fn six() -> Vec<Listener> {
    [
        "listener-4021-0",
        "/containerd-shim/moby/4f/shim.sock",
        "app",
    ]
    .map(|name| Listener::abstract_unix(name.as_bytes(), 5))
    .into_iter()
    .chain(["127.0.0.1:40001", "127.0.0.1:50051", "0.0.0.0:40002"].map(|at| Listener::tcp(at, 5)))
    .collect()
}

#[track_caller]
fn watches(arguments: &[&str], expected: &[&str], excluded: f64, ignored: f64) {
    let page = Exporter::start(arguments).scrape();
    let expected: BTreeSet<&str> = expected.iter().copied().collect();
    assert_eq!(page.listeners(), expected, "{arguments:?}");
    assert_eq!(page.get(EXCLUDED), Some(excluded), "{arguments:?}");
    assert_eq!(page.get(IGNORED), Some(ignored), "{arguments:?}");
}

#[test]
fn what_is_watched_is_what_the_filter_takes_and_the_rest_is_counted() {
    let _namespace = Namespace::enter();
    let _six = six();
    let kept = ["tcp:0.0.0.0:40002", "tcp:127.0.0.1:50051", "unix:@app"];
    let churning = [
        "tcp:127.0.0.1:40001",
        "unix:@/containerd-shim/moby/4f/shim.sock",
        "unix:@listener-4021-0",
    ];
    watches(&[], &kept, 3.0, 0.0);
    watches(&["--discover.limit", "1"], &kept[2..], 3.0, 2.0);
    let all = [kept, churning].concat();
    watches(&["--discover.exclude", ""], &all, 0.0, 0.0);
    watches(
        &["--discover.exclude", "app"],
        &[&kept[..2], &churning].concat(),
        1.0,
        0.0,
    );
    // To include is to be asked for: the default does not apply.
    watches(
        &["--discover.include", "^tcp:127"],
        &[kept[1], churning[0]],
        4.0,
        0.0,
    );
    let both = [
        "--discover.include",
        "^tcp:127",
        "--discover.exclude",
        "50051",
    ];
    watches(&both, &churning[..1], 5.0, 0.0);
    watches(&["--listener", churning[0]], &churning[..1], 0.0, 0.0);
}

#[test]
fn a_listener_has_as_many_series_as_the_documentation_says() {
    let root = env!("CARGO_MANIFEST_DIR");
    let read = |page: &str| fs::read_to_string(format!("{root}/{page}")).unwrap();
    // As the page and the flag say, no alert is lost with the buckets.
    assert!(!read("deploy/prometheus/rules.yaml").contains("_bucket"));
    let (page, readme) = (read("docs/scraping.md"), read("README.md"));
    let _namespace = Namespace::enter();
    let _unix = Listener::abstract_unix(b"app", 5);
    let _tcp = Listener::tcp("0.0.0.0:8000", 5);
    let counts = |arguments: &[&str]| {
        let exporter = Exporter::start(arguments);
        let page = exporter.shows("unix:@app");
        [None, Some("unix:@app"), Some("tcp:0.0.0.0:8000")].map(|listener| page.count(listener))
    };
    let [own, unix, tcp] = counts(&[]);
    let few = counts(&["--web.disable-histogram-buckets"]);
    for (what, whole, few) in [
        ("the exporter and its network namespace", own, few[0]),
        ("each unix listener", unix, few[1]),
        ("each TCP listener", tcp, few[2]),
    ] {
        let row = format!("| {what} | {whole} | {few} |");
        assert!(page.contains(&row), "{row}");
    }
    let sum = format!("has about {} series", own + unix + tcp);
    assert!(page.contains(&sum), "{sum}");
    let row =
        format!("| {unix} for a unix listener, {tcp} for a TCP listener, {own} for the exporter;");
    assert!(readme.contains(&row), "{row}");
}
