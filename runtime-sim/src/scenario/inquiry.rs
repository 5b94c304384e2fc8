//! Who comes to the ports of hosts and is answered by the server itself: authorities that ask for the answer to a
//! challenge, visitors in the clear who are sent to TLS, and those whose host nobody has.

use super::greeting::{ANSWER, MET, challenge, request, visited};
use super::{Scenario, TunnelPlan};
use crate::kernel::{Rng, mix};
use crate::oracle::{Finding, Property, Sometimes};
use protocol_sm::routes::Web;
use std::time::Duration;

/// Where a visitor wants to go who is sent to TLS.
const PLACE: &str = "/a/place?to=go";
/// How every answer begins.
const BEGIN: &[u8] = b"HTTP/1.1 ";
/// Longest pause between two parts of what it says.
const PAUSE: Duration = Duration::from_millis(300);

/// What one of them asks, and must be told.
#[derive(Debug)]
pub(crate) struct Inquiry {
    status: &'static str,
    /// What may be said instead, where not everybody must be served.
    refusals: &'static [&'static str],
    /// A line of the answer's head, and the body, where they are known.
    line: Option<String>,
    body: Option<&'static [u8]>,
    what: Sometimes,
    heard: Vec<u8>,
}

impl Inquiry {
    /// What is asked by the inquirer number `index` of a tunnel's host, or of nobody's, and in which parts it is said. Its dice
    /// are its own.
    pub(crate) fn draw(seed: u64, index: usize, tunnel: Option<&TunnelPlan>) -> (Self, Vec<Vec<u8>>) {
        let mut rng = Rng::new(seed ^ mix(0x14_4014 + index as u64));
        let site = tunnel.and_then(|tunnel| tunnel.site.as_ref());
        let host = site.map_or("nobody.example".into(), visited);
        let asks = rng.chance(50);
        let redirects = tunnel.is_some_and(|tunnel| tunnel.serving.service.redirect);
        let (line, body, heard) = (None, None, Vec::new());
        let (head, inquiry) = if redirects && !asks {
            let line = Some(format!("Location: https://{}{PLACE}", host.to_lowercase()));
            // The host may be nobody's at the time.
            let (status, refusals, what) = ("308 ", &["404 ", "408 "][..], Sometimes::SentToTls);
            (request(PLACE, &host, ""), Self { status, refusals, line, body, what, heard })
        } else if site.is_none() && !asks {
            let (status, refusals, what) = ("404 ", &["408 "][..], Sometimes::HostRefused);
            (request(PLACE, &host, ""), Self { status, refusals, line, body, what, heard })
        } else {
            // A server that stood still has not looked in time.
            let (status, refusals, what) = ("200 ", &["404 ", "408 "][..], Sometimes::ChallengeMet);
            (challenge(MET, &host), Self { status, refusals, line, body: Some(ANSWER), what, heard })
        };
        let size = if rng.chance(50) { head.len() } else { rng.size(head.len() / 4, head.len()) };
        (inquiry, head.chunks(size).map(<[u8]>::to_vec).collect())
    }

    /// The longest pause between its parts.
    pub(crate) fn pause(before: Duration) -> Duration {
        before.max(PAUSE)
    }

    /// Whether it is told nothing where an upgrade follows upon another: its host is awaited, and nobody ever has it.
    pub(crate) fn may_wait_in_vain(&self) -> bool {
        self.what == Sometimes::HostRefused
    }

    /// The server, or somebody, has said this to it.
    pub(crate) fn on_bytes(&mut self, bytes: &[u8]) -> Result<(), Finding> {
        self.heard.extend_from_slice(bytes);
        if self.heard.starts_with(BEGIN) || BEGIN.starts_with(&self.heard) { Ok(()) } else { Err(self.wrong()) }
    }

    /// And no more. Returns what happened, if it was served.
    pub(crate) fn on_eof(&self) -> Result<Option<Sometimes>, Finding> {
        let text = String::from_utf8_lossy(&self.heard);
        let (Some(status), Some((head, body))) = (text.strip_prefix("HTTP/1.1 "), text.split_once("\r\n\r\n")) else {
            return Err(self.wrong());
        };
        let has = |line: &str| head.split("\r\n").filter(|found| *found == line).count() == 1;
        if !has(&format!("Content-Length: {}", body.len())) {
            return Err(self.wrong());
        }
        if status.starts_with(self.status)
            && self.line.as_ref().is_none_or(|line| has(line))
            && self.body.is_none_or(|expected| body.as_bytes() == expected)
        {
            return Ok(Some(self.what));
        }
        if self.refusals.iter().any(|refusal| status.starts_with(refusal)) { Ok(None) } else { Err(self.wrong()) }
    }

    fn wrong(&self) -> Finding {
        let what = format!("{:?} comes, and not {:?}", String::from_utf8_lossy(&self.heard), self.status);
        (Property::AnswersAreOurs, what)
    }
}

impl Scenario {
    /// Draws who asks: for each of them after which part of `length`, and about which tunnel's host, or nobody's. Its dice
    /// are its own: the runs without them mean what they meant before.
    pub(crate) fn draw_inquiries(&self, seed: u64, length: Duration) -> Vec<(Duration, Option<usize>)> {
        let mut rng = Rng::new(seed ^ 0x1_4014);
        let plain = |tunnel: &TunnelPlan| tunnel.site.as_ref().is_some_and(|site| site.web == Web::Http);
        let tunnels = self.tunnels.iter().enumerate();
        let mut asked: Vec<_> = tunnels.filter(|(_, tunnel)| plain(tunnel)).map(|(index, _)| Some(index)).collect();
        asked.extend(rng.chance(10).then_some(None));
        if asked.is_empty() {
            return Vec::new();
        }
        let length = u64::try_from(length.as_nanos()).expect("a few seconds");
        (0..rng.size(1, 6)).map(|_| (Duration::from_nanos(rng.below(length)), rng.pick(&asked))).collect()
    }
}
