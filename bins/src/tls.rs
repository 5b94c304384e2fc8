//! The files of TLS: read, checked, and made into what the runtime runs with. Every message names the key or flag, and
//! the file.

use crate::certificates::Watch;
use crate::config::{CertificateEntry, Named, TlsEntry};
use crate::problem::{Problem, way_to_read};
use crate::token;
use runtime_epoll::tls::{
    ClientTls, Identity, OwnCertificate, Piece, Pin, SelfMade, ServerTls, TlsError, Trust, VisitorTls, self_made,
};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

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
    directory: Option<&Path>,
    make: bool,
    warnings: &mut Vec<String>,
    besides: &mut Besides,
) -> Result<Option<ServerTls>, Problem> {
    if !entry.is_on() {
        warnings.extend(not_looked_at(entry));
        return Ok(None);
    }
    let authority = entry.authority.as_ref().map(|file| read(file, warnings, false)).transpose()?;
    let trust = entry.authority.as_ref().map(shown).unwrap_or_default();
    let (certificate, key, files, shown_files) = match &entry.identity {
        Some((certificate, key)) => (
            read(certificate, warnings, false)?,
            read(key, warnings, true)?,
            (certificate.value.clone(), key.value.clone()),
            (shown(certificate), shown(key)),
        ),
        None => match self_made(directory.ok_or_else(nowhere)?, make) {
            Ok(SelfMade { certificate, certificate_file, key, key_file }) => {
                warnings.extend(token::open_to_others(&key_file));
                besides.notices.push(format!(
                    "the server's own TLS key is `{}`; as long as it is there, tls_pin stays the same",
                    key_file.display()
                ));
                let shown = |file: &Path| format!("`tls`: `{}`", file.display());
                let shown = (shown(&certificate_file), shown(&key_file));
                (certificate, key, (certificate_file, key_file), shown)
            }
            Err((_, error)) if error.kind() == io::ErrorKind::NotFound && !make => return Ok(None),
            Err((file, error)) => {
                return Err(Problem::new(format!(
                    "`tls`: the server's own certificate cannot be kept in `{}`: {error}; make the directory writable, set \
                     the environment variable {STATE_DIRECTORY} to another, or set `tls_cert` and `tls_key`",
                    file.display()
                )));
            }
        },
    };
    let identity = Identity { certificate: &certificate, key: &key };
    let tls = ServerTls::new(identity, authority.as_deref(), &trust)
        .map_err(|error| wrong(&error, Some(&shown_files), entry.authority.as_ref(), None))?;
    if let Some(next) = &entry.next_key {
        let pin = Pin::of_key(&read(next, warnings, true)?).map_err(|error| {
            Problem::new(format!("{}: {error}; give a key in PEM and without a password", shown(next)))
        })?;
        besides.notices.push(format!(
            "the next key, `{}`, has the pin \"{pin}\"; clients with tls_pin = [\"{}\", \"{pin}\"] take both",
            next.value.display(),
            tls.own().pin()
        ));
    }
    besides.watch(tls.own().clone(), files, true, warnings);
    Ok(Some(tls))
}

/// TLS of visitors that ends at the server, if there are certificates for it.
///
/// # Errors
/// A file cannot be read, or is not what it should be.
pub fn visitors(
    entries: &[CertificateEntry],
    warnings: &mut Vec<String>,
    besides: &mut Besides,
) -> Result<Option<VisitorTls>, Problem> {
    let (mut named, mut default) = (Vec::new(), None);
    for CertificateEntry { certificate, key, default: is_default } in entries {
        let files = (shown(certificate), shown(key));
        let (pem, key_pem) = (read(certificate, warnings, false)?, read(key, warnings, true)?);
        let identity = Identity { certificate: &pem, key: &key_pem };
        let own = OwnCertificate::new(identity).map_err(|error| wrong(&error, Some(&files), None, None))?;
        if own.names().is_empty() && !is_default {
            let what = "it is for no host (it has no subjectAltName), so nobody would be shown it; get one for the names of \
                        your hosts, or write `default = true`";
            return Err(Problem::new(format!("{}: {what}", files.0)));
        }
        besides.watch(own.clone(), (certificate.value.clone(), key.value.clone()), false, warnings);
        default = default.or(is_default.then(|| own.clone()));
        named.push(own);
    }
    if named.is_empty() {
        return Ok(None);
    }
    let tls = VisitorTls::new(named, default).map_err(|error| Problem::new(format!("[[certificates]]: {error}")))?;
    Ok(Some(tls))
}

/// What is good to know of one's own certificate, and what is to be done about it while the program runs.
#[derive(Clone, Debug, Default)]
pub struct Besides {
    /// Sentences for the log.
    pub notices: Vec<String>,
    /// To be started.
    pub watches: Vec<Watch>,
}

impl Besides {
    fn watch(
        &mut self,
        own: OwnCertificate,
        (certificate, key): (PathBuf, PathBuf),
        pinned: bool,
        warnings: &mut Vec<String>,
    ) {
        let mut watch = Watch::new(own, certificate, key, pinned);
        warnings.extend(watch.announcement(SystemTime::now()));
        self.watches.push(watch);
    }
}

fn nowhere() -> Problem {
    Problem::new(format!(
        "`tls`: there is no place for the server's own certificate: neither {STATE_DIRECTORY} nor HOME is set, and there is \
         no configuration file; set {STATE_DIRECTORY} to a directory that stays"
    ))
}

/// The client's TLS, for the server at `host`.
///
/// # Errors
/// A file cannot be read, or is not what it should be.
pub fn client(
    entry: &TlsEntry,
    host: &str,
    warnings: &mut Vec<String>,
    besides: &mut Besides,
) -> Result<Option<ClientTls>, Problem> {
    if !entry.is_on() {
        warnings.extend(not_looked_at(entry));
        return Ok(None);
    }
    let authority = entry.authority.as_ref().map(|file| read(file, warnings, false)).transpose()?;
    let (trust, by) = match (&entry.pins, &authority) {
        (Some(pins), _) => {
            let listed: Vec<_> = pins.value.iter().map(ToString::to_string).collect();
            (Trust::Pins(&pins.value), format!("{} = \"{}\"", pins.by, listed.join("\", \"")))
        }
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
    let tls = ClientTls::new(trust, &by, name.map_or(host, |name| &name.value), identity)
        .map_err(|error| wrong(&error, files.as_ref(), entry.authority.as_ref(), name))?;
    if let (Some(own), Some((certificate, key))) = (tls.own(), &entry.identity) {
        besides.watch(own.clone(), (certificate.value.clone(), key.value.clone()), true, warnings);
    }
    Ok(Some(tls))
}

/// A warning, if more is said of TLS than that it is off.
fn not_looked_at(entry: &TlsEntry) -> Option<String> {
    let key = entry.who_says_more()?;
    Some(format!(
        "{key} is not looked at, because `tls` is false: everything travels in the clear; remove `tls = false` to encrypt"
    ))
}

/// Where a server without certificates of its own keeps the one that it makes: where systemd says, beside the
/// configuration file, or where programs keep such things for this user. Not where it happens to be started: started
/// elsewhere it would have another key, and all clients that pin the first would be lost. `variable` gives what is set
/// in the environment.
#[must_use]
pub fn directory(config: Option<&Path>, variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let absolute = |name: &str| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let beside = || {
        let parent = config?.parent()?;
        Some(if parent.as_os_str().is_empty() { Path::new(".") } else { parent }.to_owned())
    };
    // systemd gives several, with colons in between, to a unit that names several.
    let state = variable(STATE_DIRECTORY).and_then(|all| {
        let first = all.as_bytes().split(|&byte| byte == b':').next().filter(|first| !first.is_empty())?;
        Some(PathBuf::from(OsStr::from_bytes(first)))
    });
    state
        .or_else(beside)
        .or_else(|| Some(absolute("XDG_STATE_HOME")?.join("cproxy")))
        .or_else(|| Some(absolute("HOME")?.join(".local/state/cproxy")))
}

fn shown(file: &Named<PathBuf>) -> String {
    format!("{}: `{}`", file.by, file.value.display())
}

fn read(file: &Named<PathBuf>, warnings: &mut Vec<String>, secret: bool) -> Result<Vec<u8>, Problem> {
    let problem = |error: io::Error| {
        let (path, way_out) = (file.value.display(), way_to_read(&file.value, &error));
        Problem::new(format!("{}: cannot read `{path}`: {error}; {way_out}", file.by))
    };
    let bytes = read_bounded(&file.value).map_err(problem)?;
    if secret {
        warnings.extend(token::open_to_others(&file.value));
    }
    Ok(bytes)
}

/// Reads a file of TLS, whatever it is, but no more of it than one can have.
pub(crate) fn read_bounded(file: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(file)?.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(io::Error::other("it is larger than 4 MiB"));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_own_key_never_lies_where_the_server_happens_to_be_started() {
        let found = |config: Option<&str>, set: &[(&str, &str)]| {
            let variable = |name: &str| set.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into());
            directory(config.map(Path::new), variable).map(|path| path.display().to_string())
        };
        let (state, xdg, home) = ((STATE_DIRECTORY, "/var/lib/cproxy"), ("XDG_STATE_HOME", "/x"), ("HOME", "/home/me"));
        let all = [state, xdg, home];
        assert_eq!(found(Some("/etc/server.toml"), &all).as_deref(), Some("/var/lib/cproxy"));
        assert_eq!(found(Some("/etc/server.toml"), &all[1..]).as_deref(), Some("/etc"));
        assert_eq!(found(Some("server.toml"), &all[1..]).as_deref(), Some("."), "beside the file that was named");
        assert_eq!(found(None, &all[1..]).as_deref(), Some("/x/cproxy"));
        assert_eq!(found(None, &[home]).as_deref(), Some("/home/me/.local/state/cproxy"));
        assert_eq!(found(None, &[("XDG_STATE_HOME", "x"), home]).as_deref(), Some("/home/me/.local/state/cproxy"));
        assert_eq!(found(None, &[(STATE_DIRECTORY, "/a:/b")]).as_deref(), Some("/a"));
        assert_eq!(found(None, &[(STATE_DIRECTORY, "")]), None);
        assert_eq!(found(None, &[]), None);
    }
}
