//! A row as a benchmark program writes it: one of ours against one baseline.

use serde_json::Value;

use crate::{Error, Result};

/// A median and what lies around it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    pub median: f64,
    pub quartiles: [f64; 2],
}

#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub case: String,
    pub metric: String,
    pub unit: String,
    pub ours: Measured,
    pub baseline: String,
    pub theirs: Measured,
    /// How many times better ours is.
    pub ratio: Measured,
}

/// Reads an array of rows.
pub fn parse(text: &str) -> Result<Vec<Row>> {
    let rows: Value = serde_json::from_str(text).map_err(|error| Error::failed(format!("benchmark rows: {error}")))?;
    let rows = rows.as_array().ok_or_else(|| Error::failed("benchmark rows: an array was expected"))?;
    if rows.is_empty() {
        return Err(Error::failed("the benchmark has measured nothing"));
    }
    rows.iter()
        .map(|row| of_json(row).ok_or_else(|| Error::failed(format!("benchmark row not understood: {row}"))))
        .collect()
}

fn of_json(row: &Value) -> Option<Row> {
    let text = |key: &str| row[key].as_str().map(str::to_owned);
    let measured = |key: &str, quartiles: &str| {
        let median = row[key].as_f64()?;
        let quartiles = [row[quartiles][0].as_f64()?, row[quartiles][1].as_f64()?];
        Some(Measured { median, quartiles })
    };
    Some(Row {
        case: text("case")?,
        metric: text("metric")?,
        unit: text("unit")?,
        ours: measured("ours", "ours_quartiles")?,
        baseline: text("baseline")?,
        theirs: measured("baseline_value", "baseline_quartiles")?,
        ratio: measured("ratio", "ratio_quartiles")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_row_is_refused() {
        assert!(parse("[]").is_err());
        assert!(parse("{}").is_err());
        let row = r#"{"case": "a_1t", "metric": "throughput", "unit": "M/s", "ours": 3.0, "ours_quartiles": [2, 4],
            "baseline": "b", "baseline_value": 2.0, "baseline_quartiles": [1, 2.5], "ratio": 1.5, "ratio_quartiles": [1, 2]}"#;
        let rows = parse(&format!("[{row}]")).unwrap();
        assert_eq!(rows[0].ratio, Measured { median: 1.5, quartiles: [1.0, 2.0] });
        let error = parse(&format!("[{}]", row.replace("1.5", "null"))).unwrap_err();
        assert!(error.to_string().contains("a_1t"), "{error}");
    }
}
