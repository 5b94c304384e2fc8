//! Certificates made for a test, and an authority that signed them.

use crate::programs::Options;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use std::path::PathBuf;
use tempfile::TempDir;

/// Years in which a certificate is valid when the test runs.
pub const NOW: (i32, i32) = (2020, 2100);

/// A directory with certificates and keys made for a test.
#[derive(Debug)]
pub struct Papers {
    directory: TempDir,
    /// The authority.
    pub issuer: Issuer<'static, KeyPair>,
}

impl Default for Papers {
    fn default() -> Self {
        Self::new()
    }
}

impl Papers {
    /// With an authority of its own, `ca.pem`.
    ///
    /// # Panics
    /// If there is no room for it.
    #[must_use]
    pub fn new() -> Self {
        let directory = TempDir::new().expect("a temporary directory");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let authority = params.self_signed(&key).expect("an authority");
        std::fs::write(directory.path().join("ca.pem"), authority.pem()).expect("write");
        Self { directory, issuer: Issuer::new(params, key) }
    }

    /// Where a file of it is.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A key `<who>-key.pem` and its certificate `<who>.pem`, for these names and years.
    pub fn issue(&self, who: &str, names: &[&str], years: (i32, i32)) {
        self.issue_with(who, names, |params| {
            params.not_before = date_time_ymd(years.0, 1, 1);
            params.not_after = date_time_ymd(years.1, 1, 1);
        });
    }

    /// The same, with what `shape` makes of the certificate.
    ///
    /// # Panics
    /// If there is no room for it, or what `shape` makes is no certificate.
    pub fn issue_with(&self, who: &str, names: &[&str], shape: impl FnOnce(&mut CertificateParams)) {
        let mut params =
            CertificateParams::new(names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>()).expect("names");
        shape(&mut params);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        std::fs::write(self.path(&format!("{who}.pem")), certificate.pem()).expect("write");
        std::fs::write(self.path(&format!("{who}-key.pem")), key.serialize_pem()).expect("write");
    }

    /// Options that name the certificate and key of `who`.
    #[must_use]
    pub fn identity(&self, options: Options, who: &str) -> Options {
        self.file(&self.file(&options, "tls_cert", &format!("{who}.pem")), "tls_key", &format!("{who}-key.pem"))
    }

    /// Options whose `key` names this file of the directory.
    #[must_use]
    pub fn file(&self, options: &Options, key: &str, name: &str) -> Options {
        options.clone().key(key, format!("\"{}\"", self.path(name).display()))
    }
}
