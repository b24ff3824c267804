//! What keeps `sock_diag` away, as a seccomp filter.

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

/// Starts a program under the filter. Arguments: `socket` or `send`, the errno, and the program with its own.
const LAUNCHER: &str = "
import ctypes, os, platform, struct, sys
refused, errno = sys.argv[1], int(sys.argv[2])
numbers = {'x86_64': {'socket': 41, 'send': 44}, 'aarch64': {'socket': 198, 'send': 206}}
call = numbers[platform.machine()][refused]
offset, value = {'socket': (16, 16), 'send': (40, 0)}[refused]
def op(code, jump_true, jump_false, value):
    return struct.pack('HBBI', code, jump_true, jump_false, value)
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06
program = b''.join([
    op(LOAD, 0, 0, 0), op(EQUAL, 0, 3, call),
    op(LOAD, 0, 0, offset), op(EQUAL, 0, 1, value),
    op(RETURN, 0, 0, 0x00050000 | errno),
    op(RETURN, 0, 0, 0x7fff0000),
])
instructions = ctypes.create_string_buffer(program)
filter = ctypes.create_string_buffer(struct.pack('HxxxxxxP', 6, ctypes.addressof(instructions)))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0, ctypes.get_errno()
assert libc.prctl(22, 2, filter, 0, 0) == 0, ctypes.get_errno()
os.execv(sys.argv[3], sys.argv[3:])
";

/// The exporter behind a filter that refuses a call with an errno.
pub(crate) fn exporter(refused: Refused, errno: Errno, arguments: &[&str]) -> Command {
    let call = match refused {
        Refused::Socket => "socket",
        Refused::Send => "send",
    };
    let mut command = Command::new(program::command("python3").get_program());
    command.args([
        "-c",
        LAUNCHER,
        call,
        &errno.raw_os_error().to_string(),
        BINARY,
    ]);
    command.args(arguments);
    command
}
