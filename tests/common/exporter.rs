//! The exporter as a process, as a user starts it.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use rustix::process::Signal;

use super::exposition::Page;
use super::http::{self, Answer};
use super::program::Process;
use super::wait;

/// The binary under test.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_listen-queue-exporter");

#[derive(Debug)]
pub(crate) struct Exporter {
    process: Process,
    log: Arc<Mutex<String>>,
    address: SocketAddr,
}

impl Exporter {
    /// Starts it on a free port of loopback and waits for its first round.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        Self::spawn(Self::command(arguments))
    }

    pub(crate) fn command(arguments: &[&str]) -> Command {
        let mut command = Command::new(BINARY);
        Self::configure(&mut command, arguments);
        command
    }

    /// As uid 65534, without any capability and any way to get one, from a place where that user may run it.
    pub(crate) fn command_as_nobody(home: &Path, arguments: &[&str]) -> Command {
        let mut command = Self::as_nobody(home);
        Self::configure(&mut command, arguments);
        command
    }

    /// The same without any argument.
    pub(crate) fn as_nobody(home: &Path) -> Command {
        let mut command = super::program::command("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
        command.args(["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]);
        command.arg(Self::copy_to(home));
        command
    }

    pub(crate) fn copy_to(home: &Path) -> PathBuf {
        let copy = home.join("listen-queue-exporter");
        std::fs::copy(BINARY, &copy).expect("the binary can be copied");
        copy
    }

    pub(crate) fn configure(command: &mut Command, arguments: &[&str]) {
        command.args(["--web.listen-address", "127.0.0.1:0"]);
        command.args(arguments);
    }

    pub(crate) fn spawn(command: Command) -> Self {
        Self::listening(command, None).ready()
    }

    /// Starts it where a plain request gets no answer.
    pub(crate) fn spawn_closed(command: Command) -> Self {
        Self::listening(command, None)
    }

    /// Starts it on an address that it logs as `logged` and that is reached at `address`.
    pub(crate) fn spawn_elsewhere(command: Command, logged: &str, address: SocketAddr) -> Self {
        Self::listening(command, Some((logged, address))).ready()
    }

    fn listening(mut command: Command, elsewhere: Option<(&str, SocketAddr)>) -> Self {
        let mut process = Process::start(command.stderr(Stdio::piped()));
        let stderr = process.stderr().expect("standard error is piped");
        let log = Arc::new(Mutex::new(String::new()));
        let written = Arc::clone(&log);
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut log = written.lock().expect("nobody panics with the log");
                log.push_str(&line);
                log.push('\n');
            }
        });
        let address = wait::until("the exporter to listen", || {
            if let Some(status) = process.ended() {
                panic!("the exporter ended: {status}\n{}", lines(&log));
            }
            let logged = lines(&log).lines().find_map(listening_address)?;
            let Some((expected, address)) = elsewhere else {
                return Some(logged);
            };
            assert_eq!(logged, expected.parse().expect("an address"));
            Some(address)
        });
        Self {
            process,
            log,
            address,
        }
    }

    fn ready(self) -> Self {
        wait::until_true("the first round", || self.get("/-/ready").status == 200);
        self
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Everything that it has logged.
    pub(crate) fn log(&self) -> String {
        lines(&self.log)
    }

    /// Waits for a line of the log that has all of these, and returns it.
    pub(crate) fn logged(&self, parts: &[&str]) -> String {
        wait::until(
            &format!("a line with {parts:?} in the log:\n{}", self.log()),
            || {
                let log = self.log();
                let mut lines = log.lines();
                let found = lines.find(|line| parts.iter().all(|part| line.contains(part)));
                found.map(str::to_owned)
            },
        )
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        http::get(self.address, path, &[])
    }

    /// The text of the metrics.
    pub(crate) fn scrape_text(&self) -> String {
        let answer = self.get("/metrics");
        assert_eq!(answer.status, 200);
        assert_eq!(
            answer.header("content-type"),
            Some("text/plain; version=0.0.4; charset=utf-8")
        );
        answer.text().to_owned()
    }

    pub(crate) fn scrape(&self) -> Page {
        let text = self.scrape_text();
        Page::parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"))
    }

    /// A page whose newest round started after this was called.
    pub(crate) fn fresh(&self) -> Page {
        // The next recorded rounds may be older: idle rounds are kept for a while, and a round may be in progress.
        let next = self.after(&self.scrape());
        self.after(&next)
    }

    /// The first page with more rounds than that one.
    fn after(&self, page: &Page) -> Page {
        let rounds = |page: &Page| page.get("listen_queue_samples_total");
        let before = rounds(page).expect("always there");
        self.when("another round", |page| rounds(page) > Some(before))
    }

    /// The first page of which it is so.
    pub(crate) fn when(&self, what: &str, is_so: impl Fn(&Page) -> bool) -> Page {
        wait::until(what, || Some(self.scrape()).filter(|page| is_so(page)))
    }

    /// The first page that shows this listener's queue.
    pub(crate) fn shows(&self, listener: &str) -> Page {
        self.when(&format!("listener {listener}"), |page| {
            page.queue(listener).is_some()
        })
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        wait::until("the exporter to end", || self.process.ended())
    }
}

fn lines(log: &Mutex<String>) -> String {
    log.lock().expect("nobody panics with the log").clone()
}

fn listening_address(line: &str) -> Option<SocketAddr> {
    let (_, rest) = line.split_once(" msg=listening address=")?;
    rest.split(' ').next()?.parse().ok()
}
