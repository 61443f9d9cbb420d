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
    pub better: Better,
    /// Of the same unit; `None` for a row that is a baseline itself.
    pub beside: Option<f64>,
    pub ratio: Option<f64>,
    pub target: Option<Target>,
    pub p50_ms: Option<f64>,
    pub p99_ms: Option<f64>,
    /// The figures of the run in their order, where it is their trend that counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub samples: Vec<f64>,
}

/// Which figures are the better ones, and so on which side of a target they have to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Better {
    /// What is counted a second.
    More,
    /// What takes time or memory, or should not happen.
    Less,
}

/// What has to be reached.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// By the ratio: machines differ, and this holds on all of them.
    Ratio(f64),
    /// By the figure itself.
    Figure(f64),
}

impl Row {
    pub fn more_is_better(case: impl Into<String>, unit: &str, figure: f64) -> Row {
        Row::new(case.into(), unit, figure, Better::More)
    }

    pub fn less_is_better(case: impl Into<String>, unit: &str, figure: f64) -> Row {
        Row::new(case.into(), unit, figure, Better::Less)
    }

    fn new(case: String, unit: &str, figure: f64, better: Better) -> Row {
        Row {
            case,
            figure,
            unit: unit.to_owned(),
            better,
            beside: None,
            ratio: None,
            target: None,
            p50_ms: None,
            p99_ms: None,
            samples: Vec::new(),
        }
    }

    pub fn beside(mut self, beside: f64) -> Row {
        (self.beside, self.ratio) = (Some(beside), Some(self.figure / beside));
        self
    }

    /// The ratio to reach.
    pub fn target(mut self, ratio: f64) -> Row {
        self.target = Some(Target::Ratio(ratio));
        self
    }

    /// The figure to reach, whatever it is beside.
    pub fn target_figure(mut self, figure: f64) -> Row {
        self.target = Some(Target::Figure(figure));
        self
    }

    pub fn latencies(mut self, p50_ms: f64, p99_ms: f64) -> Row {
        (self.p50_ms, self.p99_ms) = (Some(p50_ms), Some(p99_ms));
        self
    }

    pub fn samples(mut self, samples: Vec<f64>) -> Row {
        self.samples = samples;
        self
    }

    fn is_reached(&self) -> Option<bool> {
        let (reached, target) = match self.target? {
            Target::Ratio(target) => (self.ratio?, target),
            Target::Figure(target) => (self.figure, target),
        };
        Some(match self.better {
            Better::More => reached >= target,
            Better::Less => reached <= target,
        })
    }

    fn target_text(&self) -> String {
        let sign = if self.better == Better::More { '≥' } else { '≤' };
        match self.target {
            None => String::new(),
            Some(Target::Ratio(ratio)) => format!("{sign}{ratio:.2}"),
            Some(Target::Figure(figure)) => format!("{sign}{figure} {}", self.unit),
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
            "\n{:<78}{:>10} {:<9}{:>7}{:>12}{:>9}{:>9}",
            "case", "figure", "", "ratio", "target", "p50 ms", "p99 ms"
        );
        Table { file }
    }

    pub fn row(&self, row: Row) {
        let decimals = match row.figure {
            figure if figure >= 100.0 || figure == 0.0 => 0,
            figure if figure >= 1.0 => 2,
            _ => 3,
        };
        let text =
            |value: Option<f64>, decimals: usize| value.map_or(String::new(), |value| format!("{value:.decimals$}"));
        let verdict = match row.is_reached() {
            Some(true) => "  reached",
            Some(false) => "  not reached",
            None => "",
        };
        println!(
            "{:<78}{:>10.decimals$} {:<9}{:>7}{:>12}{:>9}{:>9}{verdict}",
            row.case,
            row.figure,
            row.unit,
            text(row.ratio, 3),
            row.target_text(),
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

/// What is compared of an earlier run: so little that files of older benchmarks have it too.
#[derive(Deserialize)]
struct Earlier {
    case: String,
    figure: f64,
    ratio: Option<f64>,
}

/// Says which rows are worse than in an earlier run by more than a tenth, which is more than one run differs from the next.
/// Ratios are compared, and figures only where there is none but a target: what is no ratio varies with the machine.
pub fn compare(rows: &[Row], earlier: &Path) {
    let text = std::fs::read_to_string(earlier).unwrap_or_else(|error| panic!("{}: {error}", earlier.display()));
    let earlier: Vec<Earlier> = serde_json::from_str(&text).unwrap();
    let earlier: BTreeMap<&str, &Earlier> = earlier.iter().map(|row| (row.case.as_str(), row)).collect();
    println!("\n{:<78}{:>9}{:>9}", "beside the earlier run", "then", "now");
    for row in rows {
        let Some(before) = earlier.get(row.case.as_str()) else { continue };
        let (then, now) = match (before.ratio, row.ratio, row.target) {
            (Some(then), Some(now), _) => (then, now),
            (None, None, Some(Target::Figure(_))) => (before.figure, row.figure),
            _ => continue,
        };
        let is_worse = match row.better {
            Better::More => now < then * 0.9,
            Better::Less => now > then / 0.9,
        };
        let verdict = if is_worse { "  worse" } else { "" };
        println!("{:<78}{then:>9.2}{now:>9.2}{verdict}", row.case);
    }
}
