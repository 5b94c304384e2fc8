//! One thing that is wrong with what the user gave.

use std::env;
use std::fmt;
use std::io;
use std::path::Path;

/// One thing that is wrong: a sentence that names it and the way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem(String);

impl Problem {
    /// A problem told by `sentence`.
    #[must_use]
    pub fn new(sentence: String) -> Self {
        Self(sentence)
    }
}

/// What to do about the file at `path`, which a user named and which cannot be read.
#[must_use]
pub fn way_to_read(path: &Path, error: &io::Error) -> String {
    let name = path.file_name().map(Path::new).map(Path::display);
    match (error.kind(), env::var_os("CREDENTIALS_DIRECTORY"), name) {
        // A service of systemd has a user of its own, and its secrets belong to root.
        (io::ErrorKind::PermissionDenied, Some(directory), Some(name)) => format!(
            "put `LoadCredential={name}:{}` into the service's unit, and write `{}/{name}` here, which its user may read",
            path.display(),
            Path::new(&directory).display(),
        ),
        (io::ErrorKind::PermissionDenied, _, _) => {
            "let the user that this program runs as read it, or correct the path".to_owned()
        }
        _ => "correct the path".to_owned(),
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
