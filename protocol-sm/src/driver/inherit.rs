//! What one process of a server gives to the next: its listening sockets, each under a name that says whose it is
//! (PROTOCOL.md, "Leaving"). The names are those of `LISTEN_FDNAMES`, which colons separate: none is in them.

use crate::ids::ClientId;
use crate::purposes::Purpose;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// Whose a public port is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Owner {
    /// The client.
    pub client: ClientId,
    /// The name of the credential that it proved; none where the server has no tokens.
    pub credential: Option<String>,
}

/// A listening socket that is given on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Given {
    /// One of the server's own. A port for several purposes goes under the first of them, and is known by its number.
    Door(Purpose),
    /// A public port.
    Public {
        /// Of UDP, and not of TCP.
        udp: bool,
        /// Its number.
        port: u16,
        /// Whose it is.
        owner: Owner,
    },
}

impl Given {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Door(purpose) => purpose.name().to_string(),
            Self::Public { udp, port, owner } => {
                let kind = if *udp { "udp" } else { "public" };
                let credential = owner.credential.as_ref().map(|name| format!("-{}", hex(name.as_bytes())));
                format!("{kind}-{port}-{}{}", hex(&owner.client.0), credential.unwrap_or_default())
            }
        }
    }

    /// What a name says; `None` if it is another's.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        if let Some(purpose) = Purpose::ALL.into_iter().find(|purpose| purpose.name() == name) {
            return Some(Self::Door(purpose));
        }
        let mut parts = name.split('-');
        let udp = match parts.next()? {
            "public" => false,
            "udp" => true,
            _ => return None,
        };
        let port = parts.next()?.parse().ok()?;
        let client = ClientId(unhex(parts.next()?)?.try_into().ok()?);
        let credential = match parts.next() {
            Some(name) => Some(String::from_utf8(unhex(name)?).ok()?),
            None => None,
        };
        parts.next().is_none().then_some(Self::Public { udp, port, owner: Owner { client, credential } })
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<_>> = text.chars().map(|digit| digit.to_digit(16)).collect();
    let digits = digits.filter(|digits| digits.len() % 2 == 0)?;
    digits.chunks(2).map(|pair| u8::try_from(pair[0] * 16 + pair[1]).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_whose_the_port_is_and_has_no_colon() {
        let owner =
            |credential: Option<&str>| Owner { client: ClientId([0xa7; 16]), credential: credential.map(Into::into) };
        for given in [
            Given::Door(Purpose::Ctl),
            Given::Door(Purpose::Proxy),
            Given::Door(Purpose::Http),
            Given::Door(Purpose::Https),
            Given::Public { udp: false, port: 6000, owner: owner(None) },
            Given::Public { udp: true, port: 6000, owner: owner(None) },
            Given::Public { udp: true, port: 65_535, owner: owner(Some("")) },
            Given::Public { udp: false, port: 1, owner: owner(Some("office: 2nd-floor, Zürich")) },
        ] {
            let name = given.name();
            assert!(name.len() < 255 && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':'), "{name}");
            assert_eq!(Given::of(&name), Some(given));
        }
        for name in
            ["", "httpd", "public", "public-", "public-6000", "public-70000-a7", "public-1-zz", "public-1-a", "ctl-1"]
        {
            assert_eq!(Given::of(name), None, "{name}");
        }
        let long = Given::Public { udp: false, port: 6000, owner: owner(None) }.name() + "-61-62";
        assert_eq!(Given::of(&long), None);
    }
}
