//! Decimal numbers as JSON writes them, read at the speed of the memory they lie in: long lists of them are most of what
//! a tensor is in JSON or CSV.

/// A number that is read off the front of a text.
pub trait Number: Copy + 'static {
    /// The number, and the bytes that it takes; `None` for what is no number of JSON's, does not fit the type, or is so rare
    /// that it is left to a slower reader.
    fn read(text: &[u8]) -> Option<(Self, usize)>;
}

/// A decimal number: `digits` × 10^`exponent`.
struct Decimal {
    negative: bool,
    digits: u64,
    exponent: i32,
    /// No fraction and no exponent was written.
    is_whole: bool,
    length: usize,
}

/// Digits that 64 bits hold, whatever they are.
const MAX_DIGITS: usize = 19;

impl Decimal {
    /// By the grammar of RFC 8259, section 6. `None` also for more digits than 64 bits hold.
    fn read(text: &[u8]) -> Option<Decimal> {
        let negative = text.first() == Some(&b'-');
        let start = usize::from(negative);
        let mut digits = 0;
        let mut at = start + read_digits(text.get(start..)?, &mut digits);
        let whole = at - start;
        if whole == 0 || (whole > 1 && text.get(start) == Some(&b'0')) {
            return None;
        }
        let mut exponent = 0i32;
        let mut fraction = 0;
        if text.get(at) == Some(&b'.') {
            fraction = read_digits(text.get(at + 1..)?, &mut digits);
            if fraction == 0 {
                return None;
            }
            at += 1 + fraction;
            exponent = -i32::try_from(fraction).ok()?;
        }
        // Leading zeros of 0.001 count too, which at worst leaves a number to the slower reader.
        if whole + fraction > MAX_DIGITS {
            return None;
        }
        let has_exponent = matches!(text.get(at), Some(b'e' | b'E'));
        if has_exponent {
            let (written, length) = read_exponent(text.get(at + 1..)?)?;
            exponent += written;
            at += 1 + length;
        }
        let is_whole = fraction == 0 && !has_exponent;
        Some(Decimal { negative, digits, exponent, is_whole, length: at })
    }
}

/// Adds the digits at the front to `digits`, wrapping round where there are too many, and says how many there are.
fn read_digits(text: &[u8], digits: &mut u64) -> usize {
    let mut at = 0;
    while let Some(eight) = text.get(at..at + 8).and_then(|bytes| <[u8; 8]>::try_from(bytes).ok()) {
        let eight = u64::from_le_bytes(eight);
        if !are_digits(eight) {
            break;
        }
        *digits = digits.wrapping_mul(100_000_000).wrapping_add(value_of(eight));
        at += 8;
    }
    while let Some(digit) = text.get(at).map(|byte| byte.wrapping_sub(b'0')).filter(|&digit| digit < 10) {
        *digits = digits.wrapping_mul(10).wrapping_add(u64::from(digit));
        at += 1;
    }
    at
}

/// Whether eight bytes are eight digits. Source: Lemire, "Number parsing at a gigabyte per second", 2021, section 4.
fn are_digits(eight: u64) -> bool {
    let high = eight & 0xF0F0_F0F0_F0F0_F0F0;
    let past_nine = (eight.wrapping_add(0x0606_0606_0606_0606) & 0xF0F0_F0F0_F0F0_F0F0) >> 4;
    high | past_nine == 0x3333_3333_3333_3333
}

/// The number that eight digits are, of which the first is the lowest byte. Source: as [`are_digits`].
fn value_of(eight: u64) -> u64 {
    const MASK: u64 = 0x0000_00FF_0000_00FF;
    const HUNDREDS: u64 = 100 + (1_000_000 << 32);
    const ONES: u64 = 1 + (10_000 << 32);
    let digits = eight.wrapping_sub(0x3030_3030_3030_3030);
    let pairs = digits.wrapping_mul(10).wrapping_add(digits >> 8);
    let upper = (pairs & MASK).wrapping_mul(HUNDREDS);
    let lower = ((pairs >> 16) & MASK).wrapping_mul(ONES);
    upper.wrapping_add(lower) >> 32
}

fn read_exponent(text: &[u8]) -> Option<(i32, usize)> {
    let sign = text.first().copied();
    let start = usize::from(matches!(sign, Some(b'+' | b'-')));
    let mut digits = 0;
    let length = read_digits(text.get(start..)?, &mut digits);
    if length == 0 || length > 4 {
        return None;
    }
    let exponent = i32::try_from(digits).ok()?;
    Some((if sign == Some(b'-') { -exponent } else { exponent }, start + length))
}

/// Powers of ten that 64-bit floats hold exactly.
const POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20,
    1e21, 1e22,
];

impl Decimal {
    /// `digits` × 10^`exponent`, rounded twice: within two units of the last place.
    fn nearly(&self) -> Option<f64> {
        let power = POWERS.get(usize::try_from(self.exponent.unsigned_abs()).ok()?)?;
        let digits = self.digits as f64;
        let value = if self.exponent < 0 { digits / power } else { digits * power };
        Some(if self.negative { -value } else { value })
    }
}

/// The library's reader, which rounds right whatever comes.
fn slowly(text: &[u8]) -> Option<f64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

impl Number for f64 {
    fn read(text: &[u8]) -> Option<(f64, usize)> {
        let decimal = Decimal::read(text)?;
        // Both are exact then, so there is one rounding. Source: Clinger, "How to read floating point numbers accurately", 1990.
        let is_exact = decimal.digits <= 1 << 53;
        let value = match decimal.nearly().filter(|_| is_exact) {
            Some(value) => value,
            None => slowly(&text[..decimal.length])?,
        };
        value.is_finite().then_some((value, decimal.length))
    }
}

impl Number for f32 {
    fn read(text: &[u8]) -> Option<(f32, usize)> {
        let decimal = Decimal::read(text)?;
        let value = match decimal.nearly().filter(|&value| is_far_from_halfway(value)) {
            Some(value) => value,
            None => slowly(&text[..decimal.length])?,
        };
        let value = value as f32;
        value.is_finite().then_some((value, decimal.length))
    }
}

/// Whether a few units of the last place make no difference to the 32-bit float that is nearest.
fn is_far_from_halfway(value: f64) -> bool {
    const DROPPED_BITS: u32 = 29;
    const HALFWAY: u64 = 1 << (DROPPED_BITS - 1);
    let dropped = value.to_bits() & ((1 << DROPPED_BITS) - 1);
    // Below the normal range more bits are dropped; zero is exact.
    let is_normal = value.abs() >= f64::from(f32::MIN_POSITIVE) || value == 0.0;
    is_normal && dropped.abs_diff(HALFWAY) > 4
}

macro_rules! integer {
    ($($type:ty)*) => {$(
        impl Number for $type {
            fn read(text: &[u8]) -> Option<($type, usize)> {
                let decimal = Decimal::read(text).filter(|decimal| decimal.is_whole)?;
                let value = i128::from(decimal.digits);
                let value = if decimal.negative { -value } else { value };
                Some((<$type>::try_from(value).ok()?, decimal.length))
            }
        }
    )*};
}

integer!(i8 i16 i32 i64 u8 u16 u32 u64);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// What the library says of the same text.
    fn agree(text: &str) {
        let expected: f64 = text.parse().unwrap();
        if let Some((value, length)) = f64::read(text.as_bytes()) {
            assert_eq!((value.to_bits(), length), (expected.to_bits(), text.len()), "{text}");
        }
        if let Some((value, length)) = f32::read(text.as_bytes()) {
            assert_eq!((value.to_bits(), length), ((expected as f32).to_bits(), text.len()), "{text}");
        }
    }

    #[test]
    fn numbers_of_every_length_and_size_are_what_the_library_makes_of_them() {
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..200_000 {
            let float = f32::from_bits(random.u32(..));
            if float.is_finite() {
                agree(&format!("{float}"));
                agree(&format!("{float:e}"));
                agree(&format!("{}", f64::from(float)));
            }
            let unit = random.f64() * 2.0 - 1.0;
            agree(&format!("{unit}"));
            agree(&format!("{:.*}", random.usize(1..19), unit * 1000.0));
            agree(&format!("{}e{}", random.u64(..), random.i32(-330..310)));
        }
    }

    #[test]
    fn the_middle_between_two_floats_is_left_to_the_library() {
        // 1 + 2^-24, halfway between two 32-bit floats, and its neighbours.
        for text in ["1.000000059604644775", "1.0000000596046447", "1.0000000596046448", "16777217.000000001"] {
            assert!(f32::read(text.as_bytes()).is_some(), "{text}");
            agree(text);
        }
        assert_eq!(f32::read(b"-0.0").map(|(value, _)| value.to_bits()), Some((-0.0f32).to_bits()));
    }

    #[test]
    fn only_what_json_calls_a_number_is_one() {
        for text in ["", "-", "+1", ".5", "1.", "01", "-01", "1e", "1e+", "NaN", "inf", "1e99999", "1e400", "e5", "-.5"]
        {
            assert_eq!(f64::read(text.as_bytes()), None, "{text}");
        }
        assert_eq!(f64::read(b"1.5,2"), Some((1.5, 3)));
        assert_eq!(f64::read(b"12]"), Some((12.0, 2)));
        assert_eq!(f32::read(b"1e39"), None);
    }

    #[test]
    fn integers_are_whole_and_fit() {
        assert_eq!(i8::read(b"-128,"), Some((-128, 4)));
        assert_eq!(i8::read(b"128"), None);
        assert_eq!(u64::read(b"18446744073709551615"), None, "20 digits are left to the slower reader");
        assert_eq!(i64::read(b"-9223372036854775808"), Some((i64::MIN, 20)));
        assert_eq!(u8::read(b"-1"), None);
        assert_eq!(i32::read(b"1.0"), None);
    }
}
