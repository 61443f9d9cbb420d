//! {{name}}: named measurements in, the likeliest class out. Works with any model that takes one row of FP32 features.

use nexus_guest::{Blame, Error, Manifest, Model, Plugin, Request, Response, Stage, Tensor, log};

/// What a binding may configure. The host checks it against the schema made of this, and these comments describe it.
#[derive(serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Fields of a request, in the order of the model's features.
    #[serde(default = "iris_fields")]
    fields: Vec<String>,
    /// What each value is multiplied by.
    #[serde(default = "one")]
    scale: f32,
}

fn iris_fields() -> Vec<String> {
    ["sepal_length", "sepal_width", "petal_length", "petal_width"]
        .map(str::to_owned)
        .to_vec()
}

fn one() -> f32 {
    1.0
}

/// What `init` leaves here is there in every request; what a request changes is gone after it.
pub struct Measurements {
    config: Config,
    input: String,
    labels: Vec<String>,
}

impl Plugin for Measurements {
    type Config = Config;

    fn manifest() -> Manifest {
        Manifest::new(
            env!("CARGO_PKG_NAME"),
            env!("CARGO_PKG_VERSION"),
            [Stage::Preprocess, Stage::Postprocess],
        )
    }

    fn init(model: Model, config: Config) -> Result<Self, Error> {
        let input = model
            .inputs
            .into_iter()
            .next()
            .or_invalid_config("the model has no input")?;
        if let [_, features] = input.shape[..]
            && features >= 0
            && features != config.fields.len() as i64
        {
            let fields = config.fields.len();
            return Err(Error::invalid_config(format!(
                "`fields` names {fields}, the model takes {features} features"
            )));
        }
        Ok(Measurements {
            config,
            input: input.name,
            labels: model.labels,
        })
    }

    fn preprocess(&mut self, request: Request) -> Result<Vec<Tensor>, Error> {
        // The body has `model_id` and the like in it too.
        let body: serde_json::Map<String, serde_json::Value> = request.json()?;
        let features = self.config.fields.iter().map(|field| {
            let value = body.get(field).and_then(serde_json::Value::as_f64);
            let value = value.or_invalid_input(format_args!("`{field}` has to be a number"))?;
            Ok(value as f32 * self.config.scale)
        });
        let features: Vec<f32> = features.collect::<Result<_, Error>>()?;
        Ok(vec![Tensor::from_f32(
            &self.input,
            [1, features.len() as u64],
            features,
        )?])
    }

    fn postprocess(&mut self, outputs: Vec<Tensor>) -> Result<Response, Error> {
        let scores = outputs
            .iter()
            .find(|output| output.datatype == "FP32")
            .or_plugin_error("no FP32 output")?;
        let scores = scores.view::<f32>(&[1, -1])?;
        let best = (0..scores.len())
            .max_by(|&a, &b| scores[a].total_cmp(&scores[b]))
            .or_plugin_error("no class")?;
        log::debug!("class {best} of {}", scores.len());
        Response::json(
            &serde_json::json!({ "class": best, "label": self.labels.get(best), "score": scores[best] }),
        )
    }

    fn golden(&self) -> Option<Request> {
        let body: serde_json::Map<_, _> = self
            .config
            .fields
            .iter()
            .map(|field| (field.clone(), 1.0.into()))
            .collect();
        Some(Request::new(
            "application/json",
            serde_json::Value::from(body).to_string(),
        ))
    }
}

nexus_guest::export!(Measurements);

#[cfg(test)]
mod tests {
    use super::*;
    use nexus_guest::TensorSpec;

    /// The plugin as a binding to iris initialises it.
    fn bound(config: &str) -> Result<Measurements, Error> {
        let features = TensorSpec {
            name: "X".into(),
            datatype: "FP32".into(),
            shape: vec![-1, 4],
        };
        let labels = vec!["setosa".into(), "versicolor".into(), "virginica".into()];
        let model = Model {
            inputs: vec![features],
            labels,
            ..Model::default()
        };
        Measurements::init(model, serde_json::from_str(config).unwrap())
    }

    #[test]
    fn measurements_become_features() {
        let body = r#"{"model_id": "iris", "petal_width": 2, "petal_length": 14, "sepal_width": 35, "sepal_length": 51}"#;
        let request = Request::new("application/json", body);
        let tensors = bound(r#"{"scale": 0.5}"#)
            .unwrap()
            .preprocess(request)
            .unwrap();
        assert_eq!(tensors[0].name, "X");
        assert_eq!(
            *tensors[0].view::<f32>(&[1, 4]).unwrap(),
            [25.5, 17.5, 7.0, 1.0]
        );
    }

    #[test]
    fn a_missing_field_is_the_clients_fault() {
        let request = Request::new("application/json", r#"{"sepal_length": 5.1}"#);
        let error = bound("{}").unwrap().preprocess(request).unwrap_err();
        assert_eq!(error.code(), "invalid-input");
        assert!(
            error.message().contains("sepal_width"),
            "{}",
            error.message()
        );
    }

    #[test]
    fn the_highest_score_names_the_class() {
        let scores = Tensor::from_f32("probabilities", [1, 3], [0.1, 0.7, 0.2]).unwrap();
        let answer = bound("{}").unwrap().postprocess(vec![scores]).unwrap();
        let answer: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(answer["label"], "versicolor");
    }

    #[test]
    fn a_configuration_for_another_model_is_refused() {
        assert_eq!(
            bound(r#"{"fields": ["width"]}"#).err().unwrap().code(),
            "invalid-config"
        );
    }

    #[test]
    fn the_golden_request_is_one_that_preprocess_takes() {
        let mut plugin = bound("{}").unwrap();
        let golden = plugin.golden().unwrap();
        assert!(plugin.preprocess(golden).is_ok());
    }
}
