//! What the classifier's preprocess is measured against: the same picture made into the same tensor natively, by the plain way.

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;

/// Side of the tensor's picture, in pixels.
const SIDE: u32 = 224;
/// Share of the shorter side that the central square keeps.
const CROP: f64 = 0.875;

/// Decodes a colour JPEG whole, scales its central square, bicubic, and normalises it into three planes.
pub fn classifier_input(file: &[u8]) -> Vec<f32> {
    let mut decoder = JpegDecoder::new(ZCursor::new(file));
    let pixels = decoder.decode().unwrap();
    let (width, height) = decoder.dimensions().unwrap();
    let source = ImageRef::new(width as u32, height as u32, &pixels, PixelType::U8x3).unwrap();
    let side = CROP * width.min(height) as f64;
    let options = ResizeOptions::new()
        .crop((width as f64 - side) / 2.0, (height as f64 - side) / 2.0, side, side)
        .resize_alg(ResizeAlg::Convolution(FilterType::CatmullRom));
    let mut scaled = Image::new(SIDE, SIDE, PixelType::U8x3);
    Resizer::new().resize(&source, &mut scaled, &options).unwrap();

    let plane = (SIDE * SIDE) as usize;
    let mut planes = vec![0.0; 3 * plane];
    let (red, rest) = planes.split_at_mut(plane);
    let (green, blue) = rest.split_at_mut(plane);
    let elements = red.iter_mut().zip(green).zip(blue);
    for (((red, green), blue), pixel) in elements.zip(scaled.buffer().chunks_exact(3)) {
        *red = (f32::from(pixel[0]) - 127.0) / 128.0;
        *green = (f32::from(pixel[1]) - 127.0) / 128.0;
        *blue = (f32::from(pixel[2]) - 127.0) / 128.0;
    }
    planes
}
