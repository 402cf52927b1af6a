//! YAML text into a tree of values that know where they stand.
//!
//! The tree comes before the typed reading because a derived `Deserialize` stops at its first error and knows the
//! position of values only, not of keys; from the tree every mistake of a file is found in one run, and a rule that
//! spans several keys can still point at one.
//!
//! Anchors, aliases, merge keys and several documents are refused: a configuration needs none of them, and without
//! them the size of the tree is bounded by the size of the text.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::options::MergeKeyPolicy;
use serde_saphyr::{Location, MessageFormatter, Spanned, UserMessageFormatter};

use super::error::{ConfigError, Position};
use super::topics::TOPICS_MAX;

/// The largest text that is looked at: a full topic table with names of the default limit.
pub(super) const TEXT_BYTES_MAX: usize = 512 << 20;

/// Nesting of the deepest key is 4; the rest is room for a mistake to be reported as what it is.
const DEPTH_MAX: usize = 32;

pub(super) struct Node<'a> {
    pub at: Position,
    pub value: Value<'a>,
}

pub(super) enum Value<'a> {
    Null,
    Boolean(bool),
    Integer(u64),
    /// Any other number. No key takes one, so only its text for the error message is kept.
    Number(f64),
    Text(Cow<'a, str>),
    List(Vec<Node<'a>>),
    /// Boxed to its exact size: a topic table has a million small ones.
    Map(Box<[Entry<'a>]>),
}

pub(super) struct Entry<'a> {
    pub key: Cow<'a, str>,
    pub at: Position,
    pub node: Node<'a>,
}

/// Parses the text of one document; an empty one is `Null`.
pub(super) fn parse(text: &str) -> Result<Node<'_>, ConfigError> {
    // A YAML reader takes its positions as 32-bit numbers, and memory for the tree is several times the text.
    if text.len() > TEXT_BYTES_MAX {
        return Err(ConfigError {
            at: Some(Position::START),
            key: String::new(),
            message: format!("{} bytes of text are more than the {TEXT_BYTES_MAX} allowed", text.len()),
        });
    }
    serde_saphyr::from_str_with_options(text, options()).map_err(|error| describe(&error))
}

fn options() -> serde_saphyr::Options {
    // Nodes of one topic: the map, a key and a value for each of its five keys, and as much for the three of its window.
    let nodes = TOPICS_MAX * 20;
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_documents: 1,
            max_depth: DEPTH_MAX,
            flow_nesting_limit: DEPTH_MAX,
            max_nodes: nodes,
            max_events: nodes * 2,
            max_total_scalar_bytes: TEXT_BYTES_MAX,
            max_anchors: 0,
            max_aliases: 0,
        },
        merge_keys: MergeKeyPolicy::Error,
        // Told apart by the reader, which names the line of the first one.
        duplicate_keys: serde_saphyr::options::DuplicateKeyPolicy::PassThrough,
        // Only true and false: `on` and `off` are words that some keys take.
        strict_booleans: true,
        reject_unsupported_tags: true,
        // Comments are for people; keeping them costs memory and has a limit of its own.
        emit_comments: false,
        with_snippet: false,
    }
}

fn describe(error: &serde_saphyr::Error) -> ConfigError {
    let error = error.without_snippet();
    let message = match error {
        serde_saphyr::Error::Budget { breach, .. } => match breach {
            serde_saphyr::budget::BudgetBreach::Anchors { .. } | serde_saphyr::budget::BudgetBreach::Aliases { .. } => {
                "anchors and aliases are not taken here: write the value out".to_owned()
            }
            serde_saphyr::budget::BudgetBreach::Depth { .. } => {
                format!("nested deeper than the {DEPTH_MAX} levels allowed")
            }
            serde_saphyr::budget::BudgetBreach::Documents { .. } => {
                "a second document begins here, a file holds one".to_owned()
            }
            other => format!("too large to be a configuration: {other:?}"),
        },
        other => escaped(&UserMessageFormatter.format_message(other)),
    };
    ConfigError {
        at: Some(error.location().map_or(Position::START, position)),
        key: String::new(),
        message: format!("not a YAML document of this form: {message}"),
    }
}

fn position(location: Location) -> Position {
    let number = |n: u64| u32::try_from(n).unwrap_or(u32::MAX).max(1);
    Position { line: number(location.line()), column: number(location.column()) }
}

impl<'de> Deserialize<'de> for Node<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Value<'de>>::deserialize(deserializer)?;
        Ok(Self { at: position(spanned.referenced), value: spanned.value })
    }
}

impl<'de> Deserialize<'de> for Value<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Self::Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(Value::Boolean(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        Ok(Value::Integer(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
        Ok(u64::try_from(value).map_or(Value::Number(value as f64), Value::Integer))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Self::Value, E> {
        Ok(Value::Number(value))
    }

    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Self::Value, E> {
        Ok(Value::Text(Cow::Borrowed(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Self::Value, E> {
        Ok(Value::Text(Cow::Owned(value.to_owned())))
    }

    fn visit_string<E>(self, value: String) -> Result<Self::Value, E> {
        Ok(Value::Text(Cow::Owned(value)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let mut list = Vec::new();
        while let Some(node) = items.next_element()? {
            list.push(node);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        let mut map = Vec::new();
        while let Some(Spanned { value: Key(key), referenced, .. }) = entries.next_key()? {
            map.push(Entry { key, at: position(referenced), node: entries.next_value()? });
        }
        Ok(Value::Map(map.into_boxed_slice()))
    }
}

/// A mapping's key as text, borrowed where it stands unescaped in the document.
struct Key<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;

        impl<'de> Visitor<'de> for KeyVisitor {
            type Value = Key<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }

            fn visit_borrowed_str<E>(self, key: &'de str) -> Result<Self::Value, E> {
                Ok(Key(Cow::Borrowed(key)))
            }

            fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
                Ok(Key(Cow::Owned(key.to_owned())))
            }

            fn visit_string<E>(self, key: String) -> Result<Self::Value, E> {
                Ok(Key(Cow::Owned(key)))
            }
        }

        deserializer.deserialize_str(KeyVisitor)
    }
}

/// A value as an error message shows it: shortened, and with nothing in it that a terminal would act on.
impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("nothing"),
            Self::Boolean(value) => write!(f, "{value}"),
            Self::Integer(value) => write!(f, "{value}"),
            Self::Number(value) => write!(f, "{value}"),
            Self::Text(text) => write!(f, "`{}`", shown(text)),
            Self::List(_) => f.write_str("a list"),
            Self::Map(_) => f.write_str("a group of keys"),
        }
    }
}

/// Text of the file as an error message quotes it.
pub(super) fn shown(text: &str) -> String {
    const CHARS_SHOWN: usize = 64;
    let mut shown = escaped(&text.chars().take(CHARS_SHOWN).collect::<String>());
    if text.chars().nth(CHARS_SHOWN).is_some() {
        shown.push('…');
    }
    shown
}

/// Leaves quotes and letters of every script as they are, and shows what a terminal would act on as an escape.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' | '\'' | '\\' => escaped.push(c),
            c => escaped.extend(c.escape_debug()),
        }
    }
    escaped
}
