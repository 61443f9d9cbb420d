//! The answer's JSON.

use serde::{Serialize, Serializer};

/// What is answered for one record.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Prediction {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) label: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) probabilities: Option<Named>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) scores: Option<Named>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) value: Option<Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) values: Option<Named>,
}

/// What is answered for a list of records.
#[derive(Serialize)]
pub(crate) struct Batch {
    pub(crate) predictions: Vec<Prediction>,
}

/// Numbers by name, in the order of the classes.
#[derive(Debug)]
pub(crate) struct Named(pub(crate) Vec<(String, Number)>);

impl Serialize for Named {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, number)| (name, number)))
    }
}

/// A number with no more digits than it has: 0.1 as FP32 is 0.1, not 0.10000000149011612.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Number {
    pub(crate) value: f64,
    pub(crate) single: bool,
}

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.single { serializer.serialize_f32(self.value as f32) } else { serializer.serialize_f64(self.value) }
    }
}
