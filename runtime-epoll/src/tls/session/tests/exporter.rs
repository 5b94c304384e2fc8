//! The channel: what rustls itself exports on connections that have buffers of their own, the same at both ends, and
//! another one on every connection.

use super::*;
use rustls::ServerConnection;
use rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256;

/// What a buffered server of rustls exports, and what our client calls its channel.
fn channels(suites: &[rustls::SupportedCipherSuite]) -> ([u8; 32], Channel) {
    let (server, client) = tls();
    let provider = CryptoProvider { cipher_suites: suites.to_vec(), ..ring::default_provider() };
    let config = ServerConfig::builder_with_provider(provider.into()).with_protocol_versions(&[&TLS13]).unwrap();
    let mut config = config.with_no_client_auth().with_cert_resolver(Arc::new(server.own().clone()));
    config.alpn_protocols = vec![ALPN.to_vec()];
    let mut server = ServerConnection::new(config.into()).unwrap();
    let mut client = Session::client(&client.config, client.name.clone()).unwrap();
    let (mut up, mut down, mut dice, mut buffers) = (Pipe::default(), Pipe::default(), Dice(7), Buffers::default());
    for _ in 0..1000 {
        let mut end = End { from: &mut down, to: &mut up, dice: &mut dice, room: 1 << 20 };
        let channel = client.channel(&mut end, &mut buffers);
        server.read_tls(&mut up.bytes).unwrap();
        server.process_new_packets().unwrap();
        let mut said = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut said).unwrap();
        }
        down.bytes.extend(said);
        match channel {
            Ok(channel) if !server.is_handshaking() => {
                let exported = server.export_keying_material([0; 32], b"EXPORTER-Channel-Binding", Some(&[])).unwrap();
                return (exported, channel.expect("encrypted"));
            }
            Ok(_) | Err(SysError::WouldBlock) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
    panic!("the handshake comes to an end");
}

/// P-TLS-8.
#[test]
fn it_is_what_rfc_9266_says() {
    for suite in [TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384] {
        let (exported, channel) = channels(&[suite]);
        assert_eq!(channel, Channel(exported), "{suite:?}");
    }
}

#[test]
fn both_ends_have_the_same_and_every_connection_another() {
    let (server, client) = tls();
    let mut seen = Vec::new();
    for seed in 1..=3 {
        let mut pair = Pair::of(client.clone(), server.clone(), seed, 1 << 20);
        pair.settle();
        let [near, far] = [CLIENT, SERVER]
            .map(|who| pair.with(who, |session, wire, buffers| session.channel(wire, buffers)).unwrap().unwrap());
        assert_eq!(near, far);
        assert!(!seen.contains(&near));
        seen.push(near);
    }
}
