//! From a picture of any size to the target's pixels: central crop, scaling, orientation, colour.

use fast_image_resize::images::{Image, TypedImageRef};
use fast_image_resize::pixels::{U8, U8x3};
use fast_image_resize::{FilterType, PixelTrait, ResizeAlg, ResizeOptions, Resizer};
use image::metadata::Orientation;
use image::{DynamicImage, GrayImage, RgbImage};
use nexus_guest::Error;

use crate::config::{Config, Interpolation};
use crate::decode::Picture;
use crate::target::Target;

/// The central part of the picture with the target's proportions, `crop` of the largest there is, scaled to its size.
/// Interleaved, with the target's channels. The picture is turned upright last, when it is small.
pub(crate) fn crop_and_scale(picture: &Picture, target: &Target, config: &Config) -> Result<Vec<u8>, Error> {
    let turned = swaps_axes(picture.orientation);
    let (width, height) = if turned { (target.height, target.width) } else { (target.width, target.height) };
    let (left, top, crop_width, crop_height) = central_crop(picture, f64::from(width) / f64::from(height), config.crop);
    let options = ResizeOptions::new()
        .crop(left, top, crop_width, crop_height)
        .resize_alg(algorithm(config.interpolation))
        .use_alpha(false);
    let pixels = match picture.channels {
        1 => resize::<U8>(picture, width, height, &options),
        _ => resize::<U8x3>(picture, width, height, &options),
    };
    let pixels = pixels.map_err(|error| Error::plugin(format!("scaling the picture failed: {error}")))?;
    let small = match picture.channels {
        1 => GrayImage::from_raw(width, height, pixels).map(DynamicImage::ImageLuma8),
        _ => RgbImage::from_raw(width, height, pixels).map(DynamicImage::ImageRgb8),
    };
    let mut small = small.ok_or_else(|| Error::plugin("the scaled picture is incomplete"))?;
    small.apply_orientation(picture.orientation);
    Ok(if target.channels == 1 { small.into_luma8().into_raw() } else { small.into_rgb8().into_raw() })
}

/// Typed, because the untyped way carries code for all the pixel types there are into the component.
fn resize<P: PixelTrait>(
    picture: &Picture,
    width: u32,
    height: u32,
    options: &ResizeOptions,
) -> Result<Vec<u8>, String> {
    let mut scaled = Image::new(width, height, P::pixel_type());
    let source = TypedImageRef::<P>::from_buffer(picture.width, picture.height, &picture.pixels)
        .map_err(|error| error.to_string())?;
    let mut target = scaled.typed_image_mut::<P>().ok_or("another pixel type")?;
    Resizer::new().resize_typed(&source, &mut target, options).map_err(|error| error.to_string())?;
    Ok(scaled.into_vec())
}

/// Left, top, width and height, in pixels and fractions of them.
fn central_crop(picture: &Picture, aspect: f64, crop: f64) -> (f64, f64, f64, f64) {
    let (width, height) = (f64::from(picture.width), f64::from(picture.height));
    let crop_width = crop * width.min(height * aspect);
    let crop_height = crop * height.min(width / aspect);
    ((width - crop_width) / 2.0, (height - crop_height) / 2.0, crop_width, crop_height)
}

fn algorithm(interpolation: Interpolation) -> ResizeAlg {
    match interpolation {
        Interpolation::Nearest => ResizeAlg::Nearest,
        Interpolation::Bilinear => ResizeAlg::Convolution(FilterType::Bilinear),
        Interpolation::Bicubic => ResizeAlg::Convolution(FilterType::CatmullRom),
        Interpolation::Lanczos3 => ResizeAlg::Convolution(FilterType::Lanczos3),
    }
}

fn swaps_axes(orientation: Orientation) -> bool {
    matches!(
        orientation,
        Orientation::Rotate90 | Orientation::Rotate270 | Orientation::Rotate90FlipH | Orientation::Rotate270FlipH
    )
}
