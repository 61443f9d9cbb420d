//! `model-nexus models list`: a host's models and versions.

use chrono::{DateTime, Utc};
use clap::Args;
use serde::{Deserialize, Serialize};

use super::api::Api;
use super::{HostOptions, size};
use crate::model::version_key;

#[derive(Debug, Args)]
pub struct ListOptions {
    /// In JSON, sizes in bytes.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    host: HostOptions,
}

/// One version, as the host tells of it.
#[derive(Serialize)]
struct Row {
    model: String,
    #[serde(flatten)]
    version: Version,
}

#[derive(Serialize, Deserialize)]
struct Version {
    version: String,
    state: String,
    /// Why it cannot serve.
    reason: Option<String>,
    default: bool,
    weight: Option<f64>,
    /// Bytes of the model and its external data.
    size: Option<u64>,
    memory_bytes: Option<u64>,
    uploaded_at: Option<DateTime<Utc>>,
}

pub(super) async fn run(options: &ListOptions) -> Result<(), String> {
    let api = Api::new(&options.host)?;
    let mut rows = Vec::new();
    let mut ids: Vec<String> = api.versions().await?.into_iter().map(|known| known.id).collect();
    ids.dedup();
    for model in ids {
        let mut versions: Vec<Version> = api.info(&model).await?;
        versions.sort_by(|one, other| version_key(&one.version).cmp(&version_key(&other.version)));
        for version in versions {
            rows.push(Row { model: model.clone(), version });
        }
    }
    if options.json {
        println!("{}", serde_json::to_string_pretty(&rows).map_err(|error| error.to_string())?);
    } else if rows.is_empty() {
        println!("{} has no models", options.host.url);
    } else {
        print_table(&rows);
    }
    Ok(())
}

const HEADINGS: [&str; 8] = ["MODEL", "VERSION", "STATE", "DEFAULT", "WEIGHT", "SIZE", "MEMORY", "UPLOADED"];

fn print_table(rows: &[Row]) {
    let table: Vec<[String; 8]> =
        [HEADINGS.map(str::to_owned)].into_iter().chain(rows.iter().map(Row::cells)).collect();
    let width = |column: usize| table.iter().map(|cells| cells[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 8] = std::array::from_fn(width);
    for cells in &table {
        let line: Vec<String> = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        println!("{}", line.join("  ").trim_end());
    }
    for Row { model, version: Version { version, reason, .. } } in rows {
        if let Some(reason) = reason {
            println!("{model}, version {version}: {reason}");
        }
    }
}

impl Row {
    fn cells(&self) -> [String; 8] {
        let Version { version, state, default, weight, size: bytes, memory_bytes, uploaded_at, .. } = &self.version;
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        [
            self.model.clone(),
            version.clone(),
            state.clone(),
            if *default { "yes" } else { "" }.to_owned(),
            or_dash(weight.map(|weight| weight.to_string())),
            or_dash(bytes.map(size)),
            or_dash(memory_bytes.map(size)),
            or_dash(uploaded_at.map(|time| time.format("%Y-%m-%d %H:%M").to_string())),
        ]
    }
}
