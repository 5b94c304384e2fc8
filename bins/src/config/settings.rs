//! The table of all settings: what each is called, what may stand there, and what it does. The files are checked by it,
//! the environment is read by it, and the tables of docs/configuration.md, the words of `--help`, the files that `init`
//! writes and what `check-config` shows are made of it.

mod table;

pub use table::SETTINGS;

use std::fmt;

/// One setting. See [`SETTINGS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Its key in the file; of one that is a flag alone the flag's name, with `_`.
    pub key: &'static str,
    /// Whose it is.
    pub of: Of,
    /// Where it stands.
    pub home: Home,
    /// The table of the document that has it.
    pub topic: Topic,
    /// What may stand there.
    pub kind: Kind,
    /// What counts where nobody says anything.
    pub default: ByItself,
    /// It counts from the start on: a reload does not change it.
    pub at_start: bool,
    /// It may stand in the `[[clients]]`, too.
    pub scoped: bool,
    /// The flag that says it, as clap knows it.
    pub flag: Option<&'static str>,
    /// What somebody may write, in TOML; where there is nothing, the default.
    pub example: Option<&'static str>,
    /// One sentence, or its end, in Markdown.
    pub what: &'static str,
}

/// Which program has a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// `cproxy-server`.
    Server,
    /// `cproxy-client`.
    Client,
    /// Both.
    Both,
}

/// Where a setting stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Home {
    /// At the top level of a file.
    Top,
    /// In the `[[tunnels]]` of a client's file.
    Tunnels,
    /// In the `[[clients]]` of a server's file.
    Clients,
    /// In the `[[certificates]]` of a server's file.
    Certificates,
    /// On the command line only.
    Flag,
}

/// The tables of docs/configuration.md.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic {
    /// Where things are.
    Places,
    /// Tokens.
    Tokens,
    /// What a token's holder may use.
    Use,
    /// Who may visit.
    Visitors,
    /// TLS.
    Tls,
    /// Times.
    Times,
    /// The `[[tunnels]]`.
    Tunnels,
    /// Services behind TLS that ends at the server.
    Services,
    /// The `[[certificates]]`.
    Certificates,
    /// What only the command line and the environment have.
    Flags,
}

/// What counts where nobody says anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByItself {
    /// As if this were written there.
    Value(&'static str),
    /// In words.
    Words(&'static str),
    /// There must be something.
    Required,
}

/// What may stand there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A text.
    Text,
    /// A text that is a secret: it is never shown.
    Secret,
    /// The path of a file or a directory.
    Path,
    /// true or false.
    Switch,
    /// true or false, or a text.
    SwitchOrText,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A whole number, of what, from the first to the second.
    Number(&'static str, u64, u64),
    /// Seconds, fractions allowed; 0 only if so.
    Seconds(bool),
    /// A list of texts.
    List,
    /// Sections of the file: `[[…]]`.
    Sections,
}

impl Kind {
    /// A port; 0 is any.
    pub const PORT: Self = Self::Number("port", 0, 65_535);
    /// A port, and not 0.
    pub const REAL_PORT: Self = Self::Number("port", 1, 65_535);
    /// A count of at least one.
    pub const COUNT: Self = Self::Number("count", 1, u32::MAX as u64);
    /// A count.
    pub const COUNT_OR_NONE: Self = Self::Number("count", 0, u32::MAX as u64);
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text | Self::Secret => f.write_str("text"),
            Self::Path => f.write_str("path"),
            Self::Switch => f.write_str("true, false"),
            Self::SwitchOrText => f.write_str("true, false, path"),
            Self::Choice(words) => f.write_str(&words.join(", ")),
            Self::Number(what, least, most) if *most == u64::from(u32::MAX) || *most > 1 << 40 => {
                write!(f, "{what}, from {least}")
            }
            Self::Number(what, least, most) => write!(f, "{what}, {least}–{most}"),
            Self::Seconds(true) => f.write_str("seconds, from 0"),
            Self::Seconds(false) => f.write_str("seconds, from 0.001"),
            Self::List => f.write_str("list"),
            Self::Sections => f.write_str("sections"),
        }
    }
}

impl Setting {
    const fn new(
        of: Of,
        home: Home,
        topic: Topic,
        key: &'static str,
        kind: Kind,
        default: ByItself,
        what: &'static str,
    ) -> Self {
        Self { key, of, home, topic, kind, default, at_start: false, scoped: false, flag: None, example: None, what }
    }

    const fn at_start(self) -> Self {
        Self { at_start: true, ..self }
    }

    const fn scoped(self) -> Self {
        Self { scoped: true, ..self }
    }

    const fn eg(self, example: &'static str) -> Self {
        Self { example: Some(example), ..self }
    }

    const fn flag(self, flag: &'static str) -> Self {
        Self { flag: Some(flag), ..self }
    }

    /// The environment variable that says it, too; what stands in a section of the file has none.
    #[must_use]
    pub fn variable(&self) -> Option<String> {
        let has = matches!(self.home, Home::Top | Home::Flag) && self.kind != Kind::Sections;
        has.then(|| format!("{VARIABLES}{}", self.key.to_uppercase()))
    }

    /// Whether it is one of this program.
    #[must_use]
    pub fn is_of(&self, program: Of) -> bool {
        self.of == program || self.of == Of::Both || program == Of::Both
    }

    /// What it does, without links.
    #[must_use]
    pub fn plainly(&self) -> String {
        plain(self.what)
    }

    /// What counts where nobody says anything, without links.
    #[must_use]
    pub fn default_plainly(&self) -> String {
        match self.default {
            ByItself::Value(value) => value.to_owned(),
            ByItself::Words(words) => plain(words),
            ByItself::Required => "required".to_owned(),
        }
    }
}

/// Markdown without its links. Other brackets stand in backticks.
fn plain(markdown: &str) -> String {
    let mut text = String::new();
    let mut rest = markdown;
    while let Some((before, link)) = rest.split_once('[') {
        text.push_str(before);
        let words = link.split_once("](").filter(|(words, _)| !words.contains(']'));
        match words.and_then(|(words, target)| Some((words, target.split_once(')')?.1))) {
            Some((words, after)) => {
                text.push_str(words);
                rest = after;
            }
            None => {
                text.push('[');
                rest = link;
            }
        }
    }
    text + rest
}

/// The keys of which one at most may be said: `key`'s place is taken by any of the others.
pub(crate) fn excluded_by(key: &str) -> &'static [&'static str] {
    const GROUPS: [&[&str]; 4] = [
        &["token", "token_file", "token_files"],
        &["outbound_proxy", "outbound_proxy_file"],
        &["proxy_port", "proxy_addr"],
        &["tls_pin", "tls_ca"],
    ];
    GROUPS.into_iter().find(|group| group.contains(&key)).unwrap_or_default()
}

/// What the names of environment variables begin with.
pub const VARIABLES: &str = "CPROXY_";

/// The settings of `program` that may stand at `home`.
pub fn settings_of(program: Of, home: Home) -> impl Iterator<Item = &'static Setting> {
    SETTINGS.iter().filter(move |setting| {
        let there = setting.home == home || home == Home::Clients && setting.scoped;
        setting.is_of(program) && there
    })
}

/// Their keys.
pub(super) fn keys_of(program: Of, home: Home) -> Vec<&'static str> {
    settings_of(program, home).map(|setting| setting.key).collect()
}

/// The keys that a reload of `program` does not change.
pub(crate) fn keys_at_start(program: Of) -> impl Iterator<Item = &'static str> {
    settings_of(program, Home::Top).filter(|setting| setting.at_start).map(|setting| setting.key)
}

#[cfg(test)]
mod tests;
