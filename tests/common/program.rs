//! Programs of the machine, and processes that end with the test.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

/// Python programs, and kubectl, that `tests/install.sh` installed.
const TOOLS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/tools/bin");

/// A command for a program that `tests/install.sh base` installs.
pub(crate) fn command(name: &str) -> Command {
    command_of("base", name)
}

/// A command for a program that `tests/install.sh` with this group installs.
pub(crate) fn command_of(group: &str, name: &str) -> Command {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::iter::once(PathBuf::from(TOOLS))
        .chain(std::env::split_paths(&path))
        .chain(["/usr/sbin".into(), "/sbin".into()]);
    let found = places.map(|place| place.join(name)).find(|p| p.is_file());
    Command::new(
        found.unwrap_or_else(|| panic!("{name} is missing; run: tests/install.sh {group}")),
    )
}

/// Runs a command to its end, which must be a success, and returns what it printed.
pub(crate) fn run(command: &mut Command) -> String {
    let output = command.output().expect("the program starts");
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {}\n{printed}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    printed
}

/// Time for a process to end by itself.
const PATIENCE: Duration = Duration::from_secs(5);

/// A process that is ended when the test is done with it.
#[derive(Debug)]
pub(crate) struct Process(Child);

impl Process {
    pub(crate) fn start(command: &mut Command) -> Self {
        let child = command.stdin(Stdio::null()).spawn();
        Self(child.unwrap_or_else(|error| panic!("{command:?}: {error}")))
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.id()).expect("a process id");
        let pid = rustix::process::Pid::from_raw(pid).expect("a process id");
        rustix::process::kill_process(pid, signal).expect("the process can be signalled");
    }

    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.0.try_wait().expect("the process can be waited for")
    }

    pub(crate) fn stderr(&mut self) -> Option<std::process::ChildStderr> {
        self.0.stderr.take()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A server that ends on a signal also ends its workers.
        if !matches!(self.0.try_wait(), Ok(Some(_))) {
            self.signal(Signal::TERM);
        }
        let deadline = Instant::now() + PATIENCE;
        while matches!(self.0.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A directory of its own that anybody may enter, with a path short enough for a socket's name.
pub(crate) fn directory() -> tempfile::TempDir {
    let directory = tempfile::Builder::new()
        .prefix("lq")
        .tempdir_in("/tmp")
        .expect("a temporary directory");
    let permissions = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(directory.path(), permissions).expect("its mode can be set");
    directory
}
