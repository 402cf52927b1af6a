//! The way over from one topic table to the next.

use std::sync::Arc;

use super::link::Link;
use super::topic_table::TopicTable;

/// Routing under the table before last, until what it queued has ended.
pub(super) struct Transition {
    pub(super) previous: Arc<TopicTable>,
    /// Per link: sequence up to which events were queued under the old table.
    pub(super) barriers: Box<[u64]>,
    /// Whether the event at hand takes the old route. It raises the barrier once it is queued, and only then: what is
    /// shed or finds no room must not be waited for.
    pub(super) follows_old: bool,
}

impl Transition {
    /// Whether what was queued on a link under the old table has ended. Once true it stays true, because from then on
    /// nothing follows the old route there.
    pub(super) fn has_ended(&self, index: usize, link: &Link) -> bool {
        link.consumed() >= self.barriers[index]
    }

    #[cold]
    pub(super) fn queued(&mut self, index: usize, link: &Link) {
        if self.follows_old {
            self.barriers[index] = link.sequence();
        }
    }
}
