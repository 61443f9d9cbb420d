//! Whatever a decoder gives, as 8-bit grey or RGB, in the buffer it came in.

/// Interleaved 8-bit pixels.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Pixels {
    pub(crate) channels: usize,
    pub(crate) pixels: Vec<u8>,
}

/// Lays `COLORS` channels and alpha over white. White, because that is what pages and most training pictures have behind.
pub(crate) fn flatten<const COLORS: usize>(mut pixels: Vec<u8>) -> Pixels {
    let mut kept = 0;
    for start in (0..pixels.len()).step_by(COLORS + 1) {
        let alpha = u32::from(pixels[start + COLORS]);
        for channel in 0..COLORS {
            let color = u32::from(pixels[start + channel]);
            pixels[kept] = ((color * alpha + 255 * (255 - alpha) + 127) / 255) as u8;
            kept += 1;
        }
    }
    pixels.truncate(kept);
    Pixels { channels: COLORS, pixels }
}

/// 16-bit samples of this machine's byte order, rounded to 8 bits.
pub(crate) fn halve(mut pixels: Vec<u8>) -> Vec<u8> {
    let samples = pixels.len() / 2;
    for sample in 0..samples {
        let wide = u32::from(u16::from_ne_bytes([pixels[2 * sample], pixels[2 * sample + 1]]));
        pixels[sample] = ((wide + 128) / 257) as u8;
    }
    pixels.truncate(samples);
    pixels
}

/// CMYK ink, 255 for full, as RGB light. Without the printer's profile, as browsers do for want of one.
pub(crate) fn print_to_screen(mut pixels: Vec<u8>) -> Pixels {
    let count = pixels.len() / 4;
    for pixel in 0..count {
        let paper = 255 - u32::from(pixels[4 * pixel + 3]);
        for channel in 0..3 {
            let light = 255 - u32::from(pixels[4 * pixel + channel]);
            pixels[3 * pixel + channel] = ((light * paper + 127) / 255) as u8;
        }
    }
    pixels.truncate(3 * count);
    Pixels { channels: 3, pixels }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transparency_turns_white() {
        assert_eq!(
            flatten::<3>(vec![10, 20, 30, 255, 10, 20, 30, 0, 0, 0, 0, 128]).pixels,
            [10, 20, 30, 255, 255, 255, 127, 127, 127]
        );
        assert_eq!(flatten::<1>(vec![10, 255, 10, 0]).pixels, [10, 255]);
    }

    #[test]
    fn sixteen_bits_become_eight() {
        let samples = [0_u16, 128, 129, 0x8080, u16::MAX].map(u16::to_ne_bytes);
        assert_eq!(halve(samples.concat()), [0, 0, 1, 128, 255]);
    }

    #[test]
    fn ink_takes_light_away() {
        let inks = vec![0, 0, 0, 0, 255, 0, 0, 0, 0, 0, 0, 255, 0, 0, 0, 127];
        assert_eq!(print_to_screen(inks).pixels, [255, 255, 255, 0, 255, 255, 0, 0, 0, 128, 128, 128]);
    }
}
