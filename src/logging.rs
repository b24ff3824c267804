//! The log on standard error: logfmt or JSON, one line per event.

use std::fmt;
use std::io::{self, Write};
use std::sync::mpsc::{self, SyncSender};
use std::thread;
use std::time::Duration;

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, layer};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

/// Format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// `key=value` pairs.
    Logfmt,
    /// One JSON object per line.
    Json,
}

/// Maximum number of lines waiting for standard error. Further lines are dropped: logging never waits for the reader.
const PENDING_LINES: usize = 1024;
/// Stack of the thread, which only writes.
const STACK: usize = 64 * 1024;
/// Time to write the last lines when the log ends.
const LAST_LINES: Duration = Duration::from_millis(200);

/// The log. When dropped, it waits briefly for the last lines to be written.
#[derive(Debug)]
pub struct Log(Queue);

#[derive(Debug, Clone)]
struct Queue(SyncSender<Entry>);

#[derive(Debug)]
enum Entry {
    Line(Vec<u8>),
    End(SyncSender<()>),
}

impl Write for Queue {
    /// Takes whole lines.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        // A full queue drops the line.
        let _ = self.0.try_send(Entry::Line(line.to_vec()));
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        let (done, is_done) = mpsc::sync_channel(1);
        if self.0.0.try_send(Entry::End(done)).is_ok() {
            let _ = is_done.recv_timeout(LAST_LINES);
        }
    }
}

/// Starts to send the log to standard error, through a separate thread.
///
/// # Errors
/// If it was called before, or the thread cannot be started.
pub fn start(level: LevelFilter, format: Format) -> io::Result<Log> {
    let (queue, entries) = mpsc::sync_channel(PENDING_LINES);
    let write = move || {
        for entry in entries {
            match entry {
                Entry::Line(line) => {
                    // There is no other place to report this.
                    let _ = io::stderr().write_all(&line);
                }
                Entry::End(done) => {
                    let _ = done.try_send(());
                }
            }
        }
    };
    let thread = thread::Builder::new().name("log".to_owned());
    thread.stack_size(STACK).spawn(write)?;
    let queue = Queue(queue);
    let lines = queue.clone();
    let base = layer().with_writer(move || lines.clone());
    let lines = match format {
        Format::Logfmt => base.event_format(Logfmt).boxed(),
        Format::Json => base.json().flatten_event(true).boxed(),
    };
    let own = Targets::new().with_target(env!("CARGO_CRATE_NAME"), level);
    let registry = tracing_subscriber::registry();
    let done = registry.with(lines.with_filter(own)).try_init();
    done.map(|()| Log(queue)).map_err(io::Error::other)
}

struct Logfmt;

impl<S, N> FormatEvent<S, N> for Logfmt
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        writer.write_str("ts=")?;
        SystemTime.format_time(&mut writer)?;
        let level = event.metadata().level().as_str().to_ascii_lowercase();
        write!(writer, " level={level}")?;
        let mut fields = Fields {
            writer: &mut writer,
            outcome: Ok(()),
        };
        event.record(&mut fields);
        fields.outcome?;
        writeln!(writer)
    }
}

struct Fields<'a, 'writer> {
    writer: &'a mut Writer<'writer>,
    outcome: fmt::Result,
}

impl Visit for Fields<'_, '_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.write(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.write(field, &format!("{value:?}"));
    }
}

impl Fields<'_, '_> {
    fn write(&mut self, field: &Field, value: &str) {
        let key = match field.name() {
            "message" => "msg",
            other => other,
        };
        let plain = !value.is_empty()
            && value
                .chars()
                .all(|c| !c.is_whitespace() && !c.is_control() && !matches!(c, '"' | '=' | '\\'));
        let written = if plain {
            write!(self.writer, " {key}={value}")
        } else {
            write!(self.writer, " {key}={value:?}")
        };
        self.outcome = self.outcome.and(written);
    }
}
