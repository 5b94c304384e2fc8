//! What was seen of a program's visitors and conns, by its notes, to hold its reports against.

use protocol_sm::driver::Note;
use protocol_sm::report::Report;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Books {
    finished: u64,
    /// Bytes of those that have finished, into the proxy_conn and out of it.
    egress: u64,
    ingress: u64,
    aborted: u64,
    refused: u64,
    dropped: u64,
    opened: u64,
}

impl Books {
    /// The program had something to say.
    pub(crate) fn on_note(&mut self, note: &Note) {
        match note {
            Note::Finished { egress, ingress, .. } => {
                self.finished += 1;
                self.egress += egress;
                self.ingress += ingress;
            }
            Note::Aborted { .. } => self.aborted += 1,
            Note::Refused { .. } => self.refused += 1,
            Note::VisitorDropped { .. } => self.dropped += 1,
            Note::ConnUp { .. } => self.opened += 1,
            Note::NoLocalPort { .. } | Note::NoLocalSource { .. } | Note::UnixUnreachable { .. } => {}
            Note::PathDead { .. } | Note::NotRouted { .. } => {}
            Note::Started { .. } | Note::TakenBack { .. } | Note::IdleConnsDie { .. } => {}
            Note::Visit(_) | Note::ConnDown { .. } | Note::ConnFailed { .. } | Note::Stale { .. } => {}
            Note::SessionUp { .. } | Note::SessionDetached { .. } | Note::SessionOver { .. } => {}
            Note::SessionAsleep { .. }
            | Note::SessionLost { .. }
            | Note::ProxyPort { .. }
            | Note::Tunnel { .. }
            | Note::Forwarding { .. } => {}
            Note::NotForwarding { .. } | Note::HandshakeRefused { .. } | Note::HandshakeDropped { .. } => {}
            Note::Foreign { .. } | Note::CannotAccept { .. } | Note::Reconnecting { .. } | Note::Reloaded { .. } => {}
            Note::Left { .. } | Note::Violation { .. } | Note::TakenOver | Note::SessionTakenOver { .. } => {}
            Note::PathUp { .. }
            | Note::PathSize { .. }
            | Note::PathDown { .. }
            | Note::PathFailed { .. }
            | Note::PathPort { .. } => {}
        }
    }

    /// Whether `report` tells what was true at some moment between this one and `later`.
    ///
    /// # Errors
    /// What it tells instead.
    pub(crate) fn up_to(&self, later: &Self, report: &Report) -> Result<(), String> {
        let visitors = &report.visitors;
        if !visitors.adds_up() {
            return Err(format!("visitors are not accounted for: {visitors:?}"));
        }
        let dropped = visitors.dropped.sum() + visitors.turned_away.sum();
        let each = [
            ("finished", self.finished, visitors.finished, later.finished),
            ("refused", self.refused, visitors.refused.sum(), later.refused),
            ("dropped", self.dropped, dropped, later.dropped),
            ("opened", self.opened, report.conns.opened, later.opened),
            // One that was refused may be aborted behind that.
            ("aborted", 0, visitors.aborted.sum(), later.aborted),
            // Transfers that go on, or were aborted, count as well.
            ("bytes", self.egress + self.ingress, report.bytes_in + report.bytes_out, u64::MAX),
        ];
        let wrong = each.into_iter().find(|&(_, least, told, most)| told < least || told > most);
        wrong.map_or(Ok(()), |(what, least, told, most)| {
            Err(format!("{what}: {told} are told, there were {least} when it was asked, and {most} when it answered"))
        })
    }
}
