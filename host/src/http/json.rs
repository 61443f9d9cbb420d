//! Tensors in JSON: nested numbers in, typed elements out, read and written without a tree of values in between.

use std::fmt;

use bytes::Bytes;
use serde::de::{DeserializeSeed, Deserializer, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, SerializeSeq, SerializeStruct, Serializer};
use serde_json::value::RawValue;

use crate::error::{Error, Result};
use crate::tensor::{Data, DataType, Output, Tensor, TensorSpec};

/// Axes a tensor in JSON may have.
const MAX_RANK: usize = 16;

/// Reads nested lists as the tensor that `spec` describes. They may leave out a first axis of one (a single row), or be
/// flat where exactly one tensor of the declared sizes fits.
///
/// # Errors
/// Something that is no list of the datatype's elements, or of another shape. The message says what was expected and came.
pub fn read_tensor(spec: &TensorSpec, json: &RawValue) -> Result<Tensor> {
    match spec.datatype {
        DataType::Fp32 => read_elements::<f32>(spec, json),
        DataType::Fp64 => read_elements::<f64>(spec, json),
        DataType::Fp16 => read_elements::<half::f16>(spec, json),
        DataType::Bf16 => read_elements::<half::bf16>(spec, json),
        DataType::Int8 => read_elements::<i8>(spec, json),
        DataType::Int16 => read_elements::<i16>(spec, json),
        DataType::Int32 => read_elements::<i32>(spec, json),
        DataType::Int64 => read_elements::<i64>(spec, json),
        DataType::Uint8 => read_elements::<u8>(spec, json),
        DataType::Uint16 => read_elements::<u16>(spec, json),
        DataType::Uint32 => read_elements::<u32>(spec, json),
        DataType::Uint64 => read_elements::<u64>(spec, json),
        DataType::Bool => {
            let (flags, shape) = read_nested::<Flag>(spec, json)?;
            let bytes: Vec<u8> = flags.into_iter().map(|Flag(flag)| flag).collect();
            Ok(Tensor::from_vec(spec.name.clone(), DataType::Bool, shape, bytes)?)
        }
        DataType::Bytes => {
            let (texts, shape) = read_nested::<Text>(spec, json)?;
            let strings = texts.into_iter().map(|Text(text)| text).collect();
            Ok(Tensor::from_strings(spec.name.clone(), shape, strings)?)
        }
    }
}

fn read_elements<T: Element + bytemuck::NoUninit + Send>(spec: &TensorSpec, json: &RawValue) -> Result<Tensor> {
    let (elements, shape) = read_nested::<T>(spec, json)?;
    Ok(Tensor::from_vec(spec.name.clone(), spec.datatype, shape, elements)?)
}

fn read_nested<T: Element>(spec: &TensorSpec, json: &RawValue) -> Result<(Vec<T>, Vec<usize>)> {
    let mut collector = Collector { elements: Vec::new(), shape: Vec::new(), leaf_depth: None };
    let mut deserializer = serde_json::Deserializer::from_str(json.get());
    Level { collector: &mut collector, depth: 0 }.deserialize(&mut deserializer).map_err(|error| {
        Error::invalid_input(format!("input {}: expected {} as nested JSON lists: {error}", spec.name, spec))
    })?;
    let shape = fit_shape(spec, &collector.shape, collector.elements.len())?;
    Ok((collector.elements, shape))
}

/// The shape the elements take in the model, for what came as `given`.
fn fit_shape(spec: &TensorSpec, given: &[usize], count: usize) -> Result<Vec<usize>> {
    if spec.accepts(given) {
        return Ok(given.to_vec());
    }
    let one_row: Vec<usize> = std::iter::once(1).chain(given.iter().copied()).collect();
    if spec.accepts(&one_row) {
        return Ok(one_row);
    }
    let as_declared: Vec<usize> = spec.shape.iter().map(|&size| usize::try_from(size).unwrap_or(1)).collect();
    if given.len() == 1 && as_declared.iter().try_fold(1usize, |count, &size| count.checked_mul(size)) == Some(count) {
        return Ok(as_declared);
    }
    let sizes: Vec<String> = given.iter().map(usize::to_string).collect();
    let sizes = sizes.join(",");
    Err(Error::invalid_input(format!("input {}: expected {spec}, got shape [{sizes}] ({count} values)", spec.name)))
}

/// An element of a tensor, made from a JSON scalar.
trait Element: Sized + 'static {
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
}

macro_rules! float_element {
    ($type:ty, $expected:literal, $convert:expr) => {
        impl Element for $type {
            const EXPECTED: &'static str = $expected;
            fn from_f64(value: f64) -> Option<Self> {
                // JSON has no infinity; a number that becomes one does not fit.
                let converted = $convert(value);
                converted.is_finite().then_some(converted)
            }
            fn from_i64(value: i64) -> Option<Self> {
                Element::from_f64(value as f64)
            }
            fn from_u64(value: u64) -> Option<Self> {
                Element::from_f64(value as f64)
            }
        }
    };
}

float_element!(f32, "a 32-bit float", |value: f64| value as f32);
float_element!(f64, "a 64-bit float", |value: f64| value);
float_element!(half::f16, "a 16-bit float", half::f16::from_f64);
float_element!(half::bf16, "a 16-bit float", half::bf16::from_f64);

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

struct Flag(u8);

impl Element for Flag {
    const EXPECTED: &'static str = "true or false";
    fn from_bool(value: bool) -> Option<Self> {
        Some(Flag(u8::from(value)))
    }
}

struct Text(Bytes);

impl Element for Text {
    const EXPECTED: &'static str = "a string";
    fn from_str(value: &str) -> Option<Self> {
        Some(Text(Bytes::copy_from_slice(value.as_bytes())))
    }
}

/// Elements in row-major order, and the sizes of the lists they came in.
struct Collector<T> {
    elements: Vec<T>,
    shape: Vec<usize>,
    /// How deep the first scalar was; all must be as deep.
    leaf_depth: Option<usize>,
}

/// One level of nesting: a list of levels, or a scalar.
struct Level<'c, T> {
    collector: &'c mut Collector<T>,
    depth: usize,
}

impl<'de, T: Element> DeserializeSeed<'de> for Level<'_, T> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<T: Element> Level<'_, T> {
    fn push<E: serde::de::Error>(self, element: Option<T>, came: impl fmt::Display) -> std::result::Result<(), E> {
        let element = element.ok_or_else(|| E::custom(format!("expected {}, got {came}", T::EXPECTED)))?;
        match self.collector.leaf_depth {
            Some(depth) if depth != self.depth => return Err(E::custom("lists are nested to different depths")),
            _ => self.collector.leaf_depth = Some(self.depth),
        }
        self.collector.elements.push(element);
        Ok(())
    }
}

impl<'de, T: Element> Visitor<'de> for Level<'_, T> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} or a list", T::EXPECTED)
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> std::result::Result<(), E> {
        self.push(T::from_f64(value), value)
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> std::result::Result<(), E> {
        self.push(T::from_i64(value), value)
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> std::result::Result<(), E> {
        self.push(T::from_u64(value), value)
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> std::result::Result<(), E> {
        self.push(T::from_bool(value), value)
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> std::result::Result<(), E> {
        let shown: String = value.chars().take(40).collect();
        self.push(T::from_str(value), format_args!("the string {shown:?}"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<(), A::Error> {
        let depth = self.depth;
        if depth >= MAX_RANK || self.collector.leaf_depth.is_some_and(|leaf| leaf <= depth) {
            return Err(serde::de::Error::custom("lists are nested too deep or to different depths"));
        }
        let mut length = 0;
        while list.next_element_seed(Level { collector: &mut *self.collector, depth: depth + 1 })?.is_some() {
            length += 1;
        }
        let shape = &mut self.collector.shape;
        // Lists end from the inside out, so the outer axes of the first row are not known yet.
        if shape.len() <= depth {
            shape.resize(depth + 1, usize::MAX);
        }
        match shape[depth] {
            usize::MAX => shape[depth] = length,
            size if size != length => {
                return Err(serde::de::Error::custom(format!("lists of {size} and of {length} stand side by side")));
            }
            _ => {}
        }
        Ok(())
    }
}

/// An output as clients read it: `{"datatype":"FP32","shape":[1,3],"data":[…]}`, data flat and row-major.
pub struct OutputJson<'o>(pub &'o Output);

impl Serialize for OutputJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Output", 3)?;
        match self.0 {
            Output::Tensor(tensor) => {
                fields.serialize_field("datatype", tensor.datatype.name())?;
                fields.serialize_field("shape", &tensor.shape)?;
            }
            Output::Maps { rows, .. } => {
                fields.serialize_field("datatype", "MAP")?;
                fields.serialize_field("shape", &[rows.len()])?;
            }
        }
        fields.serialize_field("data", &OutputData(self.0))?;
        fields.end()
    }
}

/// An output's elements alone, flat and row-major.
pub struct OutputData<'o>(pub &'o Output);

impl Serialize for OutputData<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match self.0 {
            Output::Maps { rows, .. } => serializer.collect_seq(rows.iter().map(|row| MapRow(row))),
            Output::Tensor(Tensor { data: Data::Strings(strings), .. }) => {
                serializer.collect_seq(strings.iter().map(|string| String::from_utf8_lossy(string)))
            }
            Output::Tensor(Tensor { data: Data::Raw(bytes), datatype, .. }) => {
                serialize_numbers(*datatype, bytes, serializer)
            }
        }
    }
}

struct MapRow<'o>(&'o [(String, f32)]);

impl Serialize for MapRow<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (key, score) in self.0 {
            map.serialize_entry(key, score)?;
        }
        map.end()
    }
}

fn serialize_numbers<S: Serializer>(
    datatype: DataType,
    bytes: &[u8],
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    match datatype {
        DataType::Fp32 => serialize_chunks(bytes, f32::from_le_bytes, serializer),
        DataType::Fp64 => serialize_chunks(bytes, f64::from_le_bytes, serializer),
        DataType::Fp16 => serialize_chunks(bytes, |bytes| half::f16::from_le_bytes(bytes).to_f32(), serializer),
        DataType::Bf16 => serialize_chunks(bytes, |bytes| half::bf16::from_le_bytes(bytes).to_f32(), serializer),
        DataType::Int8 => serialize_chunks(bytes, i8::from_le_bytes, serializer),
        DataType::Int16 => serialize_chunks(bytes, i16::from_le_bytes, serializer),
        DataType::Int32 => serialize_chunks(bytes, i32::from_le_bytes, serializer),
        DataType::Int64 => serialize_chunks(bytes, i64::from_le_bytes, serializer),
        DataType::Uint8 | DataType::Bytes => serialize_chunks(bytes, u8::from_le_bytes, serializer),
        DataType::Uint16 => serialize_chunks(bytes, u16::from_le_bytes, serializer),
        DataType::Uint32 => serialize_chunks(bytes, u32::from_le_bytes, serializer),
        DataType::Uint64 => serialize_chunks(bytes, u64::from_le_bytes, serializer),
        DataType::Bool => serialize_chunks(bytes, |[byte]: [u8; 1]| byte != 0, serializer),
    }
}

fn serialize_chunks<const N: usize, T: Serialize, S: Serializer>(
    bytes: &[u8],
    read: impl Fn([u8; N]) -> T,
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    let (chunks, _) = bytes.as_chunks::<N>();
    let mut list = serializer.serialize_seq(Some(chunks.len()))?;
    for chunk in chunks {
        list.serialize_element(&read(*chunk))?;
    }
    list.end()
}
