//! Answers to an authority that asks over HTTP whose a name is (ACME, RFC 8555, section 8.3): files that a program such as
//! certbot writes. They are read on a thread of their own, which no visitor waits for but the one who asks.

use crate::mail::Address;
use crate::sys::Stream;
use protocol_sm::driver::Token;
use protocol_sm::driver::messages::ToListener;
use protocol_sm::routes::{CHALLENGES, is_challenge};
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

/// Visitors whose answers are looked for at once. Others are served as if there were none.
const MOST: usize = 64;
/// An answer is shorter: a token, a dot, and the hash of a key.
const LONGEST: u64 = 1024;

/// A way to ask the thread.
#[derive(Clone, Debug)]
pub(crate) struct Challenges(SyncSender<(Token, String)>);

impl Challenges {
    /// Answers from the folder that webroots have for them, for as long as the listener asks.
    pub(crate) fn serve(webroot: &Path, listener: Address<ToListener<Stream>>) -> io::Result<Self> {
        let folder = webroot.join(CHALLENGES.trim_start_matches('/'));
        let (asks, asked) = sync_channel::<(Token, String)>(MOST);
        thread::Builder::new().name("challenges".into()).spawn(move || {
            for (newcomer, name) in asked {
                let answer = read(&folder.join(name)).map_err(|error| {
                    tracing::debug!(event = "call_failed", "no answer to a challenge: {error}");
                });
                listener.post(ToListener::Challenge { newcomer, answer: answer.ok() });
            }
        })?;
        Ok(Self(asks))
    }

    /// Asks; whether there will be an answer.
    pub(crate) fn ask(&self, newcomer: Token, name: &str) -> bool {
        // Nothing but a file of that folder can be meant.
        is_challenge(name) && self.0.try_send((newcomer, name.to_owned())).is_ok()
    }
}

/// A small file, and nothing that leads elsewhere or keeps its reader waiting.
fn read(file: &PathBuf) -> io::Result<Vec<u8>> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(file)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    let mut answer = Vec::new();
    file.take(LONGEST + 1).read_to_end(&mut answer)?;
    if answer.len() as u64 > LONGEST { Err(io::Error::other("it is too long")) } else { Ok(answer) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn only_small_files_are_read() {
        let folder = std::env::temp_dir().join(format!("cproxy-challenges-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let write = |name: &str, bytes: usize| fs::write(folder.join(name), vec![b'x'; bytes]).unwrap();
        write("fits", 1024);
        write("large", 1025);
        symlink(folder.join("fits"), folder.join("link")).unwrap();
        nix::unistd::mkfifo(&folder.join("fifo"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        let answered = ["fits", "large", "link", "fifo", ".", "gone"].map(|name| read(&folder.join(name)).is_ok());
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!(answered, [true, false, false, false, false, false]);
    }
}
