//! Parameters of an inference request: open-ended pairs, of which a few are the protocol's own.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::error::{Error, Result};
use crate::terms::{Priority, Terms};

/// Names that mean something to the protocol, and are none of a plugin's business.
const RESERVED: [&str; 8] = [
    "binary_data_output",
    "headers",
    "priority",
    "sequence_end",
    "sequence_id",
    "sequence_start",
    "timeout",
    "triton_enable_empty_final_response",
];

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum Parameter {
    Bool(bool),
    Int(i64),
    Uint(u64),
    Float(f64),
    Text(String),
    /// A list or an object, of which nothing is made here.
    Other(IgnoredAny),
}

/// A request's parameters, by name.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(transparent)]
pub struct Parameters(BTreeMap<String, Parameter>);

impl Parameter {
    fn text(&self) -> Option<String> {
        match self {
            Parameter::Bool(value) => Some(value.to_string()),
            Parameter::Int(value) => Some(value.to_string()),
            Parameter::Uint(value) => Some(value.to_string()),
            Parameter::Float(value) => Some(value.to_string()),
            Parameter::Text(value) => Some(value.clone()),
            Parameter::Other(_) => None,
        }
    }
}

impl FromIterator<(String, Parameter)> for Parameters {
    fn from_iter<I: IntoIterator<Item = (String, Parameter)>>(pairs: I) -> Parameters {
        Parameters(pairs.into_iter().collect())
    }
}

impl Parameters {
    /// A parameter's value as text, whatever it is.
    pub fn text(&self, name: &str) -> Option<String> {
        self.0.get(name)?.text()
    }

    /// # Errors
    /// It is there and no truth value.
    pub fn flag(&self, name: &str) -> Result<bool> {
        match self.0.get(name) {
            None => Ok(false),
            Some(Parameter::Bool(value)) => Ok(*value),
            Some(other) => Err(Error::invalid_input(format!(
                "the parameter `{name}` is true or false; {} came",
                other.text().unwrap_or_else(|| "something else".to_owned())
            ))),
        }
    }

    /// Takes over `timeout`, in microseconds, and `priority`.
    ///
    /// # Errors
    /// One of them is there and no number.
    pub fn apply(&self, terms: &mut Terms) -> Result<()> {
        if let Some(timeout) = self.0.get("timeout") {
            hurry(terms, &timeout.text().unwrap_or_default())?;
        }
        if let Some(priority) = self.0.get("priority") {
            terms.priority = Priority::parse(&priority.text().unwrap_or_default())?;
        }
        Ok(())
    }

    /// What a plugin gets to read: all but the protocol's own.
    pub fn for_plugin(&self) -> Vec<(String, String)> {
        let others = self.0.iter().filter(|(name, _)| !RESERVED.contains(&name.as_str()));
        others.filter_map(|(name, value)| Some((name.clone(), value.text()?))).collect()
    }
}

/// Takes over the parameter `timeout`, in microseconds.
///
/// # Errors
/// It is no number.
pub(super) fn hurry(terms: &mut Terms, timeout: &str) -> Result<()> {
    let microseconds = timeout.parse().map_err(|_| {
        let came = format!("{timeout:?} came");
        Error::invalid_input(format!("the parameter `timeout` is a whole number of microseconds; {came}"))
    })?;
    terms.hurry(Duration::from_micros(microseconds));
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn parameters(json: &str) -> Parameters {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_timeout_is_in_microseconds_and_a_priority_a_level() {
        let mut terms = Terms::within(Duration::from_secs(60));
        let before = terms.deadline;
        parameters(r#"{"timeout": 0, "priority": 2}"#).apply(&mut terms).unwrap();
        assert_eq!((terms.deadline, terms.priority), (before, Priority::Normal));
        parameters(r#"{"timeout": 1000000, "priority": 1}"#).apply(&mut terms).unwrap();
        assert!(before - terms.deadline > Duration::from_secs(50));
        assert_eq!(terms.priority, Priority::High);
        for refused in [r#"{"timeout": -1}"#, r#"{"timeout": [1]}"#, r#"{"priority": "urgent"}"#] {
            assert!(parameters(refused).apply(&mut terms).is_err(), "{refused}");
        }
    }

    #[test]
    fn a_plugin_reads_what_is_not_the_protocols() {
        let parameters =
            parameters(r#"{"top_k": 3, "timeout": 5, "exact": true, "nested": {}, "name": "x", "p": 0.5}"#);
        let expected = [("exact", "true"), ("name", "x"), ("p", "0.5"), ("top_k", "3")];
        assert_eq!(parameters.for_plugin(), expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert!(parameters.flag("exact").unwrap() && !parameters.flag("none").unwrap());
        assert!(parameters.flag("top_k").is_err());
    }
}
