//! What the kernel says about a process: descriptors, memory, processor time, connections.

use std::collections::HashSet;
use std::fs;
use std::time::Duration;

/// A running process, seen through `/proc`.
#[derive(Clone, Copy, Debug)]
pub struct Process {
    pid: u32,
}

/// Descriptors of a process, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Descriptors {
    /// Sockets of any kind.
    pub sockets: usize,
    /// Ends of pipes.
    pub pipes: usize,
    /// Everything else.
    pub others: usize,
}

impl Descriptors {
    /// All of them.
    #[must_use]
    pub fn total(&self) -> usize {
        self.sockets + self.pipes + self.others
    }
}

impl Process {
    /// The process with this id; it must run (or be a zombie) for as long as it is asked.
    #[must_use]
    pub fn new(pid: u32) -> Self {
        Self { pid }
    }

    /// This process itself.
    #[must_use]
    pub fn this() -> Self {
        Self::new(std::process::id())
    }

    /// Its open descriptors now.
    #[must_use]
    pub fn descriptors(self) -> Descriptors {
        let mut count = Descriptors::default();
        for link in self.links() {
            match link.split_once(":[") {
                Some(("socket", _)) => count.sockets += 1,
                Some(("pipe", _)) => count.pipes += 1,
                Some(_) | None => count.others += 1,
            }
        }
        count
    }

    /// Resident memory of its own (not shared with files), in bytes.
    #[must_use]
    pub fn memory(self) -> u64 {
        let status = self.read("status");
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")).expect("RssAnon in status");
        kib.parse::<u64>().expect("a number of kB") * 1024
    }

    /// Its effective capabilities, as a set of bits: 0 for an ordinary user.
    #[must_use]
    pub fn capabilities(self) -> u64 {
        let status = self.read("status");
        let bits = status.lines().find_map(|line| line.strip_prefix("CapEff:")).expect("CapEff in status");
        u64::from_str_radix(bits.trim(), 16).expect("bits in hex")
    }

    /// The user that it runs as; 0 is root.
    #[must_use]
    pub fn user(self) -> u32 {
        let status = self.read("status");
        let uid = status.lines().find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().next());
        uid.and_then(|uid| uid.parse().ok()).expect("Uid in status")
    }

    /// Whether it can gain no privileges any more.
    #[must_use]
    pub fn no_new_privileges(self) -> bool {
        self.read("status").lines().any(|line| line == "NoNewPrivs:\t1")
    }

    /// Processor time that all its threads have used, user and system; 10 ms fine.
    #[must_use]
    pub fn cpu(self) -> Duration {
        let stat = self.read("stat");
        let (_, fields) = stat.rsplit_once(") ").expect("a name in parentheses");
        let ticks = fields.split(' ').skip(11).take(2).map(|n| n.parse::<u64>().expect("ticks"));
        Duration::from_millis(ticks.sum::<u64>() * 10)
    }

    /// Its established TCP connections whose other end is port `port`.
    #[must_use]
    pub fn connections_to(self, port: u16) -> usize {
        const ESTABLISHED: &str = "01";
        let mine: HashSet<String> = self
            .links()
            .filter_map(|link| Some(link.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
            .collect();
        let remote = format!(":{port:04X}");
        let tables = [self.read("net/tcp"), self.read("net/tcp6")].concat();
        tables
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .filter(|row| row.len() > 9 && row[2].ends_with(&remote) && row[3] == ESTABLISHED)
            .filter(|row| mine.contains(row[9]))
            .count()
    }

    /// What its descriptors point at; those that close in the meantime are left out.
    fn links(self) -> impl Iterator<Item = String> {
        let entries = fs::read_dir(format!("/proc/{}/fd", self.pid)).expect("the process runs");
        entries.filter_map(|entry| Some(fs::read_link(entry.ok()?.path()).ok()?.to_string_lossy().into_owned()))
    }

    fn read(self, file: &str) -> String {
        let path = format!("/proc/{}/{file}", self.pid);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};
    use std::time::Instant;

    // One test: descriptors are counted for the whole process, where tests run side by side.
    #[test]
    fn connections_are_counted_by_their_far_end() {
        let counted = || {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let port = listener.local_addr().unwrap().port();
            let before = Process::this().connections_to(port);
            let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let _far = listener.accept().unwrap();
            let meanwhile = Process::this().connections_to(port);
            assert!(Process::this().descriptors().sockets >= 3);
            drop(near);
            [before, meanwhile, Process::this().connections_to(port)]
        };
        // Tests beside this one may have connections whose far end has the same number, at another address.
        assert!((0..10).any(|_| counted() == [0, 1, 0]));
    }

    #[test]
    fn work_shows_in_processor_time_and_memory() {
        let me = Process::this();
        let (cpu, began) = (me.cpu(), Instant::now());
        while me.cpu() < cpu + Duration::from_millis(30) {
            assert!(began.elapsed() < crate::wait::PATIENCE, "a busy loop shows in /proc");
        }
        let before = me.memory();
        let block = vec![1u8; 64 << 20];
        assert!(me.memory() >= before + (32 << 20), "{} bytes are resident", block.len());
    }
}
