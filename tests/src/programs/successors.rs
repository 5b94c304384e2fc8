//! The processes to which a server has given its listeners: no children of the test.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A server's successors: they are killed with the test.
#[derive(Debug, Default)]
pub struct Successors(pub Vec<u32>);

impl Successors {
    /// Takes the process that serves now, by the line that says so.
    ///
    /// # Panics
    /// If the line says otherwise.
    #[track_caller]
    pub fn take(&mut self, said: &str) -> u32 {
        let pid = said.split_once("process ").and_then(|(_, rest)| rest.split_once(" serves now"));
        let pid = pid.and_then(|(pid, _)| pid.parse().ok()).unwrap_or_else(|| panic!("no upgrade: {said}"));
        self.0.push(pid);
        pid
    }
}

impl Drop for Successors {
    fn drop(&mut self) {
        for &pid in &self.0 {
            // It may have ended.
            let _gone = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
        }
    }
}
