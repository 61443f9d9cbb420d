//! What is around the routes of REST, and costs a request that does not need it next to nothing.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::RequestExt;
use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{RawPathParams, Request};
use axum::http::{Method, header};
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use futures_util::future::Either;
use tower::{Layer, Service};
use tower_http::cors::{self, CorsLayer};

use crate::error::Error;

/// Around routes: [`SharingOrigins`].
#[derive(Clone)]
pub struct ShareOrigins(pub Arc<CorsLayer>);

impl<S> Layer<S> for ShareOrigins {
    type Service = SharingOrigins<S>;

    fn layer(&self, inner: S) -> SharingOrigins<S> {
        SharingOrigins { cors: self.0.clone(), inner }
    }
}

/// CORS for requests that a page of another origin may have sent, and for those whose answers may be kept for one.
#[derive(Clone)]
pub struct SharingOrigins<S> {
    cors: Arc<CorsLayer>,
    inner: S,
}

impl<S> Service<Request> for SharingOrigins<S>
where
    S: Service<Request, Response = Response, Error = Infallible> + Clone,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Either<S::Future, cors::ResponseFuture<S::Future>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        match request.method() == Method::POST && !request.headers().contains_key(header::ORIGIN) {
            true => Either::Left(self.inner.call(request)),
            false => Either::Right(self.cors.layer(self.inner.clone()).call(request)),
        }
    }
}

/// Around routes: [`ReadingPaths`].
#[derive(Clone)]
pub struct ReadPaths;

impl<S> Layer<S> for ReadPaths {
    type Service = ReadingPaths<S>;

    fn layer(&self, inner: S) -> ReadingPaths<S> {
        ReadingPaths(inner)
    }
}

/// Refuses a path whose parameters are no text, before axum does so in words of its own.
#[derive(Clone)]
pub struct ReadingPaths<S>(S);

impl<S> Service<Request> for ReadingPaths<S>
where
    S: Service<Request, Response = Response, Error = Infallible>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Either<S::Future, Ready<Result<Response, Infallible>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        match problem_of_path(&mut request) {
            None => Either::Left(self.0.call(request)),
            Some(problem) => Either::Right(ready(Ok(problem.into_response()))),
        }
    }
}

fn problem_of_path(request: &mut Request) -> Option<Error> {
    // Only what is escaped may be no text.
    if !request.uri().path().contains('%') {
        return None;
    }
    // There is nothing that it could wait for.
    match request.extract_parts::<RawPathParams>().now_or_never()? {
        Err(RawPathParamsRejection::InvalidUtf8InPathParam(problem)) => Some(Error::invalid_input(format!(
            "the path {} is not readable: {}",
            request.uri().path(),
            problem.body_text()
        ))),
        _ => None,
    }
}
