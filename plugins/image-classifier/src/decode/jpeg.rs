//! JPEG, scaled while it is decoded.

use image::metadata::Orientation;
use jpeg_decoder::{CodingProcess, Decoder, ImageInfo, PixelFormat};
use nexus_guest::Error;

use crate::decode::file::File;
use crate::decode::pixels::{self, Pixels};
use crate::decode::{Picture, ScaleHint};

pub(crate) fn decode(file: &File<'_>, hint: ScaleHint) -> Result<Picture, Error> {
    let failed = |error: jpeg_decoder::Error| match error {
        jpeg_decoder::Error::Unsupported(feature) => file.unsupported(&format!("{feature:?}")),
        other => file.damaged(&other),
    };
    let mut decoder = Decoder::new(file.bytes);
    decoder.read_info().map_err(failed)?;
    let info = decoder.info().ok_or_else(|| file.damaged(&"it has no header"))?;
    file.check_size(info.width.into(), info.height.into())?;

    // The shorter side decides: nothing satisfies the other, so that it does not.
    let shorter = u16::try_from(hint.shorter_side).unwrap_or(u16::MAX);
    let (wanted_width, wanted_height) =
        if info.width <= info.height { (shorter, u16::MAX) } else { (u16::MAX, shorter) };
    let (width, height) = decoder.scale(wanted_width, wanted_height).map_err(failed)?;
    reserve(file, &info, u64::from(width) * u64::from(height))?;
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

/// The decoder aborts where memory ends. So memory it is likely to need is asked for here, where a refusal is an error,
/// and given back: WebAssembly memory never shrinks, so what was there once stays there for the decoder.
fn reserve(file: &File<'_>, info: &ImageInfo, scaled_pixels: u64) -> Result<(), Error> {
    let samples = info.pixel_format.pixel_bytes() as u64;
    // Planes and the interleaved picture at the scaled size; a progressive file also keeps all its coefficients.
    let mut bytes = 2 * scaled_pixels * samples;
    if info.coding_process == CodingProcess::DctProgressive {
        bytes += 2 * u64::from(info.width) * u64::from(info.height) * samples;
    }
    let reserved = usize::try_from(bytes).is_ok_and(|bytes| Vec::<u8>::new().try_reserve_exact(bytes).is_ok());
    if reserved { Ok(()) } else { Err(file.too_much_memory(bytes)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scaling_leaves_what_the_hint_asks_for() {
        let bytes = include_bytes!("../../tests/images/cat.jpg");
        let file = File { bytes, format: "JPEG", origin: "cat.jpg", max_pixels: 1 << 20 };
        for (hint, size) in [
            (38, (57, 38)),
            (39, (113, 75)),
            (75, (113, 75)),
            (76, (226, 150)),
            (151, (451, 300)),
            (300, (451, 300)),
            (9999, (451, 300)),
        ] {
            let picture = decode(&file, ScaleHint { shorter_side: hint }).unwrap();
            assert_eq!((picture.width, picture.height), size, "{hint}");
        }
    }
}
