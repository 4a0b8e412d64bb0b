//! Reads one table of a configuration file: typed values with their lines, unknown keys with a suggestion.
//!
//! Rule: a reader never stops at a mistake; it reports it and gives `None`.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::Problems;
use super::values::BadValue;

/// A value and its line.
#[derive(Clone, Debug)]
pub struct Field<T> {
    /// The value.
    pub value: T,
    /// Its line, from 1.
    pub line: usize,
}

/// A table under its name in the file.
#[derive(Clone, Copy, Debug)]
pub struct Section<'t> {
    /// As it is written: `[[node]]`, `nbd = {…}`; the outermost is `the file`.
    pub name: &'static str,
    /// Where it begins.
    pub line: usize,
    table: &'t DeTable<'t>,
    problems: &'t Problems,
}

impl<'t> Section<'t> {
    /// A table, its keys checked against `keys`.
    pub fn new(
        name: &'static str,
        line: usize,
        table: &'t DeTable<'t>,
        problems: &'t Problems,
        keys: &[&str],
    ) -> Self {
        for key in table.keys() {
            let (line, key) = (problems.line_of(key.span().start), key.get_ref().as_ref());
            if !keys.contains(&key) {
                problems.add(line, format_args!("`{key}` is not known in {name}"), suggestion(key, keys));
            }
        }
        Self { name, line, table, problems }
    }

    /// Where mistakes go.
    pub fn problems(&self) -> &'t Problems {
        self.problems
    }

    fn field(&self, key: &str) -> Option<Field<&'t DeValue<'t>>> {
        let spanned: &'t Spanned<DeValue<'t>> = self.table.get(key)?;
        Some(Field { value: spanned.get_ref(), line: self.problems.line_of(spanned.span().start) })
    }

    /// Whether the key is there, whatever its value.
    pub fn has(&self, key: &str) -> bool {
        self.table.get(key).is_some()
    }

    /// The line of the key's value; of the section if the key is not there.
    pub fn line_of(&self, key: &str) -> usize {
        self.field(key).map_or(self.line, |field| field.line)
    }

    /// A string.
    pub fn text(&self, key: &str) -> Option<Field<&'t str>> {
        let field = self.field(key)?;
        match field.value.as_str() {
            Some(value) => Some(Field { value, line: field.line }),
            None => {
                self.wrong_type(key, &field, "a string in quotes");
                None
            }
        }
    }

    /// A string as `parse` understands it.
    pub fn parsed<T>(&self, key: &str, parse: impl Fn(&str) -> Result<T, BadValue>) -> Option<Field<T>> {
        let text = self.text(key)?;
        match parse(text.value) {
            Ok(value) => Some(Field { value, line: text.line }),
            Err(bad) => {
                self.problems.add_value(text.line, key, &bad);
                None
            }
        }
    }

    /// A size: a string with a unit, or a number of bytes.
    pub fn size(&self, key: &str) -> Option<Field<u64>> {
        match self.field(key)?.value {
            DeValue::Integer(_) => self.number(key),
            DeValue::String(_)
            | DeValue::Float(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_)
            | DeValue::Array(_)
            | DeValue::Table(_) => self.parsed(key, super::values::parse_size),
        }
    }

    /// A whole number that is not negative.
    pub fn number(&self, key: &str) -> Option<Field<u64>> {
        let field = self.field(key)?;
        let digits =
            |integer: &toml::de::DeInteger<'_>| u64::from_str_radix(integer.as_str(), integer.radix()).ok();
        match field.value.as_integer().and_then(digits) {
            Some(value) => Some(Field { value, line: field.line }),
            None => {
                self.wrong_type(key, &field, "a whole number, not negative");
                None
            }
        }
    }

    /// A list of strings.
    pub fn texts(&self, key: &str) -> Option<Field<Vec<&'t str>>> {
        let field = self.field(key)?;
        let texts =
            field.value.as_array().map(|array| array.iter().map(|item| item.get_ref().as_str()).collect());
        match texts.flatten() {
            Some(value) => Some(Field { value, line: field.line }),
            None => {
                self.wrong_type(key, &field, "a list of strings, for example [\"alpha\", \"beta\"]");
                None
            }
        }
    }

    /// A table within this one, for example `example`, its keys checked against `keys`.
    pub fn section(
        &self,
        key: &str,
        name: &'static str,
        example: &str,
        keys: &[&str],
    ) -> Option<Section<'t>> {
        let field = self.field(key)?;
        match field.value.as_table() {
            Some(table) => Some(Section::new(name, field.line, table, self.problems, keys)),
            None => {
                self.wrong_type(key, &field, &format!("a table, {example}"));
                None
            }
        }
    }

    /// Every `[[key]]`, its keys checked against `keys`.
    pub fn sections(&self, key: &str, name: &'static str, keys: &[&str]) -> Vec<Section<'t>> {
        let Some(field) = self.field(key) else { return Vec::new() };
        let mut sections = Vec::new();
        for item in field.value.as_array().into_iter().flat_map(|array| array.iter()) {
            let line = self.problems.line_of(item.span().start);
            match item.get_ref().as_table() {
                Some(table) => sections.push(Section::new(name, line, table, self.problems, keys)),
                None => {
                    self.wrong_type(key, &Field { value: item.get_ref(), line }, &format!("{name} sections"))
                }
            }
        }
        if field.value.as_array().is_none() {
            self.wrong_type(key, &field, &format!("{name} with two brackets, one section for each"));
        }
        sections
    }

    /// Reports the absence of `key`, with a line to write.
    pub fn require(&self, key: &str, example: &str) {
        if !self.has(key) {
            let wrong = format!("{} has no `{key}`", self.name);
            self.problems.add(self.line, wrong, format_args!("write {example}"));
        }
    }

    fn wrong_type(&self, key: &str, field: &Field<&DeValue<'_>>, instead: &str) {
        let wrong = format!("{key} is of type {}", field.value.type_str());
        self.problems.add(field.line, wrong, format_args!("write {instead}"));
    }
}

/// The nearest of `keys`, or all of them.
pub fn suggestion(written: &str, keys: &[&str]) -> String {
    let distance = |key: &str| strsim::damerau_levenshtein(written, key);
    let is_near =
        |key: &str| distance(key) <= 1 + written.len() / 4 || strsim::jaro_winkler(written, key) > 0.88;
    match keys.iter().copied().min_by_key(|key| distance(key)).filter(|key| is_near(key)) {
        Some(key) => format!("did you mean `{key}`?"),
        None => format!("write one of {}", keys.join(", ")),
    }
}
