//! The one plugin of a component instance, from `init` on; what the generated exports call.
// Natively only the tests call this.
#![cfg_attr(not(target_family = "wasm"), allow(dead_code))]

use std::cell::RefCell;

use crate::message::from_json;
use crate::{Error, Model, Plugin, Request, Response, Tensor};

/// The configuration's JSON Schema.
pub(crate) fn config_schema<P: Plugin>() -> String {
    schemars::schema_for!(P::Config).to_value().to_string()
}

/// Parses the configuration, prepares the plugin and keeps it for the calls to come.
pub(crate) fn init<P: Plugin>(model: Model, config: &str) -> Result<(), Error> {
    let config = if config.trim().is_empty() { "{}" } else { config };
    let config = from_json(config.as_bytes())
        .map_err(|reason| Error::invalid_config(format!("the configuration does not fit: {reason}")))?;
    let plugin = P::init(model, config)?;
    PLUGIN.set(Some(Box::new(plugin)));
    Ok(())
}

/// Runs the preprocess stage of the plugin `init` prepared.
pub(crate) fn preprocess(request: Request) -> Result<Vec<Tensor>, Error> {
    with_plugin(|plugin| plugin.preprocess(request))
}

/// Runs the postprocess stage of the plugin `init` prepared.
pub(crate) fn postprocess(outputs: Vec<Tensor>) -> Result<Response, Error> {
    with_plugin(|plugin| plugin.postprocess(outputs))
}

/// The request that the plugin `init` prepared wants to be tried with.
pub(crate) fn golden() -> Option<Request> {
    PLUGIN.with_borrow(|plugin| plugin.as_ref()?.golden())
}

/// The plugin without its type: a static cannot be generic.
trait Stages {
    fn preprocess(&mut self, request: Request) -> Result<Vec<Tensor>, Error>;
    fn postprocess(&mut self, outputs: Vec<Tensor>) -> Result<Response, Error>;
    fn golden(&self) -> Option<Request>;
}

impl<P: Plugin> Stages for P {
    fn preprocess(&mut self, request: Request) -> Result<Vec<Tensor>, Error> {
        Plugin::preprocess(self, request)
    }

    fn postprocess(&mut self, outputs: Vec<Tensor>) -> Result<Response, Error> {
        Plugin::postprocess(self, outputs)
    }

    fn golden(&self) -> Option<Request> {
        Plugin::golden(self)
    }
}

thread_local! {
    static PLUGIN: RefCell<Option<Box<dyn Stages>>> = const { RefCell::new(None) };
}

fn with_plugin<T>(call: impl FnOnce(&mut dyn Stages) -> Result<T, Error>) -> Result<T, Error> {
    PLUGIN.with_borrow_mut(|plugin| match plugin {
        Some(plugin) => call(plugin.as_mut()),
        None => Err(Error::plugin("`init` has to succeed before a stage is called")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Manifest, Stage};

    struct Counter(u32);

    #[derive(serde::Deserialize, schemars::JsonSchema)]
    struct Start {
        /// Where counting starts.
        start: u32,
    }

    impl Plugin for Counter {
        type Config = Start;

        fn manifest() -> Manifest {
            Manifest::new("counter", "1.0.0", [Stage::Postprocess])
        }

        fn init(_: Model, config: Start) -> Result<Self, Error> {
            Ok(Counter(config.start))
        }

        fn postprocess(&mut self, _: Vec<Tensor>) -> Result<Response, Error> {
            self.0 += 1;
            Response::json(&self.0)
        }

        fn golden(&self) -> Option<Request> {
            (self.0 > 0).then(|| Request::new("text/plain", self.0.to_string()))
        }
    }

    // A thread of its own per test keeps the instances apart.

    #[test]
    fn a_stage_before_init_is_an_error() {
        let error = postprocess(Vec::new()).unwrap_err();
        assert_eq!(error.code(), "plugin");
        assert!(error.message().contains("`init`"));
    }

    #[test]
    fn state_lives_from_init_on() {
        init::<Counter>(Model::default(), r#"{"start": 4}"#).unwrap();
        assert_eq!(postprocess(Vec::new()).unwrap().body, b"5");
        assert_eq!(postprocess(Vec::new()).unwrap().body, b"6");
    }

    #[test]
    fn a_golden_request_is_the_prepared_plugins_own() {
        assert_eq!(golden(), None);
        init::<Counter>(Model::default(), r#"{"start": 0}"#).unwrap();
        assert_eq!(golden(), None);
        init::<Counter>(Model::default(), r#"{"start": 4}"#).unwrap();
        assert_eq!(golden().unwrap().body, b"4");
    }

    #[test]
    fn a_missing_stage_says_so() {
        init::<Counter>(Model::default(), r#"{"start": 4}"#).unwrap();
        assert!(preprocess(Request::default()).unwrap_err().message().contains("no preprocess stage"));
    }

    #[test]
    fn a_bad_configuration_names_the_field() {
        for (config, named) in
            [(r#"{"start": "x"}"#, "`start`"), ("{}", "`start`"), ("", "`start`"), ("nonsense", "line 1")]
        {
            let error = init::<Counter>(Model::default(), config).unwrap_err();
            assert_eq!(error.code(), "invalid-config");
            assert!(error.message().contains(named), "{config}: {error}");
        }
    }

    #[test]
    fn the_schema_carries_the_doc_comments() {
        let schema = config_schema::<Counter>();
        assert!(schema.contains("Where counting starts."), "{schema}");
    }
}
