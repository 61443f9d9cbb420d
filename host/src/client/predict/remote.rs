//! Rows sent to a running host, answers taken meanwhile.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::TryStreamExt;
use http_body_util::BodyExt;
use reqwest::Body;
use reqwest::header::HeaderMap;
use tokio::io::AsyncRead;
use tokio_util::io::ReaderStream;

use super::count::RowCount;
use super::output::Output;
use super::{PredictOptions, Watch, is_standard};
use crate::batch::{Format, Outcome, rows_in_parquet};
use crate::client::ModelReference;
use crate::client::api::Api;

/// Bytes of the input that are sent at once.
const BLOCK: usize = 256 << 10;

pub(super) async fn run(
    options: &PredictOptions,
    (from, to): (Format, Format),
    watch: &Watch,
) -> Result<Outcome, String> {
    let Some(ModelReference { id, version }) = &options.model else { return Err("no model is named".to_owned()) };
    let api = Api::new(&options.host)?;
    let (header, columns) = (options.header.map(|header| header.to_string()), options.columns.as_ref());
    let columns = columns.map(|columns| columns.join(","));
    let named = [("version", version), ("header", &header), ("columns", &columns)];
    let query: Vec<(&str, &str)> = named.iter().filter_map(|(name, value)| Some((*name, value.as_deref()?))).collect();
    let answers = async {
        if from == Format::Parquet && !is_standard(&options.input) {
            let file = std::fs::File::open(&options.input).map_err(|error| options.unreadable(&error))?;
            // One that is no such file the host refuses, and says why.
            rows_in_parquet(&file).into_iter().for_each(|rows| watch.progress.expect(rows));
        }
        let rows = body(options, watch).await?;
        let response = api.batch(id, &query, [from.media_type(), to.media_type()], rows).await?;
        let mut output = Output::create(&options.out).await?;
        let mut body = http::Response::<Body>::from(response).into_body();
        let (mut counts, mut count) = (None, RowCount::of(to));
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| format!("the host broke off its answer: {}", api.broken(&error)))?;
            match frame.into_data() {
                Ok(piece) => {
                    output.write(&piece).await?;
                    watch.answered.fetch_add(piece.len() as u64, Ordering::Relaxed);
                    // Which of them failed is said at the end.
                    watch.progress.add(count.add(&piece), 0);
                }
                Err(frame) => counts = frame.into_trailers().ok().as_ref().and_then(outcome),
            }
        }
        let counts = counts.ok_or("the host does not say how many rows there were: is there a proxy on the way?")?;
        output.finish().await?;
        Ok(counts)
    };
    tokio::select! {
        ended = answers => ended,
        never = watch.look() => match never {},
    }
}

/// The input, counted as it is sent.
async fn body(options: &PredictOptions, watch: &Watch) -> Result<Body, String> {
    let read = Arc::clone(&watch.read);
    let input: Box<dyn AsyncRead + Send + Unpin> = match is_standard(&options.input) {
        true => Box::new(tokio::io::stdin()),
        false => Box::new(tokio::fs::File::open(&options.input).await.map_err(|error| options.unreadable(&error))?),
    };
    let pieces = ReaderStream::with_capacity(input, BLOCK);
    Ok(Body::wrap_stream(pieces.inspect_ok(move |piece| {
        read.fetch_add(piece.len() as u64, Ordering::Relaxed);
    })))
}

/// What the host says behind the answers.
fn outcome(trailers: &HeaderMap) -> Option<Outcome> {
    let count = |name: &str| trailers.get(name)?.to_str().ok()?.parse().ok();
    Some(Outcome { rows: count("x-batch-rows")?, failed: count("x-batch-failed")? })
}
