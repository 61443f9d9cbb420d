//! Elements of tensors as JSON's scalars.

use bytes::Bytes;

use super::{INFINITY, NAN, NEGATIVE_INFINITY, lists};

/// An element of a tensor, made from a JSON scalar.
pub(super) trait Element: Sized + 'static {
    /// What the error message asks for.
    const EXPECTED: &'static str;

    fn from_f64(_: f64) -> Option<Self> {
        None
    }
    fn from_i64(_: i64) -> Option<Self> {
        None
    }
    fn from_u64(_: u64) -> Option<Self> {
        None
    }
    fn from_bool(_: bool) -> Option<Self> {
        None
    }
    fn from_str(_: &str) -> Option<Self> {
        None
    }
    /// Elements and sizes of nested lists of numbers, where there is a faster way than one by one.
    fn from_lists(_: &str) -> Option<(Vec<Self>, Vec<usize>)> {
        None
    }
}

macro_rules! float_element {
    ($type:ty, $expected:literal, $convert:expr $(, $lists:expr)?) => {
        impl Element for $type {
            const EXPECTED: &'static str = $expected;
            fn from_f64(value: f64) -> Option<Self> {
                // A number that becomes an infinity does not fit: who means one writes it.
                let converted = $convert(value);
                converted.is_finite().then_some(converted)
            }
            fn from_str(value: &str) -> Option<Self> {
                let value = match value {
                    NAN => f64::NAN,
                    INFINITY => f64::INFINITY,
                    NEGATIVE_INFINITY => f64::NEG_INFINITY,
                    _ => return None,
                };
                Some($convert(value))
            }
            fn from_i64(value: i64) -> Option<Self> {
                Element::from_f64(value as f64)
            }
            fn from_u64(value: u64) -> Option<Self> {
                Element::from_f64(value as f64)
            }
            $(fn from_lists(json: &str) -> Option<(Vec<Self>, Vec<usize>)> {
                $lists(json)
            })?
        }
    };
}

float_element!(f32, "a 32-bit float (or \"NaN\", \"Infinity\", \"-Infinity\")", |value: f64| value as f32, lists::read);
float_element!(f64, "a 64-bit float (or \"NaN\", \"Infinity\", \"-Infinity\")", |value: f64| value, lists::read);
float_element!(half::f16, "a 16-bit float (or \"NaN\", \"Infinity\", \"-Infinity\")", half::f16::from_f64);
float_element!(half::bf16, "a 16-bit float (or \"NaN\", \"Infinity\", \"-Infinity\")", half::bf16::from_f64);

macro_rules! integer_element {
    ($type:ty, $expected:literal) => {
        impl Element for $type {
            const EXPECTED: &'static str = $expected;
            /// `3.0` is an integer, as some clients write one.
            fn from_f64(value: f64) -> Option<Self> {
                let exact = value.fract() == 0.0 && value.abs() < 9_007_199_254_740_992.0;
                if exact { Self::try_from(value as i64).ok() } else { None }
            }
            fn from_i64(value: i64) -> Option<Self> {
                Self::try_from(value).ok()
            }
            fn from_u64(value: u64) -> Option<Self> {
                Self::try_from(value).ok()
            }
            fn from_lists(json: &str) -> Option<(Vec<Self>, Vec<usize>)> {
                lists::read(json)
            }
        }
    };
}

integer_element!(i8, "an integer from -128 to 127");
integer_element!(i16, "an integer from -32768 to 32767");
integer_element!(i32, "a 32-bit integer");
integer_element!(i64, "a 64-bit integer");
integer_element!(u8, "an integer from 0 to 255");
integer_element!(u16, "an integer from 0 to 65535");
integer_element!(u32, "an unsigned 32-bit integer");
integer_element!(u64, "an unsigned 64-bit integer");

#[derive(Clone, Copy, bytemuck::NoUninit)]
#[repr(transparent)]
pub(super) struct Flag(pub(super) u8);

impl Element for Flag {
    const EXPECTED: &'static str = "true or false";
    fn from_bool(value: bool) -> Option<Self> {
        Some(Flag(u8::from(value)))
    }
}

pub(super) struct Text(pub(super) Bytes);

impl Element for Text {
    const EXPECTED: &'static str = "a string";
    fn from_str(value: &str) -> Option<Self> {
        Some(Text(Bytes::copy_from_slice(value.as_bytes())))
    }
}
