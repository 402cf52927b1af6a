//! What of a changed configuration a running engine can take over.

use serde_json::Value;

use super::Config;

/// Keys, and groups of keys, whose changes need no restart: they are read from snapshots that can be swapped.
const LIVE: [&str; 5] = ["topics", "control.evaluate_ms", "control.dwell_ms", "control.dropping", "control.emergency"];

/// The keys in which two configurations differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReloadDiff {
    /// Applied at once.
    pub live: Vec<String>,
    /// Take effect at the next start only; the operator is told.
    pub restart: Vec<String>,
}

impl ReloadDiff {
    pub fn is_empty(&self) -> bool {
        self.live.is_empty() && self.restart.is_empty()
    }
}

/// Sorts the differences by whether they can be applied live.
pub fn diff_reload(old: &Config, new: &Config) -> ReloadDiff {
    let mut diff = ReloadDiff::default();
    if old.topics != new.topics {
        diff.live.push("topics".to_owned());
    }
    // The topics have been compared; as values they would be far larger than everything else.
    let value = |config: &Config| {
        let rest = Config { topics: Vec::new(), ..config.clone() };
        serde_json::to_value(rest).unwrap_or_default()
    };
    compare("", &value(old), &value(new), &mut diff);
    diff
}

fn compare(path: &str, old: &Value, new: &Value, diff: &mut ReloadDiff) {
    if old == new {
        return;
    }
    if let (Value::Object(old), Value::Object(new)) = (old, new) {
        for (key, old) in old {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            compare(&path, old, new.get(key).unwrap_or(&Value::Null), diff);
        }
        return;
    }
    let is_live =
        LIVE.iter().any(|live| path.strip_prefix(live).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')));
    if is_live { &mut diff.live } else { &mut diff.restart }.push(path.to_owned());
}
