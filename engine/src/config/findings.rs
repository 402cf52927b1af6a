//! What one reading of a document has gathered: its errors, and where each key stands.

use std::cell::RefCell;
use std::collections::HashMap;

use super::error::{ConfigError, ConfigErrors, Position};
use super::places::Places;

/// Enough to mend a file in one go; a long list that is wrong throughout need not be printed throughout.
const ERRORS_MAX: usize = 50;

/// What one reading has gathered. Shared by all sections of a document, on one thread.
#[derive(Default)]
pub(super) struct Findings {
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    errors: Vec<ConfigError>,
    omitted: usize,
    /// Where each key stands that is in the text, for rules over several keys. Topics are left out: they are many, and
    /// no such rule names one.
    positions: HashMap<String, Position>,
    /// Every key that was asked for, with what it may be.
    #[cfg(test)]
    keys: Vec<(String, String)>,
}

impl Findings {
    pub fn error(&self, at: Position, key: impl Into<String>, message: impl Into<String>) {
        let mut state = self.state.borrow_mut();
        if state.errors.len() < ERRORS_MAX {
            let error = ConfigError { at: Some(at), key: key.into(), message: message.into() };
            state.errors.push(error);
        } else {
            state.omitted += 1;
        }
    }

    /// Reports a combination of keys, at the last of them that stands in the text.
    pub fn conflict(&self, keys: &[&str], message: impl Into<String>) {
        let blamed = {
            let state = self.state.borrow();
            keys.iter().filter_map(|key| Some((*state.positions.get(*key)?, *key))).max()
        };
        // Defaults do not conflict with each other, so one of the keys is in the text.
        let (at, key) = blamed.unwrap_or((Position::START, keys.first().copied().unwrap_or_default()));
        self.error(at, key, message);
    }

    /// Remembers where a key's value stands.
    pub fn place(&self, path: String, at: Position) {
        self.state.borrow_mut().positions.insert(path, at);
    }

    /// Notes that a key was asked for, and what it may be.
    #[cfg(test)]
    pub fn key(&self, path: String, allowed: String) {
        self.state.borrow_mut().keys.push((path, allowed));
    }

    pub fn is_clean(&self) -> bool {
        self.state.borrow().errors.is_empty()
    }

    pub fn into_errors(self, file: &str) -> ConfigErrors {
        let State { mut errors, omitted, .. } = self.state.into_inner();
        errors.sort_by_key(|error| error.at);
        ConfigErrors { file: file.to_owned(), errors, omitted }
    }

    pub fn into_places(self, file: &str) -> Places {
        Places::of_file(file, self.state.into_inner().positions)
    }

    #[cfg(test)]
    pub fn into_keys(self) -> Vec<(String, String)> {
        self.state.into_inner().keys
    }
}
