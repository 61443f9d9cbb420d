//! The answer's JSON.

use serde::Serialize;

use crate::content_types::ContentTypes;
use crate::rules::{OverwriteReason, Verdict};

/// Named as Magika's own output, `model_label` for its `dl.label`.
#[derive(Serialize)]
pub(crate) struct Answer<'a> {
    label: &'a str,
    score: f32,
    model_label: &'a str,
    overwrite_reason: OverwriteReason,
    is_text: bool,
    mime_type: &'a str,
    group: &'a str,
    description: &'a str,
    extensions: &'a [String],
}

impl<'a> Answer<'a> {
    /// What is not known of a label is filled in as the reference does.
    pub(crate) fn new(verdict: &'a Verdict<'_>, content_types: &'a ContentTypes) -> Self {
        let label = verdict.label.as_ref();
        let known = content_types.get(label);
        let is_text = content_types.is_text(label);
        let mime_type = if is_text { "text/plain" } else { "application/octet-stream" };
        Answer {
            label,
            score: verdict.score,
            model_label: &verdict.model_label,
            overwrite_reason: verdict.overwrite_reason,
            is_text,
            mime_type: known.and_then(|known| known.mime_type.as_deref()).unwrap_or(mime_type),
            group: known.and_then(|known| known.group.as_deref()).unwrap_or("unknown"),
            description: known.and_then(|known| known.description.as_deref()).unwrap_or(label),
            extensions: known.map_or(&[], |known| known.extensions.as_slice()),
        }
    }
}
