//! Denies `sock_diag` with a seccomp filter.

use std::process::Command;

use rustix::io::Errno;

use super::exporter::BINARY;
use super::program;

/// The call that is refused.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Refused {
    /// `socket(AF_NETLINK, ...)`, as a container's seccomp profile does.
    Socket,
    /// The first send on such a socket, as SELinux does. The exporter's answers to its clients have `MSG_NOSIGNAL`, so it is told by having no
    /// flags.
    Send,
}

/// Starts a program under the filter.
const LAUNCHER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/refuse.py");

/// The exporter behind a filter that refuses a call with an errno.
pub(crate) fn exporter(refused: Refused, errno: Errno, arguments: &[&str]) -> Command {
    let call = match refused {
        Refused::Socket => "socket",
        Refused::Send => "send",
    };
    let mut command = Command::new(program::command("python3").get_program());
    command.args([LAUNCHER, call, &errno.raw_os_error().to_string(), BINARY]);
    command.args(arguments);
    command
}
