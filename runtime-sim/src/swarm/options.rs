//! How a seed is run: with its trace or without, on an honest system or on one that lies.

/// How to run a seed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Keep the events, so that the trace can tell the story.
    pub trace: bool,
    /// Run the programs on a system that lies to them: the checks must notice.
    pub lie: Option<Lie>,
}

/// What a system can do wrong: each is a fault that the checks exist for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// A reset is shown to the other side as an end in good order.
    ResetLooksClean,
    /// Now and then a read loses a byte.
    ByteLost,
    /// Now and then bytes are read a second time.
    BytesRepeated,
    /// Now and then a shut write half stays open.
    EndLost,
    /// The server's `Fin` is lost between two threads now and then.
    FinLost,
    /// The client's `Done` is lost between two threads now and then.
    DoneLost,
    /// A closed socket is never given back.
    SocketLeaked,
}
