//! Any bytes in, the file's type out: Magika's features before its model, Magika's rules after it.

mod answer;
mod config;
mod content_types;
mod features;
mod rules;

use nexus_guest::{Error, Manifest, Model, Plugin, Request, Response, Stage, Tensor};

pub use config::{Config, PredictionMode};

/// The plugin, prepared for one model.
pub struct FileType {
    layout: features::Layout,
    rules: rules::Rules,
    content_types: content_types::ContentTypes,
    /// Where preprocess found too few bytes for the model: the label that postprocess of the same request answers.
    label_of_few_bytes: Option<&'static str>,
}

impl Plugin for FileType {
    type Config = Config;

    fn manifest() -> Manifest {
        let stages = [Stage::Preprocess, Stage::Postprocess];
        Manifest::new(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"), stages)
    }

    fn init(model: Model, config: Config) -> Result<Self, Error> {
        let config = config.over_builtin()?;
        let layout = features::Layout::new(&model, &config)?;
        let rules = rules::Rules::new(&model, config)?;
        let content_types = content_types::ContentTypes::builtin()?;
        Ok(FileType { layout, rules, content_types, label_of_few_bytes: None })
    }

    fn preprocess(&mut self, request: Request) -> Result<Vec<Tensor>, Error> {
        refuse_json_requests(&request)?;
        self.label_of_few_bytes = self.layout.label_of_few_bytes(&request.body);
        Ok(vec![self.layout.tensor(&request.body)?])
    }

    fn postprocess(&mut self, outputs: Vec<Tensor>) -> Result<Response, Error> {
        let verdict = match self.label_of_few_bytes {
            None => self.rules.judge(&outputs, &self.content_types)?,
            // The pipeline runs the model whatever there is; what it made of padding says nothing.
            Some(label) => rules::Verdict::without_the_model(label),
        };
        Response::json(&answer::Answer::new(&verdict, &self.content_types))
    }

    fn golden(&self) -> Option<Request> {
        let body = b"#!/usr/bin/env python3\nimport sys\n\nprint(sys.argv)\n".to_vec();
        Some(Request { content_type: "application/octet-stream".to_owned(), body, ..Request::default() })
    }
}

/// A JSON body that names its model itself is a request, not a file: told apart by where `model_id` is, since query
/// parameters and form fields come along as parameters.
fn refuse_json_requests(request: &Request) -> Result<(), Error> {
    if request.media_type() != "application/json" || request.parameter("model_id").is_some() {
        return Ok(());
    }
    Err(Error::invalid_input(
        "expected the file itself as the body, not a request in JSON: \
         curl --data-binary @FILE -H 'content-type: application/octet-stream' 'HOST/predict?model_id=MODEL', \
         or a form with `model_id` and the file as `file`",
    ))
}

nexus_guest::export!(FileType);
