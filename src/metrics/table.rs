//! The table. docs/metrics.md is generated from it, and dashboard, alerts and golden pages are checked against it.

use super::family::{Family, Kind, Metric};
use crate::ledger::{ListenerLedger, Totals, View, WaitTotals};
use crate::listener::Listener;
use crate::sample::{LimitSource, Presence, Slow};

const LISTENER: &[&str] = &["listener"];
const NONE: &[&str] = &[];
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

/// Every metric, in the order of the page.
pub const TABLE: &[Metric] = &[
    Metric {
        name: "listen_queue_listener_up",
        kind: Kind::Gauge,
        labels: LISTENER,
        when: "the listener's source works",
        help: "1 if a socket listens at the address in this network namespace, 0 if not. Discovered listeners are 1 and disappear when they go.",
        collect: |view, out| out.each(view, up),
    },
    Metric {
        name: "listen_queue_listener_info",
        kind: Kind::Gauge,
        labels: &["listener", "family", "address", "limit"],
        when: ALWAYS,
        help: "1 for each listener, with its family (unix or tcp), its address, and where its limit comes from: kernel, told (the smaller of backlog= and somaxconn, where sock_diag is not available) or unknown (then backlog, capacity, utilization and full_* are absent).",
        collect: |view, out| {
            for ledger in &view.listeners {
                let Listener { name, address, .. } = &*ledger.listener;
                let address_text = address.to_string();
                let labels = [name, address.family(), &address_text, ledger.limit.name()];
                out.push(&labels, Some(1.0));
            }
        },
    },
    Metric {
        name: "listen_queue_listener_sockets",
        kind: Kind::Gauge,
        labels: LISTENER,
        when: FOUND,
        help: "Listening sockets behind the listener: members of a SO_REUSEPORT group, both families of a wildcard port, or unix sockets of one name.",
        collect: |view, out| out.each(view, |l| found(l, Some(l.readings.len() as u64))),
    },
    Metric {
        name: "listen_queue_depth",
        kind: Kind::Gauge,
        labels: LISTENER,
        when: FOUND,
        help: "Connections waiting for accept() at the last sample, summed over the sockets; those whose client has gone count too. Kernel: udiag_rqueue, idiag_rqueue.",
        collect: |view, out| out.each(view, |l| found(l, Some(l.depth()))),
    },
    Metric {
        name: "listen_queue_backlog",
        kind: Kind::Gauge,
        labels: LISTENER,
        when: LIMITED,
        help: "Limit that the kernel holds: the lower of listen(2)'s argument and net.core.somaxconn when listen() was called, summed over the sockets. Kernel: udiag_wqueue, idiag_wqueue (sk_max_ack_backlog).",
        collect: |view, out| out.each(view, |l| found(l, l.backlog())),
    },
    Metric {
        name: "listen_queue_capacity",
        kind: Kind::Gauge,
        labels: LISTENER,
        when: LIMITED,
        help: "Depth at which the next connection is turned away: backlog + 1, summed over the sockets.",
        collect: |view, out| out.each(view, |l| found(l, l.capacity())),
    },
    Metric {
        name: "listen_queue_requested_backlog",
        kind: Kind::Gauge,
        labels: LISTENER,
        when: "told with backlog=",
        help: "Backlog that the application asks for, as told with --listener ...,backlog=N; the kernel does not keep it.",
        collect: |view, out| {
            out.each(view, |l| l.listener.requested_backlog.map(f64::from));
        },
    },
    Metric {
        name: "listen_queue_depth_peak",
        kind: Kind::Gauge,
        labels: LISTENER,
        when: FOUND,
        help: "Highest depth of any sample of the last --sample.peak-window, rounded up by a sixtieth of it; a scrape does not reset it.",
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
        help: "Depth by capacity, one observation a sample; of a group, its fullest socket. Full samples are above 1 - 1/capacity; above 1 after listen() was called again with a smaller backlog.",
        collect: |view, out| {
            out.each_histogram(view, |l| Some(&limited(l)?.utilization));
        },
    },
    Metric {
        name: "listen_queue_full_seconds_total",
        kind: Kind::Counter,
        labels: LISTENER,
        when: LIMITED_SEEN,
        help: "Time that a socket of the listener was seen full (depth above backlog): one sample interval for each such sample. An estimate, good to an interval at each end of an episode.",
        collect: |view, out| out.each(view, |l| Some(limited(l)?.full.as_secs_f64())),
    },
    Metric {
        name: "listen_queue_full_episodes_total",
        kind: Kind::Counter,
        labels: LISTENER,
        when: LIMITED_SEEN,
        help: "Times that the listener was seen to become full. Episodes shorter than a sample interval may be missed.",
        collect: |view, out| out.each(view, |l| Some(count(limited(l)?.full_episodes))),
    },
    Metric {
        name: "listen_queue_oldest_wait_seconds",
        kind: Kind::Gauge,
        labels: LISTENER,
        when: LISTED,
        help: "Time that the connection at the head of the queue has waited for accept(), at least; of several sockets the longest, 0 when empty. Unix: since the sample that saw it first, so short by at most one interval if the exporter saw it come. TCP: at the last look, at most --sample.tcp-interval ago, exact to a tick of the kernel; absent if all that wait were reset, which the kernel does not tell, and until the first look after the queue was empty. Kernel: UNIX_DIAG_ICONS, tcpi_last_data_sent.",
        collect: |view, out| {
            out.each(view, |l| l.waits.oldest.map(|wait| wait.as_secs_f64()));
        },
    },
    Metric {
        name: "listen_queue_wait_seconds",
        kind: Kind::Histogram,
        labels: LISTENER,
        when: UNIX_SEEN,
        help: "Time in the queue of connections that were in it at a sample and have left it. An estimate, off by at most one interval; waits shorter than an interval are mostly unseen. Kernel: UNIX_DIAG_ICONS.",
        collect: |view, out| {
            out.each_histogram(view, |l| Some(&wait_totals(l)?.waited));
        },
    },
    Metric {
        name: "listen_queue_unanchored_rounds_total",
        kind: Kind::Counter,
        labels: LISTENER,
        when: UNIX_SEEN,
        help: "Samples whose queue has no connection in common with the sample before (it was empty, or turned over whole) or was too long to list (over 900): connections may have come and gone between the two that listen_queue_wait_seconds misses. An idle listener counts every sample.",
        collect: |view, out| {
            out.each(view, |l| Some(count(wait_totals(l)?.unanchored_rounds)));
        },
    },
    Metric {
        name: "listen_queue_abandoned_connections",
        kind: Kind::Gauge,
        labels: LISTENER,
        when: "the listener is found, and its queue could be listed or is unix and read from /proc/net/unix",
        help: "Connections in the queue whose client has already gone; the application will accept them all the same. TCP: those that closed their end or their half of it, at the last look; those that reset the connection are not seen. Kernel: zeros in UNIX_DIAG_ICONS, state CLOSE_WAIT.",
        collect: |view, out| out.each(view, |l| l.waits.abandoned.map(count)),
    },
    Metric {
        name: "listen_queue_blocked_connects",
        kind: Kind::Gauge,
        labels: LISTENER,
        when: "unix, the listener is found and /proc/net/unix can be read",
        help: "connect() calls that sleep because the queue is full, as of the last look at most 0.1 s ago; looked at while it is full and until nobody sleeps, otherwise 0. Connects that do not block (nginx) never sleep: they fail. Kernel: RefCount of /proc/net/unix less the listener's own two.",
        collect: |view, out| out.each(view, |l| l.waits.blocked.map(count)),
    },
    Metric {
        name: "listen_queue_syn_queue_depth",
        kind: Kind::Gauge,
        labels: LISTENER,
        when: "TCP, inet_diag is available, and the accept queue is not empty",
        help: "Half-open connections, whose handshake is going on, at the last look, at most --sample.tcp-interval ago. There is no look while the accept queue is empty. Kernel: sockets in state SYN_RECV.",
        collect: |view, out| out.each(view, |l| l.waits.half_open.map(count)),
    },
    Metric {
        name: "listen_queue_refused_connects_total",
        kind: Kind::Counter,
        labels: &["listener", "source"],
        when: "unix, a witness is on (--nginx.syslog, --ebpf)",
        help: "connect() calls that failed with EAGAIN because the queue was full, as far as the source saw them: nginx_log counts those of nginx whose line arrived, ebpf those of every client in this network namespace while the exporter runs. Two sources may see the same connect: take the larger, never the sum. An address of no watched listener is its own listener here, up to 32; the rest is other.",
        collect: |view, out| {
            for refused in &view.slow.refused {
                let labels = [refused.listener.as_str(), refused.source.name()];
                out.push(&labels, Some(count(refused.count)));
            }
        },
    },
    Metric {
        name: "listen_queue_nginx_log_messages_total",
        kind: Kind::Counter,
        labels: &["kind"],
        when: "--nginx.syslog is on",
        help: "Lines of nginx's error log that arrived: refused (connect() to a unix socket failed with EAGAIN), timeout (an upstream did not answer in time: 504), other, and malformed (not a line of nginx).",
        collect: |view, out| {
            let Some(log) = view.slow.nginx_log else {
                return;
            };
            let lines = log.lines;
            out.push(&["refused"], Some(count(lines.refused)));
            out.push(&["timeout"], Some(count(lines.timeout)));
            out.push(&["other"], Some(count(lines.other)));
            out.push(&["malformed"], Some(count(lines.malformed)));
        },
    },
    Metric {
        name: "listen_queue_nginx_log_dropped_datagrams_total",
        kind: Kind::Counter,
        labels: NONE,
        when: "--nginx.syslog udp:... is on",
        help: "Lines of nginx's log that the kernel dropped because they came faster than they were read. Over a unix socket nginx drops them itself and nobody counts; lines sent while the exporter is away are not counted either. Kernel: drops in /proc/net/udp.",
        collect: |view, out| {
            let log = view.slow.nginx_log;
            out.push(&[], log.and_then(|log| log.dropped).map(count));
        },
    },
    Metric {
        name: "listen_queue_listener_drops_total",
        kind: Kind::Counter,
        labels: LISTENER,
        when: "TCP, inet_diag is available, and the listener was found at least once",
        help: "Packets dropped at the TCP listener since the birth of its sockets. Not the same as overflows: deferred accepts, health checks that reset and port scans count, and an overflow at the end of the handshake counts twice. Kernel: SK_MEMINFO_DROPS.",
        collect: |view, out| {
            out.each(view, |l| from_sock_diag(l)?.drops.map(count));
        },
    },
    Metric {
        name: "listen_queue_listener_replacements_total",
        kind: Kind::Counter,
        labels: LISTENER,
        when: SEEN,
        help: "Times that the address was found to be served by other sockets than before, none of the earlier ones being left.",
        collect: |view, out| out.each(view, |l| total(l, |t| count(t.replacements))),
    },
    Metric {
        name: "listen_queue_somaxconn",
        kind: Kind::Gauge,
        labels: NONE,
        when: SYSCTL,
        help: "net.core.somaxconn of this network namespace: the most that listen(2) grants. A listener keeps what it was granted until listen() is called again.",
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
        help: "net.ipv4.tcp_abort_on_overflow of this network namespace: 1 if an overflow at the end of the handshake is answered with a reset.",
        collect: |view, out| setting(view, out, |s| s.settings.tcp_abort_on_overflow),
    },
    Metric {
        name: "listen_queue_tcp_syncookies",
        kind: Kind::Gauge,
        labels: NONE,
        when: SYSCTL,
        help: "net.ipv4.tcp_syncookies of this network namespace: 0 never, 1 when the SYN queue is full, 2 always.",
        collect: |view, out| setting(view, out, |s| s.settings.tcp_syncookies),
    },
    Metric {
        name: "listen_queue_tcp_listen_overflows_total",
        kind: Kind::Counter,
        labels: NONE,
        when: NETSTAT,
        help: "Connection attempts dropped because an accept queue was full, all TCP listeners of this network namespace, retries counted. Kernel: TcpExt ListenOverflows.",
        collect: |view, out| counter(view, out, |s| s.tcp_ext.listen_overflows),
    },
    Metric {
        name: "listen_queue_tcp_listen_drops_total",
        kind: Kind::Counter,
        labels: NONE,
        when: NETSTAT,
        help: "Connection attempts dropped for any reason, overflows among them, all TCP listeners of this network namespace. Kernel: TcpExt ListenDrops.",
        collect: |view, out| counter(view, out, |s| s.tcp_ext.listen_drops),
    },
    Metric {
        name: "listen_queue_tcp_request_queue_full_drops_total",
        kind: Kind::Counter,
        labels: NONE,
        when: NETSTAT,
        help: "SYNs dropped because a SYN queue was full and cookies were off, all TCP listeners of this network namespace. Kernel: TcpExt TCPReqQFullDrop.",
        collect: |view, out| counter(view, out, |s| s.tcp_ext.request_queue_full_drops),
    },
    Metric {
        name: "listen_queue_tcp_request_queue_full_cookies_total",
        kind: Kind::Counter,
        labels: NONE,
        when: NETSTAT,
        help: "SYNs answered with a cookie because a SYN queue was full, all TCP listeners of this network namespace. Kernel: TcpExt TCPReqQFullDoCookies.",
        collect: |view, out| counter(view, out, |s| s.tcp_ext.request_queue_full_cookies),
    },
    Metric {
        name: "listen_queue_source_up",
        kind: Kind::Gauge,
        labels: &["source"],
        when: "the source was asked",
        help: "1 if the source's last answer was good, 0 if not; then what it could not read is absent.",
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
        when: "the source was asked",
        help: "Answers of the source that were errors; the log says which.",
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
        help: "Rounds taken.",
        collect: |view, out| out.push(&[], Some(count(view.samples))),
    },
    Metric {
        name: "listen_queue_samples_late_total",
        kind: Kind::Counter,
        labels: NONE,
        when: ALWAYS,
        help: "Rounds that started over one sample interval late: the process was stopped, starved or throttled, and short bursts may have been missed.",
        collect: |view, out| out.push(&[], Some(count(view.late_samples))),
    },
    Metric {
        name: "listen_queue_sample_duration_seconds",
        kind: Kind::Histogram,
        labels: NONE,
        when: ALWAYS,
        help: "Time that a round took to read the kernel.",
        collect: |view, out| out.push_histogram(&[], &view.sample_duration),
    },
    Metric {
        name: "listen_queue_discovery_ignored_listeners",
        kind: Kind::Gauge,
        labels: NONE,
        when: ALWAYS,
        help: "Listeners that discovery found beyond --discover.limit and that are not watched.",
        collect: |view, out| out.push(&[], Some(count(view.ignored_listeners as u64))),
    },
    Metric {
        name: "listen_queue_exporter_build_info",
        kind: Kind::Gauge,
        labels: &["version", "revision"],
        when: ALWAYS,
        help: "1, with the version and revision of the exporter.",
        collect: |_, out| out.push(&[crate::VERSION, crate::REVISION], Some(1.0)),
    },
    Metric {
        name: "process_cpu_seconds_total",
        kind: Kind::Counter,
        labels: NONE,
        when: PROCFS,
        help: "Total user and system CPU time spent in seconds.",
        collect: |view, out| out.push(&[], view.slow.process.map(|p| p.cpu_seconds)),
    },
    Metric {
        name: "process_open_fds",
        kind: Kind::Gauge,
        labels: NONE,
        when: PROCFS,
        help: "Number of open file descriptors.",
        collect: |view, out| out.push(&[], view.slow.process.map(|p| count(p.open_fds))),
    },
    Metric {
        name: "process_max_fds",
        kind: Kind::Gauge,
        labels: NONE,
        when: PROCFS,
        help: "Maximum number of open file descriptors.",
        collect: |view, out| {
            out.push(&[], view.slow.process.and_then(|p| p.max_fds).map(count));
        },
    },
    Metric {
        name: "process_virtual_memory_bytes",
        kind: Kind::Gauge,
        labels: NONE,
        when: PROCFS,
        help: "Virtual memory size in bytes.",
        collect: |view, out| {
            out.push(
                &[],
                view.slow.process.map(|p| count(p.virtual_memory_bytes)),
            );
        },
    },
    Metric {
        name: "process_resident_memory_bytes",
        kind: Kind::Gauge,
        labels: NONE,
        when: PROCFS,
        help: "Resident memory size in bytes.",
        collect: |view, out| {
            out.push(
                &[],
                view.slow.process.map(|p| count(p.resident_memory_bytes)),
            );
        },
    },
    Metric {
        name: "process_threads",
        kind: Kind::Gauge,
        labels: NONE,
        when: PROCFS,
        help: "Number of OS threads in the process.",
        collect: |view, out| out.push(&[], view.slow.process.map(|p| count(p.threads))),
    },
    Metric {
        name: "process_start_time_seconds",
        kind: Kind::Gauge,
        labels: NONE,
        when: PROCFS,
        help: "Start time of the process since unix epoch in seconds.",
        collect: |view, out| out.push(&[], view.slow.process.map(|p| p.start_time_seconds)),
    },
];

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

/// What depends on a limit.
fn limited(ledger: &ListenerLedger) -> Option<&Totals> {
    let is_known = ledger.limit != LimitSource::Unknown;
    ledger.totals.as_ref().filter(|_| is_known)
}

/// What only `sock_diag` reports.
fn from_sock_diag(ledger: &ListenerLedger) -> Option<&Totals> {
    let is_available = ledger.limit == LimitSource::Kernel;
    ledger.totals.as_ref().filter(|_| is_available)
}

fn wait_totals(ledger: &ListenerLedger) -> Option<&WaitTotals> {
    from_sock_diag(ledger)?.waits.as_ref()
}

fn setting(view: &View, out: &mut Family, value: impl Fn(&Slow) -> Option<u32>) {
    out.push(&[], value(&view.slow).map(f64::from));
}

fn counter(view: &View, out: &mut Family, value: impl Fn(&Slow) -> Option<u64>) {
    out.push(&[], value(&view.slow).map(count));
}

#[expect(
    clippy::cast_precision_loss,
    reason = "the format holds doubles; above 2^53 a count loses its last digit"
)]
fn count(value: u64) -> f64 {
    value as f64
}
