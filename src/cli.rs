//! The command line: flags with their environment variables, and one clear line for what is wrong.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use regex_lite::Regex;
use tracing::level_filters::LevelFilter;

use crate::duration;
use crate::listener::Listener;
use crate::logging::Format;
use crate::refusals::{self, SyslogAddress};

/// The port on which the metrics are, registered nowhere and the same in every manifest.
pub const PORT: u16 = 10128;
/// What the environment variable of a flag begins with.
pub const ENVIRONMENT_PREFIX: &str = "LISTEN_QUEUE_EXPORTER_";

const INTERVAL: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(1)..=Duration::from_secs(10);
const TCP_INTERVAL: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(10)..=Duration::from_mins(1);
const LOOK: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_hours(1);
const PEAK_WINDOW: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_hours(24);

/// What the user asked for.
#[derive(Debug, Parser)]
#[command(
    name = "listen-queue-exporter",
    version = concat!(env!("CARGO_PKG_VERSION")),
    about = "Prometheus exporter for the accept queues of listening sockets: depth, limit and drops, unix and TCP, without privileges.",
    after_help = "Each flag can be given as an environment variable: LISTEN_QUEUE_EXPORTER_ and the flag in upper case, with dots and dashes as \
                  underscores. LISTEN_QUEUE_EXPORTER_LISTENER and LISTEN_QUEUE_EXPORTER_WEB_LISTEN_ADDRESS may hold several values, set apart by \
                  blanks or line ends.",
    args_conflicts_with_subcommands = true,
    max_term_width = 110
)]
pub struct Flags {
    #[command(subcommand)]
    command: Option<Command>,

    #[command(flatten)]
    selection: SelectionFlags,

    /// Time between looks at the connections in a TCP queue that is not empty, from 10ms to 1m: the source of their waits and of the SYN queue's
    /// depth. A look walks the TCP table of the whole host.
    #[arg(
        long = "sample.tcp-interval",
        value_name = "DURATION",
        help_heading = "Sampling",
        env = "LISTEN_QUEUE_EXPORTER_SAMPLE_TCP_INTERVAL",
        default_value = "1s",
        value_parser = parse_tcp_interval
    )]
    pub sample_tcp_interval: Duration,

    /// Window of listen_queue_depth_peak, from 1s to 1d. At least the scrape interval, or peaks between scrapes are lost.
    #[arg(
        long = "sample.peak-window",
        value_name = "DURATION",
        help_heading = "Sampling",
        env = "LISTEN_QUEUE_EXPORTER_SAMPLE_PEAK_WINDOW",
        default_value = "60s",
        value_parser = parse_peak_window
    )]
    pub sample_peak_window: Duration,

    /// Address to serve on, [IP]:PORT. Without an IP, all addresses of both families. Repeatable.
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

    /// File with TLS, users and headers, in the format of the Prometheus exporter-toolkit. Read again at each connection and request.
    #[arg(
        long = "web.config.file",
        value_name = "PATH",
        help_heading = "Web",
        env = "LISTEN_QUEUE_EXPORTER_WEB_CONFIG_FILE"
    )]
    pub web_config_file: Option<PathBuf>,

    /// Receive nginx's error log here, to count refused connects: unix:/path (a socket file that the exporter makes) or udp:IP:PORT. nginx
    /// sends it with: error_log syslog:server=unix:/path,nohostname error;
    #[arg(
        long = "nginx.syslog",
        value_name = "ADDRESS",
        help_heading = "Refused connects",
        env = "LISTEN_QUEUE_EXPORTER_NGINX_SYSLOG",
        value_parser = SyslogAddress::parse
    )]
    pub nginx_syslog: Option<SyslogAddress>,

    /// Mode of the socket file of --nginx.syslog, octal. nginx's user has to be able to write to it.
    #[arg(
        long = "nginx.syslog-mode",
        value_name = "MODE",
        help_heading = "Refused connects",
        env = "LISTEN_QUEUE_EXPORTER_NGINX_SYSLOG_MODE",
        default_value = "0666",
        value_parser = parse_mode
    )]
    pub nginx_syslog_mode: u32,

    /// Count refused connects in the kernel with eBPF, whoever makes them. Needs a build with the feature ebpf, or it is a bad flag, and the
    /// capabilities BPF and PERFMON; without these the log says so and everything else works.
    #[arg(
        long,
        help_heading = "Refused connects",
        env = "LISTEN_QUEUE_EXPORTER_EBPF",
        value_parser = clap::builder::BoolishValueParser::new()
    )]
    pub ebpf: bool,

    /// Least severe messages to log: error, warn, info, debug or trace.
    #[arg(
        long = "log.level",
        value_name = "LEVEL",
        help_heading = "Log",
        env = "LISTEN_QUEUE_EXPORTER_LOG_LEVEL",
        default_value = "info",
        value_parser = parse_level
    )]
    pub log_level: LevelFilter,

    /// How log lines look.
    #[arg(
        long = "log.format",
        value_name = "FORMAT",
        help_heading = "Log",
        env = "LISTEN_QUEUE_EXPORTER_LOG_FORMAT",
        default_value = "logfmt"
    )]
    pub log_format: Format,
}

/// Which listeners are looked at, and how often: the same for serving and for `check`.
#[derive(Debug, Args)]
struct SelectionFlags {
    /// A listener to watch, instead of all: [NAME=]ADDRESS[,backlog=N]. ADDRESS is unix:/path, unix:@abstract, tcp:HOST:PORT, tcp::PORT (every
    /// wildcard listener of the port) or tcp:[::1]:PORT; \xNN stands for a byte. backlog=N tells what the application asks of listen(2).
    /// Repeatable.
    #[arg(
        long,
        value_name = "LISTENER",
        help_heading = "Listeners",
        env = "LISTEN_QUEUE_EXPORTER_LISTENER"
    )]
    listener: Vec<String>,

    /// Leave out discovered listeners whose address matches this regular expression anywhere.
    #[arg(
        long = "discover.exclude",
        value_name = "REGEX",
        help_heading = "Listeners",
        env = "LISTEN_QUEUE_EXPORTER_DISCOVER_EXCLUDE",
        conflicts_with = "listener"
    )]
    discover_exclude: Option<Regex>,

    /// Watch at most this many discovered listeners; listen_queue_discovery_ignored_listeners counts the others.
    #[arg(
        long = "discover.limit",
        value_name = "N",
        help_heading = "Listeners",
        env = "LISTEN_QUEUE_EXPORTER_DISCOVER_LIMIT",
        default_value_t = 256,
        conflicts_with = "listener"
    )]
    discover_limit: usize,

    /// Time between samples, from 1ms to 10s.
    #[arg(
        long = "sample.interval",
        value_name = "DURATION",
        help_heading = "Sampling",
        env = "LISTEN_QUEUE_EXPORTER_SAMPLE_INTERVAL",
        default_value = "10ms",
        value_parser = parse_interval
    )]
    sample_interval: Duration,

    /// Where procfs is mounted.
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
    /// Look once, without serving: a table, what is wrong and what to do about it, and an exit code: 0 nothing wrong, 1 something is near its
    /// limit or does not move, 2 a bad flag, 3 full or refusing, 4 could not look.
    Check(CheckFlags),
}

/// Flags of `check`.
#[derive(Debug, Args)]
struct CheckFlags {
    #[command(flatten)]
    selection: SelectionFlags,

    /// How long to look, from 100ms to 1h.
    #[arg(
        long = "for",
        value_name = "DURATION",
        default_value = "1s",
        value_parser = parse_look
    )]
    look: Duration,

    /// How to print what was found.
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    format: CheckFormat,
}

/// How `check` prints what it found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CheckFormat {
    /// For people, fitted to the terminal.
    Table,
    /// For programs.
    Json,
}

/// What to do.
#[derive(Debug)]
pub enum Order {
    /// Serve metrics.
    Serve(Box<Options>),
    /// Look once.
    Check(CheckOptions),
}

/// Which listeners are looked at, and how often.
#[derive(Debug)]
pub struct Selection {
    /// Listeners to watch; empty for all.
    pub listeners: Vec<Listener>,
    /// What discovery leaves out.
    pub exclude: Option<Regex>,
    /// Most listeners that discovery watches.
    pub limit: usize,
    /// Time between samples.
    pub interval: Duration,
    /// Where procfs is mounted.
    pub procfs: PathBuf,
}

/// Flags of `check` whose values were checked.
#[derive(Debug)]
pub struct CheckOptions {
    /// What to look at.
    pub selection: Selection,
    /// How long.
    pub look: Duration,
    /// How to print it.
    pub format: CheckFormat,
}

/// Flags whose values were checked and turned into what they mean.
#[derive(Debug)]
pub struct Options {
    /// The flags that mean what they say.
    pub flags: Flags,
    /// What to look at.
    pub selection: Selection,
    /// Addresses to serve on.
    pub addresses: Vec<ServeAddress>,
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
/// `--help` and `--version`, which are no failure, and a bad flag or value.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Order, clap::Error> {
    let mut command = without_empty_variables(Flags::command());
    let matches = command.try_get_matches_from_mut(arguments)?;
    let flags = Flags::from_arg_matches(&matches)?;
    if flags.ebpf && !refusals::EBPF_BUILT {
        let message = "--ebpf: this build is without eBPF; take an image built with `--build-arg FEATURES=ebpf`, or `cargo build --release --features ebpf`";
        return Err(command.error(ErrorKind::InvalidValue, message));
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
        return Ok(Order::Check(CheckOptions {
            selection,
            look: check.look,
            format: check.format,
        }));
    }
    let selection =
        select(&flags.selection, &matches).map_err(|reason| refuse("listener", reason))?;
    let split = from_environment(&matches, "web_listen_address");
    let addresses = values(&flags.web_listen_address, split)
        .map(parse_serve_address)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|reason| refuse("web.listen-address", reason))?;
    Ok(Order::Serve(Box::new(Options {
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
    Ok(Selection {
        listeners,
        exclude: flags.discover_exclude.clone(),
        limit: flags.discover_limit,
        interval: flags.sample_interval,
        procfs: flags.path_procfs.clone(),
    })
}

/// An empty variable, or a blank one, as env files and manifests have them, is none.
fn without_empty_variables(command: clap::Command) -> clap::Command {
    let is_blank = |value: OsString| value.as_encoded_bytes().trim_ascii().is_empty();
    let ignore = |argument: Arg| match argument.get_env() {
        Some(name) if std::env::var_os(name).is_some_and(is_blank) => argument.env(None),
        _ => argument,
    };
    command
        .mut_args(ignore)
        .mut_subcommands(|subcommand| subcommand.mut_args(ignore))
}

fn from_environment(matches: &ArgMatches, id: &str) -> bool {
    matches.value_source(id) == Some(ValueSource::EnvVariable)
}

/// The error on one line, without the usage that clap prints below it.
#[must_use]
pub fn one_line(error: &clap::Error) -> String {
    if error.kind() == ErrorKind::InvalidUtf8 {
        return "error: an argument is not UTF-8; write such bytes as \\xNN, as in --listener 'unix:/run/\\xff.sock'".to_owned();
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

/// The values, which blanks and line ends set apart where they came from the environment.
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
                "two listeners are named '{}'; name one of them, as in other={}",
                listener.name, listener.address
            ));
        }
    }
    Ok(listeners)
}

fn parse_serve_address(text: &str) -> Result<ServeAddress, String> {
    let refuse = || {
        format!(
            "'{text}' is not [IP]:PORT, as in :{PORT}, 127.0.0.1:{PORT} or [::1]:{PORT} (names are not looked up)"
        )
    };
    if let Some(port) = text.strip_prefix(':') {
        return port.parse().map(ServeAddress::Any).map_err(|_| refuse());
    }
    text.parse().map(ServeAddress::One).map_err(|_| refuse())
}

impl ServeAddress {
    /// Opens the listening socket. Where IPv6 is off, all addresses are those of IPv4.
    ///
    /// # Errors
    /// When the port is taken or the address is not this machine's.
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
        Err(format!("not within {printed}"))
    }
}

fn parse_look(text: &str) -> Result<Duration, String> {
    parse_within(text, &LOOK, "100ms to 1h")
}

fn parse_telemetry_path(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/-._~".contains(c);
    if !text.starts_with('/') || !text.chars().all(plain) || text.contains("//") {
        return Err(
            "not a path of letters, digits and - . _ ~ that begins with /, as in /metrics"
                .to_owned(),
        );
    }
    if text.starts_with("/-/") || text.starts_with("/api/") {
        return Err("paths below /-/ and /api/ are taken".to_owned());
    }
    Ok(text.to_owned())
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
        assert_eq!(options.look, Duration::from_secs(5));
        assert_eq!(options.format, CheckFormat::Json);
    }

    #[test]
    fn what_is_wrong_is_one_line_that_says_what_a_good_one_looks_like() {
        for (arguments, expected) in [
            (
                &["--listener", "unix:g.sock"][..],
                "'unix:g.sock': the path is relative",
            ),
            (
                &["--listener", "tcp::80", "--listener", "tcp::80"],
                "two listeners are named 'tcp::80'",
            ),
            (&["--sample.interval", "1us"], "as in 10ms"),
            (&["--sample.interval", "11s"], "not within 1ms to 10s"),
            (&["--sample.tcp-interval", "2m"], "not within 10ms to 1m"),
            (&["--sample.peak-window", "1ms"], "not within 1s to 1d"),
            (
                &["--web.listen-address", "localhost:1"],
                "names are not looked up",
            ),
            (&["--web.listen-address", "10128"], "as in :10128"),
            (&["--web.telemetry-path", "/{x}"], "as in /metrics"),
            (&["--web.telemetry-path", "/-/ready"], "are taken"),
            (&["--nginx.syslog", "tcp:1"], "as in unix:/run/"),
            (&["--nginx.syslog-mode", "999"], "as in 0660"),
            (&["--discover.exclude", "("], "--discover.exclude"),
            (
                &["--discover.limit", "5", "--listener", "tcp::80"],
                "cannot be used with",
            ),
            (&["--web.telemetry-path", "/api/v1"], "are taken"),
            (&["check", "--for", "2h"], "not within 100ms to 1h"),
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
    fn a_value_from_the_environment_is_split_at_blanks() {
        let texts = vec!["tcp::80 unix:/a\n".to_owned()];
        assert_eq!(
            values(&texts, true).collect::<Vec<_>>(),
            ["tcp::80", "unix:/a"]
        );
        assert_eq!(values(&texts, false).collect::<Vec<_>>(), texts);
    }
}
