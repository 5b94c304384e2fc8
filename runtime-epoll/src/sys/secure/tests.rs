//! Several handshakes that end in one turn of their thread.

use super::super::Linux;
use crate::tls::{ClientTls, Identity, ServerTls, Tls, TlsInUse, Trust};
use protocol_sm::driver::{Listen, Role, Streams, SysError, Token};
use protocol_sm::settings::Origin;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(30);
const MANY: u64 = 5;

fn token(number: u64) -> Token {
    Token::from_number(number).unwrap()
}

/// Does `what` again and again until it gives something.
fn until<T>(mut what: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = what() {
            return found;
        }
        assert!(started.elapsed() < PATIENCE, "it comes to an end");
        std::thread::yield_now();
    }
}

/// Each is a connection whose bytes may have been read with the handshake's last ones: epoll reports nothing more.
#[test]
fn every_connection_whose_handshake_ends_in_one_turn_is_reported() {
    let made = rcgen::generate_simple_self_signed(["cproxy".to_owned()]).unwrap();
    let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let identity = Identity { certificate: certificate.as_bytes(), key: key.as_bytes() };
    let server_tls = ServerTls::new(identity, None, "").unwrap();
    let client_tls = ClientTls::new(Trust::Pins(&[server_tls.own().pin()]), "", "127.0.0.1", None).unwrap();
    let (_server_poller, mut server) = Linux::new(()).unwrap();
    let (_client_poller, mut client) = Linux::new(()).unwrap();
    server.use_tls(TlsInUse::new(Tls::Server(server_tls)));
    client.use_tls(TlsInUse::new(Tls::Client(client_tls)));
    let (listener, at) = server.listen("127.0.0.1:0".parse().unwrap(), token(100)).unwrap();
    let mut pairs = Vec::new();
    for number in 1..=MANY {
        let near = client.connect(&Origin::default(), at, Role::Ctl, token(number)).unwrap();
        let (far, _) = until(|| match server.accept(&listener, Role::Ctl) {
            Err(SysError::WouldBlock) => None,
            accepted => Some(accepted.unwrap()),
        });
        server.watch(&far, token(number)).unwrap();
        until(|| client.take_error(&near).ok());
        pairs.push((near, far));
    }
    // One turn: all handshakes go on until they are through, on both sides.
    until(|| {
        for (near, far) in &pairs {
            assert_eq!(client.recv(near, &mut [0; 100]), Err(SysError::WouldBlock));
            assert_eq!(server.recv(far, &mut [0; 100]), Err(SysError::WouldBlock));
        }
        pairs
            .iter()
            .all(|(near, far)| match (client.channel(near), server.channel(far)) {
                (Ok(near), Ok(far)) => near.is_some() && near == far,
                _ => false,
            })
            .then_some(())
    });
    for sys in [&mut client, &mut server] {
        assert!(sys.has_woken());
        let mut woken = Vec::new();
        sys.take_woken(&mut woken);
        assert_eq!(woken.len() as u64, MANY, "each once");
        let tokens: BTreeSet<_> = woken.iter().map(|(token, _)| *token).collect();
        assert_eq!(tokens, (1..=MANY).map(token).collect());
        assert!(woken.iter().all(|(_, ready)| ready.readable && ready.writable));
        assert!(!sys.has_woken());
    }
}
