//! A record's named fields in; a label with probabilities, or a number, out.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod answer;
mod config;
mod encoder;
mod inputs;
mod outputs;
mod records;
mod schema;
mod table;
mod value;

use std::collections::HashSet;

use nexus_guest::{Error, Manifest, Model, Plugin, Request, Response, Stage, Tensor};

pub use config::Config;

use config::ExtraFields;
use encoder::Encoder;
use inputs::Input;
use records::{Record, Records};

/// The plugin, prepared for one model.
pub struct Tabular {
    encoders: Vec<Encoder>,
    /// Names of all fields.
    names: HashSet<String>,
    inputs: Vec<Input>,
    outputs: outputs::Outputs,
    extra_fields: ExtraFields,
    max_records: usize,
    /// The one number of records the model takes, if it is fixed.
    fixed_rows: Option<usize>,
    /// Whether this request's records came as a list; none where preprocess did not run.
    listed: Option<bool>,
}

impl Plugin for Tabular {
    type Config = Config;

    fn manifest() -> Manifest {
        let stages = [Stage::Preprocess, Stage::Postprocess];
        Manifest::new(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"), stages)
    }

    fn init(model: Model, config: Config) -> Result<Self, Error> {
        let encoders = config.fields.into_iter().map(Encoder::new).collect::<Result<Vec<_>, _>>()?;
        let mut names = HashSet::new();
        if let Some(twice) = encoders.iter().find(|encoder| !names.insert(encoder.name.clone())) {
            return Err(Error::invalid_config(format!("field `{}` is configured twice", twice.name)));
        }
        Ok(Tabular {
            // Without fields the plugin is bound for its postprocess stage alone.
            inputs: if encoders.is_empty() { Vec::new() } else { inputs::assign(&model, &encoders)? },
            fixed_rows: inputs::fixed_rows(&model),
            outputs: outputs::Outputs::new(model, config.output)?,
            encoders,
            names,
            extra_fields: config.extra_fields,
            max_records: config.max_records,
            listed: None,
        })
    }

    fn preprocess(&mut self, request: Request) -> Result<Vec<Tensor>, Error> {
        if self.encoders.is_empty() {
            return Err(Error::invalid_config("`fields` is empty, so no record can become the model's input"));
        }
        let records = Records::of(&request, self.max_records)?;
        self.check_count(&records)?;
        self.check_names(&records)?;
        self.listed = Some(records.listed);
        self.inputs.iter().map(|input| input.tensor(&records, &self.encoders)).collect()
    }

    fn postprocess(&mut self, outputs: Vec<Tensor>) -> Result<Response, Error> {
        let predictions = self.outputs.read(&outputs)?;
        match (predictions.as_slice(), self.listed) {
            ([only], Some(false) | None) => Response::json(only),
            _ => Response::json(&answer::Batch { predictions }),
        }
    }

    /// A record of means and first categories.
    fn golden(&self) -> Option<Request> {
        if self.encoders.is_empty() {
            return None;
        }
        let example = |encoder: &Encoder| (encoder.name.clone(), encoder.example());
        let record: Record = self.encoders.iter().map(example).collect();
        let body = match self.fixed_rows {
            Some(rows) => serde_json::json!({ "records": vec![record; rows] }),
            None => serde_json::json!({ "record": record }),
        };
        let (content_type, body) = ("application/json".to_owned(), body.to_string().into_bytes());
        Some(Request { content_type, body, ..Request::default() })
    }
}

impl Tabular {
    fn check_count(&self, records: &Records) -> Result<(), Error> {
        let count = records.records.len();
        match self.fixed_rows {
            Some(rows) if rows != count => Err(Error::invalid_input(format!(
                "the model takes exactly {rows} record{} at a time, {count} came",
                if rows == 1 { "" } else { "s" }
            ))),
            _ => Ok(()),
        }
    }

    fn check_names(&self, records: &Records) -> Result<(), Error> {
        if self.extra_fields == ExtraFields::Ignore {
            return Ok(());
        }
        let extra = |record: &Record| record.keys().find(|key| !self.names.contains(*key)).cloned();
        let found = records.records.iter().enumerate().find_map(|(row, record)| Some((row, extra(record)?)));
        let Some((row, extra)) = found else { return Ok(()) };
        let names: Vec<String> = self.encoders.iter().map(|encoder| format!("`{}`", encoder.name)).collect();
        Err(Error::invalid_input(format!(
            "{}: there is no field {}; expected {}",
            records.name(row),
            value::quote(&extra),
            names.join(", ")
        )))
    }
}

nexus_guest::export!(Tabular);
