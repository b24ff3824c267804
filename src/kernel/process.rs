//! The metrics of this process, from `/proc/self`.

use std::fs::File;
use std::path::Path;

use procfs::process::Process;
use procfs::{FromReadSI as _, KernelStats, ProcError};
use rustix::process::{Resource, getrlimit};

/// The standard metrics of a process.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ProcessFigures {
    /// CPU time spent, user and system, in seconds.
    pub cpu_seconds: f64,
    /// Open file descriptors.
    pub open_fds: u64,
    /// Maximum number of file descriptors; absent if unlimited.
    pub max_fds: Option<u64>,
    /// Virtual memory in bytes.
    pub virtual_memory_bytes: u64,
    /// Resident memory in bytes.
    pub resident_memory_bytes: u64,
    /// Threads.
    pub threads: u64,
    /// Start, in seconds since 1970.
    pub start_time_seconds: f64,
}

/// Reads the figures. The start time is determined once.
#[derive(Debug)]
pub struct ProcessReader {
    process: Process,
    start_time_seconds: f64,
    ticks_per_second: f64,
    page_size: u64,
}

impl ProcessReader {
    /// A reader of `self` below the proc root.
    ///
    /// # Errors
    /// Says which file could not be read.
    pub fn open(procfs: &Path) -> Result<Self, ProcError> {
        let process = Process::new_with_root(procfs.join("self"))?;
        let stat = File::open(procfs.join("stat"))?;
        let boot_time = KernelStats::from_read(stat, procfs::current_system_info())?.btime;
        #[expect(
            clippy::cast_precision_loss,
            reason = "ticks and seconds since 1970 are far below 2^52"
        )]
        let (ticks, started, boot) = (
            procfs::ticks_per_second() as f64,
            process.stat()?.starttime as f64,
            boot_time as f64,
        );
        Ok(Self {
            process,
            start_time_seconds: boot + started / ticks,
            ticks_per_second: ticks,
            page_size: procfs::page_size(),
        })
    }

    /// Reads the current figures.
    ///
    /// # Errors
    /// Says which file could not be read.
    pub fn read(&self) -> Result<ProcessFigures, ProcError> {
        let stat = self.process.stat()?;
        #[expect(
            clippy::cast_precision_loss,
            reason = "2^52 ticks are more than a million years"
        )]
        let ticks = (stat.utime + stat.stime) as f64;
        Ok(ProcessFigures {
            cpu_seconds: ticks / self.ticks_per_second,
            open_fds: self.process.fd_count()? as u64,
            max_fds: getrlimit(Resource::Nofile).current,
            virtual_memory_bytes: stat.vsize,
            resident_memory_bytes: stat.rss * self.page_size,
            threads: u64::try_from(stat.num_threads).unwrap_or_default(),
            start_time_seconds: self.start_time_seconds,
        })
    }
}
