//! `ModelStreamInfer`: requests as they come, answers in their order. An error is an answer, and the stream goes on.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, Stream, StreamExt};
use http::HeaderMap;
use tokio::sync::mpsc::error::SendTimeoutError;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
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

/// An answer, and the place among the predictions that it has until its client's connection has room for it.
type Answered = (ModelStreamInferResponse, Option<OwnedSemaphorePermit>);

/// The answers to a stream of requests. Where its client takes none, what is in progress is finished and one answer waits;
/// nothing more is read.
///
/// # Errors
/// As many streams as allowed are open.
pub(super) fn answers(app: &Arc<App>, request: Request<Streaming<ModelInferRequest>>) -> Result<Answers> {
    let open = app.admit_stream()?;
    let (metadata, extensions, requests) = request.into_parts();
    let headers = Arc::new(metadata.into_headers());
    let id = extensions.get::<RequestId>().cloned();
    let pause = app.config.limits.body_idle_timeout;
    let app = Arc::clone(app);
    let answers = until_draining(Arc::clone(&app), requests).map(move |request| {
        let (app, headers) = (Arc::clone(&app), Arc::clone(&headers));
        async move { Ok(answer(&app, &headers, request?).await) }
    });
    let (sender, mut answered) = mpsc::channel(1);
    let (end, ended) = oneshot::channel();
    let work = async move {
        if let Err(error) = hand_on(answers.buffered(AT_ONCE), sender, pause).await {
            // A client that is gone does not want to know.
            drop(end.send(Err(error.into())));
        }
        drop(open);
    };
    tokio::spawn(work.in_current_span());
    let answers = stream::poll_fn(move |context| answered.poll_recv(context));
    let answers = answers.chain(stream::once(ended).filter_map(async |end| end.ok()));
    Ok(Box::pin(answers.map(move |answer| answer.map_err(|status| with_id(&status, id.as_ref())))))
}

/// Hands answers on as the client takes them, which it has to: those that wait keep their places among the predictions.
///
/// # Errors
/// It took none for too long.
async fn hand_on(
    answers: impl Stream<Item = std::result::Result<Answered, Status>>,
    sender: mpsc::Sender<std::result::Result<ModelStreamInferResponse, Status>>,
    pause: Duration,
) -> Result<()> {
    let mut answers = std::pin::pin!(answers);
    loop {
        let answer = tokio::select! {
            answer = answers.next() => answer,
            () = sender.closed() => None,
        };
        let Some(answer) = answer else { return Ok(()) };
        let (answer, permit) =
            answer.map_or_else(|status| (Err(status), None), |(answer, permit)| (Ok(answer), permit));
        match sender.send_timeout(answer, pause).await {
            Ok(()) => drop(permit),
            Err(SendTimeoutError::Closed(_)) => return Ok(()),
            Err(SendTimeoutError::Timeout(_)) => {
                let message = "no answer was taken for as long as a client may pause (--body-idle-timeout)";
                return Err(Error::new(ErrorCode::RequestTimeout, message));
            }
        }
    }
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

async fn answer(app: &Arc<App>, headers: &HeaderMap, request: ModelInferRequest) -> Answered {
    let is_final = wants_final(&request.parameters);
    let (model_name, id) = (request.model_name.clone(), request.id.clone());
    let (result, permit) = run(app, headers, request).await;
    let mut response = match result {
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
    (response, permit)
}

async fn run(
    app: &Arc<App>,
    headers: &HeaderMap,
    request: ModelInferRequest,
) -> (Result<ModelInferResponse>, Option<OwnedSemaphorePermit>) {
    match app.admit_prediction() {
        // A stream has one line in the log and many models and traces: none of them is the line's.
        Ok(permit) => (infer(app, headers, &Observation::default(), request).await, Some(permit)),
        Err(error) => (Err(error), None),
    }
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
