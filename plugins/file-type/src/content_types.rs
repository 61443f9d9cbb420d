//! What Magika knows of each label: whether it is text, its media type, its group.

use std::collections::HashMap;

use nexus_guest::Error;
use serde::{Deserialize, Serialize};

/// Magika's knowledge base, version 1.0.3: the labels of all its models.
const BUILTIN: &str = include_str!("../magika/content_types_kb.min.json");

/// One label.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub(crate) struct ContentType {
    pub(crate) mime_type: Option<String>,
    pub(crate) group: Option<String>,
    pub(crate) description: Option<String>,
    pub(crate) extensions: Vec<String>,
    pub(crate) is_text: bool,
}

/// Every label's.
pub(crate) struct ContentTypes(HashMap<String, ContentType>);

impl ContentTypes {
    pub(crate) fn builtin() -> Result<Self, Error> {
        let by_label = serde_json::from_str(BUILTIN)
            .map_err(|error| Error::plugin(format!("the built-in content types do not fit: {error}")))?;
        Ok(ContentTypes(by_label))
    }

    /// None for a label that is not Magika's.
    pub(crate) fn get(&self, label: &str) -> Option<&ContentType> {
        self.0.get(label)
    }

    /// A label nothing is known of counts as binary: `unknown` claims less than `txt`.
    pub(crate) fn is_text(&self, label: &str) -> bool {
        self.get(label).is_some_and(|content_type| content_type.is_text)
    }
}
