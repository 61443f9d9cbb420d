//! A binding's configuration, checked against the JSON Schema that the plugin declares, before the plugin sees it.

use jsonschema::{PatternOptions, Validator};
use serde_json::Value;

/// Faults that one message lists.
const FAULTS: usize = 5;
/// Parts of a schema with every reference replaced by what it names: what a chain of references doubles at each link.
const EXPANDED_PARTS: usize = 20_000;
/// Levels of a schema with every reference replaced: each takes stack, here and in the validator.
const EXPANDED_DEPTH: usize = 256;
/// Parts of a schema times parts of a configuration: the most that checking one looks at.
const CHECKED_PARTS: usize = 20_000_000;

/// The schema of a plugin's configuration.
pub(super) struct ConfigSchema {
    validator: Validator,
    /// With references replaced.
    parts: usize,
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
        let parts = expanded_parts(&schema, &schema, &mut Vec::new(), 0)?;
        let validator = jsonschema::options()
            // An engine whose time is linear in the text: the pattern is the plugin's.
            .with_pattern_options(PatternOptions::regex())
            .build(&schema)
            .map_err(|error| format!("its config schema is no JSON Schema: {error}"))?;
        Ok(Some(ConfigSchema { validator, parts }))
    }

    /// Checks a configuration.
    ///
    /// # Errors
    /// Which field is wrong, by its path, and why.
    pub(super) fn check(&self, config: &Value) -> Result<(), String> {
        if self.parts.saturating_mul(parts(config)) > CHECKED_PARTS {
            return Err("it is too large to be checked against the plugin's schema".to_owned());
        }
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

/// Counts a schema's parts with each reference replaced by what it names. `open` are the references being followed.
///
/// # Errors
/// There are too many, they lie too deep, a reference leads back to itself, or it leaves the schema.
fn expanded_parts<'s>(
    schema: &'s Value,
    part: &'s Value,
    open: &mut Vec<&'s str>,
    depth: usize,
) -> Result<usize, String> {
    if depth > EXPANDED_DEPTH {
        return Err(format!(
            "its config schema is more than {EXPANDED_DEPTH} levels deep once its references are followed"
        ));
    }
    let mut count = 1usize;
    let mut add = |parts: usize| {
        count = count.saturating_add(parts);
        let limit = format!("its config schema has more than {EXPANDED_PARTS} parts once its references are followed");
        if count > EXPANDED_PARTS { Err(limit) } else { Ok(()) }
    };
    match part {
        Value::Array(items) => {
            for item in items {
                add(expanded_parts(schema, item, open, depth + 1)?)?;
            }
        }
        Value::Object(fields) => {
            for (name, field) in fields {
                match (name.as_str(), field) {
                    ("$ref", Value::String(reference)) => {
                        let place = reference.strip_prefix('#').and_then(|pointer| schema.pointer(pointer));
                        let target = place.filter(|_| !open.contains(&reference.as_str())).ok_or_else(|| {
                            format!("its config schema's reference {reference:?} leads nowhere or to itself")
                        })?;
                        open.push(reference);
                        add(expanded_parts(schema, target, open, depth + 1)?)?;
                        open.pop();
                    }
                    ("$dynamicRef" | "$recursiveRef", _) => {
                        return Err(format!("its config schema uses {name}, which this host does not follow"));
                    }
                    // Counted where they are referred to.
                    ("$defs" | "definitions", _) if open.is_empty() && std::ptr::eq(schema, part) => {}
                    _ => add(expanded_parts(schema, field, open, depth + 1)?)?,
                }
            }
        }
        _ => {}
    }
    Ok(count)
}

fn parts(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(parts).sum::<usize>(),
        Value::Object(fields) => 1 + fields.values().map(parts).sum::<usize>(),
        _ => 1,
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

    /// Forty links that each name the next one twice: a million million parts in three kilobytes.
    #[test]
    fn a_schema_that_doubles_at_each_reference_is_refused() {
        let link = |number: usize| json!({ "$ref": format!("#/$defs/a{number}") });
        let mut links: serde_json::Map<String, Value> = (0..40)
            .map(|number| (format!("a{number}"), json!({ "allOf": [link(number + 1), link(number + 1)] })))
            .collect();
        links.insert("a40".to_owned(), json!({ "type": "object" }));
        let schema = json!({ "$defs": links, "$ref": "#/$defs/a0" });
        let message = ConfigSchema::parse(&schema.to_string()).err().unwrap();
        assert!(message.contains("more than 20000 parts"), "{message}");
        // The same link many times is no harm where it is short.
        let schema = json!({ "$defs": { "n": { "type": "number" } }, "items": { "anyOf": vec![json!({ "$ref": "#/$defs/n" }); 50] } });
        assert_eq!(check(&schema, &json!([1, 2, 3])), Ok(()));
        let endless = json!({ "properties": { "a": { "$ref": "#" } } });
        assert!(ConfigSchema::parse(&endless.to_string()).err().unwrap().contains("leads nowhere or to itself"));
    }

    /// Following thousands of references one in the other would take a thread's whole stack, and the process with it.
    #[test]
    fn a_schema_of_a_long_chain_of_references_is_refused() {
        let chain = |links: usize| {
            let mut defs: serde_json::Map<String, Value> = (0..links)
                .map(|link| (format!("a{link}"), json!({ "$ref": format!("#/$defs/a{}", link + 1) })))
                .collect();
            defs.insert(format!("a{links}"), json!({ "type": "object" }));
            json!({ "$defs": defs, "$ref": "#/$defs/a0" })
        };
        let message = ConfigSchema::parse(&chain(6000).to_string()).err().unwrap();
        assert!(message.contains("more than 256 levels deep"), "{message}");
        assert_eq!(check(&chain(50), &json!({})), Ok(()));
        // Few references, but far apart.
        let nested = |link: usize| {
            let next = json!({ "$ref": format!("#/$defs/a{}", link + 1) });
            (0..100).fold(next, |inner, _| json!({ "items": inner }))
        };
        let mut defs: serde_json::Map<String, Value> = (0..60).map(|link| (format!("a{link}"), nested(link))).collect();
        defs.insert("a60".to_owned(), json!({}));
        let schema = json!({ "$defs": defs, "$ref": "#/$defs/a0" });
        assert!(ConfigSchema::parse(&schema.to_string()).err().unwrap().contains("more than 256 levels deep"));
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
