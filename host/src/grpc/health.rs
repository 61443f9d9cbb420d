//! `grpc.health.v1.Health`: whether the host, its inference service or one model can be asked.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, Stream, StreamExt};
use tokio::sync::OwnedSemaphorePermit;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use super::{SERVICE, SMALL_BYTES};
use crate::app::App;
use crate::error::{Error, ErrorCode};
use crate::oip;

/// Pause between two looks at what is watched: nothing tells of each change, of which a model has several kinds.
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);

/// Answers from what the host knows at the moment.
#[derive(Clone)]
pub struct HealthService {
    app: Arc<App>,
}

pub fn health(app: Arc<App>) -> HealthServer<HealthService> {
    HealthServer::new(HealthService { app }).max_decoding_message_size(SMALL_BYTES)
}

impl HealthService {
    /// Of the host, by no name or the service's, or of a model, by its id.
    fn status_of(&self, name: &str) -> Result<ServingStatus, Error> {
        let is_serving = if name.is_empty() || name == SERVICE {
            !self.app.is_draining()
        } else {
            match oip::is_ready(&self.app, name, None) {
                Err(error) if error.code == ErrorCode::NotFound => {
                    let message = format!("there is no service {name:?}; ask for \"\", {SERVICE} or a model's id");
                    return Err(Error::not_found(message));
                }
                ready => ready.is_ok(),
            }
        };
        Ok(if is_serving { ServingStatus::Serving } else { ServingStatus::NotServing })
    }
}

/// A watch that somebody keeps open, in the place of a stream of predictions.
struct Watch {
    service: HealthService,
    name: String,
    said: Option<ServingStatus>,
    has_ended: bool,
    _place: OwnedSemaphorePermit,
}

impl Watch {
    /// The status, once it is another than was said last; `None` when the host drains, which open streams would keep from
    /// ending, and that is said.
    async fn next(&mut self) -> Option<ServingStatus> {
        while !self.has_ended {
            let app = &self.service.app;
            self.has_ended = app.is_draining();
            let now = self.service.status_of(&self.name).unwrap_or(ServingStatus::ServiceUnknown);
            if self.said.replace(now) != Some(now) {
                return Some(now);
            }
            tokio::select! {
                () = app.drains() => {}
                () = tokio::time::sleep(BETWEEN_LOOKS) => {}
            }
        }
        None
    }
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

#[tonic::async_trait]
impl Health for HealthService {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        Ok(Response::new(response(self.status_of(&request.get_ref().service)?)))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    /// The status now, and whenever it changes.
    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let _place = self.app.admit_stream()?;
        let name = request.into_inner().service;
        let watch = Watch { service: self.clone(), name, said: None, has_ended: false, _place };
        let statuses = stream::unfold(watch, |mut watch| async { Some((watch.next().await?, watch)) });
        Ok(Response::new(Box::pin(statuses.map(|status| Ok(response(status))))))
    }
}
