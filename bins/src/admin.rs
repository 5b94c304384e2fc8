//! The admin socket: what a running program is asked, and what it answers. A Unix socket for its own user and for root.
//!
//! One line of JSON for each question, one for each answer (`docs/operating.md`). All of it is on one thread of its own,
//! with bounds for everything that a caller can do: lines of [`MOST_BYTES`], [`MOST_CALLERS`] at once, [`PATIENCE`] with
//! each.

mod ask;
mod socket;
mod status;

pub use ask::{Asked, Target, ask, find};
pub use socket::Place;
pub use status::{Descriptors, Status};

use nix::unistd::Uid;
use runtime_epoll::Reporter;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;

/// The form of questions and answers. A program that is asked in another one says so.
pub const VERSION: u64 = 1;
/// The longest question, in bytes.
const MOST_BYTES: usize = 4096;
/// Callers at once.
const MOST_CALLERS: usize = 16;
/// How long a caller may take to ask, or to read its answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the event loops may take to answer.
const REPORT: Duration = Duration::from_secs(5);
/// The pause when the process is out of descriptors.
const PAUSE: Duration = Duration::from_millis(200);

/// What a program can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Question {
    /// What it does: a [`Status`].
    Status,
}

/// A program that can be asked.
#[derive(Debug)]
pub struct Program {
    /// `cproxy-server` or `cproxy-client`.
    pub name: &'static str,
    /// What tells it from others of its name: the ctl port, or the process.
    pub instance: String,
    /// Asks it what it does.
    pub reporter: Reporter,
}

/// The admin socket of a running program. Its file goes when this is dropped.
#[derive(Debug)]
pub struct Admin {
    _file: Option<socket::Open>,
}

/// Opens the admin socket of `program` at `place`, and serves it on a thread of its own. Whatever goes wrong is logged,
/// and the program runs without.
#[must_use]
pub fn start(program: Program, place: &Place) -> Admin {
    let opened = match socket::open(place, program.name, &program.instance) {
        Ok(Some((open, listener))) => serve(listener, program).map(|()| open),
        Ok(None) => return Admin { _file: None },
        Err(error) => Err(error),
    };
    match opened {
        Ok(open) => {
            tracing::info!(event = "admin_socket", socket = open.path().to_string_lossy().as_ref(), "admin socket");
            Admin { _file: Some(open) }
        }
        Err(error) => {
            tracing::error!(
                event = "no_admin_socket",
                "no admin socket, so `status` and the like do not reach this program: {error}"
            );
            Admin { _file: None }
        }
    }
}

fn serve(listener: std::os::unix::net::UnixListener, program: Program) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    let listener = {
        let _inside = runtime.enter();
        UnixListener::from_std(listener)?
    };
    let accept = accept(listener, Arc::new(program));
    // It lives as long as the process.
    thread::Builder::new().name("cproxy-admin".into()).spawn(move || runtime.block_on(accept))?;
    Ok(())
}

async fn accept(listener: UnixListener, program: Arc<Program>) {
    let room = Arc::new(Semaphore::new(MOST_CALLERS));
    loop {
        let Ok((mut stream, _)) = listener.accept().await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let Ok(place) = Arc::clone(&room).try_acquire_owned() else {
            refuse(&mut stream, "too many ask at once; try again").await;
            continue;
        };
        let program = Arc::clone(&program);
        tokio::spawn(async move {
            let _place = place;
            attend(stream, &program).await;
        });
    }
}

/// A line of JSON for a caller that gets no other. Whoever does not take it at once goes without.
async fn refuse(stream: &mut UnixStream, why: &str) {
    let _unread = timeout(Duration::ZERO, stream.write_all(&error(why))).await;
}

/// Answers a caller until it leaves.
async fn attend(mut stream: UnixStream, program: &Program) {
    // The file's mode says so already, unless somebody has changed it.
    let allowed = stream.peer_cred().is_ok_and(|peer| peer.uid() == Uid::effective().as_raw() || peer.uid() == 0);
    if !allowed {
        return refuse(&mut stream, "only this program's user and root may ask").await;
    }
    let mut held = Vec::new();
    loop {
        let line = match timeout(PATIENCE, next_line(&mut stream, &mut held)).await {
            Ok(Ok(Some(line))) => line,
            Ok(Err(Refused::TooLong)) => return refuse(&mut stream, "the question is too long").await,
            Ok(Ok(None) | Err(Refused::Lost)) | Err(_) => return,
        };
        let answer = match read(&line) {
            Ok(question) => answer(question, program).await,
            Err(why) => error(&why),
        };
        if !matches!(timeout(PATIENCE, stream.write_all(&answer)).await, Ok(Ok(()))) {
            return;
        }
    }
}

enum Refused {
    TooLong,
    Lost,
}

/// The next line, without its end; `None` if the caller has nothing more to ask. What follows it is `held`.
async fn next_line(stream: &mut UnixStream, held: &mut Vec<u8>) -> Result<Option<Vec<u8>>, Refused> {
    let mut chunk = [0; 1024];
    loop {
        if let Some(end) = held.iter().position(|&byte| byte == b'\n') {
            let line = held.drain(..=end).take(end).collect();
            return Ok(Some(line));
        }
        if held.len() > MOST_BYTES {
            return Err(Refused::TooLong);
        }
        match stream.read(&mut chunk).await {
            Ok(0) => return Ok(None),
            Ok(count) => held.extend_from_slice(&chunk[..count]),
            Err(_) => return Err(Refused::Lost),
        }
    }
}

/// The question in a line, or what is wrong with it.
fn read(line: &[u8]) -> Result<Question, String> {
    let mut value: Value = serde_json::from_slice(line).map_err(|error| format!("the question is no JSON: {error}"))?;
    let version = value.as_object_mut().and_then(|fields| fields.remove("version"));
    match version.as_ref().and_then(Value::as_u64) {
        Some(VERSION) => {}
        Some(other) => return Err(format!("this program answers version {VERSION}, and was asked in version {other}")),
        None => return Err(format!("the question has no version; write \"version\":{VERSION}")),
    }
    serde_json::from_value(value).map_err(|error| format!("the question is not understood: {error}"))
}

async fn answer(question: Question, program: &Program) -> Vec<u8> {
    match question {
        Question::Status => match status(program).await {
            Ok(status) => line("status", &status),
            Err(why) => error(why),
        },
    }
}

/// What the program does now.
async fn status(program: &Program) -> Result<Status, &'static str> {
    let (to, report) = oneshot::channel();
    let asked = program.reporter.ask(move |report| drop(to.send(report)));
    let report = timeout(REPORT, report).await;
    drop(asked);
    match report {
        Ok(Ok(report)) => Ok(Status::of(program, &report)),
        Ok(Err(_)) => Err("the program is ending"),
        Err(_) => Err("the event loops did not answer in time: the machine is overloaded"),
    }
}

/// The line `{"version":1,"KEY":…}`.
fn line(key: &str, value: &impl Serialize) -> Vec<u8> {
    let value = serde_json::to_value(value).unwrap_or(Value::Null);
    let mut line = serde_json::json!({ "version": VERSION, key: value }).to_string().into_bytes();
    line.push(b'\n');
    line
}

fn error(why: &str) -> Vec<u8> {
    line("error", &why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_says_its_version_and_what_it_wants() {
        assert_eq!(read(br#"{"version":1,"do":"status"}"#), Ok(Question::Status));
        for (line, why) in [
            (&b"garbage"[..], "the question is no JSON"),
            (b"\xff", "the question is no JSON"),
            (b"[1]", "the question has no version; write \"version\":1"),
            (br#"{"do":"status"}"#, "the question has no version"),
            (br#"{"version":2,"do":"status"}"#, "answers version 1, and was asked in version 2"),
            (br#"{"version":1}"#, "the question is not understood: missing field `do`"),
            (br#"{"version":1,"do":"dance"}"#, "unknown variant `dance`"),
        ] {
            let error = read(line).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}
