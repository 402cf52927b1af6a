//! What a whole number may be: stated once for each key, for the check, the message and the documentation's test.

use std::fmt;

/// What a whole number may be.
#[derive(Clone, Copy)]
pub(super) struct Limit {
    min: u64,
    max: u64,
    power_of_two: bool,
    unit: &'static str,
}

pub(super) const fn range(min: u64, max: u64, unit: &'static str) -> Limit {
    Limit { min, max, power_of_two: false, unit }
}

/// For what is indexed by masking: rings, pools and tables.
pub(super) const fn power_of_two(min: u64, max: u64, unit: &'static str) -> Limit {
    Limit { min, max, power_of_two: true, unit }
}

impl Limit {
    /// The value itself, or what is wrong with it.
    pub fn check(self, value: u64) -> Result<u64, String> {
        if !(self.min..=self.max).contains(&value) {
            let Self { min, max, unit, .. } = self;
            Err(format!("value {value} is outside {min}..={max} ({unit})"))
        } else if self.power_of_two && !value.is_power_of_two() {
            Err(format!("value {value} is not {self}"))
        } else {
            Ok(value)
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.power_of_two {
            f.write_str("a power of two in ")?;
        }
        write!(f, "{}..={} ({})", self.min, self.max, self.unit)
    }
}
