//! A listener through its life: not there yet, restarted, renamed, unlinked, replaced.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::common::exporter::Exporter;
use crate::common::exposition::{Page, Queue};
use crate::common::namespace::Namespace;
use crate::common::program::directory;
use crate::common::socket::{Listener, connect, connect_all, connect_tcp, label};

const REPLACEMENTS: &str = "listen_queue_listener_replacements_total";
const EPISODES: &str = "listen_queue_full_episodes_total";
const UP: &str = "listen_queue_listener_up";

/// A new listener under a path that another one has.
fn rebind(path: &Path, backlog: i32) -> Listener {
    std::fs::remove_file(path).unwrap();
    Listener::unix(path, backlog)
}

#[test]
fn started_before_the_listener_exists_it_waits_for_it() {
    let _namespace = Namespace::enter();
    let directory = directory();
    let path = directory.path().join("g.sock");
    let unix = label(&path);
    let exporter = Exporter::start(&["--listener", &unix, "--listener", "tcp:127.0.0.1:8000"]);
    let names = [unix.as_str(), "tcp:127.0.0.1:8000"];
    let page = exporter.fresh();
    assert_eq!(page.listeners(), names.into());
    for name in names {
        assert_eq!(page.of(UP, name), Some(0.0));
        assert_eq!(page.queue(name), None);
        // Missing is absent, never 0.
        for absent in [EPISODES, REPLACEMENTS, "listen_queue_depth_peak"] {
            assert_eq!(page.of(absent, name), None, "{absent}");
        }
        exporter.logged(&["msg=\"listener missing: waiting for it\"", name]);
    }
    let _unix = Listener::unix(&path, 5);
    let _tcp = Listener::tcp("127.0.0.1:8000", 6);
    let _clients = connect_all(&path, 2);
    assert_eq!(exporter.shows(names[0]).queue(names[0]), Queue::of(2, 5));
    let page = exporter.shows(names[1]);
    assert_eq!(page.queue(names[1]), Queue::of(0, 6));
    for name in names {
        // The first socket replaces none.
        assert_eq!(page.of(REPLACEMENTS, name), Some(0.0));
        exporter.logged(&["msg=\"listener found\"", name, "somaxconn=4096"]);
    }
}

#[test]
fn after_a_restart_the_path_is_the_new_socket_while_the_old_one_drains() {
    let _namespace = Namespace::enter();
    let directory = directory();
    let path = directory.path().join("g.sock");
    let old = Listener::unix(&path, 5);
    let _old_clients = connect_all(&path, 6);
    let name = label(&path);
    let configured = Exporter::start(&["--listener", &name]);
    // The other exporter has a port of its own.
    let discovering = Exporter::start(&["--discover.exclude", "^tcp:"]);
    for exporter in [&configured, &discovering] {
        assert_eq!(exporter.shows(&name).queue(&name), Queue::of(6, 5));
    }

    let _new = rebind(&path, 7);
    let _new_clients = connect_all(&path, 3);
    for exporter in [&configured, &discovering] {
        let page = exporter.when("the new socket", |page| {
            page.queue(&name) == Queue::of(3, 7)
        });
        assert_eq!(page.of(REPLACEMENTS, &name), Some(1.0));
        // What the old one added up goes on.
        assert_eq!(page.of(EPISODES, &name), Some(1.0));
        exporter.logged(&["listener replaced", &name]);
    }
    old.accept_all();
    drop(old);
    for exporter in [&configured, &discovering] {
        let page = exporter.fresh();
        assert_eq!(page.queue(&name), Queue::of(3, 7));
        assert_eq!(page.of(REPLACEMENTS, &name), Some(1.0));
    }
}

#[test]
fn a_socket_renamed_over_the_path_is_the_listener_from_then_on() {
    let _namespace = Namespace::enter();
    let directory = directory();
    let path = directory.path().join("g.sock");
    let _old = Listener::unix(&path, 5);
    let name = label(&path);
    let exporter = Exporter::start(&["--listener", &name]);
    assert_eq!(exporter.fresh().queue(&name), Queue::of(0, 5));

    let temporary = directory.path().join("g.sock.tmp");
    let _new = Listener::unix(&temporary, 7);
    std::fs::rename(&temporary, &path).unwrap();
    let _clients = connect_all(&path, 3);
    let page = exporter.when("the renamed socket", |page| {
        page.queue(&name) == Queue::of(3, 7)
    });
    assert_eq!(page.of(REPLACEMENTS, &name), Some(1.0));
}

#[test]
fn an_unlinked_listener_is_watched_by_its_name_until_it_closes() {
    let _namespace = Namespace::enter();
    let directory = directory();
    let path = directory.path().join("g.sock");
    let listener = Listener::unix(&path, 5);
    let _clients = connect_all(&path, 2);
    let name = label(&path);
    let exporter = Exporter::start(&["--listener", &name]);
    assert_eq!(exporter.fresh().queue(&name), Queue::of(2, 5));

    std::fs::remove_file(&path).unwrap();
    // Long enough for a listing after the removal.
    let seconds = Instant::now();
    while seconds.elapsed() < Duration::from_millis(1500) {
        assert_eq!(exporter.fresh().queue(&name), Queue::of(2, 5));
    }
    drop(listener);
    let page = exporter.when("no listener", |page| page.queue(&name).is_none());
    assert_eq!(page.of(UP, &name), Some(0.0));
    exporter.logged(&["listener missing", &name]);
}

#[test]
fn the_counters_of_a_listener_that_came_back_go_on() {
    let _namespace = Namespace::enter();
    let directory = directory();
    let path = directory.path().join("g.sock");
    let name = label(&path);
    let first = Listener::unix(&path, 1);
    let configured = Exporter::start(&["--listener", &name]);
    // The other exporter has a port of its own.
    let discovering = Exporter::start(&["--discover.exclude", "^tcp:"]);
    let exporters = [&configured, &discovering];
    for exporter in exporters {
        exporter.shows(&name);
    }
    let clients = connect_all(&path, 2);
    for exporter in exporters {
        assert_eq!(exporter.fresh().of(EPISODES, &name), Some(1.0));
    }
    drop((clients, first));

    let closed = configured.when("no listener", |page| page.queue(&name).is_none());
    assert_eq!(closed.of(UP, &name), Some(0.0));
    let removed = discovering.when("no listener", |page| page.queue(&name).is_none());
    assert!(
        removed
            .series
            .keys()
            .all(|(_, labels)| labels.get("listener") != Some(&name)),
        "a series of the vanished listener is left"
    );

    let _second = rebind(&path, 1);
    for exporter in exporters {
        let page = exporter.shows(&name);
        assert_eq!(page.queue(&name), Queue::of(0, 1));
        assert_eq!(page.of(EPISODES, &name), Some(1.0));
        assert_eq!(page.of(REPLACEMENTS, &name), Some(1.0));
    }
    let _clients = connect_all(&path, 2);
    for exporter in exporters {
        assert_eq!(exporter.fresh().of(EPISODES, &name), Some(2.0));
    }
}

#[test]
fn a_tcp_listener_that_came_back_keeps_the_drops_of_the_one_before() {
    let _namespace = Namespace::enter();
    let address = "127.0.0.1:8000";
    let name = "tcp:127.0.0.1:8000";
    let fill = |drops: usize| {
        let client = connect_tcp(address);
        (0..drops).for_each(|_| drop(connect_tcp(address)));
        client
    };
    let first = Listener::tcp(address, 0);
    let exporter = Exporter::start(&["--listener", name]);
    exporter.shows(name);
    let client = fill(4);
    let drops = |page: &Page| page.of("listen_queue_listener_drops_total", name);
    assert_eq!(drops(&exporter.fresh()), Some(4.0));
    drop((client, first));
    exporter.when("no listener", |page| page.queue(name).is_none());

    let _second = Listener::tcp(address, 0);
    exporter.shows(name);
    let _client = fill(3);
    assert_eq!(drops(&exporter.fresh()), Some(7.0));
}

#[test]
fn a_listener_replaced_every_50_ms_is_hardly_ever_missing_and_no_series_is_there_twice() {
    let _namespace = Namespace::enter_alone();
    let directory = directory();
    let path = directory.path().join("g.sock");
    let name = label(&path);
    let mut listener = Listener::unix(&path, 5);
    let configured = Exporter::start(&["--listener", &name]);
    // The other exporter has a port of its own.
    let discovering = Exporter::start(&["--discover.exclude", "^tcp:"]);
    for exporter in [&configured, &discovering] {
        exporter.shows(&name);
    }

    let done = AtomicBool::new(false);
    let (made, (scrapes, gaps)) = std::thread::scope(|scope| {
        let scrape = scope.spawn(|| {
            let only = BTreeSet::from([name.as_str()]);
            let (mut scrapes, mut gaps) = (0, 0);
            while !done.load(Ordering::Relaxed) {
                // Reading a page fails on a series that is there twice.
                let page = configured.scrape();
                assert_eq!(page.listeners(), only);
                gaps += u32::from(page.queue(&name) != Queue::of(0, 5));
                assert!(discovering.scrape().listeners().is_subset(&only));
                scrapes += 1;
                std::thread::sleep(Duration::from_millis(20));
            }
            (scrapes, gaps)
        });
        let start = Instant::now();
        let mut made = 0_u32;
        while start.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(50));
            let new = rebind(&path, 5);
            drop(std::mem::replace(&mut listener, new));
            made += 1;
        }
        done.store(true, Ordering::Relaxed);
        (made, scrape.join().unwrap())
    });
    assert!(scrapes >= 100, "{scrapes} scrapes in 10 s");
    // A listing between bind(2) and listen(2), or between the old socket and the new file, finds no listener; the next is 50 ms later.
    assert!(
        gaps * 4 <= scrapes,
        "{gaps} of {scrapes} scrapes without it"
    );
    let _client = connect(&path).unwrap();
    for exporter in [&configured, &discovering] {
        let page = exporter.when("the last listener", |page| {
            page.queue(&name) == Queue::of(1, 5)
        });
        let counted = page.of(REPLACEMENTS, &name).unwrap();
        // None is counted twice. One may be missed when the machine lets the sampler wait for 50 ms.
        assert!(
            counted <= f64::from(made) && counted >= f64::from(made) * 0.9,
            "{counted} of {made} replacements counted"
        );
    }
}
