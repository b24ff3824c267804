//! The command line: flags with their environment variables, and a one-line error for an invalid one.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use axum::http::Uri;
use clap::builder::{ArgPredicate, BoolishValueParser, TypedValueParser as _};
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{
    Arg, ArgAction, ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum,
};
use tracing::level_filters::LevelFilter;

use crate::duration;
use crate::listener::{DEFAULT_EXCLUDE, Filter, Listener, Pattern};
use crate::logging::Format;
use crate::refusals::{self, SyslogAddress};
use crate::sampler::Node;

/// The port of the metrics. It is not registered, and is the same in every manifest.
pub const PORT: u16 = 10128;
/// Prefix of the environment variable of each flag.
pub const ENVIRONMENT_PREFIX: &str = "LISTEN_QUEUE_EXPORTER_";

/// A variable that begins with this is meant for this program.
const PROGRAM_PREFIX: &str = "LISTEN_QUEUE_";

const INTERVAL: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(1)..=Duration::from_secs(10);
const TCP_INTERVAL: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(10)..=Duration::from_mins(1);
const CHECK_DURATION: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_hours(1);
const PEAK_WINDOW: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_hours(24);

/// What the user asked for.
#[derive(Debug, Parser)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag")]
#[command(
    name = "listen-queue-exporter",
    version = concat!(env!("CARGO_PKG_VERSION")),
    about = "Prometheus exporter for the accept queues of unix and TCP listening sockets: depth, limit and drops, without privileges.",
    after_help = "Each flag can also be set with an environment variable: LISTEN_QUEUE_EXPORTER_ followed by the flag in upper case, with dots and dashes \
                  replaced by underscores. LISTEN_QUEUE_EXPORTER_LISTENER and LISTEN_QUEUE_EXPORTER_WEB_LISTEN_ADDRESS accept several values, \
                  separated by spaces or line breaks.",
    args_conflicts_with_subcommands = true,
    max_term_width = 110
)]
pub struct Flags {
    #[command(subcommand)]
    command: Option<Command>,

    #[command(flatten)]
    selection: SelectionFlags,

    /// Time between scans of a TCP queue that is not empty, from 10ms to 1m. Scans measure the waits of TCP connections and the depth of the SYN
    /// queue. A scan walks the TCP table of the whole host.
    #[arg(
        long = "sample.tcp-interval",
        value_name = "DURATION",
        help_heading = "Sampling",
        env = "LISTEN_QUEUE_EXPORTER_SAMPLE_TCP_INTERVAL",
        default_value = "1s",
        value_parser = parse_tcp_interval
    )]
    pub sample_tcp_interval: Duration,

    /// Window of listen_queue_depth_peak, from 1s to 1d. If it is shorter than the scrape interval, peaks between scrapes are lost.
    #[arg(
        long = "sample.peak-window",
        value_name = "DURATION",
        help_heading = "Sampling",
        env = "LISTEN_QUEUE_EXPORTER_SAMPLE_PEAK_WINDOW",
        default_value = "60s",
        value_parser = parse_peak_window
    )]
    pub sample_peak_window: Duration,

    /// Address to serve on, [IP]:PORT. Without an IP, the exporter serves on all IPv4 and IPv6 addresses. Repeatable.
    #[arg(
        long = "web.listen-address",
        value_name = "ADDRESS",
        help_heading = "Web",
        env = "LISTEN_QUEUE_EXPORTER_WEB_LISTEN_ADDRESS",
        default_value = ":10128"
    )]
    web_listen_address: Vec<String>,

    /// Path of the metrics.
    #[arg(
        long = "web.telemetry-path",
        value_name = "PATH",
        help_heading = "Web",
        env = "LISTEN_QUEUE_EXPORTER_WEB_TELEMETRY_PATH",
        default_value = "/metrics",
        value_parser = parse_telemetry_path
    )]
    pub web_telemetry_path: String,

    /// Path below which everything is served, as in /queues: the page, the metrics, health and the API. The default is the path of
    /// --web.external-url.
    #[arg(
        long = "web.route-prefix",
        value_name = "PATH",
        help_heading = "Web",
        env = "LISTEN_QUEUE_EXPORTER_WEB_ROUTE_PREFIX",
        value_parser = parse_route_prefix
    )]
    web_route_prefix: Option<String>,

    /// URL at which clients reach the exporter through a proxy, with scheme and host. If the proxy removes the path from requests, also
    /// set --web.route-prefix=/.
    #[arg(
        long = "web.external-url",
        value_name = "URL",
        help_heading = "Web",
        env = "LISTEN_QUEUE_EXPORTER_WEB_EXTERNAL_URL",
        value_parser = parse_external_url
    )]
    pub web_external_url: Option<ExternalUrl>,

    /// Serve on the sockets that systemd passes (LISTEN_FDS) instead of opening --web.listen-address.
    #[arg(
        long = "web.systemd-socket",
        help_heading = "Web",
        env = "LISTEN_QUEUE_EXPORTER_WEB_SYSTEMD_SOCKET",
        value_parser = BoolishValueParser::new(),
        conflicts_with = "web_listen_address"
    )]
    pub web_systemd_socket: bool,

    /// Omit metrics about the exporter itself: process_* except process_start_time_seconds, and listen_queue_sample_duration_seconds. No alert reads them.
    #[arg(
        long = "web.disable-exporter-metrics",
        help_heading = "Web",
        env = "LISTEN_QUEUE_EXPORTER_WEB_DISABLE_EXPORTER_METRICS",
        value_parser = BoolishValueParser::new()
    )]
    pub web_disable_exporter_metrics: bool,

    /// Omit the buckets of histograms from the metrics, which are over a third of all series. Sums and counts stay. No alert reads
    /// buckets, but dashboard panels that show quantiles have no data.
    #[arg(
        long = "web.disable-histogram-buckets",
        help_heading = "Web",
        env = "LISTEN_QUEUE_EXPORTER_WEB_DISABLE_HISTOGRAM_BUCKETS",
        value_parser = BoolishValueParser::new()
    )]
    pub web_disable_histogram_buckets: bool,

    /// File with TLS settings, users and headers, in the format of the Prometheus exporter-toolkit. It is read again at each connection and request.
    #[arg(
        long = "web.config.file",
        value_name = "PATH",
        help_heading = "Web",
        env = "LISTEN_QUEUE_EXPORTER_WEB_CONFIG_FILE"
    )]
    pub web_config_file: Option<PathBuf>,

    /// Check the flags and --web.config.file, and exit: with 0 if the exporter can use them, with 2 and the reason if not.
    #[arg(
        long = "config.check",
        help_heading = "System",
        env = "LISTEN_QUEUE_EXPORTER_CONFIG_CHECK",
        value_parser = BoolishValueParser::new()
    )]
    pub config_check: bool,

    /// Address on which to receive the error log of nginx and count refused connects: unix:/path (a socket file that the exporter creates) or
    /// udp:IP:PORT. nginx sends the log with: error_log syslog:server=unix:/path,nohostname error;
    #[arg(
        long = "nginx.syslog",
        value_name = "ADDRESS",
        help_heading = "Refused connects",
        env = "LISTEN_QUEUE_EXPORTER_NGINX_SYSLOG",
        value_parser = SyslogAddress::parse
    )]
    pub nginx_syslog: Option<SyslogAddress>,

    /// Octal mode of the socket file of --nginx.syslog. The user of nginx must be able to write to it.
    #[arg(
        long = "nginx.syslog-mode",
        value_name = "MODE",
        help_heading = "Refused connects",
        env = "LISTEN_QUEUE_EXPORTER_NGINX_SYSLOG_MODE",
        default_value = "0666",
        value_parser = parse_mode
    )]
    pub nginx_syslog_mode: u32,

    /// Count the refused connects of all clients in the kernel with eBPF. Requires a build with the feature ebpf (otherwise the flag is invalid) and
    /// the capabilities BPF and PERFMON. If these are missing, the log reports it and everything else works.
    #[arg(
        long,
        help_heading = "Refused connects",
        env = "LISTEN_QUEUE_EXPORTER_EBPF",
        value_parser = BoolishValueParser::new()
    )]
    pub ebpf: bool,

    /// Lowest severity of messages to log: error, warn, info, debug or trace.
    #[arg(
        long = "log.level",
        value_name = "LEVEL",
        help_heading = "Log",
        env = "LISTEN_QUEUE_EXPORTER_LOG_LEVEL",
        default_value = "info",
        value_parser = parse_level
    )]
    pub log_level: LevelFilter,

    /// Format of log lines.
    #[arg(
        long = "log.format",
        value_name = "FORMAT",
        help_heading = "Log",
        env = "LISTEN_QUEUE_EXPORTER_LOG_FORMAT",
        default_value = "logfmt"
    )]
    pub log_format: Format,
}

/// Which listeners are sampled, and how often: the same for serving and for `check`.
#[derive(Debug, Args)]
struct SelectionFlags {
    /// Watch this listener instead of all: [NAME=]ADDRESS[,backlog=N]. ADDRESS is unix:/path, unix:@abstract, tcp:HOST:PORT, tcp::PORT (every
    /// wildcard listener of the port) or tcp:[::1]:PORT. \xNN stands for a byte. backlog=N is the backlog that the application passes to listen(2).
    /// Repeatable.
    #[arg(
        long,
        value_name = "LISTENER",
        help_heading = "Listeners",
        env = "LISTEN_QUEUE_EXPORTER_LISTENER"
    )]
    listener: Vec<String>,

    /// Do not watch discovered listeners whose address matches this regular expression anywhere. The default excludes sockets that exist on many
    /// hosts and serve no users: those of containerd shims, ssh agents, Java and .NET debuggers, Python multiprocessing and editors, the control
    /// socket of gunicorn, and loopback ports from 32768 to 60999 except 50051. To exclude none, use '' or set the environment variable to ^$.
    #[arg(
        long = "discover.exclude",
        value_name = "REGEX",
        help_heading = "Listeners",
        env = "LISTEN_QUEUE_EXPORTER_DISCOVER_EXCLUDE",
        default_value = DEFAULT_EXCLUDE,
        conflicts_with = "listener"
    )]
    discover_exclude: Pattern,

    /// Watch only discovered listeners whose address matches this regular expression anywhere. If this flag is set, the default of
    /// --discover.exclude does not apply.
    #[arg(
        long = "discover.include",
        value_name = "REGEX",
        help_heading = "Listeners",
        env = "LISTEN_QUEUE_EXPORTER_DISCOVER_INCLUDE",
        conflicts_with = "listener"
    )]
    discover_include: Option<Pattern>,

    /// Maximum number of discovered listeners to watch. listen_queue_discovery_ignored_listeners counts the others.
    #[arg(
        long = "discover.limit",
        value_name = "N",
        help_heading = "Listeners",
        env = "LISTEN_QUEUE_EXPORTER_DISCOVER_LIMIT",
        default_value_t = 256,
        conflicts_with = "listener"
    )]
    discover_limit: usize,

    /// Watch every network namespace of the machine, that is each pod and container, instead of only the exporter's own. For a DaemonSet with hostPID,
    /// or for a host. All metrics require CAP_SYS_ADMIN and CAP_SYS_PTRACE. Without them the exporter reads only depths, from /proc.
    #[arg(
        long,
        help_heading = "Node",
        env = "LISTEN_QUEUE_EXPORTER_NODE",
        value_parser = BoolishValueParser::new()
    )]
    node: bool,

    /// With --node, also show listeners in whose queue no connection has ever waited. Otherwise listen_queue_idle_listeners counts them.
    #[arg(
        long = "node.idle",
        help_heading = "Node",
        env = "LISTEN_QUEUE_EXPORTER_NODE_IDLE",
        value_parser = BoolishValueParser::new()
    )]
    node_idle: bool,

    /// With --node, maximum number of network namespaces to watch. listen_queue_node_ignored_namespaces counts the others.
    #[arg(
        long = "node.limit",
        value_name = "N",
        help_heading = "Node",
        env = "LISTEN_QUEUE_EXPORTER_NODE_LIMIT",
        default_value_t = 512
    )]
    node_limit: usize,

    /// With --node, directory of the pod logs. The exporter takes the names of pods from the names of its entries.
    #[arg(
        long = "path.pod-logs",
        value_name = "PATH",
        help_heading = "System",
        env = "LISTEN_QUEUE_EXPORTER_PATH_POD_LOGS",
        default_value = "/var/log/pods"
    )]
    path_pod_logs: PathBuf,

    /// Time between samples, from 1ms to 10s. With --node the default is 50ms.
    #[arg(
        long = "sample.interval",
        value_name = "DURATION",
        help_heading = "Sampling",
        env = "LISTEN_QUEUE_EXPORTER_SAMPLE_INTERVAL",
        default_value = "10ms",
        default_value_if("node", ArgPredicate::Equals("true".into()), "50ms"),
        value_parser = parse_interval
    )]
    sample_interval: Duration,

    /// Mount point of procfs.
    #[arg(
        long = "path.procfs",
        value_name = "PATH",
        help_heading = "System",
        env = "LISTEN_QUEUE_EXPORTER_PATH_PROCFS",
        default_value = "/proc"
    )]
    path_procfs: PathBuf,
}

/// What to do instead of serving.
#[derive(Debug, Subcommand)]
enum Command {
    /// Sample once without serving, and print a table of the listeners, the problems found and their remedies. Exit codes: 0 no problem, 1 a listener
    /// is near its limit or its queue does not move, 2 a flag is invalid, 3 a listener is full or refuses connections, 4 the check failed.
    Check(CheckFlags),
}

/// Flags of `check`.
#[derive(Debug, Args)]
struct CheckFlags {
    #[command(flatten)]
    selection: SelectionFlags,

    /// Time to sample, from 100ms to 1h.
    #[arg(
        long = "for",
        value_name = "DURATION",
        default_value = "1s",
        value_parser = parse_check_duration
    )]
    duration: Duration,

    /// Output format.
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    format: CheckFormat,
}

/// How `check` prints what it found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CheckFormat {
    /// For people, fitted to the width of the terminal.
    Table,
    /// For programs.
    Json,
}

/// What to do.
#[derive(Debug)]
pub enum Order {
    /// Serve metrics.
    Serve(Box<Options>),
    /// Check once.
    Check(Box<CheckOptions>),
}

/// Which listeners are sampled, and how often.
#[derive(Debug)]
pub struct Selection {
    /// Listeners to watch; empty for all.
    pub listeners: Vec<Listener>,
    /// Which discovered listeners are watched.
    pub filter: Filter,
    /// Maximum number of discovered listeners to watch.
    pub limit: usize,
    /// Time between samples.
    pub interval: Duration,
    /// Where procfs is mounted.
    pub procfs: PathBuf,
    /// Whether and how all network namespaces are watched.
    pub node: Option<Node>,
    /// Whether listeners without any waiting connection so far are shown.
    pub idle: bool,
}

/// Validated flags of `check`.
#[derive(Debug)]
pub struct CheckOptions {
    /// What to sample.
    pub selection: Selection,
    /// For how long.
    pub duration: Duration,
    /// How to print it.
    pub format: CheckFormat,
}

/// Validated flags, with their values converted.
#[derive(Debug)]
pub struct Options {
    /// The flags that need no conversion.
    pub flags: Flags,
    /// What to sample.
    pub selection: Selection,
    /// Addresses to serve on, unless systemd passes sockets.
    pub addresses: Vec<ServeAddress>,
    /// Path below which everything is served, without a slash at its end: empty, or as in /queues.
    pub prefix: String,
    /// The same as clients of a proxy see it.
    pub external_path: String,
}

/// Where a proxy serves the exporter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalUrl {
    /// Scheme and host.
    origin: String,
    /// Path without a slash at its end: empty, or as in /queues.
    path: String,
}

impl std::fmt::Display for ExternalUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}/", self.origin, self.path)
    }
}

/// The version of this build as Prometheus exporters print it, on several lines.
#[must_use]
pub fn version() -> String {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!(
        "listen-queue-exporter, version {} (revision: {})\n  features:         {}\n  rustc version:    {}\n  platform:         {}/{architecture}\n",
        crate::VERSION,
        crate::REVISION,
        if refusals::EBPF_BUILT { "ebpf" } else { "none" },
        env!("RUSTC_OF_THIS_BUILD"),
        std::env::consts::OS,
    )
}

/// Where to serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServeAddress {
    /// All addresses of both families.
    Any(u16),
    /// One address.
    One(SocketAddr),
}

/// Reads the command line and the environment.
///
/// # Errors
/// `--help` and `--version`, which are not failures, and an invalid flag or value.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Order, clap::Error> {
    let mut command = without_empty_variables(Flags::command());
    let matches = command.try_get_matches_from_mut(arguments)?;
    let flags = Flags::from_arg_matches(&matches)?;
    if flags.ebpf && !refusals::EBPF_BUILT {
        let message = "--ebpf: this build does not include eBPF; use an image built with `--build-arg FEATURES=ebpf`, or build with `cargo build --release --features ebpf`";
        return Err(command.error(ErrorKind::InvalidValue, message));
    }
    if flags.selection.node && flags.nginx_syslog.is_some() {
        let message = "--nginx.syslog cannot be used with --node: a log line contains the name of a socket but not its pod; run an exporter in the pod of that nginx instead";
        return Err(command.error(ErrorKind::ArgumentConflict, message));
    }
    let mut refuse = |flag: &str, reason: String| {
        let message = format!("invalid value for '--{flag}': {reason}");
        command.error(ErrorKind::ValueValidation, message)
    };
    if let (Some(Command::Check(check)), Some((_, matches))) =
        (&flags.command, matches.subcommand())
    {
        let selection =
            select(&check.selection, matches).map_err(|reason| refuse("listener", reason))?;
        return Ok(Order::Check(Box::new(CheckOptions {
            selection,
            duration: check.duration,
            format: check.format,
        })));
    }
    let selection =
        select(&flags.selection, &matches).map_err(|reason| refuse("listener", reason))?;
    let split = from_environment(&matches, "web_listen_address");
    let addresses = values(&flags.web_listen_address, split)
        .map(parse_serve_address)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|reason| refuse("web.listen-address", reason))?;
    let external = flags.web_external_url.as_ref().map(|url| url.path.clone());
    let prefix = flags.web_route_prefix.clone().or_else(|| external.clone());
    let prefix = prefix.unwrap_or_default();
    Ok(Order::Serve(Box::new(Options {
        external_path: external.unwrap_or_else(|| prefix.clone()),
        prefix,
        flags,
        selection,
        addresses,
    })))
}

fn select(flags: &SelectionFlags, matches: &ArgMatches) -> Result<Selection, String> {
    let listeners = values(&flags.listener, from_environment(matches, "listener"))
        .map(|text| Listener::parse(text).map_err(|e| e.to_string()))
        .collect::<Result<Vec<_>, _>>()
        .and_then(refuse_same_name)?;
    let is_default = matches.value_source("discover_exclude") == Some(ValueSource::DefaultValue);
    let exclude = match flags.discover_include {
        Some(_) if is_default => Pattern::default(),
        _ => flags.discover_exclude.clone(),
    };
    Ok(Selection {
        listeners,
        filter: Filter {
            exclude,
            include: flags.discover_include.clone(),
        },
        limit: flags.discover_limit,
        interval: flags.sample_interval,
        procfs: flags.path_procfs.clone(),
        node: flags.node.then(|| Node {
            limit: flags.node_limit,
            pod_logs: flags.path_pod_logs.clone(),
        }),
        idle: !flags.node || flags.node_idle,
    })
}

/// The variables of this environment that look like those of flags but belong to none: their names are misspelled, and they have no effect.
///
/// Kubernetes sets variables for each Service, also for one that is named like this program: these are not among them.
#[must_use]
pub fn unknown_variables(
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Vec<String> {
    let command = Flags::command();
    let known: BTreeSet<_> = command.get_arguments().filter_map(Arg::get_env).collect();
    let mut unknown: Vec<String> = environment
        .into_iter()
        .filter(|(name, _)| !known.contains(name.as_os_str()))
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
        .filter(|(name, value)| {
            name.starts_with(PROGRAM_PREFIX) && !is_of_a_service(name, value.as_encoded_bytes())
        })
        .map(|(name, _)| name)
        .collect();
    unknown.sort();
    unknown
}

/// Whether Kubernetes sets a variable of this name and value for a Service.
fn is_of_a_service(name: &str, value: &[u8]) -> bool {
    let mut after_port = name.split("_PORT_").skip(1);
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || (name.ends_with("_PORT") && value.windows(3).any(|part| part == b"://"))
        || after_port.any(|rest| rest.starts_with(|first: char| first.is_ascii_digit()))
}

/// Ignores empty and blank variables, which occur in env files and manifests, and those that leave a flag off: it conflicts with no other.
fn without_empty_variables(command: clap::Command) -> clap::Command {
    let ignore = |argument: Arg| {
        let value = argument.get_env().and_then(std::env::var_os);
        let is_switch = matches!(argument.get_action(), ArgAction::SetTrue);
        match value.as_deref() {
            Some(value) if is_blank(value) || (is_switch && is_off(value)) => argument.env(None),
            _ => argument,
        }
    };
    command
        .mut_args(ignore)
        .mut_subcommands(|subcommand| subcommand.mut_args(ignore))
}

fn is_blank(value: &OsStr) -> bool {
    value.as_encoded_bytes().trim_ascii().is_empty()
}

fn is_off(value: &OsStr) -> bool {
    let parsed = BoolishValueParser::new().parse_ref(&clap::Command::new(""), None, value);
    parsed.is_ok_and(|is_on| !is_on)
}

fn from_environment(matches: &ArgMatches, id: &str) -> bool {
    matches.value_source(id) == Some(ValueSource::EnvVariable)
}

/// The error on one line, without the usage that clap prints below it.
#[must_use]
pub fn one_line(error: &clap::Error) -> String {
    if error.kind() == ErrorKind::InvalidUtf8 {
        return "error: an argument is not valid UTF-8; write each such byte as \\xNN, as in --listener 'unix:/run/\\xff.sock'".to_owned();
    }
    let rendered = error.render().to_string();
    rendered
        .lines()
        .map(str::trim)
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"))
        .filter(|line| !line.is_empty())
        .collect::<Vec<_>>()
        .join("; ")
}

/// The values, separated by spaces and line breaks if they come from the environment.
fn values(texts: &[String], split: bool) -> impl Iterator<Item = &str> {
    texts.iter().flat_map(move |text| {
        let words = split.then(|| text.split_whitespace());
        let whole = (!split).then_some(text.as_str());
        words.into_iter().flatten().chain(whole)
    })
}

fn refuse_same_name(listeners: Vec<Listener>) -> Result<Vec<Listener>, String> {
    let mut names = BTreeSet::new();
    for listener in &listeners {
        if !names.insert(listener.name.as_str()) {
            return Err(format!(
                "two listeners have the name '{}'; give one of them another name, as in other={}",
                listener.name, listener.address
            ));
        }
    }
    Ok(listeners)
}

fn parse_serve_address(text: &str) -> Result<ServeAddress, String> {
    let refuse = || {
        format!(
            "'{text}' is not [IP]:PORT, as in :{PORT}, 127.0.0.1:{PORT} or [::1]:{PORT} (host names are not resolved)"
        )
    };
    if let Some(port) = text.strip_prefix(':') {
        return port.parse().map(ServeAddress::Any).map_err(|_| refuse());
    }
    text.parse().map(ServeAddress::One).map_err(|_| refuse())
}

impl ServeAddress {
    /// Opens the listening socket. If IPv6 is disabled, all addresses are those of IPv4.
    ///
    /// # Errors
    /// If the port is in use or the address does not belong to this machine.
    pub fn bind(self) -> std::io::Result<std::net::TcpListener> {
        let on = |ip: IpAddr, port| std::net::TcpListener::bind(SocketAddr::new(ip, port));
        match self {
            Self::One(address) => std::net::TcpListener::bind(address),
            Self::Any(port) => match on(Ipv6Addr::UNSPECIFIED.into(), port) {
                Err(error) if error.kind() != std::io::ErrorKind::AddrInUse => {
                    on(Ipv4Addr::UNSPECIFIED.into(), port)
                }
                bound => bound,
            },
        }
    }
}

impl std::fmt::Display for ServeAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Any(port) => write!(f, ":{port}"),
            Self::One(address) => address.fmt(f),
        }
    }
}

fn parse_mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode @ 0..=0o777) => Ok(mode),
        _ => Err("not an octal mode from 0 to 777, as in 0660".to_owned()),
    }
}

fn parse_interval(text: &str) -> Result<Duration, String> {
    parse_within(text, &INTERVAL, "1ms to 10s")
}

fn parse_tcp_interval(text: &str) -> Result<Duration, String> {
    parse_within(text, &TCP_INTERVAL, "10ms to 1m")
}

fn parse_peak_window(text: &str) -> Result<Duration, String> {
    parse_within(text, &PEAK_WINDOW, "1s to 1d")
}

fn parse_within(
    text: &str,
    range: &std::ops::RangeInclusive<Duration>,
    printed: &str,
) -> Result<Duration, String> {
    let value = duration::parse(text).map_err(|e| e.to_string())?;
    if range.contains(&value) {
        Ok(value)
    } else {
        Err(format!("not in the range {printed}"))
    }
}

fn parse_check_duration(text: &str) -> Result<Duration, String> {
    parse_within(text, &CHECK_DURATION, "100ms to 1h")
}

fn parse_telemetry_path(text: &str) -> Result<String, String> {
    let inner = text.strip_prefix('/').unwrap_or_default();
    let inner = inner.strip_suffix('/').unwrap_or(inner);
    if text != "/" && !inner.split('/').all(is_segment) {
        return Err(
            "not a path that begins with / and contains only letters, digits and - . _ ~, as in /metrics"
                .to_owned(),
        );
    }
    if text.starts_with("/-/") || text.starts_with("/api/") {
        return Err("paths below /-/ and /api/ are reserved".to_owned());
    }
    Ok(text.to_owned())
}

/// Whether browsers and proxies leave a segment of a path as it is.
fn is_segment(segment: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._~".contains(c);
    !["", ".", ".."].contains(&segment) && segment.chars().all(plain)
}

/// The prefix without slashes at its end: empty for none.
fn parse_route_prefix(text: &str) -> Result<String, String> {
    if ["", "/"].contains(&text) {
        return Ok(String::new());
    }
    let inner = text.strip_prefix('/').unwrap_or(text);
    let inner = inner.strip_suffix('/').unwrap_or(inner);
    if inner.split('/').all(is_segment) {
        Ok(format!("/{inner}"))
    } else {
        Err("not a path that contains only letters, digits and - . _ ~ between single slashes, as in /queues".to_owned())
    }
}

fn parse_external_url(text: &str) -> Result<ExternalUrl, String> {
    let refuse = || {
        format!(
            "'{text}' is not a URL, as in https://example.org/queues, without a user, a query or a fragment"
        )
    };
    let uri: Uri = text.parse().map_err(|_| refuse())?;
    let (Some(scheme @ ("http" | "https")), Some(authority)) = (uri.scheme_str(), uri.authority())
    else {
        return Err(refuse());
    };
    let has_port = authority.as_str().len() > authority.host().len();
    let is_port_wrong = has_port && authority.port_u16().is_none();
    if authority.host().is_empty() || is_port_wrong || text.contains(['@', '?', '#']) {
        return Err(refuse());
    }
    Ok(ExternalUrl {
        origin: format!("{scheme}://{authority}"),
        path: parse_route_prefix(uri.path())?,
    })
}

fn parse_level(text: &str) -> Result<LevelFilter, String> {
    match text {
        "error" => Ok(LevelFilter::ERROR),
        "warn" => Ok(LevelFilter::WARN),
        "info" => Ok(LevelFilter::INFO),
        "debug" => Ok(LevelFilter::DEBUG),
        "trace" => Ok(LevelFilter::TRACE),
        _ => Err("not one of error, warn, info, debug, trace".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn order(arguments: &[&str]) -> Result<Order, String> {
        let arguments = std::iter::once(&"listen-queue-exporter").chain(arguments);
        parse(arguments.map(OsString::from)).map_err(|error| one_line(&error))
    }

    #[test]
    fn the_command_is_sound() {
        Flags::command().debug_assert();
    }

    /// Each long flag with its environment variable.
    fn variables(command: &clap::Command) -> BTreeMap<&str, Option<&str>> {
        let mut variables = BTreeMap::new();
        for argument in command.get_arguments() {
            if let Some(flag) = argument.get_long() {
                let variable = argument.get_env().map(|name| name.to_str().unwrap());
                variables.insert(flag, variable);
            }
        }
        variables
    }

    #[test]
    fn each_flag_has_the_environment_variable_of_its_name() {
        let command = Flags::command();
        for (flag, variable) in variables(&command) {
            let expected = flag.to_uppercase().replace(['.', '-'], "_");
            let expected = format!("LISTEN_QUEUE_EXPORTER_{expected}");
            assert_eq!(variable, Some(expected.as_str()), "--{flag}");
        }
    }

    #[test]
    fn check_shares_the_variables_of_the_flags_that_it_shares() {
        let command = Flags::command();
        let serving = variables(&command);
        let check = command.find_subcommand("check").unwrap();
        for (flag, variable) in variables(check) {
            let shared = serving.get(flag).copied().flatten();
            assert_eq!(variable, shared, "--{flag}");
        }
    }

    #[test]
    fn without_flags_everything_is_discovered_on_the_port() {
        let Order::Serve(options) = order(&[]).unwrap() else {
            panic!("not to serve")
        };
        assert!(options.selection.listeners.is_empty());
        assert_eq!(options.addresses, [ServeAddress::Any(PORT)]);
        assert_eq!(options.selection.limit, 256);
        assert_eq!(options.selection.interval, Duration::from_millis(10));
    }

    #[test]
    fn check_takes_the_same_listeners() {
        let arguments = [
            "check",
            "--listener",
            "tcp::80",
            "--for",
            "5s",
            "--format",
            "json",
        ];
        let Order::Check(options) = order(&arguments).unwrap() else {
            panic!("not to check")
        };
        assert_eq!(options.selection.listeners.len(), 1);
        assert_eq!(options.duration, Duration::from_secs(5));
        assert_eq!(options.format, CheckFormat::Json);
    }

    #[test]
    fn an_error_is_one_line_with_an_example_of_a_valid_value() {
        for (arguments, expected) in [
            (
                &["--listener", "unix:g.sock"][..],
                "'unix:g.sock': the path is relative",
            ),
            (
                &["--listener", "tcp::80", "--listener", "tcp::80"],
                "two listeners have the name 'tcp::80'",
            ),
            (&["--sample.interval", "1us"], "as in 10ms"),
            (&["--sample.interval", "11s"], "not in the range 1ms to 10s"),
            (
                &["--sample.tcp-interval", "2m"],
                "not in the range 10ms to 1m",
            ),
            (
                &["--sample.peak-window", "1ms"],
                "not in the range 1s to 1d",
            ),
            (
                &["--web.listen-address", "localhost:1"],
                "host names are not resolved",
            ),
            (&["--web.listen-address", "10128"], "as in :10128"),
            (&["--web.telemetry-path", "/{x}"], "as in /metrics"),
            (&["--web.telemetry-path", "/a/../b"], "as in /metrics"),
            (&["--web.telemetry-path", "metrics"], "as in /metrics"),
            (&["--web.route-prefix", "/a//b"], "between single slashes"),
            (&["--web.route-prefix", "//"], "between single slashes"),
            (&["--web.route-prefix", "/a/../b"], "as in /queues"),
            (&["--web.route-prefix", "/%41"], "as in /queues"),
            (&["--web.route-prefix", "/{a}"], "as in /queues"),
            (&["--web.external-url", "/queues"], "is not a URL"),
            (&["--web.external-url", "ftp://a/b"], "is not a URL"),
            (&["--web.external-url", "https:///b"], "is not a URL"),
            (
                &["--web.external-url", "https://a/b?c"],
                "without a user, a query",
            ),
            (&["--web.external-url", "https://a/b#c"], "or a fragment"),
            (&["--web.external-url", "https://u@a/b"], "without a user"),
            (&["--web.external-url", "https://a/b%20c"], "as in /queues"),
            (&["--web.external-url", "https://a:b/c"], "is not a URL"),
            (&["--web.external-url", "https://a:65536"], "is not a URL"),
            (&["--web.telemetry-path", "/.."], "as in /metrics"),
            (&["--web.telemetry-path", "/a/./b"], "as in /metrics"),
            (
                &["--web.systemd-socket", "--web.listen-address", ":1"],
                "cannot be used with",
            ),
            (&["--web.telemetry-path", "/-/ready"], "are reserved"),
            (&["--nginx.syslog", "tcp:1"], "as in unix:/run/"),
            (&["--nginx.syslog-mode", "999"], "as in 0660"),
            (&["--discover.exclude", "("], "--discover.exclude"),
            (&["--discover.include", "("], "--discover.include"),
            (
                &["--discover.include", "a", "--listener", "tcp::80"],
                "cannot be used with",
            ),
            (
                &["--discover.limit", "5", "--listener", "tcp::80"],
                "cannot be used with",
            ),
            (&["--web.telemetry-path", "/api/v1"], "are reserved"),
            (&["check", "--for", "2h"], "not in the range 100ms to 1h"),
            (&["check", "--format", "xml"], "table, json"),
            (
                &["check", "--listener", "x"],
                "invalid value for '--listener'",
            ),
            (
                &["check", "--web.listen-address", ":1"],
                "unexpected argument",
            ),
            (&["--log.level", "loud", "check"], "check"),
            (&["--log.level", "loud"], "error, warn, info"),
            (&["--log.format", "xml"], "logfmt, json"),
            (
                &["--listner", "x"],
                "a similar argument exists: '--listener'",
            ),
        ] {
            let line = order(arguments).unwrap_err();
            assert!(line.contains(expected), "{line}");
            assert!(!line.contains('\n'));
        }
    }

    #[test]
    fn the_prefix_is_that_of_the_flag_or_else_that_of_the_external_url() {
        let paths = |arguments: &[&str]| {
            let Order::Serve(options) = order(arguments).unwrap() else {
                panic!("not to serve")
            };
            (options.prefix, options.external_path)
        };
        let expected = |prefix: &str, external: &str| (prefix.to_owned(), external.to_owned());
        let url = "--web.external-url=https://example.org:8443/a/b/";
        assert_eq!(paths(&[]), expected("", ""));
        assert_eq!(paths(&[url]), expected("/a/b", "/a/b"));
        assert_eq!(paths(&[url, "--web.route-prefix=/"]), expected("", "/a/b"));
        assert_eq!(
            paths(&[url, "--web.route-prefix=c"]),
            expected("/c", "/a/b")
        );
        assert_eq!(paths(&["--web.route-prefix=/c/"]), expected("/c", "/c"));
        assert_eq!(
            parse_external_url("https://example.org")
                .unwrap()
                .to_string(),
            "https://example.org/"
        );
    }

    #[test]
    fn a_variable_that_belongs_to_no_flag_is_unknown_unless_kubernetes_sets_it_for_a_service() {
        let unknown = |variables: &[(&str, &str)]| {
            let variables = variables.iter();
            unknown_variables(variables.map(|(name, value)| (name.into(), value.into())))
        };
        assert_eq!(
            unknown(&[
                ("LISTEN_QUEUE_LISTENER", "tcp::80"),
                ("LISTEN_QUEUE_EXPORTER_PORT", "8080"),
                ("LISTEN_QUEUE_EXPORTER_LISTENERS", "tcp::80"),
                ("LISTEN_QUEUE_EXPORTER_LISTENER", "tcp::80"),
                ("LISTEN_QUEUE_EXPORTER_LOG_LEVEL", "info"),
                ("LISTENER", "tcp::80"),
            ]),
            [
                "LISTEN_QUEUE_EXPORTER_LISTENERS",
                "LISTEN_QUEUE_EXPORTER_PORT",
                "LISTEN_QUEUE_LISTENER"
            ]
        );
        assert_eq!(
            unknown(&[
                ("LISTEN_QUEUE_EXPORTER_SERVICE_HOST", "10.96.0.7"),
                ("LISTEN_QUEUE_EXPORTER_SERVICE_PORT", "10128"),
                ("LISTEN_QUEUE_EXPORTER_SERVICE_PORT_LQ_METRICS", "10128"),
                ("LISTEN_QUEUE_EXPORTER_PORT", "tcp://10.96.0.7:10128"),
                (
                    "LISTEN_QUEUE_EXPORTER_PORT_10128_TCP",
                    "tcp://10.96.0.7:10128"
                ),
                ("LISTEN_QUEUE_EXPORTER_PORT_10128_TCP_PROTO", "tcp"),
                ("LISTEN_QUEUE_EXPORTER_PORT_10128_TCP_PORT", "10128"),
                ("LISTEN_QUEUE_EXPORTER_PORT_10128_TCP_ADDR", "10.96.0.7"),
                ("LISTEN_QUEUE_EXPORTER_NODE_SERVICE_HOST", "10.96.0.8"),
            ]),
            [""; 0]
        );
    }

    #[test]
    fn a_value_from_the_environment_is_split_at_blanks() {
        let texts = vec!["tcp::80 unix:/a\n".to_owned()];
        assert_eq!(
            values(&texts, true).collect::<Vec<_>>(),
            ["tcp::80", "unix:/a"]
        );
        assert_eq!(values(&texts, false).collect::<Vec<_>>(), texts);
    }
}
