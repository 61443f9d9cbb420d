//! A case: all that a run depends on and how it ended, in a file, to be run again after a change.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::error::Error;
use crate::plugin::{Grants, Request};

/// The form of the file; a reader refuses one that it does not know.
const FORM: u32 = 1;

/// A run and its outcome.
#[derive(Serialize, Deserialize)]
pub(super) struct Case {
    form: u32,
    #[serde(flatten)]
    pub(super) setup: Setup,
    pub(super) outcome: Outcome,
}

/// All that a run depends on, beside the limits.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Setup {
    pub(super) plugin: FileRef,
    pub(super) model: FileRef,
    pub(super) labels: Vec<String>,
    pub(super) config: Map<String, Value>,
    pub(super) grants: Grants,
    /// Without one, the plugin's golden request.
    pub(super) request: Option<RequestRecord>,
}

/// A file as it was.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct FileRef {
    pub(super) file: PathBuf,
    pub(super) sha256: String,
}

#[derive(Clone, Serialize, Deserialize)]
pub(super) struct RequestRecord {
    content_type: String,
    parameters: Vec<(String, String)>,
    #[serde(serialize_with = "to_base64", deserialize_with = "from_base64")]
    body: Vec<u8>,
}

/// How a run ended.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Outcome {
    Answer {
        content_type: String,
        #[serde(serialize_with = "to_base64", deserialize_with = "from_base64")]
        body: Vec<u8>,
    },
    Error {
        at: Moment,
        /// As HTTP has it.
        status: u16,
        code: String,
        message: String,
    },
}

/// The moment of a plugin's life at which something failed.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Moment {
    Upload,
    Binding,
    Request,
}

impl Moment {
    pub(super) fn name(self) -> &'static str {
        match self {
            Moment::Upload => "upload",
            Moment::Binding => "binding",
            Moment::Request => "request",
        }
    }
}

impl Case {
    pub(super) fn new(setup: Setup, outcome: Outcome) -> Case {
        Case { form: FORM, setup, outcome }
    }

    pub(super) fn read(file: &Path) -> Result<Case, String> {
        let json = std::fs::read(file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
        let case: Case =
            serde_json::from_slice(&json).map_err(|error| format!("{} is no case: {error}", file.display()))?;
        match case.form {
            FORM => Ok(case),
            form => Err(format!("{} is a case of form {form}, this build reads form {FORM}", file.display())),
        }
    }

    pub(super) fn write(&self, file: &Path) -> Result<(), String> {
        let json = serde_json::to_vec_pretty(self).map_err(|error| error.to_string())?;
        std::fs::write(file, json).map_err(|error| format!("cannot write {}: {error}", file.display()))
    }
}

impl From<&Request> for RequestRecord {
    fn from(request: &Request) -> RequestRecord {
        let Request { content_type, body, parameters } = request.clone();
        RequestRecord { content_type, parameters, body: body.into() }
    }
}

impl From<&RequestRecord> for Request {
    fn from(record: &RequestRecord) -> Request {
        let RequestRecord { content_type, parameters, body } = record.clone();
        Request { content_type, body: body.into(), parameters }
    }
}

impl Outcome {
    pub(super) fn failed(at: Moment, error: &Error) -> Outcome {
        // The author is the operator here, so a fault of the host's own is told with its cause.
        let message = match &error.cause {
            Some(cause) if error.code == crate::error::ErrorCode::Internal => cause.clone(),
            _ => error.message.clone(),
        };
        Outcome::Error { at, status: error.code.http_status(), code: error.code.name().to_owned(), message }
    }

    /// The same answer, or the same error. Numbers in JSON may differ in their last digits, as they do between processors.
    pub(super) fn is_same(&self, other: &Outcome) -> bool {
        match (self, other) {
            (
                Outcome::Answer { content_type, body },
                Outcome::Answer { content_type: other_type, body: other_body },
            ) if content_type == other_type => match (serde_json::from_slice(body), serde_json::from_slice(other_body))
            {
                (Ok(one), Ok(other)) => is_same_json(&one, &other),
                _ => body == other_body,
            },
            _ => self == other,
        }
    }

    /// In a few words.
    pub(super) fn summary(&self) -> String {
        match self {
            Outcome::Answer { content_type, body } => {
                let text = String::from_utf8_lossy(body);
                let cut = text.floor_char_boundary(200);
                let more = if cut < text.len() { "…" } else { "" };
                format!("answer, {content_type}: {}{more}", &text[..cut])
            }
            Outcome::Error { at, status, code, message } => format!("{status} {code}, at the {}: {message}", at.name()),
        }
    }
}

/// How much numbers may differ, as a part of the larger one, or of 1 below it.
const TOLERANCE: f64 = 1e-5;

fn is_same_json(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(a), Value::Number(b)) => match (a.as_f64(), b.as_f64()) {
            (Some(a), Some(b)) => (a - b).abs() <= TOLERANCE * a.abs().max(b.abs()).max(1.0),
            _ => a == b,
        },
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(one, other)| is_same_json(one, other))
        }
        (Value::Object(a), Value::Object(b)) => {
            let same = |(name, value): (&String, &Value)| b.get(name).is_some_and(|other| is_same_json(value, other));
            a.len() == b.len() && a.iter().all(same)
        }
        _ => one == other,
    }
}

fn to_base64<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&STANDARD.encode(bytes))
}

fn from_base64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    STANDARD.decode(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn answer(body: &str) -> Outcome {
        Outcome::Answer { content_type: "application/json".to_owned(), body: body.as_bytes().to_vec() }
    }

    #[test]
    fn answers_are_the_same_up_to_the_last_digits() {
        let recorded = answer(r#"{"label": "setosa", "scores": [0.978, 12000]}"#);
        for (same, body) in [
            (true, r#"{"scores": [0.9780001, 12000.01], "label": "setosa"}"#),
            (false, r#"{"scores": [0.9781, 12000], "label": "setosa"}"#),
            (false, r#"{"scores": [0.978, 12001], "label": "setosa"}"#),
            (false, r#"{"scores": [0.978], "label": "setosa"}"#),
            (false, r#"{"scores": [0.978, 12000], "label": "setosa", "more": 1}"#),
            (false, "setosa"),
        ] {
            assert_eq!(answer(body).is_same(&recorded), same, "{body}");
        }
        let text = |body: &str| Outcome::Answer { content_type: "text/plain".to_owned(), body: body.into() };
        assert!(text("a").is_same(&text("a")) && !text("a").is_same(&text("b")) && !text("1").is_same(&answer("1")));
    }

    #[test]
    fn an_error_is_the_same_if_code_moment_and_message_are() {
        let error = |at, message: &str| Outcome::failed(at, &Error::invalid_input(message));
        let recorded = error(Moment::Request, "x");
        assert!(recorded.is_same(&error(Moment::Request, "x")));
        assert!(!recorded.is_same(&error(Moment::Request, "y")));
        assert!(!recorded.is_same(&error(Moment::Binding, "x")));
        assert!(!recorded.is_same(&answer("{}")));
    }

    #[test]
    fn a_case_is_read_as_it_was_written_and_another_form_is_refused() {
        let file = FileRef { file: "x.wasm".into(), sha256: "00".to_owned() };
        let request = Request { content_type: "a/b".to_owned(), body: vec![0, 255].into(), parameters: Vec::new() };
        let setup = Setup {
            plugin: file.clone(),
            model: file,
            labels: Vec::new(),
            config: Map::new(),
            grants: Grants::default(),
            request: Some(RequestRecord::from(&request)),
        };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("case.json");
        Case::new(setup, answer("{}")).write(&path).unwrap();
        let case = Case::read(&path).unwrap();
        assert_eq!(Request::from(&case.setup.request.unwrap()), request);
        assert!(case.outcome.is_same(&answer("{}")));

        let other = std::fs::read_to_string(&path).unwrap().replace("\"form\": 1", "\"form\": 2");
        std::fs::write(&path, other).unwrap();
        assert!(Case::read(&path).err().unwrap().contains("form 2"));
    }
}
