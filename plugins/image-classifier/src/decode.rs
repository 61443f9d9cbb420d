//! Image files to pixels: JPEG, PNG, WebP, GIF and BMP, told apart by their first bytes.

use std::io::Cursor;

use image::codecs::{bmp::BmpDecoder, gif::GifDecoder, png::PngDecoder, webp::WebPDecoder};
use image::metadata::Orientation;
use image::{ColorType, ImageDecoder, ImageError, Limits};
use jpeg_decoder::{CodingProcess, PixelFormat};
use nexus_guest::Error;

use crate::decode::pixels::Pixels;

mod format;
mod pixels;

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

/// Decodes `file`, called `origin` in messages. Its header is checked against `max_pixels` before any pixel is decoded.
pub(crate) fn decode(file: &[u8], origin: &str, max_pixels: u64, hint: ScaleHint) -> Result<Picture, Error> {
    let reader = Cursor::new(file);
    // What one picture may allocate: 8 bytes for 16-bit RGBA, and room for a decoder's own tables and metadata.
    let mut limits = Limits::default();
    limits.max_alloc = Some(max_pixels.saturating_mul(8).saturating_add(16 << 20));
    let failed = |error: ImageError| damaged(origin, &error);
    match format::of(file) {
        format::Format::Jpeg => decode_jpeg(file, origin, max_pixels, hint),
        format::Format::Png => {
            // By hand and first: where addresses have 32 bits, the decoder calls a large picture's header broken.
            if let Some([w, x, y, z, a, b, c, d]) = file.get(16..24) {
                let (width, height) = (u32::from_be_bytes([*w, *x, *y, *z]), u32::from_be_bytes([*a, *b, *c, *d]));
                check_size(origin, width, height, max_pixels)?;
            }
            let decoder = PngDecoder::with_limits(reader, limits).map_err(failed)?;
            decode_with(decoder, origin, max_pixels)
        }
        format::Format::Webp => decode_with(WebPDecoder::new(reader).map_err(failed)?, origin, max_pixels),
        format::Format::Gif => {
            let mut decoder = GifDecoder::new(reader).map_err(failed)?;
            decoder.set_limits(limits).map_err(failed)?;
            decode_with(decoder, origin, max_pixels)
        }
        format::Format::Bmp => decode_with(BmpDecoder::new(reader).map_err(failed)?, origin, max_pixels),
        format::Format::Other(what) => Err(Error::invalid_input(format!(
            "{origin} is {what}, not an image this plugin reads: JPEG, PNG, WebP, GIF or BMP"
        ))),
    }
}

fn decode_with(mut decoder: impl ImageDecoder, origin: &str, max_pixels: u64) -> Result<Picture, Error> {
    let (width, height) = decoder.dimensions();
    check_size(origin, width, height, max_pixels)?;
    // Broken metadata is no reason to refuse a picture.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let color = decoder.color_type();
    let bytes = decoder.total_bytes();
    let mut buffer = Vec::new();
    usize::try_from(bytes)
        .ok()
        .and_then(|bytes| buffer.try_reserve_exact(bytes).ok())
        .ok_or_else(|| no_memory(origin, bytes))?;
    buffer.resize(bytes as usize, 0);
    decoder.read_image(&mut buffer).map_err(|error| damaged(origin, &error))?;
    let Pixels { channels, pixels } = match color {
        ColorType::L8 => Pixels { channels: 1, pixels: buffer },
        ColorType::Rgb8 => Pixels { channels: 3, pixels: buffer },
        ColorType::La8 => pixels::flatten::<1>(buffer),
        ColorType::Rgba8 => pixels::flatten::<3>(buffer),
        ColorType::L16 => Pixels { channels: 1, pixels: pixels::halve(buffer) },
        ColorType::Rgb16 => Pixels { channels: 3, pixels: pixels::halve(buffer) },
        ColorType::La16 => pixels::flatten::<1>(pixels::halve(buffer)),
        ColorType::Rgba16 => pixels::flatten::<3>(pixels::halve(buffer)),
        other => return Err(damaged(origin, &format!("pixels of the kind {other:?}"))),
    };
    Ok(Picture { width, height, channels, pixels, orientation })
}

fn decode_jpeg(file: &[u8], origin: &str, max_pixels: u64, hint: ScaleHint) -> Result<Picture, Error> {
    let failed = |error: jpeg_decoder::Error| damaged(origin, &error);
    let mut decoder = jpeg_decoder::Decoder::new(file);
    decoder.read_info().map_err(failed)?;
    let info = decoder.info().ok_or_else(|| damaged(origin, &"it has no header"))?;
    check_size(origin, info.width.into(), info.height.into(), max_pixels)?;

    // The shorter side decides: nothing satisfies the other, so that it does not.
    let shorter = u16::try_from(hint.shorter_side).unwrap_or(u16::MAX);
    let (wanted_width, wanted_height) =
        if info.width <= info.height { (shorter, u16::MAX) } else { (u16::MAX, shorter) };
    let (width, height) = decoder.scale(wanted_width, wanted_height).map_err(failed)?;
    reserve_for_jpeg(&info, u64::from(width) * u64::from(height), origin)?;
    let buffer = decoder.decode().map_err(failed)?;

    let Pixels { channels, pixels } = match info.pixel_format {
        PixelFormat::L8 => Pixels { channels: 1, pixels: buffer },
        PixelFormat::L16 => Pixels { channels: 1, pixels: pixels::halve(buffer) },
        PixelFormat::RGB24 => Pixels { channels: 3, pixels: buffer },
        PixelFormat::CMYK32 => pixels::print_to_screen(buffer),
    };
    let orientation = decoder.exif_data().and_then(Orientation::from_exif_chunk).unwrap_or(Orientation::NoTransforms);
    Ok(Picture { width: width.into(), height: height.into(), channels, pixels, orientation })
}

/// The JPEG decoder aborts where memory ends. So memory it is likely to need is asked for here, where a refusal is an
/// error, and given back: WebAssembly memory never shrinks, so what was there once stays there for the decoder.
fn reserve_for_jpeg(info: &jpeg_decoder::ImageInfo, scaled_pixels: u64, origin: &str) -> Result<(), Error> {
    let samples = info.pixel_format.pixel_bytes() as u64;
    // Planes and the interleaved picture at the scaled size; a progressive file also keeps all its coefficients.
    let mut bytes = 2 * scaled_pixels * samples;
    if info.coding_process == CodingProcess::DctProgressive {
        bytes += 2 * u64::from(info.width) * u64::from(info.height) * samples;
    }
    let reserved = usize::try_from(bytes).is_ok_and(|bytes| Vec::<u8>::new().try_reserve_exact(bytes).is_ok());
    if reserved { Ok(()) } else { Err(no_memory(origin, bytes)) }
}

fn check_size(origin: &str, width: u32, height: u32, max_pixels: u64) -> Result<(), Error> {
    if width == 0 || height == 0 {
        return Err(damaged(origin, &format!("its size is {width}×{height}")));
    }
    if u64::from(width) * u64::from(height) > max_pixels {
        let limit = max_pixels as f64 / 1e6;
        return Err(Error::invalid_input(format!(
            "{origin} is too large: {width}×{height} is over the limit of {limit} million pixels; send a smaller picture"
        )));
    }
    Ok(())
}

fn no_memory(origin: &str, bytes: u64) -> Error {
    let megabytes = bytes >> 20;
    Error::invalid_input(format!(
        "{origin} needs {megabytes} MiB to decode, more than this plugin may have; send a smaller picture"
    ))
}

fn damaged(origin: &str, error: &dyn std::fmt::Display) -> Error {
    Error::invalid_input(format!("{origin} cannot be decoded, it is damaged or incomplete: {error}"))
}
