//! Mistakes in a configuration file: collected while reading goes on, reported all at once, each with its line.

use std::cell::RefCell;
use std::fmt;
use std::path::{Path, PathBuf};

use super::values::BadValue;

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Its line, from 1.
    pub line: usize,
    /// What is wrong, and what to write instead.
    pub text: String,
}

/// All mistakes of a file, at least one, in the order of its lines. Prints as one line for each: `FILE:LINE: …`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigProblems {
    /// The file.
    pub file: PathBuf,
    /// Its mistakes.
    pub problems: Vec<Problem>,
    /// What stands in no line of it: the command asks for something that the file does not have.
    pub elsewhere: Vec<String>,
}

impl fmt::Display for ConfigProblems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.display();
        let placed = self.problems.iter().map(|problem| format!("{file}:{}: {}", problem.line, problem.text));
        let elsewhere = self.elsewhere.iter().map(|text| format!("{file}: {text}"));
        f.write_str(&placed.chain(elsewhere).collect::<Vec<_>>().join("\n"))
    }
}

impl std::error::Error for ConfigProblems {}

/// Where a reader puts what it finds wrong. Shared by all readers of a file.
#[derive(Debug)]
pub struct Problems {
    /// Byte offset of the first byte of each line.
    line_starts: Vec<usize>,
    found: RefCell<Vec<Problem>>,
    elsewhere: RefCell<Vec<String>>,
    warned: RefCell<Vec<Problem>>,
}

impl Problems {
    /// None yet, in the file with this text.
    pub fn in_text(text: &str) -> Self {
        let behind_newlines =
            text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1);
        let line_starts = std::iter::once(0).chain(behind_newlines).collect();
        let (found, elsewhere, warned) = Default::default();
        Self { line_starts, found, elsewhere, warned }
    }

    /// The line of the byte at `offset`.
    pub fn line_of(&self, offset: usize) -> usize {
        self.line_starts.partition_point(|start| *start <= offset)
    }

    /// A mistake: what is wrong, and what to write instead.
    pub fn add(&self, line: usize, wrong: impl fmt::Display, instead: impl fmt::Display) {
        self.found.borrow_mut().push(Problem { line, text: format!("{wrong}; {instead}") });
    }

    /// A mistake that stands in no line of the file.
    pub fn add_elsewhere(&self, wrong: impl fmt::Display, instead: impl fmt::Display) {
        self.elsewhere.borrow_mut().push(format!("{wrong}; {instead}"));
    }

    /// A mistake in the value of `key`.
    pub fn add_value(&self, line: usize, key: &str, bad: &BadValue) {
        self.add(line, format_args!("{key}: {}", bad.wrong), &bad.instead);
    }

    /// Something that is legal, and that the operator should know.
    pub fn warn(&self, line: usize, text: impl fmt::Display) {
        self.warned.borrow_mut().push(Problem { line, text: text.to_string() });
    }

    /// `value` if nothing is wrong, with the warnings; else everything that is.
    pub fn into_result<T>(self, file: &Path, value: Option<T>) -> Result<(T, Vec<Problem>), ConfigProblems> {
        let (mut problems, elsewhere) = (self.found.into_inner(), self.elsewhere.into_inner());
        problems.sort();
        let is_good = problems.is_empty() && elsewhere.is_empty();
        match value {
            Some(value) if is_good => Ok((value, self.warned.into_inner())),
            Some(_) | None => {
                assert!(!is_good, "a reader that gives nothing says why");
                Err(ConfigProblems { file: file.to_owned(), problems, elsewhere })
            }
        }
    }
}
