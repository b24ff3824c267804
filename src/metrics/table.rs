//! The table. docs/metrics.md is generated from it, and dashboard, alerts and golden pages are checked against it.

use super::family::{Family, Kind, Metric};
use crate::ledger::{ListenerLedger, NamespaceFigures, Totals, View, WaitTotals};
use crate::listener::Listener;
use crate::sample::{LimitSource, NginxLog, Presence, Slow};

const LISTENER: &[&str] = &["listener"];
const NONE: &[&str] = &[];
const NODE: &str = "--node";
const FOUND: &str = "the listener is found";
const SEEN: &str = "the listener was found at least once";
const LISTED: &str =
    "the listener is found, sock_diag is available for its family, and its queue could be listed";
const UNIX_SEEN: &str = "unix, unix_diag is available, and the listener was found at least once";
const ALWAYS: &str = "always";
const LIMITED: &str = "the listener is found and its limit is known (limit is not unknown in listen_queue_listener_info)";
const LIMITED_SEEN: &str = "the listener was found at least once and its limit is known (limit is not unknown in listen_queue_listener_info)";
const SYSCTL: &str = "the setting can be read";
const NETSTAT: &str = "the counter can be read";
const PROCFS: &str = "procfs can be read";
const ABOUT_PROCESS: &str = "procfs can be read, and --web.disable-exporter-metrics is not set";
const ABOUT_EXPORTER: &str = "--web.disable-exporter-metrics is not set";

/// Every metric, in the order of the page.
pub const TABLE: &[Metric] = &[
    Metric {
        name: "listen_queue_listener_up",
        kind: Kind::Gauge,
        labels: LISTENER,
        when: "the listener's source works",
        help: "Whether a socket listens at the address in this network namespace (1) or not (0). The series of a discovered listener is 1 and disappears when the socket closes.",
        collect: |view, out| out.each(view, up),
    },
    Metric {
        name: "listen_queue_listener_info",
        kind: Kind::Gauge,
        labels: &["listener", "family", "address", "limit"],
        when: ALWAYS,
        help: "Always 1, with the family (unix or tcp) and the address of the listener, and the origin of its limit: kernel, told (the lower of backlog= and somaxconn, used where sock_diag is not available) or unknown. If the limit is unknown, the metrics backlog, capacity, utilization_ratio and full_* of the listener are absent.",
        collect: |view, out| {
            for ledger in &view.listeners {
                let Listener { name, address, .. } = &*ledger.listener;
                let address_text = address.to_string();
                let labels = [name, address.family(), &address_text, ledger.limit.name()];
                out.push_of(&ledger.namespace, &labels, Some(1.0));
            }
        },
    },
    Metric {
        name: "listen_queue_listener_sockets",
        kind: Kind::Gauge,
        labels: LISTENER,
        when: FOUND,
        help: "Number of listening sockets that belong to the listener: the members of a SO_REUSEPORT group, both families of a wildcard port, or unix sockets with the same name.",
        collect: |view, out| out.each(view, |l| found(l, Some(l.readings.len() as u64))),
    },
    Metric {
        name: "listen_queue_depth",
        kind: Kind::Gauge,
        labels: LISTENER,
        when: FOUND,
        help: "Connections waiting for accept() at the last sample, summed over the sockets. Connections whose client has disconnected are included. Kernel: udiag_rqueue, idiag_rqueue.",
        collect: |view, out| out.each(view, |l| found(l, Some(l.depth()))),
    },
    Metric {
        name: "listen_queue_backlog",
        kind: Kind::Gauge,
        labels: LISTENER,
        when: LIMITED,
        help: "Limit that the kernel enforces, summed over the sockets: the lower of the argument of listen(2) and net.core.somaxconn at the time of the call. Kernel: udiag_wqueue, idiag_wqueue (sk_max_ack_backlog).",
        collect: |view, out| out.each(view, |l| found(l, l.backlog())),
    },
    Metric {
        name: "listen_queue_capacity",
        kind: Kind::Gauge,
        labels: LISTENER,
        when: LIMITED,
        help: "Depth at which the queue is full and the next connection is refused: backlog + 1, summed over the sockets.",
        collect: |view, out| out.each(view, |l| found(l, l.capacity())),
    },
    Metric {
        name: "listen_queue_requested_backlog",
        kind: Kind::Gauge,
        labels: LISTENER,
        when: "configured with backlog=",
        help: "Backlog that the application requests, as configured with --listener ...,backlog=N. The kernel does not keep this value.",
        collect: |view, out| {
            out.each(view, |l| l.listener.requested_backlog.map(f64::from));
        },
    },
    Metric {
        name: "listen_queue_depth_peak",
        kind: Kind::Gauge,
        labels: LISTENER,
        when: FOUND,
        help: "Highest depth of any sample within the last --sample.peak-window. The window is up to one sixtieth longer than configured. A scrape does not reset the peak.",
        collect: |view, out| {
            out.each(view, |l| {
                let totals = l.totals.as_ref().filter(|_| l.up())?;
                Some(f64::from(totals.peak.highest()))
            });
        },
    },
    Metric {
        name: "listen_queue_utilization_ratio",
        kind: Kind::Histogram,
        labels: LISTENER,
        when: LIMITED_SEEN,
        help: "Depth divided by capacity, with one observation for each sample. For a group of sockets, the fullest socket is observed. Observations of a full queue are above 1 - 1/capacity. They exceed 1 if the application calls listen() again with a smaller backlog.",
        collect: |view, out| {
            out.each_histogram(view, |l| Some(&limited(l)?.utilization));
        },
    },
    Metric {
        name: "listen_queue_full_seconds_total",
        kind: Kind::Counter,
        labels: LISTENER,
        when: LIMITED_SEEN,
        help: "Time during which a socket of the listener was full (depth above backlog). Each sample that finds it full adds one sample interval. This is an estimate with an error of at most one interval at each end of an episode.",
        collect: |view, out| out.each(view, |l| Some(limited(l)?.full.as_secs_f64())),
    },
    Metric {
        name: "listen_queue_full_episodes_total",
        kind: Kind::Counter,
        labels: LISTENER,
        when: LIMITED_SEEN,
        help: "Number of times the listener became full. Episodes shorter than a sample interval may be missed.",
        collect: |view, out| out.each(view, |l| Some(count(limited(l)?.full_episodes))),
    },
    Metric {
        name: "listen_queue_oldest_wait_seconds",
        kind: Kind::Gauge,
        labels: LISTENER,
        when: LISTED,
        help: "Time that the connection at the head of the queue has waited for accept(), as a lower bound. For several sockets, the longest wait; 0 if the queue is empty. Unix: measured from the sample that first found the connection. If the exporter observed its arrival, the real wait is longer by at most one interval. TCP: measured by the last scan, at most --sample.tcp-interval ago, exact to one kernel tick. Absent until the first scan after the queue was empty, and if clients have reset all waiting connections, because the kernel does not report those. Kernel: UNIX_DIAG_ICONS, tcpi_last_data_sent.",
        collect: |view, out| {
            out.each(view, |l| l.waits.oldest.map(|wait| wait.as_secs_f64()));
        },
    },
    Metric {
        name: "listen_queue_wait_seconds",
        kind: Kind::Histogram,
        labels: LISTENER,
        when: UNIX_SEEN,
        help: "Time that connections spent in the queue, for connections that were queued at a sample and have left. This is an estimate with an error of at most one sample interval. Most waits shorter than an interval are not observed. Kernel: UNIX_DIAG_ICONS.",
        collect: |view, out| {
            out.each_histogram(view, |l| Some(&wait_totals(l)?.waited));
        },
    },
    Metric {
        name: "listen_queue_unanchored_rounds_total",
        kind: Kind::Counter,
        labels: LISTENER,
        when: UNIX_SEEN,
        help: "Number of samples whose queue has no connection in common with the previous sample, because it was empty or all its connections were replaced, or whose queue was too long to list (over 900). Between two such samples, connections may arrive and leave that listen_queue_wait_seconds misses. An idle listener counts every sample.",
        collect: |view, out| {
            out.each(view, |l| Some(count(wait_totals(l)?.unanchored_rounds)));
        },
    },
    Metric {
        name: "listen_queue_abandoned_connections",
        kind: Kind::Gauge,
        labels: LISTENER,
        when: "the listener is found, and its queue could be listed or is unix and read from /proc/net/unix",
        help: "Queued connections whose client has already disconnected. The application will still accept them. TCP: connections that the client closed or half-closed, as of the last scan. Connections that the client reset are not counted. Kernel: zeros in UNIX_DIAG_ICONS, state CLOSE_WAIT.",
        collect: |view, out| out.each(view, |l| l.waits.abandoned.map(count)),
    },
    Metric {
        name: "listen_queue_blocked_connects",
        kind: Kind::Gauge,
        labels: LISTENER,
        when: "unix, the listener is found and /proc/net/unix can be read",
        help: "Number of connect() calls that sleep because the queue is full, as of the last scan, at most 0.1 s ago. Scans run while the queue is full and until no call sleeps; otherwise the value is 0. Non-blocking connects (nginx) never sleep: they fail. Kernel: RefCount of /proc/net/unix minus the two references of the listener itself.",
        collect: |view, out| out.each(view, |l| l.waits.blocked.map(count)),
    },
    Metric {
        name: "listen_queue_syn_queue_depth",
        kind: Kind::Gauge,
        labels: LISTENER,
        when: "TCP, inet_diag is available, and the accept queue is not empty",
        help: "Half-open connections (handshake in progress), as of the last scan, at most --sample.tcp-interval ago. No scan runs while the accept queue is empty. Kernel: sockets in state SYN_RECV.",
        collect: |view, out| out.each(view, |l| l.waits.half_open.map(count)),
    },
    Metric {
        name: "listen_queue_refused_connects_total",
        kind: Kind::Counter,
        labels: &["listener", "source"],
        when: "unix, a source of refused connects is enabled (--nginx.syslog, --ebpf)",
        help: "Number of connect() calls that failed with EAGAIN because the queue was full, as observed by the source: nginx_log counts the calls of nginx whose log line arrived, ebpf counts the calls of every client in this network namespace while the exporter runs. Two sources may observe the same call, so use the larger value and never the sum. An address that belongs to no watched listener has its own value of the label listener, up to 32 addresses; the rest is counted as other.",
        collect: |view, out| {
            for figures in &view.namespaces {
                for refused in &figures.slow.refused {
                    let labels = [refused.listener.as_str(), refused.source.name()];
                    out.push_of(&figures.namespace, &labels, Some(count(refused.count)));
                }
            }
        },
    },
    Metric {
        name: "listen_queue_nginx_log_messages_total",
        kind: Kind::Counter,
        labels: &["kind"],
        when: "--nginx.syslog is set",
        help: "Number of lines received from the error log of nginx, by kind: refused (connect() to a unix socket failed with EAGAIN), timeout (an upstream did not answer in time, 504), other, and malformed (not a line of nginx).",
        collect: |view, out| {
            for log in nginx_logs(view) {
                let lines = log.lines;
                out.push(&["refused"], Some(count(lines.refused)));
                out.push(&["timeout"], Some(count(lines.timeout)));
                out.push(&["other"], Some(count(lines.other)));
                out.push(&["malformed"], Some(count(lines.malformed)));
            }
        },
    },
    Metric {
        name: "listen_queue_nginx_log_dropped_datagrams_total",
        kind: Kind::Counter,
        labels: NONE,
        when: "--nginx.syslog is set to udp:...",
        help: "Number of lines of the nginx log that the kernel dropped because they arrived faster than the exporter read them. With a unix socket, nginx itself drops lines without counting them. Lines sent while the exporter is not running are not counted either. Kernel: drops in /proc/net/udp.",
        collect: |view, out| {
            for log in nginx_logs(view) {
                out.push(&[], log.dropped.map(count));
            }
        },
    },
    Metric {
        name: "listen_queue_listener_drops_total",
        kind: Kind::Counter,
        labels: LISTENER,
        when: "TCP, inet_diag is available, and the listener was found at least once",
        help: "Packets dropped at the TCP listener since its sockets were opened. This is not the number of overflows: deferred accepts, health checks that reset the connection and port scans count as well, and an overflow at the end of the handshake counts twice. Kernel: SK_MEMINFO_DROPS.",
        collect: |view, out| {
            out.each(view, |l| from_sock_diag(l)?.drops.map(count));
        },
    },
    Metric {
        name: "listen_queue_listener_replacements_total",
        kind: Kind::Counter,
        labels: LISTENER,
        when: SEEN,
        help: "Number of times that new sockets replaced all earlier sockets at the address.",
        collect: |view, out| out.each(view, |l| total(l, |t| count(t.replacements))),
    },
    Metric {
        name: "listen_queue_somaxconn",
        kind: Kind::Gauge,
        labels: NONE,
        when: SYSCTL,
        help: "net.core.somaxconn of this network namespace: the highest backlog that listen(2) grants. A listener keeps its limit until the application calls listen() again.",
        collect: |view, out| setting(view, out, |s| s.settings.somaxconn),
    },
    Metric {
        name: "listen_queue_tcp_max_syn_backlog",
        kind: Kind::Gauge,
        labels: NONE,
        when: SYSCTL,
        help: "net.ipv4.tcp_max_syn_backlog of this network namespace.",
        collect: |view, out| setting(view, out, |s| s.settings.tcp_max_syn_backlog),
    },
    Metric {
        name: "listen_queue_tcp_abort_on_overflow",
        kind: Kind::Gauge,
        labels: NONE,
        when: SYSCTL,
        help: "net.ipv4.tcp_abort_on_overflow of this network namespace. If 1, the kernel answers an overflow at the end of the handshake with a reset.",
        collect: |view, out| setting(view, out, |s| s.settings.tcp_abort_on_overflow),
    },
    Metric {
        name: "listen_queue_tcp_syncookies",
        kind: Kind::Gauge,
        labels: NONE,
        when: SYSCTL,
        help: "net.ipv4.tcp_syncookies of this network namespace: when the kernel sends SYN cookies. 0 is never, 1 is when the SYN queue is full, 2 is always.",
        collect: |view, out| setting(view, out, |s| s.settings.tcp_syncookies),
    },
    Metric {
        name: "listen_queue_tcp_listen_overflows_total",
        kind: Kind::Counter,
        labels: NONE,
        when: NETSTAT,
        help: "Connection attempts dropped because an accept queue was full, for all TCP listeners of this network namespace. Each retry counts. Kernel: TcpExt ListenOverflows.",
        collect: |view, out| counter(view, out, |s| s.tcp_ext.listen_overflows),
    },
    Metric {
        name: "listen_queue_tcp_listen_drops_total",
        kind: Kind::Counter,
        labels: NONE,
        when: NETSTAT,
        help: "Connection attempts dropped for any reason, including overflows, for all TCP listeners of this network namespace. Kernel: TcpExt ListenDrops.",
        collect: |view, out| counter(view, out, |s| s.tcp_ext.listen_drops),
    },
    Metric {
        name: "listen_queue_tcp_request_queue_full_drops_total",
        kind: Kind::Counter,
        labels: NONE,
        when: NETSTAT,
        help: "SYN packets dropped because a SYN queue was full and SYN cookies were disabled, for all TCP listeners of this network namespace. Kernel: TcpExt TCPReqQFullDrop.",
        collect: |view, out| counter(view, out, |s| s.tcp_ext.request_queue_full_drops),
    },
    Metric {
        name: "listen_queue_tcp_request_queue_full_cookies_total",
        kind: Kind::Counter,
        labels: NONE,
        when: NETSTAT,
        help: "SYN packets answered with a SYN cookie because a SYN queue was full, for all TCP listeners of this network namespace. Kernel: TcpExt TCPReqQFullDoCookies.",
        collect: |view, out| counter(view, out, |s| s.tcp_ext.request_queue_full_cookies),
    },
    Metric {
        name: "listen_queue_source_up",
        kind: Kind::Gauge,
        labels: &["source"],
        when: "the source was read at least once",
        help: "Whether the last read from this source succeeded (1) or failed (0). Metrics that depend on a failed source are absent.",
        collect: |view, out| {
            for (source, figures) in &view.sources {
                out.push(&[source.name()], Some(f64::from(u8::from(figures.up))));
            }
        },
    },
    Metric {
        name: "listen_queue_source_errors_total",
        kind: Kind::Counter,
        labels: &["source"],
        when: "the source was read at least once",
        help: "Number of failed reads from this source. The log has the reason.",
        collect: |view, out| {
            for (source, figures) in &view.sources {
                out.push(&[source.name()], Some(count(figures.errors)));
            }
        },
    },
    Metric {
        name: "listen_queue_samples_total",
        kind: Kind::Counter,
        labels: NONE,
        when: ALWAYS,
        help: "Number of sampling rounds.",
        collect: |view, out| out.push(&[], Some(count(view.samples))),
    },
    Metric {
        name: "listen_queue_samples_late_total",
        kind: Kind::Counter,
        labels: NONE,
        when: ALWAYS,
        help: "Number of sampling rounds that started more than one sample interval late, because the process was stopped, not scheduled or throttled. Short bursts may have been missed.",
        collect: |view, out| out.push(&[], Some(count(view.late_samples))),
    },
    Metric {
        name: "listen_queue_sample_duration_seconds",
        kind: Kind::Histogram,
        labels: NONE,
        when: ABOUT_EXPORTER,
        help: "Time spent reading kernel state in one sampling round.",
        collect: |view, out| out.push_histogram(&[], &view.sample_duration),
    },
    Metric {
        name: "listen_queue_discovery_ignored_listeners",
        kind: Kind::Gauge,
        labels: NONE,
        when: ALWAYS,
        help: "Number of discovered listeners that are not watched because there are more than --discover.limit.",
        collect: |view, out| out.push(&[], Some(count(view.left_out().ignored as u64))),
    },
    Metric {
        name: "listen_queue_discovery_excluded_listeners",
        kind: Kind::Gauge,
        labels: NONE,
        when: ALWAYS,
        help: "Number of discovered listeners that are not watched because of --discover.exclude or --discover.include.",
        collect: |view, out| out.push(&[], Some(count(view.left_out().excluded as u64))),
    },
    Metric {
        name: "listen_queue_namespace_info",
        kind: Kind::Gauge,
        labels: &["access"],
        when: NODE,
        help: "Always 1, for each watched network namespace. The label access shows how it is read: sock_diag (the exporter entered it and reads everything) or proc (the exporter may not enter it and reads depths from /proc/PID/net, without limits, waits and settings).",
        collect: |view, out| {
            for figures in &view.namespaces {
                if let Some(access) = figures.namespace.access {
                    out.push_of(&figures.namespace, &[access.name()], Some(1.0));
                }
            }
        },
    },
    Metric {
        name: "listen_queue_node_ignored_namespaces",
        kind: Kind::Gauge,
        labels: NONE,
        when: NODE,
        help: "Number of network namespaces that are not watched because there are more than --node.limit.",
        collect: |view, out| {
            let ignored = view.ignored_namespaces;
            out.push(&[], ignored.map(|ignored| count(ignored as u64)));
        },
    },
    Metric {
        name: "listen_queue_idle_listeners",
        kind: Kind::Gauge,
        labels: NONE,
        when: "--node, without --node.idle",
        help: "Number of listeners that have no series because no connection has waited in their queue yet. Once one waits, all series of the listener appear, and their counters and buckets are complete from the start of the exporter.",
        collect: |view, out| out.push(&[], view.idle_listeners.map(|idle| count(idle as u64))),
    },
    Metric {
        name: "listen_queue_exporter_build_info",
        kind: Kind::Gauge,
        labels: &["version", "revision"],
        when: ALWAYS,
        help: "Always 1, with the version and the revision of the exporter.",
        collect: |_, out| out.push(&[crate::VERSION, crate::REVISION], Some(1.0)),
    },
    Metric {
        name: "process_cpu_seconds_total",
        kind: Kind::Counter,
        labels: NONE,
        when: ABOUT_PROCESS,
        help: "Total user and system CPU time spent in seconds.",
        collect: |view, out| out.push(&[], view.process.map(|p| p.cpu_seconds)),
    },
    Metric {
        name: "process_open_fds",
        kind: Kind::Gauge,
        labels: NONE,
        when: ABOUT_PROCESS,
        help: "Number of open file descriptors.",
        collect: |view, out| out.push(&[], view.process.map(|p| count(p.open_fds))),
    },
    Metric {
        name: "process_max_fds",
        kind: Kind::Gauge,
        labels: NONE,
        when: ABOUT_PROCESS,
        help: "Maximum number of open file descriptors.",
        collect: |view, out| {
            out.push(&[], view.process.and_then(|p| p.max_fds).map(count));
        },
    },
    Metric {
        name: "process_virtual_memory_bytes",
        kind: Kind::Gauge,
        labels: NONE,
        when: ABOUT_PROCESS,
        help: "Virtual memory size in bytes.",
        collect: |view, out| {
            out.push(&[], view.process.map(|p| count(p.virtual_memory_bytes)));
        },
    },
    Metric {
        name: "process_resident_memory_bytes",
        kind: Kind::Gauge,
        labels: NONE,
        when: ABOUT_PROCESS,
        help: "Resident memory size in bytes.",
        collect: |view, out| {
            out.push(&[], view.process.map(|p| count(p.resident_memory_bytes)));
        },
    },
    Metric {
        name: "process_threads",
        kind: Kind::Gauge,
        labels: NONE,
        when: ABOUT_PROCESS,
        help: "Number of OS threads in the process.",
        collect: |view, out| out.push(&[], view.process.map(|p| count(p.threads))),
    },
    Metric {
        name: "process_start_time_seconds",
        kind: Kind::Gauge,
        labels: NONE,
        when: PROCFS,
        help: "Start time of the process since unix epoch in seconds.",
        collect: |view, out| out.push(&[], view.process.map(|p| p.start_time_seconds)),
    },
];

/// Whether a metric is about the exporter alone, so that --web.disable-exporter-metrics omits it. Alerts read the start time of the process and the
/// counters of rounds.
#[must_use]
pub fn is_about_exporter(name: &str) -> bool {
    name == "listen_queue_sample_duration_seconds"
        || (name.starts_with("process_") && name != "process_start_time_seconds")
}

fn up(ledger: &ListenerLedger) -> Option<f64> {
    match ledger.presence {
        Presence::Up => Some(1.0),
        Presence::Missing(_) => Some(0.0),
        Presence::Unknown => None,
    }
}

fn found(ledger: &ListenerLedger, value: Option<u64>) -> Option<f64> {
    value.filter(|_| ledger.up()).map(count)
}

fn total(ledger: &ListenerLedger, value: impl Fn(&Totals) -> f64) -> Option<f64> {
    ledger.totals.as_ref().map(value)
}

/// Totals that depend on a limit.
fn limited(ledger: &ListenerLedger) -> Option<&Totals> {
    let is_known = ledger.limit != LimitSource::Unknown;
    ledger.totals.as_ref().filter(|_| is_known)
}

/// Totals that only `sock_diag` reports.
fn from_sock_diag(ledger: &ListenerLedger) -> Option<&Totals> {
    let is_available = ledger.limit == LimitSource::Kernel;
    ledger.totals.as_ref().filter(|_| is_available)
}

fn wait_totals(ledger: &ListenerLedger) -> Option<&WaitTotals> {
    from_sock_diag(ledger)?.waits.as_ref()
}

/// The log of the one namespace whose nginx sends lines.
fn nginx_logs(view: &View) -> impl Iterator<Item = NginxLog> {
    view.namespaces
        .iter()
        .filter_map(|figures| figures.slow.nginx_log)
}

fn setting(view: &View, out: &mut Family, value: impl Fn(&Slow) -> Option<u32>) {
    for NamespaceFigures {
        namespace, slow, ..
    } in &view.namespaces
    {
        out.push_of(namespace, &[], value(slow).map(f64::from));
    }
}

fn counter(view: &View, out: &mut Family, value: impl Fn(&Slow) -> Option<u64>) {
    for NamespaceFigures {
        namespace, slow, ..
    } in &view.namespaces
    {
        out.push_of(namespace, &[], value(slow).map(count));
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "the format holds doubles; above 2^53 a count loses its last digit"
)]
fn count(value: u64) -> f64 {
    value as f64
}
