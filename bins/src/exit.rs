//! How the programs end: 0 asked to stop; 2 bad flags or configuration, or refused for good; 1 anything
//! else.

use crate::assemble::Assembled;
use crate::config::ConfigError;
use crate::journal;
use std::io::{Write, stderr, stdout};
use std::path::Path;
use std::process::ExitCode;

/// Anything that is neither of the other two: ports in use, out of descriptors, a second signal.
pub const FAILED: u8 = 1;
/// Bad flags or configuration, or refused for good by the server: trying again cannot help.
pub const HOPELESS: u8 = 2;

/// Reports what is wrong with the flags or the configuration, one line per problem.
#[must_use]
pub fn bad_configuration(error: &ConfigError) -> ExitCode {
    // Whoever closed standard error does not want to know.
    for problem in error.problems() {
        let _unread = writeln!(stderr(), "{}error: {problem}", journal::error_prefix());
    }
    ExitCode::from(HOPELESS)
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
        Err(error) => bad_configuration(&error),
    }
}
