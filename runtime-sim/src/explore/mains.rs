//! What the main threads make of a message from one loop for the other, where there are no main threads.

use protocol_sm::driver::messages::{ControlKey, ToServerLoop};
use protocol_sm::transfer::Fin;
use protocol_sm::wire::{ClientBody, ClientMsg, ServerBody, ServerMsg, TransferMsg};

/// For the server's loop.
pub(crate) fn to_server_loop<T>(control: ControlKey, msg: ClientMsg) -> ToServerLoop<T> {
    let msg = match msg {
        ClientMsg::ConnFailed { count } => return ToServerLoop::ConnFailed { control, count },
        ClientMsg::Fin { conn, epoch, total, how } => {
            TransferMsg { conn, epoch, body: ClientBody::Fin(Fin { total, how }) }
        }
        ClientMsg::Done { conn, epoch } => TransferMsg { conn, epoch, body: ClientBody::Done },
        ClientMsg::Abort { conn, epoch, code } => TransferMsg { conn, epoch, body: ClientBody::Abort { code } },
        ClientMsg::StartSeen { conn, epoch, seen } => TransferMsg { conn, epoch, body: ClientBody::StartSeen { seen } },
        ClientMsg::RegisterTunnel { .. }
        | ClientMsg::RegisterHost { .. }
        | ClientMsg::RegisterUdp { .. }
        | ClientMsg::ChangeTunnel { .. }
        | ClientMsg::CloseTunnel { .. }
        | ClientMsg::Drain => {
            unreachable!("no loop says it")
        }
    };
    ToServerLoop::Transfer { control, msg }
}

/// For the client's loop: all but asks for conns are about a transfer.
pub(crate) fn about_a_transfer(msg: ServerMsg) -> TransferMsg<ServerBody> {
    match msg {
        ServerMsg::Fin { conn, epoch, total, how } => {
            TransferMsg { conn, epoch, body: ServerBody::Fin(Fin { total, how }) }
        }
        ServerMsg::Abort { conn, epoch, code } => TransferMsg { conn, epoch, body: ServerBody::Abort { code } },
        ServerMsg::AskStart { conn, epoch } => TransferMsg { conn, epoch, body: ServerBody::AskStart },
        ServerMsg::TunnelReady { .. }
        | ServerMsg::TunnelRefused { .. }
        | ServerMsg::TunnelClosed { .. }
        | ServerMsg::NeedConn { .. }
        | ServerMsg::Drain
        | ServerMsg::Leave { .. }
        | ServerMsg::DatagramPath { .. } => {
            unreachable!("no loop says it")
        }
    }
}
