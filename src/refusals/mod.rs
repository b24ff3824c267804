//! Refused unix connects, which `sock_diag` cannot tell: the kernel counts them nowhere. Witnesses do, and each is opt-in.

mod counts;
pub mod nginx_log;
mod receiver;

pub use counts::{Counts, Kinds, UNKNOWN_PATHS};
pub use receiver::{Receiver, SyslogAddress, SyslogAddressError, Witness};
