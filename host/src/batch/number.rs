//! Numbers of JSON as most files have them: read off the bytes, without a tree of values in between. What is unusual is
//! left to the reader that takes everything.

/// Powers of ten that a 64-bit float holds exactly.
const EXACT_POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20,
    1e21, 1e22,
];

/// Digits that surely fit into 64 bits.
const MAX_DIGITS: usize = 19;

/// A number as it is written: `mantissa · 10^exponent`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Written<'t> {
    negative: bool,
    mantissa: u64,
    exponent: i32,
    /// Without point and exponent.
    is_whole: bool,
    /// More digits than the mantissa has.
    is_cut: bool,
    text: &'t [u8],
}

/// The number at the start of `text`, and the bytes it takes; `None` where none of JSON's is.
pub(super) fn number(text: &[u8]) -> Option<(Written<'_>, usize)> {
    let negative = text.first() == Some(&b'-');
    let start = usize::from(negative);
    let mut at = start;
    let mut mantissa = 0u64;
    let mut take_digits = |at: &mut usize| {
        while let Some(digit) = text.get(*at).map(|byte| byte.wrapping_sub(b'0')).filter(|digit| *digit < 10) {
            mantissa = mantissa.wrapping_mul(10).wrapping_add(u64::from(digit));
            *at += 1;
        }
    };
    take_digits(&mut at);
    let whole_digits = at - start;
    if whole_digits == 0 || (whole_digits > 1 && text[start] == b'0') {
        return None;
    }
    let mut decimals = 0;
    let mut is_whole = true;
    if text.get(at) == Some(&b'.') {
        at += 1;
        let point = at;
        take_digits(&mut at);
        decimals = at - point;
        is_whole = false;
        if decimals == 0 {
            return None;
        }
    }
    let is_cut = whole_digits + decimals > MAX_DIGITS;
    let mut exponent = -i32::try_from(decimals).ok()?;
    if matches!(text.get(at), Some(b'e' | b'E')) {
        let (power, end) = power_of_ten(text, at + 1)?;
        exponent = exponent.saturating_add(power);
        at = end;
        is_whole = false;
    }
    Some((Written { negative, mantissa, exponent, is_whole, is_cut, text: &text[..at] }, at))
}

/// The digits after an `e`, and where they end.
fn power_of_ten(text: &[u8], mut at: usize) -> Option<(i32, usize)> {
    let negative = text.get(at) == Some(&b'-');
    at += usize::from(matches!(text.get(at), Some(b'-' | b'+')));
    let start = at;
    let mut power = 0i32;
    while let Some(digit) = text.get(at).map(|byte| byte.wrapping_sub(b'0')).filter(|digit| *digit < 10) {
        power = power.saturating_mul(10).saturating_add(i32::from(digit));
        at += 1;
    }
    (at > start).then_some((if negative { -power } else { power }, at))
}

/// An element of a tensor, made from a number as it is written; `None` where it does not fit, or may not.
pub(super) trait Number: bytemuck::NoUninit {
    fn of(written: Written<'_>) -> Option<Self>;
}

impl Number for f64 {
    /// Exactly where one correctly rounded operation makes it. Source: W. Clinger, "How to Read Floating Point Numbers
    /// Accurately", 1990.
    fn of(written: Written<'_>) -> Option<f64> {
        const EXACT: u64 = 1 << 53;
        let power = EXACT_POWERS.get(written.exponent.unsigned_abs() as usize);
        if let Some(power) = power.filter(|_| !written.is_cut && written.mantissa <= EXACT) {
            let mantissa = written.mantissa as f64;
            let value = if written.exponent < 0 { mantissa / power } else { mantissa * power };
            return Some(if written.negative { -value } else { value });
        }
        fast_float2::parse::<f64, _>(written.text).ok().filter(|value| value.is_finite())
    }
}

impl Number for f32 {
    fn of(written: Written<'_>) -> Option<f32> {
        let value = f64::of(written)? as f32;
        value.is_finite().then_some(value)
    }
}

macro_rules! integers {
    ($($type:ty),*) => {$(
        impl Number for $type {
            fn of(written: Written<'_>) -> Option<$type> {
                if !written.is_whole || written.is_cut {
                    return None;
                }
                let value = i128::from(written.mantissa);
                <$type>::try_from(if written.negative { -value } else { value }).ok()
            }
        }
    )*};
}

integers!(i8, i16, i32, i64, u8, u16, u32, u64);

/// Appends the elements of `[n, n, …]`, where `text` is just that with so many numbers. Says whether it was; what was
/// appended when it was not is the caller's to take back.
pub(super) fn flat_list<T: Number>(text: &[u8], count: usize, elements: &mut Vec<u8>) -> bool {
    let Some(mut rest) = text.strip_prefix(b"[") else { return false };
    for index in 0..count {
        rest = skip_blank(rest);
        let Some((written, length)) = number(rest) else { return false };
        let Some(element) = T::of(written) else { return false };
        elements.extend_from_slice(bytemuck::bytes_of(&element));
        rest = skip_blank(&rest[length..]);
        let expected = if index + 1 == count { b']' } else { b',' };
        let Some((&byte, after)) = rest.split_first() else { return false };
        if byte != expected {
            return false;
        }
        rest = after;
    }
    count > 0 && skip_blank(rest).is_empty()
}

fn skip_blank(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t' | b'\r', rest @ ..] = text {
        text = rest;
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn double(text: &str) -> Option<f64> {
        let (written, length) = number(text.as_bytes())?;
        (length == text.len()).then_some(written).and_then(f64::of)
    }

    #[test]
    fn numbers_are_read_to_the_last_bit() {
        for text in [
            "0",
            "-0",
            "5.1",
            "0.1",
            "1e22",
            "1e23",
            "123456789012345678",
            "9007199254740993",
            "2.2250738585072014e-308",
            "1.7976931348623157E+308",
            "0.30000000000000004",
            "12345678901234567890123",
            "5e-324",
            "-6.203769e-8",
        ] {
            assert_eq!(double(text).unwrap().to_bits(), text.parse::<f64>().unwrap().to_bits(), "{text}");
        }
        let mut random = fastrand::Rng::with_seed(5);
        for _ in 0..20_000 {
            let value = f64::from_bits(random.u64(..));
            if value.is_finite() {
                assert_eq!(double(&format!("{value:e}")).unwrap().to_bits(), value.to_bits(), "{value:e}");
            }
        }
    }

    #[test]
    fn what_json_has_no_number_for_is_left_alone() {
        for text in ["", "-", "+1", ".5", "5.", "01", "-01", "1e", "1e+", "0x10", "NaN", "inf", "1_000", "1e400"] {
            assert_eq!(double(text), None, "{text}");
        }
    }

    #[test]
    fn whole_numbers_fit_or_do_not() {
        let byte = |text: &str| number(text.as_bytes()).and_then(|(written, _)| u8::of(written));
        assert_eq!(
            (byte("0"), byte("255"), byte("256"), byte("-1"), byte("1.5"), byte("1e1")),
            (Some(0), Some(255), None, None, None, None)
        );
        let long = |text: &str| number(text.as_bytes()).and_then(|(written, _)| i64::of(written));
        assert_eq!(long("-9223372036854775808"), Some(i64::MIN));
        assert_eq!(long("9223372036854775808"), None);
    }

    #[test]
    fn a_list_is_taken_whole_or_not_at_all() {
        let list = |text: &str, count| {
            let mut elements = Vec::new();
            flat_list::<f32>(text.as_bytes(), count, &mut elements).then(|| {
                elements.chunks(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect::<Vec<_>>()
            })
        };
        assert_eq!(list("[5.1,3.5]", 2), Some(vec![5.1, 3.5]));
        assert_eq!(list("[ 5.1 , -3e0 ]\r", 2), Some(vec![5.1, -3.0]));
        for text in [
            "[5.1]",
            "[5.1,3.5,1]",
            "[5.1,3.5",
            "[5.1,3.5]x",
            "[5.1 3.5]",
            "[[5.1,3.5]]",
            "[5.1,null]",
            "[,]",
            "[5.1,]",
        ] {
            assert_eq!(list(text, 2), None, "{text}");
        }
    }
}
