//! The commands that ask a running program: `status`, and what else goes through its admin socket.

mod table;
#[cfg(test)]
pub(crate) use table::tests;
mod watch;

use crate::admin::{Asked, Question, SERVER, Status, Target, ask, find};
use crate::exit;
use crate::flags::Command;
use clap::Args;
use std::io::{IsTerminal, Write, stderr, stdout};
use std::path::PathBuf;
use std::process::ExitCode;

/// Which running program is asked.
#[derive(Args, Clone, Debug, Default)]
pub struct SocketFlag {
    /// Ask the program with this admin socket [default: the only one that is running]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
}

/// How `status` shows what it is told.
#[derive(Args, Clone, Debug, Default)]
pub struct StatusFlags {
    /// Print it as JSON
    #[arg(long)]
    pub json: bool,
    /// Print it every second, with rates, until Ctrl-C
    #[arg(long)]
    pub watch: bool,
    /// Which one.
    #[command(flatten)]
    pub socket: SocketFlag,
}

/// Asks the running `program` what `command` says.
///
/// # Panics
/// For a command that asks nothing: the caller's misuse.
#[must_use]
pub fn run(program: &str, command: &Command) -> ExitCode {
    let outcome = match command {
        Command::Init { .. } => unreachable!("it asks nobody"),
        Command::Status(how) => status(program, how),
        Command::Health(socket) => health(program, socket),
        Command::Reload(socket) => reload(program, socket),
    };
    conclude(outcome)
}

/// Gives the running server an order.
#[must_use]
pub fn order(question: &Question, socket: &SocketFlag) -> ExitCode {
    let asked = find(SERVER, socket.socket.as_deref()).and_then(|mut target| ask(&mut target, question, "done"));
    conclude(asked.map(drop))
}

/// `upgrade`: has the running server start the program on disk, and prints who serves now.
#[must_use]
pub fn upgrade(socket: &SocketFlag) -> ExitCode {
    let asked = find(SERVER, socket.socket.as_deref());
    let asked = asked.and_then(|mut target| ask(&mut target, &Question::Upgrade, "upgraded"));
    conclude(asked.and_then(|answer| print(&format!("{}\n", answer.as_str().unwrap_or_default()))))
}

fn conclude(outcome: Asked<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            let _unread = writeln!(stderr(), "error: {why}");
            ExitCode::from(exit::FAILED)
        }
    }
}

/// `health`: nothing, or why it does not do what it is for.
fn health(program: &str, socket: &SocketFlag) -> Asked<()> {
    let mut target = find(program, socket.socket.as_deref())?;
    match ask(&mut target, &Question::Health, "health")?.as_str() {
        None => print("ok\n"),
        Some(why) => Err(why.to_owned()),
    }
}

/// `status`: what the running `program` does.
fn status(program: &str, flags: &StatusFlags) -> Asked<()> {
    let mut target = find(program, flags.socket.socket.as_deref())?;
    if flags.watch {
        return watch::watch(&mut target, flags.json);
    }
    if flags.json {
        let answer = ask(&mut target, &Question::Status, "status")?;
        return print(&format!("{answer:#}\n"));
    }
    let status = fetch(&mut target)?;
    print(&table::table(&status, None, width()))
}

/// `reload`: has the running `program` read its configuration again, and prints what that has changed.
fn reload(program: &str, socket: &SocketFlag) -> Asked<()> {
    let mut target = find(program, socket.socket.as_deref())?;
    let answer = ask(&mut target, &Question::Reload, "reloaded")?;
    print(&format!("{}\n", answer.as_str().unwrap_or_default()))
}

fn fetch(target: &mut Target) -> Asked<Status> {
    let answer = ask(target, &Question::Status, "status")?;
    serde_json::from_value(answer).map_err(|error| format!("the answer is not understood: {error}"))
}

/// Writes to standard output. Whoever does not read it does not want it.
fn print(text: &str) -> Asked<()> {
    let mut out = stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => Err(format!("cannot write: {error}")),
    }
}

/// Columns and rows of the terminal that standard output is; `None`: it is none.
fn size() -> Option<(usize, usize)> {
    let out = stdout();
    let size = out.is_terminal().then(|| rustix::termios::tcgetwinsize(&out).ok()).flatten()?;
    (size.ws_col > 0).then(|| (size.ws_col.into(), size.ws_row.into()))
}

fn width() -> Option<usize> {
    size().map(|(columns, _)| columns)
}
