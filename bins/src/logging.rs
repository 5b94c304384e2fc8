//! Logs: to standard error, as text or as JSON lines.

use crate::journal::{self, WithPriority};
use std::io::{IsTerminal, stderr};
use tracing_subscriber::filter::LevelFilter;

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

/// Starts logging for the whole process. A second call changes nothing.
pub fn start(logs: Logs) {
    let level = match logs.level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let subscriber = tracing_subscriber::fmt()
        .with_writer(stderr)
        .with_max_level(level)
        .with_target(false)
        // A line that cannot be written is lost. The default, to report that on standard error too,
        // would panic where nobody reads standard error any more.
        .log_internal_errors(false);
    // The result says whether a subscriber was there before, in which case that one stays.
    let _first = match (logs.format, journal::is_standard_error()) {
        (LogFormat::Text, false) => subscriber.with_ansi(stderr().is_terminal()).try_init(),
        (LogFormat::Text, true) => subscriber.with_ansi(false).without_time().map_event_format(WithPriority).try_init(),
        (LogFormat::Json, to_journal) => {
            let subscriber = subscriber.json().flatten_event(true).with_current_span(false).with_span_list(false);
            if to_journal {
                subscriber.without_time().map_event_format(WithPriority).try_init()
            } else {
                subscriber.try_init()
            }
        }
    };
}
