//! The log on standard error: logfmt or JSON, one line an event.

use std::fmt;

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
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// `key=value` pairs.
    Logfmt,
    /// One JSON object a line.
    Json,
}

/// Sends the log to standard error from here on.
///
/// # Errors
/// When it was done before.
pub fn start(level: LevelFilter, format: Format) -> Result<(), TryInitError> {
    let base = layer().with_writer(std::io::stderr);
    let lines = match format {
        Format::Logfmt => base.event_format(Logfmt).boxed(),
        Format::Json => base.json().flatten_event(true).boxed(),
    };
    let own = Targets::new().with_target(env!("CARGO_CRATE_NAME"), level);
    let registry = tracing_subscriber::registry();
    registry.with(lines.with_filter(own)).try_init()
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
