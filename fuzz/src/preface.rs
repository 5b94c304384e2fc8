//! The first eight bytes in each direction, from a stranger.

use protocol_sm::wire::{ConnKind, Greeting, PREFACE_LEN, Preface, PrefaceReader, Reply, ReplyReader, WireError};

/// Any bytes as a preface, and as the reply to one.
pub fn preface(data: &[u8]) {
    let client = agree(data, || {
        let mut reader = PrefaceReader::default();
        move |input: &mut &[u8]| reader.next(input)
    });
    if let Ok(Some(preface)) = client {
        assert_eq!(data[..PREFACE_LEN], preface.encode(), "one encoding");
        let reply = Reply::to(preface);
        let read = ReplyReader::default().next(preface, &mut reply.encode().as_slice());
        assert_eq!(read, Ok(Some(reply)), "our client understands our server");
    }
    for asked in [
        Preface::ours(ConnKind::Ctl),
        Preface::ours(ConnKind::Proxy),
        Preface { port: ConnKind::Ctl, min: 1, max: u8::MAX },
    ] {
        let server = agree(data, || {
            let mut reader = ReplyReader::default();
            move |input: &mut &[u8]| reader.next(asked, input)
        });
        let Ok(Some(reply)) = server else { continue };
        assert_eq!(data[..PREFACE_LEN], reply.encode(), "one encoding");
        assert_eq!(reply.port, asked.port, "the kind that was asked for");
        let refused = match reply.greeting {
            Greeting::Version { version, .. } => {
                assert!((asked.min..=asked.max).contains(&version), "a version that was offered");
                false
            }
            Greeting::Refused { .. } => true,
        };
        assert_eq!(reply.refusal().is_some(), refused, "what a client reports");
    }
}

/// Reads `data` at once and byte by byte; both must come out the same.
fn agree<T: PartialEq + std::fmt::Debug, R>(data: &[u8], reader: impl Fn() -> R) -> Result<Option<T>, WireError>
where
    R: FnMut(&mut &[u8]) -> Result<Option<T>, WireError>,
{
    let mut rest = data;
    let whole = reader()(&mut rest);
    if matches!(whole, Ok(Some(_))) {
        assert_eq!(rest.len(), data.len() - PREFACE_LEN, "takes its eight bytes and no more");
    }
    let mut next = reader();
    let mut slowly = Ok(None);
    for byte in data {
        slowly = next(&mut [*byte].as_slice());
        if slowly != Ok(None) {
            break;
        }
    }
    assert_eq!(slowly, whole);
    whole
}
