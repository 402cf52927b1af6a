//! The README's section that is generated, between two lines nobody sees.

const BEGIN: &str = "<!-- Written by `cargo xtask bench micro --readme`; not by hand. -->";
const END: &str = "<!-- End of what `cargo xtask bench micro --readme` has written. -->";
/// What the section begins with.
pub const MEASURED: &str = "Measured ";

/// The text with `body` as the section's new content.
pub fn replace(text: &str, body: &str) -> Result<String, String> {
    let (before, _, after) = parts(text)?;
    Ok(format!("{before}{BEGIN}\n{}\n{END}{after}", body.trim_end()))
}

/// Whether the section is as it would have been generated.
pub fn check(name: &str, text: &str) -> Vec<String> {
    let (before, body, _) = match parts(text) {
        Ok(parts) => parts,
        Err(complaint) => return vec![format!("{name}: {complaint}")],
    };
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
fn parts(text: &str) -> Result<(&str, &str, &str), String> {
    let once = |mark: &str| {
        let mut places = text.match_indices(mark);
        match (places.next(), places.next()) {
            (Some((place, _)), None) => Ok(place),
            _ => Err(format!("`{mark}` has to be there exactly once")),
        }
    };
    let (begin, end) = (once(BEGIN)?, once(END)?);
    if end < begin {
        return Err(format!("`{END}` stands before the section's beginning"));
    }
    Ok((&text[..begin], &text[begin + BEGIN.len()..end], &text[end + END.len()..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &str = "Measured today.\n\n| case | ours |\n|---|---|\n| a | 1 |\n";

    fn readme(body: &str) -> String {
        format!("# Title\n\n{BEGIN}\n{body}\n{END}\n\n## More\n")
    }

    #[test]
    fn only_the_section_is_replaced() {
        let text = replace(&readme("old"), BODY).unwrap();
        assert_eq!(text, readme(BODY.trim_end()));
        assert_eq!(replace(&text, BODY).unwrap(), text);
        assert!(replace("no section", BODY).is_err());
        assert!(replace(&format!("{END}\n{BEGIN}"), BODY).is_err());
        assert!(replace(&format!("{}{BEGIN}", readme(BODY)), BODY).is_err());
    }

    #[test]
    fn what_was_not_generated_is_found() {
        assert!(check("R", &readme(BODY)).is_empty());
        assert_eq!(check("R", &readme("typed")).len(), 2);
        let torn = check("R", &readme(&BODY.replace("| a | 1 |", "| a |")));
        assert_eq!(torn, ["R:8: 2 cell borders where the table has 3"]);
        assert_eq!(check("R", "nothing").len(), 1);
    }
}
