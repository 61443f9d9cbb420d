//! `ModelStreamInfer`: requests as they come, answers in their order. An error is an answer, and the stream goes on.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::stream::{self, Stream, StreamExt};
use http::HeaderMap;
use tonic::metadata::MetadataValue;
use tonic::{Request, Status, Streaming};
use tracing::Instrument;

use super::infer::infer;
use super::proto::infer_parameter::ParameterChoice;
use super::proto::{InferParameter, ModelInferRequest, ModelInferResponse, ModelStreamInferResponse};
use super::status::error_of;
use crate::app::App;
use crate::error::{Error, ErrorCode, Result};
use crate::http::{Observation, RequestId};

/// Requests of one stream that are in progress at once; the next is read when the first of them is answered.
const AT_ONCE: usize = 16;
/// Asks for a last answer of each request that says so.
const WANTS_FINAL: &str = "triton_enable_empty_final_response";
const FINAL: &str = "triton_final_response";

pub(super) type Answers = Pin<Box<dyn Stream<Item = std::result::Result<ModelStreamInferResponse, Status>> + Send>>;

/// The answers to a stream of requests. Nothing is read ahead of what its client takes.
pub(super) fn answers(app: &Arc<App>, request: Request<Streaming<ModelInferRequest>>) -> Answers {
    let (metadata, extensions, requests) = request.into_parts();
    let headers = Arc::new(metadata.into_headers());
    let id = extensions.get::<RequestId>().cloned();
    let span = tracing::Span::current();
    let app = Arc::clone(app);
    let answers = until_draining(Arc::clone(&app), requests).map(move |request| {
        let (app, headers) = (Arc::clone(&app), Arc::clone(&headers));
        async move { Ok(answer(&app, &headers, request?).await) }.instrument(span.clone())
    });
    Box::pin(answers.buffered(AT_ONCE).map(move |answer| answer.map_err(|status| with_id(&status, id.as_ref()))))
}

/// The requests of a stream, until the host drains: then those that came are answered, and no more are read.
fn until_draining(
    app: Arc<App>,
    requests: Streaming<ModelInferRequest>,
) -> impl Stream<Item = std::result::Result<ModelInferRequest, Status>> {
    stream::unfold(Some(requests), move |requests| {
        let app = Arc::clone(&app);
        async move {
            let mut requests = requests?;
            tokio::select! {
                request = requests.next() => match request? {
                    Ok(request) => Some((Ok(request), Some(requests))),
                    // What could not be read ends the stream: where the next message begins is not known.
                    Err(status) => Some((Err(status), None)),
                },
                () = app.drains() => {
                    let error = Error::new(ErrorCode::NotReady, "the host is draining; open the stream anew");
                    Some((Err(error.into()), None))
                }
            }
        }
    })
}

async fn answer(app: &Arc<App>, headers: &HeaderMap, request: ModelInferRequest) -> ModelStreamInferResponse {
    let is_final = wants_final(&request.parameters);
    let (model_name, id) = (request.model_name.clone(), request.id.clone());
    let mut response = match run(app, headers, request).await {
        Ok(response) => ModelStreamInferResponse { error_message: String::new(), infer_response: Some(response) },
        Err(error) => {
            tracing::info!(model = model_name, %error, "a request of a stream was refused");
            let infer_response = ModelInferResponse { model_name, id, ..ModelInferResponse::default() };
            ModelStreamInferResponse { error_message: error.message, infer_response: Some(infer_response) }
        }
    };
    if let Some(answer) = response.infer_response.as_mut().filter(|_| is_final) {
        let parameter = InferParameter { parameter_choice: Some(ParameterChoice::BoolParam(true)) };
        answer.parameters.insert(FINAL.to_owned(), parameter);
    }
    response
}

async fn run(app: &Arc<App>, headers: &HeaderMap, request: ModelInferRequest) -> Result<ModelInferResponse> {
    let _permit = app.admit_prediction()?;
    // A stream has one line in the log and many models and traces: none of them is the line's.
    infer(app, headers, &Observation::default(), request).await
}

fn wants_final(parameters: &HashMap<String, InferParameter>) -> bool {
    let parameter = parameters.get(WANTS_FINAL).and_then(|parameter| parameter.parameter_choice.as_ref());
    matches!(parameter, Some(ParameterChoice::BoolParam(true)))
}

/// The status that a stream ends in, with the request's id: its headers are long gone.
fn with_id(status: &Status, id: Option<&RequestId>) -> Status {
    let mut status = Status::from(error_of(status));
    if let Some(id) = id.and_then(|id| MetadataValue::try_from(&*id.0).ok()) {
        status.metadata_mut().insert("x-request-id", id);
    }
    status
}
