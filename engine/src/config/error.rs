//! What is wrong with a configuration: where, which key, and what would have been allowed.

use std::fmt;

/// A place in the text, both counted from 1 and the column in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub line: u32,
    pub column: u32,
}

impl Position {
    pub(super) const START: Self = Self { line: 1, column: 1 };
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// `None` when the file could not be read at all.
    pub at: Option<Position>,
    /// Dotted path of the key; empty when the text is no YAML document of keys.
    pub key: String,
    pub message: String,
}

/// Everything found wrong in one file, in the order of the text; printed one to a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors {
    pub file: String,
    pub errors: Vec<ConfigError>,
    /// Errors beyond the ones listed: a list of a million topics can be wrong a million times.
    pub omitted: usize,
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.errors.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{}:", self.file)?;
            if let Some(at) = error.at {
                write!(f, "{}:{}:", at.line, at.column)?;
            }
            if !error.key.is_empty() {
                write!(f, " {}:", error.key)?;
            }
            write!(f, " {}", error.message)?;
        }
        if self.omitted > 0 {
            write!(f, "\n{}: and {} more errors", self.file, self.omitted)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}
