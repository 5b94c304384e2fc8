//! How datagrams go between client and server, which both files may say.

use super::section::Section;
use clap::ValueEnum;
use protocol_sm::settings::DatagramTransport;

/// The words for it.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Word {
    Auto,
    Tcp,
    Udp,
}

/// What the key `datagram_transport` says.
pub(super) fn datagram_transport(top: &Section<'_>) -> DatagramTransport {
    let mut word = Word::Auto;
    top.choice("datagram_transport", &mut word);
    match word {
        Word::Auto => DatagramTransport::Auto,
        Word::Tcp => DatagramTransport::Tcp,
        Word::Udp => DatagramTransport::Udp,
    }
}
