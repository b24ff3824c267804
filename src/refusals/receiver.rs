//! Reads the log lines of nginx from a syslog socket at once: nginx neither waits nor retries.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::net::sockopt;

use super::counts::Counts;
use super::nginx_log;
use crate::listener::UnixName;

/// nginx truncates a line after 2 KB, plus the syslog header.
const LONGEST_LINE: usize = 8192;
/// Requested receive buffer, for lines that arrive while the exporter is not scheduled.
const RECEIVE_BUFFER: usize = 4 * 1024 * 1024;
const STACK: usize = 128 * 1024;

/// Where nginx sends its log: `unix:/path` or `udp:HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SyslogAddress {
    /// A unix datagram socket, created by the exporter.
    Unix(PathBuf),
    /// UDP.
    Udp(SocketAddr),
}

/// Not a syslog address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SyslogAddressError;

/// The socket, and the file to remove when it is dropped.
#[derive(Debug)]
pub struct Receiver {
    socket: Socket,
    file: Option<RemovedAtEnd>,
}

#[derive(Debug)]
enum Socket {
    Unix(UnixDatagram),
    Udp(UdpSocket),
}

#[derive(Debug)]
struct RemovedAtEnd(SocketFile);

/// What the receiver has counted; shared with the sampler.
#[derive(Debug, Clone)]
pub struct LogSource {
    state: Arc<Mutex<State>>,
    /// Inode of the UDP socket, under which the kernel lists its drops.
    udp: Option<u64>,
    /// The unix socket's file.
    file: Option<SocketFile>,
}

/// The file that this process bound its socket to.
#[derive(Debug, Clone)]
struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

#[derive(Debug, Default)]
struct State {
    counts: Counts,
    failure: Option<String>,
}

impl SyslogAddress {
    /// Parses an address.
    ///
    /// # Errors
    /// If it has neither of the two forms.
    pub fn parse(text: &str) -> Result<Self, SyslogAddressError> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = Path::new(path);
            return if path.is_absolute() {
                Ok(Self::Unix(path.to_owned()))
            } else {
                Err(SyslogAddressError)
            };
        }
        let address = text.strip_prefix("udp:").ok_or(SyslogAddressError)?;
        address
            .parse()
            .map(Self::Udp)
            .map_err(|_| SyslogAddressError)
    }
}

impl Receiver {
    /// Opens the socket. `mode` is the mode of the unix socket file: nginx must be able to write to it.
    ///
    /// # Errors
    /// If another process receives on the address, or the path exists and is not a socket.
    pub fn bind(address: &SyslogAddress, mode: u32) -> io::Result<Self> {
        let receiver = match address {
            SyslogAddress::Udp(address) => Self {
                socket: Socket::Udp(UdpSocket::bind(address)?),
                file: None,
            },
            SyslogAddress::Unix(path) => {
                remove_stale(path)?;
                let socket = UnixDatagram::bind(path)?;
                let file = RemovedAtEnd(SocketFile::new(path)?);
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
                Self {
                    socket: Socket::Unix(socket),
                    file: Some(file),
                }
            }
        };
        // Above net.core.rmem_max this requires CAP_NET_ADMIN. Otherwise the largest allowed buffer is used.
        let fd = receiver.socket.as_fd();
        if sockopt::set_socket_recv_buffer_size_force(fd, RECEIVE_BUFFER).is_err() {
            sockopt::set_socket_recv_buffer_size(fd, RECEIVE_BUFFER)?;
        }
        Ok(receiver)
    }

    /// Starts the thread that counts lines. The second returned value removes the socket file when it is dropped.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn start(self) -> io::Result<(LogSource, impl Sized)> {
        let socket = self.socket;
        let log_source = LogSource {
            state: Arc::default(),
            file: self.file.as_ref().map(|file| file.0.clone()),
            udp: match &socket {
                Socket::Udp(socket) => Some(rustix::fs::fstat(socket)?.st_ino),
                Socket::Unix(_) => None,
            },
        };
        let shared = log_source.clone();
        thread::Builder::new()
            .name("nginx-log".to_owned())
            .stack_size(STACK)
            .spawn(move || {
                let mut line = [0; LONGEST_LINE];
                loop {
                    shared.take(socket.receive(&mut line), &line);
                }
            })?;
        Ok((log_source, self.file))
    }
}

/// Removes a socket file on which no process receives any more.
fn remove_stale(path: &Path) -> io::Result<()> {
    let taken = |reason| Err(io::Error::new(io::ErrorKind::AddrInUse, reason));
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(found) if !found.file_type().is_socket() => {
            return taken("the path exists and is not a socket");
        }
        Ok(_) => {}
    }
    match UnixDatagram::unbound()?.connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path)
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(io::Error::new(
            error.kind(),
            "the socket file exists and this user may not write to it; remove it if no process receives on it",
        )),
        _ => taken("another process receives on this address"),
    }
}

impl SocketFile {
    fn new(path: &Path) -> io::Result<Self> {
        let found = std::fs::symlink_metadata(path)?;
        Ok(Self {
            path: path.to_owned(),
            device: found.dev(),
            inode: found.ino(),
        })
    }

    /// Whether the path still leads to it.
    fn is_there(&self) -> bool {
        let found = Self::new(&self.path);
        found.is_ok_and(|found| (found.device, found.inode) == (self.device, self.inode))
    }
}

impl Socket {
    fn receive(&self, line: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(socket) => socket.recv(line),
            Self::Udp(socket) => socket.recv(line),
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(socket) => socket.as_fd(),
            Self::Udp(socket) => socket.as_fd(),
        }
    }
}

impl Drop for RemovedAtEnd {
    fn drop(&mut self) {
        if !self.0.is_there() {
            // Another process has the path now.
            return;
        }
        if let Err(error) = std::fs::remove_file(&self.0.path) {
            tracing::debug!(%error, "cannot remove the syslog socket");
        }
    }
}

impl LogSource {
    /// The counts, after setting which names belong to listeners, or why nothing can be received.
    ///
    /// # Errors
    /// If the last receive failed, or the socket file was removed.
    pub fn read(&self, known: &BTreeSet<&UnixName>) -> Result<Counts, String> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.counts.know(known);
        if self.file.as_ref().is_some_and(|file| !file.is_there()) {
            return Err("the socket file was removed or replaced: restart the exporter".to_owned());
        }
        match &state.failure {
            Some(reason) => Err(reason.clone()),
            None => Ok(state.counts.clone()),
        }
    }

    /// Inode of the UDP socket that receives the lines, if it is UDP.
    #[must_use]
    pub fn udp_inode(&self) -> Option<u64> {
        self.udp
    }

    fn take(&self, received: io::Result<usize>, line: &[u8]) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match received {
            Ok(length) => {
                let message = nginx_log::parse(line.get(..length).unwrap_or_default());
                state.counts.record(&message);
                state.failure = None;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                state.failure = Some(format!("cannot receive the log of nginx: {error}"));
                drop(state);
                thread::sleep(Duration::from_secs(1));
            }
        }
    }
}

impl fmt::Display for SyslogAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Udp(address) => write!(f, "udp:{address}"),
        }
    }
}

impl fmt::Display for SyslogAddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a syslog address, as in unix:/run/listen-queue/nginx-log.socket or udp:127.0.0.1:5140 (host names are not resolved)")
    }
}

impl std::error::Error for SyslogAddressError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("lqe-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    fn bind(path: &Path) -> io::Result<Receiver> {
        Receiver::bind(&SyslogAddress::Unix(path.to_owned()), 0o622)
    }

    #[test]
    fn a_stale_file_is_replaced_a_live_one_refused_and_the_own_one_removed() {
        let directory = directory("receiver");
        let path = directory.join("log.socket");
        drop(UnixDatagram::bind(&path).unwrap());
        let receiver = bind(&path).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o622);
        assert_eq!(bind(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(receiver);
        assert!(!path.exists());
        let (first, removed_at_end) = bind(&path).unwrap().start().unwrap();
        assert!(first.read(&BTreeSet::new()).is_ok());
        std::fs::remove_file(&path).unwrap();
        let second = bind(&path).unwrap();
        assert!(
            first
                .read(&BTreeSet::new())
                .unwrap_err()
                .contains("removed or replaced")
        );
        drop(removed_at_end);
        assert!(path.exists());
        drop(second);
        std::fs::write(&path, "").unwrap();
        assert_eq!(bind(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert!(path.exists());
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn addresses_are_unix_paths_or_udp() {
        for text in [
            "unix:/run/log.socket",
            "udp:127.0.0.1:5140",
            "udp:[::1]:5140",
        ] {
            assert_eq!(SyslogAddress::parse(text).unwrap().to_string(), text);
        }
        for text in [
            "",
            "/run/log",
            "unix:log",
            "udp:localhost:1",
            "udp:127.0.0.1",
            "tcp:127.0.0.1:1",
        ] {
            assert_eq!(
                SyslogAddress::parse(text),
                Err(SyslogAddressError),
                "{text}"
            );
        }
    }
}
