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

/// All mistakes of a file, in the order of its lines. Prints as one line for each: `FILE:LINE: …`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigProblems {
    /// The file.
    pub file: PathBuf,
    /// Its mistakes, at least one.
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigProblems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{}:{}: {}", self.file.display(), problem.line, problem.text)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigProblems {}

/// Where a reader puts what it finds wrong. Shared by all readers of a file.
#[derive(Debug)]
pub struct Problems {
    /// Byte offset of the first byte of each line.
    line_starts: Vec<usize>,
    found: RefCell<Vec<Problem>>,
    warned: RefCell<Vec<Problem>>,
}

impl Problems {
    /// None yet, in the file with this text.
    pub fn in_text(text: &str) -> Self {
        let behind_newlines =
            text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1);
        let line_starts = std::iter::once(0).chain(behind_newlines).collect();
        Self { line_starts, found: RefCell::default(), warned: RefCell::default() }
    }

    /// The line of the byte at `offset`.
    pub fn line_of(&self, offset: usize) -> usize {
        self.line_starts.partition_point(|start| *start <= offset)
    }

    /// A mistake: what is wrong, and what to write instead.
    pub fn add(&self, line: usize, wrong: impl fmt::Display, instead: impl fmt::Display) {
        self.found.borrow_mut().push(Problem { line, text: format!("{wrong}; {instead}") });
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
        let mut problems = self.found.into_inner();
        problems.sort();
        match value {
            Some(value) if problems.is_empty() => Ok((value, self.warned.into_inner())),
            Some(_) | None => {
                assert!(!problems.is_empty(), "a reader that gives nothing says why");
                Err(ConfigProblems { file: file.to_owned(), problems })
            }
        }
    }
}
