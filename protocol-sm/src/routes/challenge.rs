//! What an authority asks for over HTTP to learn whose a name is (ACME, RFC 8555, section 8.3).

/// Where it asks.
pub const CHALLENGES: &str = "/.well-known/acme-challenge/";

/// The name of the challenge in a head that asks for one.
pub(super) fn asked(head: &[u8]) -> Option<&str> {
    let name = head.strip_prefix(b"GET ")?.strip_prefix(CHALLENGES.as_bytes())?;
    let name = core::str::from_utf8(name.split(|&byte| byte == b' ').next()?).ok()?;
    is_challenge(name).then_some(name)
}

/// Whether this is the name of a challenge, and so no path to anything else.
#[must_use]
pub fn is_challenge(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (1..=128).contains(&name.len()) && name.bytes().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;

    #[test]
    fn only_the_names_of_challenges_are_asked_for() {
        let asked =
            |target: &str| asked(format!("GET {target} HTTP/1.1\r\n").as_bytes()).map(alloc::string::String::from);
        assert_eq!(asked("/.well-known/acme-challenge/aZ09-_").as_deref(), Some("aZ09-_"));
        for target in
            ["/.well-known/acme-challenge/", "/.well-known/acme-challenge/..", "/.well-known/acme-challenge/a/b"]
        {
            assert_eq!(asked(target), None, "{target}");
        }
        for name in ["a%2e", "a?b", ".", "a.b", "a\\b", &"a".repeat(129)] {
            assert_eq!(asked(&format!("{CHALLENGES}{name}")), None, "{name}");
        }
    }
}
