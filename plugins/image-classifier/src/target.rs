//! The tensor a model wants: which input, how large, in which layout and datatype, normalised how.

use bytemuck::Pod;
use half::f16;
use nexus_guest::{Element, Error, Tensor, TensorSpec};

use crate::config::{Config, Layout, MAX_SIDE};

const DEFAULT_SIDE: u32 = 224;

/// What preprocess has to produce.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) width: u32,
    pub(crate) height: u32,
    /// 1 (grey) or 3 (red, green, blue).
    pub(crate) channels: usize,
    name: String,
    layout: Layout,
    values: Values,
}

/// For each channel, what each of the 256 pixel values becomes.
#[derive(Debug)]
enum Values {
    Fp32(Box<[[f32; 256]; 3]>),
    /// As bits; FP16 has no number type of its own in a tensor.
    Fp16(Box<[[u16; 256]; 3]>),
    Uint8(Box<[[u8; 256]; 3]>),
    Int8(Box<[[i8; 256]; 3]>),
}

impl Target {
    /// Picks the model's image input, the only one or the first with four axes, and completes the configuration from it.
    pub(crate) fn new(inputs: &[TensorSpec], config: &Config) -> Result<Self, Error> {
        let input = match inputs {
            [only] => only,
            several => several
                .iter()
                .find(|input| input.shape.len() == 4)
                .ok_or_else(|| Error::invalid_input("the model has no input with four axes, as images need"))?,
        };
        let shape: [i64; 4] = input.shape.as_slice().try_into().map_err(|_| unfit(input, "it has not four axes"))?;
        if shape[0] > 1 {
            return Err(unfit(input, "its batch axis is fixed and not 1"));
        }
        let layout = config.layout.unwrap_or_else(|| guess_layout(shape));
        let [channels, height, width] = match layout {
            Layout::Nchw => [shape[1], shape[2], shape[3]],
            Layout::Nhwc => [shape[3], shape[1], shape[2]],
        };
        let channels = match channels {
            1 => 1,
            3 | ..=-1 => 3,
            _ => return Err(unfit(input, "its channels are neither 1 nor 3; does `layout` fit?")),
        };
        Ok(Target {
            width: side(input, "width", width, config.width.or(config.size))?,
            height: side(input, "height", height, config.height.or(config.size))?,
            channels,
            name: input.name.clone(),
            layout,
            values: Values::new(input, config)?,
        })
    }

    /// Normalises interleaved 8-bit `pixels` of the target's size and channels into the model's input.
    pub(crate) fn tensor(&self, pixels: &[u8]) -> Result<Tensor, Error> {
        match &self.values {
            Values::Fp32(values) => self.filled(pixels, values),
            Values::Uint8(values) => self.filled(pixels, values),
            Values::Int8(values) => self.filled(pixels, values),
            Values::Fp16(values) => {
                let bits = self.filled(pixels, values)?;
                Ok(Tensor { datatype: "FP16".into(), ..bits })
            }
        }
    }

    fn filled<T: Element>(&self, pixels: &[u8], values: &[[T; 256]; 3]) -> Result<Tensor, Error> {
        let (height, width, channels) = (u64::from(self.height), u64::from(self.width), self.channels as u64);
        let shape = match self.layout {
            Layout::Nchw => [1, channels, height, width],
            Layout::Nhwc => [1, height, width, channels],
        };
        Tensor::filled(&self.name, shape, |elements| match self.layout {
            Layout::Nchw => fill_planes(elements, pixels, self.channels, values),
            Layout::Nhwc => fill_interleaved(elements, pixels, self.channels, values),
        })
    }
}

fn fill_planes<T: Pod>(elements: &mut [T], pixels: &[u8], channels: usize, values: &[[T; 256]; 3]) {
    let [reds, greens, blues] = values;
    if channels == 1 {
        for (element, &pixel) in elements.iter_mut().zip(pixels) {
            *element = reds[usize::from(pixel)];
        }
        return;
    }
    // All three in one go: a pixel is read once.
    let (red, rest) = elements.split_at_mut(elements.len() / 3);
    let (green, blue) = rest.split_at_mut(rest.len() / 2);
    let (pixels, _) = pixels.as_chunks::<3>();
    for (((red, green), blue), &[r, g, b]) in red.iter_mut().zip(green).zip(blue).zip(pixels) {
        *red = reds[usize::from(r)];
        *green = greens[usize::from(g)];
        *blue = blues[usize::from(b)];
    }
}

fn fill_interleaved<T: Pod>(elements: &mut [T], pixels: &[u8], channels: usize, values: &[[T; 256]; 3]) {
    for (elements, pixel) in elements.chunks_exact_mut(channels).zip(pixels.chunks_exact(channels)) {
        for ((element, &value), values) in elements.iter_mut().zip(pixel).zip(values) {
            *element = values[usize::from(value)];
        }
    }
}

impl Values {
    fn new(input: &TensorSpec, config: &Config) -> Result<Self, Error> {
        let (mean, std) = match input.datatype.as_str() {
            "UINT8" => (0.0, 1.0),
            "INT8" => (128.0, 1.0),
            _ => (127.0, 128.0),
        };
        let mean = config.mean.map_or([mean; 3], |mean| mean.channels());
        let std = config.std.map_or([std; 3], |std| std.channels());
        let value = |channel: usize, pixel: usize| (pixel as f32 - mean[channel]) / std[channel];
        // `as` clamps to the integer's range.
        Ok(match input.datatype.as_str() {
            "FP32" => Values::Fp32(table(value)),
            "FP16" => Values::Fp16(table(|channel, pixel| f16::from_f32(value(channel, pixel)).to_bits())),
            "UINT8" => Values::Uint8(table(|channel, pixel| value(channel, pixel).round() as u8)),
            "INT8" => Values::Int8(table(|channel, pixel| value(channel, pixel).round() as i8)),
            _ => return Err(unfit(input, "pixels become FP32, FP16, UINT8 or INT8")),
        })
    }
}

fn table<T: Copy>(value: impl Fn(usize, usize) -> T) -> Box<[[T; 256]; 3]> {
    Box::new(std::array::from_fn(|channel| std::array::from_fn(|pixel| value(channel, pixel))))
}

/// Where the three channels are, or the one; channels first if the shape does not tell.
fn guess_layout(shape: [i64; 4]) -> Layout {
    for channels in [3, 1] {
        if shape[1] == channels {
            return Layout::Nchw;
        }
        if shape[3] == channels {
            return Layout::Nhwc;
        }
    }
    Layout::Nchw
}

/// The configured side where the model leaves it open, the model's where it does not; the two must not contradict.
fn side(input: &TensorSpec, name: &str, declared: i64, configured: Option<u32>) -> Result<u32, Error> {
    if declared < 0 {
        return Ok(configured.unwrap_or(DEFAULT_SIDE));
    }
    let declared = u32::try_from(declared).ok().filter(|side| (1..=MAX_SIDE).contains(side));
    let declared = declared.ok_or_else(|| unfit(input, &format!("its {name} is not from 1 to {MAX_SIDE}")))?;
    match configured {
        Some(configured) if configured != declared => Err(Error::invalid_config(format!(
            "the configured {name} is {configured}, but input `{}` {:?} wants {declared}",
            input.name, input.shape
        ))),
        _ => Ok(declared),
    }
}

fn unfit(input: &TensorSpec, reason: &str) -> Error {
    let TensorSpec { name, datatype, shape } = input;
    Error::invalid_input(format!("input `{name}` {datatype} {shape:?} does not take an image: {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PerChannel;

    fn spec(datatype: &str, shape: [i64; 4]) -> TensorSpec {
        TensorSpec { name: "x".into(), datatype: datatype.into(), shape: shape.to_vec() }
    }

    fn target(datatype: &str, shape: [i64; 4], config: &Config) -> Target {
        Target::new(&[spec(datatype, shape)], config).unwrap()
    }

    #[test]
    fn the_shape_tells_layout_and_size() {
        for (shape, expected) in [
            ([1, 3, 200, 300], (Layout::Nchw, 3, 300, 200)),
            ([-1, 200, 300, 3], (Layout::Nhwc, 3, 300, 200)),
            ([1, 1, 28, 28], (Layout::Nchw, 1, 28, 28)),
            ([1, 28, 28, 1], (Layout::Nhwc, 1, 28, 28)),
            ([-1, -1, -1, 3], (Layout::Nhwc, 3, 224, 224)),
            ([-1, -1, -1, -1], (Layout::Nchw, 3, 224, 224)),
        ] {
            let target = target("FP32", shape, &Config::default());
            assert_eq!((target.layout, target.channels, target.width, target.height), expected, "{shape:?}");
        }
    }

    #[test]
    fn the_configuration_fills_what_is_open_and_may_not_contradict() {
        let config = Config { size: Some(96), ..Config::default() };
        assert_eq!(target("FP32", [1, 3, -1, -1], &config).width, 96);
        let error = Target::new(&[spec("FP32", [1, 3, 224, 224])], &config).unwrap_err();
        assert!(error.message().contains("is 96, but input `x` [1, 3, 224, 224] wants 224"), "{error}");
    }

    #[test]
    fn what_takes_no_image_is_refused() {
        for (datatype, shape) in
            [("INT64", [1, 3, 8, 8]), ("FP32", [8, 3, 8, 8]), ("FP32", [1, 4, 8, 8]), ("FP32", [1, 3, 0, 8])]
        {
            assert!(Target::new(&[spec(datatype, shape)], &Config::default()).is_err(), "{datatype} {shape:?}");
        }
        let flat = TensorSpec { shape: vec![-1, 4], ..spec("FP32", [0; 4]) };
        assert!(Target::new(std::slice::from_ref(&flat), &Config::default()).is_err());
        assert!(Target::new(&[], &Config::default()).is_err());
        assert_eq!(Target::new(&[flat, spec("FP32", [1, 3, 8, 8])], &Config::default()).unwrap().width, 8);
    }

    #[test]
    fn each_datatype_normalises_in_its_way() {
        let pixels = [0, 127, 255];
        let config = Config::default();
        let shape = [1, 3, 1, 1];
        let float = target("FP32", shape, &config).tensor(&pixels).unwrap();
        assert_eq!(float.as_f32().unwrap().as_ref(), [-127.0 / 128.0, 0.0, 1.0]);
        let half = target("FP16", shape, &config).tensor(&pixels).unwrap();
        assert_eq!((half.datatype.as_str(), &half.data[4..]), ("FP16", &f16::ONE.to_le_bytes()[..]));
        assert_eq!(target("UINT8", shape, &config).tensor(&pixels).unwrap().data, pixels);
        let signed = target("INT8", shape, &config).tensor(&pixels).unwrap();
        assert_eq!(signed.values::<i8>().unwrap().as_ref(), [-128, -1, 127]);
    }

    #[test]
    fn channels_have_their_own_mean_and_place() {
        let config = Config {
            mean: Some(PerChannel::Each([1.0, 2.0, 3.0])),
            std: Some(PerChannel::All(2.0)),
            ..Config::default()
        };
        let pixels = [1, 2, 3, 5, 6, 7];
        let first = target("FP32", [1, 3, 1, 2], &config).tensor(&pixels).unwrap();
        assert_eq!(first.as_f32().unwrap().as_ref(), [0.0, 2.0, 0.0, 2.0, 0.0, 2.0]);
        let last =
            target("FP32", [1, 1, 2, 3], &Config { layout: Some(Layout::Nhwc), ..config }).tensor(&pixels).unwrap();
        assert_eq!(last.as_f32().unwrap().as_ref(), [0.0, 0.0, 0.0, 2.0, 2.0, 2.0]);
    }
}
