//! The first minute of a server: where nobody gives it a token it makes one, and says what to type beside the service.

use crate::address::CTL_PORT;
use crate::flags::CommonFlags;
use crate::{tls, token};
use runtime_epoll::ScopedIp;
use runtime_epoll::tls::Pin;
use std::ffi::OsString;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// The file of the token that a server made.
const FILE: &str = "cproxy-token";

/// The file of the token that a server with `flags` has for itself; `None` where somebody gave it one, or could have in a
/// file. `variable` gives what is set in the environment.
///
/// # Errors
/// It cannot be made and kept: a sentence for the log.
pub fn own_token(flags: &CommonFlags, variable: impl Fn(&str) -> Option<OsString>) -> Result<Option<PathBuf>, String> {
    let Some(directory) = directory(flags, variable) else { return Ok(None) };
    let made = made_once(&directory);
    made.map(Some).map_err(|error| format!("no token can be made and kept in `{}`: {error}", directory.display()))
}

/// Where such a server has that file, or will have it once it was started.
pub fn own_file(flags: &CommonFlags, variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    directory(flags, variable).map(|directory| directory.join(FILE))
}

fn directory(flags: &CommonFlags, variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let said = |name: &str| variable(name).is_some_and(|value| !value.is_empty());
    let given = [token::VARIABLE, "CPROXY_TOKEN_FILE", "CPROXY_TOKEN_FILES"].into_iter().any(said)
        || flags.token_file.is_some();
    tls::directory(None, variable).filter(|_| !given && flags.config.is_none())
}

/// The token's file in `directory`: made once, for its user alone.
fn made_once(directory: &Path) -> io::Result<PathBuf> {
    let file = directory.join(FILE);
    if !fs::exists(&file)? {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let unfinished = directory.join(format!("{FILE}.{}", &*random_text::<4>()?));
        let put = put(&unfinished).and_then(|()| match fs::hard_link(&unfinished, &file) {
            // Another server that started at the same moment was first: its token is this one's, too.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            linked => linked,
        });
        let _tidied = fs::remove_file(&unfinished);
        put?;
    }
    Ok(file)
}

/// Writes a new token to `file`, which must not be there.
fn put(file: &Path) -> io::Result<()> {
    let token = random_text::<16>()?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
    writeln!(file, "{}", *token)?;
    file.sync_all()
}

/// `BYTES` random bytes, as text.
fn random_text<const BYTES: usize>() -> io::Result<Zeroizing<String>> {
    let mut random = Zeroizing::new([0; BYTES]);
    runtime_epoll::random_bytes(&mut random[..])?;
    Ok(Zeroizing::new(random.iter().map(|byte| format!("{byte:02x}")).collect()))
}

/// What a user types beside the service, so that a client comes to the server at `ctl`: lines for standard output. The
/// token itself stands there only if `shown`: what is no terminal may be kept, and read by others.
#[must_use]
pub fn command(file: &Path, shown: bool, bind: Option<&ScopedIp>, ctl: SocketAddr, pin: Option<Pin>) -> String {
    let kept = file.display();
    let token = if shown { fs::read_to_string(file).ok() } else { None }.map(Zeroizing::new);
    let token = token.as_deref().map_or("…", |token| token.trim());
    let host = match bind.map_or_else(|| address_towards_others(ctl.ip()), |bind| Some(bind.ip())) {
        Some(IpAddr::V6(ip)) => format!("[{ip}]"),
        Some(IpAddr::V4(ip)) => ip.to_string(),
        None => "HOST".to_owned(),
    };
    let port = if ctl.port() == CTL_PORT { String::new() } else { format!(":{}", ctl.port()) };
    let pin = pin.map(|pin| format!(" --tls-pin {pin}")).unwrap_or_default();
    format!(
        "To make port 8000 of another machine reachable through this one, type there (the token is kept in {kept}):\n  \
         CPROXY_TOKEN={token} cproxy-client 8000 --cproxy-server {host}{port}{pin}\n"
    )
}

/// The address from which this machine reaches others, if it has one: nothing is sent for it.
fn address_towards_others(listens: IpAddr) -> Option<IpAddr> {
    if !listens.is_unspecified() {
        return Some(listens);
    }
    // Addresses that are for documents: every route there is the one to the rest of the world.
    [("0.0.0.0:0", "192.0.2.1:9"), ("[::]:0", "[2001:db8::1]:9")].into_iter().find_map(|(from, to)| {
        let socket = UdpSocket::bind(from).ok()?;
        socket.connect(to).ok()?;
        socket.local_addr().ok().map(|address| address.ip()).filter(|ip| !ip.is_unspecified())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_token_is_made_once_and_for_its_user_alone() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("state/cproxy");
        let made: Vec<_> = std::thread::scope(|scope| {
            let at_once: Vec<_> = (0..8).map(|_| scope.spawn(|| made_once(&state).unwrap())).collect();
            at_once.into_iter().map(|one| fs::read(one.join().unwrap()).unwrap()).collect()
        });
        assert!(made.iter().all(|token| *token == made[0] && token.len() == 33), "{made:?}");
        let file = made_once(&state).unwrap();
        assert_eq!(fs::read(&file).unwrap(), made[0], "not made again");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&file), mode(&state)), (0o600, 0o700));
        assert_eq!(fs::read_dir(&state).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn a_place_that_is_none_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(made_once(&file).is_err());
    }

    #[test]
    fn who_was_given_a_token_makes_none() {
        let directory = tempfile::tempdir().unwrap();
        let made = |flags: &CommonFlags, token: &str| {
            let variable = |name: &str| match name {
                token::VARIABLE => Some(token.into()),
                tls::STATE_DIRECTORY => Some(directory.path().into()),
                _ => None,
            };
            own_token(flags, variable).unwrap()
        };
        let plain = CommonFlags::default();
        let with_file = CommonFlags { token_file: Some("token".into()), ..plain.clone() };
        let configured = CommonFlags { config: Some("server.toml".into()), ..plain.clone() };
        for (flags, token) in [(&plain, "given"), (&with_file, ""), (&configured, "")] {
            assert_eq!(made(flags, token), None);
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
        assert_eq!(made(&plain, ""), Some(directory.path().join(FILE)));
        assert_eq!(own_token(&plain, |_| None), Ok(None), "there is no place for it");
    }

    #[test]
    fn the_command_says_only_what_must_be_said() {
        let directory = tempfile::tempdir().unwrap();
        let file = made_once(directory.path()).unwrap();
        let token = fs::read_to_string(&file).unwrap();
        let said = |shown, bind: Option<&str>, ctl: &str| {
            let bind = bind.map(|bind| bind.parse().unwrap());
            command(&file, shown, bind.as_ref(), ctl.parse().unwrap(), None)
        };
        let whole = format!("CPROXY_TOKEN={} cproxy-client 8000 --cproxy-server 127.0.0.1\n", token.trim());
        assert!(said(true, None, "127.0.0.1:8080").ends_with(&whole));
        let hidden = said(false, Some("2001:db8::7"), "[::]:7000");
        assert!(hidden.ends_with("CPROXY_TOKEN=… cproxy-client 8000 --cproxy-server [2001:db8::7]:7000\n"), "{hidden}");
        assert!(!hidden.contains(token.trim()) && hidden.contains(file.to_str().unwrap()));
    }
}
