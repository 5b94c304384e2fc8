//! Bytes into messages: no panic, the same messages however the bytes arrive, nothing taken that is not
//! part of a frame, and one encoding for each message.

use protocol_sm::wire::{Framer, Message, ProxyToClient, ProxyToServer, ToClient, ToServer, WireError};
use std::fmt::Debug;

/// Any bytes on a ctl_conn, in either direction.
pub fn ctl_codec(data: &[u8]) {
    codec::<ToServer>(data);
    codec::<ToClient>(data);
}

/// Any bytes on a proxy_conn, in either direction.
pub fn proxy_codec(data: &[u8]) {
    codec::<ProxyToServer>(data);
    codec::<ProxyToClient>(data);
}

fn codec<M: Message + PartialEq + Debug>(data: &[u8]) {
    let whole = read::<M>([data]);
    let encoded = whole.messages.iter().fold(Vec::new(), |mut bytes, message| {
        message.encode_to(&mut bytes);
        bytes
    });
    assert!(data.starts_with(&encoded), "another encoding than the one that came");
    assert_eq!(read::<M>(data.chunks(1)), whole, "byte by byte");
    if let Some(last) = data.last() {
        let (first, second) = data.split_at(usize::from(*last) % data.len());
        assert_eq!(read::<M>([first, second]), whole, "in two parts");
    }
}

/// The same bytes, cut in two at every place: too slow for a fuzzer, which sees to one cut at a time.
pub fn every_split(data: &[u8]) {
    fn check<M: Message + PartialEq + Debug>(data: &[u8]) {
        let whole = read::<M>([data]);
        for at in 0..=data.len() {
            let (first, second) = data.split_at(at);
            assert_eq!(read::<M>([first, second]), whole, "cut at {at}");
        }
    }
    check::<ToServer>(data);
    check::<ToClient>(data);
    check::<ProxyToServer>(data);
    check::<ProxyToClient>(data);
}

/// What came of a stream of bytes.
#[derive(Debug, PartialEq)]
struct Outcome<M> {
    messages: Vec<M>,
    /// Whether the bytes ended between two frames, or why they are none.
    end: Result<bool, WireError>,
}

fn read<'a, M: Message>(parts: impl IntoIterator<Item = &'a [u8]>) -> Outcome<M> {
    let mut framer = Framer::default();
    let mut messages = Vec::new();
    for mut part in parts {
        loop {
            let before = part.len();
            match framer.next(&mut part) {
                Ok(Some(message)) => {
                    assert!(part.len() < before, "a message out of nothing");
                    messages.push(message);
                }
                Ok(None) => {
                    assert!(part.is_empty(), "asks for more and leaves some");
                    break;
                }
                Err(error) => return Outcome { messages, end: Err(error) },
            }
        }
    }
    Outcome { messages, end: Ok(framer.is_empty()) }
}
