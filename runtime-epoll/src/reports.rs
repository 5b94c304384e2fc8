//! Who asks a running program for a report, and who waits for one. Nothing here is on a thread that carries traffic but
//! the handing over.

use crate::Program;
use crate::parts::{Arc, Mutex, MutexGuard, PoisonError};
use protocol_sm::driver::Tell;
use protocol_sm::driver::messages::{Reported, ToClientMain, ToServerMain};
use protocol_sm::report::Report;
use std::collections::BTreeMap;
use std::fmt;

/// Asks a running [`crate::server::Server`] or [`crate::client::Client`] what it does: from any thread.
#[derive(Clone, Debug)]
pub struct Reporter {
    program: Program,
    asked: Arc<Asked>,
}

/// A question that is not answered yet. Dropped, it is taken back.
#[derive(Debug)]
pub struct Question {
    tag: u64,
    asked: Arc<Asked>,
}

type Answer = Box<dyn FnOnce(Arc<Report>) + Send>;

impl Reporter {
    /// Asks what the program does now. `answer` is called once, on the program's main thread: it must not wait for
    /// anything. If the program ends before, `answer` is dropped.
    #[must_use]
    pub fn ask(&self, answer: impl FnOnce(Arc<Report>) + Send + 'static) -> Question {
        let tag = {
            let mut waiting = self.asked.lock();
            waiting.last_tag += 1;
            let tag = waiting.last_tag;
            if !waiting.over {
                waiting.by_tag.insert(tag, Box::new(answer));
            }
            tag
        };
        match &self.program {
            Program::Server(main) => main.post(ToServerMain::Report { tag }),
            Program::Client(main) => main.post(ToClientMain::Report { tag }),
        }
        Question { tag, asked: Arc::clone(&self.asked) }
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        let unanswered = self.asked.lock().by_tag.remove(&self.tag);
        drop(unanswered);
    }
}

/// Those that wait for a report.
#[derive(Debug, Default)]
struct Asked(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    by_tag: BTreeMap<u64, Answer>,
    last_tag: u64,
    /// The program has ended: nobody will answer.
    over: bool,
}

impl fmt::Debug for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiting").field("tags", &self.by_tag.keys()).field("over", &self.over).finish()
    }
}

impl Asked {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The main thread's end: when it is dropped, nobody waits any longer.
#[derive(Debug, Default)]
pub(crate) struct Reports(Arc<Asked>);

impl Reports {
    /// The other end.
    pub(crate) fn reporter(&self, program: Program) -> Reporter {
        Reporter { program, asked: Arc::clone(&self.0) }
    }
}

impl Tell<Reported> for Reports {
    fn tell(&mut self, Reported { tags, report }: Reported) {
        let report = Arc::<Report>::from(report);
        let answers: Vec<_> = {
            let mut waiting = self.0.lock();
            // Whoever has given up meanwhile is not there.
            tags.iter().filter_map(|tag| waiting.by_tag.remove(tag)).collect()
        };
        for answer in answers {
            answer(Arc::clone(&report));
        }
    }
}

impl Drop for Reports {
    fn drop(&mut self) {
        let mut waiting = self.0.lock();
        waiting.over = true;
        let unanswered = std::mem::take(&mut waiting.by_tag);
        drop(waiting);
        drop(unanswered);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::thread::{Clock, Host};
    use std::sync::mpsc;

    fn reported(tags: &[u64]) -> Reported {
        Reported { tags: tags.to_vec(), report: Box::default() }
    }

    #[test]
    fn each_question_is_answered_or_dropped() {
        let mut host = Host::new(Clock::start()).unwrap();
        let seat = host.seat().unwrap();
        let mut reports = Reports::default();
        let reporter = reports.reporter(Program::Client(seat.address()));
        let ask = || {
            let (to, answer) = mpsc::channel();
            (reporter.ask(move |report| to.send(report).unwrap()), answer)
        };
        let (first, second, third) = (ask(), ask(), ask());
        reports.tell(reported(&[1, 2]));
        assert_eq!(*first.1.recv().unwrap(), Report::default());
        assert_eq!(*second.1.recv().unwrap(), Report::default());
        assert!(third.1.try_recv().is_err());
        drop(third.0);
        assert_eq!(third.1.recv(), Err(mpsc::RecvError), "taken back");
        reports.tell(reported(&[3]));
        let fourth = ask();
        drop(reports);
        assert_eq!(fourth.1.recv(), Err(mpsc::RecvError), "the program has ended");
        assert_eq!(ask().1.recv(), Err(mpsc::RecvError), "and nobody waits for it any more");
    }
}
