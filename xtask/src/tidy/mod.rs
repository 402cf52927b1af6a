//! Rules about the source that no compiler knows: where unsafe code may stand, how long a file may be, what the project
//! never mentions, that every configuration key is explained, that the README's commands exist and its measurements were generated.

mod configuration;
mod readme;
mod source;

pub(crate) use source::code;

use std::fs;
use std::path::{Path, PathBuf};

use crate::bench::section;
use crate::process::workspace_root;
use crate::{Error, Result};

/// Folders that are built or fetched.
const NOT_OURS: &[&str] = &["target", ".git", "corpus", "artifacts", "node_modules"];
/// Endings of what is read as text. Cargo.lock is not among them: it names the registry, and nobody writes it by hand.
const TEXT: &[&str] = &["rs", "md", "toml", "yaml", "yml", "sh", "py", "proto", "txt"];

/// `cargo xtask tidy`.
pub fn run() -> Result<()> {
    let root = workspace_root();
    let complaints = check(&root)?;
    for complaint in &complaints {
        println!("tidy: {complaint}");
    }
    match complaints.len() {
        0 => Ok(()),
        count => Err(Error::failed(format!("tidy: {count} complaint(s)"))),
    }
}

/// Everything that is not as it should be, as `path:line: what`.
pub fn check(root: &Path) -> Result<Vec<String>> {
    let mut complaints = Vec::new();
    for path in files(root) {
        let Ok(text) = fs::read_to_string(root.join(&path)) else {
            continue;
        };
        let name = path.to_string_lossy().replace('\\', "/");
        complaints.extend(source::mentions(&name, &text));
        if name.ends_with(".rs") {
            complaints.extend(source::length(&name, &text));
            complaints.extend(source::unsafe_code(&name, &text));
        }
    }
    let read = |name: &str| fs::read_to_string(root.join(name)).map_err(|error| format!("{name}: {error}"));
    match read("configs/default.yaml") {
        Ok(text) => complaints.extend(configuration::undocumented("configs/default.yaml", &text)),
        Err(complaint) => complaints.push(complaint),
    }
    match read("README.md") {
        Ok(text) => {
            complaints.extend(readme::check("README.md", &text, root));
            complaints.extend(section::ALL.iter().flat_map(|section| section.check("README.md", &text)));
        }
        Err(complaint) => complaints.push(complaint),
    }
    Ok(complaints)
}

/// Every text file of the project, relative to its root, in order.
fn files(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let (path, name) = (entry.path(), entry.file_name());
            if NOT_OURS.iter().any(|folder| name == *folder) {
                continue;
            }
            let kind = entry.file_type();
            if kind.as_ref().is_ok_and(|kind| kind.is_dir()) {
                folders.push(path);
            } else if kind.is_ok_and(|kind| kind.is_file()) && is_text(&path) {
                found.extend(path.strip_prefix(root).map(Path::to_path_buf));
            }
        }
    }
    found.sort();
    found
}

fn is_text(path: &Path) -> bool {
    let ending = path.extension().and_then(|ending| ending.to_str());
    ending.map_or_else(|| path.ends_with(".ci/run"), |ending| TEXT.contains(&ending))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_texts_of_the_project_are_read() {
        assert!(is_text(Path::new("a/b.rs")) && is_text(Path::new(".ci/run")));
        assert!(!is_text(Path::new("Cargo.lock")) && !is_text(Path::new("steer.o")) && !is_text(Path::new("LICENSE")));
        let files = files(&workspace_root());
        assert!(files.contains(&PathBuf::from("xtask/src/tidy/mod.rs")));
        assert!(!files.iter().any(|path| path.starts_with("target")));
    }
}
