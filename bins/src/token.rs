//! Tokens: where they come from, and what makes a poor one. No message here ever shows a secret.

use crate::problem::{Problem, way_to_read};
use protocol_sm::settings::Token;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// The environment variable that may carry the token.
pub const VARIABLE: &str = "CPROXY_TOKEN";

/// Tokens shorter than this many bytes are refused: they are found in minutes, or by hand.
const SHORTEST: usize = 4;
/// Tokens shorter than this many bytes are reported: they can be guessed.
const SHORT: usize = 8;
/// A token file larger than this is some other file.
const MAX_FILE: usize = 4096;

/// Where a token is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenSource {
    /// In a file of its own.
    File {
        /// The file.
        path: PathBuf,
        /// Which flag or key names the file, for messages.
        named_by: String,
    },
    /// In the configuration file itself, and read already.
    Inline(Token),
}

impl TokenSource {
    /// Fetches the token. What is poor about it, or about the file's permissions, is added to `warnings`.
    ///
    /// # Errors
    /// The file cannot be read, is empty, too short or too large.
    pub fn read(&self, warnings: &mut Vec<String>) -> Result<Token, Problem> {
        match self {
            Self::Inline(token) => Ok(token.clone()),
            Self::File { path, named_by } => {
                let shown = path.display();
                let bytes = read_file(path).map_err(|error| {
                    Problem::new(format!("{named_by}: cannot read `{shown}`: {error}; {}", way_to_read(path, &error)))
                })?;
                warnings.extend(open_to_others(path));
                from_bytes(&bytes, &format!("{named_by}: the file `{shown}`"), warnings)
            }
        }
    }
}

/// Makes a token of `bytes`, without what editors and shells leave around it: a byte order mark of UTF-8, and white
/// space and line ends at both ends (PROTOCOL.md, "Authentication"). `named` says for messages where the bytes came
/// from; if the token is poor, `warnings` gets a sentence.
///
/// # Errors
/// Nothing is left, or less than `SHORTEST` bytes; one of them is 0; or it is UTF-16, of which each system would make
/// other bytes.
// PROTOCOL.md: P-AUTH-2.
pub fn from_bytes(bytes: &[u8], named: &str, warnings: &mut Vec<String>) -> Result<Token, Problem> {
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return Err(Problem::new(format!("{named} is UTF-16 text, not UTF-8; save it as UTF-8 or ASCII")));
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes).trim_ascii();
    if bytes.contains(&0) {
        return Err(Problem::new(format!(
            "{named} holds a byte 0, which no token may have (is it a text in UTF-16?); put a long random text there, such \
             as the output of `openssl rand -hex 32`"
        )));
    }
    match bytes.len() {
        0 => Err(Problem::new(format!(
            "{named} holds an empty token; put a long random text there, such as the output of `openssl rand -hex 32`"
        ))),
        length @ 1..SHORTEST => Err(Problem::new(format!(
            "{named} holds a token of {length} byte{}, which is found in no time; use {SHORTEST} at the very least, better a \
             long random text such as the output of `openssl rand -hex 32`",
            if length == 1 { "" } else { "s" }
        ))),
        length => {
            if length < SHORT {
                warnings.push(format!(
                    "{named} holds a token of {length} bytes, which can be guessed; use {SHORT} or more, such as the \
                     output of `openssl rand -hex 32`"
                ));
            }
            Ok(Token::new(bytes.to_vec()))
        }
    }
}

/// Makes a token of what the environment variable [`VARIABLE`] holds.
///
/// # Errors
/// It is empty or too short.
pub fn from_variable(value: OsString, warnings: &mut Vec<String>) -> Result<Token, Problem> {
    from_bytes(&Zeroizing::new(value.into_vec()), &format!("the environment variable {VARIABLE}"), warnings)
}

/// A warning, if users other than the owner may read or change the file at `path`.
#[must_use]
pub fn open_to_others(path: &Path) -> Option<String> {
    let metadata = std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file)?;
    let mode = metadata.permissions().mode() & 0o777;
    let shown = path.display();
    (mode & 0o077 != 0).then(|| {
        format!(
            "`{shown}` holds a secret and is open to other users (mode {mode:04o}); close it with: chmod 600 {shown}"
        )
    })
}

/// Reads a small file, whatever it is (a pipe will do), but no more of it than a token can be.
pub(crate) fn read_file(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    // As large as it may become: one that grows leaves copies behind.
    let mut bytes = Zeroizing::new(vec![0; MAX_FILE + 1]);
    let mut file = File::open(path)?;
    let mut length = 0;
    while length < bytes.len() {
        match file.read(&mut bytes[length..]) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    if length > MAX_FILE {
        return Err(io::Error::other(format!("it is larger than {MAX_FILE} bytes, so it is something else")));
    }
    bytes.truncate(length);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn file(content: &[u8], mode: u32) -> (tempfile::TempDir, TokenSource) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        (dir, TokenSource::File { path, named_by: "--token-file".into() })
    }

    #[test]
    fn what_editors_leave_around_a_token_is_not_part_of_it() {
        for content in [
            &b"long enough"[..],
            b"long enough\n",
            b"long enough\r\n",
            b"long enough\n\n",
            b"long enough \t\x0c\r\n\r\n",
            b" \n\tlong enough",
            b"\xef\xbb\xbflong enough\r\n",
            b"\xef\xbb\xbf \nlong enough ",
        ] {
            let (_dir, source) = file(content, 0o600);
            let mut warnings = Vec::new();
            assert_eq!(source.read(&mut warnings).unwrap(), Token::new(b"long enough".to_vec()), "{content:?}");
            assert_eq!(warnings, Vec::<String>::new());
        }
        // A mark elsewhere and white space of other kinds are the user's own.
        for content in [&b"\xa0long enough\xc2\xa0"[..], b"long enough\xef\xbb\xbf", b"\xef\xbblong enough"] {
            let (_dir, source) = file(content, 0o600);
            assert_eq!(source.read(&mut Vec::new()).unwrap(), Token::new(content.to_vec()), "{content:?}");
        }
    }

    #[test]
    fn utf_16_is_named_and_its_order_does_not_matter() {
        for order in [u16::to_le_bytes, u16::to_be_bytes] {
            let content: Vec<u8> = "\u{feff}long enough\r\n".encode_utf16().flat_map(order).collect();
            let (_dir, source) = file(&content, 0o600);
            let problem = source.read(&mut Vec::new()).unwrap_err().to_string();
            assert!(problem.starts_with("--token-file: the file `"), "{problem}");
            assert!(problem.ends_with("is UTF-16 text, not UTF-8; save it as UTF-8 or ASCII"), "{problem}");
        }
    }

    #[test]
    fn an_empty_token_is_refused() {
        for content in [&b""[..], b"\n", b"\r\n", b" \n\t\n", b"\xef\xbb\xbf\n"] {
            let (_dir, source) = file(content, 0o600);
            let problem = source.read(&mut Vec::new()).unwrap_err().to_string();
            assert!(problem.starts_with("--token-file: the file `"), "{problem}");
            assert!(problem.contains("holds an empty token"), "{problem}");
        }
    }

    #[test]
    fn a_token_of_next_to_nothing_is_refused() {
        for (content, length) in [(&b"x"[..], "1 byte,"), (b"x\n", "1 byte,"), (b"xyz\r\n", "3 bytes,")] {
            let (_dir, source) = file(content, 0o600);
            let problem = source.read(&mut Vec::new()).unwrap_err().to_string();
            assert!(problem.starts_with("--token-file: the file `"), "{problem}");
            assert!(problem.contains(&format!("holds a token of {length} which is found")), "{problem}");
        }
        let (_dir, source) = file(b"wxyz", 0o600);
        assert_eq!(source.read(&mut Vec::new()).unwrap(), Token::new(b"wxyz".to_vec()));
    }

    #[test]
    fn a_token_with_a_zero_is_refused() {
        // As keys of an HMAC "long enough" and "long enough\0" are one.
        for content in [&b"long enough\0"[..], b"\0\0\0\0\0\0\0\0", b"l\0o\0n\0g\0 \0e\0n\0o\0u\0g\0h\0\n"] {
            let (_dir, source) = file(content, 0o600);
            let problem = source.read(&mut Vec::new()).unwrap_err().to_string();
            assert!(problem.contains("holds a byte 0, which no token may have"), "{problem}");
        }
    }

    #[test]
    fn a_short_token_and_an_open_file_are_reported_without_the_secret() {
        let (_dir, source) = file(b"s3cr3t!\n", 0o640);
        let mut warnings = Vec::new();
        source.read(&mut warnings).unwrap();
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        assert!(warnings[0].contains("(mode 0640)") && warnings[0].contains("chmod 600 "), "{warnings:?}");
        assert!(warnings[1].contains("a token of 7 bytes"), "{warnings:?}");
        assert!(!format!("{warnings:?} {source:?}").contains("s3cr3t"));
    }

    #[test]
    fn a_file_that_cannot_be_a_token_is_not_swallowed() {
        let source = TokenSource::File { path: "/dev/zero".into(), named_by: "--token-file".into() };
        let problem = source.read(&mut Vec::new()).unwrap_err().to_string();
        assert!(problem.contains("it is larger than 4096 bytes"), "{problem}");
        let source = TokenSource::File { path: "/no/such/file".into(), named_by: "--token-file".into() };
        let problem = source.read(&mut Vec::new()).unwrap_err().to_string();
        assert!(problem.starts_with("--token-file: cannot read `/no/such/file`: No such file"), "{problem}");
    }
}
