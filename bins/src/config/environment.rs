//! What the environment says of the settings: each of a file's top level has a variable, which beats the file.

use super::settings::{Home, Kind, Of, Setting, settings_of};
use std::collections::BTreeMap;
use std::ffi::OsString;
use toml::Spanned;
use toml::de::DeValue;

/// The variables that are set, by the keys that they are for. One that is empty counts as none, as it is with all.
#[derive(Clone, Debug, Default)]
pub struct Environment(BTreeMap<&'static str, (&'static Setting, String)>);

impl Environment {
    /// Those of `program`, which are fetched by `get`. Secrets are not among them: see [`crate::token`] and
    /// [`crate::outbound`].
    #[must_use]
    pub fn of(program: Of, get: impl Fn(&str) -> Option<OsString>) -> Self {
        let plain = settings_of(program, Home::Top).filter(|setting| setting.kind != Kind::Secret);
        let said = plain.filter_map(|setting| {
            let value = get(&setting.variable()?).filter(|value| !value.is_empty())?;
            Some((setting.key, (setting, value.to_string_lossy().into_owned())))
        });
        Self(said.collect())
    }

    /// The keys, with what a file would say.
    pub(super) fn values(&self) -> impl Iterator<Item = (&'static str, DeValue<'_>)> {
        self.0.iter().map(|(&key, (setting, text))| (key, value(setting.kind, text)))
    }
}

/// What stands in a variable, as it would stand in a file.
fn value(kind: Kind, text: &str) -> DeValue<'_> {
    let as_text = || DeValue::String(text.into());
    let as_written = || DeValue::parse(text).map(Spanned::into_inner).ok();
    match kind {
        Kind::Number(..) | Kind::Seconds(_) | Kind::Switch => as_written().unwrap_or_else(as_text),
        Kind::SwitchOrText => as_written().filter(|value| value.as_bool().is_some()).unwrap_or_else(as_text),
        Kind::List => as_written().filter(|value| value.as_array().is_some()).unwrap_or_else(|| {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            let items = items.map(|item| Spanned::new(0..0, DeValue::String(item.into())));
            DeValue::Array(items.collect())
        }),
        Kind::Text | Kind::Secret | Kind::Path | Kind::Choice(_) | Kind::Sections => as_text(),
    }
}
