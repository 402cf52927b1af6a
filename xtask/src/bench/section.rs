//! The README's sections that are generated, each between two lines nobody sees.

use std::fs;

use super::row::Row;
use super::setting::Setting;
use super::table;
use crate::process::workspace_root;
use crate::{Error, Result};

/// What a section begins with.
const MEASURED: &str = "Measured ";

/// By the name of the benchmark that writes it.
#[derive(Clone, Copy, Debug)]
pub struct Section(&'static str);

pub const MICRO: Section = Section("micro");
pub const E2E: Section = Section("e2e");
pub const ALL: [Section; 2] = [MICRO, E2E];

impl Section {
    fn begin(self) -> String {
        format!("<!-- Written by `cargo xtask bench {} --readme`; not by hand. -->", self.0)
    }

    fn end(self) -> String {
        format!("<!-- End of what `cargo xtask bench {} --readme` has written. -->", self.0)
    }

    /// Puts what was measured into the README, and `more` behind it.
    pub fn write(self, setting: &Setting, rows: &[Row], more: &str) -> Result<()> {
        let path = workspace_root().join("README.md");
        let text = fs::read_to_string(&path).map_err(|error| Error::of_io("README.md", &error))?;
        let body = format!("{MEASURED}{setting}.\n\n{}{more}", table::for_markdown(rows));
        let text = self.replace(&text, &body).map_err(Error::Failed)?;
        fs::write(&path, text).map_err(|error| Error::of_io("README.md", &error))
    }

    /// The text with `body` as the section's new content.
    fn replace(self, text: &str, body: &str) -> std::result::Result<String, String> {
        let (before, _, after) = self.parts(text)?;
        Ok(format!("{before}{}\n{}\n{}{after}", self.begin(), body.trim_end(), self.end()))
    }

    /// Whether the section is as it would have been generated. One that is empty has not been generated yet.
    pub fn check(self, name: &str, text: &str) -> Vec<String> {
        let (before, body, _) = match self.parts(text) {
            Ok(parts) => parts,
            Err(complaint) => return vec![format!("{name}: {complaint}")],
        };
        if body.trim().is_empty() {
            return Vec::new();
        }
        let first = before.lines().count() + 2;
        let mut found = Vec::new();
        if !body.trim_start().starts_with(MEASURED) {
            found.push(format!("{name}:{first}: the section does not say where it was measured"));
        }
        let mut columns = None;
        let mut tables = 0;
        for (index, line) in body.trim_start_matches('\n').lines().enumerate() {
            let cells = line.matches('|').count();
            match columns {
                _ if cells == 0 => columns = None,
                None => {
                    columns = Some(cells);
                    tables += 1;
                }
                Some(wanted) if wanted != cells => {
                    found.push(format!("{name}:{}: {cells} cell borders where the table has {wanted}", first + index));
                }
                Some(_) => {}
            }
        }
        if tables == 0 {
            found.push(format!("{name}:{first}: there is no table"));
        }
        found
    }

    /// What stands before, in and after the section.
    fn parts(self, text: &str) -> std::result::Result<(&str, &str, &str), String> {
        let once = |mark: &str| {
            let mut places = text.match_indices(mark);
            match (places.next(), places.next()) {
                (Some((place, _)), None) => Ok(place),
                _ => Err(format!("`{mark}` has to be there exactly once")),
            }
        };
        let (begin_mark, end_mark) = (self.begin(), self.end());
        let (begin, end) = (once(&begin_mark)?, once(&end_mark)?);
        if end < begin {
            return Err(format!("`{end_mark}` stands before the section's beginning"));
        }
        Ok((&text[..begin], &text[begin + begin_mark.len()..end], &text[end + end_mark.len()..]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &str = "Measured today.\n\n| case | ours |\n|---|---|\n| a | 1 |\n";

    fn readme(body: &str) -> String {
        format!("# Title\n\n{}\n{body}\n{}\n\n## More\n", MICRO.begin(), MICRO.end())
    }

    #[test]
    fn only_the_section_is_replaced() {
        let text = MICRO.replace(&readme("old"), BODY).unwrap();
        assert_eq!(text, readme(BODY.trim_end()));
        assert_eq!(MICRO.replace(&text, BODY).unwrap(), text);
        assert!(MICRO.replace("no section", BODY).is_err());
        assert!(E2E.replace(&text, BODY).is_err(), "another section is none of its own");
        assert!(MICRO.replace(&format!("{}\n{}", MICRO.end(), MICRO.begin()), BODY).is_err());
        assert!(MICRO.replace(&format!("{}{}", readme(BODY), MICRO.begin()), BODY).is_err());
    }

    #[test]
    fn what_was_not_generated_is_found() {
        assert!(MICRO.check("R", &readme(BODY)).is_empty());
        assert!(MICRO.check("R", &readme("")).is_empty());
        assert_eq!(MICRO.check("R", &readme("typed")).len(), 2);
        let torn = MICRO.check("R", &readme(&BODY.replace("| a | 1 |", "| a |")));
        assert_eq!(torn, ["R:8: 2 cell borders where the table has 3"]);
        assert_eq!(MICRO.check("R", "nothing").len(), 1);
    }
}
