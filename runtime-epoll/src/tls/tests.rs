//! Files that cannot be used: the words name the usual reason, which certificate, which key.

use super::*;

const P_521: &[u8] = include_bytes!("fixtures/p521.pem");
const RSA_1024: &[u8] = include_bytes!("fixtures/rsa1024.pem");
/// A certificate of version 1, and its key with a password.
const VERSION_1: &[u8] = include_bytes!("fixtures/v1-encrypted.pem");

/// What is wrong with a server of this certificate and key.
fn wrong(certificate: &[u8], key: &[u8]) -> String {
    ServerTls::new(Identity { certificate, key }, None, "").unwrap_err().to_string()
}

/// A certificate and its key that are in order.
fn good() -> (String, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(["a.example".to_owned()]).unwrap().self_signed(&key).unwrap();
    (certificate.pem(), key.serialize_pem())
}

#[test]
fn keys_that_cannot_be_used_are_named_by_their_kind() {
    let kind = wrong(P_521, P_521);
    assert!(kind.contains("a key on the curve P-521") && kind.contains("use P-256"), "{kind}");
    let kind = wrong(RSA_1024, RSA_1024);
    assert!(kind.contains("RSA key of fewer than 2048 bits"), "{kind}");
    let (certificate, key) = good();
    let encrypted = wrong(certificate.as_bytes(), VERSION_1);
    assert!(encrypted.contains("encrypted with a password") && encrypted.contains("openssl pkey"), "{encrypted}");
    let old = wrong(VERSION_1, key.as_bytes());
    assert!(old.contains("X.509 version 1"), "{old}");
}

#[test]
fn one_bad_authority_among_many_is_named_by_its_number() {
    let (one, _) = good();
    let garbage = "-----BEGIN CERTIFICATE-----\nMAMCAQE=\n-----END CERTIFICATE-----\n";
    let broken = "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n";
    let wrong = |pem: String| {
        let client = ClientTls::new(Trust::Authority(pem.as_bytes()), "", "a.example", None);
        client.unwrap_err().to_string()
    };
    let said = wrong(format!("{one}{one}{garbage}{one}"));
    assert!(said.starts_with("certificate 3 of 4 in it cannot be used: "), "{said}");
    let said = wrong(format!("{one}{broken}{one}"));
    assert!(said.starts_with("certificate 2 in it is broken: "), "{said}");
}
