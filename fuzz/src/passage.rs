//! What a proxy answers to a client that goes through it.

use protocol_sm::outbound::{Credentials, MAX_HEAD, OutboundProxy, Passage, PassageFailure, Scheme, Target};
use protocol_sm::settings::Token;

/// The first byte decides how the proxy is asked, the others are its answers.
pub fn passage(data: &[u8]) {
    let Some((&how, answers)) = data.split_first() else { return };
    let whole = pass(how, answers, usize::MAX);
    // However the answer is cut, it is read in the same way.
    for at_once in [1, 2, 5] {
        assert_eq!(pass(how, answers, at_once), whole, "{at_once} bytes at once");
    }
}

/// What comes of it, all that the client sent, and how much of the answers it has read.
fn pass(how: u8, answers: &[u8], at_once: usize) -> (Result<bool, PassageFailure>, Vec<u8>, Option<usize>) {
    let token = |text: &str| Token::new(text.into());
    let credentials = (how & 2 != 0).then(|| Credentials { user: token("me"), password: token("s3cret") });
    let scheme = if how & 1 == 0 { Scheme::Http } else { Scheme::Socks5 };
    let target = ["tunnel.example:8080", "192.0.2.1:443", "[2001:db8::1]:443", ""][usize::from(how >> 2 & 3)];
    let proxy = OutboundProxy { scheme, at: "proxy:1".into(), credentials };
    let mut passage = Passage::new(&proxy, &Target::new(target));
    let (mut said, mut read) = (Vec::new(), 0);
    loop {
        said.extend_from_slice(passage.to_send());
        passage.on_sent(passage.to_send().len());
        let room = passage.wants().min(at_once);
        assert!(room > 0, "it wants something");
        let bytes = &answers[read..answers.len().min(read + room)];
        if bytes.is_empty() {
            return (Ok(false), said, Some(read));
        }
        read += bytes.len();
        assert!(read <= MAX_HEAD + 2, "no answer is longer");
        // (An answer that says the word itself is shown as it is.)
        assert!(!format!("{passage:?}").contains("s3cret") || answers.windows(6).any(|said| said == b"s3cret"));
        match passage.on_bytes(bytes) {
            Ok(false) => {}
            // Nothing behind the answer is touched.
            Ok(true) => return (Ok(true), said, Some(read)),
            Err(failure) => {
                let sentence = failure.sentence("http://proxy:1", "tunnel.example:8080");
                assert!(sentence.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{sentence:?}");
                return (Err(failure), said, None);
            }
        }
    }
}
