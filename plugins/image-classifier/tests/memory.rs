//! Files that lie about their size, or unfold without end: refused before memory is spent on them. Alone in its binary,
//! because the allocator counts for all threads.
#![allow(clippy::unwrap_used)]

use std::io::{Cursor, Write};

use image::{ImageFormat, RgbImage};
use image_classifier::{Config, ImageClassifier};
use nexus_guest::{Model, Plugin, Request, TensorSpec};
use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

const CAT_JPG: &[u8] = include_bytes!("images/cat.jpg");
const LOSSY_WEBP: &[u8] = include_bytes!("images/kinds/transparent-lossy.webp");
const ANIMATED_WEBP: &[u8] = include_bytes!("images/kinds/animated-lossy.webp");

fn tiny(format: ImageFormat) -> Vec<u8> {
    let mut file = Cursor::new(Vec::new());
    RgbImage::new(2, 2).write_to(&mut file, format).unwrap();
    file.into_inner()
}

fn with(mut file: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    file[at..at + bytes.len()].copy_from_slice(bytes);
    file
}

/// Where `needle` begins in `file`.
fn find(file: &[u8], needle: &[u8]) -> usize {
    file.windows(needle.len()).position(|window| window == needle).unwrap()
}

fn png_chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let mut checksum = flate2::Crc::new();
    checksum.update(kind);
    checksum.update(data);
    [&(data.len() as u32).to_be_bytes(), &kind[..], data, &checksum.sum().to_be_bytes()].concat()
}

/// 64 MiB of zeros, deflated to 65 KB.
fn bomb() -> Vec<u8> {
    let mut deflated = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    let zeros = vec![0; 1 << 20];
    for _ in 0..64 {
        deflated.write_all(&zeros).unwrap();
    }
    deflated.finish().unwrap()
}

/// A PNG of 2×2 pixels with a chunk behind its header.
fn png_with(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let png = tiny(ImageFormat::Png);
    [&png[..33], &png_chunk(kind, data), &png[33..]].concat()
}

/// A PNG header of this size, 16-bit RGBA, and nothing behind it but a bomb.
fn png_bomb(side: u32) -> Vec<u8> {
    let size = [side.to_be_bytes(), side.to_be_bytes()].concat();
    let header = [&size[..], &[16, 6, 0, 0, 0]].concat();
    [b"\x89PNG\r\n\x1a\n", &*png_chunk(b"IHDR", &header), &png_chunk(b"IDAT", &bomb())].concat()
}

#[test]
fn lies_cost_no_memory() {
    const MIB: usize = 1 << 20;
    let huge = 16_383_u16.to_le_bytes();
    let huge = [huge, huge].concat();
    let frame = |file: &[u8]| find(file, b"\x9d\x01\x2a") + 3;
    let gif = tiny(ImageFormat::Gif);
    let gif_frame = find(&gif, b"\x2c\0\0\0\0") + 5;
    let jpeg_size = find(CAT_JPG, b"\xff\xc0") + 5;
    // What comes, what may be allocated for it beside the file itself, and what is said.
    let files: Vec<(&str, Vec<u8>, usize, &str)> = vec![
        ("JPEG of 65535×65535", with(CAT_JPG.to_vec(), jpeg_size, &[0xff; 4]), MIB, "65535×65535 is over the limit"),
        ("PNG of 30000×30000", png_bomb(30_000), MIB, "30000×30000 is over the limit"),
        ("PNG of 2³¹×2³¹", png_bomb(1 << 31), MIB, "2147483648×2147483648 is over the limit"),
        ("PNG with an endless profile", png_with(b"iCCP", &[b"x\0\0", &*bomb()].concat()), 40 * MIB, ""),
        ("PNG with endless text", png_with(b"zTXt", &[b"x\0\0", &*bomb()].concat()), 2 * MIB, ""),
        ("GIF of 65535×65535", with(gif.clone(), 6, &[0xff; 4]), MIB, "65535×65535 is over the limit"),
        ("GIF with a frame of 8191×8191", with(gif, gif_frame, &[0xff, 0x1f, 0xff, 0x1f]), MIB, "cannot be decoded"),
        (
            "BMP of 30000×30000",
            with(tiny(ImageFormat::Bmp), 18, &[0x30, 0x75, 0, 0, 0x30, 0x75]),
            MIB,
            "over the limit",
        ),
        (
            "WebP with a frame of 16383×16383",
            with(LOSSY_WEBP.to_vec(), frame(LOSSY_WEBP), &huge),
            MIB,
            "over the limit",
        ),
        (
            "animated WebP with a frame of 16383×16383",
            with(ANIMATED_WEBP.to_vec(), frame(ANIMATED_WEBP), &huge),
            MIB,
            "16383×16383 is over the limit",
        ),
    ];
    let input = TensorSpec { name: "x".into(), datatype: "FP32".into(), shape: vec![1, 3, 8, 8] };
    let model = Model { inputs: vec![input], ..Model::default() };
    let mut plugin = ImageClassifier::init(model, Config::default()).unwrap();
    for (name, body, allowed, said) in files {
        let request = Request { content_type: "application/octet-stream".into(), body, ..Request::default() };
        let allowed = allowed + request.body.len();
        let before = MEMORY.current_usage();
        MEMORY.reset_peak_usage();
        let outcome = plugin.preprocess(request);
        let spent = MEMORY.peak_usage() - before;
        assert!(spent <= allowed, "{name}: {spent} bytes");
        if !said.is_empty() {
            let error = outcome.unwrap_err();
            assert!(error.code() == "invalid-input" && error.message().contains(said), "{name}: {error}");
        }
    }
}
