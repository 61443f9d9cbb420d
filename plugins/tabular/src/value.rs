//! JSON values of a record: missing or not, what they hold, how a message shows them.

use serde_json::{Number, Value};

/// The value, unless it is missing: absent, null or, where text may stand for something else, blank.
pub(crate) fn present(value: Option<&Value>, coerce: bool) -> Option<&Value> {
    value.filter(|value| match value {
        Value::Null => false,
        Value::String(text) => !(coerce && text.trim().is_empty()),
        _ => true,
    })
}

/// A number without a fraction; 3.0 is one.
pub(crate) fn whole(number: &Number) -> Option<i64> {
    const EXACT: f64 = (1_u64 << 53) as f64;
    number.as_i64().or_else(|| {
        let float = number.as_f64()?;
        (float.fract() == 0.0 && float.abs() <= EXACT).then_some(float as i64)
    })
}

/// The truth value a text holds.
pub(crate) fn truth_in(text: &str) -> Option<bool> {
    match text.trim() {
        text if text.eq_ignore_ascii_case("true") || text == "1" => Some(true),
        text if text.eq_ignore_ascii_case("false") || text == "0" => Some(false),
        _ => None,
    }
}

/// A value for a message: its kind where that is all that counts, and never all of a long one.
pub(crate) fn show(value: &Value) -> String {
    match value {
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
        Value::String(text) => format!("the text {}", quote(text)),
        other => other.to_string(),
    }
}

/// A client's text, shortened.
pub(crate) fn quote(text: &str) -> String {
    const LONGEST: usize = 40;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}
