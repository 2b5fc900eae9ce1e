//! A fault of the configuration: where it is, what it is and what to do about it.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;

use evergrant_core::Reason;
use serde::Serialize;

/// Whether a fault stops the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Severity {
    /// The configuration is refused.
    Error,
    /// It is used, and this is said.
    Warning,
}

impl Severity {
    /// The word as it stands in JSON and in messages.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// One fault of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Fault {
    /// Whether it stops the program.
    pub(crate) severity: Severity,
    /// The file it is in, if it is in one.
    pub(crate) file: Option<PathBuf>,
    /// The line, from 1.
    pub(crate) line: Option<usize>,
    /// The column in characters, from 1.
    pub(crate) column: Option<usize>,
    /// What is wrong, in one sentence.
    pub(crate) message: String,
    /// What to do about it.
    pub(crate) help: Option<String>,
    /// Its code, where it has one.
    pub(crate) reason: Option<Reason>,
}

impl Fault {
    /// A fault for which the configuration is refused.
    pub(crate) fn error(message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            file: None,
            line: None,
            column: None,
            message: message.into(),
            help: None,
            reason: None,
        }
    }

    /// A fault that is only said.
    pub(crate) fn warning(message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(message) }
    }

    /// With what to do about it.
    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// With help, if there is any.
    pub(crate) fn maybe_help(mut self, help: Option<String>) -> Self {
        self.help = help;
        self
    }

    /// With its code.
    pub(crate) fn reason(mut self, reason: Reason) -> Self {
        self.reason = Some(reason);
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{}:", file.display())?;
            if let (Some(line), Some(column)) = (self.line, self.column) {
                write!(f, "{line}:{column}:")?;
            }
            f.write_str(" ")?;
        }
        let kind = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        write!(f, "{kind}: {}", self.message)?;
        if let Some(help) = &self.help {
            for line in help.lines() {
                write!(f, "\n    {line}")?;
            }
        }
        Ok(())
    }
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// Bytes of the file.
    File(Range<usize>),
    /// A variable of the environment.
    Variable(String),
}

/// The faults found so far in one configuration.
#[derive(Debug)]
pub(crate) struct Faults {
    file: Option<PathBuf>,
    text: String,
    found: Vec<Fault>,
}

impl Faults {
    /// None yet.
    pub(crate) fn new(file: Option<PathBuf>, text: &str) -> Self {
        Self { file, text: text.to_owned(), found: Vec::new() }
    }

    /// The file they are in, if there is one.
    pub(crate) fn file(&self) -> Option<&PathBuf> {
        self.file.as_ref()
    }

    /// A fault of the whole.
    pub(crate) fn add(&mut self, mut fault: Fault) {
        fault.file = self.file.clone();
        self.found.push(fault);
    }

    /// A fault that no file is to blame for.
    pub(crate) fn add_elsewhere(&mut self, fault: Fault) {
        self.found.push(fault);
    }

    /// A fault at a place; one in a variable begins with its name.
    pub(crate) fn add_at(&mut self, place: Option<&Place>, mut fault: Fault) {
        match place {
            Some(Place::File(span)) => {
                let (line, column) = self.line_and_column(span.start);
                fault.line = Some(line);
                fault.column = Some(column);
                self.add(fault);
            }
            Some(Place::Variable(name)) => {
                fault.message = format!("{name}: {}", fault.message);
                self.found.push(fault);
            }
            None => self.add(fault),
        }
    }

    /// One of them stops the program.
    pub(crate) fn any_error(&self) -> bool {
        self.found.iter().any(|fault| fault.severity == Severity::Error)
    }

    /// All, in the order of the file; those without a place come last.
    pub(crate) fn in_order(mut self) -> Vec<Fault> {
        self.found.sort_by_key(|fault| (fault.line.is_none(), fault.line, fault.column));
        self.found
    }

    fn line_and_column(&self, offset: usize) -> (usize, usize) {
        let mut end = offset.min(self.text.len());
        while !self.text.is_char_boundary(end) {
            end -= 1;
        }
        let before = &self.text[..end];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
        (line, before[line_start..].chars().count() + 1)
    }
}

/// The candidate that `word` was probably meant to be.
pub(crate) fn suggest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    let tolerated = (word.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| {
            let lower = candidate.to_lowercase();
            let extends = word.len() >= 3 && (lower.starts_with(&word) || lower.ends_with(&word));
            let distance = if extends { 1 } else { strsim::damerau_levenshtein(&word, &lower) };
            (distance, candidate)
        })
        .filter(|(distance, _)| *distance <= tolerated)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}
