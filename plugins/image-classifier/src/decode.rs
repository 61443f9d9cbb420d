//! Image files to pixels: JPEG, PNG, WebP, GIF and BMP, told apart by their first bytes.

use std::io::Cursor;

use image::codecs::{bmp::BmpDecoder, gif::GifDecoder, png::PngDecoder, webp::WebPDecoder};
use image::metadata::Orientation;
use image::{ColorType, ImageDecoder, ImageError, Limits};
use nexus_guest::Error;

use crate::decode::file::File;
use crate::decode::format::Format;
use crate::decode::pixels::Pixels;

mod file;
mod format;
mod jpeg;
mod pixels;
mod webp;

/// A decoded picture, interleaved, 8 bits a channel. Transparent parts are white.
#[derive(Debug)]
pub(crate) struct Picture {
    pub(crate) width: u32,
    pub(crate) height: u32,
    /// 1 (grey) or 3 (red, green, blue).
    pub(crate) channels: usize,
    pub(crate) pixels: Vec<u8>,
    /// How to turn the picture upright, as EXIF has it.
    pub(crate) orientation: Orientation,
}

/// How small a picture may become while it is decoded; a JPEG decoder saves most of its work that way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ScaleHint {
    /// In pixels; at least as many are left.
    pub(crate) shorter_side: u32,
}

/// Decodes `bytes`, called `origin` in messages. The header is checked against `max_pixels` before any pixel is decoded.
pub(crate) fn decode(bytes: &[u8], origin: &str, max_pixels: u64, hint: ScaleHint) -> Result<Picture, Error> {
    let format = format::of(bytes);
    let file = File { bytes, format: format.name(), origin, max_pixels };
    let failed = |error: ImageError| refused(&file, &error);
    let reader = Cursor::new(bytes);
    match format {
        Format::Jpeg => jpeg::decode(&file, hint),
        Format::Png => {
            // By hand and first: where addresses have 32 bits, the decoder calls a large picture's header broken.
            let (width, height) = match bytes.get(16..24) {
                Some(&[a, b, c, d, e, f, g, h]) => (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h])),
                _ => return Err(file.damaged(&"it ends in its header")),
            };
            file.check_size(width, height)?;
            decode_with(PngDecoder::with_limits(reader, limits(width, height)).map_err(failed)?, &file)
        }
        Format::Webp => {
            webp::check_frame_sizes(&file)?;
            decode_with(WebPDecoder::new(reader).map_err(failed)?, &file)
        }
        Format::Gif => {
            let mut decoder = GifDecoder::new(reader).map_err(failed)?;
            let (width, height) = decoder.dimensions();
            file.check_size(width, height)?;
            decoder.set_limits(limits(width, height)).map_err(failed)?;
            decode_with(decoder, &file)
        }
        Format::Bmp => decode_with(BmpDecoder::new(reader).map_err(failed)?, &file),
        Format::Other(what) => Err(Error::invalid_input(format!("{origin} is {what}; send {}", file::TAKEN))),
    }
}

/// What a picture of this size may allocate: 8 bytes a pixel for 16-bit RGBA, and room for tables and metadata. More is
/// a frame larger than the picture, or metadata that unfolds without end.
fn limits(width: u32, height: u32) -> Limits {
    let mut limits = Limits::default();
    limits.max_alloc = Some((u64::from(width) * u64::from(height)).saturating_mul(8).saturating_add(16 << 20));
    limits
}

fn decode_with(mut decoder: impl ImageDecoder, file: &File<'_>) -> Result<Picture, Error> {
    let (width, height) = decoder.dimensions();
    file.check_size(width, height)?;
    // Broken metadata is no reason to refuse a picture.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let color = decoder.color_type();
    let bytes = decoder.total_bytes();
    let mut buffer = Vec::new();
    usize::try_from(bytes)
        .ok()
        .and_then(|bytes| buffer.try_reserve_exact(bytes).ok())
        .ok_or_else(|| file.too_much_memory(bytes))?;
    buffer.resize(bytes as usize, 0);
    decoder.read_image(&mut buffer).map_err(|error| refused(file, &error))?;
    let Pixels { channels, pixels } = match color {
        ColorType::L8 => Pixels { channels: 1, pixels: buffer },
        ColorType::Rgb8 => Pixels { channels: 3, pixels: buffer },
        ColorType::La8 => pixels::flatten::<1>(buffer),
        ColorType::Rgba8 => pixels::flatten::<3>(buffer),
        ColorType::L16 => Pixels { channels: 1, pixels: pixels::halve(buffer) },
        ColorType::Rgb16 => Pixels { channels: 3, pixels: pixels::halve(buffer) },
        ColorType::La16 => pixels::flatten::<1>(pixels::halve(buffer)),
        ColorType::Rgba16 => pixels::flatten::<3>(pixels::halve(buffer)),
        other => return Err(file.unsupported(&format!("its pixels are {other:?}"))),
    };
    Ok(Picture { width, height, channels, pixels, orientation })
}

fn refused(file: &File<'_>, error: &ImageError) -> Error {
    match error {
        ImageError::Unsupported(error) => file.unsupported(error),
        _ => file.damaged(error),
    }
}
