//! What stands in a source file.

/// Where unsafe code is allowed: the kernel boundary, memory, the lock-free structures and the system calls of topology.
/// Tests, benchmarks and the XDP program are other programs than the engine.
const UNSAFE_ALLOWED: &[&str] = &[
    "engine/src/nic/",
    "engine/src/queue/",
    "engine/src/memory/",
    "engine/src/topology/",
    "engine/src/runtime/clock.rs",
    "engine/src/dedup/table/",
    "engine/tests/",
    "tests/",
    "benches/",
    "ebpf/program/",
];

/// A file should stay under the first, and must stay under the second.
const LINES_WANTED: usize = 500;
const LINES_ALLOWED: usize = 600;

/// What the project never mentions. In two halves, because this file is checked like any other.
const FORBIDDEN: &[[&str; 2]] = &[
    ["../sha", "red"],
    ["/wo", "rk/"],
    ["crates", ".io"],
    ["pypi", ".org"],
    ["npmjs", ".org"],
    ["proxy.golang", ".org"],
    ["deb.debian", ".org"],
    ["archive.ubuntu", ".com"],
];

/// Paths of ours that contain a forbidden one.
pub fn mentions(name: &str, text: &str) -> Vec<String> {
    let words: Vec<String> = FORBIDDEN.iter().map(|halves| halves.concat()).collect();
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        for word in words.iter().filter(|word| line.contains(word.as_str())) {
            found.push(format!("{name}:{}: mentions `{word}`", index + 1));
        }
        if let Some(number) = issue_number(line) {
            found.push(format!("{name}:{}: mentions `{number}`, which only a tracker knows", index + 1));
        }
    }
    found
}

/// A number sign and digits where a word begins. In `{:#010x}`, `page#12` or `r#"` it is something else.
fn issue_number(line: &str) -> Option<&str> {
    for (start, _) in line.match_indices('#') {
        let before = line[..start].chars().next_back();
        let begins = before.is_none_or(|before| before.is_whitespace() || "([,;".contains(before));
        let rest = &line[start + 1..];
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let ends = rest[digits..].chars().next().is_none_or(|after| !after.is_alphanumeric());
        if begins && digits > 0 && ends {
            return Some(&line[start..start + 1 + digits]);
        }
    }
    None
}

pub fn length(name: &str, text: &str) -> Option<String> {
    let lines = text.lines().count();
    if lines > LINES_WANTED && lines <= LINES_ALLOWED {
        println!("tidy: {name} has {lines} lines, wanted are at most {LINES_WANTED}");
    }
    (lines > LINES_ALLOWED).then(|| format!("{name}: {lines} lines, at most {LINES_ALLOWED} are allowed"))
}

pub fn unsafe_code(name: &str, text: &str) -> Vec<String> {
    if UNSAFE_ALLOWED.iter().any(|allowed| name.starts_with(allowed)) {
        return Vec::new();
    }
    let mut found = Vec::new();
    for (index, line) in code(text).lines().enumerate() {
        let mut words = line.split(|letter: char| !letter.is_alphanumeric() && letter != '_');
        if words.any(|word| word == "unsafe") {
            found.push(format!("{name}:{}: unsafe code outside the modules for it", index + 1));
        }
    }
    found
}

/// The text without what stands in comments and string literals; lines stay where they are.
pub(crate) fn code(text: &str) -> String {
    let letters: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < letters.len() {
        let end = match (letters[at], letters.get(at + 1)) {
            ('/', Some('/')) => until_newline(&letters, at),
            ('/', Some('*')) => after_block_comment(&letters, at),
            ('"', _) => after_string(&letters, at),
            ('r', Some('"' | '#')) if !continues_word(&letters, at) => after_raw_string(&letters, at),
            ('\'', _) => after_character(&letters, at),
            _ => at,
        };
        if end == at {
            out.push(letters[at]);
            at += 1;
        } else {
            out.extend(letters[at..end].iter().map(|letter| if *letter == '\n' { '\n' } else { ' ' }));
            at = end;
        }
    }
    out
}

fn continues_word(letters: &[char], at: usize) -> bool {
    // `br"` is a raw string too, and its `b` is no word of its own.
    at > 0 && (letters[at - 1].is_alphanumeric() || letters[at - 1] == '_') && letters[at - 1] != 'b'
}

fn until_newline(letters: &[char], at: usize) -> usize {
    letters[at..].iter().position(|letter| *letter == '\n').map_or(letters.len(), |length| at + length)
}

fn after_block_comment(letters: &[char], mut at: usize) -> usize {
    let mut depth = 0;
    while at < letters.len() {
        match (letters[at], letters.get(at + 1)) {
            ('/', Some('*')) => {
                depth += 1;
                at += 2;
            }
            ('*', Some('/')) => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    letters.len()
}

fn after_string(letters: &[char], at: usize) -> usize {
    let mut next = at + 1;
    while next < letters.len() {
        match letters[next] {
            '\\' => next += 2,
            '"' => return next + 1,
            _ => next += 1,
        }
    }
    letters.len()
}

fn after_raw_string(letters: &[char], at: usize) -> usize {
    let hashes = letters[at + 1..].iter().take_while(|letter| **letter == '#').count();
    let quote = at + 1 + hashes;
    if letters.get(quote) != Some(&'"') {
        // A raw identifier.
        return at;
    }
    let mut next = quote + 1;
    while next < letters.len() {
        let closed = letters[next] == '"'
            && letters[next + 1..].iter().take(hashes).filter(|letter| **letter == '#').count() == hashes;
        if closed {
            return next + 1 + hashes;
        }
        next += 1;
    }
    letters.len()
}

/// A character literal, so that `'"'` opens no string; a lifetime is left alone.
fn after_character(letters: &[char], at: usize) -> usize {
    match letters.get(at + 1) {
        Some('\\') => {
            letters[at + 2..].iter().skip(1).position(|letter| *letter == '\'').map_or(at, |length| at + 4 + length)
        }
        Some(_) if letters.get(at + 2) == Some(&'\'') => at + 3,
        _ => at,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsafe_is_seen_in_code_and_nowhere_else() {
        let text = "// unsafe here\nlet a = \"unsafe\"; /* unsafe */\n#![deny(unsafe_op_in_unsafe_fn)]\n\
                    let b = r#\"unsafe \" \"#; let c = '\"'; let d = '\\''; fn f<'a>() {}\nunsafe { g() }\n";
        assert_eq!(
            unsafe_code("engine/src/worker/mod.rs", text),
            ["engine/src/worker/mod.rs:5: unsafe code outside the modules for it"]
        );
        for name in
            ["engine/src/queue/mpsc.rs", "engine/src/runtime/clock.rs", "tests/src/lib.rs", "ebpf/program/src/main.rs"]
        {
            assert!(unsafe_code(name, text).is_empty(), "{name}");
        }
        assert_eq!(unsafe_code("engine/src/runtime/idle.rs", text).len(), 1);
    }

    #[test]
    fn issue_numbers_are_told_from_other_number_signs() {
        let sign = '#';
        for line in [format!("see {sign}12"), format!("({sign}3)"), format!("{sign}7")] {
            assert!(issue_number(&line).is_some(), "{line}");
        }
        for line in ["{:#010x}", "page#12", "# 1 heading", "r#\"x\"#", "#[derive]", "colour #12ab"] {
            assert!(issue_number(line).is_none(), "{line}");
        }
    }

    #[test]
    fn what_is_forbidden_is_found_with_its_line() {
        let word = FORBIDDEN[0].concat();
        assert_eq!(mentions("a.md", &format!("fine\nsee {word}/x\n")).len(), 1);
        assert!(mentions("a.md", "fine\n")[..].is_empty());
    }

    #[test]
    fn long_files_are_refused() {
        assert!(length("a.rs", &"x\n".repeat(LINES_ALLOWED)).is_none());
        assert!(length("a.rs", &"x\n".repeat(LINES_ALLOWED + 1)).is_some());
    }
}
