//! Refused unix connects, which `sock_diag` cannot tell: the kernel counts them nowhere. Witnesses do, and each is opt-in.

mod counts;
mod ebpf;
pub mod nginx_log;
mod receiver;

pub use counts::{Counts, Kinds, UNKNOWN_NAMES};
pub use ebpf::{EBPF_BUILT, Ebpf};
pub use receiver::{Receiver, SyslogAddress, SyslogAddressError, Witness};
