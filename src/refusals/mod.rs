//! Refused unix connects, which `sock_diag` does not report and the kernel does not count. The sources in this module do, and each is opt-in.

mod counts;
mod ebpf;
pub mod nginx_log;
mod receiver;

pub use counts::{Counts, Kinds, UNKNOWN_NAMES};
pub use ebpf::{EBPF_BUILT, Ebpf, Scope};
pub use receiver::{LogSource, Receiver, SyslogAddress, SyslogAddressError};
