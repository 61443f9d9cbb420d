//! `grpc.health.v1.Health`: whether the host, its inference service or one model can be asked.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::stream::{self, Stream, StreamExt};
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use super::{SERVICE, SMALL_BYTES};
use crate::app::App;
use crate::error::{Error, ErrorCode};
use crate::oip;

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

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

#[tonic::async_trait]
impl Health for HealthService {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        Ok(Response::new(response(self.status_of(&request.get_ref().service)?)))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    /// The status now, and once more when the host drains; then the stream ends, for it would keep the host from ending.
    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let now = self.status_of(&request.get_ref().service).unwrap_or(ServingStatus::ServiceUnknown);
        let app = Arc::clone(&self.app);
        let last = async move {
            app.drains().await;
            Ok(response(ServingStatus::NotServing))
        };
        let first = stream::iter((!self.app.is_draining()).then_some(Ok(response(now))));
        Ok(Response::new(Box::pin(first.chain(stream::once(last)))))
    }
}
