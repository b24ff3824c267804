//! The only place that opens a socket, a file or a process to learn something from Linux.
//!
//! Every reader is in two halves: a function from bytes to values that cannot panic, and the code that gets the bytes.
//! Nothing here knows a metric, a listener's label or a clock.

pub mod inet;
pub mod mount;
pub mod netstat;
pub mod process;
pub mod sock_diag;
pub mod sysctl;
pub mod unix;

/// A socket for its whole life: the inode number comes back after a wrap, the cookie never does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SocketId {
    /// Inode number in sockfs.
    pub inode: u32,
    /// `sock_gen_cookie()`: unique since boot.
    pub cookie: [u8; 8],
}
