//! Formats, scaling, orientation, damage and configuration.

use std::time::{Duration, Instant};

use image::{DynamicImage, ImageFormat, Rgb, RgbImage, Rgba, RgbaImage};
use image_classifier::{Config, ImageClassifier, Layout};
use nexus_guest::{Model, Plugin, Request, Tensor, TensorSpec};

use crate::reference::reference;
use crate::support::{
    CAT_JPG, CAT_PNG, COFFEE_JPG, classifier, corners, encode, mean_difference, quarters, raw, refusal, request,
    tensor, try_tensor,
};

const QUARTERS: [f32; 12] = [255.0, 0.0, 0.0, 0.0, 255.0, 0.0, 0.0, 0.0, 255.0, 255.0, 255.0, 0.0];

#[test]
fn a_photo_gives_the_same_tensor_in_either_format() {
    let (jpeg, png) = (tensor(CAT_JPG), tensor(CAT_PNG));
    assert_eq!(jpeg.len(), 3 * 224 * 224);
    assert!(mean_difference(&jpeg, &png) < 0.02, "{}", mean_difference(&jpeg, &png));
    assert!(jpeg.iter().all(|value| (-127.0 / 128.0..=1.0).contains(value)));
    assert!(mean_difference(&jpeg, &tensor(COFFEE_JPG)) > 0.2);
}

#[test]
fn scaling_inside_the_decoder_changes_little() {
    // To 56 pixels the JPEG decoder may go a quarter of the way; the PNG is always decoded whole.
    let (jpeg, png) = (raw(CAT_JPG, 56), raw(CAT_PNG, 56));
    assert!(mean_difference(&jpeg, &png) < 3.0, "{}", mean_difference(&jpeg, &png));
}

#[test]
fn another_decoder_gives_nearly_the_same_tensor() {
    // In units of the tensor, 1/128 of a pixel value's range: other upsampling of colours, and for a large picture
    // scaling in two steps.
    for file in [CAT_JPG, COFFEE_JPG] {
        let difference = mean_difference(&tensor(file), &reference(file));
        assert!(difference < 0.02, "{difference}");
    }
}

#[test]
fn layouts_hold_the_same_values() {
    let first = tensor(CAT_JPG);
    let last = try_tensor(CAT_JPG, [1, 224, 224, 3], Config::default()).unwrap();
    assert_eq!(last.shape, [1, 224, 224, 3]);
    let last = last.as_f32().unwrap();
    for pixel in (0..224 * 224).step_by(997) {
        for channel in 0..3 {
            assert_eq!(first[channel * 224 * 224 + pixel], last[3 * pixel + channel]);
        }
    }
}

#[test]
fn a_grey_input_gets_one_channel() {
    let tensor = try_tensor(CAT_JPG, [1, 1, 28, 28], Config::default()).unwrap();
    assert_eq!((tensor.shape.as_slice(), tensor.data.len()), (&[1, 1, 28, 28][..], 28 * 28 * 4));
}

#[test]
fn every_format_is_read_whatever_its_content_type() {
    let picture = DynamicImage::from(quarters(64));
    for format in [ImageFormat::Png, ImageFormat::WebP, ImageFormat::Gif, ImageFormat::Bmp] {
        let file = encode(&picture, format);
        let request = Request { content_type: "image/jpeg".into(), ..request(&file) };
        assert!(classifier([1, 3, 8, 8], Config::default()).preprocess(request).is_ok());
        let difference = mean_difference(&corners(&file), &QUARTERS);
        assert!(difference < 4.0, "{format:?}: {difference}");
    }
}

#[test]
fn every_kind_of_pixel_becomes_rgb() {
    let picture = DynamicImage::from(quarters(64));
    let colored = [DynamicImage::from(picture.to_rgba8()), picture.to_rgb16().into(), picture.to_rgba16().into()];
    for picture in colored {
        let difference = mean_difference(&corners(&encode(&picture, ImageFormat::Png)), &QUARTERS);
        assert!(difference < 4.0, "{:?}: {difference}", picture.color());
    }
    let grey = [DynamicImage::from(picture.to_luma8()), picture.to_luma_alpha8().into(), picture.to_luma16().into()];
    for picture in grey {
        let pixels = raw(&encode(&picture, ImageFormat::Png), 2);
        assert!(pixels.chunks(3).all(|pixel| pixel[0] == pixel[1] && pixel[1] == pixel[2]), "{:?}", picture.color());
    }
}

#[test]
fn transparent_parts_are_white() {
    let picture = RgbaImage::from_pixel(8, 8, Rgba([200, 0, 0, 0]));
    for format in [ImageFormat::Png, ImageFormat::WebP, ImageFormat::Gif] {
        let pixels = raw(&encode(&picture.clone().into(), format), 2);
        assert!(pixels.iter().all(|&value| value == 255.0), "{format:?}: {pixels:?}");
    }
}

#[test]
fn the_first_frame_of_an_animation_counts() {
    let mut file = Vec::new();
    let mut encoder = image::codecs::gif::GifEncoder::new(&mut file);
    for color in [[255, 0, 0, 255], [0, 0, 255, 255]] {
        encoder.encode_frame(image::Frame::new(RgbaImage::from_pixel(8, 8, Rgba(color)))).unwrap();
    }
    drop(encoder);
    assert!(mean_difference(&raw(&file, 1), &[255.0, 0.0, 0.0]) < 4.0);
}

/// cat.jpg with an EXIF segment that says how to turn it.
fn turned_jpeg(orientation: u8) -> Vec<u8> {
    let mut exif = b"\xff\xe1\0\x22Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".to_vec();
    exif.extend([orientation, 0, 0, 0, 0, 0, 0, 0]);
    [&CAT_JPG[..2], &exif, &CAT_JPG[2..]].concat()
}

#[test]
fn all_eight_orientations_are_turned_upright() {
    const SIDE: usize = 32;
    let stored = raw(CAT_JPG, SIDE as i64);
    let last = SIDE - 1;
    // Where the upright pixel (x, y) lies in the file, from the EXIF specification's drawings.
    type Place = fn(usize, usize, usize) -> (usize, usize);
    let places: [Place; 8] = [
        |x, y, _| (x, y),
        |x, y, last| (last - x, y),
        |x, y, last| (last - x, last - y),
        |x, y, last| (x, last - y),
        |x, y, _| (y, x),
        |x, y, last| (y, last - x),
        |x, y, last| (last - y, last - x),
        |x, y, last| (last - y, x),
    ];
    for (orientation, place) in (1..).zip(places) {
        let upright = raw(&turned_jpeg(orientation), SIDE as i64);
        let mut expected = Vec::new();
        for y in 0..SIDE {
            for x in 0..SIDE {
                let (x, y) = place(x, y, last);
                expected.extend_from_slice(&stored[3 * (y * SIDE + x)..][..3]);
            }
        }
        let difference = mean_difference(&upright, &expected);
        assert!(difference < 0.01, "orientation {orientation}: {difference}");
    }
    assert_eq!(raw(&turned_jpeg(9), 8), raw(CAT_JPG, 8));
}

#[test]
fn a_turned_picture_fills_an_oblong_input() {
    let sideways = encode(&image::load_from_memory(CAT_PNG).unwrap().rotate90(), ImageFormat::Png);
    let shape = [1, 3, 20, 60];
    let turned = try_tensor(&turned_jpeg(6), shape, Config::default()).unwrap();
    let upright = try_tensor(&sideways, shape, Config::default()).unwrap();
    assert_eq!(turned.shape, [1, 3, 20, 60]);
    // Not nothing: the JPEG is scaled down while it is decoded.
    let difference = mean_difference(&turned.as_f32().unwrap(), &upright.as_f32().unwrap());
    assert!(difference < 0.04, "{difference}");
    let lying = try_tensor(CAT_JPG, shape, Config::default()).unwrap();
    assert!(mean_difference(&lying.as_f32().unwrap(), &upright.as_f32().unwrap()) > 0.1);
}

#[test]
fn damaged_files_are_errors() {
    let picture = DynamicImage::from(quarters(64));
    let mut files = vec![CAT_JPG.to_vec(), CAT_PNG.to_vec()];
    files.extend([ImageFormat::WebP, ImageFormat::Gif, ImageFormat::Bmp].map(|format| encode(&picture, format)));
    for file in files {
        for length in [8, 20, file.len() / 4, file.len() / 2] {
            let message = refusal(&file[..length]);
            assert!(message.contains("damaged") || message.contains("is "), "{message}");
        }
    }
}

#[test]
fn damage_anywhere_never_panics() {
    let small = DynamicImage::from(quarters(24));
    let mut files: Vec<Vec<u8>> = [ImageFormat::Png, ImageFormat::WebP, ImageFormat::Gif, ImageFormat::Bmp]
        .map(|format| encode(&small, format))
        .into();
    files.push(turned_jpeg(6));
    let mut plugin = classifier([1, 3, 16, 16], Config { max_pixels: 1_000_000, ..Config::default() });
    // xorshift: the same damage on every run.
    let mut state = 0x2545_f491_u32;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as usize % below
    };
    for file in &files {
        for _ in 0..60 {
            let mut broken = file.clone();
            for _ in 0..1 + random(4) {
                let at = random(broken.len().min(2000));
                broken[at] = random(256) as u8;
            }
            if let Err(error) = plugin.preprocess(request(&broken)) {
                assert_eq!(error.code(), "invalid-input", "{error}");
            }
        }
    }
}

/// A PNG whose header claims a size that its data does not have.
fn png_claiming(width: u32, height: u32) -> Vec<u8> {
    let mut file = encode(&quarters(2).into(), ImageFormat::Png);
    file[16..20].copy_from_slice(&width.to_be_bytes());
    file[20..24].copy_from_slice(&height.to_be_bytes());
    let checksum = crc32(&file[12..29]);
    file[29..33].copy_from_slice(&checksum.to_be_bytes());
    file
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 })
    })
}

#[test]
fn a_bomb_is_refused_by_its_header() {
    let start = Instant::now();
    let message = refusal(&png_claiming(30_000, 30_000));
    assert!(message.contains("30000×30000 is over the limit of 50 million pixels"), "{message}");
    let mut jpeg = CAT_JPG.to_vec();
    let header = jpeg.windows(2).position(|marker| marker == [0xff, 0xc0]).unwrap();
    jpeg[header + 5..header + 9].fill(0xff);
    assert!(refusal(&jpeg).contains("65535×65535"));
    let mut gif = encode(&quarters(2).into(), ImageFormat::Gif);
    gif[6..10].fill(0xff);
    assert!(refusal(&gif).contains("65535×65535"));
    let mut bmp = encode(&quarters(2).into(), ImageFormat::Bmp);
    bmp[18..22].copy_from_slice(&30_000_u32.to_le_bytes());
    bmp[22..26].copy_from_slice(&30_000_u32.to_le_bytes());
    assert!(refusal(&bmp).contains("30000×30000"));
    assert!(start.elapsed() < Duration::from_secs(30));
}

#[test]
fn what_is_no_picture_is_named() {
    let mut plugin = classifier([1, 3, 8, 8], Config::default());
    let request = Request { content_type: "image/jpeg".into(), ..request(b"<!DOCTYPE html><title>Not found</title>") };
    let message = plugin.preprocess(request).unwrap_err().message().to_owned();
    assert_eq!(
        message,
        "the request body (image/jpeg) is an HTML page; send JPEG (baseline or progressive, 8 bits), PNG, WebP, GIF or BMP"
    );
    assert!(refusal(b"").contains("is empty"));
}

#[test]
fn odd_sizes_are_scaled_too() {
    for (width, height) in [(1, 1), (1, 500), (500, 1), (3, 2)] {
        let file = encode(&RgbImage::from_pixel(width, height, Rgb([9, 9, 9])).into(), ImageFormat::Png);
        assert!(raw(&file, 4).iter().all(|&value| value == 9.0), "{width}×{height}");
    }
}

#[test]
fn the_golden_request_is_taken() {
    let mut plugin = classifier([1, 3, 8, 8], Config::default());
    let golden = plugin.golden().unwrap();
    assert_eq!(plugin.preprocess(golden).unwrap()[0].shape, [1, 3, 8, 8]);
}

#[test]
fn the_configuration_is_checked() {
    for (config, named) in [
        (serde_json::json!({"crop": 0}), "`crop`"),
        (serde_json::json!({"size": 100_000}), "`size`"),
        (serde_json::json!({"std": [1, 0, 1]}), "`std`"),
        (serde_json::json!({"top_k": 0}), "`top_k`"),
    ] {
        let config: Config = serde_json::from_value(config).unwrap();
        let input = TensorSpec { name: "x".into(), datatype: "FP32".into(), shape: vec![1, 3, 8, 8] };
        let model = Model { inputs: vec![input], ..Model::default() };
        let Err(error) = ImageClassifier::init(model, config) else { panic!("{named} was accepted") };
        assert!(error.code() == "invalid-config" && error.message().contains(named), "{error}");
    }
    for wrong in
        [serde_json::json!({"sise": 1}), serde_json::json!({"layout": "hwc"}), serde_json::json!({"mean": [1, 2]})]
    {
        assert!(serde_json::from_value::<Config>(wrong).is_err());
    }
    let config: Config = serde_json::from_value(serde_json::json!({"softmax": "auto", "layout": "nhwc"})).unwrap();
    assert_eq!(config.layout, Some(Layout::Nhwc));
}

#[test]
fn a_request_goes_through_both_stages() {
    let mut plugin = classifier([1, 3, 8, 8], Config::default());
    let url = format!("data:image/png;base64,{}", "iVBORw0KGgo");
    let body = serde_json::json!({"image_url": url, "top_k": 1}).to_string().into_bytes();
    let json = Request { content_type: "application/json".into(), body, ..Request::default() };
    assert!(plugin.preprocess(json).unwrap_err().message().contains("the data: URL cannot be decoded"));

    let parameters = vec![("top_k".to_owned(), "1".to_owned())];
    plugin.preprocess(Request { parameters, ..request(CAT_JPG) }).unwrap();
    let scores = Tensor::from_f32("scores", [1, 3], [0.0, 1.0, 0.0]).unwrap();
    let answer = plugin.postprocess(vec![scores]).unwrap();
    assert_eq!(
        String::from_utf8(answer.body).unwrap(),
        r#"{"predicted_label":"dog","confidence":1.0,"top_k":[{"label":"dog","index":1,"confidence":1.0}]}"#
    );
}
