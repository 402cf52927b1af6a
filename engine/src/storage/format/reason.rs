//! Reasons of dead letters by their numbers on disk.

use std::borrow::Cow;

use super::RecordView;
use crate::metrics::DeadLetterReason;

/// `None` for 0, and for what a later version may have written.
pub fn reason_of(code: u8) -> Option<DeadLetterReason> {
    DeadLetterReason::ALL.iter().copied().find(|reason| reason.code() == code)
}

pub fn reason_name(code: u8) -> &'static str {
    reason_of(code).map_or("unknown", DeadLetterReason::name)
}

/// The reason of a letter as people see it: of a group, with its name.
pub fn reason_of_letter<'l>(letter: &RecordView<'l>) -> Cow<'l, str> {
    match letter.consumer {
        Some(group) => Cow::Owned(format!("{}:{group}", reason_name(letter.reason))),
        None => Cow::Borrowed(reason_name(letter.reason)),
    }
}

/// A reason as people name it, with the group if it names one.
pub fn parse_reason(text: &str) -> Option<(DeadLetterReason, Option<&str>)> {
    let (name, group) = text.split_once(':').map_or((text, None), |(name, group)| (name, Some(group)));
    let reason = DeadLetterReason::ALL.iter().copied().find(|reason| reason.name() == name)?;
    let may_name = group.is_none_or(|group| reason == DeadLetterReason::Consumer && !group.is_empty());
    may_name.then_some((reason, group))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_number_of_its_own() {
        for reason in DeadLetterReason::ALL {
            assert_eq!(reason_of(reason.code()), Some(*reason));
        }
        assert_eq!(parse_reason("consumer:a.b"), Some((DeadLetterReason::Consumer, Some("a.b"))));
        assert_eq!(parse_reason("rejected"), Some((DeadLetterReason::Rejected, None)));
        assert_eq!((parse_reason("rejected:a"), parse_reason("consumer:")), (None, None));
        assert_eq!((reason_of(0), reason_name(255)), (None, "unknown"));
    }
}
