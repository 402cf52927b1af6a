//! What went wrong on disk, and where.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// A file or directory, what was to be done with it, and why that could not be.
#[derive(Debug)]
pub struct StorageError {
    pub path: PathBuf,
    pub doing: &'static str,
    pub error: io::Error,
}

impl StorageError {
    pub fn new(path: &Path, doing: &'static str, error: io::Error) -> Self {
        Self { path: path.to_owned(), doing, error }
    }

    /// To be used with `map_err`.
    pub fn at<'p>(path: &'p Path, doing: &'static str) -> impl FnOnce(io::Error) -> Self + 'p {
        move |error| Self::new(path, doing, error)
    }

    /// Of content that is not as it has to be.
    pub fn invalid(path: &Path, doing: &'static str, why: impl Into<String>) -> Self {
        Self::new(path, doing, io::Error::new(io::ErrorKind::InvalidData, why.into()))
    }
}

impl fmt::Display for StorageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: cannot {}: {}", self.path.display(), self.doing, self.error)
    }
}

impl std::error::Error for StorageError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}
