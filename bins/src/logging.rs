//! Logs: to standard error, as text or as JSON lines.

use crate::journal::{self, WithPriority};
use crate::output::{Output, Said};
use std::fmt;
use std::io::{self, IsTerminal, Write, stderr};
use tracing::{Dispatch, Subscriber, dispatcher};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::{DefaultFields, Format};
use tracing_subscriber::fmt::{MakeWriter, SubscriberBuilder};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::reload;

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people; coloured on a terminal.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// The least important kind of line that is still written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogLevel {
    /// What needs somebody's attention.
    Error,
    /// What may need it.
    Warn,
    /// What a normal day looks like.
    #[default]
    Info,
    /// What helps to find a fault.
    Debug,
    /// Everything.
    Trace,
}

/// How and how much to log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Logs {
    /// The lines' form.
    pub format: LogFormat,
    /// Their least importance.
    pub level: LogLevel,
}

/// Starts logging for the whole process. [`output::finish`](crate::output::finish) writes the last lines.
///
/// # Errors
/// The thread that writes the lines cannot be started.
pub fn start(logs: Logs) -> io::Result<(Output, Level)> {
    // Written by the thread itself, in its place among the lines.
    let level = level(logs.level);
    let direct = Dispatch::new(subscriber(logs.format, level, stderr).0);
    let records = Dispatch::new(subscriber(logs.format, LevelFilter::INFO, stderr).0);
    let say = move |said| match said {
        Said::Lost(lines) => dispatcher::with_default(&direct, || {
            tracing::error!(
                event = "log_lines_lost",
                lines,
                "log lines were lost, because standard error was not read in time"
            );
        }),
        Said::Record(record) => dispatcher::with_default(&records, || record.write()),
    };
    let output = Output::start("log", stderr(), say)?;
    let queue = Queue(output.clone());
    let (subscriber, level) = subscriber(logs.format, level, move || queue.clone());
    dispatcher::set_global_default(Dispatch::new(subscriber)).expect("the programs start logging once");
    Ok((output, level))
}

/// How much is logged, while the program runs.
pub struct Level(Box<dyn Fn(LevelFilter) + Send>);

impl fmt::Debug for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Level")
    }
}

impl Level {
    /// So much from now on.
    pub fn set(&self, to: LogLevel) {
        (self.0)(level(to));
    }
}

/// Lets through what `filter` does, which can be changed.
fn adjustable<S>(subscriber: S, filter: LevelFilter) -> (Box<dyn Subscriber + Send + Sync>, Level)
where
    S: Subscriber + for<'s> LookupSpan<'s> + Send + Sync,
{
    let (filter, handle) = reload::Layer::new(filter);
    // It fails where the subscriber is gone, which stays as long as the process.
    let level = Level(Box::new(move |level| handle.modify(|filter| *filter = level).unwrap_or_default()));
    (Box::new(subscriber.with(filter)), level)
}

/// Writes all lines to `writer`, which is a file of its own: without colours, and each with its time.
pub(crate) fn records<W>(format: LogFormat, writer: W) -> Box<dyn Subscriber + Send + Sync>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let subscriber = builder(LevelFilter::INFO, writer);
    match format {
        LogFormat::Text => Box::new(subscriber.with_ansi(false).finish()),
        LogFormat::Json => {
            Box::new(subscriber.json().flatten_event(true).with_current_span(false).with_span_list(false).finish())
        }
    }
}

fn level(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

fn builder<W>(level: LevelFilter, writer: W) -> SubscriberBuilder<DefaultFields, Format, LevelFilter, W>
where
    W: for<'w> MakeWriter<'w> + 'static,
{
    let builder = tracing_subscriber::fmt().with_max_level(level).with_target(false);
    // A line that cannot be written is lost. The default, to report that on standard error too, would panic where
    // nobody reads standard error any more.
    builder.log_internal_errors(false).with_writer(writer)
}

fn subscriber<W>(format: LogFormat, level: LevelFilter, writer: W) -> (Box<dyn Subscriber + Send + Sync>, Level)
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let subscriber = builder(LevelFilter::TRACE, writer);
    match (format, journal::is_standard_error()) {
        (LogFormat::Text, false) => adjustable(subscriber.with_ansi(coloured()).finish(), level),
        (LogFormat::Text, true) => {
            adjustable(subscriber.with_ansi(false).without_time().map_event_format(WithPriority).finish(), level)
        }
        (LogFormat::Json, to_journal) => {
            let subscriber = subscriber.json().flatten_event(true).with_current_span(false).with_span_list(false);
            if to_journal {
                adjustable(subscriber.without_time().map_event_format(WithPriority).finish(), level)
            } else {
                adjustable(subscriber.finish(), level)
            }
        }
    }
}

/// Colours are for terminals, and not for those who set `NO_COLOR` to anything (<https://no-color.org>).
fn coloured() -> bool {
    stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Where a subscriber puts its lines. It writes each with one call.
#[derive(Clone)]
struct Queue(Output);

impl Write for Queue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.line(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
