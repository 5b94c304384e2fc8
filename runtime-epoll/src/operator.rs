//! Who asks a running program for something, and waits for the answer. Nothing here is on a thread that carries traffic
//! but the handing over.

use crate::Program;
use crate::parts::{Arc, Mutex, MutexGuard, PoisonError};
use protocol_sm::driver::Tell;
use protocol_sm::driver::messages::{Order, Step, ToClientMain, ToOperator, ToServerMain};
use protocol_sm::report::Report;
use std::collections::BTreeMap;
use std::fmt;

/// Asks a running [`crate::server::Server`] or [`crate::client::Client`] what it does, and gives a server orders: from any
/// thread.
#[derive(Clone, Debug)]
pub struct Operator {
    program: Program,
    asked: Arc<Asked>,
}

/// A question that is not answered yet. Dropped, it is taken back.
#[derive(Debug)]
pub struct Question {
    tag: u64,
    asked: Arc<Asked>,
}

/// What is done with an answer.
enum Answer {
    Report(Box<dyn FnOnce(Arc<Report>) + Send>),
    Done(Box<dyn FnOnce(usize) + Send>),
}

impl Operator {
    /// Asks what the program does now. `answer` is called once, on the program's main thread: it must not wait for
    /// anything. If the program ends before, `answer` is dropped.
    #[must_use]
    pub fn ask(&self, answer: impl FnOnce(Arc<Report>) + Send + 'static) -> Question {
        let question = self.question(Answer::Report(Box::new(answer)));
        let tag = question.tag;
        match &self.program {
            Program::Server(main) => main.post(ToServerMain::Report { tag }),
            Program::Client(main) => main.post(ToClientMain::Report { tag }),
        }
        question
    }

    /// Gives a server an order. `answer` is called as that of [`Operator::ask`], with the number of sessions or tunnels
    /// that it was about. `None`: this is a client, which takes none.
    #[must_use]
    pub fn order(&self, order: Order, answer: impl FnOnce(usize) + Send + 'static) -> Option<Question> {
        let Program::Server(main) = &self.program else { return None };
        let question = self.question(Answer::Done(Box::new(answer)));
        main.post(ToServerMain::Order { tag: question.tag, order });
        Some(question)
    }

    /// Takes a step of a server's upgrade. `answer` is called as that of [`Operator::ask`].
    pub(crate) fn upgrade(&self, step: Step, answer: impl FnOnce(usize) + Send + 'static) -> Option<Question> {
        let Program::Server(main) = &self.program else { return None };
        let question = self.question(Answer::Done(Box::new(answer)));
        main.post(ToServerMain::Upgrade { tag: question.tag, step });
        Some(question)
    }

    fn question(&self, answer: Answer) -> Question {
        let mut waiting = self.asked.lock();
        waiting.last_tag += 1;
        let tag = waiting.last_tag;
        if !waiting.over {
            waiting.by_tag.insert(tag, answer);
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

/// Those that wait for an answer.
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
pub(crate) struct Answers(Arc<Asked>);

impl Answers {
    /// The other end.
    pub(crate) fn operator(&self, program: Program) -> Operator {
        Operator { program, asked: Arc::clone(&self.0) }
    }

    /// Whoever has given up meanwhile is not there.
    fn take(&self, tag: u64) -> Option<Answer> {
        self.0.lock().by_tag.remove(&tag)
    }
}

impl Tell<ToOperator> for Answers {
    fn tell(&mut self, msg: ToOperator) {
        match msg {
            ToOperator::Report { tags, report } => {
                let report = Arc::<Report>::from(report);
                for tag in tags {
                    if let Some(Answer::Report(answer)) = self.take(tag) {
                        answer(Arc::clone(&report));
                    }
                }
            }
            ToOperator::Done { tag, count } => {
                if let Some(Answer::Done(answer)) = self.take(tag) {
                    answer(count);
                }
            }
        }
    }
}

impl Drop for Answers {
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

    fn reported(tags: &[u64]) -> ToOperator {
        ToOperator::Report { tags: tags.to_vec(), report: Box::default() }
    }

    #[test]
    fn each_question_is_answered_or_dropped() {
        let mut host = Host::new(Clock::start()).unwrap();
        let seat = host.seat().unwrap();
        let mut answers = Answers::default();
        let operator = answers.operator(Program::Client(seat.address()));
        let ask = || {
            let (to, answer) = mpsc::channel();
            (operator.ask(move |report| to.send(report).unwrap()), answer)
        };
        let (first, second, third) = (ask(), ask(), ask());
        answers.tell(reported(&[1, 2]));
        assert_eq!(*first.1.recv().unwrap(), Report::default());
        assert_eq!(*second.1.recv().unwrap(), Report::default());
        assert!(third.1.try_recv().is_err());
        drop(third.0);
        assert_eq!(third.1.recv(), Err(mpsc::RecvError), "taken back");
        answers.tell(reported(&[3]));
        assert!(operator.order(Order::Close(1), |_| ()).is_none(), "a client takes no orders");
        let fourth = ask();
        drop(answers);
        assert_eq!(fourth.1.recv(), Err(mpsc::RecvError), "the program has ended");
        assert_eq!(ask().1.recv(), Err(mpsc::RecvError), "and nobody waits for it any more");
    }
}
