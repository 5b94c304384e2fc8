//! Log lines that go into systemd's journal, which has each line's time and wants its importance in front (`<4>`).

use std::fmt;
use std::io::stderr;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// The environment variable in which systemd says which stream is the journal, as `DEVICE:INODE`.
const VARIABLE: &str = "JOURNAL_STREAM";

/// What stands in front of an error that is written before the logs have begun.
#[must_use]
pub fn error_prefix() -> &'static str {
    if is_standard_error() { "<3>" } else { "" }
}

/// Whether standard error is the journal, and not something that it was redirected to afterwards.
#[must_use]
pub fn is_standard_error() -> bool {
    let (Ok(stream), Ok(stat)) = (std::env::var(VARIABLE), nix::sys::stat::fstat(stderr())) else { return false };
    stream == format!("{}:{}", stat.st_dev, stat.st_ino)
}

/// A form of log lines with the importance in front, as syslog numbers it.
#[derive(Debug)]
pub struct WithPriority<F>(pub F);

impl<S, N, F> FormatEvent<S, N> for WithPriority<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(&self, cx: &FmtContext<'_, S, N>, mut line: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        write!(line, "<{}>", priority(*event.metadata().level()))?;
        self.0.format_event(cx, line, event)
    }
}

fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}
