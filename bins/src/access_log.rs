//! The access log: one line for each visit, at its end, among the log lines or in a file of its own. The threads that
//! carry visits hand over a record; it becomes a line on the thread that writes.

use crate::logging::{self, Logs};
use crate::output::{Output, Said};
use protocol_sm::visit::{Visit, VisitEnd, WayEnd};
use runtime_epoll::{AccessLog, peer};
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};
use time::OffsetDateTime;
use tracing::Dispatch;

/// Where the access log goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Destination {
    /// There is none.
    #[default]
    Nowhere,
    /// Among the log lines.
    Log,
    /// To the end of this file, which is opened again when it was moved.
    File(PathBuf),
}

/// Which program writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// `cproxy-server`.
    Server,
    /// `cproxy-client`.
    Client,
}

/// A visit that is over, and when it was.
#[derive(Debug)]
pub struct Record {
    visit: Visit,
    side: Side,
    ended: SystemTime,
}

/// An access log, and the thread that writes it if that is not the log's own.
#[derive(Debug, Default)]
pub struct Started {
    /// Where the program puts its records.
    pub access_log: Option<AccessLog>,
    /// What is to be finished at the end.
    pub output: Option<Output>,
}

/// Starts the access log of this `side`. `log` takes it if it goes among the log lines.
///
/// # Errors
/// The file cannot be opened, or the thread cannot be started: says what to do.
pub fn start(to: &Destination, side: Side, logs: Logs, log: &Output) -> io::Result<Started> {
    let output = match to {
        Destination::Nowhere => return Ok(Started::default()),
        Destination::Log => None,
        Destination::File(path) => {
            let file = Moving::open(path).map_err(|error| {
                let what = format!(
                    "cannot open the access log `{}`: {error}; make its directory, or name another file (`access_log`)",
                    path.display()
                );
                io::Error::new(error.kind(), what)
            })?;
            let direct = Dispatch::new(logging::records(logs.format, Mutex::new(file)));
            Some(Output::start("access-log", io::sink(), move |said| match said {
                Said::Lost(lines) => {
                    tracing::error!(
                        event = "access_lines_lost",
                        lines,
                        "lines of the access log were lost, because they came faster than its file takes them"
                    );
                }
                Said::Record(record) => tracing::dispatcher::with_default(&direct, || record.write()),
            })?)
        }
    };
    let queue = output.clone().unwrap_or_else(|| log.clone());
    let access_log = AccessLog::new(move |visit| queue.record(Record { visit, side, ended: SystemTime::now() }));
    Ok(Started { access_log: Some(access_log), output })
}

impl Record {
    /// Writes it as a line, to this thread's subscriber.
    pub fn write(&self) {
        let Self { visit, side, ended } = self;
        let (peer_ip, peer_port) = peer(visit.visitor);
        let began = ended.checked_sub(visit.lasted).unwrap_or(SystemTime::UNIX_EPOCH);
        let served_after = visit.served_after.map(seconds);
        let (wait, dial) = if *side == Side::Server { (served_after, None) } else { (None, served_after) };
        let (outcome, why) = outcome(visit.outcome);
        // The names are a client's or a user's choice: as strings they are escaped.
        let label = &visit.label;
        tracing::info!(
            event = "visit",
            %peer_ip,
            peer_port,
            tunnel = label.tunnel,
            client = label.client.to_string(),
            credential = label.credential,
            start = timestamp(began),
            duration = seconds(visit.lasted),
            wait,
            dial,
            bytes_up = visit.up.bytes,
            bytes_down = visit.down.bytes,
            end_up = end(visit.up.end),
            end_down = end(visit.down.end),
            outcome,
            why,
            "visit"
        );
    }
}

/// Seconds, to the microsecond.
fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e6
}

fn end(end: WayEnd) -> &'static str {
    match end {
        WayEnd::Shut => "shut",
        WayEnd::Reset => "reset",
        WayEnd::Cut => "cut",
    }
}

/// What became of a visit, and why: the name of the reason, `peer_` in front where the other program said so first.
fn outcome(end: VisitEnd) -> (&'static str, Option<String>) {
    match end {
        VisitEnd::Served => ("served", None),
        VisitEnd::Aborted { code, by_peer } => {
            let by = if by_peer { "peer_" } else { "" };
            ("aborted", Some(format!("{by}{}", snake_case(&code))))
        }
        VisitEnd::Refused(code) => ("refused", Some(snake_case(&code))),
        VisitEnd::Dropped(why) => ("dropped", Some(snake_case(&why))),
    }
}

/// The name of an enum's variant, as log lines have it.
fn snake_case(name: &impl fmt::Debug) -> String {
    let mut snake = String::new();
    for letter in format!("{name:?}").chars() {
        if letter.is_ascii_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
    }
    snake
}

fn timestamp(time: SystemTime) -> String {
    let at = OffsetDateTime::from(time);
    let (date, time) = (at.date(), at.time());
    let (year, month, day) = (date.year(), u8::from(date.month()), date.day());
    let (hour, minute, second, micro) = time.as_hms_micro();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micro:06}Z")
}

/// How long a file may be somewhere else before that is noticed.
const LOOK: Duration = Duration::from_secs(1);

/// A file that is written at its end, and is opened anew where it was moved or deleted: so logrotate needs nothing else.
#[derive(Debug)]
struct Moving {
    path: PathBuf,
    file: File,
    looked: Instant,
}

impl Moving {
    fn open(path: &Path) -> io::Result<Self> {
        // Visitors' addresses are nobody else's business.
        let file = OpenOptions::new().create(true).append(true).mode(0o640).open(path)?;
        Ok(Self { path: path.to_owned(), file, looked: Instant::now() })
    }

    fn is_there(&self) -> bool {
        let place = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        let (named, open) = (fs::metadata(&self.path).map(place), self.file.metadata().map(place));
        matches!((named, open), (Ok(named), Ok(open)) if named == open)
    }
}

impl Write for Moving {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.looked.elapsed() >= LOOK {
            self.looked = Instant::now();
            if !self.is_there()
                && let Ok(new) = Self::open(&self.path)
            {
                *self = new;
            }
        }
        self.file.write(line)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logging::LogFormat;
    use protocol_sm::codes::{AbortCode, RefuseCode};
    use protocol_sm::driver::{Dropped, Note};
    use protocol_sm::ids::ClientId;
    use protocol_sm::time::Instant as At;
    use protocol_sm::visit::{Begun, Label, Way};
    use std::sync::Arc;

    /// The record of a visit of 1.5 s that ended at the first billionth second, and waited for 1 ms.
    fn record(tunnel: &str, visitor: &str, outcome: VisitEnd) -> Record {
        let label =
            Label { tunnel: tunnel.into(), client: ClientId([0xab; 16]), credential: Some("office\n\"x".into()) };
        let mut begun = Begun::new(Some(Arc::new(label)), At::ZERO).unwrap();
        begun.on_served(At::ZERO + Duration::from_millis(1));
        let ways = [Way { bytes: 7, end: WayEnd::Shut }, Way { bytes: 1 << 40, end: WayEnd::Cut }];
        let Note::Visit(visit) =
            begun.over(At::ZERO + Duration::from_millis(1500), visitor.parse().unwrap(), ways, outcome)
        else {
            panic!("a visit's note")
        };
        let ended = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        Record { visit, side: Side::Server, ended }
    }

    /// What a record becomes.
    fn line(format: LogFormat, record: &Record) -> String {
        #[derive(Clone)]
        struct Shared(Arc<Mutex<Vec<u8>>>);
        impl Write for Shared {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.lock().unwrap().write(bytes)
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let written = Shared(Arc::default());
        let direct = Dispatch::new(logging::records(format, Mutex::new(written.clone())));
        tracing::dispatcher::with_default(&direct, || record.write());
        String::from_utf8(written.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn a_record_becomes_one_line_with_each_name_once() {
        let record = record("we\nb", "[::ffff:192.0.2.7]:50000", VisitEnd::Served);
        let text = line(LogFormat::Text, &record);
        assert!(text.ends_with('\n') && text.trim_end().lines().count() == 1, "{text}");
        let (_, behind_time) = text.split_once(' ').unwrap();
        assert_eq!(
            behind_time.trim(),
            "INFO visit event=\"visit\" peer_ip=192.0.2.7 peer_port=50000 tunnel=\"we\\nb\" client=\"abababab\" \
             credential=\"office\\n\\\"x\" start=\"2001-09-09T01:46:38.500000Z\" duration=1.5 wait=0.001 bytes_up=7 \
             bytes_down=1099511627776 end_up=\"shut\" end_down=\"cut\" outcome=\"served\""
        );
        let json = line(LogFormat::Json, &record);
        let read: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&json).unwrap();
        assert_eq!(read["tunnel"], "we\nb");
        assert_eq!((&read["bytes_down"], &read["peer_ip"]), (&(1_u64 << 40).into(), &"192.0.2.7".into()));
        for key in read.keys() {
            assert_eq!(json.matches(&format!("\"{key}\":")).count(), 1, "{key}: {json}");
        }
    }

    #[test]
    fn reasons_have_names_that_do_not_change() {
        let named = |end| outcome(end).1.unwrap();
        assert_eq!(named(VisitEnd::Aborted { code: AbortCode::ConnLost, by_peer: true }), "peer_conn_lost");
        assert_eq!(named(VisitEnd::Refused(RefuseCode::ConnectionRefused)), "connection_refused");
        let dropped = [
            Dropped::WaitedTooLong,
            Dropped::QueueFull,
            Dropped::TooMany,
            Dropped::TunnelFull,
            Dropped::SourceDenied,
            Dropped::TooOften,
            Dropped::SourceFull,
            Dropped::NoHeader,
            Dropped::Gone,
            Dropped::Resources,
        ];
        assert_eq!(
            dropped.map(|why| named(VisitEnd::Dropped(why))),
            [
                "waited_too_long",
                "queue_full",
                "too_many",
                "tunnel_full",
                "source_denied",
                "too_often",
                "source_full",
                "no_header",
                "gone",
                "resources"
            ]
        );
    }

    #[test]
    fn a_file_that_was_moved_is_opened_anew() {
        let directory = tempfile::tempdir().unwrap();
        let (path, moved) = (directory.path().join("access.log"), directory.path().join("access.log.1"));
        let mut file = Moving::open(&path).unwrap();
        file.write_all(b"one\n").unwrap();
        fs::rename(&path, &moved).unwrap();
        file.write_all(b"two\n").unwrap();
        // As if a second had passed.
        file.looked = file.looked.checked_sub(LOOK).unwrap();
        file.write_all(b"three\n").unwrap();
        assert_eq!(fs::read_to_string(&moved).unwrap(), "one\ntwo\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "three\n");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o007, 0, "others read nothing");
        drop(file);
        Moving::open(&path).unwrap().write_all(b"four\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "three\nfour\n", "it is appended to");
    }
}
