//! Ranges of ports in a tunnel: `public_port = "30000-30009"` beside `local = "127.0.0.1:30000-30009"`. Each public port
//! leads to the local one at its place, and is a tunnel.

use super::client::HOSTS;
use super::section::Section;
use crate::address::{AddressError, LocalAddress, local_address};
use protocol_sm::names::LocalAt;
use std::fmt;
use std::num::NonZeroU16;

/// Ports that follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// The first of them; 0 alone is any one port.
    pub first: u16,
    /// How many.
    pub count: NonZeroU16,
}

impl Ports {
    /// One port; 0 is any.
    #[must_use]
    pub const fn one(port: u16) -> Self {
        Self { first: port, count: NonZeroU16::MIN }
    }

    fn last(self) -> u16 {
        self.first + (self.count.get() - 1)
    }

    fn is_one(self) -> bool {
        self.count == NonZeroU16::MIN
    }

    /// Whether this port is one of them.
    #[must_use]
    pub fn contains(self, port: u16) -> bool {
        port != 0 && (self.first..=self.last()).contains(&port)
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_one() { self.first.fmt(f) } else { write!(f, "{}-{}", self.first, self.last()) }
    }
}

/// What a section says of a tunnel's ports, if that makes sense: the LocalServer's first, and the public ones.
pub(super) fn ports(section: &Section<'_>) -> Option<(LocalAddress, Ports)> {
    let directory = section.directory("local");
    let local = section.parsed_by("local", |text| {
        let (first, ports) = local_addresses(text)?;
        Ok::<_, AddressError>((first.within(directory)?, ports))
    });
    if !section.has("local") {
        section.problem("local", "is missing; write `local = \"HOST:PORT\"`, the address of the service".into());
    }
    let public = if section.is_text("public_port") {
        section.parsed_by("public_port", range)?
    } else {
        Ports::one(section.port("public_port").unwrap_or(0))
    };
    let (first, local) = local?;
    let wrong = if section.has(HOSTS) {
        let what = || format!("has {} ports beside `{HOSTS}`, which lead to one service; write one port", local.count);
        (!local.is_one()).then(|| ("local", what()))
    } else if local.count == public.count {
        None
    } else if public.is_one() {
        let way_out = "write a range of as many public ports, such as `public_port = \"30000-30009\"`";
        Some(("local", format!("has {} ports, and `public_port` none for each; {way_out}", local.count)))
    } else {
        let way_out = "each leads to the one at its place, so write as many";
        Some(("public_port", format!("has {} ports, and `local` {}; {way_out}", public.count, local.count)))
    };
    match wrong {
        Some((key, what)) => {
            section.problem(key, what);
            None
        }
        None => Some((first, public)),
    }
}

/// Reads a LocalServer's address, or those of several whose ports follow each other: the first, and the ports.
fn local_addresses(text: &str) -> Result<(LocalAddress, Ports), AddressError> {
    let (host, ports) = text.split_at(text.rfind(':').map_or(0, |colon| colon + 1));
    // A host name without a port may have dashes, too, and so may a Unix socket.
    let is_range = ports.contains('-') && ports.bytes().all(|byte| byte == b'-' || byte.is_ascii_digit());
    if is_range && !text.starts_with(LocalAt::UNIX) {
        let ports = range(ports)?;
        return Ok((local_address(&format!("{host}{}", ports.first))?, ports));
    }
    Ok((local_address(text)?, Ports::one(0)))
}

fn range(text: &str) -> Result<Ports, AddressError> {
    let port = |text: &str| text.parse().ok().filter(|&port: &u16| port > 0 && !text.starts_with('+'));
    let ends = text.split_once('-').and_then(|(first, last)| Some((port(first)?, port(last)?)));
    let Some((first, last)) = ends else {
        return Err(AddressError::new(
            "a range of ports is two numbers from 1 to 65535, such as \"30000-30009\"; one port has no quotes",
        ));
    };
    let count = u16::checked_sub(last, first).and_then(|more| NonZeroU16::MIN.checked_add(more));
    let count = count.ok_or_else(|| AddressError::new("the range's first port is larger than its last"))?;
    Ok(Ports { first, count })
}
