//! TLS of visitors that ends here: the certificate that each is shown, by the name that it gives.

use super::{OwnCertificate, PROVIDER, Piece, TlsError};
use protocol_sm::routes::Speaks;
use rustls::ServerConfig;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use std::sync::{Arc, PoisonError, RwLock};

/// The certificates for visitors, and what else their TLS needs.
#[derive(Clone, Debug)]
pub struct VisitorTls {
    certificates: Arc<Certificates>,
    /// For each of [`Speaks::ALL`].
    configs: [Arc<ServerConfig>; 3],
}

impl VisitorTls {
    /// Shows each visitor the certificate of `named` that is for the name that it gives: a whole name goes before one for
    /// all names below a domain, and the first of several as good. `default` is for all others, and those who name nobody.
    ///
    /// # Errors
    /// The TLS library wants none of it.
    pub fn new(named: Vec<OwnCertificate>, default: Option<OwnCertificate>) -> Result<Self, TlsError> {
        let certificates = Arc::new(Certificates { named, default });
        let config = |speaks: Speaks| {
            let config = ServerConfig::builder_with_provider(Arc::clone(&PROVIDER))
                // Browsers of some years ago know nothing later than TLS 1.2.
                .with_protocol_versions(&[&TLS13, &TLS12])
                .map_err(|error| Piece::Key.wrong(error))?;
            let shown = Arc::clone(&certificates) as Arc<dyn ResolvesServerCert>;
            let mut config = config.with_no_client_auth().with_cert_resolver(shown);
            config.alpn_protocols = speaks.alpn().iter().map(|name| name.as_bytes().to_vec()).collect();
            config.send_tls13_tickets = 0;
            config.session_storage = Arc::new(NoServerSessionStorage {});
            Ok(Arc::new(config))
        };
        let [one, two, both] = Speaks::ALL.map(config);
        Ok(Self { configs: [one?, two?, both?], certificates })
    }

    fn config(&self, speaks: Speaks) -> &Arc<ServerConfig> {
        &self.configs[speaks as usize]
    }
}

#[derive(Debug)]
struct Certificates {
    named: Vec<OwnCertificate>,
    default: Option<OwnCertificate>,
}

impl Certificates {
    fn find(&self, name: Option<&str>) -> Option<&OwnCertificate> {
        let exact = |name: &str| self.named.iter().find(|own| own.is_for(name));
        let below = |name: &str| {
            let (_, domain) = name.split_once('.')?;
            exact(&format!("*.{domain}"))
        };
        name.and_then(|name| exact(name).or_else(|| below(name))).or(self.default.as_ref())
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.find(hello.server_name()).map(OwnCertificate::certified)
    }
}

/// What the listening thread does with visitors that come from now on; nobody's TLS ends here without certificates.
#[derive(Clone, Debug, Default)]
pub(crate) struct VisitorTlsInUse(Arc<RwLock<Option<VisitorTls>>>);

impl VisitorTlsInUse {
    pub(crate) fn set(&self, tls: Option<VisitorTls>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = tls;
    }

    /// Whether there is a certificate for this name.
    pub(crate) fn certified(&self, name: Option<&str>) -> bool {
        let tls = self.0.read().unwrap_or_else(PoisonError::into_inner);
        tls.as_ref().is_some_and(|tls| tls.certificates.find(name).is_some())
    }

    pub(crate) fn config(&self, speaks: Speaks) -> Option<Arc<ServerConfig>> {
        let tls = self.0.read().unwrap_or_else(PoisonError::into_inner);
        tls.as_ref().map(|tls| Arc::clone(tls.config(speaks)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Identity;
    use super::*;
    use rcgen::{CertificateParams, KeyPair};

    fn own(names: &[&str]) -> OwnCertificate {
        let key = KeyPair::generate().unwrap();
        let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
        let certificate = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
        OwnCertificate::new(Identity { certificate: certificate.pem().as_bytes(), key: key.serialize_pem().as_bytes() })
            .unwrap()
    }

    #[test]
    fn the_nearest_certificate_is_shown() {
        let all = [own(&["*.Example.com", "example.com"]), own(&["app.example.com"]), own(&["other.example"])];
        let found = |default: Option<&OwnCertificate>, name: Option<&str>| {
            let certificates = Certificates { named: all.to_vec(), default: default.cloned() };
            let found = certificates.find(name)?.pin();
            all.iter().position(|own| own.pin() == found)
        };
        for (name, without, with) in [
            (Some("app.example.com"), Some(1), Some(1)),
            (Some("b.example.com"), Some(0), Some(0)),
            (Some("example.com"), Some(0), Some(0)),
            (Some("a.b.example.com"), None, Some(2)),
            (Some("com"), None, Some(2)),
            (None, None, Some(2)),
        ] {
            assert_eq!((found(None, name), found(Some(&all[2]), name)), (without, with), "{name:?}");
        }
    }
}
