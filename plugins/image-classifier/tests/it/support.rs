//! A classifier to send files through, and pictures to make files of.

use std::io::Cursor;

use image::{DynamicImage, ImageFormat, Rgb, RgbImage};
use image_classifier::{Config, ImageClassifier};
use nexus_guest::{Error, Model, Plugin, Request, Tensor, TensorSpec};

pub(crate) const CAT_JPG: &[u8] = include_bytes!("../images/cat.jpg");
pub(crate) const CAT_PNG: &[u8] = include_bytes!("../images/cat.png");
pub(crate) const COFFEE_JPG: &[u8] = include_bytes!("../images/coffee.jpg");

pub(crate) fn classifier(shape: [i64; 4], config: Config) -> ImageClassifier {
    let input = TensorSpec { name: "images".into(), datatype: "FP32".into(), shape: shape.to_vec() };
    let model = Model { inputs: vec![input], labels: vec!["cat".into(), "dog".into()], ..Model::default() };
    ImageClassifier::init(model, config).unwrap()
}

pub(crate) fn request(file: &[u8]) -> Request {
    Request { content_type: "application/octet-stream".into(), body: file.to_vec(), ..Request::default() }
}

pub(crate) fn try_tensor(file: &[u8], shape: [i64; 4], config: Config) -> Result<Tensor, Error> {
    let mut tensors = classifier(shape, config).preprocess(request(file))?;
    assert_eq!(tensors.len(), 1);
    Ok(tensors.remove(0))
}

pub(crate) fn tensor(file: &[u8]) -> Vec<f32> {
    try_tensor(file, [-1, 3, 224, 224], Config::default()).unwrap().as_f32().unwrap().into_owned()
}

/// The small square of raw pixel values that most tests look at.
pub(crate) fn raw(file: &[u8], side: i64) -> Vec<f32> {
    let config = serde_json::json!({"mean": 0, "std": 1, "crop": 1, "layout": "nhwc"});
    let config = serde_json::from_value(config).unwrap();
    try_tensor(file, [1, side, side, 3], config).unwrap().as_f32().unwrap().into_owned()
}

pub(crate) fn refusal(file: &[u8]) -> String {
    let error = try_tensor(file, [1, 3, 224, 224], Config::default()).unwrap_err();
    assert_eq!(error.code(), "invalid-input");
    error.message().to_owned()
}

pub(crate) fn mean_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).sum::<f32>() / a.len() as f32
}

pub(crate) fn encode(picture: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut file = Cursor::new(Vec::new());
    picture.write_to(&mut file, format).unwrap();
    file.into_inner()
}

/// Four quarters: red, green, blue, yellow.
pub(crate) fn quarters(side: u32) -> RgbImage {
    RgbImage::from_fn(side, side, |x, y| match (x < side / 2, y < side / 2) {
        (true, true) => Rgb([255, 0, 0]),
        (false, true) => Rgb([0, 255, 0]),
        (true, false) => Rgb([0, 0, 255]),
        (false, false) => Rgb([255, 255, 0]),
    })
}

/// A pixel from the middle of each quarter.
pub(crate) fn corners(file: &[u8]) -> Vec<f32> {
    let pixels = raw(file, 8);
    [(1, 1), (6, 1), (1, 6), (6, 6)].iter().flat_map(|(x, y)| pixels[3 * (8 * y + x)..][..3].to_vec()).collect()
}
