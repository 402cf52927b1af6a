//! Rows as pictures: one file for each metric worth one, bars for ours and every baseline of every case.
//!
//! Whoever shows the file decides what is behind it, so its colours are such that can be read on white and on black.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use crate::bench::row::{Measured, Row};
use crate::bench::table::rounded;
use crate::{Error, Result};

/// By metric, with the name of the file.
const CHARTS: &[(&str, &str)] = &[("throughput", "throughput.svg"), ("CPU", "cpu.svg"), ("p99", "latency.svg")];

const WIDTH: f64 = 760.0;
/// What names of cases and contestants take, and what is left for the figure behind a bar.
const NAMES_WIDTH: f64 = 190.0;
const FIGURE_WIDTH: f64 = 70.0;
const BAR_HEIGHT: f64 = 16.0;
const HEAD_HEIGHT: f64 = 24.0;
const AXIS_HEIGHT: f64 = 44.0;
const OURS: &str = "#2f7fd6";
const THEIRS: &str = "#9a9a9a";
const TEXT: &str = "#808080";
/// As few lines as leave the bars in view.
const TICKS_MAX: f64 = 6.0;

/// Writes the charts there are rows for, and returns the lines of Markdown that show them, given how the README finds
/// `folder`.
pub fn write(folder: &Path, shown_as: &str, rows: &[Row]) -> Result<String> {
    let of_io = |error| Error::of_io(&folder.to_string_lossy(), &error);
    fs::create_dir_all(folder).map_err(of_io)?;
    let mut lines = String::new();
    for (metric, file) in CHARTS {
        let rows: Vec<&Row> = rows.iter().filter(|row| row.metric == *metric).collect();
        if rows.is_empty() {
            continue;
        }
        fs::write(folder.join(file), chart(metric, &rows)).map_err(of_io)?;
        let _ = writeln!(lines, "\n![{metric} of every case]({shown_as}/{file})");
    }
    Ok(lines)
}

/// One case: its name, and the figures of all who have some.
struct Group<'a> {
    case: &'a str,
    ours: Measured,
    theirs: Vec<(&'a str, Measured)>,
}

fn groups<'a>(rows: &[&'a Row]) -> Vec<Group<'a>> {
    let of = |rows: &[&'a Row]| Group {
        case: &rows[0].case,
        ours: rows[0].ours,
        theirs: rows.iter().filter_map(|row| Some((row.baseline.as_str(), row.against?.theirs))).collect(),
    };
    rows.chunk_by(|one, other| one.case == other.case).map(of).collect()
}

fn chart(metric: &str, rows: &[&Row]) -> String {
    let groups = groups(rows);
    let unit = rows.first().map_or("", |row| row.unit.as_str());
    let all = groups.iter().flat_map(|group| group.theirs.iter().map(|(_, theirs)| theirs).chain([&group.ours]));
    let most = all.map(|measured| measured.quartiles[1].max(measured.median)).fold(0.0, f64::max);
    let scale = (WIDTH - NAMES_WIDTH - FIGURE_WIDTH) / most;
    let bars: usize = groups.iter().map(|group| group.theirs.len() + 1).sum();
    let bottom = groups.len() as f64 * HEAD_HEIGHT + bars as f64 * BAR_HEIGHT;
    let height = bottom + AXIS_HEIGHT;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"11\" fill=\"{TEXT}\" role=\"img\">\n<title>{metric} in {unit}</title>\n"
    );
    axis(&mut svg, most, scale, bottom, &format!("{metric}, {unit}"));
    let mut y = 0.0;
    for group in &groups {
        let _ = writeln!(svg, "<text x=\"4\" y=\"{}\" font-weight=\"bold\">{}</text>", y + 17.0, escaped(group.case));
        y += HEAD_HEIGHT;
        let ours = ("ours", group.ours, OURS);
        for (name, measured, colour) in
            std::iter::once(ours).chain(group.theirs.iter().map(|(name, measured)| (*name, *measured, THEIRS)))
        {
            bar(&mut svg, y, name, &measured, scale, colour);
            y += BAR_HEIGHT;
        }
    }
    svg.push_str("</svg>\n");
    svg
}

/// Lines at round numbers, and what they count.
fn axis(svg: &mut String, most: f64, scale: f64, bottom: f64, label: &str) {
    let step = step(most);
    for number in 0..=(most / step) as u32 {
        let at = f64::from(number) * step;
        let x = NAMES_WIDTH + at * scale;
        // What a step of 0.2 adds up to has digits of which nobody wants to know.
        let shown = (at * 1e3).round() / 1e3;
        let _ = writeln!(
            svg,
            "<line x1=\"{x:.1}\" y1=\"4\" x2=\"{x:.1}\" y2=\"{bottom}\" stroke=\"{TEXT}\" stroke-opacity=\"0.3\"/>\
             <text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{shown}</text>",
            bottom + 16.0
        );
    }
    let _ = writeln!(svg, "<text x=\"{NAMES_WIDTH}\" y=\"{}\">{}</text>", bottom + 34.0, escaped(label));
}

/// A bar, a line from quartile to quartile, and the figure.
fn bar(svg: &mut String, y: f64, name: &str, measured: &Measured, scale: f64, colour: &str) {
    let middle = y + BAR_HEIGHT / 2.0;
    let [from, to] = measured.quartiles.map(|quartile| NAMES_WIDTH + quartile * scale);
    let width = measured.median * scale;
    let _ = writeln!(
        svg,
        "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\
         <rect x=\"{NAMES_WIDTH}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"{:.1}\" fill=\"{colour}\"/>\
         <line x1=\"{from:.1}\" y1=\"{middle:.1}\" x2=\"{to:.1}\" y2=\"{middle:.1}\" stroke=\"{TEXT}\" stroke-width=\"2\"/>\
         <text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
        NAMES_WIDTH - 6.0,
        middle + 4.0,
        escaped(name),
        y + 2.0,
        BAR_HEIGHT - 4.0,
        to.max(NAMES_WIDTH + width) + 6.0,
        middle + 4.0,
        rounded(measured.median),
    );
}

/// 1, 2 or 5 times a power of ten.
fn step(most: f64) -> f64 {
    let least = most / TICKS_MAX;
    let power = 10_f64.powf(least.log10().floor());
    [1.0, 2.0, 5.0].into_iter().map(|factor| factor * power).find(|step| *step >= least).unwrap_or(10.0 * power)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::row::Better;

    fn row(case: &str, baseline: &str, theirs: &[f64]) -> Row {
        Row::of_rounds((case, "throughput", "M/s"), &[30.0, 20.0], baseline, theirs, Better::More)
    }

    #[test]
    fn every_figure_has_a_bar_and_what_is_absent_has_none() {
        let rows = [row("a", "x & y", &[5.0]), row("a", "absent", &[]), row("b", "z", &[47.0])];
        let svg = chart("throughput", &rows.iter().collect::<Vec<_>>());
        assert_eq!(svg.matches("<rect").count(), 4, "{svg}");
        assert_eq!(svg.matches(OURS).count(), 2);
        assert!(svg.contains("x &amp; y") && svg.contains("throughput, M/s") && !svg.contains("absent"), "{svg}");
        let small = Row::of_rounds(("a", "throughput", "M/s"), &[0.9], "x", &[0.5], Better::More);
        assert!(chart("throughput", &[&small]).contains(">0.6<"), "no digits of the addition");
        assert!(svg.contains(">25.0<") && svg.contains(">47.0<"), "{svg}");
    }

    #[test]
    fn lines_are_at_round_numbers_and_few() {
        for (most, expected) in [(37.0, 10.0), (6.0, 1.0), (7.0, 2.0), (1_270.0, 500.0), (0.9, 0.2)] {
            assert!((step(most) - expected).abs() < 1e-9, "{most}: {}", step(most));
        }
    }

    #[test]
    fn there_is_a_file_for_each_metric_that_has_rows() {
        let folder = std::env::temp_dir().join(format!("esc-charts-{}", std::process::id()));
        let lines = write(&folder, "benches/charts", &[row("a", "x", &[5.0])]).unwrap();
        assert_eq!(lines.trim(), "![throughput of every case](benches/charts/throughput.svg)");
        let files: Vec<_> = fs::read_dir(&folder).unwrap().flatten().map(|entry| entry.file_name()).collect();
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!(files, ["throughput.svg"]);
    }
}
