//! `check-config`: what counts of each setting, and who says so.

use crate::config::settings::{Home, Kind, Of, VARIABLES, excluded_by, settings_of};
use crate::config::{self, said_in};
use crate::flags::Spoken;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::Path;

/// Who says something, the strongest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// A flag.
    Flag,
    /// An environment variable.
    Variable,
    /// The file.
    File,
}

/// Something that is said of a setting.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Said {
    /// How strong it is.
    pub rank: Rank,
    /// Who says it.
    pub by: String,
    /// What.
    pub value: String,
}

/// What is shown in the place of a secret.
const HIDDEN: &str = "(hidden)";

/// The settings of `program`, one a line: its key, what counts, and who says so. `spoken` is what flags say, `file`
/// the configuration file, which is in order.
#[must_use]
pub fn shown(program: Of, spoken: &Spoken, file: Option<&Path>) -> String {
    let in_file = file.and_then(|file| config::load(file, |text, _| Ok(said_in(text))).ok()).unwrap_or_default();
    let (top, sections): (Vec<_>, Vec<_>) = in_file.into_iter().partition(|said| said.section.is_none());
    let origin = |number: usize| format!("{}:{number}", file.unwrap_or(Path::new("")).display());
    let all = || settings_of(program, Home::Top).chain(settings_of(program, Home::Flag));
    let mut said: BTreeMap<&str, Vec<Said>> = BTreeMap::new();
    for setting in all() {
        let by_flag = spoken.iter().filter(|(id, _)| Some(*id) == setting.flag).map(|(_, said)| said.clone());
        let mut here: Vec<_> = by_flag.collect();
        if setting.home == Home::Top && setting.kind != Kind::Sections {
            let by = setting.variable().unwrap_or_default();
            let value = std::env::var_os(&by)
                .filter(|value| !value.is_empty())
                .map(|value| value.to_string_lossy().into_owned());
            here.extend(value.map(|value| Said { rank: Rank::Variable, by, value }));
            let written = top.iter().filter(|written| written.key == setting.key);
            here.extend(written.map(|it| Said { rank: Rank::File, by: origin(it.line), value: it.value.clone() }));
        }
        said.insert(setting.key, here);
    }
    let mut out = String::new();
    for setting in all().filter(|setting| setting.kind != Kind::Sections) {
        let here = &said[setting.key];
        let first = |key: &str| said.get(key)?.first().map(|said| said.rank);
        let others = excluded_by(setting.key).iter().filter(|other| **other != setting.key);
        let stronger = others.copied().find(|other| first(other).is_some_and(|rank| Some(rank) < first(setting.key)));
        let value = |said: &Said| if setting.kind == Kind::Secret { HIDDEN.to_owned() } else { said.value.clone() };
        let list = |all: &[Said]| {
            all.iter().map(|said| format!("{} ({})", said.by, value(said))).collect::<Vec<_>>().join(", ")
        };
        let (counts, by) = match (&here[..], stronger) {
            ([], _) => (setting.default_plainly().replace('`', ""), "default".to_owned()),
            (all, Some(other)) => ("-".to_owned(), format!("{} gives way to `{other}`", list(all))),
            ([only], None) => (value(only), only.by.clone()),
            ([first, weaker @ ..], None) => (value(first), format!("{}, which beats {}", first.by, list(weaker))),
        };
        let _ = writeln!(out, "{:28} {counts:28}  {by}", setting.key);
    }
    let replaced = said.get("local_server").is_some_and(|said| !said.is_empty());
    for said in sections {
        let section = said.section.unwrap_or_default();
        let value = if said.key == "token" { HIDDEN } else { &said.value };
        let gone = if replaced && section.starts_with("tunnels") { ", which gives way to `local_server`" } else { "" };
        let _ = writeln!(out, "{:28} {value:28}  {}{gone}", format!("{section}.{}", said.key), origin(said.line));
    }
    out
}

/// Environment variables that look like a setting's, and are none of either program: sentences.
#[must_use]
pub fn unknown_variables(names: impl Iterator<Item = OsString>) -> Vec<String> {
    let all = settings_of(Of::Both, Home::Top).chain(settings_of(Of::Both, Home::Flag));
    let known: Vec<_> = all.filter(|setting| setting.variable().is_some()).map(|setting| setting.key).collect();
    let names = names.filter_map(|name| name.into_string().ok());
    let unknown = names.filter_map(|name| {
        let key = name.strip_prefix(VARIABLES)?.to_lowercase();
        let is_none = !known.contains(&&*key) && !key.starts_with("test_");
        let near = config::nearest(&key, &known).to_uppercase();
        is_none.then(|| format!("the environment variable {name} is no setting; did you mean {VARIABLES}{near}?"))
    });
    unknown.collect()
}
