//! What a run found: printed as a table, written as JSON, held against an earlier run.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// One figure, beside what it is measured against in the same run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Row {
    pub case: String,
    pub figure: f64,
    pub unit: String,
    /// Of the same unit; `None` for a row that is a baseline itself.
    pub beside: Option<f64>,
    pub ratio: Option<f64>,
    /// What the ratio has to reach: at least for what is counted a second, at most for what takes time or memory.
    pub target: Option<Target>,
    pub p50_ms: Option<f64>,
    pub p99_ms: Option<f64>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    AtLeast(f64),
    AtMost(f64),
}

impl Row {
    pub fn new(case: impl Into<String>, unit: &str, figure: f64) -> Row {
        let (case, unit) = (case.into(), unit.to_owned());
        Row { case, figure, unit, beside: None, ratio: None, target: None, p50_ms: None, p99_ms: None }
    }

    pub fn beside(mut self, beside: f64) -> Row {
        (self.beside, self.ratio) = (Some(beside), Some(self.figure / beside));
        self
    }

    pub fn at_least(mut self, ratio: f64) -> Row {
        self.target = Some(Target::AtLeast(ratio));
        self
    }

    pub fn at_most(mut self, ratio: f64) -> Row {
        self.target = Some(Target::AtMost(ratio));
        self
    }

    pub fn latencies(mut self, p50_ms: f64, p99_ms: f64) -> Row {
        (self.p50_ms, self.p99_ms) = (Some(p50_ms), Some(p99_ms));
        self
    }

    fn is_reached(&self) -> Option<bool> {
        match (self.ratio?, self.target?) {
            (ratio, Target::AtLeast(least)) => Some(ratio >= least),
            (ratio, Target::AtMost(most)) => Some(ratio <= most),
        }
    }
}

/// Where rows go: to the screen, and a line each to a file that the parts of a run share.
pub struct Table {
    pub file: PathBuf,
}

impl Table {
    pub fn new(file: PathBuf) -> Table {
        println!(
            "\n{:<66}{:>12} {:<8}{:>7}{:>8}{:>9}{:>9}",
            "case", "figure", "", "ratio", "target", "p50 ms", "p99 ms"
        );
        Table { file }
    }

    pub fn row(&self, row: Row) {
        let decimals = if row.figure < 100.0 { 2 } else { 0 };
        let text =
            |value: Option<f64>, decimals: usize| value.map_or(String::new(), |value| format!("{value:.decimals$}"));
        let target = row.target.map_or(String::new(), |target| match target {
            Target::AtLeast(ratio) => format!("≥{ratio:.2}"),
            Target::AtMost(ratio) => format!("≤{ratio:.2}"),
        });
        let verdict = match row.is_reached() {
            Some(false) => "  not reached",
            _ => "",
        };
        println!(
            "{:<66}{:>12.decimals$} {:<8}{:>7}{:>8}{:>9}{:>9}{verdict}",
            row.case,
            row.figure,
            row.unit,
            text(row.ratio, 2),
            target,
            text(row.p50_ms, 3),
            text(row.p99_ms, 3)
        );
        let mut file = OpenOptions::new().create(true).append(true).open(&self.file).unwrap();
        writeln!(file, "{}", serde_json::to_string(&row).unwrap()).unwrap();
    }
}

/// The rows of all parts of a run.
pub fn read(file: &Path) -> Vec<Row> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Says which ratios are worse than in an earlier run by more than a tenth, which is more than one run differs from the next.
pub fn compare(rows: &[Row], earlier: &Path) {
    let text = std::fs::read_to_string(earlier).unwrap_or_else(|error| panic!("{}: {error}", earlier.display()));
    let earlier: Vec<Row> = serde_json::from_str(&text).unwrap();
    let earlier: BTreeMap<&str, &Row> = earlier.iter().map(|row| (row.case.as_str(), row)).collect();
    println!("\n{:<66}{:>9}{:>9}", "beside the earlier run", "then", "now");
    for row in rows {
        let Some((now, then)) = row.ratio.zip(earlier.get(row.case.as_str()).and_then(|row| row.ratio)) else {
            continue;
        };
        let change = if matches!(row.target, Some(Target::AtMost(_))) { then / now } else { now / then };
        let verdict = if change < 0.9 { "  worse" } else { "" };
        println!("{:<66}{then:>9.2}{now:>9.2}{verdict}", row.case);
    }
}
