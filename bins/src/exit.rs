//! How the programs end: 0 asked to stop; 2 bad flags or configuration, or refused for good before it ever worked; 1 anything
//! else.

use crate::assemble::Assembled;
use crate::config::ConfigError;
use crate::logging::{self, LogFormat, LogLevel, Logs};
use crate::output;
use std::io::{self, Write, stderr, stdout};
use std::path::Path;
use std::process::ExitCode;

/// Anything that is neither of the other two: ports in use, out of descriptors, a second signal.
pub const FAILED: u8 = 1;
/// Bad flags or configuration, or refused for good before it ever worked: trying again cannot help.
pub const HOPELESS: u8 = 2;

/// Reports what is wrong with the configuration, one line per problem. `format` is what the flags say: those of the
/// file cannot be relied on.
#[must_use]
pub fn bad_configuration(error: &ConfigError, format: Option<LogFormat>) -> ExitCode {
    if format == Some(LogFormat::Json)
        && let Ok(log) = logging::start(Logs { format: LogFormat::Json, level: LogLevel::Error })
    {
        error.problems().iter().for_each(|problem| tracing::error!("{problem}"));
        output::finish(&[&log]);
        return ExitCode::from(HOPELESS);
    }
    // Whoever closed standard error does not want to know.
    for problem in error.problems() {
        let _unread = writeln!(stderr(), "error: {problem}");
    }
    ExitCode::from(HOPELESS)
}

/// Reports that the program could not even start to log.
#[must_use]
pub fn cannot_start(error: &io::Error) -> ExitCode {
    let _unread = writeln!(stderr(), "error: cannot start a thread: {error}; raise the limit of processes (ulimit -u)");
    ExitCode::from(FAILED)
}

/// Reports what `check-config FILE` found.
#[must_use]
pub fn check_config<C>(file: &Path, outcome: Result<Assembled<C>, ConfigError>) -> ExitCode {
    match outcome {
        Ok(assembled) => {
            for warning in &assembled.warnings {
                let _unread = writeln!(stderr(), "warning: {warning}");
            }
            let _unread = writeln!(stdout(), "{}: ok", file.display());
            ExitCode::SUCCESS
        }
        Err(error) => bad_configuration(&error, None),
    }
}
