//! A machine of its own as far as its processes go: a pid namespace, and in it pods with network namespaces.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

use super::exporter::{BINARY, Exporter};
use super::program;

/// Where the pods' control groups are.
const GROUPS: &str = "/sys/fs/cgroup/memory/kubepods";
const PODS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/pods.py");

/// The machine; its processes end with it.
#[derive(Debug)]
pub(crate) struct Machine {
    unshare: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Machine {
    pub(crate) fn start() -> Self {
        let mut command = program::command("unshare");
        command.args(["--pid", "--fork", "--mount-proc", "--kill-child=KILL"]);
        command.arg(program::command("python3").get_program());
        command
            .arg(PODS)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut unshare = command.spawn().expect("unshare starts");
        let orders = unshare.stdin.take().expect("it is piped");
        let answers = BufReader::new(unshare.stdout.take().expect("it is piped"));
        let mut machine = Self {
            unshare,
            orders,
            answers,
        };
        assert_eq!(machine.answer(), json!("ready"));
        machine
    }

    fn answer(&mut self) -> Value {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("an answer");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"))
    }

    /// Gives an order of tests/common/pods.py, and waits until it is done.
    pub(crate) fn order(&mut self, order: &Value) -> Value {
        writeln!(self.orders, "{order}").expect("the order is read");
        self.answer()
    }

    /// The exporter on that machine, in the network namespace of the caller.
    pub(crate) fn exporter(&self, arguments: &[&str]) -> Command {
        self.inside(&[BINARY], arguments)
    }

    /// The same with a limit of open files.
    pub(crate) fn exporter_with_files(&self, files: u32, arguments: &[&str]) -> Command {
        let prlimit = program::command("prlimit");
        let prlimit = prlimit.get_program().to_str().expect("a path of ASCII");
        self.inside(&[prlimit, &format!("--nofile={files}"), BINARY], arguments)
    }

    /// The same as uid 65532 without any capability, as the unprivileged overlay runs it, from a place where that user may run it.
    pub(crate) fn exporter_as_nobody(&self, home: &Path, arguments: &[&str]) -> Command {
        let copy = Exporter::copy_to(home);
        let setpriv = program::command("setpriv");
        let program = [
            setpriv.get_program().to_str().expect("a path of ASCII"),
            "--reuid=65532",
            "--regid=65532",
            "--groups=0",
            "--bounding-set=-all",
            "--inh-caps=-all",
            "--no-new-privs",
            copy.to_str().expect("a path of ASCII"),
        ];
        self.inside(&program, arguments)
    }

    /// A check of that machine.
    pub(crate) fn check(&self, arguments: &[&str]) -> Command {
        let mut command = self.enter(&[BINARY, "check"]);
        command.args(arguments);
        command
    }

    fn inside(&self, program: &[&str], arguments: &[&str]) -> Command {
        let mut command = self.enter(program);
        Exporter::configure(&mut command, arguments);
        command
    }

    pub(crate) fn enter(&self, program: &[&str]) -> Command {
        let first = first_child(self.unshare.id());
        let mut command = program::command("nsenter");
        command.args(["--pid", "--mount", "--target", &first]);
        command.args(program);
        command
    }
}

/// The first child of a process that was started by `unshare` or `nsenter`, which wait for it.
pub(crate) fn first_child(process: u32) -> String {
    let children = format!("/proc/{process}/task/{process}/children");
    let children = std::fs::read_to_string(children).expect("the process is there");
    let first = children.split_whitespace().next();
    first.expect("it has a child").to_owned()
}

/// Removes the control groups without a process, of this machine or of another that has ended.
fn remove_groups(group: &Path) {
    for entry in std::fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_groups(&entry.path());
        }
    }
    // Those of a test beside this one stay.
    let _ = std::fs::remove_dir(group);
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Its child, the first process of the pid namespace, goes with it, and with that all others.
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
        remove_groups(Path::new(GROUPS));
    }
}
