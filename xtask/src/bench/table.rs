//! Rows laid out for reading.

use std::fmt::Write;

use super::row::{Against, Measured, Row};

/// A case's rows under each other, with every figure and its quartiles.
pub fn for_terminal(rows: &[Row]) -> String {
    let mut text = String::new();
    let mut before = None;
    for row in rows {
        if before != Some((&row.case, &row.metric)) {
            before = Some((&row.case, &row.metric));
            let _ = writeln!(text, "{} {}: {} {}", row.case, row.metric, figure(&row.ours), row.unit);
        }
        let _ = match &row.against {
            Some(Against { theirs, ratio }) => {
                writeln!(text, "  {:<22} {:<24} {} ×", row.baseline, figure(theirs), figure(ratio))
            }
            None => writeln!(text, "  {:<22} absent", row.baseline),
        };
    }
    text
}

/// One table for cases of a family that have the same baselines; a line for each case.
pub fn for_markdown(rows: &[Row]) -> String {
    let mut tables: Vec<(&str, Vec<&str>, String)> = Vec::new();
    for line in rows.chunk_by(|a, b| a.case == b.case && a.metric == b.metric) {
        let Some(first) = line.first() else { continue };
        let family = first.case.split('_').next().unwrap_or_default();
        let baselines: Vec<&str> = line.iter().map(|row| row.baseline.as_str()).collect();
        let same = tables.iter().position(|(name, names, _)| *name == family && *names == baselines);
        let place = same.unwrap_or_else(|| {
            let head = format!("| case | ours | {} |\n|---|---|{}\n", baselines.join(" | "), "---|".repeat(line.len()));
            tables.push((family, baselines, head));
            tables.len() - 1
        });
        let table = &mut tables[place].2;
        let what = if first.metric == "throughput" { String::new() } else { format!(" {}", first.metric) };
        let _ = write!(table, "| {}{what} | {} {} |", first.case, figure(&first.ours), first.unit);
        for row in line {
            let _ = match &row.against {
                Some(Against { theirs, ratio }) => {
                    write!(table, " {}: **{} ×** |", rounded(theirs.median), figure(ratio))
                }
                None => write!(table, " absent |"),
            };
        }
        table.push('\n');
    }
    tables.into_iter().map(|(.., table)| table).collect::<Vec<_>>().join("\n")
}

/// The median, and the quartiles where they differ from it.
fn figure(measured: &Measured) -> String {
    let [first, third] = measured.quartiles.map(rounded);
    let median = rounded(measured.median);
    if first == median && third == median { median } else { format!("{median} ({first}–{third})") }
}

/// Three digits that count.
pub fn rounded(value: f64) -> String {
    let digits = if value >= 100.0 {
        0
    } else if value >= 10.0 {
        1
    } else {
        2
    };
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(case: &str, metric: &str, baseline: &str) -> Row {
        let ours = Measured { median: 123.4, quartiles: [120.0, 130.0] };
        let theirs = Measured { median: 50.0, quartiles: [50.0, 50.0] };
        let ratio = Measured { median: 2.468, quartiles: [2.4, 2.6] };
        let unit = if metric == "memory" { "B/id" } else { "M/s" };
        Row {
            case: case.into(),
            metric: metric.into(),
            unit: unit.into(),
            ours,
            baseline: baseline.into(),
            against: Some(Against { theirs, ratio }),
        }
    }

    #[test]
    fn cases_with_the_same_baselines_share_a_table() {
        let rows = [
            row("a_1t", "throughput", "x"),
            row("a_1t", "throughput", "y"),
            row("a_1t_cost", "throughput", "z"),
            row("a_2t", "memory", "x"),
            row("a_2t", "memory", "y"),
            row("b_1t", "throughput", "z"),
        ];
        let expected = "| case | ours | x | y |\n|---|---|---|---|\n\
            | a_1t | 123 (120–130) M/s | 50.0: **2.47 (2.40–2.60) ×** | 50.0: **2.47 (2.40–2.60) ×** |\n\
            | a_2t memory | 123 (120–130) B/id | 50.0: **2.47 (2.40–2.60) ×** | 50.0: **2.47 (2.40–2.60) ×** |\n\n\
            | case | ours | z |\n|---|---|---|\n\
            | a_1t_cost | 123 (120–130) M/s | 50.0: **2.47 (2.40–2.60) ×** |\n\n\
            | case | ours | z |\n|---|---|---|\n\
            | b_1t | 123 (120–130) M/s | 50.0: **2.47 (2.40–2.60) ×** |\n";
        assert_eq!(for_markdown(&rows), expected);
    }

    #[test]
    fn what_is_absent_has_no_figure() {
        let rows = [Row { against: None, ..row("a", "throughput", "x") }, row("a", "throughput", "y")];
        assert!(for_markdown(&rows).ends_with("| a | 123 (120–130) M/s | absent | 50.0: **2.47 (2.40–2.60) ×** |\n"));
        assert!(for_terminal(&rows).lines().nth(1).is_some_and(|line| line.ends_with("x                      absent")));
    }

    #[test]
    fn a_terminal_shows_every_figure() {
        let text = for_terminal(&[row("a", "throughput", "x"), row("a", "throughput", "y")]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[0], "a throughput: 123 (120–130) M/s");
        assert!(lines[2].contains("y  ") && lines[2].ends_with("2.47 (2.40–2.60) ×"), "{}", lines[2]);
    }
}
