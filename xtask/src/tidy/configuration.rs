//! The default configuration documents itself: every key has a comment on its line or directly above it.

/// The keys without one.
pub fn undocumented(name: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut above_is_comment = false;
    for (index, line) in text.lines().enumerate() {
        let trimmed = line.trim_start();
        if trimmed.starts_with('#') {
            above_is_comment = true;
            continue;
        }
        if let Some(key) = key_of(trimmed)
            && !above_is_comment
            && !has_comment(trimmed)
        {
            found.push(format!("{name}:{}: `{key}` is not explained", index + 1));
        }
        above_is_comment = false;
    }
    found
}

/// `key:` or `- key:`, of which the second is a list item's first.
fn key_of(line: &str) -> Option<&str> {
    let line = line.strip_prefix("- ").unwrap_or(line);
    let (key, rest) = line.split_once(':')?;
    let is_key = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte));
    (is_key && (rest.is_empty() || rest.starts_with(' '))).then_some(key)
}

fn has_comment(line: &str) -> bool {
    line.contains(" # ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_explained_on_its_line_or_above() {
        let text = "# what a is\na: 1\nb: 2 # what b is\nc:\n  # what d is\n  d: x:y\n\n  e: 5\n- f: 1\n- plain\n";
        let found = undocumented("c.yaml", text);
        assert_eq!(
            found,
            ["c.yaml:4: `c` is not explained", "c.yaml:8: `e` is not explained", "c.yaml:9: `f` is not explained"]
        );
    }

    #[test]
    fn values_and_addresses_are_no_keys() {
        assert_eq!(key_of("127.0.0.1:8081"), None);
        assert_eq!(key_of("\"a b\": 1"), None);
        assert_eq!(key_of("depth: 64"), Some("depth"));
    }
}
