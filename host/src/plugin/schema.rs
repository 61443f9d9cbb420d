//! A binding's configuration, checked against the JSON Schema that the plugin declares, before the plugin sees it.

use jsonschema::{PatternOptions, Validator};
use serde_json::Value;

/// Faults that one message lists.
const FAULTS: usize = 5;

/// The schema of a plugin's configuration.
pub(super) struct ConfigSchema {
    validator: Validator,
}

impl ConfigSchema {
    /// Reads a manifest's schema; an empty one allows whatever the plugin takes.
    ///
    /// # Errors
    /// What is wrong with it, as a sentence about the plugin.
    pub(super) fn parse(text: &str) -> Result<Option<ConfigSchema>, String> {
        if text.trim().is_empty() {
            return Ok(None);
        }
        let schema: Value =
            serde_json::from_str(text).map_err(|error| format!("its config schema is no JSON: {error}"))?;
        let validator = jsonschema::options()
            // An engine whose time is linear in the text: the pattern is the plugin's.
            .with_pattern_options(PatternOptions::regex())
            .build(&schema)
            .map_err(|error| format!("its config schema is no JSON Schema: {error}"))?;
        Ok(Some(ConfigSchema { validator }))
    }

    /// Checks a configuration.
    ///
    /// # Errors
    /// Which field is wrong, by its path, and why.
    pub(super) fn check(&self, config: &Value) -> Result<(), String> {
        let faults: Vec<String> = self
            .validator
            .iter_errors(config)
            .take(FAULTS)
            .map(|error| match error.instance_path().as_str() {
                "" => error.to_string(),
                path => format!("{path}: {error}"),
            })
            .collect();
        if faults.is_empty() { Ok(()) } else { Err(faults.join("; ")) }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(schema: &Value, config: &Value) -> Result<(), String> {
        ConfigSchema::parse(&schema.to_string()).unwrap().unwrap().check(config)
    }

    #[test]
    fn the_path_of_the_wrong_field_is_named() {
        let schema = json!({
            "type": "object",
            "properties": {
                "fields": { "type": "array", "items": { "type": "object", "properties": { "mean": { "type": "number" } } } },
                "top_k": { "type": "integer", "minimum": 1 }
            },
            "required": ["top_k"],
            "additionalProperties": false
        });
        assert_eq!(check(&schema, &json!({ "top_k": 3, "fields": [{ "mean": 1.5 }] })), Ok(()));
        let wrong = check(&schema, &json!({ "top_k": 0, "fields": [{ "mean": 1 }, { "mean": "x" }] })).unwrap_err();
        assert!(wrong.contains("/fields/1/mean: ") && wrong.contains("/top_k: 0 is less than"), "{wrong}");
        let missing = check(&schema, &json!({ "topk": 3 })).unwrap_err();
        assert!(missing.contains("top_k") && missing.contains("topk"), "{missing}");
    }

    #[test]
    fn a_schema_that_is_none_is_refused() {
        assert!(ConfigSchema::parse("").unwrap().is_none());
        for (text, reason) in [("{", "no JSON"), (r#"{"type": "number of things"}"#, "no JSON Schema")] {
            let message = ConfigSchema::parse(text).err().unwrap();
            assert!(message.contains(reason), "{message}");
        }
    }

    #[test]
    fn a_schema_that_leads_nowhere_does_no_harm() {
        // Each is either refused or checked; none may take the host along.
        for schema in [
            json!({ "$ref": "#" }),
            json!({ "allOf": [{ "$ref": "#" }] }),
            json!({ "$ref": "http://127.0.0.1:1/schema.json" }),
            json!({ "$ref": "file:///etc/passwd" }),
            json!({ "pattern": "(a+)+$" }),
            json!({ "$defs": { "a": { "$ref": "#/$defs/b" }, "b": { "$ref": "#/$defs/a" } }, "$ref": "#/$defs/a" }),
        ] {
            if let Ok(Some(schema)) = ConfigSchema::parse(&schema.to_string()) {
                drop(schema.check(&json!("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!")));
            }
        }
    }
}
