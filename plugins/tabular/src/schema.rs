//! The configuration's JSON Schema, made to blame the right place.

use schemars::Schema;
use serde_json::{Value, json};

/// Turns "one of these kinds of field" into "if the kind is this, then that". Validation then names what is wrong
/// (`fields[2].mean`); of a choice it could only say that nothing of it fits.
pub(crate) fn decide_by_kind(schema: &mut Schema) {
    let Some(Value::Array(variants)) = schema.remove("oneOf") else { return };
    let kinds: Vec<Value> = variants.iter().map(|variant| variant["properties"]["kind"]["const"].clone()).collect();
    let branches = variants.into_iter().zip(&kinds).map(|(variant, kind)| {
        let is_kind = json!({ "required": ["kind"], "properties": { "kind": { "const": kind } } });
        json!({ "if": is_kind, "then": variant })
    });
    let branches: Value = branches.collect();
    schema.insert("type".to_owned(), json!("object"));
    schema.insert("required".to_owned(), json!(["name", "kind"]));
    schema.insert("properties".to_owned(), json!({ "kind": { "enum": kinds } }));
    schema.insert("allOf".to_owned(), branches);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_branch() {
        let schema = schemars::schema_for!(crate::Config).to_value();
        let field = &schema["$defs"]["Field"];
        let kinds = ["numeric", "one_hot", "ordinal", "boolean", "text"];
        assert_eq!(field["properties"]["kind"]["enum"], json!(kinds));
        for (branch, kind) in field["allOf"].as_array().unwrap().iter().zip(kinds) {
            assert_eq!(branch["if"]["properties"]["kind"]["const"], kind);
            assert_eq!(branch["then"]["properties"]["kind"]["const"], kind);
            assert_eq!(branch["then"]["additionalProperties"], false);
        }
        assert_eq!(field["oneOf"], Value::Null);
    }
}
