//! Logs: to standard error, as text or as JSON lines.

use crate::journal::{self, WithPriority};
use crate::output::Output;
use std::fmt;
use std::io::{self, IsTerminal, Write, stderr};
use tracing::{Dispatch, Subscriber, dispatcher};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;
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
    let (direct, _) = subscriber(logs, stderr);
    let direct = Dispatch::new(direct);
    let say_lost = move |lines| {
        dispatcher::with_default(&direct, || {
            tracing::error!(lines, "log lines were lost, because standard error was not read in time");
        });
    };
    let output = Output::start("log", stderr(), say_lost)?;
    let queue = Queue(output.clone());
    let (subscriber, level) = subscriber(logs, move || queue.clone());
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
    pub fn set(&self, level: LogLevel) {
        (self.0)(level.filter());
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

impl LogLevel {
    fn filter(self) -> LevelFilter {
        match self {
            Self::Error => LevelFilter::ERROR,
            Self::Warn => LevelFilter::WARN,
            Self::Info => LevelFilter::INFO,
            Self::Debug => LevelFilter::DEBUG,
            Self::Trace => LevelFilter::TRACE,
        }
    }
}

fn subscriber<W>(logs: Logs, writer: W) -> (Box<dyn Subscriber + Send + Sync>, Level)
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let level = logs.level.filter();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(writer)
        .with_max_level(LevelFilter::TRACE)
        .with_target(false)
        // A line that cannot be written is lost. The default, to report that on standard error too,
        // would panic where nobody reads standard error any more.
        .log_internal_errors(false);
    match (logs.format, journal::is_standard_error()) {
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
