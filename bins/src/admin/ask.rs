//! The other end: finds a running program, and asks it.

use super::socket::{directories, sockets_in};
use super::{Question, VERSION};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a program may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// More than any answer: some kilobytes for each of thousands of clients.
const MOST_BYTES: u64 = 1 << 28;

/// A running program.
#[derive(Debug)]
pub struct Target {
    path: PathBuf,
    stream: BufReader<UnixStream>,
}

/// What came back.
pub type Asked<T> = Result<T, String>;

/// Connects to the running `program`: at `socket`, or to the only one that is found.
///
/// # Errors
/// There is none, or more than one: a sentence that says what to do.
pub fn find(program: &str, socket: Option<&Path>) -> Asked<Target> {
    if let Some(path) = socket {
        return connect(path).map_err(|error| format!("cannot reach a {program} at {}: {error}", path.display()));
    }
    let directories = directories(program);
    let paths = directories.iter().flat_map(|directory| sockets_in(directory, program));
    let (mut living, mut unreachable) = (Vec::new(), None);
    for path in paths {
        match connect(&path) {
            Ok(target) => living.push(target),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {}
            Err(error) => unreachable = Some(format!("cannot reach the {program} at {}: {error}", path.display())),
        }
    }
    match (living.len(), unreachable) {
        (1, _) => Ok(living.remove(0)),
        (0, Some(why)) => Err(why),
        (0, None) => {
            let looked: Vec<_> = directories.iter().map(|path| path.display().to_string()).collect();
            Err(format!(
                "no running {program} is found in {}; name its socket with --socket (its log says `admin socket`; started \
                 outside systemd and a login session it has none, unless its file names an `admin_socket`)",
                looked.join(", ")
            ))
        }
        (_, _) => {
            let paths: Vec<_> = living.iter().map(|target| format!("  --socket {}", target.path.display())).collect();
            Err(format!("several are running; choose one:\n{}", paths.join("\n")))
        }
    }
}

fn connect(path: &Path) -> std::io::Result<Target> {
    let stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(Target { path: path.to_owned(), stream: BufReader::new(stream) })
}

/// Asks a program; returns what its answer has under `key`.
///
/// # Errors
/// It did not answer, or refused: a sentence.
pub fn ask(target: &mut Target, question: &Question, key: &str) -> Asked<Value> {
    let failed = |error: std::io::Error| format!("{} does not answer: {error}", target.path.display());
    let mut line = serde_json::to_value(question).map_err(|error| error.to_string())?;
    line["version"] = VERSION.into();
    let line = format!("{line}\n");
    target.stream.get_mut().write_all(line.as_bytes()).map_err(failed)?;
    let mut answer = String::new();
    let read = target.stream.by_ref().take(MOST_BYTES).read_line(&mut answer);
    let failed = |error: std::io::Error| format!("{} does not answer: {error}", target.path.display());
    if read.map_err(failed)? == 0 {
        return Err(format!(
            "{} has ended the conversation: the program is ending, or is another's",
            target.path.display()
        ));
    }
    let mut answer: Value = serde_json::from_str(&answer).map_err(|error| format!("no answer in JSON: {error}"))?;
    if let Some(why) = answer["error"].as_str() {
        return Err(why.to_owned());
    }
    if answer["version"] != VERSION {
        return Err(format!("the program answers in version {}, and this one reads {VERSION}", answer["version"]));
    }
    Ok(answer[key].take())
}
