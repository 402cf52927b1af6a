//! What of a changed configuration a running engine can take over.

use std::collections::HashMap;

use serde_json::Value;

use super::words::TopicOrder;
use super::{Class, Config, Topic};

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

/// Why a topic cannot be moved to another class while the engine runs, if one is that would be: events of it may wait in its
/// old class, in a window or behind one that is to be retried, for as long as more of them come. Those of the new class would
/// overtake them. Of other topics only retries wait, which are overtaken in any case.
pub fn refused_move(old: &Config, new: &Config) -> Option<String> {
    let waits = |topic: &&Topic| topic.order == TopicOrder::Strict || old.window_of(topic).is_some();
    let mut waiting = old.topics.iter().filter(waits).peekable();
    waiting.peek()?;
    let classes: HashMap<&str, Class> = new.topics.iter().map(|topic| (&*topic.name, topic.class)).collect();
    waiting.find_map(|topic| {
        let Topic { name, class: from, order, .. } = topic;
        let to = classes.get(&**name).filter(|to| *to != from)?;
        let (has, without) = match order {
            TopicOrder::Strict => ("is in strict order", "order: relaxed"),
            TopicOrder::Relaxed => ("has windows", "window: {max_events: 1}"),
        };
        Some(format!(
            "topic `{name}` {has}: moved from {from} to {to}, its events would overtake those that wait; reload it with {without} first, and move it when none waits any more, or restart"
        ))
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_in_order_is_not_overtaken_by_a_change_of_class() {
        let config = |batch: &str, topics: &str| {
            Config::parse(&format!("batch: {{{batch}}}\ntopics: [{topics}]\n"), "test")
                .unwrap_or_else(|error| panic!("{error}"))
        };
        let topic =
            |class: &str, more: &str| format!("{{name: t, class: {class}{more}}}, {{name: u, class: realtime}}");
        let refused = |batch: &str, old: String, new: String| refused_move(&config(batch, &old), &config(batch, &new));
        let strict = topic("transactional", ", order: strict");
        let windows = topic("batch", ", window: {max_events: 5}");
        for (batch, old, new, word) in [
            ("", &strict, topic("realtime", ""), Some("strict order")),
            ("", &strict, topic("batch", ", order: strict"), Some("strict order")),
            ("", &windows, topic("transactional", ""), Some("has windows")),
            ("max_events: 9", &topic("batch", ""), topic("realtime", ""), Some("has windows")),
            ("max_events: 9", &topic("batch", ", window: {max_events: 1}"), topic("realtime", ""), None),
            ("", &strict, topic("transactional", ""), None),
            ("", &windows, topic("batch", ""), None),
            ("", &topic("transactional", ""), topic("realtime", ""), None),
            ("", &strict, "{name: u, class: batch}".to_owned(), None),
        ] {
            let refused = refused(batch, old.clone(), new.clone());
            assert_eq!(refused.is_some(), word.is_some(), "{old} to {new}: {refused:?}");
            assert!(word.is_none_or(|word| refused.unwrap().contains(word)), "{old} to {new}");
        }
    }
}
