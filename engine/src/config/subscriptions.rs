//! Getting events out: bounds of what subscribers may ask for.

use serde::Serialize;

use super::limit::range;
use super::reader::Section;

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Subscriptions {
    /// Subscriptions of one connection.
    pub per_connection: u32,
    /// What may wait for one connection that does not read.
    pub backlog_bytes: u32,
    /// Durable subscriptions and groups.
    pub names: u32,
}

impl Default for Subscriptions {
    fn default() -> Self {
        Self {
            per_connection: 1024,
            // A second of what an ordinary client reads; more would only make what it reads late.
            backlog_bytes: 4 << 20,
            // All of them are in one file that is written whole each second in which something was done.
            names: 1024,
        }
    }
}

impl Subscriptions {
    pub(super) fn read(s: &mut Section<'_, '_>) -> Self {
        let d = Self::default();
        Self {
            per_connection: s.integer("per_connection", range(1, 1_000_000, "subscriptions"), d.per_connection),
            backlog_bytes: s.integer("backlog_bytes", range(65_536, 1 << 30, "bytes"), d.backlog_bytes),
            names: s.integer("names", range(1, 65_536, "names"), d.names),
        }
    }
}
