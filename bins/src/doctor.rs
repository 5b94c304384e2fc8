//! `doctor`: whether a program could do its work with these flags, before anybody blames the tunnel. A line for each thing
//! that it needs, with what to do where that is not there.
//!
//! Nothing is made, changed or kept, and no program that runs is disturbed. What a program would do, the program's own
//! parts do here, too: the settings are assembled, a client connects and asks what it could have, a server opens its ports.

mod client;
mod machine;
mod public;
mod server;
mod service;

pub use client::client;
pub use server::server;

use crate::admin::{Question, Status, ask, find};
use crate::config::ConfigError;
use crate::exit;
use serde::Serialize;
use std::io::{Write, stdout};
use std::process::ExitCode;

/// How one thing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// As it must be.
    Ok,
    /// Good to know; or it cannot be seen from here.
    Note,
    /// It works, but somebody should look.
    Warning,
    /// As it is, it does not work.
    Failed,
}

impl State {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Failed => "FAILED",
        }
    }
}

/// What was found about one thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    check: &'static str,
    state: State,
    /// A sentence: what is there, where, and what to do.
    says: String,
}

/// All that was found. A person reads each line as soon as it is known; as JSON it is one value, at the end.
#[derive(Debug)]
struct Findings {
    program: &'static str,
    json: bool,
    found: Vec<Finding>,
}

impl Findings {
    fn of(program: &'static str, json: bool) -> Self {
        Self { program, json, found: Vec::new() }
    }

    fn add(&mut self, check: &'static str, state: State, says: impl Into<String>) {
        let finding = Finding { check, state, says: says.into() };
        if !self.json {
            // Whoever closed standard output has the exit code.
            let _unread = writeln!(stdout(), "{:8}{check:16}{}", state.word(), finding.says);
        }
        self.found.push(finding);
    }

    fn ok(&mut self, check: &'static str, says: impl Into<String>) {
        self.add(check, State::Ok, says);
    }

    fn note(&mut self, check: &'static str, says: impl Into<String>) {
        self.add(check, State::Note, says);
    }

    fn warn(&mut self, check: &'static str, says: impl Into<String>) {
        self.add(check, State::Warning, says);
    }

    fn fail(&mut self, check: &'static str, says: impl Into<String>) {
        self.add(check, State::Failed, says);
    }

    /// Exit code 2, as that of the program itself.
    fn conclude_bad_configuration(mut self, error: &ConfigError) -> ExitCode {
        error.problems().iter().for_each(|problem| self.fail(CONFIGURATION, problem.to_string()));
        self.print();
        ExitCode::from(exit::HOPELESS)
    }

    fn conclude(self) -> ExitCode {
        self.print();
        if self.is_well() { ExitCode::SUCCESS } else { ExitCode::from(exit::FAILED) }
    }

    fn is_well(&self) -> bool {
        self.found.iter().all(|finding| finding.state != State::Failed)
    }

    fn print(&self) {
        if self.json {
            let all = serde_json::json!({ "program": self.program, "well": self.is_well(), "findings": self.found });
            let _unread = writeln!(stdout(), "{all:#}");
        }
    }
}

const CONFIGURATION: &str = "configuration";

/// The one program of this name that runs on this machine, as far as this user may ask it.
fn running(program: &str) -> Option<Status> {
    let mut target = find(program, None).ok()?;
    serde_json::from_value(ask(&mut target, &Question::Status, "status").ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_failed_makes_it_unwell() {
        let mut findings = Findings::of("any", true);
        findings.ok("a", "b");
        findings.note("a", "b");
        findings.warn("a", "b");
        assert!(findings.is_well());
        findings.fail("a", "b");
        assert!(!findings.is_well());
    }
}
