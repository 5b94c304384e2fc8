//! One table of a configuration file: hands out values by key and collects every problem on the way,
//! so that a user sees all of them at once.

use super::ConfigError;
use super::environment::Environment;
use super::settings::{VARIABLES, excluded_by};
use crate::problem::Problem;
use clap::ValueEnum;
use std::cell::RefCell;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The longest time that can be meant: a year.
const MAX_SECONDS: f64 = 31_536_000.0;
/// The shortest time that a deadline or interval can be.
const MIN_SECONDS: f64 = 0.001;

/// The file being read, shared by its sections.
struct Document<'t> {
    text: &'t str,
    origin: &'t Path,
    /// Problems found so far, each with its place.
    problems: RefCell<Vec<(Spot, Problem)>>,
}

/// Where something is said.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Spot {
    /// On this line of the file.
    Line(usize),
    /// In the environment variable of this key.
    Variable(&'static str),
}

/// One table of the file.
pub(super) struct Section<'t> {
    document: Rc<Document<'t>>,
    table: DeTable<'t>,
    /// Empty for the top level, else ` in [[…]]`, for messages.
    place: String,
    /// Where the table starts.
    line: Spot,
    /// The keys that may stand here.
    keys: Vec<&'static str>,
    /// Those that the environment says.
    variables: Vec<&'static str>,
}

/// What may stand for a thing that is switched on, or described.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum SwitchOrText<'a> {
    Switch(bool),
    Text(&'a str),
}

/// How two times must relate.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// The first must be shorter.
    Below,
    /// The first must not be longer.
    AtMost,
}

/// The line, from 1, on which byte `offset` of `text` stands.
pub(super) fn line_at(text: &[u8], offset: usize) -> usize {
    1 + text.iter().take(offset).filter(|&&byte| byte == b'\n').count()
}

impl<'t> Section<'t> {
    /// Parses `text` and gives its top level, where `keys` may stand, with what `environment` says put over it.
    ///
    /// # Errors
    /// The text is not TOML.
    pub(super) fn top(
        text: &'t str,
        origin: &'t Path,
        environment: &'t Environment,
        keys: Vec<&'static str>,
    ) -> Result<Self, ConfigError> {
        let table = DeTable::parse(text).map_err(|error| {
            let line = line_at(text.as_bytes(), error.span().map_or(0, |span| span.start));
            let what = error.message().replace('\n', ", ");
            Problem::new(format!("{}:{line}: not valid TOML: {what}", origin.display()))
        })?;
        let document = Document { text, origin, problems: RefCell::default() };
        let mut table = table.into_inner();
        let variables: Vec<_> = environment.values().map(|(key, _)| key).collect();
        for key in variables.iter().flat_map(|key| excluded_by(key)) {
            table.remove(*key);
        }
        for (key, value) in environment.values() {
            table.insert(Spanned::new(0..0, key.into()), Spanned::new(0..0, value));
        }
        let (document, place) = (Rc::new(document), String::new());
        Ok(Self { document, table, place, line: Spot::Line(1), keys, variables })
    }

    /// Reports the keys that may not stand here. `elsewhere` says, for a key that belongs to another
    /// place, which one.
    pub(super) fn reject_unknown(&self, elsewhere: impl Fn(&str) -> Option<&'static str>) {
        for key in self.table.keys() {
            let name = key.get_ref().as_ref();
            if self.keys.contains(&name) {
                continue;
            }
            let line = self.line_of(name);
            let shown = name.escape_debug();
            let place = &self.place;
            let way_out = match elsewhere(name) {
                Some(there) => format!("it belongs {there}"),
                None => format!("did you mean `{}`?", nearest(name, &self.keys)),
            };
            self.push_at(line, format!("unknown key `{shown}`{place}: {way_out}"));
        }
    }

    /// All problems of the file, if there are any; `value` otherwise. To be called on the last section alive.
    pub(super) fn finish<T>(self, value: T) -> Result<T, ConfigError> {
        let mut problems = self.document.problems.take();
        problems.sort_by_key(|(line, _)| *line);
        ConfigError::unless_none(problems.into_iter().map(|(_, problem)| problem).collect(), value)
    }

    pub(super) fn origin(&self) -> &'t Path {
        self.document.origin
    }

    /// Where relative paths start that `key` says: at the file's directory, or the program's if it is no file that says it.
    pub(super) fn directory(&self, key: &str) -> &'t Path {
        match self.line_of(key) {
            Spot::Line(_) => self.origin().parent().unwrap_or(Path::new("")),
            Spot::Variable(_) => Path::new(""),
        }
    }

    /// `FILE:LINE: KEY`, to begin a message about a key that is there.
    pub(super) fn locate(&self, key: &str) -> String {
        format!("{}: `{key}`{}", self.shown(self.line_of(key)), self.place)
    }

    /// Reports that `key` `what`.
    pub(super) fn problem(&self, key: &str, what: String) {
        self.push_at(self.line_of(key), format!("`{key}`{} {what}", self.place));
    }

    /// Adds a ready-made problem, sorted to where `key` is.
    pub(super) fn push(&self, key: &str, problem: Problem) {
        self.document.problems.borrow_mut().push((self.line_of(key), problem));
    }

    /// How many problems were found so far.
    pub(super) fn problems(&self) -> usize {
        self.document.problems.borrow().len()
    }

    /// Whether `key` is there, and may be.
    pub(super) fn has(&self, key: &str) -> bool {
        self.keys.contains(&key) && self.value(key).is_some()
    }

    /// Whether `key` is a string.
    pub(super) fn is_text(&self, key: &str) -> bool {
        matches!(self.value(key), Some(DeValue::String(_)))
    }

    /// A string.
    pub(super) fn text(&self, key: &str) -> Option<&str> {
        let value = self.value(key)?;
        let DeValue::String(text) = value else {
            return self.wrong_type(key, value, "a text in quotes");
        };
        Some(text)
    }

    /// A string or a list of strings, each with its line.
    pub(super) fn texts(&self, key: &str, expected: &str) -> Option<Vec<(Spot, &str)>> {
        let value = self.value(key)?;
        if let DeValue::String(text) = value {
            return Some(vec![(self.line_of(key), text)]);
        }
        let mut texts = Vec::new();
        for (line, item) in self.list(key, expected)? {
            match item.as_str() {
                Some(text) => texts.push((line, text)),
                None => self.item_problem(key, line, &format!("expected {expected}")),
            }
        }
        Some(texts)
    }

    /// A string that `parse` understands.
    pub(super) fn parsed_by<T, E: Display>(&self, key: &str, parse: impl Fn(&str) -> Result<T, E>) -> Option<T> {
        let text = self.text(key)?;
        match parse(text) {
            Ok(value) => Some(value),
            Err(error) => {
                self.problem(key, format!("= \"{}\": {error}", text.escape_debug()));
                None
            }
        }
    }

    /// Like [`Section::parsed_by`], for what may be a whole number without quotes, too.
    pub(super) fn parsed_or_number<T, E: Display>(&self, key: &str, parse: impl Fn(&str) -> Result<T, E>) -> Option<T> {
        let DeValue::Integer(number) = self.value(key)? else { return self.parsed_by(key, parse) };
        match parse(number.as_str()) {
            Ok(value) => Some(value),
            Err(error) => {
                self.problem(key, format!("= {}: {error}", number.as_str().escape_debug()));
                None
            }
        }
    }

    /// One of the words that `T` knows; replaces `value` if the key is there.
    pub(super) fn choice<T: ValueEnum>(&self, key: &str, value: &mut T) {
        let Some(word) = self.text(key) else { return };
        if let Ok(choice) = T::from_str(word, false) {
            *value = choice;
            return;
        }
        let words: Vec<String> =
            T::value_variants().iter().filter_map(T::to_possible_value).map(|v| v.get_name().to_owned()).collect();
        self.problem(key, format!("= \"{}\": write one of {}", word.escape_debug(), words.join(", ")));
    }

    /// A whole number within `range`.
    pub(super) fn integer(&self, key: &str, range: RangeInclusive<u64>) -> Option<u64> {
        let expected = format!("a whole number from {} to {}", range.start(), range.end());
        let value = self.value(key)?;
        let DeValue::Integer(number) = value else {
            return self.wrong_type(key, value, &expected);
        };
        let fitting = u64::from_str_radix(number.as_str(), number.radix()).ok().filter(|n| range.contains(n));
        if fitting.is_none() {
            self.problem(key, format!("is {}; write {expected}", number.to_string().escape_debug()));
        }
        fitting
    }

    /// A yes or no.
    pub(super) fn boolean(&self, key: &str) -> Option<bool> {
        let value = self.value(key)?;
        let DeValue::Boolean(answer) = value else {
            return self.wrong_type(key, value, "true or false, without quotes");
        };
        Some(*answer)
    }

    /// A yes or no, or a string.
    pub(super) fn switch_or_text(&self, key: &str) -> Option<SwitchOrText<'_>> {
        let value = self.value(key)?;
        match value {
            DeValue::Boolean(answer) => Some(SwitchOrText::Switch(*answer)),
            DeValue::String(text) => Some(SwitchOrText::Text(text)),
            DeValue::Integer(_) | DeValue::Float(_) | DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => {
                self.wrong_type(key, value, "true or false without quotes, or a text in quotes")
            }
        }
    }

    /// A port, 0 included.
    pub(super) fn port(&self, key: &str) -> Option<u16> {
        self.integer(key, 0..=u64::from(u16::MAX)).and_then(|port| u16::try_from(port).ok())
    }

    /// A count from `least`.
    pub(super) fn count(&self, key: &str, least: u32) -> Option<u32> {
        self.integer(key, u64::from(least)..=u64::from(u32::MAX)).and_then(|count| u32::try_from(count).ok())
    }

    /// A time in seconds, fractions allowed; replaces `value` if the key is there.
    pub(super) fn seconds(&self, key: &str, value: &mut Duration) {
        *value = self.time(key, MIN_SECONDS..=MAX_SECONDS).unwrap_or(*value);
    }

    /// Like [`Section::seconds`], and 0 is allowed.
    pub(super) fn seconds_or_zero(&self, key: &str, value: &mut Duration) {
        *value = self.time(key, 0.0..=MAX_SECONDS).unwrap_or(*value);
    }

    fn time(&self, key: &str, range: RangeInclusive<f64>) -> Option<Duration> {
        let expected = format!("seconds from {} to {}, such as 2.5", range.start(), range.end());
        let value = self.value(key)?;
        let number = if let DeValue::Integer(number) = value {
            i64::from_str_radix(number.as_str(), number.radix()).ok().map(|n| n as f64)
        } else if let DeValue::Float(number) = value {
            number.as_str().parse::<f64>().ok()
        } else {
            return self.wrong_type(key, value, &expected);
        };
        let fitting = number.filter(|seconds| range.contains(seconds));
        if fitting.is_none() {
            self.problem(key, format!("is out of range; write {expected}"));
        }
        fitting.map(Duration::from_secs_f64)
    }

    /// Reports two times that are the wrong way round, if the file says one of them.
    pub(super) fn ordered(&self, short: &str, short_value: Duration, long: &str, long_value: Duration, order: Order) {
        let (holds, must) = match order {
            Order::Below => (short_value < long_value, "must be longer than"),
            Order::AtMost => (short_value <= long_value, "must not be shorter than"),
        };
        if holds {
            return;
        }
        let Some(key) = [long, short].into_iter().find(|key| self.table.contains_key(*key)) else {
            return;
        };
        let default = |key: &str| {
            if self.table.contains_key(key) { "" } else { ", the default" }
        };
        let what = format!(
            "`{long}` ({} s{}) {must} `{short}` ({} s{}); raise the one or lower the other",
            long_value.as_secs_f64(),
            default(long),
            short_value.as_secs_f64(),
            default(short),
        );
        self.push_at(self.line_of(key), what);
    }

    /// The items of a list, each with its line.
    pub(super) fn list(&self, key: &str, expected: &str) -> Option<Vec<(Spot, &DeValue<'t>)>> {
        let value = self.value(key)?;
        let DeValue::Array(items) = value else {
            return self.wrong_type(key, value, expected);
        };
        let spot = |item: &Spanned<DeValue<'_>>| match self.line_of(key) {
            Spot::Line(_) => self.line_of_offset(item.span().start),
            variable @ Spot::Variable(_) => variable,
        };
        Some(items.iter().map(|item| (spot(item), item.get_ref())).collect())
    }

    /// Reports a problem with an item of the list `key`.
    pub(super) fn item_problem(&self, key: &str, line: Spot, what: &str) {
        self.push_at(line, format!("`{key}`{}: {what}", self.place));
    }

    /// The tables `[[key]]`, in which `keys` may stand.
    pub(super) fn tables(&self, key: &str, keys: &[&'static str]) -> Vec<Self> {
        let expected = format!("[[{key}]] above each entry");
        let mut sections = Vec::new();
        for (line, item) in self.list(key, &expected).unwrap_or_default() {
            let DeValue::Table(table) = item else {
                self.item_problem(key, line, &format!("an entry is {}; write {expected}", type_of(item)));
                continue;
            };
            sections.push(Self {
                document: Rc::clone(&self.document),
                table: table.clone(),
                place: format!(" in [[{key}]]"),
                line,
                keys: keys.to_vec(),
                variables: Vec::new(),
            });
        }
        sections
    }

    fn value(&self, key: &str) -> Option<&DeValue<'t>> {
        assert!(self.keys.contains(&key), "`{key}` is read but not listed");
        self.table.get(key).map(Spanned::get_ref)
    }

    /// Reports a value of another type than `expected`, which is as good as none.
    fn wrong_type<T>(&self, key: &str, value: &DeValue<'_>, expected: &str) -> Option<T> {
        self.problem(key, format!("is {}; write {expected}", type_of(value)));
        None
    }

    /// Where `key` is said, or the section if the key is not there.
    fn line_of(&self, key: &str) -> Spot {
        if let Some(&key) = self.variables.iter().find(|variable| **variable == key) {
            return Spot::Variable(key);
        }
        self.table.get_key_value(key).map_or(self.line, |(key, _)| self.line_of_offset(key.span().start))
    }

    fn line_of_offset(&self, offset: usize) -> Spot {
        Spot::Line(line_at(self.document.text.as_bytes(), offset))
    }

    fn shown(&self, spot: Spot) -> String {
        match spot {
            Spot::Line(line) => format!("{}:{line}", self.origin().display()),
            Spot::Variable(key) => format!("the environment variable {VARIABLES}{}", key.to_uppercase()),
        }
    }

    fn push_at(&self, spot: Spot, what: String) {
        let problem = Problem::new(format!("{}: {what}", self.shown(spot)));
        self.document.problems.borrow_mut().push((spot, problem));
    }
}

fn type_of(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text in quotes",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a decimal number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// Which of `keys` is most like `name`, in the whole or in one of its words.
pub(crate) fn nearest<'k>(name: &str, keys: &[&'k str]) -> &'k str {
    let name = name.to_lowercase().replace('-', "_");
    let likeness = |key: &str| {
        let words = key.split('_').map(|word| 0.95 * strsim::jaro_winkler(&name, word));
        words.fold(strsim::jaro_winkler(&name, key), f64::max)
    };
    keys.iter().copied().max_by(|a, b| likeness(a).total_cmp(&likeness(b))).unwrap_or_default()
}
