//! What the programs write: lines go into a bounded queue, and a thread of their own writes them. So nobody who carries
//! traffic ever waits for a terminal that was stopped, or for a pipe that nobody reads. Lines that find the queue full
//! are lost and counted.

use crate::access_log::Record;
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Bytes that may wait to be written: some thousand lines.
const ROOM: usize = 512 * 1024;
/// How long the end of a program may wait for what is left to be written. Where somebody reads, a busy machine may still
/// take as long to give the thread its next turn.
const AT_EXIT: Duration = Duration::from_secs(1);
/// How long it may take to give it the first one.
const SCHEDULED: Duration = Duration::from_secs(2);
/// How long a record may wait for others: a thread that is woken for each of them costs a fifth of a short visit.
const GATHER: Duration = Duration::from_millis(20);
/// The pause before the next try where a non-blocking file has no room.
const RETRY: Duration = Duration::from_millis(20);

/// A queue of lines, and the thread that writes them. Clones share both.
#[derive(Clone, Debug)]
pub struct Output(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    /// Signalled when there is something to write, and when everything is written.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    lines: VecDeque<Line>,
    /// Bytes of all `lines`.
    bytes: usize,
    /// Lines lost since the last one that found room.
    lost: u64,
    /// Whether the thread is writing something that is no longer in `lines`.
    writing: bool,
    /// There is more than records, or somebody waits for them: the thread waits for no others.
    urgent: bool,
}

#[derive(Debug)]
struct Line {
    text: Text,
    /// Lines that were lost before this one.
    lost_before: u64,
}

#[derive(Debug)]
enum Text {
    Ready(Vec<u8>),
    /// The thread makes a line of it.
    Record(Box<Record>),
}

impl Text {
    /// The room that it takes.
    fn len(&self) -> usize {
        match self {
            Self::Ready(text) => text.len(),
            Self::Record(_) => size_of::<Record>(),
        }
    }
}

/// What the thread is to say by itself.
#[derive(Debug)]
pub enum Said {
    /// So many lines were lost.
    Lost(u64),
    /// A line of the access log.
    Record(Box<Record>),
}

impl Output {
    /// Standard output.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn stdout() -> io::Result<Self> {
        Self::start("stdout", io::stdout(), |said| {
            if let Said::Lost(lines) = said {
                tracing::error!(
                    event = "stdout_lines_lost",
                    lines,
                    "lines were lost, because standard output was not read in time"
                );
            }
        })
    }

    /// Starts a thread, named `name`, that writes to `file` and lives as long as the process. Where lines were lost, and
    /// for each record, it calls `say`, which may write to the same file by itself.
    ///
    /// # Errors
    /// The thread cannot be started: says what to do.
    pub fn start(
        name: &str,
        mut file: impl Write + Send + 'static,
        mut say: impl FnMut(Said) + Send + 'static,
    ) -> io::Result<Self> {
        let output = Self(Arc::new(Shared { queue: Mutex::default(), changed: Condvar::new() }));
        let shared = Arc::clone(&output.0);
        let spawned = thread::Builder::new().name(name.into()).spawn(move || {
            loop {
                let Line { text, lost_before } = shared.next();
                if lost_before > 0 {
                    say(Said::Lost(lost_before));
                }
                match text {
                    Text::Ready(text) => write_whole(&mut file, &text),
                    Text::Record(record) => say(Said::Record(record)),
                }
            }
        });
        match spawned {
            Ok(_) => Ok(output),
            Err(error) => Err(io::Error::other(format!(
                "cannot start a thread: {error}; raise the limit of processes (ulimit -u)"
            ))),
        }
    }

    /// Queues `line`, which ends with a line feed. It is lost if there is no room.
    pub fn line(&self, line: impl Into<Vec<u8>>) {
        self.push(Text::Ready(line.into()), ROOM);
    }

    /// Queues a record. Records leave half of the room to lines: visitors come as often as they like.
    pub fn record(&self, record: Record) {
        self.push(Text::Record(Box::new(record)), ROOM / 2);
    }

    fn push(&self, text: Text, room: usize) {
        let mut queue = self.0.queue();
        if queue.bytes + text.len() > room {
            queue.lost += 1;
            return;
        }
        queue.bytes += text.len();
        queue.urgent |= matches!(text, Text::Ready(_));
        // Behind another record the thread is awake, or wakes by itself.
        let wakes = queue.urgent || !queue.has_more();
        let lost_before = std::mem::take(&mut queue.lost);
        queue.lines.push_back(Line { text, lost_before });
        if wakes {
            self.0.changed.notify_all();
        }
    }

    /// Waits until everything is written, for `at_most` from when the thread has begun, and takes that time off.
    fn flush(&self, at_most: &mut Duration) {
        let changed = &self.0.changed;
        self.0.queue().urgent = true;
        changed.notify_all();
        let not_yet = |queue: &mut Queue| !queue.writing && queue.has_more();
        let busy = |queue: &mut Queue| queue.writing || queue.has_more();
        let queue = changed.wait_timeout_while(self.0.queue(), SCHEDULED, not_yet);
        let began = Instant::now();
        let queue = queue.unwrap_or_else(PoisonError::into_inner).0;
        // What could not be written by then is lost with the process.
        let _late = changed.wait_timeout_while(queue, *at_most, busy);
        *at_most = at_most.saturating_sub(began.elapsed());
    }
}

/// Gives `outputs` a last moment, together at most a second, to write what is left.
pub fn finish(outputs: &[&Output]) {
    let mut left = AT_EXIT;
    outputs.iter().for_each(|output| output.flush(&mut left));
}

impl Shared {
    /// Waits for the next line. Lines lost at the end of the queue come with an empty one.
    fn next(&self) -> Line {
        let mut queue = self.queue();
        queue.writing = false;
        self.changed.notify_all();
        if !queue.has_more() {
            queue.urgent = false;
            queue = self.changed.wait_while(queue, |queue| !queue.has_more()).unwrap_or_else(PoisonError::into_inner);
            let gathered = self.changed.wait_timeout_while(queue, GATHER, |queue| !queue.urgent);
            queue = gathered.unwrap_or_else(PoisonError::into_inner).0;
        }
        queue.writing = true;
        let line = queue.lines.pop_front();
        let line = line
            .unwrap_or_else(|| Line { text: Text::Ready(Vec::new()), lost_before: std::mem::take(&mut queue.lost) });
        queue.bytes -= line.text.len();
        line
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // No panic can leave a queue in disorder.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn has_more(&self) -> bool {
        !self.lines.is_empty() || self.lost > 0
    }
}

/// Writes `text` as far as the file takes it. Whoever closed it does not want to know.
fn write_whole(file: &mut impl Write, mut text: &[u8]) {
    while !text.is_empty() {
        match file.write(text) {
            Ok(0) => break,
            Ok(n) => text = &text[n..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Another program that has the same terminal or pipe may have made it non-blocking.
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(RETRY),
            Err(_) => break,
        }
    }
    let _unread = file.flush();
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, PipeReader};
    use std::sync::mpsc::channel;

    /// An output into a pipe that nobody reads yet; what was lost is told there too.
    fn piped() -> (Output, BufReader<PipeReader>) {
        let (reader, writer) = io::pipe().unwrap();
        let mut teller = writer.try_clone().unwrap();
        let output = Output::start("test", writer, move |said| match said {
            Said::Lost(lost) => writeln!(teller, "{lost} lost").unwrap(),
            Said::Record(_) => writeln!(teller, "a record").unwrap(),
        })
        .unwrap();
        (output, BufReader::new(reader))
    }

    /// A line of a thousand bytes.
    fn long_line(number: usize) -> String {
        format!("{number:0>999}\n")
    }

    #[test]
    fn lines_come_whole_and_in_order_and_the_end_waits_for_them() {
        let (output, reader) = piped();
        for number in 0..30 {
            output.line(long_line(number));
        }
        finish(&[&output]);
        let lines: Vec<_> = reader.lines().take(30).map(Result::unwrap).collect();
        assert_eq!(lines, (0..30).map(|number| long_line(number).trim_end().to_owned()).collect::<Vec<_>>());
    }

    const SENT: usize = 2000;

    /// How many of the numbered lines `line` stands for, which comes where `next` is due: itself, or those lost.
    fn accounted(line: &str, next: usize) -> usize {
        line.strip_suffix(" lost").map_or_else(
            || {
                assert_eq!(line, long_line(next).trim_end());
                1
            },
            |lost| lost.parse().unwrap(),
        )
    }

    #[test]
    fn nobody_waits_for_an_unread_file_and_what_is_lost_is_counted_in_its_place() {
        let (output, reader) = piped();
        (0..SENT).for_each(|number| output.line(long_line(number)));
        finish(&[&output]);
        let (mut next, mut all_lost) = (0, 0);
        let mut lines = reader.lines().map(Result::unwrap);
        while next < SENT {
            let line = lines.next().unwrap();
            let count = accounted(&line, next);
            next += count;
            all_lost += if line.ends_with(" lost") { count } else { 0 };
        }
        assert!(all_lost > SENT / 2, "about {} lines found room, and a pipe took others", ROOM / 1000);
    }

    #[test]
    fn lines_that_come_after_a_loss_are_behind_the_word_of_it() {
        let (output, reader) = piped();
        (0..SENT).for_each(|number| output.line(long_line(number)));
        let (mut next, mut sent) = (0, false);
        for line in reader.lines().map(Result::unwrap) {
            // Once there is room again, while what was queued before the loss is still being written.
            if !sent && output.0.queue().bytes < ROOM / 2 {
                output.line("behind the gap\n");
                sent = true;
            }
            if line == "behind the gap" {
                break;
            }
            next += accounted(&line, next);
        }
        assert_eq!(next, SENT, "all are before it, or counted as lost");
    }

    #[test]
    fn a_non_blocking_file_without_room_is_tried_again() {
        struct Reluctant(u32, std::sync::mpsc::Sender<Vec<u8>>);
        impl Write for Reluctant {
            fn write(&mut self, from: &[u8]) -> io::Result<usize> {
                self.0 += 1;
                if self.0 % 2 == 1 {
                    return Err(ErrorKind::WouldBlock.into());
                }
                self.1.send(from[..3].to_vec()).unwrap();
                Ok(3)
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (got, gets) = channel();
        Output::start("test", Reluctant(0, got), |_| {}).unwrap().line("abcdef");
        assert_eq!([gets.recv(), gets.recv()].map(Result::unwrap).concat(), b"abcdef");
    }
}
