//! One exporter for every network namespace of a machine.

use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::common::exporter::Exporter;
use crate::common::exposition::Page;
use crate::common::namespace::Namespace;
use crate::common::pods::{self, Machine};
use crate::common::program::{self, directory};
use crate::common::wait;

/// The uid of a pod.
fn uid(number: u32) -> String {
    format!("00000000-0000-4000-8000-{number:012}")
}

/// Its control group, as the kubelet's cgroupfs driver makes it.
fn cgroup(number: u32) -> String {
    format!("kubepods/burstable/pod{}/{number:064x}", uid(number))
}

/// The directory of the logs of pods `0..count`.
fn pod_logs(count: u32) -> tempfile::TempDir {
    let logs = directory();
    for number in 0..count {
        let name = format!("shop_web-{number}_{}", uid(number));
        std::fs::create_dir(logs.path().join(name)).unwrap();
    }
    logs
}

/// The exporter on a machine with these pods.
fn watch(machine: &Machine, logs: &tempfile::TempDir, more: &[&str]) -> Exporter {
    let logs = logs.path().to_str().unwrap();
    let arguments = [&["--node", "--path.pod-logs", logs], more].concat();
    Exporter::spawn(machine.exporter(&arguments))
}

/// A series of a listener of one of these pods.
fn of(page: &Page, name: &str, number: u32, listener: &str) -> Option<f64> {
    let (pod, cgroup) = (format!("web-{number}"), format!("/{}", cgroup(number)));
    let labels = [
        ("listener", listener),
        ("namespace", "shop"),
        ("pod", &pod),
        ("cgroup", &cgroup),
    ];
    page.labelled(&format!("listen_queue_{name}"), &labels)
}

/// A series of the network namespace of one of these pods.
fn of_pod(page: &Page, name: &str, number: u32) -> Option<f64> {
    let (pod, cgroup) = (format!("web-{number}"), format!("/{}", cgroup(number)));
    let labels = [("namespace", "shop"), ("pod", &pod), ("cgroup", &cgroup)];
    page.labelled(&format!("listen_queue_{name}"), &labels)
}

/// Network namespaces that are read in a way.
fn watched(page: &Page, access: &str) -> usize {
    let is_it = |labels: &std::collections::BTreeMap<String, String>| {
        labels.get("access").is_some_and(|of| of == access)
    };
    let series = page.series.keys();
    series
        .filter(|(name, labels)| name == "listen_queue_namespace_info" && is_it(labels))
        .count()
}

#[test]
fn a_hundred_pods_have_their_own_figures_and_labels() {
    let _namespace = Namespace::enter();
    let logs = pod_logs(101);
    let mut machine = Machine::start();
    let backlog = |number: u32| number % 7;
    let unix = |number: u32| number % (backlog(number) + 2);
    let tcp = |number: u32| number % 3;
    let pod = |number: u32| {
        json!({
            "pod": number.to_string(), "cgroup": cgroup(number), "somaxconn": 100 + number,
            "unix": [["@app", backlog(number), unix(number)]],
            "tcp": [[8000, 5, tcp(number)], [8001, 5, 0]],
        })
    };
    for number in 0..100 {
        machine.order(&pod(number));
    }
    machine.order(&json!({"stop": "7"}));
    let exporter = watch(&machine, &logs, &[]);
    // And the first process with the exporter.
    wait::until_true("101 namespaces", || {
        watched(&exporter.fresh(), "sock_diag") == 101
    });
    // Each has been listed.
    wait::until_true("all settings", || {
        let page = exporter.fresh();
        (0..100).all(|number| of_pod(&page, "somaxconn", number) == Some(f64::from(100 + number)))
    });
    let page = exporter.fresh();
    let mut idle = 1;
    for number in 0..100 {
        let whole = |listener: &str, depth: u32, backlog: u32| {
            let figures = ["listener_up", "depth", "backlog", "capacity", "depth_peak"]
                .map(|name| of(&page, name, number, listener));
            let expected = [1, depth, backlog, backlog + 1, depth].map(|n| Some(f64::from(n)));
            let expected = if depth == 0 { [None; 5] } else { expected };
            assert_eq!(figures, expected, "{listener} of {number}");
        };
        whole("unix:@app", unix(number), backlog(number));
        whole("tcp:127.0.0.1:8000", tcp(number), 5);
        whole("tcp:127.0.0.1:8001", 0, 5);
        let full = of(&page, "full_episodes_total", number, "unix:@app");
        let is_full = unix(number) > backlog(number);
        let expected = (unix(number) > 0).then_some(f64::from(u32::from(is_full)));
        assert_eq!(full, expected, "{number}");
        idle += [unix(number), tcp(number), 0]
            .iter()
            .filter(|depth| **depth == 0)
            .count();
    }
    #[expect(clippy::cast_precision_loss, reason = "a few hundred")]
    let idle = idle as f64;
    // The exporter's own listener is left out.
    assert_eq!(page.get("listen_queue_idle_listeners"), Some(idle - 1.0));
    assert_eq!(page.get("listen_queue_node_ignored_namespaces"), Some(0.0));

    // A listener that starts to queue has its rounds from the start.
    let rounds = page.get("listen_queue_samples_total").unwrap();
    machine.order(&json!({"connect": "14"}));
    wait::until_true("the queue of pod 14", || {
        of(&exporter.fresh(), "depth", 14, "unix:@app") == Some(1.0)
    });
    let observed = of(
        &exporter.fresh(),
        "utilization_ratio_count",
        14,
        "unix:@app",
    );
    assert!(observed > Some(rounds / 2.0), "{observed:?} of {rounds}");
    machine.order(&json!({"accept": "14"}));
    wait::until_true("the empty queue of pod 14", || {
        of(&exporter.fresh(), "depth", 14, "unix:@app") == Some(0.0)
    });

    // Pods come and go.
    machine.order(&pod(100));
    machine.order(&json!({"end": "8"}));
    machine.order(&json!({"end": "7"}));
    wait::until_true("the new pod, and not the old", || {
        let page = exporter.fresh();
        of_pod(&page, "somaxconn", 100) == Some(200.0)
            && of_pod(&page, "somaxconn", 8).is_none()
            && of_pod(&page, "somaxconn", 7).is_none()
    });
    let page = exporter.fresh();
    assert_eq!(watched(&page, "sock_diag"), 100);
    assert!(
        page.series
            .keys()
            .all(|(_, labels)| labels.get("pod").is_none_or(|pod| pod != "web-8"))
    );
    let log = exporter.log();
    assert!(
        !log.contains("source failed") && !log.contains("read only in part"),
        "{log}"
    );
}

#[test]
fn without_a_capability_depths_are_shown_and_unknown_figures_are_absent() {
    let _namespace = Namespace::enter();
    let (home, logs) = (directory(), pod_logs(20));
    // As the kubelet makes it.
    let mode = std::fs::Permissions::from_mode(0o750);
    std::fs::set_permissions(logs.path(), mode).unwrap();
    let mut machine = Machine::start();
    for number in 0..20 {
        machine.order(&json!({
            "pod": number.to_string(), "cgroup": cgroup(number),
            "unix": [["@app", 50, number + 1]], "tcp": [[8000, 50, number + 2]],
        }));
    }
    let logs_path = logs.path().to_str().unwrap();
    let arguments = ["--node", "--path.pod-logs", logs_path];
    let exporter = Exporter::spawn(machine.exporter_as_nobody(home.path(), &arguments));
    wait::until_true("20 namespaces, and the own one", || {
        let page = exporter.fresh();
        watched(&page, "proc") == 20 && watched(&page, "sock_diag") == 1
    });
    wait::until_true("each depth", || {
        let page = exporter.fresh();
        (0..20).all(|number| {
            let depth = |listener| of(&page, "depth", number, listener);
            depth("unix:@app") == Some(f64::from(number + 1))
                && depth("tcp:127.0.0.1:8000") == Some(f64::from(number + 2))
        })
    });
    let page = exporter.fresh();
    for number in 0..20 {
        for name in ["backlog", "capacity", "full_seconds_total"] {
            assert_eq!(of(&page, name, number, "unix:@app"), None, "{name}");
        }
        assert_eq!(
            of(&page, "abandoned_connections", number, "unix:@app"),
            Some(0.0)
        );
        assert_eq!(of_pod(&page, "somaxconn", number), None);
        assert_eq!(
            of_pod(&page, "tcp_listen_overflows_total", number),
            Some(0.0)
        );
    }
    let up = |source| page.labelled("listen_queue_source_up", &[("source", source)]);
    assert_eq!(
        (up("proc_net_unix"), up("proc_net_tcp")),
        (Some(1.0), Some(1.0))
    );
    exporter.logged(&[
        "read only in part",
        "cannot enter network namespaces",
        "CAP_SYS_PTRACE",
    ]);
    assert_eq!(exporter.log().matches("read only in part").count(), 1);

    // A process that ends while others are in its namespace.
    machine.order(&json!({"pod": "two", "unix": [["@two", 5, 3]], "more": 1}));
    let depth = |page: &Page| {
        let series = page.series.iter();
        let mut depths = series.filter(|((name, labels), _)| {
            name == "listen_queue_depth" && labels.get("listener").is_some_and(|l| l == "unix:@two")
        });
        depths.next().map(|(_, depth)| *depth)
    };
    wait::until_true("a pod without a uid", || {
        depth(&exporter.fresh()) == Some(3.0)
    });
}

#[test]
fn where_files_are_scarce_the_page_is_served_and_what_is_watched_is_whole() {
    let _namespace = Namespace::enter();
    let mut machine = Machine::start();
    machine.order(&json!({"pod": "many", "unix": [["@app", 5, 1]], "more": 60, "busy": 1}));
    let exporter = Exporter::spawn(machine.exporter_with_files(288, &["--node"]));
    // 288 less 128, by eight.
    exporter.when("twenty namespaces of 62", |page| {
        watched(page, "sock_diag") == 20
            && page.get("listen_queue_node_ignored_namespaces") == Some(42.0)
    });
    exporter.logged(&["allows for 20 network namespaces", "LimitNOFILE="]);
    assert!(
        !exporter.log().contains("source failed"),
        "{}",
        exporter.log()
    );
    let id = pods::first_child(exporter.id());
    let files = std::fs::read_dir(format!("/proc/{id}/fd")).unwrap().count();
    assert!((20 * 8..=288 - 100).contains(&files), "{files}");
}

#[test]
fn a_thousand_pods_that_came_and_went_leave_nothing_open() {
    let _namespace = Namespace::enter();
    let mut machine = Machine::start();
    machine.order(&json!({"pod": "stays", "unix": [["@stays", 5, 1]]}));
    let exporter = Exporter::spawn(machine.exporter(&["--node"]));
    wait::until_true("both namespaces", || {
        watched(&exporter.fresh(), "sock_diag") == 2
    });
    let id = pods::first_child(exporter.id());
    let open = || {
        let files = std::fs::read_dir(format!("/proc/{id}/fd")).unwrap();
        let links = files.filter_map(|file| std::fs::read_link(file.ok()?.path()).ok());
        let names = links.map(|link| link.to_string_lossy().into_owned());
        names
            .filter(|name| name.starts_with("net:[") || name.contains("/net/"))
            .count()
    };
    let before = open();
    assert!(before > 0);
    machine.order(&json!({"pods": 1000}));
    wait::until_true("both namespaces and no other", || {
        watched(&exporter.fresh(), "sock_diag") == 2 && open() == before
    });
    let log = exporter.log();
    assert!(
        !log.contains("level=error") && !log.contains("source failed"),
        "{log}"
    );
}

#[test]
fn a_pod_that_ended_is_let_go_within_a_second() {
    let _namespace = Namespace::enter();
    let mut machine = Machine::start();
    let pod = machine.order(&json!({"pod": "one", "unix": [["@one", 5, 1]]}));
    let ip = program::command("ip");
    let ip = ip.get_program().to_str().unwrap();
    let pid = pod["pid"].to_string();
    let link = [
        ip, "link", "add", "lqpeer", "type", "veth", "peer", "name", "eth9", "netns", &pid,
    ];
    program::run(&mut machine.enter(&link));
    let is_there = || {
        let mut show = program::command("ip");
        show.args(["link", "show", "lqpeer"])
            .output()
            .unwrap()
            .status
            .success()
    };
    assert!(is_there());
    let exporter = Exporter::spawn(machine.exporter(&["--node"]));
    wait::until_true("both namespaces", || {
        watched(&exporter.fresh(), "sock_diag") == 2
    });
    // The other end of the pod's device disappears with its namespace, which ends when no process and no socket holds it any more.
    machine.order(&json!({"end": "one"}));
    let ended = Instant::now();
    wait::until_true("the end of the namespace", || !is_there());
    println!("let go after {:?}", ended.elapsed());
    wait::until_true("one namespace", || {
        watched(&exporter.fresh(), "sock_diag") == 1
    });
}

#[test]
fn a_process_whose_first_thread_has_ended_is_in_its_namespace_all_the_same() {
    let _namespace = Namespace::enter();
    let logs = pod_logs(1);
    let mut machine = Machine::start();
    machine.order(&json!({
        "pod": "0", "cgroup": cgroup(0), "unix": [["@app", 5, 2]], "leaderless": true,
    }));
    let exporter = watch(&machine, &logs, &[]);
    wait::until_true("its queue", || {
        let page = exporter.fresh();
        of(&page, "depth", 0, "unix:@app") == Some(2.0)
            && of(&page, "capacity", 0, "unix:@app") == Some(6.0)
    });
}

#[test]
fn a_namespace_that_lost_its_oldest_process_before_there_was_room_is_watched_by_another() {
    let _namespace = Namespace::enter();
    let logs = pod_logs(2);
    let mut machine = Machine::start();
    machine.order(&json!({"pod": "0", "cgroup": cgroup(0), "unix": [["@app", 5, 1]]}));
    machine.order(&json!({
        "pod": "1", "cgroup": cgroup(1), "unix": [["@app", 5, 2]], "heir": true,
    }));
    // Beside the namespace of the first process, there is room for one.
    let exporter = watch(&machine, &logs, &["--node.limit", "2"]);
    exporter.when("a namespace too many", |page| {
        page.get("listen_queue_node_ignored_namespaces") == Some(1.0)
            && of(page, "depth", 0, "unix:@app") == Some(1.0)
    });
    machine.order(&json!({"bereave": "1"}));
    machine.order(&json!({"end": "0"}));
    exporter.when("the other pod", |page| {
        page.get("listen_queue_node_ignored_namespaces") == Some(0.0)
            && of(page, "depth", 1, "unix:@app") == Some(2.0)
    });
}

#[test]
fn a_pod_that_was_found_through_a_visitor_gets_its_own_labels() {
    let _namespace = Namespace::enter();
    let logs = pod_logs(2);
    let mut machine = Machine::start();
    machine.order(&json!({"pod": "agent", "cgroup": cgroup(0)}));
    machine.order(&json!({"pod": "1", "cgroup": cgroup(1), "unix": [["@app", 5, 3]]}));
    machine.order(&json!({"visit": "agent", "of": "1"}));
    let exporter = watch(&machine, &logs, &[]);
    exporter.when("the pod, by its oldest process", |page| {
        of(page, "depth", 0, "unix:@app") == Some(3.0)
    });
    machine.order(&json!({"return": "agent"}));
    exporter.when("the pod, by its own", |page| {
        of(page, "depth", 1, "unix:@app") == Some(3.0)
            && of(page, "depth", 0, "unix:@app").is_none()
            && watched(page, "sock_diag") == 3
    });
}

#[test]
fn a_pod_whose_logs_come_later_gets_its_name() {
    let _namespace = Namespace::enter();
    let logs = pod_logs(0);
    let mut machine = Machine::start();
    machine.order(&json!({"pod": "0", "cgroup": cgroup(0), "unix": [["@app", 5, 3]]}));
    let exporter = watch(&machine, &logs, &[]);
    let labels = [("pod", ""), ("listener", "unix:@app")];
    let nameless = |page: &Page| {
        let (cgroup, mut labels) = (format!("/{}", cgroup(0)), labels.to_vec());
        labels.extend([("namespace", ""), ("cgroup", &cgroup)]);
        page.labelled("listen_queue_depth", &labels)
    };
    exporter.when("the pod without a name", |page| nameless(page) == Some(3.0));
    std::fs::create_dir(logs.path().join(format!("shop_web-0_{}", uid(0)))).unwrap();
    exporter.when("its name", |page| {
        of(page, "depth", 0, "unix:@app") == Some(3.0) && nameless(page).is_none()
    });
}

#[test]
fn processes_that_end_all_the_time_cause_no_search_of_all() {
    let _namespace = Namespace::enter();
    let mut machine = Machine::start();
    machine.order(&json!({"idle": 1000}));
    let exporter = Exporter::spawn(machine.exporter(&["--node"]));
    exporter.when("the first namespace", |page| {
        watched(page, "sock_diag") == 1
    });
    let id = pods::first_child(exporter.id());
    let mut threads = std::fs::read_dir(format!("/proc/{id}/task")).unwrap();
    let finder = threads.find_map(|thread| {
        let thread = thread.unwrap().path();
        let name = std::fs::read_to_string(thread.join("comm")).unwrap();
        (name == "namespaces\n").then_some(thread)
    });
    let finder = finder.expect("a thread finds namespaces").join("schedstat");
    let nanoseconds = || -> u64 {
        let text = std::fs::read_to_string(&finder).unwrap();
        text.split(' ').next().unwrap().parse().unwrap()
    };
    let in_three_searches = || {
        let before = nanoseconds();
        std::thread::sleep(Duration::from_secs(12));
        nanoseconds() - before
    };
    let quiet = in_three_searches();
    machine.order(&json!({"relay": 16}));
    exporter.when("its queue", |page| {
        let mut names = page.series.iter();
        names.any(|((name, labels), depth)| {
            name == "listen_queue_depth"
                && labels.get("listener").is_some_and(|of| of == "unix:@relay")
                && *depth > 0.0
        })
    });
    let restless = in_three_searches();
    println!("{restless} ns after {quiet} ns");
    assert!(restless < 6 * quiet, "{restless} ns after {quiet} ns");
    assert!(!exporter.log().contains("listener removed"));
}

#[test]
fn a_hostile_pod_takes_nothing_from_the_others() {
    let _namespace = Namespace::enter();
    let logs = pod_logs(12);
    let mut machine = Machine::start();
    let mut names: Vec<_> = (0..10_000)
        .map(|n| json!([format!("@{n}\n\"}} 1"), 1, i32::from(n < 5000)]))
        .collect();
    names.insert(0, json!(["@app", 0, 1]));
    machine.order(&json!({"pod": "hostile", "cgroup": cgroup(0), "unix": names, "more": 1000}));
    for number in 1..11 {
        machine.order(&json!({
            "pod": number.to_string(), "cgroup": cgroup(number), "unix": [["@app", 20, number]],
        }));
    }
    let exporter = watch(&machine, &logs, &["--node.limit", "200"]);
    wait::until_true("each other pod", || {
        let page = exporter.fresh();
        (1..11).all(|number| of(&page, "depth", number, "unix:@app") == Some(f64::from(number)))
    });
    let page = exporter.fresh();
    assert_eq!(watched(&page, "sock_diag"), 200);
    // The hostile pod's, ten others and the first process' are 1012.
    assert_eq!(
        page.get("listen_queue_node_ignored_namespaces"),
        Some(812.0)
    );
    let ignored = page.get("listen_queue_discovery_ignored_listeners");
    assert_eq!(ignored, Some(10_001.0 - 256.0));
    // What comes next to another pod is seen while it goes on.
    machine.order(&json!({"pod": "11", "cgroup": cgroup(11), "unix": [["@app", 20, 4]]}));
    wait::until_true("the pod that came later", || {
        of(&exporter.fresh(), "depth", 11, "unix:@app") == Some(4.0)
    });
    machine.order(&json!({"connect": "11"}));
    wait::until_true("its fifth client", || {
        of(&exporter.fresh(), "depth", 11, "unix:@app") == Some(5.0)
    });
    let page = exporter.fresh();
    let rounds = |pod: &str| {
        let mut series = page.series.iter();
        let is_it = |name: &str| name == "listen_queue_utilization_ratio_count";
        let found = series.find(|((name, labels), _)| is_it(name) && labels["pod"] == pod);
        *found.unwrap().1
    };
    let (hostile, other) = (rounds("web-0"), rounds("web-1"));
    assert!(other > 2.0 * hostile, "{hostile} of {other}");
}

#[test]
fn a_pod_with_many_namespaces_has_the_listeners_of_one() {
    let _namespace = Namespace::enter();
    let logs = pod_logs(2);
    let mut machine = Machine::start();
    machine.order(&json!({"pod": "hostile", "cgroup": cgroup(0), "more": 40, "busy": 300}));
    machine.order(&json!({"pod": "1", "cgroup": cgroup(1), "unix": [["@app", 20, 3]]}));
    let exporter = watch(&machine, &logs, &[]);
    wait::until_true("the other pod, and all namespaces", || {
        let page = exporter.fresh();
        watched(&page, "sock_diag") == 43 && of(&page, "depth", 1, "unix:@app") == Some(3.0)
    });
    // What one of them has until others come is left to it; each has 6 in any case, which are 240.
    exporter.when("hardly more listeners than of one namespace", |page| {
        let is_hostile = |labels: &std::collections::BTreeMap<String, String>| {
            labels.get("pod").is_some_and(|pod| pod == "web-0")
        };
        let depths = page.series.keys();
        let depths = depths.filter(|(name, of)| name == "listen_queue_depth" && is_hostile(of));
        let count = u32::try_from(depths.count()).unwrap();
        (240..=256 + 240).contains(&count)
            && page.get("listen_queue_discovery_ignored_listeners")
                == Some(12_000.0 - f64::from(count))
    });
}

#[test]
fn one_check_of_the_machine() {
    let _namespace = Namespace::enter();
    let logs = pod_logs(3);
    let mut machine = Machine::start();
    for number in 0..3 {
        let clients = if number == 1 { 7 } else { 0 };
        machine.order(&json!({
            "pod": number.to_string(), "cgroup": cgroup(number), "unix": [["@app", 50, clients]],
            "somaxconn": 5 + number % 2,
        }));
    }
    let logs_path = logs.path().to_str().unwrap();
    let check = |machine: &Machine, more: &[&str]| {
        let mut command = machine.check(&["--node"]);
        command.env("LISTEN_QUEUE_EXPORTER_PATH_POD_LOGS", logs_path);
        let output = command.args(more).output().unwrap();
        (
            String::from_utf8(output.stdout).unwrap(),
            output.status.code(),
        )
    };
    let (table, code) = check(&machine, &[]);
    assert_eq!(code, Some(3), "{table}");
    let full: Vec<&str> = table
        .lines()
        .filter(|line| line.contains("in shop/web-1"))
        .collect();
    assert!(full.len() >= 2, "a row and a diagnosis: {table}");
    // The setting of that pod.
    assert!(table.contains("net.core.somaxconn, which is 6"), "{table}");
    assert!(
        !table.contains("web-0") && !table.contains("web-2"),
        "{table}"
    );
    let (all, _) = check(&machine, &["--node.idle"]);
    assert!(
        all.contains("in shop/web-0") && all.contains("in shop/web-2"),
        "{all}"
    );
    let (report, _) = check(&machine, &["--format", "json"]);
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    let listener = &report["listeners"][0];
    assert_eq!(listener["pod"], "web-1");
    assert_eq!(listener["namespace"], "shop");
    assert_eq!(
        (&listener["depth"], &listener["capacity"]),
        (&json!(7), &json!(7))
    );
    assert_eq!(report["idle_listeners"], 2);

    machine.order(&json!({"end": "1"}));
    let (idle, code) = check(&machine, &[]);
    assert_eq!(code, Some(0), "{idle}");
    assert!(
        idle.contains("No problem found: 0 listeners")
            && idle.contains("and 2 at which no connection"),
        "{idle}"
    );
    let (part, code) = check(&machine, &["--node.limit=1"]);
    assert_eq!(code, Some(4), "{part}");
    assert!(
        part.contains("--node.limit or the limit of open files leaves out 2 network namespaces"),
        "{part}"
    );
}

#[test]
fn a_log_that_does_not_identify_the_pod_is_refused_and_a_listener_is_searched_everywhere() {
    let _namespace = Namespace::enter();
    let mut machine = Machine::start();
    for name in ["a", "b", "c"] {
        let unix = if name == "c" { "@other" } else { "@app" };
        machine.order(&json!({"pod": name, "unix": [[unix, 5, 2]]}));
    }
    let mut refused = Exporter::command(&["--node", "--nginx.syslog", "udp:127.0.0.1:5140"]);
    let output = refused.output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(
        error.contains("--nginx.syslog") && error.contains("not its pod"),
        "{error}"
    );

    let arguments = [
        "--node",
        "--listener",
        "app=unix:@app,backlog=5",
        "--listener",
        "none=tcp::9",
    ];
    let exporter = Exporter::spawn(machine.exporter(&arguments));
    let found = |page: &Page| {
        let series = page
            .series
            .iter()
            .filter(|((name, _), _)| name == "listen_queue_depth");
        let depths = series.map(|((_, labels), depth)| (labels["listener"].clone(), *depth));
        depths.collect::<Vec<_>>()
    };
    let expected = [("app".to_owned(), 2.0), ("app".to_owned(), 2.0)];
    wait::until_true("two of three", || found(&exporter.fresh()) == expected);
    assert!(!exporter.log().contains("none"), "{}", exporter.log());
}
