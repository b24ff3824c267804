//! The cases: what happens, and which alerts fire. It happens after `START` seconds.

use super::case::{Case, always, born, from, listener};

const REFUSED: &str = "ListenQueueConnectionsRefused";
const OVERFLOW: &str = "ListenQueueTcpOverflow";
const MANY: &str = "ListenQueueManyPodsRefuse";
const STUCK: &str = "ListenQueueNotMoving";
const FULL: &str = "ListenQueueFull";
const UNATTRIBUTED: &str = "ListenQueueOverflowUnattributed";
const MAY_BE_FULL: &str = "ListenQueueMayBeFull";
const NEARLY: &str = "ListenQueueNearlyFull";
const SLOW: &str = "ListenQueueSlow";
const BELOW: &str = "ListenQueueLimitBelowRequested";
const MISSING: &str = "ListenQueueListenerMissing";
const FLAPPING: &str = "ListenQueueListenerFlapping";
const LIMITED: &str = "ListenQueueDiscoveryLimited";
const DEGRADED: &str = "ListenQueueExporterDegraded";
const BLIND: &str = "ListenQueueExporterBlind";

const START: u32 = 330;

fn case(name: &'static str) -> Case {
    Case::new(name).exporter("", 0)
}

fn unix(name: &'static str) -> Case {
    case(name).listener("unix", 128)
}

/// A series with a value for so many seconds, and another before and after.
fn during(seconds: u32, value: f64, otherwise: f64) -> impl Fn(u32) -> Option<f64> {
    move |at| {
        let is_during = (START..START + seconds).contains(&at);
        Some(if is_during { value } else { otherwise })
    }
}

fn refused(source: &str) -> String {
    listener("refused_connects_total", &format!("source=\"{source}\""))
}

fn full() -> String {
    listener("full_seconds_total", "")
}

/// A series with a value for the time that a connection has waited, and 0 before and after.
fn waiting(value: fn(u32) -> f64) -> impl Fn(u32) -> Option<f64> {
    move |at| {
        let is_waiting = (START..START + 900).contains(&at);
        Some(if is_waiting { value(at - START) } else { 0.0 })
    }
}

/// Refusals, before which the listener was healthy for ten minutes.
fn of_refusals() -> Vec<Case> {
    vec![
        unix("two sources count refusals")
            .series(refused("nginx_log"), from(START, 37.0))
            .series(refused("ebpf"), from(START, 38.0))
            .series(full(), from(START, 0.4))
            .fires(START - 8, &[])
            .fires_soon(START, &[REFUSED])
            .fires(START + 600, &[]),
        unix("the scrape after the refusals is lost")
            .series(refused("ebpf"), from(START, 1.0))
            .series(full(), from(START, 0.4))
            .loses_a_scrape(START + 1)
            .fires_soon(START, &[REFUSED])
            .fires(START + 600, &[]),
        unix("a scrape is lost while the alert fires")
            .series(refused("ebpf"), from(START, 5.0))
            .series(full(), from(START, 20.0))
            .loses_a_scrape(START + 121)
            .fires_while_lost(&[REFUSED])
            .fires(START + 200, &[REFUSED])
            .fires(START + 600, &[]),
        Case::new("a scrape is lost after the first one of a pod showed refusals")
            .exporter("", START)
            .series(refused("ebpf"), born(START, 250.0))
            .series(full(), born(START, 2.0))
            .loses_a_scrape(START + 121)
            .fires_while_lost(&[REFUSED])
            .fires(START + 600, &[]),
        unix("a listener comes back after ten minutes, and its counters continue")
            .series(refused("ebpf"), |at| (!gone(at)).then_some(250.0))
            .series(full(), |at| (!gone(at)).then_some(30.0))
            .fires(START + 600, &[])
            .fires(START + 907, &[])
            .fires(START + 1100, &[]),
        unix("a listener comes back after ten minutes, and is refused at once")
            .series(refused("ebpf"), |at| (!gone(at)).then_some(if at < START { 250.0 } else { 253.0 }))
            .series(full(), |at| (!gone(at)).then_some(30.0))
            .fires(START + 870, &[])
            .fires_soon(START + 900, &[REFUSED])
            .fires(START + 1500, &[]),
        unix("refusals every three minutes")
            .series(refused("ebpf"), |at| Some(f64::from(at.saturating_sub(START - 180) / 180)))
            .series(full(), always(0.0))
            .fires(START - 8, &[])
            .fires(START + 190, &[REFUSED])
            .fires(START + 290, &[REFUSED])
            .fires(START + 410, &[REFUSED])
            .fires(START + 899, &[REFUSED]),
        Case::new("the first scrape of a pod shows refusals, and none follow")
            .exporter("", START)
            .series(refused("ebpf"), born(START, 250.0))
            .series(full(), born(START, 2.0))
            .series(listener("info", "family=\"unix\",address=\"x\",limit=\"kernel\""), born(START, 1.0))
            .fires(START - 8, &[])
            .fires_soon(START, &[REFUSED])
            .fires(START + 600, &[]),
        unix("the exporter restarts, and its counters with it")
            .series(refused("ebpf"), |at| Some(if at < START { 250.0 } else { 3.0 }))
            .series(full(), always(0.0))
            .fires(START - 8, &[])
            .fires_soon(START, &[REFUSED])
            .fires(START + 600, &[]),
        Case::new("Prometheus is away for an hour, and there are no new refusals")
            .series("up{instance=\"a\",job=\"j\"}", |at| away(at).then_some(1.0))
            .series("process_start_time_seconds{instance=\"a\",job=\"j\"}", |at| away(at).then_some(0.0))
            .series("listen_queue_exporter_build_info{instance=\"a\",job=\"j\"}", |at| away(at).then_some(1.0))
            .series(refused("ebpf"), |at| away(at).then_some(250.0))
            .series(full(), |at| away(at).then_some(9.0))
            .fires(START + 3700, &[])
            .fires(START + 3907, &[])
            .fires(START + 4200, &[]),
        Case::new("a pod is replaced by one that is refused at once")
            .exporter("", 0)
            .series(refused("ebpf"), |at| (at < START).then_some(9.0))
            .series("up{instance=\"b\",job=\"j\"}", born(START, 1.0))
            .series("process_start_time_seconds{instance=\"b\",job=\"j\"}", born(START, 590.0))
            .series(
                "listen_queue_refused_connects_total{listener=\"g\",instance=\"b\",job=\"j\",source=\"ebpf\"}",
                born(START, 5.0),
            )
            .fires(START - 8, &[])
            .fires_soon(START, &[REFUSED])
            .fires(START + 600, &[]),
        Case::new("two replicas of Prometheus")
            .exporter(",prometheus_replica=\"0\"", 0)
            .exporter(",prometheus_replica=\"1\"", 0)
            .series(refused("ebpf\",prometheus_replica=\"0"), from(START, 5.0))
            .series(refused("ebpf\",prometheus_replica=\"1"), from(START, 5.0))
            .fires(START - 8, &[])
            .fires_soon(START, &[REFUSED])
            .fires(START + 600, &[]),
        many_pods("twenty pods refuse at once", |_| 0, &[REFUSED, MANY]),
        many_pods("a pod each of twenty workloads", |pod| pod, &[REFUSED]),
    ]
}

/// Whether the listener is closed.
fn gone(at: u32) -> bool {
    (START..START + 900).contains(&at)
}

/// Whether a scrape is made: not for an hour.
fn away(at: u32) -> bool {
    !(START..START + 3600).contains(&at)
}

fn many_pods(name: &'static str, workload: fn(u32) -> u32, alerts: &[&'static str]) -> Case {
    let mut case = Case::new(name);
    for pod in 0..20 {
        let workload = workload(pod);
        let labels = format!(
            "instance=\"{pod}\",job=\"j\",namespace=\"shop\",pod=\"web-{pod}\",workload=\"w-{workload}\""
        );
        case = case.series(
            format!(
                "listen_queue_refused_connects_total{{listener=\"g\",source=\"ebpf\",{labels}}}"
            ),
            from(START, 7.0),
        );
    }
    case.fires(START - 8, &[])
        .fires_soon(START, alerts)
        .fires(START + 600, &[])
}

/// Full queues without a source of refused connects.
fn of_full_queues() -> Vec<Case> {
    vec![
        unix("a burst of two seconds without a source of refused connects")
            .series(full(), from(START, 2.0))
            .series(listener("depth_peak", ""), during(60, 129.0, 0.0))
            .fires(START - 8, &[])
            .fires_soon(START, &[FULL])
            .fires(START + 600, &[]),
        unix("full for twenty seconds without a source of refused connects")
            .series(full(), from(START, 20.0))
            .fires_soon(START, &[REFUSED])
            .fires(START + 600, &[]),
        case("a listener that was full at its first scrape, in a pod that was scraped before")
            .series(
                listener("info", "family=\"unix\",address=\"x\",limit=\"kernel\""),
                always(1.0),
            )
            .series(listener("listener_up", ""), born(START, 1.0))
            .series(listener("listener_sockets", ""), born(START, 1.0))
            .series(listener("backlog", ""), born(START, 128.0))
            .series(listener("capacity", ""), born(START, 129.0))
            .series(full(), born(START, 2.0))
            .fires(START - 8, &[])
            .fires_soon(START, &[FULL])
            .fires(START + 600, &[]),
        case("three ordinary clients of a listen(1) socket")
            .listener("unix", 1)
            .series(full(), from(START, 0.01))
            .series(listener("depth_peak", ""), from(START, 2.0))
            .fires_soon(START, &[])
            .fires(START + 500, &[]),
        case("a listen(1) socket that is full for long")
            .listener("unix", 1)
            .series(full(), from(START, 20.0))
            .fires_soon(START, &[FULL])
            .fires(START + 600, &[]),
        unix("the scrape after a burst is lost")
            .series(full(), from(START, 2.0))
            .loses_a_scrape(START + 1)
            .fires_soon(START, &[FULL])
            .fires(START + 600, &[]),
        unix("the exporter restarts, and its time full with it")
            .series(full(), |at| Some(if at < START { 9.0 } else { 1.0 }))
            .fires(START - 8, &[])
            .fires_soon(START, &[FULL])
            .fires(START + 600, &[]),
        unix("a burst every three minutes")
            .series(full(), |at| {
                Some(f64::from(at.saturating_sub(START - 180) / 180))
            })
            .fires(START + 190, &[FULL])
            .fires(START + 290, &[FULL])
            .fires(START + 899, &[FULL]),
        unix("overload: everything at once is one page")
            .series(refused("ebpf"), |at| {
                Some(f64::from(at.saturating_sub(START)))
            })
            .series(full(), |at| Some(f64::from(at.saturating_sub(START))))
            .series(listener("depth", ""), from(START, 129.0))
            .series(listener("depth_peak", ""), from(START, 129.0))
            .series(listener("oldest_wait_seconds", ""), from(START, 40.0))
            .series(listener("wait_seconds_count", ""), from(START, 0.0))
            .fires_soon(START, &[REFUSED])
            .fires(START + 600, &[REFUSED]),
        unix("new labels on the info metric")
            .series(
                listener(
                    "info",
                    "family=\"unix\",address=\"y\",limit=\"kernel\",new=\"label\"",
                ),
                always(1.0),
            )
            .series(full(), from(START, 20.0))
            .fires_soon(START, &[REFUSED])
            .fires(START + 600, &[]),
    ]
}

/// The labels of a pod that has a sidecar.
const POD: &str = ",namespace=\"n\",pod=\"p\"";
/// Those of a pod that one exporter for its node watches.
const POD_OF_NODE: &str = ",namespace=\"n\",pod=\"p\",cgroup=\"/c\"";

fn overflows() -> String {
    overflows_with("")
}

fn overflows_with(labels: &str) -> String {
    format!("listen_queue_tcp_listen_overflows_total{{instance=\"a\",job=\"j\"{labels}}}")
}

/// Overflows while scrapes are lost, counters restart and Prometheus is away.
fn of_overflows() -> Vec<Case> {
    let reset = |before, after| move |at| Some(if at < START { before } else { after });
    vec![
        case("the scrape after an overflow is lost")
            .listener("tcp", 128)
            .series(full(), from(START, 0.3))
            .series(overflows(), from(START, 40.0))
            .loses_a_scrape(START + 1)
            .fires_soon(START, &[OVERFLOW])
            .fires(START + 600, &[]),
        case("the node restarts, and the counters of overflows with it")
            .listener("tcp", 128)
            .series(full(), reset(9.0, 1.0))
            .series(overflows(), reset(40.0, 3.0))
            .fires(START - 8, &[])
            .fires_soon(START, &[OVERFLOW])
            .fires(START + 600, &[]),
        Case::new("the first scrape of a pod shows overflows, and none follow")
            .exporter(POD, START)
            .series(
                listener(
                    "info",
                    &format!("family=\"tcp\",address=\"x\",limit=\"kernel\"{POD}"),
                ),
                born(START, 1.0),
            )
            .series(listener("full_seconds_total", &POD[1..]), born(START, 0.3))
            .series(overflows_with(POD), born(START, 40.0))
            .fires(START - 8, &[])
            .fires_soon(START, &[OVERFLOW])
            .fires(START + 600, &[]),
        Case::new("the first scrape of a pod shows overflows of a listener that is not watched")
            .exporter(POD, START)
            .series(overflows_with(POD), born(START, 40.0))
            .fires_soon(START, &[UNATTRIBUTED])
            .fires(START + 600, &[]),
        Case::new("an exporter is installed on a host that had overflows once")
            .exporter("", START)
            .series(overflows(), born(START, 40.0))
            .fires(START + 60, &[])
            .fires(START + 600, &[]),
        case("overflows are read a scrape after the time full")
            .listener("tcp", 128)
            .series(full(), from(START - 60, 0.3))
            .series(overflows(), from(START, 40.0))
            .fires_soon(START, &[OVERFLOW])
            .fires(START + 260, &[])
            .fires(START + 290, &[])
            .fires(START + 600, &[]),
        Case::new("an exporter for a node starts, and an old pod had overflows once")
            .exporter("", START)
            .series(overflows_with(POD_OF_NODE), born(START, 40.0))
            .fires(START + 60, &[])
            .fires(START + 600, &[]),
        Case::new("an exporter for a node finds a new pod that has overflows")
            .exporter("", 0)
            .series(overflows_with(POD_OF_NODE), born(START, 40.0))
            .fires_soon(START, &[UNATTRIBUTED])
            .fires(START + 600, &[]),
        Case::new("Prometheus is away for an hour, and there are no new overflows")
            .series("up{instance=\"a\",job=\"j\"}", |at| away(at).then_some(1.0))
            .series(
                "process_start_time_seconds{instance=\"a\",job=\"j\"}",
                |at| away(at).then_some(0.0),
            )
            .series(
                "listen_queue_exporter_build_info{instance=\"a\",job=\"j\"}",
                |at| away(at).then_some(1.0),
            )
            .series(full(), |at| away(at).then_some(9.0))
            .series(overflows(), |at| away(at).then_some(40.0))
            .fires(START + 3700, &[])
            .fires(START + 3907, &[]),
    ]
}

fn of_overflows_and_peaks() -> Vec<Case> {
    vec![
        case("a TCP queue overflows")
            .listener("tcp", 128)
            .series(full(), from(START, 0.3))
            .series(
                "listen_queue_tcp_listen_overflows_total{instance=\"a\",job=\"j\"}",
                from(START, 40.0),
            )
            .fires(START - 8, &[])
            .fires_soon(START, &[OVERFLOW])
            .fires(START + 600, &[]),
        case("a TCP queue overflows that was not seen full")
            .listener("tcp", 128)
            .series(full(), always(0.0))
            .series(
                "listen_queue_tcp_listen_overflows_total{instance=\"a\",job=\"j\"}",
                from(START, 40.0),
            )
            .fires_soon(START, &[UNATTRIBUTED])
            .fires(START + 600, &[]),
        case("a TCP queue that was full, and nothing overflowed")
            .listener("tcp", 128)
            .series(full(), from(START, 0.3))
            .series(
                "listen_queue_tcp_listen_overflows_total{instance=\"a\",job=\"j\"}",
                always(7.0),
            )
            .fires_soon(START, &[FULL])
            .fires(START + 600, &[]),
        Case::new("the limit is unknown, and the peak is near what somaxconn allows")
            .exporter("", 0)
            .series(
                listener("info", "family=\"unix\",address=\"x\",limit=\"unknown\""),
                always(1.0),
            )
            .series(listener("listener_sockets", ""), always(1.0))
            .series(listener("depth_peak", ""), during(300, 100.0, 96.0))
            .fires(START - 8, &[])
            .fires_soon(START, &[MAY_BE_FULL])
            .fires(START + 600, &[]),
        unix("the limit was unknown for hours, and what was counted before is shown again")
            .series(full(), born(START, 100.0))
            .fires(START - 8, &[])
            .fires_soon(START, &[])
            .fires(START + 120, &[]),
        unix("the limit becomes known, and the queue is full from then on")
            .series(full(), |at| at.checked_sub(START).map(f64::from))
            .fires(START - 8, &[])
            .fires(START + 200, &[REFUSED]),
        Case::new("the limit is unknown, and two replicas of Prometheus")
            .exporter(",prometheus_replica=\"0\"", 0)
            .exporter(",prometheus_replica=\"1\"", 0)
            .series(
                listener(
                    "info",
                    "family=\"unix\",address=\"x\",limit=\"unknown\",prometheus_replica=\"0\"",
                ),
                always(1.0),
            )
            .series(
                listener("listener_sockets", "prometheus_replica=\"0\""),
                always(1.0),
            )
            .series(
                listener("depth_peak", "prometheus_replica=\"0\""),
                during(300, 100.0, 96.0),
            )
            .fires_soon(START, &[MAY_BE_FULL])
            .fires(START + 600, &[]),
        unix("nearly full, minute after minute")
            .series(listener("depth_peak", ""), during(600, 98.0, 96.0))
            .fires(START + 200, &[])
            .fires(START + 500, &[NEARLY])
            .fires(START + 900, &[]),
    ]
}

fn of_waits() -> Vec<Case> {
    vec![
        unix("no connection leaves the queue")
            .series(listener("depth", ""), during(900, 5.0, 0.0))
            .series(listener("oldest_wait_seconds", ""), |at| {
                Some(if (START..START + 900).contains(&at) {
                    f64::from(at - START)
                } else {
                    0.0
                })
            })
            .series(listener("wait_seconds_count", ""), from(START + 900, 5.0))
            .fires(START - 8, &[])
            .fires(START + 420, &[STUCK])
            .fires(START + 1300, &[]),
        unix("an overloaded queue moves")
            .series(listener("depth", ""), always(90.0))
            .series(listener("oldest_wait_seconds", ""), |at| {
                Some(if at < START + 900 { 45.0 } else { 0.1 })
            })
            .series(listener("wait_seconds_count", ""), |at| {
                Some(f64::from(at * 2))
            })
            .fires(START, &[SLOW])
            .fires(START + 1300, &[]),
        case("no connection leaves a TCP queue, and more come")
            .listener("tcp", 128)
            .series(
                listener("depth", ""),
                waiting(|since| f64::from(5 + since / 100)),
            )
            .series(listener("oldest_wait_seconds", ""), waiting(f64::from))
            .loses_a_scrape(START + 500)
            .fires(START - 8, &[])
            .fires(START + 420, &[STUCK])
            .fires_while_lost(&[STUCK])
            .fires(START + 1300, &[]),
        case("an overloaded TCP queue with as many clients all the time moves")
            .listener("tcp", 128)
            .series(listener("depth", ""), during(900, 5.0, 0.0))
            .series(listener("oldest_wait_seconds", ""), during(900, 60.0, 0.0))
            .fires(START + 420, &[SLOW])
            .fires(START + 1300, &[]),
        unix("connections whose waits are not counted leave the queue")
            .series(
                listener("depth", ""),
                waiting(|since| f64::from(120 - since / 10)),
            )
            .series(listener("oldest_wait_seconds", ""), waiting(f64::from))
            .series(listener("wait_seconds_count", ""), always(5.0))
            .fires(START + 420, &[SLOW])
            .fires(START + 1300, &[]),
        case("without sock_diag, the depth stays at its peak")
            .series(listener("listener_up", ""), always(1.0))
            .series(listener("depth", ""), during(1800, 5.0, 0.0))
            .series(listener("depth_peak", ""), during(1860, 5.0, 1.0))
            .fires(START + 700, &[])
            .fires(START + 1100, &[STUCK])
            .fires(START + 2100, &[]),
        case("without sock_diag, the depth is the same at each scrape, and higher in between")
            .series(listener("listener_up", ""), always(1.0))
            .series(listener("depth", ""), always(1.0))
            .series(listener("depth_peak", ""), always(3.0))
            .fires(START, &[])
            .fires(START + 1100, &[]),
        case("a queue of over 900 that stays full under load")
            .listener("unix", 1000)
            .series(listener("depth", ""), always(1001.0))
            .series(full(), always(0.0))
            .fires(START, &[]),
        case("a TCP queue in which a connection waits for a moment at each scrape")
            .listener("tcp", 128)
            .series(listener("depth", ""), always(1.0))
            .series(listener("oldest_wait_seconds", ""), always(0.1))
            .fires(START, &[]),
    ]
}

fn of_listeners_and_exporters() -> Vec<Case> {
    let source = |name: &str| {
        format!("listen_queue_source_up{{instance=\"a\",job=\"j\",source=\"{name}\"}}")
    };
    let bare = |name| Case::new(name).series("up{instance=\"a\",job=\"j\"}", always(1.0));
    vec![
        unix("the limit is below the requested backlog")
            .series(listener("requested_backlog", ""), always(2048.0))
            .fires(START - 100, &[])
            .fires(START + 400, &[BELOW]),
        unix("the limit is the requested backlog")
            .series(listener("requested_backlog", ""), always(128.0))
            .fires(START + 200, &[]),
        case("no socket is listening")
            .series(listener("listener_up", ""), during(900, 0.0, 1.0))
            .fires(START + 200, &[])
            .fires(START + 500, &[MISSING])
            .fires(START + 1100, &[]),
        unix("opened again and again")
            .series(listener("listener_replacements_total", ""), |at| {
                Some(f64::from(at / 100))
            })
            .fires(START + 400, &[FLAPPING]),
        unix("opened again twice")
            .series(listener("listener_replacements_total", ""), |at| {
                Some(f64::from((at / 300).min(2)))
            })
            .fires(START + 400, &[]),
        case("more listeners than are watched")
            .series(
                "listen_queue_discovery_ignored_listeners{instance=\"a\",job=\"j\"}",
                always(44.0),
            )
            .fires(START, &[])
            .fires(START + 700, &[LIMITED]),
        case("more network namespaces than are watched")
            .series(
                "listen_queue_node_ignored_namespaces{instance=\"a\",job=\"j\"}",
                always(4.0),
            )
            .fires(START + 700, &[LIMITED]),
        bare("a table is read in place of sock_diag")
            .series(source("unix_diag"), always(0.0))
            .series(source("proc_net_unix"), always(1.0))
            .fires(200, &[])
            .fires(START, &[DEGRADED]),
        bare("a source fails, and none is read in its place")
            .series(source("unix_diag"), always(0.0))
            .series(source("proc_net_unix"), always(1.0))
            .series(
                listener("info", "family=\"unix\",address=\"x\",limit=\"kernel\""),
                always(1.0),
            )
            .fires(START, &[BLIND]),
        bare("a source without a substitute fails")
            .series(source("netstat"), always(0.0))
            .fires(60, &[])
            .fires(START, &[BLIND]),
        bare("a tenth of the samples and more are late")
            .series(
                "listen_queue_samples_total{instance=\"a\",job=\"j\"}",
                |at| Some(f64::from(at) * 100.0),
            )
            .series(
                "listen_queue_samples_late_total{instance=\"a\",job=\"j\"}",
                |at| Some(f64::from(at) * 20.0),
            )
            .fires(500, &[])
            .fires(1200, &[BLIND]),
        bare("no sample is taken")
            .series(
                "listen_queue_samples_total{instance=\"a\",job=\"j\"}",
                |at| Some(f64::from(at.min(START)) * 100.0),
            )
            .fires(START, &[])
            .fires(START + 500, &[BLIND]),
        Case::new("the target is down")
            .series("up{instance=\"a\",job=\"j\"}", |at| {
                Some(if at < START { 1.0 } else { 0.0 })
            })
            .series(
                "listen_queue_exporter_build_info{instance=\"a\",job=\"j\"}",
                |at| (at < START).then_some(1.0),
            )
            .fires(START - 8, &[])
            .fires(START + 300, &[BLIND]),
    ]
}

pub(crate) fn all() -> Vec<Case> {
    [
        of_refusals(),
        of_full_queues(),
        of_overflows(),
        of_overflows_and_peaks(),
        of_waits(),
        of_listeners_and_exporters(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
