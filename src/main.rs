//! The exporter's binary: flags in, threads wired, signals obeyed.

#![warn(clippy::unwrap_used, clippy::expect_used)]

use std::io::{self, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use anyhow::Context as _;
use listen_queue_exporter::cli::{self, Options, Order};
use listen_queue_exporter::http::{self, App, Pages, Streams, WebConfig};
use listen_queue_exporter::kernel::namespace;
use listen_queue_exporter::ledger::Ledger;
use listen_queue_exporter::refusals::{Ebpf, Receiver, SyslogAddress, Witness};
use listen_queue_exporter::sampler::{self, Discovery, Watch};
use listen_queue_exporter::{check, journal, logging};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// Events that wait for the log. More are dropped: the sampler does not wait.
const PENDING_EVENTS: usize = 1024;

fn main() -> ExitCode {
    let order = match cli::parse(std::env::args_os()) {
        Ok(order) => order,
        Err(error) if error.exit_code() == 0 => {
            // Help and version go to standard output; nobody is left to tell if that is closed.
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            complain(format_args!("{}", cli::one_line(&error)));
            return ExitCode::from(2);
        }
    };
    let outcome = match order {
        Order::Serve(options) => run(*options),
        Order::Check(options) => return check::run(options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(format_args!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Says it on one line, whatever is in it.
fn complain(line: std::fmt::Arguments) {
    let line = line.to_string().replace(char::is_control, " ");
    // The exit code tells, too, where standard error cannot be written.
    let _ = writeln!(io::stderr(), "{line}");
}

fn run(options: Options) -> anyhow::Result<()> {
    let (flags, selection) = (options.flags, options.selection);
    let _log = logging::start(flags.log_level, flags.log_format).context("cannot start the log")?;
    check_procfs(&selection.procfs)?;
    let web_config = flags.web_config_file.map(open_web_config).transpose()?;
    let listeners = bind(&options.addresses)?;
    let ledger = Arc::new(Mutex::new(Ledger::new(
        selection.interval,
        flags.sample_peak_window,
    )));
    let discovery = Discovery {
        exclude: selection.exclude,
        limit: selection.limit,
        own: own_inodes(&listeners)?,
    };
    let (nginx_log, _removed_at_end) = match &flags.nginx_syslog {
        Some(address) => Some(receive(address, flags.nginx_syslog_mode)?).unzip(),
        None => (None, None),
    };
    let ebpf = flags
        .ebpf
        .then(|| Ebpf::attach(own_network_namespace(&selection.procfs)));
    let (events, log) = mpsc::channel(PENDING_EVENTS);
    let config = sampler::Config {
        interval: selection.interval,
        tcp_interval: flags.sample_tcp_interval,
        watch: Watch::new(selection.listeners, discovery),
        nginx_log,
        ebpf,
        procfs: selection.procfs,
    };
    let streams = Streams::default();
    let app = App {
        ledger: ledger.clone(),
        interval: selection.interval,
        telemetry_path: flags.web_telemetry_path,
        now: sampler::now,
        streams: streams.clone(),
        pages: Pages::default(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // For passwords, which are checked one at a time.
        .max_blocking_threads(1)
        .build()
        .context("cannot start the HTTP runtime")?;
    let outcome = runtime.block_on(async {
        let shutdown = shutdown(streams)?;
        sampler::start(config, ledger, move |event| {
            // A full channel drops the line, never the round.
            let _ = events.try_send(event);
        })
        .context("cannot start the sampler's thread")?;
        tokio::spawn(write_log(log));
        for listener in &listeners {
            tracing::info!(address = %listener.local_addr()?, "listening");
        }
        let mut router = http::router(app);
        if let Some(config) = &web_config {
            router = http::protect(router, Arc::clone(config));
        }
        http::serve(listeners, router, web_config, http::LIMITS, shutdown)
            .await
            .context("cannot serve")
    });
    // A password that is still being checked is waited for by nobody.
    runtime.shutdown_background();
    outcome
}

/// The figures come from below here, so a wrong path is told at once.
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
                io::ErrorKind::AddrInUse => "another process listens there: choose another",
                io::ErrorKind::PermissionDenied => {
                    "this user may not use that port: choose one above 1023"
                }
                io::ErrorKind::AddrNotAvailable => {
                    "this network namespace has no such address: choose another"
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

fn receive(address: &SyslogAddress, mode: u32) -> anyhow::Result<(Witness, impl Sized)> {
    let receiver = Receiver::bind(address, mode)
        .with_context(|| format!("cannot receive nginx's log at --nginx.syslog {address}"))?;
    let started = receiver
        .start()
        .context("cannot start the thread for nginx's log")?;
    tracing::info!(%address, "receiving nginx's log");
    Ok(started)
}

fn own_network_namespace(procfs: &Path) -> Result<u32, String> {
    namespace::network(procfs)
        .map_err(|error| format!("cannot tell the own network namespace: {error}"))
}

/// The sockets by which discovery knows this process' own listeners.
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

/// Resolves at the first SIGTERM or SIGINT; the second ends the process at once.
fn shutdown(streams: Streams) -> io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => tracing::info!(signal = "SIGTERM", "ending"),
            _ = interrupt.recv() => tracing::info!(signal = "SIGINT", "ending"),
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
