//! gRPC: each call parses its message, calls, and wraps. What a call does is in `oip`, the same as for REST.

mod catalog;
mod codec;
mod health;
mod infer;
mod repository;
mod status;
mod stream;

use std::sync::Arc;

use tonic::codec::CompressionEncoding;
use tonic::{Request, Response, Status};
use tonic_reflection::server::{v1, v1alpha};

pub use self::health::health;
use self::proto::grpc_inference_service_server::{GrpcInferenceService, GrpcInferenceServiceServer};
use self::proto::*;
pub use self::status::{error_in, render};
use crate::app::App;
use crate::config::to_usize;
use crate::error::{Error, ErrorCode};
use crate::oip;

/// The messages and the service, as `proto/open_inference.proto` has them.
#[allow(missing_debug_implementations, unreachable_pub, clippy::all, clippy::unwrap_used, clippy::expect_used)]
pub mod proto {
    tonic::include_proto!("inference");

    /// What reflection answers with.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/open_inference.bin"));
}

/// The service's name, with which the path of each call begins.
pub const SERVICE: &str = "inference.GRPCInferenceService";
/// Calls that run a model once.
pub const INFER: &str = "/inference.GRPCInferenceService/ModelInfer";
pub const STREAM: &str = "/inference.GRPCInferenceService/ModelStreamInfer";
/// Calls that may bring a model along.
pub const LOAD: &str = "/inference.GRPCInferenceService/RepositoryModelLoad";
/// Calls that have a model unloaded.
pub const UNLOAD: &str = "/inference.GRPCInferenceService/RepositoryModelUnload";
/// Other calls, whose messages are small and whose answers are at hand.
pub const SMALL: [&str; 16] = [
    "/inference.GRPCInferenceService/ServerLive",
    "/inference.GRPCInferenceService/ServerReady",
    "/inference.GRPCInferenceService/ModelReady",
    "/inference.GRPCInferenceService/ServerMetadata",
    "/inference.GRPCInferenceService/ModelMetadata",
    "/inference.GRPCInferenceService/ModelConfig",
    "/inference.GRPCInferenceService/ModelStatistics",
    "/inference.GRPCInferenceService/RepositoryIndex",
    "/inference.GRPCInferenceService/SystemSharedMemoryStatus",
    "/inference.GRPCInferenceService/SystemSharedMemoryRegister",
    "/inference.GRPCInferenceService/SystemSharedMemoryUnregister",
    "/inference.GRPCInferenceService/CudaSharedMemoryStatus",
    "/inference.GRPCInferenceService/CudaSharedMemoryRegister",
    "/inference.GRPCInferenceService/CudaSharedMemoryUnregister",
    "/inference.GRPCInferenceService/TraceSetting",
    "/inference.GRPCInferenceService/LogSettings",
];
/// Calls that answer for as long as their client likes; each bounds by itself what waits for a client that takes nothing.
pub const OPEN: [&str; 4] = [
    STREAM,
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];
/// Most that a small message takes, in bytes.
const SMALL_BYTES: usize = 64 << 10;

/// The host's inference service.
#[derive(Clone)]
pub struct Service {
    app: Arc<App>,
}

/// The service for calls whose messages may be as large as a prediction's.
pub fn service(app: Arc<App>) -> GrpcInferenceServiceServer<Service> {
    let bytes = to_usize(app.config.limits.max_body_bytes);
    small_service(app).max_decoding_message_size(bytes)
}

/// The service for calls whose messages are small.
pub fn small_service(app: Arc<App>) -> GrpcInferenceServiceServer<Service> {
    let service = GrpcInferenceServiceServer::new(Service { app }).max_decoding_message_size(SMALL_BYTES);
    [CompressionEncoding::Gzip, CompressionEncoding::Deflate].into_iter().fold(service, |service, encoding| {
        // An answer is compressed where its request was, and its client says that it takes it so (`http::rpc`).
        service.accept_compressed(encoding).send_compressed(encoding)
    })
}

/// What the host speaks, for clients that ask it.
///
/// # Errors
/// Descriptors that are none.
pub fn reflection() -> Result<v1::ServerReflectionServer<impl v1::ServerReflection>, Error> {
    let reflection = descriptors().build_v1().map_err(Error::internal)?;
    Ok(reflection.max_decoding_message_size(SMALL_BYTES))
}

/// The same in the version before, which many clients still ask for.
///
/// # Errors
/// Descriptors that are none.
pub fn reflection_alpha() -> Result<v1alpha::ServerReflectionServer<impl v1alpha::ServerReflection>, Error> {
    let reflection = descriptors().build_v1alpha().map_err(Error::internal)?;
    Ok(reflection.max_decoding_message_size(SMALL_BYTES))
}

fn descriptors() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}

fn some(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

fn not_offered<T>(what: &str) -> Result<T, Status> {
    let message = format!("{what} is not offered by this host; GET /v2 lists the protocol's extensions that are");
    Err(Error::new(ErrorCode::Unsupported, message).into())
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl GrpcInferenceService for Service {
    async fn server_live(&self, _: Request<ServerLiveRequest>) -> Answer<ServerLiveResponse> {
        Ok(Response::new(ServerLiveResponse { live: true }))
    }

    async fn server_ready(&self, _: Request<ServerReadyRequest>) -> Answer<ServerReadyResponse> {
        Ok(Response::new(ServerReadyResponse { ready: !self.app.is_draining() }))
    }

    async fn model_ready(&self, request: Request<ModelReadyRequest>) -> Answer<ModelReadyResponse> {
        let ModelReadyRequest { name, version } = request.into_inner();
        let ready = oip::is_ready(&self.app, &name, some(&version)).is_ok();
        Ok(Response::new(ModelReadyResponse { ready }))
    }

    async fn server_metadata(&self, _: Request<ServerMetadataRequest>) -> Answer<ServerMetadataResponse> {
        let (name, version) = (oip::NAME.to_owned(), oip::VERSION.to_owned());
        let extensions = oip::EXTENSIONS.map(str::to_owned).to_vec();
        Ok(Response::new(ServerMetadataResponse { name, version, extensions }))
    }

    async fn model_metadata(&self, request: Request<ModelMetadataRequest>) -> Answer<ModelMetadataResponse> {
        let ModelMetadataRequest { name, version } = request.into_inner();
        Ok(Response::new(oip::model_metadata(&self.app, &name, some(&version)).await?.into()))
    }

    async fn model_infer(&self, request: Request<ModelInferRequest>) -> Answer<ModelInferResponse> {
        let (metadata, extensions, message) = request.into_parts();
        let headers = metadata.into_headers();
        let observation = extensions.get().cloned().unwrap_or_default();
        Ok(Response::new(infer::infer(&self.app, &headers, &observation, message).await?))
    }

    type ModelStreamInferStream = stream::Answers;

    async fn model_stream_infer(
        &self,
        request: Request<tonic::Streaming<ModelInferRequest>>,
    ) -> Answer<Self::ModelStreamInferStream> {
        Ok(Response::new(stream::answers(&self.app, request)?))
    }

    async fn model_config(&self, request: Request<ModelConfigRequest>) -> Answer<ModelConfigResponse> {
        let ModelConfigRequest { name, version } = request.into_inner();
        let config = oip::model_config(&self.app, &name, some(&version)).await?;
        Ok(Response::new(ModelConfigResponse { config: Some(config.into()) }))
    }

    async fn model_statistics(&self, request: Request<ModelStatisticsRequest>) -> Answer<ModelStatisticsResponse> {
        let ModelStatisticsRequest { name, version } = request.into_inner();
        let statistics = oip::statistics(&self.app, some(&name), some(&version))?;
        Ok(Response::new(ModelStatisticsResponse { model_stats: statistics.into_iter().map(Into::into).collect() }))
    }

    async fn repository_index(&self, request: Request<RepositoryIndexRequest>) -> Answer<RepositoryIndexResponse> {
        let models = oip::index(&self.app, request.into_inner().ready);
        Ok(Response::new(RepositoryIndexResponse { models: models.into_iter().map(Into::into).collect() }))
    }

    async fn repository_model_load(
        &self,
        request: Request<RepositoryModelLoadRequest>,
    ) -> Answer<RepositoryModelLoadResponse> {
        repository::load(&self.app, request).await?;
        Ok(Response::new(RepositoryModelLoadResponse {}))
    }

    async fn repository_model_unload(
        &self,
        request: Request<RepositoryModelUnloadRequest>,
    ) -> Answer<RepositoryModelUnloadResponse> {
        repository::unload(&self.app, request).await?;
        Ok(Response::new(RepositoryModelUnloadResponse {}))
    }

    async fn system_shared_memory_status(
        &self,
        _: Request<SystemSharedMemoryStatusRequest>,
    ) -> Answer<SystemSharedMemoryStatusResponse> {
        not_offered("system shared memory")
    }

    async fn system_shared_memory_register(
        &self,
        _: Request<SystemSharedMemoryRegisterRequest>,
    ) -> Answer<SystemSharedMemoryRegisterResponse> {
        not_offered("system shared memory")
    }

    async fn system_shared_memory_unregister(
        &self,
        _: Request<SystemSharedMemoryUnregisterRequest>,
    ) -> Answer<SystemSharedMemoryUnregisterResponse> {
        not_offered("system shared memory")
    }

    async fn cuda_shared_memory_status(
        &self,
        _: Request<CudaSharedMemoryStatusRequest>,
    ) -> Answer<CudaSharedMemoryStatusResponse> {
        not_offered("CUDA shared memory")
    }

    async fn cuda_shared_memory_register(
        &self,
        _: Request<CudaSharedMemoryRegisterRequest>,
    ) -> Answer<CudaSharedMemoryRegisterResponse> {
        not_offered("CUDA shared memory")
    }

    async fn cuda_shared_memory_unregister(
        &self,
        _: Request<CudaSharedMemoryUnregisterRequest>,
    ) -> Answer<CudaSharedMemoryUnregisterResponse> {
        not_offered("CUDA shared memory")
    }

    async fn trace_setting(&self, _: Request<TraceSettingRequest>) -> Answer<TraceSettingResponse> {
        not_offered("tracing of single requests")
    }

    async fn log_settings(&self, _: Request<LogSettingsRequest>) -> Answer<LogSettingsResponse> {
        not_offered("changing the log while the host runs")
    }
}
