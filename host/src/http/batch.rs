//! `POST /models/{id}/batch`: a file of rows through a model, streamed in and out.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use axum::Extension;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::Stream;
use http_body::Frame;
use http_body_util::BodyExt;
use serde::Deserialize;
use tracing::Instrument;

use super::{Observation, body_error};
use crate::app::App;
use crate::batch::{AnswerBytes, Batch, Feeder, Format, Limits, Outcome, Progress, ReadOptions, Runner, feed};
use crate::config::to_usize;
use crate::error::{Error, Result};
use crate::model::{Route, Sticky, WorkerLimits};
use crate::predict::Target;

#[derive(Deserialize)]
pub struct Parameters {
    version: Option<String>,
    header: Option<bool>,
    /// Names, separated by commas.
    columns: Option<String>,
}

/// Rows in, predictions out, in the same order; a row that fails has its error in its place.
pub async fn batch(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    query: std::result::Result<Query<Parameters>, QueryRejection>,
    Extension(observation): Extension<Observation>,
    request: Request,
) -> Result<Response> {
    let Query(parameters) = query.map_err(|error| Error::invalid_input(error.body_text()))?;
    let permit = app.admit_batch()?;
    let headers = request.headers();
    check_coding(headers)?;
    let (from, to) = formats(headers)?;
    let key = |sticky: &Sticky| match sticky {
        Sticky::Header(name) => headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned),
        Sticky::Field(_) => None,
    };
    let model = match app.models.registry.route(&id, parameters.version.as_deref(), key)? {
        Route::Ready(model) => model,
        Route::Cold(version) => app.models.ready_in_time(&version).await?,
    };
    observation.serves(&model);
    let limits = limits(&app, &model.engine.workers);
    let (feeder, feed) = feed(limits.row_bytes);
    tokio::spawn(send_body(request.into_body(), feeder).in_current_span());
    let columns = parameters.columns.map(|names| names.split(',').map(|name| name.trim().to_owned()).collect());
    let options = ReadOptions { header: parameters.header, columns };
    let target = Arc::new(Target { model: Arc::clone(&model), shadow: None });
    let progress = Arc::<Progress>::default();
    let counted = Arc::clone(&progress);
    let runner = Runner::Host { app, target };
    let batch = Batch { runner, from, to, options, limits, progress: Arc::clone(&progress) };
    let started = Instant::now();
    let answers = batch.start(feed, move || {
        let Outcome { rows, failed } = counted.outcome();
        let took_ms = started.elapsed().as_millis() as u64;
        tracing::info!(model = model.id(), version = model.version(), rows, failed, took_ms, "batch");
        drop(permit);
    });
    let content_type = [(header::CONTENT_TYPE, HeaderValue::from_static(to.media_type()))];
    // Proxies that wait for an answer's end would undo the streaming.
    let unbuffered = [(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"))];
    let trailers = [(header::TRAILER, HeaderValue::from_static("x-batch-rows, x-batch-failed"))];
    let body = Body::new(Answers { bytes: Some(answers.await?), progress });
    Ok((content_type, unbuffered, trailers, body).into_response())
}

pub const X_BATCH_ROWS: HeaderName = HeaderName::from_static("x-batch-rows");
pub const X_BATCH_FAILED: HeaderName = HeaderName::from_static("x-batch-failed");

/// The answers, and behind them how many there were, for clients that take trailers.
struct Answers {
    /// None behind the last of them.
    bytes: Option<AnswerBytes>,
    progress: Arc<Progress>,
}

impl http_body::Body for Answers {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<std::io::Result<Frame<Bytes>>>> {
        let Some(bytes) = &mut self.bytes else { return Poll::Ready(None) };
        let piece = ready!(Pin::new(bytes).poll_next(context));
        Poll::Ready(Some(match piece {
            Some(piece) => piece.map(Frame::data),
            None => {
                self.bytes = None;
                let Outcome { rows, failed } = self.progress.outcome();
                let counts = [(X_BATCH_ROWS, HeaderValue::from(rows)), (X_BATCH_FAILED, HeaderValue::from(failed))];
                Ok(Frame::trailers(HeaderMap::from_iter(counts)))
            }
        }))
    }
}

fn limits(app: &App, workers: &WorkerLimits) -> Limits {
    Limits {
        in_flight: workers.instances + 1,
        row_bytes: to_usize(app.config.limits.max_body_bytes),
        file_bytes: app.config.limits.max_batch_bytes.as_u64(),
        scratch: app.models.scratch().to_owned(),
        patience: app.config.limits.body_idle_timeout,
    }
}

/// Rows come as they are: to unpack them would be to take more of them than the limits say.
fn check_coding(headers: &HeaderMap) -> Result<()> {
    let Some(coding) = headers.get(header::CONTENT_ENCODING) else { return Ok(()) };
    match coding.to_str().unwrap_or_default().trim() {
        coding if coding.eq_ignore_ascii_case("identity") => Ok(()),
        coding => Err(Error::invalid_input(format!(
            "a batch takes no Content-Encoding; {coding:?} came: send the rows unpacked, or as Parquet, which packs them itself"
        ))),
    }
}

/// What the body is, and what the answer is to be: the same, unless `Accept` asks for another.
fn formats(headers: &HeaderMap) -> Result<(Format, Format)> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_ascii_lowercase();
    let media_type = |text: &str| text.split(';').next().unwrap_or_default().trim().to_owned();
    let given = media_type(&text(header::CONTENT_TYPE));
    let from = Format::from_media_type(&given).ok_or_else(|| {
        Error::invalid_input(format!(
            "a batch has the Content-Type {}; {given:?} came",
            Format::ALL.map(Format::media_type).join(", ")
        ))
    })?;
    let accept = text(header::ACCEPT);
    let mut accepted = accept.split(',').map(media_type).filter(|media_type| !media_type.is_empty()).peekable();
    if accepted.peek().is_none() {
        return Ok((from, from));
    }
    let to = accepted.find_map(|accepted| match accepted.as_str() {
        "*/*" | "application/*" => Some(from),
        media_type => Format::from_media_type(media_type),
    });
    let to = to.ok_or_else(|| {
        Error::invalid_input(format!(
            "a batch is answered as {}; the request accepts {accept:?}",
            Format::ALL.map(Format::media_type).join(", ")
        ))
    })?;
    Ok((from, to))
}

/// Moves a body into the job as the job takes it.
async fn send_body(mut body: Body, feeder: Feeder) {
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => {
                let Ok(piece) = frame.into_data() else { continue };
                if feeder.put(piece).await.is_err() {
                    return;
                }
            }
            Err(error) => return feeder.fail(body_error(&error)),
        }
    }
}
