//! What goes wrong around the exporter: churn, crowds of sockets, directories that move, time that stops. Nothing is lost, and afterwards every
//! figure is exact.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::common::exporter::Exporter;
use crate::common::exposition::{Page, Queue};
use crate::common::namespace::Namespace;
use crate::common::program::directory;
use crate::common::socket::{
    Listener, connect, connect_abstract, connect_all, connect_tcp, knock_tcp, label,
};

const REPLACEMENTS: &str = "listen_queue_listener_replacements_total";
const DROPS: &str = "listen_queue_listener_drops_total";
const EPISODES: &str = "listen_queue_full_episodes_total";
const FULL: &str = "listen_queue_full_seconds_total";

/// Opens and closes as many listening sockets for this long, half of them unix and half TCP, 5,000 a second: each lives for 10 ms. Returns how
/// many there were.
fn churn(time: Duration) -> u32 {
    const AT_ONCE: u32 = 50;
    let start = Instant::now();
    let mut made = 0;
    while start.elapsed() < time {
        let open = |number: u32| {
            let name = format!("short-{}", made + number);
            if number.is_multiple_of(2) {
                Listener::abstract_unix(name.as_bytes(), 5)
            } else {
                Listener::tcp("127.0.0.1:0", 5)
            }
        };
        let _sockets: Vec<_> = (0..AT_ONCE).map(open).collect();
        made += AT_ONCE;
        let due = start + Duration::from_secs(1) * made / 5000;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    made
}

#[test]
fn beside_5000_sockets_a_second_that_come_and_go_the_figures_of_those_that_stay_are_exact() {
    let _namespace = Namespace::enter();
    let _listeners = [
        Listener::abstract_unix(b"app", 5),
        Listener::tcp("127.0.0.1:8000", 1),
    ];
    let _client = connect_abstract(b"app").unwrap();
    let _clients = [connect_tcp("127.0.0.1:8000"), connect_tcp("127.0.0.1:8000")];
    let exporter = Exporter::start(&[]);
    let names = ["unix:@app", "tcp:127.0.0.1:8000"];
    exporter.when("both", |page| page.listeners() == names.into());
    let check = |page: &Page| {
        assert_eq!(page.queue("unix:@app"), Queue::of(1, 5));
        assert_eq!(page.queue("tcp:127.0.0.1:8000"), Queue::of(2, 1));
        for name in names {
            assert_eq!(page.of(REPLACEMENTS, name), Some(0.0), "{name}");
        }
        assert_eq!(page.of(EPISODES, "tcp:127.0.0.1:8000"), Some(1.0));
    };
    let settled = || {
        exporter.when("only those that stay", |page| {
            page.listeners() == names.into()
        })
    };
    let run = || {
        std::thread::scope(|scope| {
            let churn = scope.spawn(|| churn(Duration::from_secs(4)));
            while !churn.is_finished() {
                check(&exporter.scrape());
            }
            churn.join().unwrap()
        })
    };
    let mut made = run();
    check(&settled());
    let (memory, files) = (resident(&exporter), open_files(&exporter));
    made += run();
    let page = settled();
    check(&page);
    // The machine may have been busy with others.
    assert!(made >= 10_000, "{made} sockets in 8 s");
    for source in ["unix_diag", "inet_diag", "netstat", "sysctl"] {
        let errors = page.labelled("listen_queue_source_errors_total", &[("source", source)]);
        assert_eq!(errors, Some(0.0), "{source}");
    }
    assert!(open_files(&exporter) <= files + 1);
    let grown = resident(&exporter).saturating_sub(memory);
    assert!(grown <= 1024, "{grown} kB more after as many again");
}

/// VmRSS in kB.
fn resident(exporter: &Exporter) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", exporter.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.unwrap().trim().strip_suffix(" kB");
    kilobytes.unwrap().parse().unwrap()
}

fn open_files(exporter: &Exporter) -> usize {
    let files = fs::read_dir(format!("/proc/{}/fd", exporter.id()));
    files.unwrap().count()
}

#[test]
fn each_of_ten_thousand_listeners_has_its_own_figures_and_those_not_watched_are_counted() {
    let _namespace = Namespace::enter();
    let (mut expected, mut sockets, mut clients) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..10_000_u32 {
        let (depth, backlog) = (u32::from(number.is_multiple_of(7)), number % 50);
        let argument = i32::try_from(backlog).unwrap();
        let (name, address) = (
            format!("app-{number}"),
            format!("127.0.0.1:{}", 10_000 + number),
        );
        if number.is_multiple_of(2) {
            sockets.push(Listener::abstract_unix(name.as_bytes(), argument));
            clients.extend((0..depth).map(|_| connect_abstract(name.as_bytes()).unwrap()));
            expected.push((format!("unix:@{name}"), Queue::of(depth, backlog)));
        } else {
            sockets.push(Listener::tcp(&address, argument));
            clients.extend((0..depth).map(|_| connect_tcp(&address)));
            expected.push((format!("tcp:{address}"), Queue::of(depth, backlog)));
        }
    }
    let ignored = |count: f64| {
        move |page: &Page| page.get("listen_queue_discovery_ignored_listeners") == Some(count)
    };
    let exporter = Exporter::start(&[]);
    let page = exporter.when("the default limit", ignored(10_000.0 - 256.0));
    assert_eq!(page.listeners().len(), 256);
    drop(exporter);

    let exporter = Exporter::start(&[
        "--discover.limit",
        "10000",
        "--web.disable-histogram-buckets",
    ]);
    let page = exporter.when("all of them", |page| page.listeners().len() == 10_000);
    assert!(ignored(0.0)(&page));
    for (name, queue) in &expected {
        assert_eq!(page.queue(name), *queue, "{name}");
        assert_eq!(page.of(REPLACEMENTS, name), Some(0.0), "{name}");
    }
    drop(sockets);
    exporter.when("none of them", |page| page.listeners().is_empty());
}

#[test]
fn a_unix_queue_of_60000_is_counted_to_the_last_connection() {
    let namespace = Namespace::enter();
    namespace.set_somaxconn(65_535);
    let long = Listener::abstract_unix(b"long", 59_999);
    let name = "unix:@long";
    let exporter = Exporter::start(&["--listener", name]);
    exporter.shows(name);
    // A client that disconnects leaves its connection in the queue.
    (0..60_000).for_each(|_| drop(connect_abstract(b"long").unwrap()));
    assert!(connect_abstract(b"long").is_err(), "it is full");
    let page = exporter.fresh();
    assert_eq!(page.queue(name), Queue::of(60_000, 59_999));
    assert!(page.of(FULL, name) > Some(0.0));
    check_drain(&exporter, &long, name);
}

#[test]
fn a_tcp_queue_of_60000_is_counted_to_the_last_connection_and_each_further_one_is_a_drop() {
    let namespace = Namespace::enter();
    namespace.set_somaxconn(65_535);
    let long = Listener::tcp("0.0.0.0:8000", 59_999);
    let name = "tcp:0.0.0.0:8000";
    let exporter = Exporter::start(&["--listener", name]);
    exporter.shows(name);
    // One address has too few ports.
    for address in 1..=6 {
        (0..10_000).for_each(|_| knock_tcp(&format!("127.0.0.{address}:8000")));
    }
    (0..7).for_each(|_| knock_tcp("127.0.0.7:8000"));
    let page = exporter.when("the queue and its drops", |page| {
        page.of("listen_queue_depth", name) == Some(60_000.0) && page.of(DROPS, name) == Some(7.0)
    });
    assert_eq!(page.queue(name), Queue::of(60_000, 59_999));
    check_drain(&exporter, &long, name);
    assert_eq!(exporter.fresh().of(DROPS, name), Some(7.0));
}

/// The way back from a queue of 60,000.
fn check_drain(exporter: &Exporter, long: &Listener, name: &str) {
    (0..59_000).for_each(|_| drop(long.accept().unwrap()));
    assert_eq!(exporter.fresh().queue(name), Queue::of(1000, 59_999));
    assert_eq!(long.accept_all().len(), 1000);
    let page = exporter.fresh();
    assert_eq!(page.queue(name), Queue::of(0, 59_999));
    assert_eq!(page.of(EPISODES, name), Some(1.0));
    assert_eq!(page.of(REPLACEMENTS, name), Some(0.0));
    let peak = page.of("listen_queue_depth_peak", name);
    assert_eq!(peak, Some(60_000.0));
}

/// Makes a queue of this depth full, with a backlog one below.
fn full(path: &Path, depth: usize) -> (Listener, Vec<OwnedFd>) {
    let backlog = i32::try_from(depth - 1).unwrap();
    let listener = Listener::unix(path, backlog);
    let clients = connect_all(path, depth);
    (listener, clients)
}

#[test]
fn a_directory_that_is_removed_takes_no_listener_with_it_and_its_successor_is_found() {
    let _namespace = Namespace::enter();
    let home = directory();
    let run = home.path().join("run");
    let path = run.join("g.sock");
    let name = label(&path);
    fs::create_dir(&run).unwrap();
    let (first, _clients) = full(&path, 3);
    let exporter = Exporter::start(&["--listener", &name]);
    assert_eq!(exporter.shows(&name).queue(&name), Queue::of(3, 2));
    fs::remove_dir_all(&run).unwrap();
    // It still listens, and is known by its name.
    let since = Instant::now();
    while since.elapsed() < Duration::from_millis(1500) {
        assert_eq!(exporter.fresh().queue(&name), Queue::of(3, 2));
    }
    drop(first);
    let page = exporter.when("no listener", |page| page.queue(&name).is_none());
    assert_eq!(page.of(EPISODES, &name), Some(1.0), "it goes on");
    let before = page.of(FULL, &name).unwrap();

    fs::create_dir(&run).unwrap();
    let (_second, _clients) = full(&path, 2);
    let page = exporter.when("the successor", |page| page.queue(&name) == Queue::of(2, 1));
    assert_eq!(page.of(REPLACEMENTS, &name), Some(1.0));
    assert_eq!(page.of(EPISODES, &name), Some(2.0));
    assert!(page.of(FULL, &name).unwrap() >= before);
}

#[test]
fn a_directory_that_becomes_unreadable_and_readable_again_changes_no_figure() {
    let _namespace = Namespace::enter();
    let home = directory();
    let run = home.path().join("run");
    fs::create_dir(&run).unwrap();
    let path = run.join("g.sock");
    std::os::unix::fs::symlink("g.sock", run.join("link.sock")).unwrap();
    let (_listener, _clients) = full(&path, 3);
    let (bound, link) = (label(&path), label(run.join("link.sock")));
    let command = Exporter::command_as_nobody(
        home.path(),
        &["--listener", &bound, "--listener", &format!("link={link}")],
    );
    let exporter = Exporter::spawn(command);
    let both = |page: &Page| {
        let queues = [page.queue(&bound), page.queue("link")];
        queues == [Queue::of(3, 2); 2]
    };
    exporter.when("both names", both);
    let chmod = |mode| fs::set_permissions(&run, fs::Permissions::from_mode(mode)).unwrap();
    for _ in 0..2 {
        chmod(0o000);
        // Where a link leads cannot be known now. The bound name can.
        let page = exporter.when("the bound name alone", |page| page.queue("link").is_none());
        assert_eq!(page.queue(&bound), Queue::of(3, 2));
        exporter.logged(&["listener=link", "may not search"]);
        chmod(0o755);
        let page = exporter.when("both names again", both);
        for name in [&bound, "link"] {
            assert_eq!(page.of(REPLACEMENTS, name), Some(0.0), "{name}");
            assert!(page.of(FULL, name) > Some(0.0), "{name}");
        }
        assert_eq!(page.of(EPISODES, &bound), Some(1.0));
    }
}

#[test]
fn a_volume_whose_data_kubernetes_swaps_by_symlink_is_followed() {
    let _namespace = Namespace::enter();
    let home = directory();
    let root = home.path();
    let link = |to: &str, from: &str| std::os::unix::fs::symlink(to, root.join(from)).unwrap();
    let path = root.join("g.sock");
    let name = label(&path);
    fs::create_dir(root.join("..1")).unwrap();
    link("..1", "..data");
    link("..data/g.sock", "g.sock");
    let (_first, _clients) = full(&root.join("..1/g.sock"), 1);
    let exporter = Exporter::start(&["--listener", &name]);
    assert_eq!(exporter.shows(&name).queue(&name), Queue::of(1, 0));
    let mut servers = Vec::new();
    for turn in 2..=4_u32 {
        // As the kubelet does: a new directory, a new link beside the old one, a rename over it, and the old directory goes.
        let data = format!("..{turn}");
        fs::create_dir(root.join(&data)).unwrap();
        let depth = usize::try_from(turn).unwrap();
        servers.push(full(&root.join(&data).join("g.sock"), depth));
        link(&data, "..data_tmp");
        fs::rename(root.join("..data_tmp"), root.join("..data")).unwrap();
        fs::remove_dir_all(root.join(format!("..{}", turn - 1))).unwrap();
        let page = exporter.when("what the new data has", |page| {
            page.queue(&name) == Queue::of(turn, turn - 1)
        });
        let swaps = f64::from(turn - 1);
        assert_eq!(page.of(REPLACEMENTS, &name), Some(swaps));
        // The old one listens on, full, and is not counted.
        assert!(connect(&path).is_err());
        assert_eq!(page.listeners(), [name.as_str()].into());
    }
}

#[test]
fn with_proc_mounted_with_hidepid_nothing_is_missing_but_the_owners_of_sockets() {
    let namespace = Namespace::enter();
    let mut mounts = namespace.own_mounts();
    let home = directory();
    let path = home.path().join("g.sock");
    let name = label(&path);
    let (_listener, _clients) = full(&path, 3);
    let _tcp = Listener::tcp("127.0.0.1:8000", 0);
    let _client = connect_tcp("127.0.0.1:8000");
    (0..4).for_each(|_| knock_tcp("127.0.0.1:8000"));
    mounts.proc_without_others();
    let mut check = Exporter::as_nobody(home.path());
    let output = check.args(["check", "--for", "100ms"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    let shown = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(3), "{shown}");
    assert!(shown.contains("shareProcessNamespace: true"), "{shown}");
    let exporter = Exporter::spawn(Exporter::command_as_nobody(home.path(), &[]));
    let page = exporter.when("both", |page| page.listeners().len() == 2);
    assert_eq!(page.queue(&name), Queue::of(3, 2));
    assert_eq!(page.queue("tcp:127.0.0.1:8000"), Queue::of(1, 0));
    assert_eq!(page.of(DROPS, "tcp:127.0.0.1:8000"), Some(4.0));
    let page = exporter.when("the slow figures", |page| {
        page.get("listen_queue_tcp_listen_overflows_total") == Some(4.0)
    });
    assert!(page.get("listen_queue_somaxconn") > Some(0.0));
    assert!(page.get("process_resident_memory_bytes") > Some(0.0));
    for source in ["unix_diag", "inet_diag", "netstat", "sysctl"] {
        let of = |name| page.labelled(name, &[("source", source)]);
        assert_eq!(of("listen_queue_source_up"), Some(1.0), "{source}");
        assert_eq!(
            of("listen_queue_source_errors_total"),
            Some(0.0),
            "{source}"
        );
    }
}
