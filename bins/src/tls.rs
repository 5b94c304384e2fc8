//! The files of TLS: read, checked, and made into what the runtime runs with. Every message names the key or flag, and
//! the file.

use crate::config::{Named, TlsEntry};
use crate::problem::{Problem, way_to_read};
use crate::token;
use runtime_epoll::tls::{ClientTls, Identity, Piece, SelfMade, ServerTls, TlsError, Trust, self_made};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// A larger file is some other file.
const MAX_FILE: u64 = 4 << 20;

/// The directory of its own that systemd gives a service that may write nowhere else.
pub const STATE_DIRECTORY: &str = "STATE_DIRECTORY";

/// The server's TLS. Where it names no certificate, it has one made by itself in `directory`, which is made the first
/// time if `make` says so; otherwise `None`.
///
/// # Errors
/// A file cannot be read or written, or is not what it should be.
pub fn server(
    entry: &TlsEntry,
    directory: &Path,
    make: bool,
    warnings: &mut Vec<String>,
) -> Result<Option<ServerTls>, Problem> {
    if !entry.is_on() {
        warnings.extend(not_looked_at(entry));
        return Ok(None);
    }
    let authority = entry.authority.as_ref().map(|file| read(file, warnings, false)).transpose()?;
    let trust = entry.authority.as_ref().map(shown).unwrap_or_default();
    let (certificate, key, files) = match &entry.identity {
        Some((certificate, key)) => {
            (read(certificate, warnings, false)?, read(key, warnings, true)?, (shown(certificate), shown(key)))
        }
        None => match self_made(directory, make) {
            Ok(SelfMade { certificate, certificate_file, key, key_file }) => {
                warnings.extend(token::open_to_others(&key_file));
                let shown = |file: PathBuf| format!("`tls`: `{}`", file.display());
                (certificate, key, (shown(certificate_file), shown(key_file)))
            }
            Err((_, error)) if error.kind() == io::ErrorKind::NotFound && !make => return Ok(None),
            Err((file, error)) => {
                return Err(Problem::new(format!(
                    "`tls`: the server's own certificate cannot be kept in `{}`: {error}; make the directory writable, or \
                     set `tls_cert` and `tls_key`",
                    file.display()
                )));
            }
        },
    };
    let identity = Identity { certificate: &certificate, key: &key };
    ServerTls::new(identity, authority.as_deref(), &trust)
        .map(Some)
        .map_err(|error| wrong(&error, Some(&files), entry.authority.as_ref(), None))
}

/// The client's TLS, for the server at `host`.
///
/// # Errors
/// A file cannot be read, or is not what it should be.
pub fn client(entry: &TlsEntry, host: &str, warnings: &mut Vec<String>) -> Result<Option<ClientTls>, Problem> {
    if !entry.is_on() {
        warnings.extend(not_looked_at(entry));
        return Ok(None);
    }
    let authority = entry.authority.as_ref().map(|file| read(file, warnings, false)).transpose()?;
    let (trust, by) = match (&entry.pin, &authority) {
        (Some(pin), _) => (Trust::Pin(pin.value), format!("{} = \"{}\"", pin.by, pin.value)),
        (None, Some(pem)) => (Trust::Authority(pem), entry.authority.as_ref().map(shown).unwrap_or_default()),
        (None, None) => (Trust::System, "`tls`: the certificates that this machine trusts".to_owned()),
    };
    let own = match &entry.identity {
        None => None,
        Some((certificate, key)) => Some((read(certificate, warnings, false)?, read(key, warnings, true)?)),
    };
    let identity = own.as_ref().map(|(certificate, key)| Identity { certificate, key });
    let files = entry.identity.as_ref().map(|(certificate, key)| (shown(certificate), shown(key)));
    let name = entry.server_name.as_ref();
    ClientTls::new(trust, &by, name.map_or(host, |name| &name.value), identity)
        .map(Some)
        .map_err(|error| wrong(&error, files.as_ref(), entry.authority.as_ref(), name))
}

/// A warning, if more is said of TLS than that it is off.
fn not_looked_at(entry: &TlsEntry) -> Option<String> {
    let key = entry.who_says_more()?;
    Some(format!(
        "{key} is not looked at, because `tls` is false: everything travels in the clear; remove `tls = false` to encrypt"
    ))
}

/// Where a server without certificates of its own keeps the one that it makes: where systemd says, beside the
/// configuration file, or where it was started.
#[must_use]
pub fn directory(state: Option<&OsStr>, config: Option<&Path>) -> PathBuf {
    let beside = || config.and_then(Path::parent).filter(|parent| !parent.as_os_str().is_empty());
    state.map(Path::new).or_else(beside).unwrap_or(Path::new(".")).to_owned()
}

fn shown(file: &Named<PathBuf>) -> String {
    format!("{}: `{}`", file.by, file.value.display())
}

fn read(file: &Named<PathBuf>, warnings: &mut Vec<String>, secret: bool) -> Result<Vec<u8>, Problem> {
    let problem = |error: io::Error| {
        let (path, way_out) = (file.value.display(), way_to_read(&file.value, &error));
        Problem::new(format!("{}: cannot read `{path}`: {error}; {way_out}", file.by))
    };
    let mut bytes = Vec::new();
    File::open(&file.value).and_then(|open| open.take(MAX_FILE + 1).read_to_end(&mut bytes)).map_err(problem)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(problem(io::Error::other("it is larger than 4 MiB")));
    }
    if secret {
        warnings.extend(token::open_to_others(&file.value));
    }
    Ok(bytes)
}

/// Says which file it is that is not what it should be.
fn wrong(
    error: &TlsError,
    identity: Option<&(String, String)>,
    authority: Option<&Named<PathBuf>>,
    name: Option<&Named<String>>,
) -> Problem {
    let (what, way_out) = match error.piece {
        Piece::Certificate => (identity.map(|files| files.0.clone()), "give a certificate in PEM"),
        Piece::Key => {
            (identity.map(|files| files.1.clone()), "give the certificate's key, in PEM and without a password")
        }
        Piece::Authority => (authority.map(shown), "give the certificates of an authority, in PEM"),
        Piece::Name => {
            (name.map(|name| name.by.clone()), "set tls_server_name to the name in the server's certificate")
        }
    };
    Problem::new(format!("{}: {error}; {way_out}", what.unwrap_or_else(|| "`tls`".to_owned())))
}
