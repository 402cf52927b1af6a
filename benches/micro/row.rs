//! What a comparison comes to, as `cargo xtask bench` reads it.

use serde::Serialize;

/// One of ours against one baseline.
#[derive(Serialize)]
pub struct Row {
    pub case: String,
    pub metric: String,
    pub unit: String,
    /// Medians over the rounds.
    pub ours: f64,
    pub baseline: String,
    pub baseline_value: f64,
    /// How many times better ours is: of rates ours by theirs, of memory theirs by ours.
    pub ratio: f64,
    pub ours_quartiles: [f64; 2],
    pub baseline_quartiles: [f64; 2],
    /// Of the ratios within each round.
    pub ratio_quartiles: [f64; 2],
}

pub fn to_json(rows: &[Row]) -> String {
    serde_json::to_string_pretty(rows).expect("rows are numbers and names")
}

pub struct Quartiles {
    pub first: f64,
    pub median: f64,
    pub third: f64,
}

impl Quartiles {
    pub fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = values.collect();
        sorted.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let place = share * (sorted.len() - 1) as f64;
            let (low, high) = (sorted[place as usize], sorted[place.ceil() as usize]);
            low + (high - low) * place.fract()
        };
        Self { first: at(0.25), median: at(0.5), third: at(0.75) }
    }

    pub fn outer(&self) -> [f64; 2] {
        [self.first, self.third]
    }
}
