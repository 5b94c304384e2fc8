//! What a running program is asked from outside, and what it answers: over the admin socket, a Unix socket for its own user
//! and for root, and over HTTP, where anybody who gets there may look and change nothing.
//!
//! Over the socket, one line of JSON for each question, one for each answer (`docs/operating.md`). All of it is on one
//! thread of its own, with bounds for everything that a caller can do: lines of `MOST_BYTES`, `MOST_CALLERS` at once,
//! `PATIENCE` with each.

mod ask;
mod metrics;
mod socket;
mod status;
mod web;

pub use ask::{Asked, Target, ask, find};
pub use socket::Place;
pub use status::{Descriptors, Status};
pub use web::address;

use nix::sys::utsname::uname;
use nix::unistd::Uid;
use runtime_epoll::{Operator, Order};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Mutex, Semaphore, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// The server's name.
pub const SERVER: &str = "cproxy-server";
/// The client's name.
pub const CLIENT: &str = "cproxy-client";

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
    /// To read its configuration again: a sentence that says what that has changed.
    Reload,
    /// Whether it does what it is for: `null`, or a sentence that says why not.
    Health,
    /// Server: end the sessions of a client, which is named as in its [`Status`], or by its credential.
    Kick {
        /// The name.
        client: String,
    },
    /// Server: to let the program on disk take over: a sentence that says who serves now.
    Upgrade,
    /// Server: close a public port for as long as its client's session lasts.
    Close {
        /// The port.
        port: u16,
    },
}

/// Where a program can be asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Doors {
    /// Its admin socket.
    pub socket: Place,
    /// Where it answers over HTTP, if it does.
    pub metrics: Option<SocketAddr>,
}

/// Reads a configuration again, and returns what that has changed or why it has changed nothing. It may take its time.
pub type Reload = Arc<dyn Fn() -> Result<String, String> + Send + Sync>;

/// Lets another process take over, and returns who serves now or why this one goes on. It may take its time.
pub type Upgrade = Arc<dyn Fn() -> Result<String, String> + Send + Sync>;

/// Who does what is asked for.
#[derive(Clone)]
pub struct Served {
    /// Reports and orders.
    pub operator: Operator,
    /// Reloads.
    pub reload: Reload,
    /// Upgrades; none of a client.
    pub upgrade: Option<Upgrade>,
}

/// A program that can be asked.
struct Program {
    name: &'static str,
    instance: String,
    served: Served,
    host_name: String,
    /// The last answer. Whoever asks in quick succession gets the same.
    last: Mutex<Option<(Instant, Arc<Status>)>>,
}

/// How old an answer may be: thousands who ask all the time take no time of the event loops.
const FRESH: Duration = Duration::from_millis(200);

/// A running program that can be asked. Nobody new is heard when this is dropped, and the admin socket's file goes;
/// whoever has asked is answered.
#[derive(Debug)]
pub struct Admin {
    file: Option<socket::Open>,
    doors: Vec<JoinHandle<()>>,
}

/// How long a door may take to close: the thread behind it waits for nothing.
const CLOSE: Duration = Duration::from_secs(1);

/// Answers that somebody waits for.
static ANSWERS: AtomicUsize = AtomicUsize::new(0);

/// Waits until whoever has asked has his answer, a second at most.
pub(crate) fn await_answers() {
    wait_until(|| ANSWERS.load(Ordering::SeqCst) == 0);
}

/// Waits for what waits for nothing itself, for [`CLOSE`] at most.
fn wait_until(done: impl Fn() -> bool) {
    let until = Instant::now() + CLOSE;
    while Instant::now() < until && !done() {
        thread::sleep(Duration::from_millis(1));
    }
}

/// Counts one of them as long as it lives.
struct Answer;

impl Answer {
    fn begin() -> Self {
        ANSWERS.fetch_add(1, Ordering::SeqCst);
        Self
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        ANSWERS.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.doors.iter().for_each(JoinHandle::abort);
        wait_until(|| self.doors.iter().all(JoinHandle::is_finished));
        // Nobody listens at it any more.
        self.file = None;
    }
}

/// Lets the program `name` ([`SERVER`] or [`CLIENT`]) be asked at `doors`, on a thread of its own. `instance` tells it from
/// others of its name. Whatever goes wrong is logged, and the program runs without.
#[must_use]
pub fn start(name: &'static str, instance: String, served: Served, doors: &Doors) -> Admin {
    let socket = socket::open(&doors.socket, name, &instance).unwrap_or_else(|error| {
        tracing::error!(
            event = "no_admin_socket",
            "no admin socket, so `status` and the like do not reach this program: {error}"
        );
        None
    });
    let web = doors.metrics.and_then(|at| {
        let opened = TcpListener::bind(at).and_then(|listener| {
            listener.set_nonblocking(true)?;
            let at = listener.local_addr()?;
            tracing::info!(event = "metrics", port = at.port(), "metrics and a page at http://{at}/");
            Ok(listener)
        });
        let way = "choose another `metrics_addr`";
        opened.map_err(|error| tracing::error!(event = "no_metrics", "no metrics at {at}: {error}; {way}")).ok()
    });
    let (file, socket) = socket.unzip();
    if let Some(file) = &file {
        tracing::info!(event = "admin_socket", socket = file.path().to_string_lossy().as_ref(), "admin socket");
    }
    if socket.is_some() || web.is_some() {
        let host_name = uname().map(|system| system.nodename().to_string_lossy().into_owned()).unwrap_or_default();
        let program = Program { name, instance, served, host_name, last: Mutex::default() };
        match serve(socket, web, program) {
            Ok(doors) => return Admin { file, doors },
            Err(error) => tracing::error!(event = "no_admin", "this program cannot be asked: {error}"),
        }
    }
    Admin { file, doors: Vec::new() }
}

fn serve(
    socket: Option<std::os::unix::net::UnixListener>,
    web: Option<TcpListener>,
    program: Program,
) -> io::Result<Vec<JoinHandle<()>>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    let program = Arc::new(program);
    let mut doors = Vec::new();
    {
        let _inside = runtime.enter();
        if let Some(listener) = socket {
            doors.push(runtime.spawn(accept(UnixListener::from_std(listener)?, Arc::clone(&program))));
        }
        if let Some(listener) = web {
            doors.push(runtime.spawn(web::serve(tokio::net::TcpListener::from_std(listener)?, program)));
        }
    }
    // It lives as long as the process.
    thread::Builder::new().name("cproxy-admin".into()).spawn(move || runtime.block_on(std::future::pending::<()>()))?;
    Ok(doors)
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
        let _awaited = Answer::begin();
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
    let answer = match question {
        Question::Status => fresh(program).await.map(|status| line("status", &*status)),
        Question::Health => fresh(program).await.map(|status| line("health", &status.ailment())),
        Question::Kick { client } => match order(program, Order::Kick(client.clone())).await {
            Ok(0) => Err(format!("there is no client {client:?}; `status` names those that there are")),
            done => done.map(|count| line("done", &count)),
        },
        Question::Close { port } => match order(program, Order::Close(port)).await {
            Ok(0) => Err(format!("no tunnel has the public port {port}; `status` names those that are open")),
            done => done.map(|count| line("done", &count)),
        },
        Question::Reload => wait_for(&program.served.reload).await.map(|sentence| line("reloaded", &sentence)),
        Question::Upgrade => match &program.served.upgrade {
            None => Err("a client takes no such order: ask the server".to_owned()),
            Some(upgrade) => wait_for(upgrade).await.map(|sentence| line("upgraded", &sentence)),
        },
    };
    answer.unwrap_or_else(|why| error(&why))
}

/// Has the program do what may take its time, on a thread that may wait.
async fn wait_for(work: &Arc<dyn Fn() -> Result<String, String> + Send + Sync>) -> Result<String, String> {
    let work = Arc::clone(work);
    let done = tokio::task::spawn_blocking(move || work()).await;
    done.unwrap_or_else(|_| Err("that has failed; the program's log says why".to_owned()))
}

const ENDING: &str = "the program is ending";

/// The server does what it is told; returns how many sessions or tunnels that was about.
async fn order(program: &Program, order: Order) -> Result<usize, String> {
    let (to, done) = oneshot::channel();
    let Some(asked) = program.served.operator.order(order, move |count| {
        let _gone = to.send(count);
    }) else {
        return Err("a client takes no such order: ask the server".to_owned());
    };
    let done = timeout(REPORT, done).await;
    drop(asked);
    *program.last.lock().await = None;
    done.map_err(|_| OVERLOADED.to_owned())?.map_err(|_| ENDING.to_owned())
}

const OVERLOADED: &str = "the event loops did not answer in time: the machine is overloaded";

/// What the program does now, or did a moment ago.
async fn fresh(program: &Program) -> Result<Arc<Status>, String> {
    // Whoever comes meanwhile waits for the same answer.
    let mut last = program.last.lock().await;
    if let Some((at, status)) = &*last
        && at.elapsed() < FRESH
    {
        return Ok(Arc::clone(status));
    }
    let (to, report) = oneshot::channel();
    let asked = program.served.operator.ask(move |report| drop(to.send(report)));
    let report = timeout(REPORT, report).await;
    drop(asked);
    let report = report.map_err(|_| OVERLOADED.to_owned())?.map_err(|_| ENDING.to_owned())?;
    let status = Arc::new(Status::of(program, &report));
    *last = Some((Instant::now(), Arc::clone(&status)));
    Ok(status)
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
        assert_eq!(read(br#"{"version":1,"do":"reload"}"#), Ok(Question::Reload));
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
