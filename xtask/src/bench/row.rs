//! One of ours against one baseline: as a benchmark program writes it, or made of rounds measured here.

use serde_json::{Value, json};

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

/// Which of two figures is the better one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    More,
    Less,
}

impl Measured {
    /// Of at least one value.
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = values.collect();
        sorted.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let place = share * (sorted.len() - 1) as f64;
            let (low, high) = (sorted[place as usize], sorted[place.ceil() as usize]);
            low + (high - low) * place.fract()
        };
        Self { median: at(0.5), quartiles: [at(0.25), at(0.75)] }
    }
}

impl Row {
    /// From the figures of both in the same rounds; `what` is case, metric and unit. The ratio is the medians', its quartiles
    /// are those of the ratios within the rounds.
    pub fn of_rounds(what: (&str, &str, &str), ours: &[f64], baseline: &str, theirs: &[f64], better: Better) -> Self {
        let ratio = |ours: f64, theirs: f64| match better {
            Better::More => ours / theirs,
            Better::Less => theirs / ours,
        };
        let quartiles = Measured::of(ours.iter().zip(theirs).map(|(ours, theirs)| ratio(*ours, *theirs))).quartiles;
        let (ours, theirs) = (Measured::of(ours.iter().copied()), Measured::of(theirs.iter().copied()));
        Row {
            case: what.0.into(),
            metric: what.1.into(),
            unit: what.2.into(),
            ours,
            baseline: baseline.into(),
            theirs,
            ratio: Measured { median: ratio(ours.median, theirs.median), quartiles },
        }
    }
}

/// Writes what [`parse`] reads.
pub fn to_json(rows: &[Row]) -> String {
    let row = |row: &Row| {
        json!({
            "case": row.case, "metric": row.metric, "unit": row.unit,
            "ours": row.ours.median, "ours_quartiles": row.ours.quartiles,
            "baseline": row.baseline, "baseline_value": row.theirs.median, "baseline_quartiles": row.theirs.quartiles,
            "ratio": row.ratio.median, "ratio_quartiles": row.ratio.quartiles,
        })
    };
    format!("{:#}\n", Value::Array(rows.iter().map(row).collect()))
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
    fn rounds_become_medians_and_quartiles() {
        let (ours, theirs) = ([4.0, 1.0, 2.0, 3.0, 5.0], [2.0, 1.0, 2.0, 1.0, 2.0]);
        let row = Row::of_rounds(("c", "m", "u"), &ours, "b", &theirs, Better::More);
        assert_eq!(row.ours, Measured { median: 3.0, quartiles: [2.0, 4.0] });
        assert_eq!(row.theirs, Measured { median: 2.0, quartiles: [1.0, 2.0] });
        assert_eq!(row.ratio, Measured { median: 1.5, quartiles: [1.0, 2.5] });
        let row = Row::of_rounds(("c", "m", "u"), &[4.0], "b", &[2.0], Better::Less);
        assert_eq!(row.ratio, Measured { median: 0.5, quartiles: [0.5; 2] });
    }

    #[test]
    fn what_is_written_is_read() {
        let rows = [Row::of_rounds(("c", "m", "u"), &[4.0, 2.0], "b", &[2.0, 3.0], Better::Less)];
        assert_eq!(parse(&to_json(&rows)).unwrap(), rows);
    }

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
