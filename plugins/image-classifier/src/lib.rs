//! Pictures in, labels out: decoding, cropping, scaling and normalising before a classifier, ranking after it.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod config;
mod decode;
mod ranking;
mod scale;
mod source;
mod target;

use nexus_guest::{Error, Manifest, Model, Plugin, Request, Response, Stage, Tensor};

pub use config::{Config, Interpolation, Layout, PerChannel, Softmax};

/// Four coloured quarters, 8×8 pixels: a binding is tried with them.
const GOLDEN: &[u8] = include_bytes!("golden.png");

/// The plugin, prepared for one model.
pub struct ImageClassifier {
    config: Config,
    target: target::Target,
    labels: Vec<String>,
    /// What this request asked for; the configuration's value otherwise.
    top_k: usize,
}

impl Plugin for ImageClassifier {
    type Config = Config;

    fn manifest() -> Manifest {
        let stages = [Stage::Preprocess, Stage::Postprocess];
        Manifest::new(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"), stages).hosts(["*"])
    }

    fn init(model: Model, config: Config) -> Result<Self, Error> {
        config.check()?;
        let target = target::Target::new(&model.inputs, &config)?;
        Ok(ImageClassifier { top_k: config.top_k, target, labels: model.labels, config })
    }

    fn preprocess(&mut self, request: Request) -> Result<Vec<Tensor>, Error> {
        let source = source::Source::of(&request, &self.config)?;
        self.top_k = source.top_k.unwrap_or(self.config.top_k);
        let picture = decode::decode(&source.image, &source.origin, self.config.max_pixels, self.scale_hint())?;
        let pixels = scale::crop_and_scale(&picture, &self.target, &self.config)?;
        Ok(vec![self.target.tensor(&pixels)?])
    }

    fn postprocess(&mut self, outputs: Vec<Tensor>) -> Result<Response, Error> {
        let scores = ranking::scores(&outputs)?;
        let confidences = ranking::confidences(scores, self.config.softmax);
        Response::json(&ranking::answer(&confidences, &self.labels, self.top_k))
    }

    fn golden(&self) -> Option<Request> {
        Some(Request::new("image/png", GOLDEN))
    }
}

impl ImageClassifier {
    /// The smallest picture that still has a pixel for each of the target's after cropping.
    fn scale_hint(&self) -> decode::ScaleHint {
        let longest = self.target.width.max(self.target.height);
        decode::ScaleHint { shorter_side: (longest as f64 / self.config.crop).ceil() as u32 }
    }
}

nexus_guest::export!(ImageClassifier);
