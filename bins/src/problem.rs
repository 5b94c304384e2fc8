//! One thing that is wrong with what the user gave.

use std::fmt;

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

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
