//! Reasons of dead letters by their numbers on disk.

use crate::metrics::DeadLetterReason;

/// `None` for 0, and for what a later version may have written.
pub fn reason_of(code: u8) -> Option<DeadLetterReason> {
    DeadLetterReason::ALL.iter().copied().find(|reason| reason.code() == code)
}

pub fn reason_name(code: u8) -> &'static str {
    reason_of(code).map_or("unknown", DeadLetterReason::name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_number_of_its_own() {
        for reason in DeadLetterReason::ALL {
            assert_eq!(reason_of(reason.code()), Some(*reason));
        }
        assert_eq!((reason_of(0), reason_name(255)), (None, "unknown"));
    }
}
