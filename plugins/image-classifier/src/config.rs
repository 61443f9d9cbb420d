//! What a binding may configure; what it leaves open is read off the model's input.

use nexus_guest::Error;
use schemars::JsonSchema;
use serde::Deserialize;

/// Every field is optional.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Side of a square input, in pixels; short for `width` and `height`. Default: the model's, else 224.
    pub size: Option<u32>,
    /// Width of the input, in pixels.
    pub width: Option<u32>,
    /// Height of the input, in pixels.
    pub height: Option<u32>,
    /// What the central crop keeps of the picture, 0 < crop ≤ 1: 0.875 takes 224 of 256.
    pub crop: f64,
    /// Subtracted from each channel, which runs from 0 to 255. Default: 127 for float inputs, 128 for INT8, 0 for UINT8.
    pub mean: Option<PerChannel>,
    /// What the difference is divided by. Default: 128 for float inputs, 1 for INT8 and UINT8.
    pub std: Option<PerChannel>,
    /// Order of the axes. Default: read off the model's shape.
    pub layout: Option<Layout>,
    /// How many classes the answer lists; a request's `top_k` comes first.
    pub top_k: usize,
    /// Whether the model's scores still need softmax.
    pub softmax: Softmax,
    /// How the picture is scaled.
    pub interpolation: Interpolation,
    /// Largest image file, in bytes.
    pub max_image_bytes: usize,
    /// Largest picture, width times height, checked before decoding.
    pub max_pixels: u64,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            size: None,
            width: None,
            height: None,
            crop: 0.875,
            mean: None,
            std: None,
            layout: None,
            top_k: 5,
            softmax: Softmax::Auto(Auto::Auto),
            interpolation: Interpolation::Bicubic,
            max_image_bytes: 20 * 1024 * 1024,
            max_pixels: 50_000_000,
        }
    }
}

/// One number for every channel, or three for red, green and blue.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum PerChannel {
    All(f32),
    Each([f32; 3]),
}

impl PerChannel {
    pub(crate) fn channels(self) -> [f32; 3] {
        match self {
            PerChannel::All(value) => [value; 3],
            PerChannel::Each(values) => values,
        }
    }
}

/// Order of the input's axes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// Batch, channels, height, width.
    Nchw,
    /// Batch, height, width, channels.
    Nhwc,
}

/// true, false, or "auto": softmax unless the scores are probabilities already.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Softmax {
    Always(bool),
    Auto(Auto),
}

/// The word "auto".
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Auto {
    Auto,
}

/// How pixels between pixels are made. All but `nearest` average when they shrink.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Interpolation {
    Nearest,
    Bilinear,
    Bicubic,
    Lanczos3,
}

/// An input larger than this is a mistake in the configuration or the model.
pub(crate) const MAX_SIDE: u32 = 4096;

impl Config {
    /// Refuses what no picture could be prepared with.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let refuse = |message: String| Err(Error::invalid_config(message));
        if !(self.crop > 0.0 && self.crop <= 1.0) {
            return refuse(format!("`crop` has to be over 0 and at most 1, not {}", self.crop));
        }
        let sides = [("size", self.size), ("width", self.width), ("height", self.height)];
        for (name, side) in sides {
            if side.is_some_and(|side| !(1..=MAX_SIDE).contains(&side)) {
                return refuse(format!("`{name}` has to be from 1 to {MAX_SIDE}"));
            }
        }
        if self.std.is_some_and(|std| std.channels().contains(&0.0)) {
            return refuse("`std` is what values are divided by and cannot be 0".into());
        }
        if self.top_k == 0 {
            return refuse("`top_k` has to be at least 1".into());
        }
        Ok(())
    }
}
