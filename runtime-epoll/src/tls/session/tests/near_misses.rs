//! Peers that are nearly the right ones: the right certificate without its key, the right key but for one bit of its
//! pin, an authority of the same name.

use super::{CLIENT, Pair, SERVER};
use crate::tls::{ClientTls, Identity, PROVIDER, ServerTls, Trust};
use protocol_sm::driver::SysError;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, ServerConfig};
use std::sync::Arc;

/// A certificate and its key, as PEM.
struct Papers {
    certificate: String,
    key: String,
}

impl Papers {
    fn identity(&self) -> Identity<'_> {
        Identity { certificate: self.certificate.as_bytes(), key: self.key.as_bytes() }
    }

    /// This certificate, and the key of `other`: what somebody has who has seen the certificate only.
    fn with_key_of(&self, other: &Self) -> Arc<SingleCertAndKey> {
        let certificate = CertificateDer::from_pem_slice(self.certificate.as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(other.key.as_bytes()).unwrap();
        let key = PROVIDER.key_provider.load_private_key(key).unwrap();
        Arc::new(SingleCertAndKey::from(CertifiedKey::new(vec![certificate], key)))
    }
}

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "the authority");
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), certificate }
    }

    fn issue(&self) -> Papers {
        let params = CertificateParams::new(vec!["cproxy".to_owned()]).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        Papers { certificate, key: key.serialize_pem() }
    }
}

/// Whether the two come to an understanding: each believes the other, and bytes arrive both ways.
fn understand(client: &ClientTls, server: &ServerTls) -> bool {
    let mut pair = Pair::of(client.clone(), server.clone(), 41, 1 << 20);
    let mut failed = false;
    for _ in 0..400 {
        for who in [CLIENT, SERVER] {
            let said = pair.recv(who, &mut [0; 100]);
            failed |= matches!(said, Err(error) if error != SysError::WouldBlock);
        }
    }
    let up = !failed && pair.sessions.iter().all(super::Session::is_encrypted);
    assert!(up || failed, "it is settled one way or the other");
    up
}

fn server(papers: &Papers, client_authority: Option<&str>) -> ServerTls {
    ServerTls::new(papers.identity(), client_authority.map(str::as_bytes), "").unwrap()
}

fn client(trust: Trust<'_>, identity: Option<Identity<'_>>) -> ClientTls {
    ClientTls::new(trust, "", "cproxy", identity).unwrap()
}

/// P-TLS-2: a pin is public. What counts is whether the server has the key.
#[test]
fn a_server_that_shows_the_right_certificate_without_its_key_is_not_believed() {
    let authority = Authority::new();
    let (right, other) = (authority.issue(), authority.issue());
    let honest = server(&right, None);
    let mut impostor = honest.clone();
    let mut config = ServerConfig::clone(&honest.config);
    config.cert_resolver = right.with_key_of(&other);
    impostor.config = Arc::new(config);
    for trust in [Trust::Pins(&[honest.own().pin()]), Trust::Authority(authority.certificate.as_bytes())] {
        let client = client(trust, None);
        assert!(understand(&client, &honest), "{trust:?}");
        assert!(!understand(&client, &impostor), "{trust:?}");
    }
}

/// P-TLS-2: every part of a pin counts.
#[test]
fn a_key_whose_pin_differs_in_one_digit_is_not_believed() {
    let server = server(&Authority::new().issue(), None);
    let text = server.own().pin().to_string();
    let first = "sha256:".len();
    for at in [first, first + 1, first + 31, first + 32, text.len() - 2, text.len() - 1] {
        let mut digits = text.clone().into_bytes();
        digits[at] = if digits[at] == b'0' { b'1' } else { b'0' };
        let pin = String::from_utf8(digits).unwrap().parse().unwrap();
        assert!(!understand(&client(Trust::Pins(&[pin]), None), &server), "digit {at} of {text}");
    }
    assert!(understand(&client(Trust::Pins(&[server.own().pin()]), None), &server));
}

/// P-TLS-2: a name is not a key; anybody can call himself an authority.
#[test]
fn an_authority_of_the_same_name_is_another_authority() {
    let (authority, namesake) = (Authority::new(), Authority::new());
    let trusting = client(Trust::Authority(authority.certificate.as_bytes()), None);
    assert!(understand(&trusting, &server(&authority.issue(), None)));
    assert!(!understand(&trusting, &server(&namesake.issue(), None)));
}

/// P-TLS-3: a client's certificate is shown to every server; only the key is its own.
#[test]
fn a_client_that_shows_the_right_certificate_without_its_key_is_refused() {
    let (authority, namesake) = (Authority::new(), Authority::new());
    let server = server(&authority.issue(), Some(&authority.certificate));
    let trust = Trust::Authority(authority.certificate.as_bytes());
    let (right, other) = (authority.issue(), authority.issue());
    let honest = client(trust, Some(right.identity()));
    assert!(understand(&honest, &server));
    let mut impostor = honest.clone();
    let mut config = ClientConfig::clone(&honest.config);
    config.client_auth_cert_resolver = right.with_key_of(&other);
    impostor.config = Arc::new(config);
    assert!(!understand(&impostor, &server));
    assert!(!understand(&client(trust, Some(namesake.issue().identity())), &server), "another authority's");
    assert!(!understand(&client(trust, None), &server), "none");
}
