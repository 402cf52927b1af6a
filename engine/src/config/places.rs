//! Where each value of a configuration comes from, for what is found wrong with it only on the machine it is to run on.

use std::collections::HashMap;

use super::error::Position;

/// The origin of every key: a place in a file, an option of the command line, or the default.
#[derive(Clone, Debug, Default)]
pub struct Places {
    file: Option<String>,
    positions: HashMap<String, Position>,
    overrides: HashMap<&'static str, &'static str>,
}

/// Two configurations that say the same are equal, wherever they say it.
impl PartialEq for Places {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Places {
    pub(super) fn of_file(file: &str, positions: HashMap<String, Position>) -> Self {
        Self { file: Some(file.to_owned()), positions, overrides: HashMap::new() }
    }

    /// Notes that an option of the command line has set a key.
    pub fn override_by(&mut self, key: &'static str, option: &'static str) {
        self.overrides.insert(key, option);
    }

    /// A key with its place, as an error message begins: `c.yaml:3:5: layout.cpus[0]`, `--cpus: layout.cpus[0]`, or
    /// `layout.mode (default)`. What stands nowhere itself has the place of the group it is in.
    pub fn of(&self, key: &str) -> String {
        let mut enclosing = key;
        loop {
            if let Some(option) = self.overrides.get(enclosing) {
                return format!("{option}: {key}");
            }
            if let (Some(file), Some(at)) = (&self.file, self.positions.get(enclosing)) {
                return format!("{file}:{}:{}: {key}", at.line, at.column);
            }
            match enclosing.rfind(['.', '[']) {
                Some(end) => enclosing = &enclosing[..end],
                None => return format!("{key} (default)"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_the_place_of_what_is_nearest_to_it() {
        let positions = [("layout", 2), ("layout.runners[1].cpu", 7)]
            .map(|(key, line)| (key.to_owned(), Position { line, column: 3 }));
        let mut places = Places::of_file("c.yaml", positions.into());
        assert_eq!(places.of("layout.runners[1].cpu"), "c.yaml:7:3: layout.runners[1].cpu");
        assert_eq!(places.of("layout.runners[0].cpu"), "c.yaml:2:3: layout.runners[0].cpu");
        assert_eq!(places.of("udp.sockets"), "udp.sockets (default)");
        places.override_by("layout.cpus", "--cpus");
        assert_eq!(places.of("layout.cpus[4]"), "--cpus: layout.cpus[4]");
        assert_eq!(Places::default().of("layout.mode"), "layout.mode (default)");
    }
}
