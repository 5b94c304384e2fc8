//! How the programs end: 0 asked to stop; 2 bad flags or configuration, or refused for good before it ever worked; 1 anything
//! else.

use crate::assemble::Assembled;
use crate::check;
use crate::config::ConfigError;
use crate::journal;
use crate::logging::{self, LogFormat, LogLevel, Logs};
use crate::output;
use std::fmt::Display;
use std::io::{Write, stderr, stdout};
use std::path::Path;
use std::process::ExitCode;

/// Anything that is neither of the other two: ports in use, out of descriptors, a second signal.
pub const FAILED: u8 = 1;
/// Bad flags or configuration, or refused for good before it ever worked: trying again cannot help.
pub const HOPELESS: u8 = 2;

/// Reports what is wrong with the configuration, one line per problem. `format` is what the flags say: what the file
/// says cannot be relied on.
#[must_use]
pub fn bad_configuration(error: &ConfigError, format: Option<LogFormat>) -> ExitCode {
    complain(error.problems(), format);
    ExitCode::from(HOPELESS)
}

/// Reports why the program cannot start here, before it could log.
#[must_use]
pub fn cannot_start(why: &impl Display, format: Option<LogFormat>) -> ExitCode {
    complain([why], format);
    ExitCode::from(FAILED)
}

/// Reports what `init` has done.
#[must_use]
pub fn init(done: Result<String, String>) -> ExitCode {
    match done {
        Ok(sentence) => {
            let _unread = writeln!(stdout(), "{sentence}");
            ExitCode::SUCCESS
        }
        Err(why) => {
            complain([why], None);
            ExitCode::from(FAILED)
        }
    }
}

fn complain<P: Display>(problems: impl IntoIterator<Item = P>, format: Option<LogFormat>) {
    if format == Some(LogFormat::Json)
        && let Ok((log, _)) = logging::start(Logs { format: LogFormat::Json, level: LogLevel::Error })
    {
        problems.into_iter().for_each(|problem| tracing::error!(event = "bad_configuration", "{problem}"));
        return output::finish(&[&log]);
    }
    // Whoever closed standard error does not want to know.
    for problem in problems {
        let _unread = writeln!(stderr(), "{}error: {problem}", journal::error_prefix());
    }
}

/// Reports what `check-config` found in `file`, if there is one. `shown` is what counts, if it is in order.
#[must_use]
pub fn check_config<C>(
    file: Option<&Path>,
    outcome: Result<Assembled<C>, ConfigError>,
    shown: impl FnOnce() -> String,
) -> ExitCode {
    match outcome {
        Ok(assembled) => {
            let unknown = check::unknown_variables(std::env::vars_os().map(|(name, _)| name));
            for warning in assembled.warnings.iter().chain(&unknown) {
                let _unread = writeln!(stderr(), "warning: {warning}");
            }
            let file = file.map_or_else(|| "no file".into(), |file| file.display().to_string());
            let _unread = write!(stdout(), "{file}: ok\n{}", shown());
            ExitCode::SUCCESS
        }
        Err(error) => bad_configuration(&error, None),
    }
}
