//! Files of rows through a model: read, run many at once, written in order. The REST interface and the command line wrap it.
//!
//! Three stages, joined by bounded channels: a thread that reads rows into [`Chunk`]s, a task that runs several of them at
//! once ([`job`]), and a thread that writes their answers. Where one is slow the others wait, so memory stays the same
//! however long the file is.

mod feed;
mod job;
mod plan;
mod read;
mod rows;
mod write;

pub use feed::{Feed, FeedError, Feeder, feed};
pub use job::{AnswerBytes, Batch, Limits, Outcome, Progress, Runner};
pub use plan::{MOST_ROWS, Plan};
pub use read::{ReadOptions, rows_in_parquet};
pub use write::predictions;

/// What a file of rows is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One JSON value a line.
    Ndjson,
    Csv,
    Parquet,
}

impl Format {
    pub const ALL: [Format; 3] = [Format::Ndjson, Format::Csv, Format::Parquet];

    /// The format of that media type, without its parameters.
    pub fn from_media_type(media_type: &str) -> Option<Format> {
        match media_type {
            "application/x-ndjson" | "application/ndjson" | "application/jsonl" | "application/x-jsonlines" => {
                Some(Format::Ndjson)
            }
            "text/csv" | "application/csv" => Some(Format::Csv),
            "application/vnd.apache.parquet" | "application/x-parquet" | "application/parquet" => Some(Format::Parquet),
            _ => None,
        }
    }

    /// The format of a file's name.
    pub fn from_extension(extension: &str) -> Option<Format> {
        match extension.to_ascii_lowercase().as_str() {
            "ndjson" | "jsonl" => Some(Format::Ndjson),
            "csv" => Some(Format::Csv),
            "parquet" => Some(Format::Parquet),
            _ => None,
        }
    }

    pub fn media_type(self) -> &'static str {
        match self {
            Format::Ndjson => "application/x-ndjson",
            Format::Csv => "text/csv",
            Format::Parquet => "application/vnd.apache.parquet",
        }
    }
}
