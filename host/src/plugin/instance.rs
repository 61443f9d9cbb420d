//! One instance of a plugin, serving one request.

use std::time::Duration;

use bytes::Bytes;

use crate::error::Result;
use crate::tensor::Tensor;

use super::guest::{Crossed, Guest};
use super::host::Place;

/// What the client sent, undecoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The body's media type.
    pub content_type: String,
    pub body: Bytes,
    /// Query parameters and form fields, in the order sent.
    pub parameters: Vec<(String, String)>,
}

/// A plugin's answer to the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    pub content_type: String,
    pub body: Bytes,
}

/// One instance of a plugin, for one request. After a trap, a timeout or a call that was dropped half-way, every further
/// call fails.
pub struct Instance {
    guest: Guest,
    /// Declared last, so that the instance is gone before its place is given to the next.
    _place: Place,
}

impl Instance {
    pub(super) fn new(guest: Guest, place: Place) -> Instance {
        Instance { guest, _place: place }
    }

    /// Turns a request into tensors. Their sizes match their shapes; whether they fit the model is the caller's to check.
    ///
    /// # Errors
    /// `InvalidInput` where the plugin blames the client; `Forbidden`, `TooLarge` or `DeadlineExceeded` where the host ended
    /// what the plugin fetched; else `PluginFailed`.
    pub async fn preprocess(&mut self, request: &Request) -> Result<Vec<Tensor>> {
        self.guest.preprocess(request).await
    }

    /// Turns the model's outputs into an answer.
    ///
    /// # Errors
    /// As [`Instance::preprocess`].
    pub async fn postprocess(&mut self, outputs: &[Tensor]) -> Result<Response> {
        self.guest.postprocess(outputs).await
    }

    /// The most linear memory that the instance has had, in bytes.
    pub fn peak_memory(&self) -> usize {
        self.guest.peak_memory()
    }

    /// Bytes that went into the plugin and came out of it so far.
    pub fn crossed(&self) -> Crossed {
        self.guest.crossed()
    }

    /// Time that the plugin's fetches took so far.
    pub fn time_fetching(&self) -> Duration {
        self.guest.time_fetching()
    }

    /// Whether it trapped, or was cut off.
    pub fn is_broken(&self) -> bool {
        self.guest.is_broken()
    }
}
