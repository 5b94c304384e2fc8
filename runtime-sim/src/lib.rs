//! Simulation of CProxy: production's own event loops over a simulated kernel.
//!
//! One seed decides everything: topology, load, faults, the order in which threads run, and how payload is moved
//! (copied, spliced, or both: `Strategy`). The same seed gives the same trace, which is checked.
//!
//! | ring | module | what it runs |
//! |---|---|---|
//! | 1 exhaustive | [`explore`] | every interleaving of event loops and whole programs, breadth-first |
//! | 2 model-based | [`explore`] | random long walks over the same, from a choice tape |
//! | 3 simulated kernel | [`world`] over [`kernel`] | whole systems, Linux's socket semantics, thousands of seeds |
//! | 4 turmoil | [`swarm`] | whole systems as independent hosts on another network |
//!
//! Rings 3 and 4 run the same systems ([`scenario`]): a fault of both is a [`scenario::SimFault`], one that only the
//! simulated kernel has a [`scenario::KernelFault`], one that only turmoil has a [`scenario::TurmoilFault`].
//!
//! # Which system calls to edit
//!
//! The drivers see the system through `protocol_sm::driver::Sys` and its companions. They are answered six times:
//!
//! | file | for | edit it when |
//! |---|---|---|
//! | `runtime-epoll/src/sys.rs` | production | Linux is to be asked for something else |
//! | `runtime-sim/src/explore/net/kernel.rs` | rings 1 and 2 | a step of the explorer, or what it compares, changes |
//! | `runtime-sim/src/world/sys.rs` | ring 3 | production asks Linux otherwise; Linux's own manners are in `kernel/` |
//! | `runtime-sim/src/swarm/sys.rs` | ring 4 | the same, on turmoil; how its sockets end is in `swarm/socket.rs` |
//! | `fuzz/src/net.rs` | fuzz targets | a fuzz input is to do something else to one process |
//! | `runtime-sim/src/flows/sys.rs` | flows of UDP | datagram sockets do something else |
//!
//! UDP sockets are there in production, in ring 3 and in [`flows`] only. Any other new call goes into all of them; a new behaviour of the kernel into ring 3, and into the others if they can see it.
//!
//! # What is checked
//!
//! What must hold stands by name in [`oracle::Property`], what must happen sometimes in [`oracle::Sometimes`]. Strangers
//! with a wrong token, with an overheard hello or in somebody else's name come in rings 3 and 4. `cproxy-sim` runs
//! [`campaign`]s.
//!
//! # Planted bugs
//!
//! A checker that cannot fail checks nothing. `cargo test -p runtime-sim --test canaries -- --nocapture` plants each of
//! these in the core, looks for it in all rings, and prints this table: the states that were searched and the length of
//! the shortest path in ring 1, the first tape in ring 2, and the first seed in rings 3 and 4 that shows it, with the
//! property that was broken there. Most are caught by several checks, so each property, and each check of ring 3, also
//! has a world of its own that it fails (`world/violations.rs`): none can be switched off unnoticed.
//!
//! | bug | ring 1: states, steps | ring 2: tape | ring 3: seed | ring 4: seed | what shows it |
//! |---|---|---|---|---|---|
//! | NoDoneGate | 2 transfers: 504 states, 8 steps | 2 | 10, StartOnlyToIdle | 0, HonestPeersNeverViolate | Start only to a peer that is idle |
//! | DoneNotKept | 2 transfers: 608 states, 8 steps | 1 | 0, HonestPeersNeverViolate | 0, HonestPeersNeverViolate | honest peers never cause a Violation |
//! | EarlyFinDropped | 2 transfers: 1105 states, 8 steps | 6 | 1, ProbesRoundTrip | 0, TransfersEnd | a visit was cut short, or hangs, without a cause |
//! | IngressNotCapped | stray byte: 112192 states, 7 steps | - | - | - | nothing is written after the shutdown |
//! | RefusalNotAccounted | refusal: 10176 states, 4 steps | 2 | - | - | every transfer ends |
//! | ShutTooEarly | 2 transfers: 116 states, 5 steps | 1 | 1, CleanEndIsWhole | 0, NothingAfterShut | a clean end means equal length and content |
//! | ShutTwice | 2 transfers: 182 states, 6 steps | 1 | 0, ShutOnce | 0, ShutOnce | SHUT_WR exactly once |
//! | AbortClosesCleanly | shrunk scope: 2121 states, 2 steps | 1 | 2, CleanEndWasSent | 1, CleanEndWasSent | what was cut short is reset |
//! | OuterClosedEarly | 2 transfers: 88 states, 5 steps | 2 | 0, NoUnprovokedReset | 0, TransfersEnd | what was cut short is reset |
//! | PipeLeaked | - | 86 | 199, ClosedOnce | - | every pipe is closed |
//! | FirstBytesDropped | 2 transfers: 901 states, 8 steps | 1 | 0, PoolsAtTarget | 0, NothingInvented | a visit was cut short, or hangs, without a cause |
//! | HupForgotten | 2 transfers: 2280 states, 18 steps | 1 | 0, TransfersEnd | 0, TransfersEnd | a visit was cut short, or hangs, without a cause |
//! | WaitersOutOfOrder | 3 transfers: 217315 states, 11 steps | 2 | - | - | waiters FIFO |
//! | ConnGivenTwice | 2 transfers: 1 states, 1 steps | 2 | 0, NoPanic | 0, NoPanic | P2: a conn that was given is not idle |
//! | RetryForgotten | loss, cold: 447903 states, 10 steps | 19 | - | - | a visit was cut short, or hangs, without a cause |
//! | EpochReused | 2 transfers: 1139 states, 10 steps | 1 | 0, EpochsGrow | 0, EpochsGrow | Start only to a peer that is idle |
//! | ReplayDropped | asleep: 2246 states, 9 steps | 91 | 2, HonestPeersNeverViolate | 7, HonestPeersNeverViolate | every transfer ends |
//! | AckedTooMuch | asleep: 2246 states, 9 steps | 91 | 2, HonestPeersNeverViolate | 7, HonestPeersNeverViolate | every transfer ends |
//! | SessionLeftOpen | grace: 4488 states, 15 steps | 4 | 0, ClosedOnce | 0, ClosedOnce | every transfer ends |
//! | AnyToken | - | - | 0, PathsReturn | 0, ClientsReturn | who proves nothing is told nothing but that he is refused |
//! | AnyConnProof | - | - | 45, StrangersGetNothing | 45, StrangersGetNothing | who proves nothing is told nothing but that he is refused |
//! | ConnReplayed | - | - | 44, NoPanic | 45, StrangersGetNothing | nothing panics |
//! | ResetLooksShut | reset: 13395 states, 5 steps | 2 | 11, CleanEndWasSent | 1, CleanEndWasSent | a clean end means equal length and content |
//! | ResetOvertakes | reset: 13514 states, 6 steps | 99 | 31, BeforeResetDelivered | - | what came before a reset is delivered before it |
//! | LastWordsDropped | splice, reset: 102570 states, 15 steps | 9 | 10, BeforeResetDelivered | - | what came before a reset is delivered before it |
//! | StartNotAsked | loss, cold: 454983 states, 11 steps | 10 | 13, OneServicePerVisitor | 65, OneServicePerVisitor | a visitor is served once |
//! | GoneWaiterForgotten | splice, reset: 86211 states, 3 steps | 9 | 31, AsDirect | - | each end of a visit sees what it could have seen over a direct connection |
//! | HeartbeatOnce | - | - | 0, SilentPeersGivenUp | 0, SilentPeersGivenUp | a peer that is silent for its time and some slack is given up |
//! | LateBindKept | - | - | 17, NoPanic | 8, NoPanic | a public port is open for a tunnel that is registered |
//! | NotLingered | late: 201710 states, 6 steps | - | 11, BeforeResetDelivered | - | what came before a reset is delivered before it |
//! | UnackedPerSession | - | - | 8116, NoPanic | - | a holder leaves more messages unacknowledged than it may |
//! | SourceUnbounded | - | - | 255, CrowdsAreBounded | 4, CrowdsAreBounded | there are no more visitors than descriptors for them, and of one address no more than its part |
//! | ConnsUnbounded | - | - | 87, NoPanic | 4, NoPanic | all holders together have more than they may |
//! | LongTurn | - | - | 726, BeforeResetDelivered | - | what came before a reset is delivered before it |
//! | CtlTurnEndless | - | - | 80, TurnsAreShort | - | one turn of a thread opens few ports and moves few bytes |
//! | StarvedForgotten | - | - | 541, NoPanic | 134, NoPanic | nothing panics |
//! | GoneVisitForgotten | - | - | 0, VisitsRecorded | 0, VisitsRecorded | each visit leaves one record, with the bytes that were moved and the ends that there were |
//! | DroppedCounted | - | - | 9, VisitsRecorded | - | each visit leaves one record, with the bytes that were moved and the ends that there were |
//! | ReleaseUntold | asleep: 2246 states, 9 steps | - | - | - | ports listen |
//! | ReloadCutsSession | reload: 2826 states, 12 steps | - | 0, ReloadsSpareOthers | 0, NoUnprovokedReset | a visit was cut short, or hangs, without a cause |
//! | ShrunkScopeKept | shrunk scope: 2119 states, 1 steps | 4 | 6, NoPanic | - | a public port is open for a tunnel that is registered |
//! | MovedTunnelKept | - | - | 100, PortsListen | - | descriptors are back at their baseline |
//! | BandwidthNotCharged | - | - | 48, BandwidthKept | - | a tunnel moves no more than its bandwidth, and a quarter of a second's at once |
//! | OldReport | - | - | 27, BooksAgree | - | what a program tells of itself was true between the question and the answer |
//! | TakenOverUntold | - | - | 4, PortsListen | 47, ProbesRoundTrip | every public port listens after the faults have stopped |
//! | LeftSessionCut | - | - | 145, NoUnprovokedReset | 44, NoUnprovokedReset | without a fault nothing is reset or refused |
//! | NameForgotten | - | - | 6, VisitorsAreNamed | 6, VisitorsAreNamed | who comes through a relay is served under the name that its header gives |
//! | DialledForgotten | - | - | 55, NothingInvented | - | every delivered byte was sent by somebody |
//! | ExaminedKept | - | - | 24, NoPanic | - | nothing panics |
//! | AnyAddress | - | - | 5, PortsListen | - | every public port listens after the faults have stopped |
//! | ProxyNotAwaited | - | - | 1, ClientsReturn | - | every client is back after the faults have stopped |
//! | AnyHost | hosts: 4935 states, 4 steps | 10 | 6, NothingInvented | 6, NothingInvented | nobody serves whoever comes for nobody's host |
//! | HeadLost | hosts: 5227 states, 6 steps | 10 | 1, CleanEndWasSent | 2, CleanEndWasSent | a clean end means equal length and content |
//! | LookTakes | - | - | 6, ClientsReturn | 6, PortsListen | every client is back after the faults have stopped |
//! | EndUnsaid | - | - | 6, ChunksWhole | - | an encrypted connection is never spliced, gets what it did not take whole once more, and its end inside |
//! | StumpDelivered | - | - | flows: 1 | - | a flow hears what nobody sent |
//! | FlowsMixedUp | - | - | flows: 0 | - | a flow's socket carries another visitor's datagram |
//! | FlowForever | - | - | flows: 1 | - | a silent flow has not ended |
//! | DroppedUncounted | - | - | flows: 19 | - | more was read than was sent and counted as lost |
//! | FarewellEarly | - | - | 480, NoUnprovokedReset | - | without a fault nothing is reset or refused |
//! | RelayForgotten | - | - | flows: 0 | - | a flow's socket carries another visitor's datagram |
//! | SentByBoth | - | - | flows: 0 | - | a datagram is delivered once more |
//! | EpochForgotten | - | - | flows: 144 | - | a flow's socket carries another visitor's datagram |
//! | SilenceUnseen | - | - | flows: 27 | - | a second after a path has died a datagram is sent by it |
//! | SilentForEver | - | - | flows: 1 | - | a path that answers is not used again |
//! | RedirectForgotten | - | - | 22, NothingInvented | - | every delivered byte was sent by somebody |
//! | RedirectElsewhere | - | - | 22, AnswersAreOurs | - | who is answered by the server itself is told what it must be, and nothing else |
//! | ChallengePassedOn | - | - | 1, AnswersAreOurs | 6, AnswersAreOurs | who is answered by the server itself is told what it must be, and nothing else |
//! | ChallengeKept | - | - | 81, ProbesRoundTrip | 6, ProbesRoundTrip | a probe through every tunnel comes back whole |
//! | ForgedKept | - | - | 28, NothingInvented | 7, NothingInvented | every delivered byte was sent by somebody |
//! | ToldTwice | - | - | 28, NothingInvented | 7, NothingInvented | every delivered byte was sent by somebody |
//! | ReadShutCuts | - | - | 117, NoUnprovokedReset | - | without a fault nothing is reset or refused |
//! | PathKept | - | - | 7, PathsClosed | - | a path ends with its session |
//! | OfferForgotten | - | - | 27, PathsReturn | - | flows are answered, and go by their paths, after the faults have stopped |
//! | OfferDropped | - | - | 895, PathsReturn | - | flows are answered, and go by their paths, after the faults have stopped |
#![forbid(unsafe_code)]

pub mod campaign;
pub mod explore;
pub mod flows;
mod holder;
mod impostor;
pub mod kernel;
pub mod oracle;
pub mod scenario;
pub mod swarm;
pub mod trace;
pub mod world;
