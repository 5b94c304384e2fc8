//! What the machine allows.

use super::{Findings, State};
use nix::sys::resource::{Resource, getrlimit};
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, SystemTime};
use time::OffsetDateTime;

/// A clock before this was never set: the year 2026 began.
const SET: Duration = Duration::from_secs(1_767_225_600);
/// Time zones: a machine's clock may have been a day ahead when it wrote this program.
const DAY: Duration = Duration::from_secs(86_400);

/// Certificates have dates, and log lines; nothing else between the two programs depends on the clock.
pub(super) fn clock(findings: &mut Findings) {
    let now = SystemTime::now();
    // Nothing is older than the program that looks.
    let installed = fs::metadata("/proc/self/exe").and_then(|exe| exe.modified()).ok().map(|at| at - DAY);
    let (state, says) = judge_clock(now, installed);
    findings.add("clock", state, says);
}

fn judge_clock(now: SystemTime, installed: Option<SystemTime>) -> (State, String) {
    let says = second(now);
    if now < installed.unwrap_or(SystemTime::UNIX_EPOCH).max(SystemTime::UNIX_EPOCH + SET) {
        let wrong =
            "this machine believes, which is before this program was made: set its clock, or certificates are refused";
        (State::Warning, format!("it is {says}, {wrong}"))
    } else {
        (State::Ok, format!("it is {says}, this machine believes"))
    }
}

/// The time in UTC.
fn second(at: SystemTime) -> String {
    let at = OffsetDateTime::from(at);
    format!("{} {:02}:{:02}:{:02} UTC", at.date(), at.hour(), at.minute(), at.second())
}

/// The day in UTC.
pub(super) fn date(at: SystemTime) -> String {
    OffsetDateTime::from(at).date().to_string()
}

/// The limit that a program raises its own to.
pub(super) fn descriptor_limit() -> Option<u64> {
    getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(_, hard)| hard)
}

/// Fewer visitors than this are soon there.
const FEW: u64 = 1000;

/// A client has two for each visitor, and some of its own.
pub(super) fn descriptors_of_a_client(findings: &mut Findings) {
    let Some(limit) = descriptor_limit() else { return };
    let visitors = limit.saturating_sub(64) / 2;
    let says = format!("{limit} open files are allowed, which is enough for {visitors} visitors at once");
    if visitors < FEW {
        findings.warn("descriptors", says + "; raise the limit (LimitNOFILE in the unit, ulimit -Hn)");
    } else {
        findings.ok("descriptors", says);
    }
}

/// Below this some networks work only by luck: what IPv6 must carry.
const SMALL_MTU: u32 = 1280;

/// What the system knows of the way to `at`.
pub(super) fn mtu(findings: &mut Findings, at: SocketAddr) {
    let Some(mtu) = runtime_epoll::path_mtu(at) else {
        return findings.note("mtu", format!("the system does not tell how large packets towards {} may be", at.ip()));
    };
    let says = format!("packets of up to {mtu} bytes go towards {}", at.ip());
    if mtu < SMALL_MTU {
        findings.warn("mtu", says + ", which is small: look for a tunnel on the way that makes them so");
    } else {
        findings.ok("mtu", says);
    }
}

/// What pipes this user may have, without privileges, in all its processes together.
pub(super) fn pipes(findings: &mut Findings, loops: usize) {
    const LIMIT: &str = "/proc/sys/fs/pipe-user-pages-soft";
    let Some(pages) = fs::read_to_string(LIMIT).ok().and_then(|text| text.trim().parse::<u64>().ok()) else { return };
    let (has, wants) = (pages * PAGE, (loops * runtime_epoll::PIPE_BYTES) as u64);
    let says = format!(
        "{} MiB in pipes are allowed to a user, and {loops} event loops use up to {} MiB",
        has >> 20,
        wants >> 20
    );
    if pages != 0 && has < wants {
        let way_out = "beyond that payload is copied, which takes more CPU; raise fs.pipe-user-pages-soft";
        findings.warn("pipes", format!("{says}: {way_out} to {}", wants / PAGE));
    } else if pages == 0 {
        findings.ok("pipes", "a user may have as many as it wants (fs.pipe-user-pages-soft is 0)");
    } else {
        findings.ok("pipes", says);
    }
}

/// The kernel counts pipes in pages.
const PAGE: u64 = 4096;
/// A server with less memory than this has no room for visitors.
const LITTLE: u64 = 64 << 20;

/// What memory is there, and what of it this process's control group may have.
pub(super) fn memory(findings: &mut Findings) {
    let Some(available) = available() else { return };
    let (least, of) = match cgroup_limit() {
        Some(limit) if limit < available => (limit, "its control group (memory.max) allows"),
        Some(_) | None => (available, "this machine has free"),
    };
    let says = format!("{} MiB is what {of}", least >> 20);
    if least < LITTLE {
        findings.warn("memory", format!("{says}, which is little: give it {} MiB", LITTLE >> 20));
    } else {
        findings.ok("memory", says);
    }
}

fn available() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib << 10)
}

fn cgroup_limit() -> Option<u64> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
    fs::read_to_string(Path::new("/sys/fs/cgroup").join(path).join("memory.max")).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_never_set_is_told_from_one_that_was() {
        let at = |secs| SystemTime::UNIX_EPOCH + Duration::from_secs(secs);
        let (made, later) = (1_790_000_000, 1_795_000_000);
        for (now, installed, expected) in [
            (0, None, State::Warning),
            (1_600_000_000, None, State::Warning),
            (later, None, State::Ok),
            (later, Some(made), State::Ok),
            (made, Some(later), State::Warning),
            (1_600_000_000, Some(0), State::Warning),
        ] {
            let (state, says) = judge_clock(at(now), installed.map(at));
            assert_eq!(state, expected, "{says}");
        }
        assert_eq!(second(at(later)), "2026-11-18 11:06:40 UTC");
    }
}
