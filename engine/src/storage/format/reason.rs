//! Reasons of dead letters as numbers on disk. A number is never given to another reason.

use crate::metrics::DeadLetterReason;

/// 0 is no reason.
pub const fn reason_code(reason: DeadLetterReason) -> u8 {
    match reason {
        DeadLetterReason::Rejected => 1,
        DeadLetterReason::RetriesExhausted => 2,
        DeadLetterReason::RetryOverflow => 3,
        DeadLetterReason::HandlerPanic => 4,
        DeadLetterReason::LinkFull => 5,
        DeadLetterReason::ShedDropping => 6,
        DeadLetterReason::ShedEmergency => 7,
    }
}

/// `None` for 0, and for what a later version may have written.
pub fn reason_of(code: u8) -> Option<DeadLetterReason> {
    DeadLetterReason::ALL.iter().copied().find(|reason| reason_code(*reason) == code)
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
            assert_eq!(reason_of(reason_code(*reason)), Some(*reason));
        }
        assert_eq!((reason_of(0), reason_name(255)), (None, "unknown"));
    }
}
