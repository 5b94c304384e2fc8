//! Passages, held against what real proxies say, however that is cut.

use super::*;
use alloc::format;
use alloc::vec::Vec;
use proptest::prelude::*;

fn proxy(scheme: Scheme, login: Option<(&str, &str)>) -> OutboundProxy {
    let token = |text: &str| Token::new(text.as_bytes().to_vec());
    let credentials = login.map(|(user, password)| Credentials { user: token(user), password: token(password) });
    OutboundProxy { scheme, at: "proxy.example:3128".into(), credentials }
}

fn passage(scheme: Scheme, login: Option<(&str, &str)>, target: &str) -> Passage {
    Passage::new(&proxy(scheme, login), &Target::new(target))
}

/// Takes all that is to be sent, `at_once` bytes at a time.
fn sent(passage: &mut Passage, at_once: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while !passage.to_send().is_empty() {
        let some = passage.to_send().len().min(at_once);
        all.extend_from_slice(&passage.to_send()[..some]);
        passage.on_sent(some);
    }
    all
}

/// Lets it read from `from`, `at_once` bytes at most. What is left in `from` it has not read.
fn reads(passage: &mut Passage, from: &mut &[u8], at_once: usize) -> Result<bool, PassageFailure> {
    while passage.to_send().is_empty() && !from.is_empty() {
        let some = passage.wants().min(at_once).min(from.len());
        let (bytes, rest) = from.split_at(some);
        *from = rest;
        if passage.on_bytes(bytes)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What comes of the answer to a CONNECT, and what is left behind it.
fn connect(answer: &[u8], at_once: usize) -> (Result<bool, PassageFailure>, usize) {
    let mut passage = passage(Scheme::Http, None, "tunnel.example:443");
    let _request = sent(&mut passage, at_once);
    let mut rest = answer;
    let result = reads(&mut passage, &mut rest, at_once);
    (result, rest.len())
}

#[test]
fn connect_names_the_host_twice_and_addresses_of_ipv6_in_brackets() {
    for (target, shown) in [
        ("tunnel.example:8080", "tunnel.example:8080"),
        ("192.0.2.1:443", "192.0.2.1:443"),
        ("[2001:db8::1]:443", "[2001:db8::1]:443"),
        ("[fe80::1%eth0]:443", "[fe80::1]:443"),
    ] {
        let request = sent(&mut passage(Scheme::Http, None, target), 7);
        let expected = format!("CONNECT {shown} HTTP/1.1\r\nHost: {shown}\r\n\r\n");
        assert_eq!(String::from_utf8(request).unwrap(), expected);
    }
    let request = sent(&mut passage(Scheme::Http, Some(("Aladdin", "open sesame")), "h:1"), 1000);
    let login = "Proxy-Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==\r\n\r\n";
    assert!(String::from_utf8(request).unwrap().ends_with(login), "as in RFC 7617");
}

#[test]
fn secrets_are_not_printed() {
    for scheme in [Scheme::Http, Scheme::Socks5] {
        let proxy = proxy(scheme, Some(("me", "s3cret")));
        let mut passage = Passage::new(&proxy, &Target::new("h:1"));
        let mut printed = format!("{proxy:?} {proxy} {passage:?}");
        let _hello = sent(&mut passage, 1000);
        if scheme == Scheme::Socks5 {
            assert_eq!(reads(&mut passage, &mut &[5, 2][..], 2), Ok(false));
            assert!(passage.to_send().ends_with(b"s3cret"));
        }
        printed += &format!("{passage:?}");
        for secret in ["s3cret", "czNjcmV0", "115, 51", "\"me\""] {
            assert!(!printed.contains(secret), "{printed}");
        }
    }
}

/// Heads of the proxies that are in Debian.
const TAKEN: [&str; 7] = [
    "HTTP/1.0 200 Connection established\r\nProxy-agent: tinyproxy/1.11.1\r\n\r\n",
    "HTTP/1.1 200 Connection established\r\n\r\n",
    "HTTP/1.0 200 Connection Established\r\nProxy-agent: Apache/2.4.62 (Debian)\r\n\r\n",
    "HTTP/1.1 204 \r\nContent-Length: 7\r\n\r\n",
    "HTTP/1.1 200\n\n",
    "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nA: b\r\n\r\nHTTP/1.1 299 Yes\r\n\r\n",
    "HTTP/1.1 200 OK\r\nA: b\n\r\n",
];

#[test]
fn o2_what_stands_behind_the_head_is_left_for_the_server() {
    for head in TAKEN {
        for at_once in 1..=20 {
            for behind in ["", "\r\n", "\n\nHTTP/1.1 403 No\r\n\r\n", "CPRX"] {
                let answer = format!("{head}{behind}");
                assert_eq!(connect(answer.as_bytes(), at_once), (Ok(true), behind.len()), "{answer:?}");
            }
        }
        for cut in 0..head.len() {
            assert_eq!(connect(&head.as_bytes()[..cut], 20), (Ok(false), 0), "{head:?} cut at {cut}");
        }
    }
}

#[test]
fn a_refusal_says_what_is_to_be_changed_in_the_words_of_the_proxy() {
    let failure =
        |line: &str| connect(format!("{line}\r\nContent-Length: 6\r\n\r\n<html>").as_bytes(), 20).0.unwrap_err();
    for (line, said, lasting) in [
        ("HTTP/1.1 407 Proxy Authentication Required", "wants a user and a password; give them in", true),
        ("HTTP/1.0 401 Unauthorized", "(it said \"HTTP/1.0 401 Unauthorized\")", true),
        ("HTTP/1.1 403 Forbidden", "does not allow port 443 (it said \"HTTP/1.1 403 Forbidden\")", true),
        ("HTTP/1.1 404 Not Found", "does not reach the server (it said \"HTTP/1.1 404", false),
        ("HTTP/1.1 500 Unable to connect", "check that cproxy-server runs at tunnel.example:443", false),
        ("HTTP/1.1 502 Bad Gateway", "does not reach the server", false),
        ("HTTP/1.1 503 Service Unavailable", "does not reach the server", false),
        ("HTTP/1.1 400 Bad\x1b[31m \x00Request", "refuses (it said \"HTTP/1.1 400 Bad?[31m ?Request\")", false),
        ("HTTP/1.1 302 Found", "refuses", false),
    ] {
        let failure = failure(line);
        assert_eq!(failure.is_lasting(), lasting, "{line}");
        let sentence = failure.sentence("http://proxy.example:3128", "tunnel.example:443");
        assert!(sentence.starts_with("the outbound proxy http://proxy.example:3128 "), "{sentence}");
        assert!(sentence.contains(said), "{sentence}");
    }
    let mut known = passage(Scheme::Http, Some(("me", "s3cret")), "h:1");
    let _request = sent(&mut known, 1000);
    let failure = reads(&mut known, &mut &b"HTTP/1.1 407 No\r\n\r\n"[..], 20).unwrap_err();
    assert!(failure.sentence("p", "h:1").contains("wants other credentials than those in `outbound_proxy`"));
}

#[test]
fn who_is_no_http_proxy_is_known_at_once() {
    for answer in [&b"S"[..], b"\x05", b"\n", b"HTTP/2 200", b"HTTP/1.1 20 OK\r\n", b"HTTP/1.1 2000\n", b"HTTP/1.1\n"] {
        assert_eq!(connect(answer, 1).0, Err(PassageFailure::NotAProxy), "{answer:?}");
    }
}

#[test]
fn o3_a_head_without_an_end_ends_at_16_kib() {
    for filler in ["a", "a\r\n", "HTTP/1.1 100 Continue\r\n\r\n"] {
        let answer = format!("HTTP/1.1 200 OK\r\n{}", filler.repeat(2 * MAX_HEAD / filler.len()));
        let answer = if filler.starts_with('H') { filler.repeat(2 * MAX_HEAD / filler.len()) } else { answer };
        let (result, rest) = connect(answer.as_bytes(), 1 << 20);
        assert_eq!(result, Err(PassageFailure::NotAProxy));
        assert!((answer.len() - rest).abs_diff(MAX_HEAD) <= 2, "{rest}");
    }
    let fields = "a".repeat(MAX_HEAD - 100);
    let whole = format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n");
    assert_eq!(connect(whole.as_bytes(), 1 << 20), (Ok(true), 0));
}

/// A SOCKS5 proxy's side: what it is sent, and what it answers to that.
fn socks5(
    login: Option<(&str, &str)>,
    target: &str,
    steps: &[(&[u8], &[u8])],
) -> (Result<bool, PassageFailure>, usize) {
    let mut passage = passage(Scheme::Socks5, login, target);
    let mut last = (Ok(false), 0);
    for (expected, answer) in steps {
        assert_eq!(sent(&mut passage, 3), *expected);
        let mut rest = *answer;
        last = (reads(&mut passage, &mut rest, 2), rest.len());
    }
    last
}

const OPEN: (&[u8], &[u8]) = (&[5, 1, 0], &[5, 0]);
const NAME: &[u8] = b"\x05\x01\x00\x03\x0etunnel.example\x1f\x90";

#[test]
fn socks5_reads_every_type_of_address_and_nothing_behind_it() {
    for bound in
        [&b"\x01\0\0\0\0\0\0"[..], b"\x04aaaabbbbccccdddd\x01\x02", b"\x03\x0etunnel.example\0\0", b"\x03\x00\0\0"]
    {
        let mut reply = alloc::vec![5, 0, 0];
        reply.extend_from_slice(bound);
        for behind in [&b""[..], b"CPRX"] {
            let answer = [&reply, behind].concat();
            assert_eq!(socks5(None, "tunnel.example:8080", &[OPEN, (NAME, &answer)]), (Ok(true), behind.len()));
        }
        for cut in 0..reply.len() {
            assert_eq!(socks5(None, "tunnel.example:8080", &[OPEN, (NAME, &reply[..cut])]).0, Ok(false));
        }
    }
    let not_one = socks5(None, "tunnel.example:8080", &[OPEN, (NAME, &[5, 0, 0, 2, 0])]);
    assert_eq!(not_one.0, Err(PassageFailure::NotAProxy));
}

#[test]
fn socks5_sends_addresses_as_such() {
    let v4: &[u8] = &[5, 1, 0, 1, 192, 0, 2, 1, 1, 187];
    let v6: &[u8] = &[5, 1, 0, 4, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 187];
    for (target, request) in [("192.0.2.1:443", v4), ("[2001:db8::1]:443", v6), ("[2001:db8::1%3]:443", v6)] {
        assert_eq!(socks5(None, target, &[OPEN, (request, &[5])]), (Ok(false), 0));
    }
}

#[test]
fn socks5_logs_in_if_it_is_asked_to() {
    let login = Some(("me", "s3cret"));
    let hello: &[u8] = &[5, 2, 0, 2];
    let said: &[u8] = b"\x01\x02me\x06s3cret";
    let target = "tunnel.example:8080";
    assert_eq!(socks5(login, target, &[(hello, &[5, 0]), (NAME, &[5, 0])]).0, Ok(false), "it need not be asked");
    assert_eq!(socks5(login, target, &[(hello, &[5, 2]), (said, &[1, 0]), (NAME, &[5, 0])]).0, Ok(false));
    assert_eq!(socks5(login, target, &[(hello, &[5, 2]), (said, &[5, 0]), (NAME, &[5, 0])]).0, Ok(false));
    for status in [1, 2, 255] {
        let failure = socks5(login, target, &[(hello, &[5, 2]), (said, &[1, status])]).0.unwrap_err();
        assert!(failure.is_lasting());
        assert!(failure.sentence("p", "s").contains("wants other credentials"), "{failure}");
    }
    for (login, said) in [(login, "takes no user and password"), (None, "wants a user and a password; give them")] {
        let hello: &[u8] = if login.is_some() { hello } else { OPEN.0 };
        let failure = socks5(login, target, &[(hello, &[5, 0xff])]).0.unwrap_err();
        assert!(failure.is_lasting() && failure.sentence("p", "s").contains(said), "{failure}");
    }
    // It asks for what was not offered.
    assert_eq!(socks5(None, target, &[(OPEN.0, &[5, 2])]).0, Err(PassageFailure::NotAProxy));
    assert_eq!(socks5(None, target, &[(OPEN.0, b"H")]).0, Err(PassageFailure::NotAProxy));
}

#[test]
fn socks5_refusals_are_final_or_not() {
    let refused = |code| socks5(None, "tunnel.example:8080", &[OPEN, (NAME, &[5, code])]).0.unwrap_err();
    for code in [1, 3, 4, 5, 6] {
        assert_eq!(refused(code), PassageFailure::NoWay(Answer::Socks5(code)));
        assert!(!refused(code).is_lasting());
    }
    let sentence = refused(5).sentence("socks5://p:1", "tunnel.example:8080");
    assert!(sentence.contains("(it said reply 5, connection refused); check that cproxy-server runs at"), "{sentence}");
    assert!(refused(2).is_lasting());
    assert!(refused(2).sentence("p", "s").contains("does not allow port 8080 (it said reply 2, not allowed)"));
    assert_eq!(refused(9), PassageFailure::Refused(Answer::Socks5(9)));
}

proptest! {
    /// Whatever comes, however it is cut: it ends, keeps within its bounds, and the cuts change nothing.
    #[test]
    fn any_answer_is_read_in_the_same_way_in_any_pieces(
        http in any::<bool>(),
        login in any::<bool>(),
        answer in proptest::collection::vec(
            prop_oneof![Just(b'\r'), Just(b'\n'), Just(5), Just(0), Just(2), any::<u8>()], 0..80),
        line in prop_oneof![Just(""), Just("HTTP/1.1 200 OK\r\n"), Just("HTTP/1.1 100 Go\r\n"), Just("HTTP/1.0 403 No\n")],
    ) {
        let scheme = if http { Scheme::Http } else { Scheme::Socks5 };
        let answer = [if http { line.as_bytes() } else { b"" }, &answer].concat();
        let outcome = |at_once: usize| {
            let mut passage = passage(scheme, login.then_some(("me", "s3cret")), "tunnel.example:1");
            let mut rest = &answer[..];
            let mut all = Vec::new();
            loop {
                all.extend(sent(&mut passage, at_once));
                let before = rest.len();
                let result = reads(&mut passage, &mut rest, at_once);
                if result != Ok(false) || rest.len() == before || rest.is_empty() {
                    return (result, all, rest.len());
                }
            }
        };
        let whole = outcome(1 << 20);
        prop_assert_eq!(outcome(1).0, whole.0);
        if whole.0 == Ok(true) {
            prop_assert_eq!(outcome(1), whole.clone());
            prop_assert_eq!(outcome(3), whole);
        }
    }
}
