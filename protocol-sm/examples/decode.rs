//! Prints the captured bytes of one direction of a ctl_conn or proxy_conn as messages, for someone who
//! writes a client and wants to see what it sent.
//!
//! ```text
//! cargo run -p protocol-sm --example decode -- --ctl-client < capture
//! ```
//! `capture` is raw bytes, or hex digits with any white space; with or without the preface. Wireshark saves one
//! ("Follow TCP Stream", one direction, shown as raw), and so does a line of your own client that dumps what it sends. On a
//! proxy_conn a transfer's raw bytes follow its first message; where they end is not said there (the
//! `Fin` travels on the ctl_conn), so give the totals of the transfers if there is more behind them:
//! `--proxy-server --totals 5,1000`.

use protocol_sm::wire::{
    Framer, MAGIC, Message, PREFACE_LEN, ProxyToClient, ProxyToServer, ToClient, ToServer, WireError,
};
use std::fmt::Debug;
use std::io::{Read as _, Write};
use std::process::ExitCode;

const USAGE: &str = "usage: decode --ctl-client|--ctl-server|--proxy-client|--proxy-server \
    [--totals N,N,...] < CAPTURE\n\
    The name says who sent the bytes. CAPTURE is raw, or hex digits and white space.\n";

/// What is known about a direction besides its messages.
trait Captured: Message + Debug {
    /// Says what the eight bytes before the first frame mean.
    fn preface([_, _, _, _, kind, version, min, max]: [u8; PREFACE_LEN]) -> String {
        let kind = char::from(kind);
        match version {
            0 => format!("reply for kind {kind:?}: refused, the server speaks {min} to {max}"),
            version => format!("reply for kind {kind:?}: version {version}"),
        }
    }

    /// Whether a transfer's raw bytes follow.
    fn starts_payload(&self) -> bool {
        false
    }
}

impl Captured for ToServer {
    fn preface([_, _, _, _, kind, min, max, _]: [u8; PREFACE_LEN]) -> String {
        format!("preface of kind {:?}: versions {min} to {max}", char::from(kind))
    }
}
impl Captured for ToClient {}

impl Captured for ProxyToServer {
    fn preface([_, _, _, _, kind, min, max, _]: [u8; PREFACE_LEN]) -> String {
        format!("preface of kind {:?}: versions {min} to {max}", char::from(kind))
    }

    fn starts_payload(&self) -> bool {
        matches!(self, Self::Started { .. })
    }
}

impl Captured for ProxyToClient {
    fn starts_payload(&self) -> bool {
        matches!(self, Self::Start { .. })
    }
}

fn main() -> ExitCode {
    if std::env::args().any(|argument| argument == "--help" || argument == "-h") {
        print!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    let (direction, totals) = match arguments() {
        Ok(arguments) => arguments,
        Err(wrong) => {
            eprint!("{wrong}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let mut input = Vec::new();
    if let Err(error) = std::io::stdin().read_to_end(&mut input) {
        eprintln!("cannot read the capture: {error}");
        return ExitCode::FAILURE;
    }
    let bytes = from_hex(&input).unwrap_or(input);
    let out = &mut std::io::stdout().lock();
    let printed = match direction.as_str() {
        "--ctl-client" => print::<ToServer>(&bytes, &totals, out),
        "--ctl-server" => print::<ToClient>(&bytes, &totals, out),
        "--proxy-client" => print::<ProxyToServer>(&bytes, &totals, out),
        _ => print::<ProxyToClient>(&bytes, &totals, out),
    };
    match printed {
        Ok(true) => ExitCode::SUCCESS,
        // A reader that went away (`| head`) is no failure to report.
        Ok(false) | Err(_) => ExitCode::FAILURE,
    }
}

fn arguments() -> Result<(String, Vec<usize>), String> {
    let (mut direction, mut totals) = (None, Vec::new());
    let mut given = std::env::args().skip(1);
    while let Some(argument) = given.next() {
        match argument.as_str() {
            "--ctl-client" | "--ctl-server" | "--proxy-client" | "--proxy-server" => {
                direction = Some(argument);
            }
            "--totals" => {
                let list = given.next().ok_or("--totals needs numbers")?;
                let number = |n: &str| n.parse().map_err(|_| format!("not a number of bytes: {n}"));
                totals = list.split(',').map(number).collect::<Result<_, _>>()?;
            }
            other => return Err(format!("unknown argument: {other}")),
        }
    }
    Ok((direction.ok_or("whose bytes are they?")?, totals))
}

/// The bytes that `text` spells, if it is hex and nothing else.
fn from_hex(text: &[u8]) -> Option<Vec<u8>> {
    let digits = text.iter().filter(|byte| !byte.is_ascii_whitespace());
    let digits: Vec<u8> = digits.map(|&byte| char::from(byte).to_digit(16)?.try_into().ok()).collect::<Option<_>>()?;
    let pairs = digits.chunks_exact(2);
    pairs.remainder().is_empty().then(|| pairs.map(|pair| pair[0] << 4 | pair[1]).collect())
}

/// Prints everything; `Ok(false)` if the bytes are not what they should be.
fn print<M: Captured>(bytes: &[u8], totals: &[usize], out: &mut impl Write) -> std::io::Result<bool> {
    let mut rest = bytes;
    let mut totals = totals.iter();
    if let Some((preface, behind)) = rest.split_first_chunk::<PREFACE_LEN>()
        && preface.starts_with(&MAGIC)
    {
        writeln!(out, "{:>8}  {}", 0, M::preface(*preface))?;
        rest = behind;
    } else if !rest.is_empty() && rest.len() < PREFACE_LEN && rest.iter().zip(&MAGIC).all(|(byte, magic)| byte == magic)
    {
        writeln!(out, "{:>8}  the first {} of the {PREFACE_LEN} bytes of a preface", 0, rest.len())?;
        return Ok(true);
    }
    while !rest.is_empty() {
        let at = bytes.len() - rest.len();
        let before = rest;
        match Framer::<M>::default().next(&mut rest) {
            Ok(Some(message)) => {
                writeln!(out, "{at:>8}  {}", readable(&message))?;
                if message.starts_payload() {
                    let payload = totals.next().copied().unwrap_or(rest.len()).min(rest.len());
                    let at = bytes.len() - rest.len();
                    writeln!(out, "{at:>8}  {payload} bytes of payload")?;
                    rest = &rest[payload..];
                }
            }
            Ok(None) => {
                writeln!(out, "{at:>8}  the first {} bytes of a frame", before.len())?;
            }
            Err(error) => {
                writeln!(out, "{at:>8}  {}: {}", explain::<M>(error, before), hex(before))?;
                return Ok(false);
            }
        }
    }
    Ok(true)
}

fn explain<M: Message>(error: WireError, frame: &[u8]) -> String {
    match (error, frame) {
        (WireError::Length, [low, high, ..]) => {
            let length = u16::from_le_bytes([*low, *high]);
            format!("NOT A FRAME, its length is {length} and must be from 1 to {}", M::MAX)
        }
        (WireError::Length | WireError::Malformed | WireError::NotCproxy | WireError::Tls, _) => {
            "NOT A MESSAGE that may come in this direction".into()
        }
    }
}

/// The first bytes, in hex.
fn hex(bytes: &[u8]) -> String {
    let shown = bytes.iter().take(32).map(|byte| format!("{byte:02x}")).collect::<Vec<_>>();
    shown.join(" ") + if bytes.len() > 32 { " ..." } else { "" }
}

/// `Debug`, with byte arrays as hex.
fn readable(message: &impl Debug) -> String {
    let text = format!("{message:?}");
    let mut out = String::new();
    let mut rest = text.as_str();
    while let Some((before, after)) = rest.split_once('[') {
        out.push_str(before);
        let (list, after) = after.split_once(']').unwrap_or((after, ""));
        match list.split(", ").map(str::parse).collect::<Result<Vec<u8>, _>>() {
            Ok(bytes) => bytes.iter().for_each(|byte| out += &format!("{byte:02x}")),
            Err(_) => out = out + "[" + list + "]",
        }
        rest = after;
    }
    out + rest
}
