//! The topic table's entries as configured.

use serde::Serialize;

use super::words::{Class, TopicOrder};

/// The most entries the table takes.
pub const TOPICS_MAX: usize = 1_000_000;

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Topic {
    pub name: Box<str>,
    /// As named by the entry, or by the priority it has instead.
    pub class: Class,
    /// `None`: as `dedup.classes` says for the class.
    pub dedup: Option<bool>,
    pub order: TopicOrder,
}
