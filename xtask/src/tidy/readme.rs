//! The README's commands: each `cargo xtask` line in a code block is one this program understands, and each file of the
//! project that a command names is there.

use std::path::Path;

use clap::Parser;

use crate::cli::Cli;

pub fn check(name: &str, text: &str, root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut in_block = false;
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
            continue;
        }
        if !in_block {
            continue;
        }
        let line = line.trim().trim_start_matches("$ ").trim_start_matches("sudo ");
        let command = line.split(" #").next().unwrap_or(line);
        let words: Vec<&str> = command.split_whitespace().collect();
        if let ["cargo", "xtask", arguments @ ..] = words.as_slice()
            && let Err(error) = Cli::try_parse_from(["cargo xtask"].iter().chain(arguments))
            && error.use_stderr()
        {
            let reason = error.to_string();
            found.push(format!("{name}:{}: `{command}`: {}", index + 1, reason.lines().next().unwrap_or_default()));
        }
        for word in words.iter().filter(|word| word.starts_with("configs/")) {
            if !root.join(word).exists() {
                found.push(format!("{name}:{}: there is no {word}", index + 1));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_that_do_not_exist_are_found() {
        let text = "cargo xtask outside is prose\n```sh\n$ cargo xtask run --seconds 10 # a while\nsudo cargo xtask setup\n\
                    cargo xtask fly\ncargo xtask run --wings\ncargo xtask run --config configs/none.yaml\n```\n";
        let found = check("README.md", text, Path::new("/nowhere"));
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(found[0].starts_with("README.md:5:") && found[1].starts_with("README.md:6:"), "{found:?}");
        assert_eq!(found[2], "README.md:7: there is no configs/none.yaml");
    }
}
