//! The services behind a client's tunnels: dialled as for a visitor, and left at once.

use super::client::look_up;
use super::{Findings, State};
use protocol_sm::settings::TunnelSpec;
use std::fmt::Write as _;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as SocketName, UnixStream};
use std::time::Duration;
use tokio::net::{TcpSocket, UdpSocket};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::timeout;

/// How long a service may take to be there.
const DIAL: Duration = Duration::from_secs(5);
/// How long the system may take to say that nobody takes datagrams at a port.
const REFUSAL: Duration = Duration::from_millis(500);
/// Services that are dialled at once.
const AT_ONCE: usize = 64;

/// Dials all services.
pub(super) fn all(findings: &mut Findings, tunnels: &[TunnelSpec]) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return findings.fail("service", format!("none can be dialled from here: {error}")),
    };
    for some in tunnels.chunks(AT_ONCE) {
        let mut found = runtime.block_on(async {
            let mut dials: JoinSet<_> = some
                .iter()
                .cloned()
                .enumerate()
                .map(|(nth, tunnel)| async move { (nth, examine(&tunnel).await) })
                .collect();
            let mut found = Vec::new();
            while let Some(Ok(one)) = dials.join_next().await {
                found.push(one);
            }
            found
        });
        found.sort_by_key(|(nth, _)| *nth);
        found.into_iter().for_each(|(_, (state, says))| findings.add("service", state, says));
    }
    // Nobody waits for a look-up that hangs.
    runtime.shutdown_background();
}

async fn examine(tunnel: &TunnelSpec) -> (State, String) {
    let (name, local) = (&tunnel.name, &tunnel.local);
    if let Some(path) = local.strip_prefix("unix:") {
        return match connect_unix(path.to_owned()).await {
            Ok(()) => (State::Ok, format!("{name}: {local} answers")),
            Err(error) => {
                let why = runtime_epoll::unix_trouble(path).unwrap_or_else(|| format!("the service {local}: {error}"));
                (State::Failed, format!("{name}: {why}"))
            }
        };
    }
    let looked_up = local.clone();
    let addresses =
        spawn_blocking(move || look_up(&looked_up)).await.unwrap_or_else(|error| Err(io::Error::other(error)));
    let addresses = match addresses {
        Ok(addresses) if !addresses.is_empty() => addresses,
        Ok(_) => return (State::Failed, format!("{name}: {local} has no address; correct `local`")),
        Err(error) => return (State::Failed, format!("{name}: {local} does not resolve: {error}; correct `local`")),
    };
    let sources = match &tunnel.local_sources[..] {
        [] => vec![None],
        sources => sources.iter().copied().map(Some).collect(),
    };
    let mut failed = String::new();
    for &to in &addresses {
        for source in sources.iter().filter(|source| source.is_none_or(|source| source.is_ipv4() == to.is_ipv4())) {
            match if tunnel.is_udp() { send(*source, to).await } else { connect(*source, to).await } {
                Ok(()) if tunnel.is_udp() => {
                    let what = "nobody refuses datagrams there; whether a service answers only its own words can show";
                    return (State::Ok, format!("{name}: {to}: {what}"));
                }
                Ok(()) => return (State::Ok, format!("{name}: {to} answers")),
                Err(error) => {
                    let from = source.map(|source| format!(" from {source}")).unwrap_or_default();
                    let _infallible =
                        write!(failed, "{}{to}{from}: {error}", if failed.is_empty() { "" } else { "; " });
                }
            }
        }
    }
    let way_out = match elsewhere(tunnel, &addresses).await {
        Some(there) => format!("the service listens at {there}: write that as `local`"),
        None => "start the service, or correct `local`".to_owned(),
    };
    (State::Failed, format!("{name}: the service {local} cannot be reached ({failed}); {way_out}"))
}

async fn connect_unix(path: String) -> io::Result<()> {
    let connects = spawn_blocking(move || {
        let at = match path.strip_prefix('@') {
            Some(name) => SocketName::from_abstract_name(name)?,
            None => SocketName::from_pathname(&path)?,
        };
        UnixStream::connect_addr(&at).map(drop)
    });
    // Where as many wait as may, it blocks.
    timeout(DIAL, connects).await.map_err(|_| late())?.unwrap_or_else(|error| Err(io::Error::other(error)))
}

fn late() -> io::Error {
    io::Error::new(ErrorKind::TimedOut, format!("no answer within {} s", DIAL.as_secs()))
}

async fn connect(source: Option<IpAddr>, to: SocketAddr) -> io::Result<()> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(source) = source {
        socket.bind(SocketAddr::new(source, 0))?;
    }
    timeout(DIAL, socket.connect(to)).await.map_err(|_| late())?.map(drop)
}

/// Sends an empty datagram: where nobody takes it, the system says so.
async fn send(source: Option<IpAddr>, to: SocketAddr) -> io::Result<()> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind(SocketAddr::new(source.unwrap_or(any), 0)).await?;
    socket.connect(to).await?;
    socket.send(&[]).await?;
    match timeout(REFUSAL, socket.recv(&mut [0])).await {
        Ok(Err(error)) => Err(error),
        Ok(Ok(_)) | Err(_) => Ok(()),
    }
}

/// Where the service is instead, if it is on this machine, under the other family's address.
async fn elsewhere(tunnel: &TunnelSpec, tried: &[SocketAddr]) -> Option<SocketAddr> {
    let port = tried.iter().find(|at| at.ip().is_loopback())?.port();
    for ip in [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)] {
        let at = SocketAddr::new(ip, port);
        if !tunnel.is_udp() && !tried.contains(&at) && connect(None, at).await.is_ok() {
            return Some(at);
        }
    }
    None
}
