//! What a request brings: one record, or a list of them.

use nexus_guest::{Error, Request};
use serde::Deserialize;
use serde_json::{Map, Value};

/// A record as it came.
pub(crate) type Record = Map<String, Value>;

/// The request's body. Other keys are the host's: `model_id`, `version`.
#[derive(Deserialize)]
struct Body {
    record: Option<Record>,
    records: Option<Vec<Record>>,
}

/// The records of one request.
pub(crate) struct Records {
    pub(crate) records: Vec<Record>,
    /// Whether they came as a list, so that the answer is one too.
    pub(crate) listed: bool,
}

impl Records {
    /// Errs where there is no record, or more than `max_records`.
    pub(crate) fn of(request: &Request, max_records: usize) -> Result<Self, Error> {
        let media_type = request.media_type();
        if media_type != "application/json" && !media_type.ends_with("+json") {
            return Err(expected(&format!("the body came as {media_type:?}")));
        }
        let body: Body = request.json()?;
        let records = match (body.record, body.records) {
            (Some(record), None) => Records { records: vec![record], listed: false },
            (None, Some(records)) => Records { records, listed: true },
            (Some(_), Some(_)) => return Err(expected("both `record` and `records` came")),
            (None, None) => return Err(expected("neither `record` nor `records` came")),
        };
        match records.records.len() {
            0 => Err(expected("`records` is empty")),
            count if count > max_records => Err(Error::invalid_input(format!(
                "{count} records are over the limit of {max_records} (`max_records` of the plugin's configuration)"
            ))),
            _ => Ok(records),
        }
    }

    /// How a message calls a record.
    pub(crate) fn name(&self, row: usize) -> String {
        if self.listed { format!("records[{row}]") } else { "record".to_owned() }
    }
}

fn expected(came: &str) -> Error {
    Error::invalid_input(format!(
        "expected JSON {{\"record\": {{…}}}} or {{\"records\": [{{…}}, …]}}, a record being an object from field names to \
         values; {came}"
    ))
}
