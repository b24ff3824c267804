//! The binary of the exporter: it reads the flags, starts the threads and handles signals.

#![warn(clippy::unwrap_used, clippy::expect_used)]

use std::io::{self, IsTerminal as _, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use clap::error::ErrorKind;
use listen_queue_exporter::cli::{self, ExternalUrl, Options, Order};
use listen_queue_exporter::counted::counted;
use listen_queue_exporter::http::{self, App, Pages, Streams, WebConfig};
use listen_queue_exporter::kernel::namespace;
use listen_queue_exporter::kernel::open_files::OpenFiles;
use listen_queue_exporter::ledger::{Ledger, ListenerLedger};
use listen_queue_exporter::metrics::{Extent, Histograms};
use listen_queue_exporter::refusals::{Ebpf, LogSource, Receiver, Scope, SyslogAddress};
use listen_queue_exporter::sampler::{self, Discovery, Watch};
use listen_queue_exporter::{check, journal, logging};
use listenfd::ListenFd;
use rustix::io::Errno;
use rustix::net::sockopt::socket_acceptconn;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// Maximum number of events waiting for the log. Further events are dropped: the sampler does not wait.
const PENDING_EVENTS: usize = 1024;

/// File descriptors in use besides the inherited ones, those of the sockets that it serves on and connections, including those used briefly.
const OWN_FILES: u64 = 24;
/// Minimum number of connections: one for a scrape, and some that wait.
const LEAST_CONNECTIONS: u64 = 4;

/// What is logged about an environment variable that no flag reads.
const UNKNOWN_VARIABLE: &str =
    "this environment variable belongs to no flag and has no effect; --help lists all variables";

fn main() -> ExitCode {
    let order = match cli::parse(std::env::args_os()) {
        Ok(order) => order,
        Err(error) if error.kind() == ErrorKind::DisplayVersion => {
            let _ = write!(io::stdout(), "{}", cli::version());
            return ExitCode::SUCCESS;
        }
        Err(error) if error.exit_code() == 0 => {
            // Help and version go to standard output. If that is closed, there is no other place to report it.
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            complain(format_args!("{}", cli::one_line(&error)));
            return ExitCode::from(2);
        }
    };
    let unknown = cli::unknown_variables(std::env::vars_os());
    let warn = || {
        for variable in &unknown {
            complain(format_args!("warning: {variable}: {UNKNOWN_VARIABLE}"));
        }
    };
    let outcome = match order {
        Order::Serve(options) if options.flags.config_check => {
            warn();
            return check_config(*options);
        }
        Order::Serve(options) => run(*options, &unknown),
        Order::Check(options) => {
            warn();
            return check::run(*options);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(format_args!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Writes a message to standard error as exactly one line.
fn complain(line: std::fmt::Arguments) {
    let line = line.to_string().replace(char::is_control, " ");
    // If standard error cannot be written, the exit code still reports the failure.
    let _ = writeln!(io::stderr(), "{line}");
}

/// Reports whether the flags, which have been read, and the web config can be used.
fn check_config(options: Options) -> ExitCode {
    let opened = options.flags.web_config_file.map(open_web_config);
    if let Some(Err(error)) = opened {
        complain(format_args!("error: {error:#}"));
        return ExitCode::from(2);
    }
    let _ = writeln!(io::stdout(), "the configuration is valid");
    ExitCode::SUCCESS
}

fn run(options: Options, unknown_variables: &[String]) -> anyhow::Result<()> {
    let limits = within_open_files(http::LIMITS, &options)?;
    let (flags, selection) = (options.flags, options.selection);
    let is_node = selection.node.is_some();
    let _log = logging::start(flags.log_level, flags.log_format).context("cannot start the log")?;
    for variable in unknown_variables {
        tracing::warn!(variable, "{UNKNOWN_VARIABLE}");
    }
    check_procfs(&selection.procfs)?;
    let web_config = flags.web_config_file.map(open_web_config).transpose()?;
    let listeners = if flags.web_systemd_socket {
        passed_sockets()?
    } else {
        bind(&options.addresses)?
    };
    let mut ledger = Ledger::new(selection.interval, flags.sample_peak_window);
    if !selection.idle {
        ledger = ledger.without_idle();
    }
    let ledger = Arc::new(Mutex::new(ledger));
    let discovery = Discovery {
        filter: selection.filter,
        limit: selection.limit,
        own: own_inodes(&listeners)?,
    };
    let (nginx_log, _removed_at_end) = match &flags.nginx_syslog {
        Some(address) => Some(receive(address, flags.nginx_syslog_mode)?).unzip(),
        None => (None, None),
    };
    let ebpf = flags
        .ebpf
        .then(|| Ebpf::attach(ebpf_scope(is_node, &selection.procfs)));
    let (events, log) = mpsc::channel(PENDING_EVENTS);
    let config = sampler::Config {
        interval: selection.interval,
        tcp_interval: flags.sample_tcp_interval,
        watch: Watch::new(selection.listeners, discovery, selection.node.as_ref()),
        nginx_log,
        ebpf,
        procfs: selection.procfs,
        node: selection.node,
    };
    let (streams, pages) = (Streams::default(), Pages::default());
    let (prefix, welcomed) = (options.prefix, ledger.clone());
    let extent = Extent {
        histograms: if flags.web_disable_histogram_buckets {
            Histograms::WithoutBuckets
        } else {
            Histograms::Whole
        },
        without_exporter: flags.web_disable_exporter_metrics,
    };
    let app = App {
        ledger: ledger.clone(),
        interval: selection.interval,
        prefix: prefix.clone(),
        external_path: options.external_path,
        telemetry_path: flags.web_telemetry_path,
        extent,
        now: sampler::now,
        streams: streams.clone(),
        pages: pages.clone(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // For passwords, which are checked one at a time.
        .max_blocking_threads(1)
        .build()
        .context("cannot start the HTTP runtime")?;
    let outcome = runtime.block_on(async {
        let shutdown = shutdown(streams)?;
        ignore_hangups()?;
        sampler::start(config, ledger, move |event| {
            // If the channel is full, the line is dropped, never the round.
            let _ = events.try_send(event);
        })
        .context("cannot start the sampler thread")?;
        tokio::spawn(write_log(log));
        for listener in &listeners {
            tracing::info!(address = %listener.local_addr()?, "listening");
        }
        if is_first_try() {
            let url = page_url(
                flags.web_external_url.as_ref(),
                &prefix,
                &listeners,
                web_config.as_deref(),
            )?;
            tokio::spawn(welcome(welcomed, url));
        }
        let mut router = http::router(app);
        if let Some(config) = &web_config {
            router = http::protect(router, Arc::clone(config));
        }
        let wanted = pages.wanted();
        http::serve(listeners, router, web_config, limits, wanted, shutdown)
            .await
            .context("cannot serve")
    });
    // Do not wait for a password that is still being checked.
    runtime.shutdown_background();
    outcome
}

/// Whether a user tries the exporter in a terminal without flags.
fn is_first_try() -> bool {
    std::env::args_os().len() == 1 && io::stderr().is_terminal()
}

/// Address of the live page.
fn page_url(
    external: Option<&ExternalUrl>,
    prefix: &str,
    listeners: &[TcpListener],
    web_config: Option<&WebConfig>,
) -> io::Result<String> {
    if let Some(url) = external {
        return Ok(url.to_string());
    }
    let scheme = if web_config.is_some_and(WebConfig::has_tls) {
        "https"
    } else {
        "http"
    };
    let address = listeners.first().map(TcpListener::local_addr).transpose()?;
    let host = match address {
        Some(address) if !address.ip().is_unspecified() => address.to_string(),
        address => format!(
            "localhost:{}",
            address.map_or(cli::PORT, |address| address.port())
        ),
    };
    Ok(format!("{scheme}://{host}{prefix}/"))
}

/// Prints on one line what the first sample found and the address of the page.
async fn welcome(ledger: Arc<Mutex<Ledger>>, url: String) {
    let found = loop {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let ledger = ledger.lock().unwrap_or_else(PoisonError::into_inner);
        let view = ledger.view();
        if view.last_sample.is_some() {
            break view
                .listeners
                .iter()
                .map(ListenerLedger::title)
                .collect::<Vec<_>>();
        }
    };
    let count = counted(found.len() as u64, "listener");
    let listeners = match found.as_slice() {
        [] => "no listener yet".to_owned(),
        [one] => format!("{count} ({one})"),
        [first, second] => format!("{count} ({first}, {second})"),
        [first, second, ..] => format!("{count} ({first}, {second}, ...)"),
    };
    complain(format_args!("Found {listeners}. Live page: {url}"));
}

/// Limits the connections to the file descriptors that remain besides the inherited ones, those for sampling and those of the sockets that are
/// opened to serve on.
fn within_open_files(limits: http::Limits, options: &Options) -> anyhow::Result<http::Limits> {
    let Some(files) = OpenFiles::read(&options.selection.procfs) else {
        return Ok(limits);
    };
    let own = if options.flags.web_systemd_socket {
        OWN_FILES
    } else {
        OWN_FILES + options.addresses.len() as u64
    };
    files.require(own + LEAST_CONNECTIONS)?;
    let left = u32::try_from(files.room() - own).unwrap_or(u32::MAX);
    let connections = limits.connections.min(left);
    Ok(http::Limits {
        connections,
        ..limits
    })
}

/// All figures are read below this path, so an invalid path is reported at once.
fn check_procfs(procfs: &Path) -> anyhow::Result<()> {
    let probe = procfs.join("self/stat");
    std::fs::read(&probe).map(|_| ()).with_context(|| {
        format!(
            "cannot read {}; is procfs mounted at --path.procfs {}?",
            probe.display(),
            procfs.display()
        )
    })
}

fn open_web_config(path: PathBuf) -> anyhow::Result<Arc<WebConfig>> {
    let printed = path.display().to_string();
    let config = WebConfig::open(path)
        .map_err(|error| anyhow::anyhow!("cannot use --web.config.file {printed}: {error}"))?;
    Ok(Arc::new(config))
}

fn bind(addresses: &[cli::ServeAddress]) -> anyhow::Result<Vec<TcpListener>> {
    let bind = |address: &cli::ServeAddress| {
        address.bind().map_err(|error| {
            let cause = match error.kind() {
                io::ErrorKind::AddrInUse => "another process listens on it: choose another address",
                io::ErrorKind::PermissionDenied => {
                    "this user may not use the port: choose one above 1023"
                }
                io::ErrorKind::AddrNotAvailable => {
                    "this network namespace does not have the address: choose another"
                }
                _ => "choose another",
            };
            anyhow::anyhow!(
                "cannot listen on {address}: {error}; {cause} with --web.listen-address"
            )
        })
    };
    addresses.iter().map(bind).collect()
}

/// The listening sockets that systemd has opened for this process.
fn passed_sockets() -> anyhow::Result<Vec<TcpListener>> {
    let mut passed = ListenFd::from_env();
    let count = passed.len();
    anyhow::ensure!(
        count > 0,
        "--web.systemd-socket: systemd passed no socket (LISTEN_FDS and LISTEN_PID); start the exporter with a .socket unit"
    );
    let take = |index| {
        let listener = passed.take_tcp_listener(index);
        let listener = listener
            .ok()
            .flatten()
            .filter(|listener| socket_acceptconn(listener).unwrap_or(false));
        listener.with_context(|| {
            format!("--web.systemd-socket: socket {} of those that systemd passed is not a listening TCP socket; use ListenStream= with a port in the .socket unit", index + 1)
        })
    };
    (0..count).map(take).collect()
}

fn receive(address: &SyslogAddress, mode: u32) -> anyhow::Result<(LogSource, impl Sized)> {
    let receiver = Receiver::bind(address, mode).map_err(|error| {
        let remedy = match address {
            SyslogAddress::Unix(path) => directory_remedy(path, &error),
            SyslogAddress::Udp(_) => String::new(),
        };
        anyhow::anyhow!(
            "cannot receive the log of nginx at --nginx.syslog {address}: {error}{remedy}"
        )
    })?;
    let started = receiver
        .start()
        .context("cannot start the thread that receives the log of nginx")?;
    tracing::info!(%address, "receiving the log of nginx");
    Ok(started)
}

/// What to do if a socket file cannot be created because of its directory.
fn directory_remedy(path: &Path, error: &io::Error) -> String {
    let directory = path.parent().unwrap_or(path).display();
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOENT) => format!(
            "; create the directory {directory}, in which the user of the exporter can create files (systemd: RuntimeDirectory=)"
        ),
        Some(Errno::ACCESS | Errno::ROFS) => format!(
            "; the user of the exporter must be able to search the directory {directory} and to create files in it"
        ),
        _ => String::new(),
    }
}

/// The clients whose refused connects the kernel counts: those of the watched network namespaces.
fn ebpf_scope(is_node: bool, procfs: &Path) -> Result<Scope, String> {
    if is_node {
        return Ok(Scope::All);
    }
    own_network_namespace(procfs).map(Scope::One)
}

fn own_network_namespace(procfs: &Path) -> Result<u32, String> {
    let number = namespace::network(&procfs.join("self"));
    let number = number.and_then(|number| u32::try_from(number).map_err(io::Error::other));
    number
        .map_err(|error| format!("cannot determine the network namespace of the exporter: {error}"))
}

/// The sockets by which discovery recognises the listeners of this process.
fn own_inodes(listeners: &[TcpListener]) -> anyhow::Result<Vec<u32>> {
    let inode = |listener: &TcpListener| -> anyhow::Result<u32> {
        let stat = rustix::fs::fstat(listener)?;
        Ok(u32::try_from(stat.st_ino)?)
    };
    listeners.iter().map(inode).collect()
}

async fn write_log(mut events: mpsc::Receiver<listen_queue_exporter::ledger::Event>) {
    while let Some(event) = events.recv().await {
        journal::write(&event);
    }
}

/// SIGHUP asks many programs to read their configuration again. Here there is nothing to do, and the process must not end.
fn ignore_hangups() -> io::Result<()> {
    let mut hangups = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        while hangups.recv().await.is_some() {
            tracing::info!(
                signal = "SIGHUP",
                "nothing to reload: --web.config.file is read again at each connection, and flags require a restart"
            );
        }
    });
    Ok(())
}

/// Resolves at the first SIGTERM or SIGINT. The second ends the process at once.
fn shutdown(streams: Streams) -> io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => tracing::info!(signal = "SIGTERM", "shutting down"),
            _ = interrupt.recv() => tracing::info!(signal = "SIGINT", "shutting down"),
        }
        streams.close();
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            std::process::exit(1);
        });
    })
}
