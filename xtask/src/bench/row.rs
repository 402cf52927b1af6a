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
    /// `None` where the baseline is not installed.
    pub against: Option<Against>,
}

/// A baseline's figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Against {
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
    /// From the figures of both in the same rounds, a baseline that is absent having none; `what` is case, metric and unit.
    /// The ratio is the medians', its quartiles are those of the ratios within the rounds.
    pub fn of_rounds(what: (&str, &str, &str), ours: &[f64], baseline: &str, theirs: &[f64], better: Better) -> Self {
        let ratio = |ours: f64, theirs: f64| match better {
            Better::More => ours / theirs,
            Better::Less => theirs / ours,
        };
        let of_all = |values: &[f64]| Measured::of(values.iter().copied());
        let against = (!theirs.is_empty()).then(|| {
            let ratios = Measured::of(ours.iter().zip(theirs).map(|(ours, theirs)| ratio(*ours, *theirs)));
            let median = ratio(of_all(ours).median, of_all(theirs).median);
            Against { theirs: of_all(theirs), ratio: Measured { median, quartiles: ratios.quartiles } }
        });
        Row {
            case: what.0.into(),
            metric: what.1.into(),
            unit: what.2.into(),
            ours: of_all(ours),
            baseline: baseline.into(),
            against,
        }
    }
}

/// Writes what [`parse`] reads. What an absent baseline would have is null.
pub fn to_json(rows: &[Row]) -> String {
    let row = |row: &Row| {
        let (theirs, ratio) = (row.against.map(|against| against.theirs), row.against.map(|against| against.ratio));
        let median = |measured: Option<Measured>| measured.map(|measured| measured.median);
        let quartiles = |measured: Option<Measured>| measured.map(|measured| measured.quartiles);
        json!({
            "case": row.case, "metric": row.metric, "unit": row.unit,
            "ours": row.ours.median, "ours_quartiles": row.ours.quartiles,
            "baseline": row.baseline, "baseline_value": median(theirs), "baseline_quartiles": quartiles(theirs),
            "ratio": median(ratio), "ratio_quartiles": quartiles(ratio),
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
    let is_absent = ["baseline_value", "ratio"].iter().all(|key| row.get(key).is_some_and(Value::is_null));
    let against = || {
        let theirs = measured("baseline_value", "baseline_quartiles")?;
        Some(Against { theirs, ratio: measured("ratio", "ratio_quartiles")? })
    };
    Some(Row {
        case: text("case")?,
        metric: text("metric")?,
        unit: text("unit")?,
        ours: measured("ours", "ours_quartiles")?,
        baseline: text("baseline")?,
        against: if is_absent { None } else { Some(against()?) },
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
        let against = row.against.unwrap();
        assert_eq!(against.theirs, Measured { median: 2.0, quartiles: [1.0, 2.0] });
        assert_eq!(against.ratio, Measured { median: 1.5, quartiles: [1.0, 2.5] });
        let row = Row::of_rounds(("c", "m", "u"), &[4.0], "b", &[2.0], Better::Less);
        assert_eq!(row.against.unwrap().ratio, Measured { median: 0.5, quartiles: [0.5; 2] });
    }

    #[test]
    fn what_is_written_is_read() {
        let with = |theirs| Row::of_rounds(("c", "m", "u"), &[4.0, 2.0], "b", theirs, Better::Less);
        let rows = [with(&[2.0, 3.0]), with(&[])];
        assert!(rows[0].against.is_some() && rows[1].against.is_none());
        assert_eq!(parse(&to_json(&rows)).unwrap(), rows);
    }

    #[test]
    fn what_is_no_row_is_refused() {
        assert!(parse("[]").is_err());
        assert!(parse("{}").is_err());
        let row = r#"{"case": "a_1t", "metric": "throughput", "unit": "M/s", "ours": 3.0, "ours_quartiles": [2, 4],
            "baseline": "b", "baseline_value": 2.0, "baseline_quartiles": [1, 2.5], "ratio": 1.5, "ratio_quartiles": [1, 2]}"#;
        let rows = parse(&format!("[{row}]")).unwrap();
        assert_eq!(rows[0].against.unwrap().ratio, Measured { median: 1.5, quartiles: [1.0, 2.0] });
        let error = parse(&format!("[{}]", row.replace("1.5", "null"))).unwrap_err();
        assert!(error.to_string().contains("a_1t"), "{error}");
    }
}
