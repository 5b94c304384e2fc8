//! What a file says, as it is written: for `check-config`.

use super::section::line_at;
use toml::de::{DeTable, DeValue};

/// A key of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// The section that it stands in, such as `tunnels[0]`.
    pub section: Option<String>,
    /// The key.
    pub key: String,
    /// Its line.
    pub line: usize,
    /// What is written there, on one line.
    pub value: String,
}

/// All keys of a file that is in order.
#[must_use]
pub fn said_in(text: &str) -> Vec<Said> {
    let Ok(top) = DeTable::parse(text) else { return Vec::new() };
    let mut all = Vec::new();
    in_table(text, top.get_ref(), None, &mut all);
    all.sort_by_key(|said| said.line);
    all
}

fn in_table(text: &str, table: &DeTable<'_>, section: Option<&str>, all: &mut Vec<Said>) {
    for (key, value) in table {
        let name = key.get_ref().to_string();
        let sections = value.get_ref().as_array().filter(|items| !items.is_empty() && section.is_none());
        for (nth, item) in sections.into_iter().flat_map(|items| items.iter()).enumerate() {
            if let DeValue::Table(table) = item.get_ref() {
                in_table(text, table, Some(&format!("{name}[{nth}]")), all);
            }
        }
        if sections.is_none_or(|items| !items.iter().all(|item| item.get_ref().is_table())) {
            let value: Vec<_> = text[value.span()].split_whitespace().collect();
            let (section, line) = (section.map(str::to_owned), line_at(text.as_bytes(), key.span().start));
            all.push(Said { section, key: name, line, value: value.join(" ") });
        }
    }
}
